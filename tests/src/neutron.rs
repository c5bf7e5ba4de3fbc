//! What Neutron makes of a port, by what hosts report about it: the driver's threads, as they were seen with neutron-server 24.2.2
//! and the unmodified driver. Pure: what was reported is played again in as many orders of the threads as somebody wants.
//!
//! A thread takes a report from a queue up to 0.2 s after the driver has heard of it, reads the port, and commits up to 2.3 s later;
//! nothing keeps the order between the threads of one port. What does not change the status that the thread has read is not
//! written. A removed status is an error; if the port was down, Nova is told that plugging has failed.

use cutover_engine::BootTime;
use std::collections::BTreeMap;
use std::time::Duration;

/// What happens to a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// A binding of it changes: a migration begins or ends.
    PortDown,
    /// A host has written its status, or removed it.
    Status {
        /// Which host.
        host: String,
        /// The status.
        status: Option<String>,
    },
}

/// What a port came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// It is ACTIVE at the end.
    pub is_active: bool,
    /// How often Nova was told of a failure.
    pub failures: usize,
}

/// LIMIT: the longest that were seen.
const BEGINS_WITHIN: Duration = Duration::from_millis(200);
const COMMITS_WITHIN: Duration = Duration::from_millis(2280);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Status {
    #[default]
    Down,
    Active,
    Error,
}

enum Step<'a> {
    Told(&'a Told),
    Begins(&'a str),
    Commits { read: Status, wanted: Status },
}

/// What becomes of the port in the order that belongs to `seed`, when everything is over.
#[must_use]
pub fn port_after(told: &[(BootTime, Told)], seed: u64) -> Outcome {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut within = |longest: Duration| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        longest.mul_f64((random % 1000) as f64 / 1000.0)
    };
    let mut steps: BTreeMap<(BootTime, usize), Step<'_>> =
        told.iter().enumerate().map(|(number, (at, told))| ((*at, number), Step::Told(told))).collect();
    let mut number = steps.len();
    let mut cache: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut status, mut failures) = (Status::default(), 0);
    while let Some(((now, _), step)) = steps.pop_first() {
        number += 1;
        match step {
            Step::Told(Told::PortDown) => status = Status::Down,
            Step::Told(Told::Status { host, status }) => {
                match status {
                    Some(status) => drop(cache.insert(host, status)),
                    None => drop(cache.remove(host.as_str())),
                }
                steps.insert((now + within(BEGINS_WITHIN), number), Step::Begins(host));
            }
            Step::Begins(host) => {
                let wanted = match cache.get(host) {
                    Some(&"up") => Status::Active,
                    Some(&"down") => Status::Down,
                    _ => Status::Error,
                };
                let commits = Step::Commits { read: status, wanted };
                steps.insert((now + within(COMMITS_WITHIN), number), commits);
            }
            Step::Commits { read, wanted } if read != wanted => {
                status = wanted;
                failures += usize::from((read, wanted) == (Status::Down, Status::Error));
            }
            Step::Commits { .. } => {}
        }
    }
    Outcome { is_active: status == Status::Active, failures }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64, told: Told) -> (BootTime, Told) {
        (BootTime(0) + Duration::from_millis(ms), told)
    }

    fn status(host: &str, status: Option<&str>) -> Told {
        Told::Status { host: host.into(), status: status.map(Into::into) }
    }

    fn worst(told: &[(BootTime, Told)]) -> (bool, usize) {
        let outcomes = (1..=2000).map(|seed| port_after(told, seed));
        outcomes.fold((true, 0), |(always, most), outcome| {
            (always && outcome.is_active, most.max(outcome.failures))
        })
    }

    #[test]
    fn an_up_right_after_a_removal_may_be_overtaken_by_it_and_a_late_one_not() {
        let mut told = vec![
            at(0, status("b", Some("up"))),
            at(10_000, status("a", None)),
            at(10_010, status("b", Some("up"))),
        ];
        assert_eq!(worst(&told), (false, 0));
        told.push(at(13_000, status("b", Some("up"))));
        assert_eq!(worst(&told), (true, 0));
    }

    #[test]
    fn a_removal_while_the_port_is_down_is_a_failure_for_nova() {
        let told = [at(0, Told::PortDown), at(10, status("a", None)), at(10, status("b", Some("up")))];
        assert_eq!(worst(&told).1, 1);
    }
}
