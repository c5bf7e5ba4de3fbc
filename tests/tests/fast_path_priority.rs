//! The fast path's threads in a real agent: ahead of everything ordinary, and never able to starve a processor.

use cutover_daemon::fast_path::THREADS;
use cutover_tests::scene::{Node, TARGET};
use cutover_tests::{Lab, Port, wait};
use std::fs;

/// Policies of sched(7).
const SCHED_OTHER: i32 = 0;
const SCHED_FIFO: i32 = 1;

/// Starts an agent and waits until its fast path has these policies and this niceness; the threads set them themselves.
#[track_caller]
fn expect(spin_micros: u32, policies: [i32; THREADS]) {
    let lab = Lab::new();
    let directory = lab.directory();
    let mut node = Node::new(&lab, TARGET, &directory, &Port::new(1));
    node.agent.set("CutoverBusyPollMicros", spin_micros);
    node.agent.start();
    let pid = node.agent.pid().expect("it runs");
    let expected = policies.map(|policy| (policy, -20));
    wait::until(wait::SOON, format!("{expected:?}"), || policies_and_nicenesses(pid) == expected);
}

/// Of the threads of the fast path, from proc_pid_stat(5), in this order.
fn policies_and_nicenesses(pid: i32) -> Vec<(i32, i32)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let stats = tasks.filter_map(|task| fs::read_to_string(task.path().join("stat")).ok());
    let mut found: Vec<_> =
        stats.filter(|stat| stat.contains("(cutover-fast)")).filter_map(|stat| of(&stat)).collect();
    found.sort_unstable();
    found
}

fn of(stat: &str) -> Option<(i32, i32)> {
    // The fields after the name in parentheses begin with the third.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse().ok();
    Some((field(41)?, field(19)?))
}

#[test]
fn one_that_sleeps_does_not_wait_for_ordinary_threads() {
    expect(0, [SCHED_OTHER, SCHED_OTHER, SCHED_FIFO]);
}

#[test]
fn those_that_spin_leave_others_their_share() {
    expect(10, [SCHED_OTHER; THREADS]);
}
