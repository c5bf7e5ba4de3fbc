//! For how long nobody saw the virtual machine: from the last frame on the tap that it left to the one by which it announced itself on the tap
//! to which it came.
//!
//! A guest sends when it likes, so what it did not send is part of it: it is at least as long as the virtual machine stood still.

use super::departure::{Departure, Step};
use super::migration::{Migration, Outcome};
use super::span;
use cutover_engine::machine::Phases;
use std::fmt;
use std::time::Duration;

/// The blackout of a migration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Blackout {
    /// How long it was.
    pub length: Duration,
    /// By how much that may be wrong, because the two ends of it are on the clocks of two hosts; nothing if nobody knows.
    pub error: Option<Duration>,
}

impl Blackout {
    /// As the target knows it: the source's agent has told it of the last frame.
    #[must_use]
    pub fn told(phases: &Phases) -> Option<Self> {
        let (last, first) = (phases.last_frame_at?.0, phases.announced_at?.0);
        Self::between(last, first, phases.last_frame_error_ns)
    }

    /// From what both sides have recorded, each with by how many nanoseconds its wall clock may be wrong.
    #[must_use]
    pub fn recorded(
        (migration, target_error_ns): (&Migration, Option<u64>),
        (departure, source_error_ns): (&Departure, Option<u64>),
    ) -> Option<Self> {
        if migration.outcome == Outcome::NotArrived || !migration.is_exact || migration.uid != departure.uid {
            return None;
        }
        let (_, last) = departure.steps.iter().find(|(step, _)| *step == Step::LastFrame)?;
        let first = migration.unix_ns(migration.phases.announced_at?);
        let error_ns = target_error_ns.zip(source_error_ns).map(|(here, there)| here.saturating_add(there));
        Self::between(*last, first, error_ns)
    }

    /// Nothing if the frames came in the other order: then the virtual machine was on the tap again that it had left.
    fn between(last_ns: u64, first_ns: u64, error_ns: Option<u64>) -> Option<Self> {
        if last_ns.saturating_sub(first_ns) > error_ns.unwrap_or(0) {
            return None;
        }
        let length = Duration::from_nanos(first_ns.saturating_sub(last_ns));
        Some(Self { length, error: error_ns.map(Duration::from_nanos) })
    }
}

impl fmt::Display for Blackout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", span::text(self.length))?;
        match self.error {
            Some(error) => write!(f, " ± {}", span::text(error)),
            None => f.write_str(", as far as the clocks of the two hosts agree"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{migration, phases};
    use super::*;

    #[test]
    fn it_is_from_the_last_frame_to_the_first() {
        let told = Blackout::told(&phases()).unwrap();
        assert_eq!(told.to_string(), "3.50 ms ± 120 µs");
        let silent = Phases { last_frame_at: None, ..phases() };
        assert_eq!(Blackout::told(&silent), None);
    }

    #[test]
    fn frames_in_the_other_order_are_none_unless_the_clocks_may_be_why() {
        let of = |last, first, error| Blackout::between(last, first, error).map(|it| it.length.as_nanos());
        assert_eq!(of(5, 9, Some(1)), Some(4));
        assert_eq!(of(9, 8, Some(1)), Some(0));
        assert_eq!(of(10, 8, Some(1)), None);
        assert_eq!((of(9, 8, None), of(8, 8, None)), (None, Some(0)));
    }

    #[test]
    fn two_records_know_it_as_well_as_their_clocks() {
        let migration = migration("u1", phases());
        let announced = migration.unix_ns(migration.phases.announced_at.unwrap());
        let departure = |uid: &str, step| Departure {
            uid: uid.into(),
            endpoint: "a".into(),
            to: "b".into(),
            steps: vec![(step, announced - 7_000_000)],
        };
        let recorded = |source, error| Blackout::recorded((&migration, Some(30_000)), (&source, error));
        let both = recorded(departure("u1", Step::LastFrame), Some(12_000)).unwrap();
        assert_eq!(both.to_string(), "7.00 ms ± 42.0 µs");
        let unknown = recorded(departure("u1", Step::LastFrame), None).unwrap();
        assert_eq!(unknown.to_string(), "7.00 ms, as far as the clocks of the two hosts agree");
        assert_eq!(recorded(departure("u2", Step::LastFrame), None), None);
        assert_eq!(recorded(departure("u1", Step::Stopped), None), None);
        let stayed = Migration { outcome: Outcome::NotArrived, ..migration.clone() };
        let left = departure("u1", Step::LastFrame);
        assert_eq!(Blackout::recorded((&stayed, None), (&left, None)), None);
    }
}
