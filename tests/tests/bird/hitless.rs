//! What is sent to a machine while it moves reaches it, whatever the daemon does in the meantime.

use cutover_tests::fabric::{Daemon, Fabric, Shape};

#[test]
fn in_a_full_mesh_nothing_is_lost_that_the_source_can_forward() {
    Fabric::peered(Daemon::Bird, Shape::Mesh, |_| {}).go_there_without_loss();
}

#[test]
fn through_a_reflector_nothing_is_lost_that_the_source_can_forward() {
    Fabric::peered(Daemon::Bird, Shape::Reflector, |_| {}).go_there_without_loss();
}

#[test]
fn through_a_tor_nothing_is_lost_that_the_source_can_forward() {
    Fabric::peered(Daemon::Bird, Shape::Tor, |_| {}).go_there_without_loss();
}
