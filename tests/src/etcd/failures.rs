//! What goes wrong with members, and what operators do about it.

use super::Etcd;
use super::impostor::Impostor;
use crate::firewall;
use crate::host::Host;
use nix::sys::signal::Signal;
use std::fs;
use std::path::Path;

impl Etcd {
    /// SIGKILL to a member.
    pub fn kill(&self, number: usize) {
        self.members[number].kill();
    }

    /// Starts a member that was killed, with the data that it had.
    pub fn restart(&self, number: usize) {
        self.members[number].start();
    }

    /// SIGSTOP: the member goes on to exist, but does nothing.
    pub fn freeze(&self, number: usize) {
        self.members[number].signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn thaw(&self, number: usize) {
        self.members[number].signal(Signal::SIGCONT);
    }

    /// Cuts a member off from the other members, but not from its clients.
    pub fn cut_off(&self, number: usize) {
        // Members talk to this port of each other, whoever has called whom.
        let rules = "table inet cut_off {
            chain input {
                type filter hook input priority 0;
                tcp dport 2380 drop
                tcp sport 2380 drop
            }
            chain output {
                type filter hook output priority 0;
                tcp dport 2380 drop
                tcp sport 2380 drop
            }
        }";
        firewall::load(self.members[number].host.namespace(), rules);
    }

    /// Undoes [`Self::cut_off`].
    pub fn rejoin(&self, number: usize) {
        firewall::load(self.members[number].host.namespace(), "delete table inet cut_off");
    }

    /// Which member an agent is connected to, by the other end of its connections.
    #[must_use]
    pub fn member_of(&self, host: &Host) -> Option<usize> {
        let output = host.namespace().command("ss").args(["-Htn", "state", "established"]).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        self.members.iter().position(|member| text.contains(&format!("{}:2379", member.host.ipv4())))
    }

    /// Keeps what there is, to come back to it.
    ///
    /// # Panics
    /// When etcdctl is not installed.
    pub fn save(&self, name: &str) {
        let path = self.folder.path().join(name);
        self.etcdctl(&["snapshot", "save", path.to_str().expect("a plain path")], true);
    }

    /// What an operator does after a disaster, to a cluster of one: the data of [`Self::save`] in a new data folder.
    ///
    /// # Panics
    /// When etcdctl is not installed.
    pub fn restore(&self, name: &str) {
        self.members[0].kill();
        fs::remove_dir_all(&self.members[0].data).expect("it had data");
        let (snapshot, data) = (self.folder.path().join(name), self.members[0].data.clone());
        let (name, peer) = (self.members[0].name.clone(), self.members[0].peer());
        let path = |path: &Path| path.to_str().expect("a plain path").to_owned();
        self.etcdctl(
            &[
                "snapshot",
                "restore",
                &path(&snapshot),
                "--data-dir",
                &path(&data),
                "--name",
                &name,
                "--initial-cluster",
                &format!("{name}={peer}"),
                "--initial-advertise-peer-urls",
                &peer,
            ],
            false,
        );
        self.members[0].start();
        self.wait_answering();
    }

    fn etcdctl(&self, arguments: &[&str], online: bool) {
        let member = &self.members[0];
        let mut command = member.host.namespace().command("etcdctl");
        command.env("ETCDCTL_API", "3").args(arguments);
        if online {
            command.args(["--endpoints", &member.endpoint(self.scheme())]);
        }
        let output = command.output().expect("etcdctl is installed");
        assert!(
            output.status.success(),
            "etcdctl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Something else listens in the place of a member that was killed.
    ///
    /// # Panics
    /// When the member is running.
    #[must_use]
    pub fn impersonate(&self, number: usize) -> Impostor {
        Impostor::start(&self.members[number].host)
    }
}
