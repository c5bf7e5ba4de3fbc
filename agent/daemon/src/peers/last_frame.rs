//! When the last frame came on the source's tap, told across two clocks.
//!
//! Each host has a boot clock of its own. The target's agent says when it says something; the source's agent repeats that with when it
//! heard it and when it answers, all on its own clock. Those are the four times by which NTP compares two clocks (RFC 5905, section 8): the
//! way there and back together bounds by how much the comparison is wrong, whatever share of it each direction had.

use cutover_engine::BootTime;
use cutover_engine::conversation::{Says, SourceSays, TargetSays};
use serde::{Deserialize, Serialize};

/// How things stand at one end, with the times that are not the engine's to know. An agent that knows none of these times leaves them out,
/// and one that is told of them passes them over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stated {
    /// Where the virtual machine leaves.
    Source {
        #[serde(flatten)]
        says: SourceSays,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_frame: Option<LastFrame>,
    },
    /// Where it goes.
    Target {
        #[serde(flatten)]
        says: TargetSays,
        /// When this was said, on the boot clock there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        said_at: Option<BootTime>,
    },
}

/// When the last frame came on the source's tap, and what it takes to know when that was at the target. All times but the first are those of
/// the source's boot clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct LastFrame {
    /// When the target's agent said what this answers, on its own clock.
    asked_at: BootTime,
    /// When that was heard at the source.
    heard_at: BootTime,
    /// When this was said.
    said_at: BootTime,
    /// When the last frame came.
    seen_at: BootTime,
}

/// What the target's agent has said last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Heard {
    asked_at: BootTime,
    heard_at: BootTime,
    /// The virtual machine runs there.
    pub(super) is_announced: bool,
}

impl Heard {
    /// Nothing if the target's agent is one that does not say when it says something, or this is none of a target.
    pub(super) const fn of(stated: &Stated, heard_at: BootTime) -> Option<Self> {
        match stated {
            Stated::Target { says, said_at: Some(asked_at) } => {
                Some(Self { asked_at: *asked_at, heard_at, is_announced: says.is_announced })
            }
            _ => None,
        }
    }

    /// The answer to it. While the virtual machine runs here, no frame is the last one.
    pub(super) fn answer(&self, seen_at: Option<BootTime>, said_at: BootTime) -> Option<LastFrame> {
        let Self { asked_at, heard_at, is_announced } = *self;
        let seen_at = seen_at.filter(|_| is_announced)?;
        Some(LastFrame { asked_at, heard_at, said_at, seen_at })
    }
}

/// LIMIT: what two clocks gain on each other, of the time that passes: each kernel lets NTP turn its clock by 500 ppm at most.
const DRIFT: u64 = 1000;

impl LastFrame {
    /// When that was on the clock of the target, which hears of it now, and by how many nanoseconds that may be wrong. Nothing if the
    /// times make no sense.
    pub(super) fn here(&self, now: BootTime) -> Option<(BootTime, u64)> {
        let (away, there) =
            (now.0.checked_sub(self.asked_at.0)?, self.said_at.0.checked_sub(self.heard_at.0)?);
        // The clock there may be the faster one.
        if there > away + away / DRIFT {
            return None;
        }
        let on_the_way = away.saturating_sub(there);
        let age = self.said_at.0.checked_sub(self.seen_at.0)?;
        // Half way between was the moment of the answer, as far as anybody can tell.
        let said_at = now.0 - on_the_way / 2;
        let error_ns = on_the_way.div_ceil(2) + age.max(away) / DRIFT;
        Some((BootTime(said_at.checked_sub(age)?), error_ns))
    }
}

impl Stated {
    /// What the source's agent says, in answer to what it has heard.
    pub(super) const fn by_source(says: SourceSays, last_frame: Option<LastFrame>) -> Self {
        Self::Source { says, last_frame }
    }

    /// What the engine is to hear.
    pub(super) const fn says(&self) -> Says {
        match *self {
            Self::Source { says, .. } => Says::Source(says),
            Self::Target { says, .. } => Says::Target(says),
        }
    }

    pub(super) const fn last_frame(&self) -> Option<LastFrame> {
        match *self {
            Self::Source { last_frame, .. } => last_frame,
            Self::Target { .. } => None,
        }
    }
}

/// Without any time.
impl From<Says> for Stated {
    fn from(says: Says) -> Self {
        match says {
            Says::Source(says) => Self::Source { says, last_frame: None },
            Says::Target(says) => Self::Target { says, said_at: None },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said_by_target(is_announced: bool, said_at: Option<BootTime>) -> Stated {
        let says = TargetSays { tunnel_id: 7, is_ready: true, is_announced, has_failed: false };
        Stated::Target { says, said_at }
    }

    #[test]
    fn what_an_agent_does_not_know_of_it_passes_over() {
        let says = Says::Source(SourceSays { is_stopped: true, is_forwarding: false });
        let plain = serde_json::to_string(&says).unwrap();
        assert_eq!(serde_json::to_string(&Stated::from(says)).unwrap(), plain);
        assert_eq!(serde_json::from_str::<Stated>(&plain).unwrap(), Stated::from(says));
        let heard = Heard::of(&said_by_target(true, Some(BootTime(5))), BootTime(1_005)).unwrap();
        let last_frame = heard.answer(Some(BootTime(900)), BootTime(1_007));
        let stated = Stated::by_source(SourceSays { is_stopped: true, is_forwarding: false }, last_frame);
        let timed = serde_json::to_string(&stated).unwrap();
        assert_eq!(serde_json::from_str::<Says>(&timed).unwrap(), says, "an earlier agent");
        assert_eq!(serde_json::from_str::<Stated>(&timed).unwrap(), stated);
        let timed = serde_json::to_string(&said_by_target(false, Some(BootTime(3)))).unwrap();
        assert_eq!(serde_json::from_str::<Says>(&timed).unwrap(), said_by_target(false, None).says());
    }

    #[test]
    fn only_what_has_left_has_sent_its_last_frame() {
        let answer = |is_announced| {
            let heard = Heard::of(&said_by_target(is_announced, Some(BootTime(5))), BootTime(50)).unwrap();
            heard.answer(Some(BootTime(40)), BootTime(60)).is_some()
        };
        assert!(answer(true) && !answer(false));
        assert_eq!(Heard::of(&said_by_target(true, None), BootTime(50)), None);
    }

    #[test]
    fn times_that_make_no_sense_are_none() {
        let (asked_at, heard_at) = (BootTime(1_000), BootTime(90_000));
        let last_frame = |said_at, seen_at| LastFrame { asked_at, heard_at, said_at, seen_at };
        let good = last_frame(BootTime(90_100), BootTime(89_000));
        assert_eq!(good.here(BootTime(1_300)), Some((BootTime(100), 101)));
        assert_eq!(good.here(BootTime(999)), None, "answered before it was asked");
        assert_eq!(good.here(BootTime(1_099)), None, "longer there than away");
        assert_eq!(last_frame(BootTime(89_999), BootTime(89_000)).here(BootTime(1_300)), None);
        assert_eq!(last_frame(BootTime(90_100), BootTime(90_101)).here(BootTime(1_300)), None);
        assert_eq!(
            last_frame(BootTime(90_100), BootTime(1)).here(BootTime(1_300)),
            None,
            "before the boot here"
        );
    }

    proptest! {
        /// Whatever the clocks say, and however long each way takes: the truth is within the bound.
        #[test]
        fn the_truth_is_within_the_bound(
            target_booted in 0..1_000_000_000_000_u64, source_booted in 0..1_000_000_000_000_u64,
            there in 0..50_000_000_u64, answers in 0..5_000_000_u64, back in 0..50_000_000_u64,
            age in 0..5_000_000_000_u64, ppm in -500..=500_i64,
        ) {
            // The source's clock runs by so much too fast or too slow from some moment on.
            let begin = 2_000_000_000_000_u64;
            let asked = begin + age;
            let source = |at: u64| {
                let since = i64::try_from(at - begin).unwrap();
                BootTime((at - source_booted).saturating_add_signed(since * ppm / 1_000_000))
            };
            let target = |at: u64| BootTime(at - target_booted);
            let (heard, said) = (asked + there, asked + there + answers);
            let heard_by = Heard::of(&said_by_target(true, Some(target(asked))), source(heard)).unwrap();
            let told = heard_by.answer(Some(source(begin)), source(said)).unwrap();
            let (at, error_ns) = told.here(target(said + back)).unwrap();
            prop_assert!(at.0.abs_diff(target(begin).0) <= error_ns + 2, "{at:?} {error_ns} {:?}", target(begin));
            prop_assert!(error_ns <= (there + back) / 2 + 1 + (age + there + answers + back) / 700);
        }
    }
}
