//! The agent is killed at any instruction, again and again, while VMs migrate to and fro. They always end up
//! with the right routes on the right host, and a VM that has arrived is never without a route again.

use cutover_tests::driver::Pace;
use cutover_tests::scene::{ELEVATED, NORMAL, SOURCE, Scene, TARGET};
use cutover_tests::{Agent, frames, wait};
use std::thread;
use std::time::Duration;

/// How many migrations, each with kills on both hosts.
const ROUNDS: u64 = 12;
/// Longer than everything that an agent does at its start and about a migration, so a kill hits any of it.
const WINDOW_MICROS: u64 = 120_000;

/// Moments in the window, spread evenly (multiples of the golden ratio modulo one). The same ones each time,
/// unless `CUTOVER_TEST_SEED` asks for other ones.
fn moment(number: u64) -> Duration {
    let seed = std::env::var("CUTOVER_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0_u64);
    let number = number.wrapping_add(seed.wrapping_mul(10_007));
    Duration::from_micros(number.wrapping_mul(618_033_989) % 1_000_000_000 * WINDOW_MICROS / 1_000_000_000)
}

/// Kills an agent some time from now, starts it, and kills it again in its first moments; then it may live.
fn torment(agent: &mut Agent, number: u64) {
    for kill in 0..2 {
        // A random moment is the point here; nothing is waited for.
        thread::sleep(moment(number * 2 + kill));
        agent.kill();
        agent.spawn();
    }
}

#[test]
fn killed_at_any_instruction_the_vm_ends_up_right() {
    let mut scene = Scene::with(|agent| agent.set("LiveMigrationRouteConvergenceTime", 1));
    scene.driver = scene.driver.clone().at_pace(Pace::IMMEDIATE);
    let mac = scene.port.mac;
    for round in 0..ROUNDS {
        let (from, to) = if round % 2 == 0 { (SOURCE, TARGET) } else { (TARGET, SOURCE) };
        let Scene { source, target, driver, port, vm, .. } = &mut scene;
        let (here, there) = if round % 2 == 0 { (source, target) } else { (target, source) };

        // Killed while the migration is being set up. It may announce itself only when the target is armed:
        // before, the orchestrator does not let it run there.
        thread::scope(|scope| {
            scope.spawn(|| torment(&mut there.agent, round));
            scope.spawn(|| torment(&mut here.agent, round + 1000));
            let _uid = driver.start(from, to);
        });
        there.agent.wait_answering();
        there.wait_armed(port);
        assert!(there.has_metrics(port, &[]), "round {round}: a route before the VM is there");
        assert!(here.has_metrics(port, &[NORMAL]), "round {round}: no route where the VM runs");

        // Killed around the announcement.
        let arrived = there.watch.mark();
        let qemu = there.tap().open();
        drop(vm.pause());
        thread::scope(|scope| {
            scope.spawn(|| torment(&mut there.agent, round + 2000));
            thread::sleep(moment(round + 3000));
            qemu.send(&frames::rarp(mac));
        });
        vm.resume(qemu);
        there.wait_metrics(port, &[ELEVATED]);

        // Killed around the end.
        thread::scope(|scope| {
            scope.spawn(|| torment(&mut there.agent, round + 4000));
            scope.spawn(|| torment(&mut here.agent, round + 5000));
            driver.succeed(from, to);
        });
        there.wait_metrics(port, &[NORMAL]);
        here.wait_metrics(port, &[]);
        for prefix in port.routed() {
            let lived = there.watch.since(arrived).metrics(prefix);
            let expected: [&[u32]; 4] = [&[], &[ELEVATED], &[ELEVATED, NORMAL], &[NORMAL]];
            assert_eq!(lived, expected, "round {round}: {prefix}");
        }
    }
    wait::until(wait::SOON, "the VM answers where it is", || {
        let address = scene.port.ipv4().addr();
        cutover_tests::probe::answers(scene.source.host.namespace(), address)
    });
}
