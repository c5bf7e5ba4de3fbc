//! Agents that are killed, at each step.

use crate::bed::*;
use cutover_daemon::clock;
use cutover_tests::scene::{SOURCE, TARGET};
use cutover_tests::wait;

/// When an agent is killed and started again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Step {
    Ready,
    Forwarding,
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whose {
    Source,
    Target,
}

fn restarted(whose: Whose, at: Step) {
    let mut bed = Bed::new();
    let _uid = bed.start_migration();
    let restart = |bed: &mut Bed, step: Step| {
        if step == at {
            let node = match whose {
                Whose::Source => &mut bed.scene.source,
                Whose::Target => &mut bed.scene.target,
            };
            node.agent.kill();
            node.agent.start_in_sync();
        }
    };
    restart(&mut bed, Step::Ready);
    bed.wait_ready();
    bed.arrive();
    wait_for(&bed.scene.source, "forwards", "is_active", true);
    let streams = bed.streams();
    let begun_at = clock::now();
    restart(&mut bed, Step::Forwarding);
    bed.scene.driver.succeed(SOURCE, TARGET);
    restart(&mut bed, Step::Over);
    wait::until(wait::SOON, "the stream goes on", || streams.iter().all(|stream| stream.answered() > 300));
    for stream in streams {
        let record = stream.finish();
        let lost: Vec<_> = record.lost().filter(|sent| *sent >= begun_at).collect();
        assert!(
            lost.is_empty(),
            "{whose:?} {at:?}: {} of {} datagrams since {begun_at}, from {:?} to {:?}\nsource:\n{}\ntarget:\n{}",
            lost.len(),
            record.sent(),
            lost.first(),
            lost.last(),
            bed.scene.source.agent.log_text(),
            bed.scene.target.agent.log_text()
        );
    }
    for host in [&bed.scene.source.host, &bed.scene.target.host] {
        wait_gone(host);
    }
}

#[test]
fn the_source_while_it_is_ready() {
    restarted(Whose::Source, Step::Ready);
}

#[test]
fn the_source_while_it_forwards() {
    restarted(Whose::Source, Step::Forwarding);
}

#[test]
fn the_source_after_the_migration() {
    restarted(Whose::Source, Step::Over);
}

#[test]
fn the_target_while_it_is_ready() {
    restarted(Whose::Target, Step::Ready);
}

#[test]
fn the_target_while_the_source_forwards() {
    restarted(Whose::Target, Step::Forwarding);
}

#[test]
fn the_target_after_the_migration() {
    restarted(Whose::Target, Step::Over);
}
