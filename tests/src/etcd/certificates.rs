//! An authority with certificates for members and one client, made anew for each cluster.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Files for TLS, in PEM form.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// Certificate of the authority.
    pub ca: PathBuf,
    /// A client's certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    pub(super) server: PathBuf,
    pub(super) server_key: PathBuf,
}

impl Certificates {
    /// An authority, a certificate for servers with these addresses, and one for a client.
    ///
    /// # Panics
    /// When openssl is not installed.
    #[must_use]
    pub fn create(folder: &Path, addresses: &[IpAddr]) -> Self {
        let path = |name: &str| folder.join(name);
        let openssl = |arguments: &str| {
            let mut command = Command::new("openssl");
            command.current_dir(folder).args(arguments.split(' ')).stdin(Stdio::null());
            let output = command.output().expect("openssl is installed");
            assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        };
        let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(&format!("req -x509 {new_key} -keyout ca.key -out ca.pem -days 2 -subj /CN=lab"));
        let names: Vec<String> = addresses.iter().map(|address| format!("IP:{address}")).collect();
        fs::write(path("server.ext"), format!("subjectAltName={}\n", names.join(","))).expect("space");
        fs::write(path("client.ext"), "extendedKeyUsage=clientAuth\n").expect("space");
        for name in ["server", "client"] {
            openssl(&format!("req {new_key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
            openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile {name}.ext -out {name}.pem"
            ));
        }
        Self {
            ca: path("ca.pem"),
            certificate: path("client.pem"),
            key: path("client.key"),
            server: path("server.pem"),
            server_key: path("server.key"),
        }
    }
}
