//! How long it takes with ten thousand connections, in a table with a hundred thousand of others.

use crate::reading::{OTHER, Table, VM, connection, prefixes};
use cutover_daemon::conntrack::Entry;
use cutover_tests::wait;
use std::collections::HashSet;
use std::io::Write as _;
use std::time::{Duration, Instant};

/// LIMIT: built for speed, on the machine where it was written with half a dozen others at work: 20 to 50 ms to make them, 50 ms to read them,
/// 250 ms among 100,000 others. What is built for tests takes four times as long.
const LIMIT: Duration = Duration::from_secs(5);

#[test]
fn ten_thousand_connections_are_read_and_made_in_time() {
    let table = Table::new();
    let entries: Vec<Entry> = (0..10_000).map(|number| connection(VM, number)).collect();
    let timed = |what: &str, work: &mut dyn FnMut()| {
        let began = Instant::now();
        work();
        let took = began.elapsed();
        // Nobody is left to tell if standard error is closed.
        let _ = writeln!(std::io::stderr(), "{what}: {took:?}");
        assert!(took < wait::patient(LIMIT), "{what}: {took:?}");
    };
    table.with(|conntrack| {
        let (vm, none) = (prefixes(VM), HashSet::new());
        let mut ours = Vec::new();
        timed("10,000 made", &mut || {
            ours = conntrack.inject(&entries, &vm, &none).ours;
            assert_eq!(ours.len(), 10_000);
        });
        timed("10,000 of 10,000 read", &mut || {
            assert_eq!(conntrack.read(&vm).unwrap().carried.len(), 10_000);
        });
        for part in 0..2 {
            let others: Vec<Entry> =
                (0..50_000).map(|number| connection(OTHER, number + part * 65_536)).collect();
            conntrack.inject(&others, &prefixes(OTHER), &none);
        }
        timed("10,000 among 100,000 read", &mut || {
            assert_eq!(conntrack.read(&vm).unwrap().carried.len(), 10_000);
        });
        // A prefix cannot be asked for, so everything comes.
        let wider = ["10.65.0.2/31".parse().unwrap(), vm[1]];
        timed("10,000 among 100,000 read, with all others", &mut || {
            assert_eq!(conntrack.read(&wider).unwrap().carried.len(), 10_000);
        });
        let replaced = ours.iter().map(|ours| ours.original).collect();
        timed("10,000 replaced", &mut || {
            ours = conntrack.inject(&entries, &vm, &replaced).ours;
            assert_eq!(ours.len(), 10_000);
        });
        let mut gone = 0;
        timed("10,000 taken back", &mut || gone = conntrack.withdraw(&ours).unwrap().deleted);
        assert_eq!(gone, 10_000);
        timed("none among 100,000 read", &mut || {
            assert_eq!(conntrack.read(&vm).unwrap().carried.len(), 0);
        });
    });
}
