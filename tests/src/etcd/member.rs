//! The process of one member, on a host of its own.

use super::Certificates;
use crate::host::Host;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;

#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) host: Host,
    arguments: Vec<String>,
    pub(super) data: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Member {
    /// One that is not started yet.
    pub(super) fn new(host: Host, data: PathBuf, cluster: &str, certificates: Option<&Certificates>) -> Self {
        let arguments = arguments(&host, cluster, certificates);
        Self { name: host.name().to_owned(), host, arguments, data, child: Mutex::new(None) }
    }

    pub(super) fn endpoint(&self, scheme: &str) -> String {
        format!("{scheme}://{}:2379", self.host.ipv4())
    }

    pub(super) fn peer(&self) -> String {
        format!("http://{}:2380", self.host.ipv4())
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().expect("nobody panics with the lock")
    }

    pub(super) fn start(&self) {
        assert!(self.child().is_none(), "{} is running", self.name);
        let mut command = self.host.namespace().command("etcd");
        command.arg("--data-dir").arg(&self.data).args(&self.arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("etcd is installed");
        *self.child() = Some(child);
    }

    pub(super) fn signal(&self, signal: Signal) {
        let pid = self.child().as_ref().map(Child::id).expect("the member is running");
        kill(Pid::from_raw(pid.cast_signed()), signal).expect("the process is ours");
    }

    pub(super) fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn arguments(host: &Host, cluster: &str, certificates: Option<&Certificates>) -> Vec<String> {
    let scheme = if certificates.is_some() { "https" } else { "http" };
    let (client, peer) = (format!("{scheme}://{}:2379", host.ipv4()), format!("http://{}:2380", host.ipv4()));
    let mut arguments = vec!["--name", host.name(), "--logger", "zap", "--log-level", "error"];
    arguments.extend(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    arguments.extend(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    arguments.extend(["--initial-cluster", cluster, "--unsafe-no-fsync"]);
    let path = |path: &Path| path.to_str().expect("a plain path").to_owned();
    let files =
        certificates.map(|files| [&files.server, &files.server_key, &files.ca].map(|file| path(file)));
    if let Some([certificate, key, ca]) = &files {
        arguments.extend(["--client-cert-auth", "--cert-file", certificate, "--key-file", key]);
        arguments.extend(["--trusted-ca-file", ca]);
    }
    arguments.into_iter().map(str::to_owned).collect()
}
