//! What is reported about a port whose machine leaves, is expected in vain, or goes elsewhere: nothing that makes Nova's wait
//! fail, and nothing that takes the port of a running machine out of service for longer than it takes to say otherwise.

use super::cloud::{Cloud, TIDIED};
use cutover_tests::scene::{ELEVATED, SOURCE, TARGET};
use cutover_tests::{frames, wait};
use std::time::Duration;

/// A host of which only the keys are there.
const ELSEWHERE: &str = "compute3";

/// Longer than the grace of an endpoint that vanished, and than anything that is wrongly done takes.
const QUIET: Duration = Duration::from_millis(2500);

const UP: &str = "{\"status\":\"up\"}";
const DOWN: &str = "{\"status\":\"down\"}";

impl Cloud {
    /// Every value that a host ever reported about the port; nothing for each removal.
    fn reported(&self, host: &str) -> Vec<Option<String>> {
        let key = self.status_key(host);
        let written = self.etcd.written("/calico/felix/");
        written.into_iter().filter(|write| write.key == key).map(|write| write.value).collect()
    }

    fn has_carrier(&self, host: &str) -> bool {
        self.node(host).agent.status_of(&self.port).is_some_and(|endpoint| endpoint["running"] == true)
    }

    /// The hypervisor lets go of the tap on the source.
    fn quit_source(&mut self) {
        self.source.qemu = None;
        wait::until(wait::SOON, "the agent has noticed", || !self.has_carrier(SOURCE));
    }
}

/// The source's hypervisor ends before Nova ends the migration. The port is in use at the target by then.
#[test]
fn a_source_that_loses_its_carrier_takes_no_port_out_of_service() {
    let mut cloud = Cloud::running();
    cloud.start_migration();
    cloud.wait_status(TARGET, "up");
    let at_source = cloud.status_pair(SOURCE);
    let mac = cloud.port.mac;
    cloud.target.open().send(&frames::rarp(mac));
    cloud.target.wait_metrics(&cloud.port, &[ELEVATED]);
    cloud.quit_source();
    wait::throughout(QUIET, "nothing is reported", || cloud.status_pair(SOURCE) == at_source);

    cloud.withdraw(TARGET);
    cloud.unbind(SOURCE);
    wait::until(TIDIED, "the source's key goes", || cloud.status(SOURCE).is_none());
    let reported = cloud.reported(SOURCE);
    assert!(!reported[reported.len() - 2..].contains(&Some(DOWN.into())), "{reported:?}");
    assert_eq!(cloud.status(TARGET).as_deref(), Some(UP));
}

/// The machine has died in the middle of the migration, and the driver says that it has stayed.
#[test]
fn a_machine_that_died_at_the_source_is_down_when_the_migration_is_over() {
    let mut cloud = Cloud::running();
    cloud.start_migration();
    cloud.wait_status(TARGET, "up");
    cloud.quit_source();
    cloud.withdraw(TARGET);
    cloud.unbind(SOURCE);
    cloud.unbind(TARGET);
    cloud.bind(SOURCE);
    cloud.wait_status(SOURCE, "down");
    cloud.source.open();
    cloud.wait_status(SOURCE, "up");
}

/// Nova waits for the second target from when its migration is announced, and gives up if any status of the port goes.
#[test]
fn a_target_that_is_given_up_for_another_one_makes_no_wait_fail() {
    let cloud = Cloud::running();
    cloud.start_migration();
    cloud.wait_status(TARGET, "up");
    let at_target = cloud.status_pair(TARGET);

    // `target switched`, as recorded.
    cloud.withdraw(TARGET);
    cloud.announce(SOURCE, ELSEWHERE);
    cloud.bind(SOURCE);
    cloud.unbind(TARGET);
    cloud.bind(ELSEWHERE);
    let is_gone = || cloud.target.agent.status_of(&cloud.port).is_none();
    wait::until(wait::SOON, "the target's endpoint is given up", is_gone);
    wait::throughout(QUIET, "its status stays", || cloud.status_pair(TARGET) == at_target);

    // The second attempt fails, too. Its end is the time to tidy up, and the machine's host makes up for that.
    let at_source = cloud.status_pair(SOURCE);
    cloud.withdraw(ELSEWHERE);
    cloud.unbind(SOURCE);
    cloud.unbind(ELSEWHERE);
    cloud.bind(SOURCE);
    wait::until(TIDIED, "the status goes", || cloud.status(TARGET).is_none());
    wait::until(wait::SOON, "the source reports after that", || {
        let pair = cloud.status_pair(SOURCE);
        pair.modified > at_source.modified && !cloud.existed(&cloud.status_key(TARGET), pair.modified)
    });
    assert_eq!(cloud.status(SOURCE).as_deref(), Some(UP));
}

/// The machine went to another host than the one that was announced first, which removes its status at the end.
#[test]
fn a_target_makes_up_for_what_a_target_before_it_does() {
    let mut cloud = Cloud::running();
    cloud.announce(SOURCE, ELSEWHERE);
    cloud.bind(ELSEWHERE);
    cloud.etcd.put(&cloud.status_key(ELSEWHERE), UP);
    cloud.withdraw(ELSEWHERE);
    cloud.announce(SOURCE, TARGET);
    cloud.bind(SOURCE);
    cloud.unbind(ELSEWHERE);
    cloud.bind(TARGET);
    cloud.wait_status(TARGET, "up");
    let mac = cloud.port.mac;
    cloud.target.open().send(&frames::rarp(mac));
    cloud.target.wait_metrics(&cloud.port, &[ELEVATED]);
    cloud.withdraw(TARGET);
    cloud.unbind(SOURCE);
    wait::until(TIDIED, "the source's key goes", || cloud.status(SOURCE).is_none());
    wait::until(wait::SOON, "the target reports after that", || {
        !cloud.existed(&cloud.status_key(SOURCE), cloud.status_pair(TARGET).modified)
    });
    let before = cloud.status_pair(TARGET);
    cloud.etcd.delete(&cloud.status_key(ELSEWHERE));
    cloud.wait_written_after(TARGET, before.modified);
}
