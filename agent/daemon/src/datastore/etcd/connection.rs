//! How etcd is reached: members, TLS, user; and requests that end in time.
//!
//! A connection is to one member, so that a member that is stopped or cut off is left for another one instead of
//! being asked every other time. Certificates are read anew for each connection, so that renewed ones are used.

use crate::logging::one_line;
use crate::settings::Settings;
use etcd_client::{Certificate, Client, ConnectOptions, Identity, KvClient, TlsOptions, WatchClient};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use thiserror::Error;

/// LIMIT: a member that takes longer for a TCP connection is dead or too far away.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// LIMIT: etcd itself gives up a request after about seven seconds; without a leader it says so earlier.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// LIMIT: an etcd value has at most 1.5 MiB by default, and a page of a snapshot has some hundred values.
const MESSAGE_MAX_BYTES: usize = 256 * 1024 * 1024;

/// The settings do not lead to an etcd cluster: not yet (exit 69), or not before somebody corrects them (exit 78).
#[derive(Debug, Error)]
pub enum ClusterError {
    /// A file of the TLS settings cannot be read.
    #[error("{setting} {path}: cannot read the file: {error}", path = path.display())]
    Unreadable {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file of the TLS settings is missing or half-written, as while a certificate is renewed or a host is being set up.
    #[error("{setting} {path}: {reason}", path = path.display())]
    NotYet {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is the matter.
        reason: String,
    },
    /// A file of the TLS settings is not what it should be.
    #[error("{setting} {path}: there is no {wanted} in PEM form in it", path = path.display())]
    NotPem {
        /// Which setting names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is missing.
        wanted: &'static str,
    },
    /// A certificate is of no use without its key.
    #[error("EtcdCertFile and EtcdKeyFile belong together: {missing} is not set")]
    HalfIdentity {
        /// The other one.
        missing: &'static str,
    },
    /// A password without a user, or a user without a password.
    #[error("EtcdUsername and EtcdPassword belong together: {missing} is not set")]
    HalfUser {
        /// The other one.
        missing: &'static str,
    },
}

impl ClusterError {
    /// Whether it may pass by itself.
    #[must_use]
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::NotYet { .. })
    }
}

/// A request to a member failed.
#[derive(Debug, Error)]
#[error("etcd {endpoint}: cannot {step}: {reason}")]
pub struct RequestError {
    /// The member.
    pub endpoint: String,
    /// What was tried.
    pub step: &'static str,
    /// Why not.
    pub reason: String,
}

/// Where the cluster is and how to introduce oneself. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    endpoints: Vec<String>,
    ca_file: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    user: Option<(String, String)>,
    answer_within: Duration,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the password.
        f.debug_struct("Cluster").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

impl Cluster {
    /// From the settings. Every TLS file is read once, to find out now whether it is there and of use.
    ///
    /// # Errors
    /// When a file is missing or unusable, or when one half of a pair is not set.
    pub fn new(settings: &Settings) -> Result<Self, ClusterError> {
        let endpoints = if settings.etcd_endpoints.is_empty() {
            vec![format!("{}://{}", settings.etcd_scheme, settings.etcd_addr)]
        } else {
            settings.etcd_endpoints.iter().map(|url| url.trim_end_matches('/').to_owned()).collect()
        };
        let identity = match (&settings.etcd_cert_file, &settings.etcd_key_file) {
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            (None, None) => None,
            (None, Some(_)) => return Err(ClusterError::HalfIdentity { missing: "EtcdCertFile" }),
            (Some(_), None) => return Err(ClusterError::HalfIdentity { missing: "EtcdKeyFile" }),
        };
        let user = match (settings.etcd_username.as_str(), settings.etcd_password.as_str()) {
            ("", "") => None,
            (_, "") => return Err(ClusterError::HalfUser { missing: "EtcdPassword" }),
            ("", _) => return Err(ClusterError::HalfUser { missing: "EtcdUsername" }),
            (name, password) => Some((name.to_owned(), password.to_owned())),
        };
        let ca_file = settings.etcd_ca_file.clone();
        let cluster = Self { endpoints, ca_file, identity, user, answer_within: ANSWER_WITHIN };
        cluster.tls().map(|_| cluster)
    }

    /// The same for whoever has no time for a member that does not answer.
    #[must_use]
    pub fn answering_within(self, answer_within: Duration) -> Self {
        Self { answer_within, ..self }
    }

    /// The members, as URLs; at least one.
    #[must_use]
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    fn tls(&self) -> Result<TlsOptions, ClusterError> {
        let mut tls = TlsOptions::new();
        match &self.ca_file {
            Some(path) => {
                let pem = read_pem("EtcdCaFile", path, "CERTIFICATE", "certificate")?;
                tls = tls.ca_certificate(Certificate::from_pem(pem));
            }
            None => tls = tls.with_enabled_roots(),
        }
        if let Some((certificate, key)) = &self.identity {
            let certificate = read_pem("EtcdCertFile", certificate, "CERTIFICATE", "certificate")?;
            let key = read_pem("EtcdKeyFile", key, "PRIVATE KEY", "private key")?;
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        Ok(tls)
    }

    /// Connects to one of [`Self::endpoints`]. Without a user nothing is said to the member yet.
    ///
    /// # Errors
    /// When a file is unusable, or user and password are refused, or, with a user, the member does not answer.
    pub async fn connect(&self, endpoint: &str) -> Result<Member, RequestError> {
        let refuse = |step, reason| RequestError { endpoint: endpoint.to_owned(), step, reason };
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_WITHIN.min(self.answer_within))
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if endpoint.starts_with("https://") {
            let tls = self.tls().map_err(|error| refuse("prepare TLS", error.to_string()))?;
            options = options.with_tls(tls);
        }
        let step = match &self.user {
            Some((name, password)) => {
                options = options.with_user(name, password);
                "log in as EtcdUsername"
            }
            None => "connect",
        };
        let answer_within = self.answer_within;
        let connected = tokio::time::timeout(answer_within, Client::connect([endpoint], Some(options))).await;
        match connected {
            Ok(Ok(client)) => Ok(Member { endpoint: endpoint.to_owned(), client, answer_within }),
            Ok(Err(error)) => Err(refuse(step, describe(&error))),
            Err(_) => Err(refuse(step, no_answer(answer_within))),
        }
    }

    /// Connects to the first member that answers, beginning with number `first` and going round once.
    ///
    /// # Errors
    /// What the last one said.
    pub async fn connect_any(&self, first: usize) -> Result<Member, RequestError> {
        let mut attempt = 0;
        loop {
            let endpoint = &self.endpoints[(first + attempt) % self.endpoints.len()];
            attempt += 1;
            let member = match self.connect(endpoint).await {
                Ok(member) => member.check().await,
                Err(error) => Err(error),
            };
            if member.is_ok() || attempt >= self.endpoints.len() {
                return member;
            }
        }
    }
}

/// A connection to one member of the cluster. Cheap to clone.
#[derive(Clone)]
pub struct Member {
    endpoint: String,
    client: Client,
    answer_within: Duration,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Member {
    /// Its URL.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Reading and writing.
    #[must_use]
    pub fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(MESSAGE_MAX_BYTES)
    }

    /// Everything else, leases for example.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    pub(super) fn watch(&self) -> WatchClient {
        self.client.watch_client().max_decoding_message_size(MESSAGE_MAX_BYTES)
    }

    /// Waits for the answer to a request, but not for ever.
    ///
    /// # Errors
    /// When it fails or takes too long.
    pub async fn ask<T>(
        &self,
        step: &'static str,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, RequestError> {
        let reason = match tokio::time::timeout(self.answer_within, request).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => describe(&error),
            Err(_) => no_answer(self.answer_within),
        };
        Err(self.error(step, reason))
    }

    pub(super) fn error(&self, step: &'static str, reason: impl Into<String>) -> RequestError {
        RequestError { endpoint: self.endpoint.clone(), step, reason: reason.into() }
    }

    /// A read that needs a leader and a majority.
    async fn check(self) -> Result<Self, RequestError> {
        let mut kv = self.kv();
        self.ask("read", kv.get("/calico/", None)).await.map(|_| self)
    }
}

fn no_answer(within: Duration) -> String {
    format!("no answer within {} s", within.as_secs())
}

/// An error of the client crate with its causes, which it keeps to itself.
pub(super) fn describe(error: &etcd_client::Error) -> String {
    match error {
        etcd_client::Error::GRpcStatus(status) => match status.message() {
            "" => one_line(status).to_string(),
            message => std::error::Error::source(status)
                .map_or_else(|| message.to_owned(), |cause| format!("{message}: {}", one_line(cause))),
        },
        etcd_client::Error::TransportError(error) => one_line(error).to_string(),
        other => other.to_string(),
    }
}

fn read_pem(
    setting: &'static str,
    path: &Path,
    label: &str,
    wanted: &'static str,
) -> Result<Vec<u8>, ClusterError> {
    let not_yet = |reason: String| ClusterError::NotYet { setting, path: path.to_owned(), reason };
    let text = std::fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => not_yet(format!("cannot read the file: {error}")),
        _ => ClusterError::Unreadable { setting, path: path.to_owned(), error },
    })?;
    if is_half_written(&String::from_utf8_lossy(&text)) {
        return Err(not_yet("the file is half-written".to_owned()));
    }
    // "RSA PRIVATE KEY" and its like are private keys, too.
    let has_it = String::from_utf8_lossy(&text)
        .lines()
        .any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{label}-----")));
    if has_it { Ok(text) } else { Err(ClusterError::NotPem { setting, path: path.to_owned(), wanted }) }
}

/// Whether a file in PEM form ends before its last block does, or has not begun.
fn is_half_written(text: &str) -> bool {
    let blocks = |begin: &str| text.lines().filter(|line| line.starts_with(begin)).count();
    let (begun, ended) = (blocks("-----BEGIN "), blocks("-----END "));
    let is_whole = |line: &str| line.len() > "----------".len() && line.ends_with("-----");
    let is_cut = |line: &str| line.starts_with('-') && !is_whole(line.trim_end());
    text.trim().is_empty() || begun > ended || text.lines().last().is_some_and(is_cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    /// Wherever a writer was interrupted, the rest may follow; what is something else does not become a certificate.
    #[test]
    fn what_is_half_written_may_pass_and_what_is_wrong_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let read = || read_pem("EtcdCaFile", &path, "CERTIFICATE", "certificate");
        assert!(read().unwrap_err().may_pass(), "missing");
        let bundle = [BLOCK, BLOCK].concat();
        for length in 0..bundle.len() {
            std::fs::write(&path, &bundle[..length]).unwrap();
            // A bundle can end after any of its blocks, with or without the end of the line.
            if matches!(bundle.len() - length, 0 | 1) || length.abs_diff(BLOCK.len()) <= 1 {
                continue;
            }
            assert!(read().is_err_and(|error| error.may_pass()), "{length}: {:?}", &bundle[..length]);
        }
        std::fs::write(&path, &bundle).unwrap();
        assert!(read().is_ok());
        for wrong in ["hello\n", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
            std::fs::write(&path, wrong).unwrap();
            assert!(!read().unwrap_err().may_pass(), "{wrong}");
        }
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(!read().unwrap_err().may_pass(), "a directory");
    }
}
