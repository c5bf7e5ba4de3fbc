//! A migration away from this host, as its source has seen it.

use crate::migrations::Departed;
use cutover_engine::BootTime;
use cutover_engine::notice::DepartureRecord;
use cutover_engine::view::ForwardView;
use serde::{Deserialize, Serialize};

/// A step that the source sees.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The migration was seen.
    Began,
    /// The last frame came on its tap.
    LastFrame,
    /// The virtual machine has stopped here.
    Stopped,
    /// It was heard that it has announced itself where it goes.
    Heard,
    /// What still came here was forwarded.
    Forwarded,
    /// Nothing is left to be done.
    Ended,
}

impl Step {
    /// In one or two words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Began => "began",
            Self::LastFrame => "last frame",
            Self::Stopped => "stopped",
            Self::Heard => "heard of",
            Self::Forwarded => "forwarding",
            Self::Ended => "ended",
        }
    }

    /// What has happened then.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Began => "the endpoint became the source: its machine is about to leave",
            Self::LastFrame => "the last frame of the machine came on its tap here",
            Self::Stopped => "this host heard that the machine has stopped here",
            Self::Heard => "this host heard that the machine has announced itself where it goes",
            Self::Forwarded => "what still comes here is forwarded to where the machine goes",
            Self::Ended => "nothing is left to be done here",
        }
    }
}

/// A migration away from this host.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Departure {
    /// Its uid.
    pub uid: String,
    /// Resource name of the endpoint here.
    pub endpoint: String,
    /// Resource name of the endpoint where it goes.
    pub to: String,
    /// What came, in the order of time, each with nanoseconds since 1970.
    pub steps: Vec<(Step, u64)>,
}

impl Departure {
    /// One that is in the record.
    #[must_use]
    pub fn finished(line: Departed) -> Self {
        let Departed { ended_at_unix_ns, record, .. } = line;
        let DepartureRecord { uid, endpoint, to, began_at, stopped_at, heard_at, .. } = record;
        let DepartureRecord { forwarded_at, last_frame_at, ended_at, .. } = record;
        let came = [
            (Step::Began, Some(began_at)),
            (Step::LastFrame, last_frame_at),
            (Step::Stopped, stopped_at),
            (Step::Heard, heard_at),
            (Step::Forwarded, forwarded_at),
            (Step::Ended, Some(ended_at)),
        ];
        Self { uid, endpoint, to, steps: dated(came, (ended_at, ended_at_unix_ns)) }
    }

    /// One that is under way. `now` is the time of both clocks.
    #[must_use]
    pub fn running(forward: &ForwardView, now: (BootTime, u64)) -> Self {
        let came = [
            (Step::Began, forward.began_at),
            (Step::LastFrame, forward.last_frame_at),
            (Step::Stopped, forward.stopped_at),
            (Step::Heard, forward.heard_at),
            (Step::Forwarded, forward.started_at),
        ];
        Self {
            uid: forward.migration_uid.clone(),
            endpoint: forward.endpoint.clone(),
            to: forward.to.clone(),
            steps: dated(came, now),
        }
    }
}

/// With the dates that count from a point in time of both clocks.
fn dated<const N: usize>(came: [(Step, Option<BootTime>); N], point: (BootTime, u64)) -> Vec<(Step, u64)> {
    let (boot, unix_ns) = point;
    let date = |at: BootTime| {
        unix_ns.saturating_sub(boot.0.saturating_sub(at.0)).saturating_add(at.0.saturating_sub(boot.0))
    };
    let mut steps: Vec<_> = came.into_iter().filter_map(|(step, at)| Some((step, date(at?)))).collect();
    steps.sort_by_key(|(_, at)| *at);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_dates_that_count_back_from_the_end() {
        let record = DepartureRecord {
            uid: "u".into(),
            endpoint: "a".into(),
            to: "b".into(),
            began_at: BootTime(1_000),
            stopped_at: Some(BootTime(3_000)),
            heard_at: None,
            forwarded_at: Some(BootTime(2_000)),
            last_frame_at: Some(BootTime(2_500)),
            ended_at: BootTime(9_000),
        };
        let line = Departed { ended_at_unix_ns: 1_000_000, boot_id: None, record };
        let expected = [
            (Step::Began, 992_000),
            (Step::Forwarded, 993_000),
            (Step::LastFrame, 993_500),
            (Step::Stopped, 994_000),
            (Step::Ended, 1_000_000),
        ];
        assert_eq!(Departure::finished(line).steps, expected);
    }
}
