//! TLS for a listener: version 1.3, a certificate from files, and what a client has to show.
//!
//! The files are read anew for each connection, as in Felix, so that a renewed certificate needs no restart.

use super::super::ClientAuth;
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig, SignatureScheme};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// The files, and what is asked of clients.
#[derive(Clone, PartialEq, Debug)]
pub(in crate::observe) struct Tls {
    pub(in crate::observe) certificate: PathBuf,
    pub(in crate::observe) key: PathBuf,
    pub(in crate::observe) authorities: Option<PathBuf>,
    pub(in crate::observe) client_auth: ClientAuth,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("cannot read {path}: {error}", path = path.display())]
    File { path: PathBuf, error: rustls::pki_types::pem::Error },
    #[error("{path} has no certificate", path = .0.display())]
    NoCertificate(PathBuf),
    #[error("certificates of clients are to be verified: set PrometheusMetricsCAFile")]
    NoAuthorities,
    #[error("clients cannot be verified: {0}")]
    Verifier(#[from] VerifierBuilderError),
    #[error(transparent)]
    Tls(#[from] Error),
}

impl Tls {
    pub(super) fn acceptor(&self) -> Result<TlsAcceptor, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates(&self.certificate)?;
        let refuse = |error| TlsError::File { path: self.key.clone(), error };
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(refuse)?;
        let builder =
            ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(&[&TLS13])?;
        let builder = match self.client_auth {
            ClientAuth::None => builder.with_no_client_auth(),
            ClientAuth::RequireAny => builder.with_client_cert_verifier(Arc::new(Anybody(provider))),
            ClientAuth::VerifyIfGiven => {
                builder.with_client_cert_verifier(self.verifier(&provider)?.allow_unauthenticated().build()?)
            }
            ClientAuth::RequireAndVerify => {
                builder.with_client_cert_verifier(self.verifier(&provider)?.build()?)
            }
        };
        let mut config = builder.with_single_cert(chain, key)?;
        // Who may come in is asked each time.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    fn verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<rustls::server::ClientCertVerifierBuilder, TlsError> {
        let path = self.authorities.as_ref().ok_or(TlsError::NoAuthorities)?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(path)? {
            roots.add(certificate)?;
        }
        Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let refuse = |error| TlsError::File { path: path.to_owned(), error };
    let found = CertificateDer::pem_file_iter(path).map_err(refuse)?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(refuse)?;
    if found.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(found) }
}

/// Takes any certificate whose key the client has (`RequireAnyClientCert`).
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ClientCertVerifier for Anybody {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
