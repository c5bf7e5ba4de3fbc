//! The fast path's thread in a real agent: ahead of everything ordinary, and never able to starve a processor.

use cutover_tests::scene::{Node, TARGET};
use cutover_tests::{Lab, Port, wait};
use std::fs;

/// Policies of sched(7).
const SCHED_OTHER: i32 = 0;
const SCHED_FIFO: i32 = 1;

/// Starts an agent and waits until its fast path has this policy and niceness; the thread sets them itself.
#[track_caller]
fn expect(spin_micros: u32, policy: i32, niceness: i32) {
    let lab = Lab::new();
    let directory = lab.directory();
    let mut node = Node::new(&lab, TARGET, &directory, &Port::new(1));
    node.agent.set("CutoverBusyPollMicros", spin_micros);
    node.agent.start();
    let pid = node.agent.pid().expect("it runs");
    let what = format!("policy {policy}, niceness {niceness}");
    wait::until(wait::SOON, what, || policy_and_niceness(pid) == Some((policy, niceness)));
}

/// Of the thread of the fast path, from proc_pid_stat(5).
fn policy_and_niceness(pid: i32) -> Option<(i32, i32)> {
    let mut tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let stat = tasks.find_map(|task| {
        let stat = fs::read_to_string(task.path().join("stat")).ok()?;
        stat.contains("(cutover-fast)").then_some(stat)
    })?;
    // The fields after the name in parentheses begin with the third.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse().ok();
    Some((field(41)?, field(19)?))
}

#[test]
fn the_one_that_sleeps_does_not_wait_for_ordinary_threads() {
    expect(0, SCHED_FIFO, 0);
}

#[test]
fn the_one_that_spins_leaves_others_their_share() {
    expect(10, SCHED_OTHER, -20);
}
