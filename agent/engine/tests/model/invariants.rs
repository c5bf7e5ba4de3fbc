//! What must never be, and what has to be once everything has come to rest.

use crate::host::Host;
use crate::script::NAMES;
use crate::search::Model as _;
use crate::world::{Place, World};
use cutover_engine::machine::CONTESTED_BOUND;
use std::sync::Arc;

const NORMAL: u32 = 1024;
const ELEVATED: u32 = 512;

impl World {
    /// The first thing that is wrong.
    pub(crate) fn violation(&self) -> Option<String> {
        let of_host = |host: &Arc<Host>| {
            let what = self
                .is_cut_off(host)
                .or_else(|| self.is_wrongly_elevated(host))
                .or_else(|| self.is_wrongly_forwarded(host))
                .or_else(|| self.is_up_too_early(host))?;
            Some(format!("{}: {what}", NAMES[host.id]))
        };
        self.hosts
            .iter()
            .find_map(of_host)
            .or_else(|| self.goes_in_circles())
            .or_else(|| self.is_wrong_at_rest())
    }

    /// A virtual machine that runs has a route: where it was before the migration all the time, where it goes from its announcement on,
    /// or if no agent was there, from when one has heard of it.
    fn is_cut_off(&self, host: &Host) -> Option<&'static str> {
        let runs_here = self.place == Place::Runs(host.id) && self.is_served[host.id];
        (runs_here && !host.is_routed()).then_some("the virtual machine runs here and has no route")
    }

    /// Elevated priority is only where it has been since the last migration to there began, and no longer than
    /// [`CONTESTED_BOUND`] after an agent has heard that it is about to leave.
    fn is_wrongly_elevated(&self, host: &Host) -> Option<&'static str> {
        if !host.metrics().contains(&ELEVATED) {
            return None;
        }
        if !self.has_been[host.id] {
            return Some("it is elevated and the virtual machine has not been here");
        }
        let leaves_since = host.leaves_since.filter(|_| host.is_in_sync());
        let is_late = leaves_since.is_some_and(|since| self.now.since(since) > CONTESTED_BOUND);
        is_late.then_some("it is elevated although the virtual machine is about to leave")
    }

    /// Nothing is forwarded that is for a virtual machine which runs here: never before it has stopped, and afterwards once an agent knows
    /// that it is here: by its announcement, because libvirt said that it stopped and went on, or by what the driver did.
    fn is_wrongly_forwarded(&self, host: &Host) -> Option<&'static str> {
        if host.kernel.forward.is_none() || self.place != Place::Runs(host.id) || !self.is_served[host.id] {
            return None;
        }
        let has_news = self.has_arrived(host) || host.knows_it_goes_on() || self.is_over();
        let is_known = has_news && self.is_informed(host);
        let is_wrong = is_known || !self.has_stopped[host.id];
        is_wrong.then_some("what is for the virtual machine here is forwarded")
    }

    fn has_arrived(&self, host: &Host) -> bool {
        host.agent.is_some() && self.is_served[host.id] && host.metrics().contains(&ELEVATED)
    }

    /// A migration's target is not reported before its interface is set up and it listens for the virtual machine.
    fn is_up_too_early(&self, host: &Host) -> Option<&'static str> {
        let is_expected = self.is_expected_on(host) && !self.has_been[host.id];
        (is_expected && host.is_up() && !host.is_prepared()).then_some("it is up and not ready")
    }

    fn is_expected_on(&self, host: &Host) -> bool {
        let Some(agent) = &host.agent else { return false };
        agent.engine.view(self.now).iter().any(|view| view.state == cutover_engine::machine::State::Target)
    }

    /// Two hosts forward to each other although everybody has been heard.
    fn goes_in_circles(&self) -> Option<String> {
        let forwards = |host: &&Arc<Host>| host.kernel.forward.is_some();
        let both: Vec<_> = self.hosts.iter().filter(forwards).collect();
        let leads_to = |from: &Host, to: &Host| {
            from.kernel.forward.is_some_and(|tunnel| tunnel.peer == crate::host::address(to.id))
        };
        let circle =
            both.iter().any(|one| both.iter().any(|other| leads_to(one, other) && leads_to(other, one)));
        (circle && self.is_everybody_informed()).then(|| "packets go in circles".to_owned())
    }

    /// Nothing is left to happen: a normal route where it runs, and nothing else anywhere.
    fn is_wrong_at_rest(&self) -> Option<String> {
        if !self.is_at_rest() {
            return None;
        }
        let Place::Runs(home) = self.place else { return Some("at rest while it is stopped".to_owned()) };
        self.hosts.iter().find_map(|host| {
            let (name, kernel) = (NAMES[host.id], &host.kernel);
            let expected = if host.id == home { [NORMAL].into() } else { Default::default() };
            let metrics = host.metrics();
            if metrics != expected || (host.id == home && !host.is_routed()) {
                return Some(format!(
                    "at rest, {name} has routes of metric {metrics:?} and not {expected:?}"
                ));
            }
            if kernel.routes.iter().any(|route| Some(route.ifindex) != host.ifindex()) {
                return Some(format!("at rest, {name} has routes to a tap that is gone"));
            }
            if kernel.forward.is_some() || kernel.reception.is_some() || !kernel.watches.is_empty() {
                return Some(format!("at rest, {name} forwards, receives or watches"));
            }
            let memory = host.saved();
            if !memory.departures.is_empty() || !memory.arrivals.is_empty() {
                return Some(format!("at rest, {name} remembers who leaves or comes"));
            }
            None
        })
    }
}
