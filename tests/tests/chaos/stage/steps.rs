//! The steps of a migration: what the driver, Nova and the hypervisors do.

use super::{Node, Stage};
use crate::guest::Arrival;
use crate::judge::Failure;
use crate::model::Heard;
use crate::plan::{GuestNumber, HostNumber, Step};
use cutover_daemon::clock;
use cutover_tests::frames;

impl Stage {
    /// Makes a step, or none if it makes no sense now.
    pub(crate) fn make(&mut self, step: Step) -> Result<(), Failure> {
        if !self.model.allows(step) {
            return Ok(());
        }
        let heard = match step {
            Step::Move { guest, is_announced } => self.move_it(guest, is_announced)?,
            _ => {
                self.make_another(step)?;
                Heard::No
            }
        };
        self.model.advance(step, heard);
        Ok(())
    }

    fn make_another(&mut self, step: Step) -> Result<(), Failure> {
        match step {
            Step::Begin { guest, to } => self.begin(guest, to),
            Step::Succeed { guest, is_recreated } => self.succeed(guest, is_recreated),
            Step::Cancel { guest } => self.cancel(guest),
            Step::Fail { guest } => self.fail(guest),
            Step::Break(fault) => {
                self.break_it(fault);
                Ok(())
            }
            Step::Mend(fault) => self.mend(fault),
            Step::Hit(hit) => self.hit(hit),
            Step::Settle => self.settle(),
            Step::Move { .. } => Ok(()),
        }
    }

    fn begin(&mut self, guest: GuestNumber, to: HostNumber) -> Result<(), Failure> {
        self.mend_etcd()?;
        let from = self.model.runs_on(guest);
        self.plug(&[(guest, to)]);
        let guest = &mut self.guests[guest];
        guest.is_armed = false;
        let list = vec![guest.begins(from, to), guest.written(from), guest.written(to)];
        self.etcd.write_lists(vec![list]);
        Ok(())
    }

    fn move_it(&mut self, number: GuestNumber, is_announced: bool) -> Result<Heard, Failure> {
        let (_, to) = self.model.migration(number).expect("it makes sense");
        if !is_announced {
            let _qemu = self.guests[number].arrive(to, Arrival::Silent);
            return Ok(Heard::No);
        }
        if self.is_sound(to) {
            let armed = self.comes(|| self.is_armed_on(to, number));
            if !armed {
                return Err(Failure::new("a target is not armed", self.story(&[])));
            }
            self.guests[number].is_armed = true;
        } else {
            self.look_who_is_armed(to);
        }
        let guest = &mut self.guests[number];
        let announcement = frames::rarp(guest.port.mac);
        let how = if guest.is_armed { Arrival::Announced } else { Arrival::Unheard };
        guest.arrive(to, how).send(&announcement);
        if !guest.is_armed {
            return Ok(Heard::Maybe);
        }
        if self.can_hear(to) && !self.comes(|| self.is_routed(to, number)) {
            return Err(Failure::new("an announcement is lost", self.story(&[])));
        }
        Ok(Heard::Yes)
    }

    /// Whether a host has all routes to a virtual machine, of the agent's.
    pub(super) fn is_routed(&self, host: HostNumber, guest: GuestNumber) -> bool {
        let Node { watch, uplink, .. } = &self.nodes[host];
        let is_routed = |to| watch.routes_to(to).iter().any(|route| route.ifindex != *uplink);
        self.guests[guest].port.routed().into_iter().all(is_routed)
    }

    fn succeed(&mut self, number: GuestNumber, is_recreated: bool) -> Result<(), Failure> {
        self.mend_etcd()?;
        let (from, to) = self.model.migration(number).expect("it makes sense");
        let guest = &mut self.guests[number];
        let mut list = vec![guest.ends(to), guest.gone(from)];
        if is_recreated {
            list.push(guest.gone(to));
        }
        list.push(guest.written(to));
        guest.stays.last_mut().expect("it runs").ended_at = Some(clock::now());
        self.etcd.write_lists(vec![list]);
        self.unplug(number, from);
        Ok(())
    }

    /// It goes on at the source, where nobody announces anything, before the driver hears of it.
    fn fail(&mut self, number: GuestNumber) -> Result<(), Failure> {
        let (from, _) = self.model.migration(number).expect("it makes sense");
        let guest = &mut self.guests[number];
        let _qemu = guest.arrive(from, Arrival::Returned);
        guest.stays.last_mut().expect("it runs").ended_at = Some(clock::now());
        self.cancel(number)
    }

    fn cancel(&mut self, number: GuestNumber) -> Result<(), Failure> {
        self.mend_etcd()?;
        let (from, to) = self.model.migration(number).expect("it makes sense");
        let guest = &mut self.guests[number];
        let list = vec![guest.ends(to), guest.gone(from), guest.gone(to), guest.written(from)];
        self.etcd.write_lists(vec![list]);
        self.unplug(number, to);
        Ok(())
    }

    fn unplug(&mut self, guest: GuestNumber, host: HostNumber) {
        self.guests[guest].leave(host);
        self.remove_chains(guest, host);
    }
}
