//! How long a change of what one agent wants to say is on its way to the engine of the other one.

use crate::site::{Agent, Site, source_says, target_says, wanted};
use cutover_engine::Fact;
use cutover_engine::conversation::Says;
use cutover_tests::wait;
use std::time::{Duration, Instant};

/// LIMIT: those of a host that is emptied.
const CONVERSATIONS: u32 = 100;

/// Each way; of a thousand, one in a hundred is ten.
const CHANGES: u32 = 500;

/// LIMIT: a peer is heard that often, and no oftener.
const PACE: Duration = Duration::from_millis(11);

/// Changes of one conversation of many, one after the other, from `from` to `to`.
fn travel(
    (from, to): (&Agent, &mut Agent),
    (own, peer): (&str, &str),
    says: impl Fn(u32) -> [Says; 2],
    changes: u32,
) -> Vec<Duration> {
    let mut took = Vec::new();
    for number in 0..changes {
        std::thread::sleep(PACE);
        let [others, one] = says(number);
        let mut now = wanted(own, peer, "u", others, CONVERSATIONS).expect("it is wanted");
        let conversations = &mut std::sync::Arc::make_mut(&mut now).conversations;
        let key = std::sync::Arc::new(crate::site::endpoint(own, 0));
        let mut changed = conversations[&key].clone();
        changed.says = one;
        conversations.insert(key, changed);
        let began = Instant::now();
        from.wanted.send_replace(Some(now));
        let fact = to.heard.blocking_recv().expect("the other side hears it");
        took.push(began.elapsed());
        assert!(matches!(fact, Fact::PeerSaid { says, .. } if says == one), "{fact:?}");
    }
    took.sort_unstable();
    took
}

#[test]
#[expect(clippy::print_stdout, reason = "what it took is worth knowing, whatever the limit says")]
fn a_change_is_at_the_other_side_at_once() {
    let mut site = Site::new();
    site.source.wanted.send_replace(wanted("source", "target", "u", source_says(false), CONVERSATIONS));
    site.target.wanted.send_replace(wanted("target", "source", "u", target_says(1), CONVERSATIONS));
    for agent in [&mut site.source, &mut site.target] {
        wait::until(wait::SOON, "all conversations", || agent.is_connected());
        for _ in 0..CONVERSATIONS {
            agent.hears();
        }
    }
    let Site { source, target, .. } = &mut site;
    let stopped = |number: u32| [source_says(false), source_says(number.is_multiple_of(2))];
    let to_target = travel((source, target), ("source", "target"), stopped, CHANGES);
    let announced = |number: u32| [target_says(1), target_says(number + 2)];
    let to_source = travel((target, source), ("target", "source"), announced, CHANGES);
    for (way, took) in [("source to target", to_target), ("target to source", to_source)] {
        let at = |part: usize| took[took.len() * part / 1000];
        println!("{way}: median {:?}, p99 {:?}, most {:?}", at(500), at(990), took[took.len() - 1]);
        // LIMIT: a busy machine, and a build for tests; what it takes on a quiet one is in the line above.
        assert!(at(500) < wait::patient(Duration::from_millis(20)), "{way}: {:?}", at(500));
    }
}
