use super::*;

const BEGIN: BootTime = BootTime(1_000_000_000_000);

fn at(ms: u64) -> BootTime {
    BEGIN + Duration::from_millis(ms)
}

/// Waits as [`Pace`] does while these are behind at each moment. Returns how it ended and when.
fn wait(patience: &mut Patience, from: BootTime, behind: impl Fn(BootTime) -> Vec<u64>) -> (Next, BootTime) {
    let mut now = from;
    for _ in 0..10_000 {
        match patience.looked(behind(now), now) {
            Next::LookAt(next) => {
                assert!(next.since(now) >= LOOK_AGAIN_MIN && next.since(now) <= LOOK_AGAIN_MAX);
                now = next;
            }
            end => return (end, now),
        }
    }
    panic!("it waits for ever");
}

#[test]
fn nobody_behind_nothing_to_wait_for() {
    let mut patience = Patience::default();
    for _ in 0..1_000 {
        assert_eq!(wait(&mut patience, BEGIN, |_| Vec::new()), (Next::GoOn, BEGIN));
    }
    assert_eq!(patience.in_all, Duration::ZERO);
}

#[test]
fn whoever_reads_is_waited_for_and_not_given_up() {
    let mut patience = Patience::default();
    let mut now = BEGIN;
    for round in 0..100 {
        let reads_at = now + Duration::from_millis(100);
        let behind = |at: BootTime| if at < reads_at { vec![7] } else { Vec::new() };
        let (end, then) = wait(&mut patience, now, behind);
        assert_eq!(end, Next::GoOn, "round {round}");
        assert!(then >= reads_at && then.since(reads_at) <= LOOK_AGAIN_MAX, "round {round}");
        now = then;
    }
    assert!(patience.in_vain.is_empty());
}

/// The first two portions wait, and no later one.
#[test]
fn whoever_does_not_read_is_waited_for_four_seconds_and_no_longer() {
    let mut patience = Patience::default();
    let mut now = BEGIN;
    for _ in 0..2 {
        let (end, then) = wait(&mut patience, now, |_| vec![7]);
        assert_eq!(end, Next::GoOnAllTheSame);
        assert!(then.since(now) >= PATIENCE && then.since(now) <= PATIENCE + LOOK_AGAIN_MAX);
        now = then;
    }
    for _ in 0..1_000 {
        assert_eq!(wait(&mut patience, now, |_| vec![7]), (Next::GoOn, now));
    }
    assert!(now.since(BEGIN) <= IN_VAIN_MAX + 2 * LOOK_AGAIN_MAX);
    // Others are waited for as before.
    let reads_at = now + Duration::from_millis(50);
    let behind = |at: BootTime| if at < reads_at { vec![7, 8] } else { vec![7] };
    assert!(wait(&mut patience, now, behind).1 >= reads_at);
}

#[test]
fn the_slowest_is_not_waited_for_longer_than_half_a_minute_in_all() {
    let mut patience = Patience::default();
    let mut now = BEGIN;
    let mut ends = Vec::new();
    for _ in 0..1_000 {
        let reads_at = now + Duration::from_millis(1_900);
        let behind = |at: BootTime| if at < reads_at { vec![7] } else { Vec::new() };
        let (end, then) = wait(&mut patience, now, behind);
        ends.push(end);
        now = then;
    }
    assert!(now.since(BEGIN) <= IN_ALL_MAX + 2 * LOOK_AGAIN_MAX, "{:?}", now.since(BEGIN));
    assert_eq!(ends.iter().filter(|end| **end == Next::GoOnAllTheSame).count(), 1);
}

#[test]
fn small_changes_are_exempt_as_long_as_they_are_few() {
    let mut exemption = Exemption::default();
    assert!(!exemption.covers(EXEMPT_MAX + 1, at(0)));
    assert!(exemption.covers(EXEMPT_MAX, at(0)));
    assert!(!exemption.covers(1, at(999)));
    assert!(exemption.covers(0, at(999)));
    assert!((0..EXEMPT_MAX).all(|_| exemption.covers(1, at(1_000))));
    assert!(!exemption.covers(1, at(1_999)));
    assert!(exemption.covers(1, at(2_000)));
}

/// A look sets back what has been written unseen.
#[test]
fn whoever_mostly_writes_nothing_looks_only_after_a_portion() {
    let mut pace = Pace::for_listeners(1).looking_later();
    for _ in 0..2 {
        pace.wrote(PORTION - 1);
        assert!(pace.may_go_on(at(0)));
        assert_eq!(pace.unseen, PORTION - 1, "nobody has looked");
        pace.wrote(1);
        assert!(pace.may_go_on(at(0)));
        assert_eq!(pace.unseen, 0);
        pace.wrote(1);
        pace.done();
    }
}
