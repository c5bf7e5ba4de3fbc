//! What Felix does on the host where the agent works beside it: chains for each tap, which `up` waits for.

use super::{Stage, host_name};
use crate::judge::Failure;
use crate::plan::{Fault, GuestNumber, HostNumber};
use cutover_tests::felix::{BOTH, Felix, Mode};
use serde_json::Value;

impl Stage {
    /// Felix has heard of taps that were just plugged. Nobody has read of their endpoints yet.
    pub(super) fn make_chains(&mut self, plugged: &[(GuestNumber, HostNumber)]) {
        for (guest, host) in plugged.iter().copied() {
            if !self.nodes[host].is_beside_felix {
                continue;
            }
            if self.is_broken(|fault| fault == Fault::ChainsLate(host)) {
                let had_status = self.status(guest, host).is_some();
                self.nodes[host].without_chains.push((guest, had_status));
            } else {
                self.felix(host, |felix, tap| BOTH.iter().for_each(|family| felix.add(*family, tap)), guest);
            }
        }
    }

    /// Felix has heard that a virtual machine is not on a host any more.
    pub(super) fn remove_chains(&mut self, guest: GuestNumber, host: HostNumber) {
        let node = &mut self.nodes[host];
        let has_none = node.without_chains.iter().any(|(late, _)| *late == guest);
        node.without_chains.retain(|(late, _)| *late != guest);
        if node.is_beside_felix && !has_none {
            self.felix(host, |felix, tap| BOTH.iter().for_each(|family| felix.remove(*family, tap)), guest);
        }
    }

    /// They go and come back, as when Felix is told that an endpoint is another one.
    pub(super) fn renew_chains(&mut self, guest: GuestNumber) {
        let host = self.model.runs_on(guest);
        if !self.nodes[host].without_chains.iter().any(|(late, _)| *late == guest) {
            self.remove_chains(guest, host);
            self.make_chains(&[(guest, host)]);
        }
    }

    /// Felix makes what it owes. Until now nobody may have said that packets pass.
    pub(super) fn catch_up(&mut self, host: HostNumber) -> Result<(), Failure> {
        for (guest, had_status) in std::mem::take(&mut self.nodes[host].without_chains) {
            let can_be_asked =
                !self.is_broken(|fault| matches!(fault, Fault::EtcdKilled | Fault::EtcdFrozen));
            if can_be_asked && !had_status && self.status(guest, host).as_deref() == Some("up") {
                let text = format!("virtual machine {guest} on {}{}", host_name(host), self.story(&[]));
                return Err(Failure::new("up was reported before Felix had chains", text));
            }
            self.felix(host, |felix, tap| BOTH.iter().for_each(|family| felix.add(*family, tap)), guest);
        }
        Ok(())
    }

    fn felix(&self, host: HostNumber, work: impl Fn(Felix<'_>, &str), guest: GuestNumber) {
        let felix = Felix::start(self.nodes[host].host.namespace(), Mode::Nftables);
        work(felix, &self.guests[guest].port.interface);
    }

    /// What etcd has of an endpoint's status: `up`, `down`, or nothing.
    fn status(&self, guest: GuestNumber, host: HostNumber) -> Option<String> {
        let value = self.etcd.value(&self.guests[guest].status_key(host))?;
        let status: Value = serde_json::from_str(&value).ok()?;
        Some(status["status"].as_str()?.to_owned())
    }
}
