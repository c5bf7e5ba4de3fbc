//! BIRD and FRR in one fabric: priorities mean the same to both, whichever the machine leaves and whichever it goes to.

use crate::by_hand::{ELEVATED, NORMAL};
use cutover_tests::fabric::{Daemon, Daemons, Fabric, Place, Shape, Who, gaps};
use cutover_tests::scene::{SOURCE, TARGET};
use cutover_tests::{Release, frames, probe, wait};
use std::time::Duration;

/// LIMIT: BIRD replaces an IPv6 route by two writes, and in a mesh a third host can hear that the source has none before
/// it hears of the target, by as long as FRR holds back; on a loaded machine.
const MOMENT: Duration = Duration::from_secs(1);

#[test]
fn from_frr_to_bird_in_a_mesh() {
    migrate(Daemon::Frr, Daemon::Bird, Shape::Mesh);
}

#[test]
fn from_bird_to_frr_in_a_mesh() {
    migrate(Daemon::Bird, Daemon::Frr, Shape::Mesh);
}

#[test]
fn from_frr_to_bird_through_a_reflector() {
    migrate(Daemon::Frr, Daemon::Bird, Shape::Reflector);
}

#[test]
fn from_bird_to_frr_through_a_tor() {
    migrate(Daemon::Bird, Daemon::Frr, Shape::Tor);
}

/// The third host has the target's daemon, the middle the source's.
pub(crate) fn migrate(source: impl Into<Release>, target: impl Into<Release>, shape: Shape) {
    let (source, target) = (source.into(), target.into());
    migrate_in(&mut Fabric::new(Daemons { source, target, third: target, middle: source }, shape));
}

/// From the first to the last priority.
pub(crate) fn migrate_in(fabric: &mut Fabric) {
    fabric.wait_tables(NORMAL);
    assert_answers(fabric);
    let marks = fabric.marks();

    fabric.scene.start_migration();
    assert!(fabric.is_at(Place::Source), "nobody hears of the target before the VM runs there");
    let mac = fabric.port().mac;
    fabric.scene.move_vm(|qemu| qemu.send(&frames::rarp(mac)));
    fabric.wait_at_target();
    fabric.wait_tables(ELEVATED);
    for to in fabric.port().routed() {
        let own = fabric.router(Who::Source).watch.metrics_to(to);
        assert!(own.len() == 2 && own.contains(&NORMAL), "the source has its own route still: {own:?}");
    }
    assert_answers(fabric);

    fabric.scene.driver.unbind(SOURCE);
    fabric.scene.driver.withdraw(TARGET);
    fabric.scene.target.wait_metrics(fabric.port(), &[NORMAL]);
    fabric.wait_tables(NORMAL);
    assert!(fabric.is_at(Place::Target));
    assert_answers(fabric);
    for (router, mark) in fabric.routers().into_iter().zip(marks) {
        for to in fabric.port().routed() {
            let gaps = gaps(&router.watch.since(mark), to);
            assert!(gaps.iter().all(|gap| *gap < MOMENT), "{}: no route to {to} for {gaps:?}", router.name());
        }
    }
}

/// The VM answers to every host.
#[track_caller]
fn assert_answers(fabric: &Fabric) {
    for who in [Who::Source, Who::Target, Who::Third] {
        for to in fabric.port().routed() {
            let answers = || probe::answers(fabric.router(who).host.namespace(), to.addr());
            wait::until(wait::SOON, format_args!("{to} answers to the {who:?}"), answers);
        }
    }
}
