//! The endpoints whose status was written a moment ago (`EndpointReportingDelaySecs`): a tap that flaps is not worth a
//! transaction in Neutron's database each time. Owns their times; the publisher asks.

use cutover_engine::BootTime;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

#[derive(Debug, Default)]
pub(super) struct Paced {
    /// In the order of time.
    written: VecDeque<(BootTime, String)>,
    latest: BTreeMap<String, BootTime>,
}

impl Paced {
    /// Something was written about `name`.
    pub(super) fn note(&mut self, name: &str, now: BootTime) {
        self.written.push_back((now, name.to_owned()));
        self.latest.insert(name.to_owned(), now);
    }

    /// Drops what is older than `delay`.
    pub(super) fn forget_before(&mut self, now: BootTime, delay: Duration) {
        while let Some((at, name)) = self.written.pop_front_if(|(at, _)| *at + delay <= now) {
            if self.latest.get(&name) == Some(&at) {
                self.latest.remove(&name);
            }
        }
    }

    /// Whether something was written about `name` a moment ago.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.latest.contains_key(name)
    }

    /// When the first of them may be written again.
    pub(super) fn next_after(&self, delay: Duration) -> Option<BootTime> {
        self.written.front().map(|(at, _)| *at + delay)
    }
}
