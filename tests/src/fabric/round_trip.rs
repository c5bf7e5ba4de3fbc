//! A virtual machine that goes there and back and there again within the convergence time.

use super::{Fabric, Place};
use crate::driver::Pace;
use crate::frames;
use crate::scene::{SOURCE, TARGET};
use crate::wait;
use std::time::Duration;

/// LIMIT: longer than daemons need to change their minds; only a wrong one does within it.
const STAYS: Duration = Duration::from_millis(1_500);

impl Fabric {
    /// From each announcement on every router takes the way to where it came from, and none goes back.
    ///
    /// # Panics
    /// When one does not.
    #[track_caller]
    pub fn go_there_and_back_and_there(&mut self) {
        self.scene.driver = self.scene.driver.clone().at_pace(Pace::IMMEDIATE);
        for place in [Place::Target, Place::Source, Place::Target] {
            let (from, to) = match place {
                Place::Source => (TARGET, SOURCE),
                Place::Target => (SOURCE, TARGET),
            };
            let _uid = self.scene.driver.start(from, to);
            self.arrive(place);
            self.wait_at(place);
            wait::throughout(STAYS, "nobody goes back", || self.is_at(place));
            self.scene.driver.succeed(from, to);
            self.node(place).wait_state(self.port(), "TimeWait");
            wait::throughout(STAYS, "nobody goes back after the end", || self.is_at(place));
        }
    }

    fn node(&self, place: Place) -> &crate::scene::Node {
        match place {
            Place::Source => &self.scene.source,
            Place::Target => &self.scene.target,
        }
    }

    /// The hypervisor resumes the virtual machine there, and announces it.
    fn arrive(&mut self, place: Place) {
        self.node(place).wait_armed(self.port());
        drop(self.scene.vm.pause());
        let tap = self.node(place).tap().open();
        tap.send(&frames::rarp(self.port().mac));
        self.scene.vm.resume(tap);
    }
}
