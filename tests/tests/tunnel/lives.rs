//! Appliers come and go, others interfere, and packets go on.

use crate::bed::*;
use cutover_daemon::applier::tunnels::cleanup;
use cutover_daemon::netlink::policy;
use cutover_engine::Wanted;
use cutover_tests::wait;
use std::collections::BTreeSet;

#[test]
fn a_killed_applier_leaves_everything_at_work_and_the_next_one_takes_it_over() {
    let bed = Bed::new();
    let (source, target) = bed.at_work();
    bed.expect_reaches("first life");
    let traces = [bed.source.traces(), bed.target.traces()];
    drop((source, target));
    bed.expect_reaches("between two lives");

    let (mut source, mut target) = (bed.source_applier(), bed.target_applier());
    // Nothing is wanted before the datastore is known.
    source.wanted.send_replace(None);
    bed.expect_reaches("before anything is wanted");
    let device = bed.source.host.ifindex("cutover0");
    source.want(&bed.forward(true, true));
    target.want(&bed.reception(true));
    for number in 0..50 {
        bed.expect_reaches(&format!("meanwhile {number}"));
    }
    source.wait_started();
    target.wait_ready(true);
    bed.expect_reaches("second life");
    assert_eq!([bed.source.traces(), bed.target.traces()], traces);
    assert_eq!(bed.source.host.ifindex("cutover0"), device, "the same device");
    assert_eq!(source.report.read().unwrap().error, None);
}

#[test]
fn what_the_last_life_left_goes_if_nothing_is_wanted() {
    let bed = Bed::new();
    let (source, target) = bed.at_work();
    drop((source, target));
    for site in [&bed.source, &bed.target] {
        let next = Running::start(site, None);
        assert!(!site.traces().is_empty());
        next.want(&Wanted { is_recalled: true, ..Wanted::default() });
        next.want(&Wanted::default());
        wait::until(wait::SOON, "nothing is left", || site.traces().is_empty());
    }
}

/// Of what the last life left that ends before the datastore says anything, and nothing else does.
#[test]
fn what_the_memory_says_is_over_ends_alone() {
    let bed = Bed::new();
    let (source, _target) = bed.at_work();
    drop(source);
    let next = bed.source_applier();
    let forwarded = || {
        let routes = bed.source.namespace().run(|| policy::routes(TABLE, PROTOCOL).unwrap());
        routes.into_iter().map(|route| route.destination).collect::<BTreeSet<_>>()
    };
    let all = prefixes(&vm());
    assert_eq!(forwarded(), all);
    let (device, traces) = (bed.source.host.ifindex("cutover0"), bed.source.traces().len());
    let mut over = BTreeSet::new();
    for prefix in &all {
        over.insert(*prefix);
        let forwards_over = over.iter().copied().collect();
        next.want(&Wanted { is_recalled: true, forwards_over, ..Wanted::default() });
        let left: BTreeSet<_> = all.difference(&over).copied().collect();
        wait::until(wait::SOON, "what is over is gone", || forwarded() == left);
    }
    assert_eq!(bed.source.host.ifindex("cutover0"), device);
    assert_eq!(bed.source.traces().len(), traces - all.len(), "{:?}", bed.source.traces());
    next.want(&Wanted::default());
    wait::until(wait::SOON, "nothing is left", || bed.source.traces().is_empty());
}

/// `CutoverForwardTable` was changed between two lives.
#[test]
fn nothing_stays_in_the_tables_of_a_life_that_had_other_ones() {
    const OTHER: u32 = 7190;
    let bed = Bed::new();
    let (source, target) = bed.at_work();
    drop((source, target));
    let sites = [&bed.source, &bed.target];
    let [mut source, mut target] = sites.map(|site| Running::start_with(site, None, settings(OTHER)));
    target.want(&bed.reception(true));
    target.wait_ready(true);
    source.want(&bed.forward(true, true));
    source.wait_started();
    bed.expect_reaches("from one table to the other");
    // Of the table of before, and of what it led to.
    let has_old =
        |site: &Site| site.traces().iter().any(|trace| trace.contains("7179") || trace.contains("7180"));
    wait::until(wait::SOON, "nothing is left of before", || !sites.iter().any(|site| has_old(site)));
    bed.expect_reaches("by the other table");
    drop((source, target));
    // It was changed back, and the agent was not started again.
    for site in sites {
        site.namespace().run(|| cleanup(settings(TABLE), false).unwrap());
        for family in ["-4", "-6"] {
            assert!(!site.ip(&format!("{family} rule show")).contains("proto 80"));
            let left = [OTHER, OTHER + 1].map(|table| site.ip(&format!("{family} route show table {table}")));
            assert_eq!(left, ["", ""]);
        }
    }
    bed.expect_lost("after the cleanup");
}

#[test]
fn what_somebody_removes_comes_back() {
    let bed = Bed::new();
    let (mut source, _target) = bed.at_work();
    let sites = [&bed.source, &bed.target];
    let before = sites.map(Site::traces);
    let is_up = |site: &&Site| site.ip("link show cutover0").contains(",UP");
    for (what, site, commands) in [
        ("the device", &bed.source, &["link del cutover0"][..]),
        ("the device is down", &bed.target, &["link set cutover0 down"]),
        ("rules", &bed.source, &["-4 rule del priority 7179", "-6 rule del priority 7179"]),
        ("the other rules", &bed.target, &["-4 rule del priority 7178", "-6 rule del priority 7178"]),
        ("routes", &bed.source, &["-4 route flush table 7179", "-6 route flush table 7179"]),
        ("the other routes", &bed.target, &["-4 route flush table 7180", "-6 route flush table 7180"]),
    ] {
        for command in commands {
            site.ip(command);
        }
        wait::until(wait::SOON, format_args!("{what}: all is there again"), || {
            sites.map(Site::traces) == before && sites.iter().all(is_up)
        });
        bed.expect_reaches(what);
    }
    // A filter that is gone.
    bed.target
        .namespace()
        .command("tc")
        .args(["qdisc", "del", "dev", "cutover0", "clsact"])
        .status()
        .unwrap();
    let is_judged = || {
        let filters = ["filter", "show", "dev", "cutover0", "ingress"];
        let shown = bed.target.namespace().command("tc").args(filters).output().unwrap();
        String::from_utf8_lossy(&shown.stdout).contains("cutover_receive")
    };
    wait::until(wait::SOON, "the program judges again", is_judged);
    assert!(source.facts().is_empty(), "that is no new start");
}

#[test]
fn a_device_of_somebody_else_is_not_touched() {
    let bed = Bed::new();
    bed.source.namespace().ip("link add cutover0 type bridge");
    let device = bed.source.host.ifindex("cutover0");
    let mut source = bed.source_applier();
    source.want(&bed.forward(true, true));
    wait::until(wait::SOON, "it is said", || {
        source.report.read().unwrap().error.is_some_and(|error| error.contains("not the agent's"))
    });
    assert_eq!(bed.source.host.ifindex("cutover0"), device);
    assert!(source.facts().is_empty());
    bed.source.namespace().ip("link del cutover0");
    source.wait_started();
    source.want(&Wanted::default());
    wait::until(wait::SOON, "nothing is left", || bed.source.traces().is_empty());
}

#[test]
fn cleanup_takes_everything_away_and_says_what() {
    let bed = Bed::new();
    let (source, target) = bed.at_work();
    drop((source, target));
    let foreign = "7179: 10.65.0.77 dev up0 scope link";
    bed.source.namespace().ip("route add 10.65.0.77 dev up0 table 7179");
    for (site, lines, left) in [(&bed.source, 5, &[foreign][..]), (&bed.target, 7, &[])] {
        let before = site.traces();
        let clean = |dry_run| site.namespace().run(|| cleanup(settings(TABLE), dry_run).unwrap());
        let listed = clean(true);
        assert_eq!(site.traces(), before, "listing removes nothing");
        assert_eq!(listed.len(), lines, "{listed:#?}");
        assert!(listed.contains(&"device cutover0".to_owned()), "{listed:#?}");
        assert_eq!(clean(false), listed);
        assert_eq!(site.traces(), left);
        assert_eq!(clean(false), Vec::<String>::new());
    }
    bed.expect_lost("after the cleanup");
}
