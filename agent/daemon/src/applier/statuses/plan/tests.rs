//! Examples, and what is brought up to date against what is planned from scratch.

use super::*;
use proptest::prelude::*;

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
    let statuses = statuses.into_iter().map(|(endpoint, status)| (Arc::new(key(endpoint)), status)).collect();
    Wanted { statuses, unknown_statuses_may_go: true, ..Wanted::default() }
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
fn short(steps: &[StatusWrite]) -> Vec<String> {
    let text = |step: &StatusWrite| {
        let name = step.name.strip_prefix("status/").unwrap();
        match &step.action {
            Action::Write { status, .. } => format!("{name}={status}"),
            Action::Remove => format!("-{name}"),
        }
    };
    steps.iter().map(text).collect()
}

fn left(planner: &mut Planner, wanted: &Wanted, observed: &Observed) -> Vec<StatusWrite> {
    let listed =
        |planner: &Planner| -> Vec<StatusWrite> { planner.left().map(|left| left.to_step()).collect() };
    planner.compare(wanted, observed);
    let steps = listed(planner);
    planner.forget();
    planner.compare(wanted, observed);
    assert_eq!(steps, listed(planner), "brought up to date is not as from scratch");
    steps
}

fn plan(planner: &mut Planner, wanted: &Wanted, observed: &Observed) -> Vec<String> {
    short(&left(planner, wanted, observed))
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
    let wanted =
        wanted([("a", UP), ("b", due(UP, 1)), ("c", DOWN), ("d", awaited(due(UP, 2))), ("e", due(UP, 1))]);
    let observed = observed([("b", "up"), ("d", "up"), ("e", "up"), ("z", "up")]);
    assert_eq!(plan(&mut planner(), &wanted, &observed), ["d=up", "b=up", "e=up", "a=up", "c=down", "-z"]);
}

#[test]
fn what_is_due_is_due_until_it_is_done() {
    let (mut planner, mut observed) = (planner(), observed([("a", "up")]));
    let first = wanted([("a", due(UP, 1))]);
    let steps = left(&mut planner, &first, &observed);
    assert_eq!(short(&steps), ["a=up"]);
    assert_eq!(plan(&mut planner, &first, &observed), ["a=up"], "it failed");
    let fact = planner.done(&steps[0], BootTime(5), &mut observed);
    let expected = Fact::StatusWritten { endpoint: key("a"), due_since: BootTime(1), at: BootTime(5) };
    assert_eq!(fact, Some(expected));
    assert!(left(&mut planner, &first, &observed).is_empty(), "the engine has not heard of it yet");
    assert!(left(&mut planner, &wanted([("a", UP)]), &observed).is_empty());
    assert_eq!(plan(&mut planner, &wanted([("a", due(UP, 2))]), &observed), ["a=up"]);
}

#[test]
fn an_ordinary_write_tells_nobody() {
    let (mut planner, mut observed) = (planner(), Observed::new());
    let steps = left(&mut planner, &wanted([("a", DOWN)]), &observed);
    assert_eq!(planner.done(&steps[0], BootTime(5), &mut observed), None);
    assert_eq!(observed["status/a"], Some("down".to_owned()));
}

/// A driver may have taken the endpoint away for a moment when the agent starts.
#[test]
fn what_an_earlier_life_left_stays_until_unknown_statuses_may_go() {
    let (mut planner, observed) = (planner(), observed([("a", "up"), ("b", "up")]));
    let mut wanted = wanted([("b", UP)]);
    wanted.unknown_statuses_may_go = false;
    assert!(left(&mut planner, &wanted, &observed).is_empty());
    wanted.statuses = SharedMap::default();
    assert_eq!(plan(&mut planner, &wanted, &observed), ["-b"], "gone for good, as the engine knows");
    wanted.unknown_statuses_may_go = true;
    assert_eq!(plan(&mut planner, &wanted, &observed), ["-a", "-b"]);
}

#[test]
fn a_write_that_ends_after_its_endpoint_is_removed_again() {
    let (mut planner, mut observed) = (planner(), Observed::new());
    let mut wanted = wanted([("a", UP)]);
    wanted.unknown_statuses_may_go = false;
    let steps = left(&mut planner, &wanted, &observed);
    wanted.statuses = SharedMap::default();
    assert!(left(&mut planner, &wanted, &observed).is_empty());
    planner.done(&steps[0], BootTime(1), &mut observed);
    let steps = left(&mut planner, &wanted, &observed);
    assert_eq!(short(&steps), ["-a"]);
    planner.done(&steps[0], BootTime(2), &mut observed);
    assert!(observed.is_empty());
    assert!(left(&mut planner, &wanted, &observed).is_empty());
    assert!(
        planner.given_up.is_empty() && planner.left.is_empty() && planner.done.is_empty(),
        "nothing is kept for ever"
    );
}

#[derive(Clone, Debug)]
enum Event {
    Wanted(u8, Option<(u8, Option<u64>)>),
    LeftoversMayGo(bool),
    /// The first step that is left begins, or the one that is under way ends.
    Next,
    /// Somebody else writes or removes, and the store is read again.
    Overwritten(u8, Option<bool>),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let status = prop::option::weighted(0.7, (0..3_u8, prop::option::of(1..3_u64)));
    let event = prop_oneof![
        4 => (0..4_u8, status).prop_map(|(endpoint, status)| Event::Wanted(endpoint, status)),
        1 => any::<bool>().prop_map(Event::LeftoversMayGo),
        5 => Just(Event::Next),
        1 => (0..4_u8, prop::option::of(any::<bool>()))
            .prop_map(|(endpoint, up)| Event::Overwritten(endpoint, up)),
    ];
    prop::collection::vec(event, 0..60)
}

proptest! {
    #[test]
    fn brought_up_to_date_is_as_from_scratch(events in events()) {
        let (mut planner, mut observed, mut wanted) = (planner(), Observed::new(), wanted([]));
        let mut under_way: Option<StatusWrite> = None;
        for (at, event) in (0..).zip(events) {
            match event {
                Event::Wanted(endpoint, None) => {
                    wanted.statuses.remove(&key(&endpoint.to_string()));
                }
                Event::Wanted(endpoint, Some((status, due_since))) => {
                    let status = [Status::Up, Status::Down, Status::AsReported][usize::from(status)];
                    let due_since = due_since.map(BootTime);
                    let status = WantedStatus { due_since, ..WantedStatus::of(status) };
                    wanted.statuses.insert(Arc::new(key(&endpoint.to_string())), status);
                }
                Event::LeftoversMayGo(may_go) => wanted.unknown_statuses_may_go = may_go,
                Event::Next => match under_way.take() {
                    Some(step) => drop(planner.done(&step, BootTime(at), &mut observed)),
                    None => under_way = left(&mut planner, &wanted, &observed).into_iter().next(),
                },
                Event::Overwritten(endpoint, up) => {
                    let name = format!("status/{endpoint}");
                    match up {
                        None => drop(observed.remove(&name)),
                        Some(up) => {
                            let status = if up { "up" } else { "down" };
                            observed.insert(name, Some(status.to_owned()));
                        }
                    }
                    planner.forget();
                }
            }
            left(&mut planner, &wanted, &observed);
        }
    }
}
