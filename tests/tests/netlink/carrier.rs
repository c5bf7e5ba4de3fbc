//! A tap whose hypervisor lets go of it: told at once, and not when the kernel's link watch comes to it.

use crate::rig::Rig;
use cutover_engine::Fact;
use cutover_tests::{Lab, Port, wait};

/// LIMIT: the machine may stand still for a second in some, but not in all of them.
const ROUNDS: usize = 5;

/// KERNEL: after a loss of carrier anywhere, the link watch looks at the next losses a second later, and only then a link of any
/// namespace is no longer running (`linkwatch_nextevent`).
#[test]
fn a_reader_that_goes_is_told_before_the_link_watch_comes_to_it() {
    let lab = Lab::new();
    let [here, elsewhere] = ["here", "elsewhere"].map(|name| lab.host(name));
    let (tap, other) =
        (here.plug("tapone", Port::new(1).tap_mac()), elsewhere.plug("tapone", Port::new(2).tap_mac()));
    let rig = Rig::start(&here.namespace_shared());
    let is_told = |running: bool| {
        let of_tap = |fact: &Fact| match fact {
            Fact::LinkSeen(link) if link.ifindex == tap.ifindex() => Some(link.running),
            _ => None,
        };
        rig.facts().iter().rev().find_map(of_tap) == Some(running)
    };
    let is_told_first = |_| {
        let reader = tap.open();
        wait::until(wait::SOON, "the carrier is told", || is_told(true));
        drop(other.open());
        wait::until(wait::SOON, "the link watch comes round", || !other.has_carrier());
        drop(reader);
        wait::until(wait::SOON, "the end of the carrier is told", || is_told(false));
        let first = tap.has_carrier();
        wait::until(wait::SOON, "the link watch comes round", || !tap.has_carrier());
        first
    };
    assert!((0..ROUNDS).any(is_told_first), "in none of {ROUNDS} rounds before the link watch came to it");
}
