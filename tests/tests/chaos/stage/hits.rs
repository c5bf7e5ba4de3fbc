//! What others do to a host that is over at once.

use super::Stage;
use crate::judge::{Excuse, Failure};
use crate::plan::{GuestNumber, Hit, HostNumber};
use cutover_daemon::clock;
use cutover_tests::deafening::resize;
use cutover_tests::{Port, frames};
use nix::sys::signal::Signal;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// LIMIT: many times as many as a socket of the smallest size has room for.
const ROUTES_OF_OTHERS: u16 = 2000;

/// What the agent asks for.
const USUAL_BUFFER_BYTES: usize = 16 << 20;

/// LIMIT: far more than a hypervisor sends, and so few that the plan goes on after a moment.
const FRAMES: usize = 10_000;

impl Stage {
    pub(super) fn hit(&mut self, hit: Hit) -> Result<(), Failure> {
        match hit {
            Hit::RoutesDeleted { guest, is_ipv6 } => {
                self.excused(guest, |stage| stage.delete_routes(guest, |ipv6| ipv6 == is_ipv6));
            }
            Hit::DeletedUnreported { guest } => self.delete_routes(guest, |_| true),
            Hit::AnnouncedUnreported { guest } => {
                let (host, port) = (self.model.runs_on(guest), &self.guests[guest].port);
                // Whoever comes without a word comes to a watch that may not be armed yet.
                if !self.comes(|| self.is_armed_on(host, guest)) {
                    return Err(Failure::new("a target is not armed", self.story(&[])));
                }
                self.guests[guest].open.as_ref().expect("it runs").send(&frames::rarp(port.mac));
                if !self.comes(|| self.is_routed(host, guest)) {
                    return Err(Failure::new("an announcement is lost", self.story(&[])));
                }
            }
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
            Hit::PinsRemoved(host) => return self.remove_pins(host),
            Hit::ChainsDeleted { guest } => self.renew_chains(guest),
            Hit::Flooded { guest } => self.flood(guest),
            // Each member would have to be restored.
            Hit::EtcdRestored if self.etcd.size() > 1 => {}
            Hit::EtcdRestored => {
                self.mend_etcd()?;
                self.etcd.save("backup");
                (0..10).for_each(|number| self.etcd.put("/calico/unknown", &number.to_string()));
                self.etcd.restore("backup");
            }
            Hit::EtcdCompacted => {
                self.mend_etcd()?;
                self.etcd.compact();
            }
            Hit::Overrun(host) => self.overrun(host),
        }
        Ok(())
    }

    /// Somebody cleans up below the pins of a running agent, which pins again what it still needs. Whoever announces himself before is not
    /// heard, so nobody does. What could not be written down would be lost with the pins.
    fn remove_pins(&mut self, host: HostNumber) -> Result<(), Failure> {
        if !self.answers(host) || self.nodes[host].may_be_stale {
            return Ok(());
        }
        let awaited: Vec<GuestNumber> = self.model.awaited_on(host).collect();
        let armed = awaited.into_iter().filter(|guest| self.is_armed_on(host, *guest));
        let folder = self.nodes[host].agent.pin_path().to_owned();
        let link = |guest: GuestNumber| folder.join("links").join(&self.guests[guest].port.interface);
        // On kernels without tcx there are none.
        let mut pins: Vec<PathBuf> = armed.map(link).filter(|link| link.exists()).collect();
        if !pins.is_empty() {
            let maps = fs::read_dir(folder.join("maps")).into_iter().flatten().flatten();
            pins.extend(maps.map(|entry| entry.path()));
        }
        remove_all(&folder);
        if !self.comes(|| pins.iter().all(|pin| pin.exists())) {
            let gone: Vec<_> = pins.iter().filter(|pin| !pin.exists()).collect();
            let text = format!("{gone:?}\n{}", self.story(&[]));
            return Err(Failure::new("pins are not made again", text));
        }
        Ok(())
    }

    /// What a guest can send, as fast as the tap takes it. A full queue of the kernel loses frames, which is the guest's problem.
    fn flood(&self, guest: GuestNumber) {
        let qemu = self.guests[guest].open.as_ref().expect("it runs");
        let is_itself = self.model.has_been_heard(guest);
        let liars = self.guests.iter().filter(|other| other.number != guest || is_itself);
        let ports: Vec<&Port> = liars.map(|other| &other.port).collect();
        for number in 0..FRAMES {
            let port = ports[number % ports.len()];
            let frame = match (number / ports.len() % 3, port.addresses[0].addr(), port.addresses[1].addr()) {
                (0, ..) => frames::rarp(port.mac),
                (1, IpAddr::V4(address), _) => frames::garp_request(port.mac, address),
                (_, _, IpAddr::V6(address)) => frames::unsolicited_na(port.mac, address),
                _ => unreachable!("each has an address of either family"),
            };
            let _ = qemu.try_send(&frame);
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

/// Removes what is below a folder, and the folder. The agent may notice meanwhile, and put something back.
fn remove_all(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if entry.is_dir() {
            remove_all(&entry);
        } else {
            let _ = fs::remove_file(&entry);
        }
    }
    let _ = fs::remove_dir(folder);
}
