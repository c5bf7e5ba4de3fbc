//! Neutron with its driver's threads: seen with neutron-server 24.2.2 and the unmodified driver.

use std::collections::BTreeMap;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum PortStatus {
    #[default]
    Down,
    Active,
    Error,
}

/// What a thread is about to commit.
struct Operation {
    read: PortStatus,
    wanted: PortStatus,
}

/// One port.
#[derive(Default)]
pub(super) struct Neutron {
    pub(super) status: PortStatus,
    /// How often Nova was told that plugging has failed.
    pub(super) failures: usize,
    /// The last status of each host, as the watch has told it.
    cache: BTreeMap<usize, &'static str>,
    operations: Vec<Operation>,
}

impl Neutron {
    /// A binding changes. That is one transaction, which is over before the driver is called.
    pub(super) fn take_down(&mut self) {
        self.status = PortStatus::Down;
    }

    pub(super) fn sees(&mut self, host: usize, status: Option<&'static str>) {
        match status {
            Some(status) => drop(self.cache.insert(host, status)),
            None => drop(self.cache.remove(&host)),
        }
    }

    /// A thread takes a host's report from the queue and reads the port.
    pub(super) fn begins(&mut self, host: usize) -> usize {
        let wanted = match self.cache.get(&host) {
            Some(&"up") => PortStatus::Active,
            Some(&"down") => PortStatus::Down,
            _ => PortStatus::Error,
        };
        self.operations.push(Operation { read: self.status, wanted });
        self.operations.len() - 1
    }

    /// What does not change anything is not written; Nova is told of what the thread has read and what it writes.
    pub(super) fn commits(&mut self, operation: usize) {
        let Operation { read, wanted } = self.operations[operation];
        if read != wanted {
            self.status = wanted;
            self.failures += usize::from((read, wanted) == (PortStatus::Down, PortStatus::Error));
        }
    }
}
