//! What breaks and is mended, and what others do to a host.

use super::Stage;
use crate::judge::Excuse;
use crate::plan::{Fault, GuestNumber, Hit, HostNumber, Memory};
use cutover_daemon::clock;
use cutover_tests::deafening::resize;
use cutover_tests::firewall;
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

/// LIMIT: many times as many as a socket of the smallest size has room for.
const ROUTES_OF_OTHERS: u16 = 2000;

/// What the agent asks for.
const USUAL_BUFFER_BYTES: usize = 16 << 20;

impl Stage {
    pub(super) fn break_it(&mut self, fault: Fault) {
        if self.broken.iter().any(|other| other.excludes(fault)) {
            return;
        }
        match fault {
            Fault::Killed(host, _) => {
                self.look_who_is_armed(host);
                self.nodes[host].agent.kill();
            }
            Fault::Frozen(host) => {
                self.look_who_is_armed(host);
                self.nodes[host].agent.signal(Signal::SIGSTOP);
            }
            Fault::Partitioned(host) => self.cut(host, "etcd", 2379),
            Fault::Muted(host) => self.cut(host, "peers", 7179),
            Fault::EtcdKilled => self.etcd.kill(0),
            Fault::EtcdFrozen => self.etcd.freeze(0),
        }
        self.broken.push(fault);
    }

    pub(super) fn mend(&mut self, fault: Fault) {
        if !self.broken.contains(&fault) {
            return;
        }
        self.broken.retain(|other| *other != fault);
        match fault {
            Fault::Killed(host, memory) => {
                let node = &mut self.nodes[host];
                spoil(&node.agent.run_dir().join("state.json"), memory);
                node.is_forgetful = memory != Memory::Kept;
                node.agent.spawn();
                self.wait_answering(host);
            }
            Fault::Frozen(host) => self.nodes[host].agent.signal(Signal::SIGCONT),
            Fault::Partitioned(host) => self.join(host, "etcd"),
            Fault::Muted(host) => self.join(host, "peers"),
            Fault::EtcdKilled => self.etcd.restart(0),
            Fault::EtcdFrozen => self.etcd.thaw(0),
        }
        if matches!(fault, Fault::EtcdKilled | Fault::EtcdFrozen) {
            self.etcd.wait_answering();
        }
    }

    pub(super) fn mend_all(&mut self) {
        for fault in self.broken.clone() {
            self.mend(fault);
        }
    }

    /// A driver waits for etcd.
    pub(super) fn mend_etcd(&mut self) {
        self.mend(Fault::EtcdKilled);
        self.mend(Fault::EtcdFrozen);
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

    fn is_broken(&self, is_it: impl Fn(Fault) -> bool) -> bool {
        self.broken.iter().any(|fault| is_it(*fault))
    }

    /// Its agent runs and answers.
    fn answers(&self, host: HostNumber) -> bool {
        !self.is_broken(|fault| matches!(fault, Fault::Killed(on, _) | Fault::Frozen(on) if on == host))
    }

    fn reaches_etcd(&self, host: HostNumber) -> bool {
        !self.is_broken(|fault| match fault {
            Fault::Partitioned(on) => on == host,
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

    pub(super) fn hit(&mut self, hit: Hit) {
        match hit {
            Hit::RoutesDeleted { guest, is_ipv6 } => {
                self.excused(guest, |stage| stage.delete_routes(guest, |ipv6| ipv6 == is_ipv6));
            }
            Hit::DeletedUnreported { guest } => self.delete_routes(guest, |_| true),
            Hit::NeighboursDeleted { guest } => self.delete_neighbours(guest),
            Hit::TapFlapped { guest } => self.excused(guest, |stage| {
                let (host, tap) = stage.place(guest);
                stage.nodes[host].host.namespace().ip(&format!("link set {tap} down\nlink set {tap} up"));
            }),
            Hit::RulesDeleted(host) => {
                for (family, table) in [("-4", "7179"), ("-6", "7179"), ("-4", "7180"), ("-6", "7180")] {
                    let mut command = self.nodes[host].host.namespace().command("ip");
                    // There may be none.
                    let _ = command.args([family, "rule", "del", "lookup", table]).output();
                }
            }
            Hit::TunnelDeleted(host) => {
                // There may be none.
                let _ = self.nodes[host].host.namespace().try_ip("link del cutover0");
            }
            Hit::EtcdRestored => {
                self.mend_etcd();
                self.etcd.save("backup");
                (0..10).for_each(|number| self.etcd.put("/calico/unknown", &number.to_string()));
                self.etcd.restore("backup");
            }
            Hit::EtcdCompacted => {
                self.mend_etcd();
                self.etcd.compact();
            }
            Hit::Overrun(host) => self.overrun(host),
        }
    }

    /// Where a virtual machine runs, and the name of its tap.
    fn place(&self, guest: GuestNumber) -> (HostNumber, String) {
        (self.model.runs_on(guest), self.guests[guest].port.interface.clone())
    }

    /// Others take routes of a virtual machine away where it runs.
    fn excused(&mut self, guest: GuestNumber, work: impl FnOnce(&mut Self)) {
        let host = self.model.runs_on(guest);
        let from = clock::now();
        work(self);
        // It is recorded by now.
        let _mark = self.nodes[host].watch.mark();
        self.excuses.push(Excuse { guest, host, from, to: clock::now() });
    }

    fn delete_routes(&self, guest: GuestNumber, is_meant: impl Fn(bool) -> bool) {
        let (host, tap) = self.place(guest);
        let namespace = self.nodes[host].host.namespace();
        for to in self.guests[guest].port.routed().into_iter().filter(|to| is_meant(to.addr().is_ipv6())) {
            // An elevated and a normal one. There may be none.
            for _ in 0..2 {
                let _ = namespace.try_ip(&format!("route del {to} dev {tap}"));
            }
        }
    }

    fn delete_neighbours(&self, guest: GuestNumber) {
        let (host, tap) = self.place(guest);
        for to in self.guests[guest].port.routed() {
            // There may be none.
            let _ = self.nodes[host].host.namespace().try_ip(&format!("neigh del {} dev {tap}", to.addr()));
        }
    }

    /// The agent misses that the routes of a virtual machine were deleted: its socket is full.
    fn overrun(&mut self, host: HostNumber) {
        if !self.answers(host) {
            return;
        }
        let pid = self.nodes[host].agent.pid().expect("it runs");
        self.nodes[host].agent.signal(Signal::SIGSTOP);
        let _sockets = resize(pid, 0);
        let mut script = String::new();
        for verb in ["add", "del"] {
            for number in 0..ROUTES_OF_OTHERS {
                let [high, low] = number.to_be_bytes();
                writeln!(script, "route {verb} 10.99.{high}.{low}/32 dev lo proto 12").expect("memory");
            }
        }
        self.nodes[host].host.namespace().ip(&script);
        for guest in
            (0..self.guests.len()).filter(|guest| self.model.runs_on(*guest) == host).collect::<Vec<_>>()
        {
            self.excused(guest, |stage| stage.delete_routes(guest, |_| true));
        }
        let _sockets = resize(pid, USUAL_BUFFER_BYTES);
        self.nodes[host].agent.signal(Signal::SIGCONT);
    }
}

/// Makes of a state file what an agent is to find.
fn spoil(path: &Path, memory: Memory) {
    // An agent that was killed at once has not written any.
    let Ok(text) = fs::read_to_string(path) else { return };
    match memory {
        Memory::Kept => {}
        Memory::Truncated => fs::write(path, &text.as_bytes()[..text.len() / 2]).expect("space on the disk"),
        Memory::OfAnotherVersion => {
            let mut document: Value = serde_json::from_str(&text).expect("the agent writes JSON");
            document["version"] = 999.into();
            fs::write(path, document.to_string()).expect("space on the disk");
        }
        Memory::Gone => fs::remove_file(path).expect("it was there"),
    }
}
