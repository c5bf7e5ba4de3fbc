//! What breaks and is mended.

use super::Stage;
use crate::judge::Failure;
use crate::plan::{Fault, GuestNumber, HostNumber, Memory};
use cutover_daemon::clock;
use cutover_tests::firewall;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::path::Path;

impl Stage {
    pub(super) fn break_it(&mut self, fault: Fault) {
        if self.broken.iter().any(|other| other.excludes(fault)) || !self.can_break(fault) {
            return;
        }
        if matches!(fault, Fault::MemberKilled(_) | Fault::MemberFrozen(_) | Fault::MemberCutOff(_)) {
            // One that failed before may not be back with the others yet, and a cluster of three bears one.
            self.etcd.wait_whole();
        }
        match fault {
            Fault::Killed(host, _) => {
                self.look_who_is_armed(host);
                self.nodes[host].kill();
            }
            Fault::Frozen(host) => {
                self.look_who_is_armed(host);
                self.nodes[host].agent.signal(Signal::SIGSTOP);
            }
            Fault::Partitioned(host) => self.cut(host, "etcd", 2379),
            Fault::Muted(host) => self.cut(host, "peers", 7179),
            Fault::Unplugged(host) => {
                self.outage(host, |stage| stage.nodes[host].host.namespace().ip("link set eth0 down"));
            }
            Fault::DiskFull(host) => {
                self.nodes[host].disk.fill();
                self.nodes[host].may_be_stale = true;
            }
            Fault::ChainsLate(_) => {}
            Fault::EtcdKilled => self.members().for_each(|member| self.etcd.kill(member)),
            Fault::EtcdFrozen => self.members().for_each(|member| self.etcd.freeze(member)),
            Fault::MemberKilled(member) => self.etcd.kill(member),
            Fault::MemberFrozen(member) => self.etcd.freeze(member),
            Fault::MemberCutOff(member) => self.etcd.cut_off(member),
        }
        self.broken.push(fault);
    }

    /// Whether there is what would break.
    fn can_break(&self, fault: Fault) -> bool {
        match fault {
            Fault::ChainsLate(host) => self.nodes[host].is_beside_felix,
            Fault::MemberKilled(_) | Fault::MemberFrozen(_) | Fault::MemberCutOff(_) => self.etcd.size() > 1,
            _ => true,
        }
    }

    fn members(&self) -> std::ops::Range<usize> {
        0..self.etcd.size()
    }

    pub(super) fn mend(&mut self, fault: Fault) -> Result<(), Failure> {
        if !self.broken.contains(&fault) {
            return Ok(());
        }
        self.broken.retain(|other| *other != fault);
        match fault {
            Fault::Killed(host, memory) => {
                let node = &mut self.nodes[host];
                spoil(&node.agent.run_dir().join("state.json"), memory);
                node.is_forgetful = memory != Memory::Kept || node.may_be_stale;
                node.spawn();
                self.wait_answering(host);
            }
            Fault::Frozen(host) => self.nodes[host].agent.signal(Signal::SIGCONT),
            Fault::Partitioned(host) => self.join(host, "etcd"),
            Fault::Muted(host) => self.join(host, "peers"),
            Fault::Unplugged(host) => self.outage(host, |stage| stage.nodes[host].restore_uplink()),
            Fault::DiskFull(host) => {
                self.nodes[host].disk.free();
                return self.wait_remembered(host);
            }
            Fault::ChainsLate(host) => return self.catch_up(host),
            Fault::EtcdKilled => self.members().for_each(|member| self.etcd.restart(member)),
            Fault::EtcdFrozen => self.members().for_each(|member| self.etcd.thaw(member)),
            Fault::MemberKilled(member) => self.etcd.restart(member),
            Fault::MemberFrozen(member) => self.etcd.thaw(member),
            Fault::MemberCutOff(member) => self.etcd.rejoin(member),
        }
        if matches!(fault, Fault::EtcdKilled | Fault::EtcdFrozen) {
            self.etcd.wait_answering();
        }
        Ok(())
    }

    pub(super) fn mend_all(&mut self) -> Result<(), Failure> {
        self.broken.clone().into_iter().try_for_each(|fault| self.mend(fault))
    }

    /// A driver waits for etcd.
    pub(super) fn mend_etcd(&mut self) -> Result<(), Failure> {
        self.mend(Fault::EtcdKilled)?;
        self.mend(Fault::EtcdFrozen)
    }

    /// An agent that runs writes down what it could not. One that is dead has forgotten it.
    fn wait_remembered(&mut self, host: HostNumber) -> Result<(), Failure> {
        if !self.answers(host) {
            return Ok(());
        }
        if !self.comes(|| self.nodes[host].remembers()) {
            return Err(Failure::new("state.json is not written again", self.story(&[])));
        }
        self.nodes[host].note_memory();
        Ok(())
    }

    /// The stage changes what is somebody else's on an uplink.
    fn outage(&mut self, host: HostNumber, work: impl FnOnce(&Self)) {
        let from = clock::now();
        work(self);
        // It is recorded by now.
        let _mark = self.nodes[host].watch.mark();
        self.nodes[host].outages.push((from, clock::now()));
    }

    /// Nothing gets through to or from this port of others.
    fn cut(&self, host: HostNumber, name: &str, port: u16) {
        firewall::load(
            self.nodes[host].host.namespace(),
            &format!(
                "table inet cut_{name} {{
                    chain input {{
                        type filter hook input priority 0;
                        tcp dport {port} drop
                        tcp sport {port} drop
                    }}
                }}"
            ),
        );
    }

    fn join(&self, host: HostNumber, name: &str) {
        firewall::load(self.nodes[host].host.namespace(), &format!("delete table inet cut_{name}"));
    }

    pub(super) fn is_broken(&self, is_it: impl Fn(Fault) -> bool) -> bool {
        self.broken.iter().any(|fault| is_it(*fault))
    }

    /// Its agent runs and answers.
    pub(super) fn answers(&self, host: HostNumber) -> bool {
        !self.is_broken(|fault| matches!(fault, Fault::Killed(on, _) | Fault::Frozen(on) if on == host))
    }

    fn reaches_etcd(&self, host: HostNumber) -> bool {
        !self.is_broken(|fault| match fault {
            Fault::Partitioned(on) | Fault::Unplugged(on) => on == host,
            Fault::EtcdKilled | Fault::EtcdFrozen => true,
            _ => false,
        })
    }

    /// Nothing keeps its agent from doing what has to be done.
    pub(super) fn is_sound(&self, host: HostNumber) -> bool {
        self.answers(host) && self.reaches_etcd(host)
    }

    /// Its agent has to hear an announcement now, with etcd or without: it remembers, or has heard from etcd since it forgot.
    pub(super) fn can_hear(&mut self, host: HostNumber) -> bool {
        if !self.answers(host) {
            return false;
        }
        let node = &mut self.nodes[host];
        if node.is_forgetful {
            node.is_forgetful = node.agent.ask_status().is_ok_and(|status| status["in_sync"] != true);
        }
        !node.is_forgetful
    }

    pub(super) fn is_armed_on(&self, host: HostNumber, guest: GuestNumber) -> bool {
        let name = self.guests[guest].port.name_on(&super::host_name(host));
        let armed = || {
            let status = self.nodes[host].agent.ask_status().ok()?;
            let shown =
                status["endpoints"].as_array()?.iter().find(|it| it["name"] == name.as_str())?.clone();
            Some(shown["state"] == "Target" && shown["watch"].is_u64())
        };
        armed().unwrap_or(false)
    }

    /// Keeps in mind for whom a host's agent waits, if it can be asked.
    pub(super) fn look_who_is_armed(&mut self, host: HostNumber) {
        if !self.answers(host) {
            return;
        }
        for guest in self.model.awaited_on(host).collect::<Vec<_>>() {
            self.guests[guest].is_armed = self.is_armed_on(host, guest);
        }
    }
}

/// Makes of a state file what an agent is to find.
fn spoil(path: &Path, memory: Memory) {
    // An agent that was killed at once has not written any.
    let Ok(text) = fs::read_to_string(path) else { return };
    match memory {
        Memory::Kept => {}
        Memory::Truncated => write(path, &text.as_bytes()[..text.len() / 2]),
        Memory::OfAnotherVersion => {
            let mut document: Value = serde_json::from_str(&text).expect("the agent writes JSON");
            document["version"] = 999.into();
            write(path, document.to_string().as_bytes());
        }
        Memory::Gone => fs::remove_file(path).expect("it was there"),
    }
}

/// Where there is no space, the file is empty then, which is spoilt enough.
fn write(path: &Path, text: &[u8]) {
    let _ = fs::write(path, text);
}
