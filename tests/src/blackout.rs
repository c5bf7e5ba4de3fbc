//! The blackout of a live migration, taken apart: when the guest stopped, when it ran again, and when each part of the
//! network knew of that. All times are on CLOCK_BOOTTIME. Pure: who measures puts the times in.

use cutover_engine::BootTime;
use cutover_engine::machine::Phases;
use std::fmt;
use std::time::Duration;

/// The times of one migration. What did not happen, or nobody was there to see, has none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blackout {
    /// The source's QEMU has stopped the guest.
    pub paused_at: BootTime,
    /// The target's QEMU runs the guest.
    pub resumed_at: BootTime,
    /// The first frame of the guest came to the target's tap.
    pub on_tap_at: Option<BootTime>,
    /// The kernel program on the target's tap saw the announcement.
    pub announced_at: Option<BootTime>,
    /// The agent had the acknowledgements of all elevated routes.
    pub acknowledged_at: Option<BootTime>,
    /// The source forwards to the target.
    pub forwarded_at: Option<BootTime>,
    /// Another process on the target was told of the route.
    pub routed_at: Option<BootTime>,
    /// The client was told that its best route leads to the target.
    pub client_routed_at: Option<BootTime>,
    /// The client had the first answer to a datagram that the guest got on the target.
    pub answered_at: Option<BootTime>,
    /// The client had the last answer of the guest on the source.
    pub last_answer_at: Option<BootTime>,
}

/// A time that may lie before what it is counted from, in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Offset(pub i64);

impl Blackout {
    /// With the times of the guest only.
    #[must_use]
    pub const fn new(paused_at: BootTime, resumed_at: BootTime) -> Self {
        Self {
            paused_at,
            resumed_at,
            on_tap_at: None,
            announced_at: None,
            acknowledged_at: None,
            forwarded_at: None,
            routed_at: None,
            client_routed_at: None,
            answered_at: None,
            last_answer_at: None,
        }
    }

    /// With the agent's times, too.
    #[must_use]
    pub const fn with_phases(mut self, phases: &Phases) -> Self {
        self.announced_at = phases.announced_at;
        self.acknowledged_at = phases.routed_at;
        self
    }

    /// How long the guest ran nowhere: QEMU's part, which no network can make shorter.
    #[must_use]
    pub fn downtime(&self) -> Duration {
        self.resumed_at.since(self.paused_at)
    }

    /// How long after the guest ran again the client's packets still went elsewhere: what the network adds.
    #[must_use]
    pub fn added(&self) -> Option<Duration> {
        Some(self.client_routed_at?.since(self.resumed_at))
    }

    /// How long the client heard nothing.
    #[must_use]
    pub fn silence(&self) -> Option<Duration> {
        Some(self.answered_at?.since(self.last_answer_at?))
    }

    /// What happened when, counted from the moment when the guest ran again, in the order of a migration whose
    /// source forwards from the announcement on.
    #[must_use]
    pub fn steps(&self) -> Vec<(&'static str, Offset)> {
        let steps = [
            ("last answer from the source", self.last_answer_at),
            ("guest paused", Some(self.paused_at)),
            ("guest runs on the target", Some(self.resumed_at)),
            ("first frame on the tap", self.on_tap_at),
            ("announcement seen by the kernel program", self.announced_at),
            ("elevated routes acknowledged", self.acknowledged_at),
            ("source forwards", self.forwarded_at),
            ("route on the target", self.routed_at),
            ("route on the client", self.client_routed_at),
            ("first answer from the target", self.answered_at),
        ];
        let present = steps.into_iter().filter_map(|(name, at)| Some((name, at?)));
        present.map(|(name, at)| (name, Offset::between(self.resumed_at, at))).collect()
    }
}

impl fmt::Display for Blackout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, offset) in self.steps() {
            writeln!(f, "{:>10} µs  {name}", offset.0)?;
        }
        Ok(())
    }
}

impl Offset {
    /// From `zero` to `at`.
    #[must_use]
    pub fn between(zero: BootTime, at: BootTime) -> Self {
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        Self(micros(at.since(zero)) - micros(zero.since(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(value: u64) -> BootTime {
        BootTime(value * 1000)
    }

    fn whole() -> Blackout {
        Blackout {
            acknowledged_at: Some(us(21_350)),
            routed_at: Some(us(21_380)),
            client_routed_at: Some(us(21_900)),
            answered_at: Some(us(22_700)),
            last_answer_at: Some(us(9_100)),
            announced_at: Some(us(21_300)),
            on_tap_at: Some(us(21_295)),
            ..Blackout::new(us(10_000), us(21_000))
        }
    }

    #[test]
    fn every_part_has_its_share() {
        let blackout = whole();
        assert_eq!(blackout.downtime(), Duration::from_millis(11));
        assert_eq!(blackout.added(), Some(Duration::from_micros(900)));
        assert_eq!(blackout.silence(), Some(Duration::from_micros(13_600)));
        let offsets: Vec<i64> = blackout.steps().iter().map(|(_, offset)| offset.0).collect();
        assert_eq!(offsets, [-11_900, -11_000, 0, 295, 300, 350, 380, 900, 1700]);
    }

    #[test]
    fn what_was_not_seen_is_left_out() {
        let blackout = Blackout::new(us(5), us(9));
        assert_eq!((blackout.added(), blackout.silence()), (None, None));
        assert_eq!(blackout.steps(), [("guest paused", Offset(-4)), ("guest runs on the target", Offset(0))]);
        let phases = Phases { announced_at: Some(us(8)), routed_at: Some(us(12)), ..Phases::default() };
        let blackout = blackout.with_phases(&phases);
        // QEMU may announce the guest before it says that it runs.
        assert_eq!(
            blackout.to_string().lines().nth(2).unwrap().trim(),
            "-1 µs  announcement seen by the kernel program"
        );
    }

    #[test]
    fn a_network_that_knows_before_the_guest_runs_adds_nothing() {
        let blackout = Blackout { client_routed_at: Some(us(20_000)), ..whole() };
        assert_eq!(blackout.added(), Some(Duration::ZERO));
    }
}
