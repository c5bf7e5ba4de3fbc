//! The lab's etcd: real members, each on a host of its own on the lab's bridge, and a client that writes to them one key at a
//! time, as the driver does. Knows no keys. What goes wrong with members is in `failures`, what is asked of them in `requests`.
//!
//! Data is in memory: there is nothing to keep, and a busy disk would make every write slow. A member that was stopped
//! finds its data again.

mod certificates;
mod client;
mod diary;
mod failures;
mod history;
mod impostor;
mod member;
mod requests;

pub use certificates::Certificates;
pub use diary::Diary;
pub use history::{Write, Written};
pub use impostor::Impostor;

use crate::host::Host;
use crate::lab::Lab;
use crate::wait;
use client::Work;
use member::Member;
use std::net::IpAddr;
use std::sync::mpsc;
use std::thread::JoinHandle;
use tempfile::TempDir;

/// How clients have to introduce themselves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Security {
    /// Not at all.
    #[default]
    None,
    /// Over TLS with a client certificate.
    Tls,
}

/// A cluster.
#[derive(Debug)]
pub struct Etcd {
    work: Option<mpsc::Sender<Work>>,
    client: Option<JoinHandle<()>>,
    members: Vec<Member>,
    certificates: Option<Certificates>,
    folder: TempDir,
}

impl Etcd {
    /// A new, empty cluster of one.
    ///
    /// # Panics
    /// When Debian's etcd-server is not installed, or does not start.
    #[must_use]
    pub fn start(lab: &Lab) -> Self {
        Self::start_with(lab, 1, Security::None)
    }

    /// A new, empty cluster of several members.
    ///
    /// # Panics
    /// As [`Self::start`].
    #[must_use]
    pub fn start_with(lab: &Lab, members: usize, security: Security) -> Self {
        let folder = tempfile::Builder::new().prefix(lab.prefix()).tempdir_in("/dev/shm").expect("a folder");
        let hosts: Vec<Host> = (0..members).map(|number| lab.host(&format!("etcd{number}"))).collect();
        let addresses: Vec<IpAddr> = hosts.iter().map(|host| host.ipv4().into()).collect();
        let certificates =
            (security == Security::Tls).then(|| Certificates::create(folder.path(), &addresses));
        let cluster: Vec<String> =
            hosts.iter().map(|host| format!("{}=http://{}:2380", host.name(), host.ipv4())).collect();
        let members = hosts.into_iter().map(|host| {
            let data = folder.path().join(host.name());
            Member::new(host, data, &cluster.join(","), certificates.as_ref())
        });
        let mut etcd = Self { work: None, client: None, members: members.collect(), certificates, folder };
        for member in &etcd.members {
            member.start();
        }
        let (work, requests) = mpsc::channel();
        etcd.client = Some(etcd.follow(requests));
        etcd.work = Some(work);
        etcd.wait_answering();
        etcd
    }

    fn scheme(&self) -> &'static str {
        if self.certificates.is_some() { "https" } else { "http" }
    }

    /// How many members there are.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.members.len()
    }

    /// What to give to `EtcdEndpoints`.
    #[must_use]
    pub fn endpoints(&self) -> String {
        let endpoints: Vec<String> =
            self.members.iter().map(|member| member.endpoint(self.scheme())).collect();
        endpoints.join(",")
    }

    /// The same of a cluster of one.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.endpoints()
    }

    /// With TLS: the files.
    ///
    /// # Panics
    /// Without TLS.
    #[must_use]
    pub fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("it was started with TLS")
    }

    /// Waits until each member answers with what a majority has agreed on. One that has just come back may not yet.
    ///
    /// # Panics
    /// When one does not.
    #[track_caller]
    pub fn wait_whole(&self) {
        for number in 0..self.members.len() {
            wait::until(client::START, format_args!("member {number} answers"), || {
                self.with_connection(move |connection| connection.answers(number))
            });
        }
    }

    /// Waits until a majority answers.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait_answering(&self) {
        drop(self.value("/"));
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(client) = self.client.take() {
            // Its panic has been noticed by whoever asked.
            let _ = client.join();
        }
        for member in &self.members {
            member.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_and_go() {
        let lab = Lab::new();
        let etcd = Etcd::start(&lab);
        etcd.put("/a/1", "one");
        let many = (0..300).map(|number| (format!("/b/{number}"), number.to_string()));
        etcd.put_many(many.collect());
        assert_eq!(etcd.value("/a/1").as_deref(), Some("one"));
        assert_eq!(etcd.all("/b/").len(), 300);
        etcd.delete("/a/1");
        etcd.delete_all("/b/1");
        assert_eq!(etcd.value("/a/1"), None);
        assert_eq!(etcd.all("/b/").len(), 300 - 111);
    }
}
