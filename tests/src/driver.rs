//! Plays the Neutron driver: the same writes in the same order, with the same pauses, as were recorded from a
//! real one with an etcd. Decides nothing and looks at nothing.

use crate::resources::{Directory, Port, new_uid};
use std::thread;
use std::time::Duration;

/// How fast it writes. Recorded: the LiveMigration is 0.18–0.51 s ahead of the target's endpoint, and an
/// endpoint that is re-created is away for 0.23–0.45 s.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pace {
    /// Between the LiveMigration and the target's endpoint.
    pub ahead: Duration,
    /// Between the removal of a running VM's endpoint and its re-creation.
    pub gap: Duration,
}

impl Pace {
    /// The middle of what was recorded.
    pub const RECORDED: Self = Self { ahead: Duration::from_millis(250), gap: Duration::from_millis(340) };
    /// The longest gap that was recorded.
    pub const SLOWEST: Self = Self { ahead: Duration::from_millis(510), gap: Duration::from_millis(450) };
    /// No pauses, for tests that are about something else.
    pub const IMMEDIATE: Self = Self { ahead: Duration::ZERO, gap: Duration::ZERO };
}

/// A driver with one port.
#[derive(Clone, Debug)]
pub struct Driver {
    directory: Directory,
    port: Port,
    pace: Pace,
}

impl Driver {
    /// Writes about `port` into `directory`.
    #[must_use]
    pub fn new(directory: &Directory, port: &Port) -> Self {
        Self { directory: directory.clone(), port: port.clone(), pace: Pace::RECORDED }
    }

    /// The same with other pauses.
    #[must_use]
    pub fn at_pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// `+WEP`: the port is bound to a host.
    pub fn bind(&self, host: &str) {
        self.put_endpoint(host, &new_uid());
    }

    /// `-WEP`.
    pub fn unbind(&self, host: &str) {
        self.directory.delete(&self.port.endpoint_on(host, ""));
    }

    /// `+LM`.
    pub fn announce(&self, source: &str, target: &str, uid: &str) {
        self.directory.put(&self.port.migration(source, target, uid));
    }

    /// `-LM`.
    pub fn withdraw(&self, target: &str) {
        self.directory.delete(&self.port.migration("", target, ""));
    }

    /// A migration starts: `+LM`, `=WEP(source)`, `+WEP(target)`, and the whole round again with equal values.
    /// Returns the uid of the attempt.
    #[must_use]
    pub fn start(&self, source: &str, target: &str) -> String {
        let uid = new_uid();
        self.start_as(source, target, &uid);
        uid
    }

    /// As [`Self::start`], with a uid that the caller chose.
    pub fn start_as(&self, source: &str, target: &str, uid: &str) {
        let of_source = self.endpoint_uid(source).unwrap_or_else(new_uid);
        let of_target = self.endpoint_uid(target).unwrap_or_else(new_uid);
        for round in 0..2 {
            self.announce(source, target, uid);
            self.put_endpoint(source, &of_source);
            if round == 0 {
                thread::sleep(self.pace.ahead);
            }
            self.put_endpoint(target, &of_target);
        }
    }

    /// It succeeded, one PUT: `-LM`, `-WEP(source)`, `-WEP(target)`, and after a gap `+WEP(target)` with a new uid.
    pub fn succeed(&self, source: &str, target: &str) {
        self.withdraw(target);
        self.unbind(source);
        self.unbind(target);
        thread::sleep(self.pace.gap);
        self.bind(target);
    }

    /// It succeeded, activation of the extended binding: `-LM`, `-WEP(source)`, `=WEP(target)`.
    pub fn succeed_extended(&self, source: &str, target: &str) {
        let uid = self.endpoint_uid(target).unwrap_or_else(new_uid);
        self.withdraw(target);
        self.unbind(source);
        self.put_endpoint(target, &uid);
    }

    /// It failed: `-LM`, `-WEP(source)`, `-WEP(target)`, and after a gap `+WEP(source)` with a new uid.
    pub fn roll_back(&self, source: &str, target: &str) {
        self.withdraw(target);
        self.unbind(source);
        self.unbind(target);
        thread::sleep(self.pace.gap);
        self.bind(source);
    }

    /// Another target: `-LM(old)`, `+LM(new)`, `=WEP(source)`, `-WEP(old)`, `+WEP(new)`, and a second round.
    /// Returns the uid of the new attempt.
    #[must_use]
    pub fn switch_target(&self, source: &str, old: &str, new: &str) -> String {
        let uid = new_uid();
        let of_source = self.endpoint_uid(source).unwrap_or_else(new_uid);
        self.withdraw(old);
        self.announce(source, new, &uid);
        self.put_endpoint(source, &of_source);
        self.unbind(old);
        let of_target = new_uid();
        self.put_endpoint(new, &of_target);
        self.announce(source, new, &uid);
        self.put_endpoint(source, &of_source);
        self.put_endpoint(new, &of_target);
        uid
    }

    /// The port is deleted in mid-migration: `-LM`, `-WEP(target)`, `-WEP(source)`.
    pub fn delete_port(&self, source: &str, target: &str) {
        self.withdraw(target);
        self.unbind(target);
        self.unbind(source);
    }

    fn put_endpoint(&self, host: &str, uid: &str) {
        self.directory.put(&self.port.endpoint_on(host, uid));
    }

    /// The uid that the endpoint on a host has now: rewriting keeps it.
    fn endpoint_uid(&self, host: &str) -> Option<String> {
        let name = crate::resources::file_name(&self.port.endpoint_on(host, ""));
        let text = std::fs::read_to_string(self.directory.path().join(name)).ok()?;
        let document: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(document["metadata"]["uid"].as_str()?.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Lab;

    #[test]
    fn rewriting_keeps_the_uid_and_re_creation_does_not() {
        let lab = Lab::new();
        let port = Port::new(1);
        let driver = Driver::new(&lab.directory(), &port).at_pace(Pace::IMMEDIATE);
        driver.bind("compute1");
        let uid = driver.endpoint_uid("compute1").unwrap();
        let _attempt = driver.start("compute1", "compute2");
        assert_eq!(driver.endpoint_uid("compute1").unwrap(), uid);
        assert_eq!(lab.directory().files().len(), 3);
        driver.roll_back("compute1", "compute2");
        assert_ne!(driver.endpoint_uid("compute1").unwrap(), uid);
        assert_eq!(lab.directory().files(), ["workloadendpoint.compute1-openstack-vm1-port1.json"]);
        let _attempt = driver.start("compute1", "compute2");
        let uid = driver.endpoint_uid("compute2").unwrap();
        driver.succeed_extended("compute1", "compute2");
        assert_eq!(driver.endpoint_uid("compute2").unwrap(), uid);
        assert_eq!(lab.directory().files(), ["workloadendpoint.compute2-openstack-vm1-port1.json"]);
    }
}
