//! From what is wanted and what is there to the writes that are left, the most urgent ones first.
//!
//! Pure. Remembers which writes were done that had been due although the value was there already; everything
//! else follows from the comparison. The publishers call it and carry the steps out.

use cutover_engine::model::EndpointKey;
use cutover_engine::wanted::{Status, WantedStatus};
use cutover_engine::{BootTime, Fact, Wanted};
use std::collections::{BTreeMap, BTreeSet};

/// The names that the store holds, with the status in each; nothing for a value that is something else.
pub(super) type Observed = BTreeMap<String, Option<String>>;

/// How a store names the status of an endpoint.
pub(super) type Name = Box<dyn Fn(&EndpointKey) -> String + Send + Sync>;

/// One write that is left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Step {
    /// Name in the store.
    pub(super) name: String,
    pub(super) action: Action,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Action {
    Write {
        endpoint: EndpointKey,
        status: &'static str,
        /// What [`Fact::StatusWritten`] has to repeat.
        due_since: Option<BootTime>,
    },
    Remove,
}

/// How urgent a step is; the order of the variants is the order of the steps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Urgency {
    /// Nova waits for it before it starts a migration.
    Awaited,
    /// A port is out of service until it is written.
    Due,
    Write,
    /// ORDER: last. Neutron takes any removed status for a failure of the port, so whatever says that a port
    /// is well is written before.
    Remove,
}

/// Plans for one store.
pub(super) struct Planner {
    name: Name,
    /// The writes that were due and have been done, by endpoint.
    done: BTreeMap<EndpointKey, BootTime>,
    /// Names that were wanted in this life. If one is not wanted any more, its endpoint is gone for good.
    known: BTreeSet<String>,
}

impl Planner {
    /// A planner for a store with such names.
    pub(super) fn new(name: impl Fn(&EndpointKey) -> String + Send + Sync + 'static) -> Self {
        Self { name: Box::new(name), done: BTreeMap::new(), known: BTreeSet::new() }
    }

    /// What is left to write.
    pub(super) fn plan(&mut self, wanted: &Wanted, observed: &Observed) -> Vec<Step> {
        self.done.retain(|endpoint, _| wanted.statuses.contains_key(endpoint));
        let mut steps = Vec::new();
        let mut named = BTreeSet::new();
        for (endpoint, status) in &wanted.statuses {
            let name = (self.name)(endpoint);
            if let Some((urgency, action)) = self.write(endpoint, *status, observed.get(&name)) {
                steps.push((urgency, Step { name: name.clone(), action }));
            }
            named.insert(name);
        }
        // At first, what nobody wants may belong to an endpoint that the driver has taken away for a moment, or
        // that cannot be read.
        let may_go = |name: &String| wanted.leftovers_may_go || self.known.contains(name);
        for name in observed.keys().filter(|name| !named.contains(*name) && may_go(name)) {
            steps.push((Urgency::Remove, Step { name: name.clone(), action: Action::Remove }));
        }
        self.known.retain(|name| observed.contains_key(name));
        self.known.append(&mut named);
        steps.sort_by_key(|(urgency, _)| *urgency);
        steps.into_iter().map(|(_, step)| step).collect()
    }

    fn write(
        &self,
        endpoint: &EndpointKey,
        wanted: WantedStatus,
        observed: Option<&Option<String>>,
    ) -> Option<(Urgency, Action)> {
        let status = match wanted.status {
            Status::Up => "up",
            Status::Down => "down",
            Status::AsReported => return None,
        };
        let due_since = wanted.due_since.filter(|since| self.done.get(endpoint) != Some(since));
        let is_there = observed.and_then(Option::as_deref) == Some(status);
        if is_there && due_since.is_none() {
            return None;
        }
        let urgency = match (wanted.is_awaited, due_since) {
            (true, _) => Urgency::Awaited,
            (false, Some(_)) => Urgency::Due,
            (false, None) => Urgency::Write,
        };
        Some((urgency, Action::Write { endpoint: endpoint.clone(), status, due_since }))
    }

    /// A step was carried out. Returns what the engine has to know.
    pub(super) fn done(&mut self, step: &Step, at: BootTime, observed: &mut Observed) -> Option<Fact> {
        match &step.action {
            Action::Remove => {
                observed.remove(&step.name);
                None
            }
            Action::Write { endpoint, status, due_since } => {
                observed.insert(step.name.clone(), Some((*status).to_owned()));
                self.known.insert(step.name.clone());
                let due_since = (*due_since)?;
                self.done.insert(endpoint.clone(), due_since);
                Some(Fact::StatusWritten { endpoint: endpoint.clone(), due_since, at })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(endpoint: &str) -> EndpointKey {
        EndpointKey {
            host: "host".into(),
            orchestrator: "openstack".into(),
            workload: "openstack/vm".into(),
            endpoint: endpoint.into(),
        }
    }

    fn planner() -> Planner {
        Planner::new(|endpoint| format!("status/{}", endpoint.endpoint))
    }

    fn wanted<const N: usize>(statuses: [(&str, WantedStatus); N]) -> Wanted {
        let statuses = statuses.into_iter().map(|(endpoint, status)| (key(endpoint), status)).collect();
        Wanted { statuses, leftovers_may_go: true, ..Wanted::default() }
    }

    fn observed<const N: usize>(entries: [(&str, &str); N]) -> Observed {
        let entry = |(name, status): (&str, &str)| (format!("status/{name}"), Some(status.to_owned()));
        entries.into_iter().map(entry).collect()
    }

    const UP: WantedStatus = WantedStatus::of(Status::Up);
    const DOWN: WantedStatus = WantedStatus::of(Status::Down);
    const AS_REPORTED: WantedStatus = WantedStatus::of(Status::AsReported);

    fn due(status: WantedStatus, since: u64) -> WantedStatus {
        WantedStatus { due_since: Some(BootTime(since)), ..status }
    }

    fn awaited(status: WantedStatus) -> WantedStatus {
        WantedStatus { is_awaited: true, ..status }
    }

    /// Steps in short: `a=up`, `-b`.
    fn short(steps: &[Step]) -> Vec<String> {
        let text = |step: &Step| {
            let name = step.name.strip_prefix("status/").unwrap();
            match &step.action {
                Action::Write { status, .. } => format!("{name}={status}"),
                Action::Remove => format!("-{name}"),
            }
        };
        steps.iter().map(text).collect()
    }

    fn plan(planner: &mut Planner, wanted: &Wanted, observed: &Observed) -> Vec<String> {
        short(&planner.plan(wanted, observed))
    }

    #[test]
    fn only_differences_are_written() {
        let wanted = wanted([("a", UP), ("b", UP), ("c", DOWN), ("d", AS_REPORTED), ("e", UP)]);
        let observed = observed([("a", "up"), ("b", "down"), ("d", "down"), ("e", "error")]);
        assert_eq!(plan(&mut planner(), &wanted, &observed), ["b=up", "c=down", "e=up"]);
    }

    #[test]
    fn a_value_that_is_no_status_is_replaced() {
        let mut observed = observed([("a", "up")]);
        observed.insert("status/a".into(), None);
        assert_eq!(plan(&mut planner(), &wanted([("a", UP)]), &observed), ["a=up"]);
    }

    #[test]
    fn what_somebody_waits_for_comes_first_and_removals_come_last() {
        let wanted = wanted([
            ("a", UP),
            ("b", due(UP, 1)),
            ("c", DOWN),
            ("d", awaited(due(UP, 2))),
            ("e", due(UP, 1)),
        ]);
        let observed = observed([("b", "up"), ("d", "up"), ("e", "up"), ("z", "up")]);
        assert_eq!(
            plan(&mut planner(), &wanted, &observed),
            ["d=up", "b=up", "e=up", "a=up", "c=down", "-z"]
        );
    }

    #[test]
    fn what_is_due_is_due_until_it_is_done() {
        let (mut planner, mut observed) = (planner(), observed([("a", "up")]));
        let first = wanted([("a", due(UP, 1))]);
        let steps = planner.plan(&first, &observed);
        assert_eq!(short(&steps), ["a=up"]);
        assert_eq!(plan(&mut planner, &first, &observed), ["a=up"], "it failed");
        let fact = planner.done(&steps[0], BootTime(5), &mut observed);
        let expected = Fact::StatusWritten { endpoint: key("a"), due_since: BootTime(1), at: BootTime(5) };
        assert_eq!(fact, Some(expected));
        assert!(planner.plan(&first, &observed).is_empty(), "the engine has not heard of it yet");
        assert!(planner.plan(&wanted([("a", UP)]), &observed).is_empty());
        assert_eq!(plan(&mut planner, &wanted([("a", due(UP, 2))]), &observed), ["a=up"]);
    }

    #[test]
    fn an_ordinary_write_tells_nobody() {
        let (mut planner, mut observed) = (planner(), Observed::new());
        let steps = planner.plan(&wanted([("a", DOWN)]), &observed);
        assert_eq!(planner.done(&steps[0], BootTime(5), &mut observed), None);
        assert_eq!(observed["status/a"], Some("down".to_owned()));
    }

    /// A driver may have taken the endpoint away for a moment when the agent starts.
    #[test]
    fn what_an_earlier_life_left_stays_until_leftovers_may_go() {
        let (mut planner, observed) = (planner(), observed([("a", "up"), ("b", "up")]));
        let mut wanted = wanted([("b", UP)]);
        wanted.leftovers_may_go = false;
        assert!(planner.plan(&wanted, &observed).is_empty());
        wanted.statuses.clear();
        assert_eq!(plan(&mut planner, &wanted, &observed), ["-b"], "gone for good, as the engine knows");
        wanted.leftovers_may_go = true;
        assert_eq!(plan(&mut planner, &wanted, &observed), ["-a", "-b"]);
    }

    #[test]
    fn a_write_that_ends_after_its_endpoint_is_removed_again() {
        let (mut planner, mut observed) = (planner(), Observed::new());
        let mut wanted = wanted([("a", UP)]);
        wanted.leftovers_may_go = false;
        let steps = planner.plan(&wanted, &observed);
        wanted.statuses.clear();
        assert!(planner.plan(&wanted, &observed).is_empty());
        planner.done(&steps[0], BootTime(1), &mut observed);
        let steps = planner.plan(&wanted, &observed);
        assert_eq!(short(&steps), ["-a"]);
        planner.done(&steps[0], BootTime(2), &mut observed);
        assert!(observed.is_empty());
        assert!(planner.plan(&wanted, &observed).is_empty());
        assert!(planner.known.is_empty() && planner.done.is_empty(), "nothing is kept for ever");
    }
}
