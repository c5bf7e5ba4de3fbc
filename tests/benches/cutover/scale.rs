//! One host with very many endpoints in a cluster with ten times as many, on a real etcd: how long a start takes,
//! what the agent costs while nothing happens, and how long a migration takes to be noticed.

mod cluster;
mod process;

use crate::report::{Bound, Goal, Section};
use anyhow::{Context as _, Result};
use cluster::{Cluster, LOCAL_ENDPOINTS};
use cutover_agent::clock;
use cutover_tests::route_watch::dump_routes;
use cutover_tests::statistics::{Distribution, ratio};
use cutover_tests::{Agent, Etcd, Lab, wait};
use process::Usage;
use std::thread::sleep;
use std::time::Duration;

/// How long the agent is left alone for measuring what that costs: longer than all of its periods.
const IDLE: Duration = Duration::from_secs(100);
/// The bound for everything that should not take this long.
const LIMIT: Duration = Duration::from_secs(120);
/// How often the kernel is asked for all of its routes, and so how exact the times are.
const POLL: Duration = Duration::from_millis(20);

pub(crate) fn measure(migrations: usize) -> Result<Section> {
    let lab = Lab::new();
    let etcd = Etcd::start(&lab);
    let mut cluster = Cluster::new(&lab);
    let filled = timed(|| cluster.fill(&etcd));
    let plugged = timed(|| cluster.plug());
    let by_ip = timed(|| cluster.add_routes_with_ip());
    cluster.flush();

    let mut agent = Agent::new(&lab, &cluster.host, &lab.directory()).on_etcd(&etcd);
    let empty = timed_start(&cluster, &mut agent);
    wait_quiet(&agent)?;
    let first = Usage::of(&agent)?;
    let writes = writes(&agent)?;
    agent.kill();

    let right = timed_start(&cluster, &mut agent);
    wait_quiet(&agent)?;
    let written_again = self::writes(&agent)?;
    let resident_mib = Usage::of(&agent)?.resident_mib;
    let before = Usage::of(&agent)?;
    sleep(IDLE);
    let idle = Usage::of(&agent)?.cpu - before.cpu;
    let armed = arm(&cluster, &etcd, &agent, migrations)?;

    Ok(Section {
        title: "Scale",
        method: format!(
            "One host with {LOCAL_ENDPOINTS} endpoints of {} in the cluster, one address of each family each, one member \
             of etcd in memory on the same machine. Filling etcd took {}, making the taps {}. The time of a start is from \
             the start of the process until the last route is in the kernel and the agent says that it is in sync; that \
             of `ip -batch` is for adding the same routes. Idle is over {} s.",
            cluster::ALL_ENDPOINTS,
            seconds(filled),
            seconds(plugged),
            IDLE.as_secs(),
        ),
        columns: &["what", "measured"],
        rows: vec![
            vec!["`ip -batch`, empty kernel".into(), seconds(by_ip)],
            vec!["start, empty kernel".into(), seconds(empty)],
            vec!["routes written by it".into(), writes.to_string()],
            vec!["processor time of it, until nothing is left to do".into(), seconds(first.cpu)],
            vec!["start, everything in place".into(), seconds(right)],
            vec!["routes written by it".into(), written_again.to_string()],
            vec!["LiveMigration put → watch armed, median".into(), seconds(armed.median())],
            vec!["LiveMigration put → watch armed, p99".into(), seconds(armed.p99())],
        ],
        goals: vec![
            Goal {
                what: "start with an empty kernel / `ip -batch`".into(),
                measured: ratio(empty, by_ip),
                bound: Bound::AtMost(1.5),
            },
            Goal { what: "resident memory, MiB".into(), measured: resident_mib, bound: Bound::AtMost(60.0) },
            Goal {
                what: "processor while idle, percent of one".into(),
                measured: ratio(idle, IDLE) * 100.0,
                bound: Bound::AtMost(0.2),
            },
            Goal {
                what: "routes written when all are right".into(),
                measured: written_again as f64,
                bound: Bound::AtMost(0.0),
            },
        ],
        picture: None,
    })
}

/// From the start of the process until all routes are there and it says that it is in sync.
fn timed_start(cluster: &Cluster, agent: &mut Agent) -> Duration {
    let mark = agent.log().mark();
    let started_at = clock::now();
    agent.spawn();
    let there =
        || {
            sleep(POLL);
            cluster.host.namespace().run(dump_routes).is_ok_and(|routes| {
                routes.iter().filter(|route| route.protocol == 3).count() == cluster.routes()
            })
        };
    wait::until(LIMIT, "all routes are there", there);
    let there_at = clock::now();
    let in_sync = agent.log().wait_after(mark, LIMIT, &["Datastore in sync"]);
    agent.wait_answering();
    there_at.max(in_sync.at).since(started_at)
}

/// Waits until every interface is prepared and the agent has nothing left to do.
fn wait_quiet(agent: &Agent) -> Result<()> {
    let mut last = Usage::of(agent)?.cpu;
    let quiet = || {
        sleep(Duration::from_secs(2));
        let now = Usage::of(agent).map(|usage| usage.cpu).unwrap_or_default();
        let used = now.saturating_sub(last);
        last = now;
        used < Duration::from_millis(50)
    };
    wait::until(LIMIT, "the agent has nothing left to do", quiet);
    Ok(())
}

fn writes(agent: &Agent) -> Result<u64> {
    agent.status()["route_writes"].as_u64().context("route_writes")
}

/// A migration to each of some endpoints, one after the other.
fn arm(cluster: &Cluster, etcd: &Etcd, agent: &Agent, migrations: usize) -> Result<Distribution> {
    let mut times = Vec::new();
    for number in 0..migrations {
        let mark = agent.log().mark();
        let put_at = clock::now();
        cluster.migrate(etcd, number);
        let interface = format!("interface={} ", cluster::interface(number));
        let line = agent.log().wait_after(mark, LIMIT, &["Watch armed", &interface]);
        times.push(line.at.since(put_at));
    }
    Ok(Distribution::of(times))
}

fn timed(work: impl FnOnce()) -> Duration {
    let started_at = clock::now();
    work();
    clock::now().since(started_at)
}

fn seconds(duration: Duration) -> String {
    format!("{:.3} s", duration.as_secs_f64())
}
