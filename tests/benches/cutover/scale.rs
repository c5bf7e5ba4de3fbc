//! One host with very many endpoints in a cluster with ten times as many, on a real etcd: how long a start takes,
//! what the agent costs while nothing happens, and how long a migration takes to be noticed.

mod cluster;
mod observer;
mod process;

use crate::report::{Bound, Goal, Section};
use anyhow::{Context as _, Result, ensure};
use cluster::{Cluster, LOCAL_ENDPOINTS};
use cutover_daemon::clock;
use cutover_tests::route_watch::dump_routes;
use cutover_tests::statistics::{Distribution, ratio};
use cutover_tests::{Agent, Etcd, Lab, wait};
use observer::Observer;
pub(crate) use process::Usage;
use std::thread::sleep;
use std::time::Duration;

/// How long the agent is left alone for measuring what that costs: longer than all of its periods.
const IDLE: Duration = Duration::from_secs(100);
/// The bound for everything that should not take this long.
const LIMIT: Duration = Duration::from_secs(120);
/// How often each contender fills the empty kernel, in turns.
const ROUNDS: usize = 5;

pub(crate) fn measure(migrations: usize) -> Result<Section> {
    let lab = Lab::new();
    let etcd = Etcd::start(&lab);
    let mut cluster = Cluster::new(&lab);
    let filled = timed(|| cluster.fill(&etcd));
    let plugged = timed(|| cluster.plug());

    let mut agent = Agent::new(&lab, &cluster.host, &lab.directory()).on_etcd(&etcd);
    let (mut by_ip, mut empty) = (Vec::new(), Vec::new());
    let first_at_all = start_empty(&cluster, &mut agent)?;
    wait_quiet(&agent)?;
    let first = Usage::of(&agent)?;
    let writes = writes(&agent)?;
    for _ in 0..ROUNDS {
        agent.kill();
        cluster.empty();
        by_ip.push(fill_with_ip(&cluster)?);
        cluster.empty();
        empty.push(start_empty(&cluster, &mut agent)?);
        wait_quiet(&agent)?;
    }
    let (by_ip, empty) = (Distribution::of(by_ip), Distribution::of(empty));

    agent.kill();
    let right = start_right(&cluster, &mut agent)?;
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
             of etcd in memory on the same machine. Filling etcd took {}, making the taps {}. `ip -batch` and starts of the \
             agent took turns, {ROUNDS} of each; a time is from the start of the process until the kernel has notified of the \
             last route, which one and the same observer counts. Each time routes and neighbours are new; the sysctls of \
             the taps, which are written after the routes, only at the first start. Idle is over {} s.",
            cluster::ALL_ENDPOINTS,
            seconds(filled),
            seconds(plugged),
            IDLE.as_secs(),
        ),
        columns: &["what", "measured"],
        rows: vec![
            vec!["`ip -batch`, empty kernel, median (fastest to slowest)".into(), spread(&by_ip)],
            vec!["start, empty kernel, median (fastest to slowest)".into(), spread(&empty)],
            vec!["the first start of all".into(), seconds(first_at_all)],
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
                measured: ratio(empty.median(), by_ip.median()),
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

/// From the start of the process until the last route has come into the empty kernel.
fn start_empty(cluster: &Cluster, agent: &mut Agent) -> Result<Duration> {
    let observer = Observer::start(&cluster.host)?;
    let started_at = clock::now();
    agent.spawn();
    let there_at = observer.wait(cluster.routes(), LIMIT)?;
    agent.wait_answering();
    check_routes(cluster)?;
    Ok(there_at.since(started_at))
}

/// The same for iproute2.
fn fill_with_ip(cluster: &Cluster) -> Result<Duration> {
    let mut ip = cluster.ip_batch();
    let observer = Observer::start(&cluster.host)?;
    let started_at = clock::now();
    let mut ip = ip.spawn().context("iproute2")?;
    let there_at = observer.wait(cluster.routes(), LIMIT)?;
    let status = ip.wait()?;
    ensure!(status.success(), "ip -batch: {status}");
    check_routes(cluster)?;
    Ok(there_at.since(started_at))
}

/// From the start of the process until it is in sync, when there is nothing to write.
fn start_right(cluster: &Cluster, agent: &mut Agent) -> Result<Duration> {
    let mark = agent.log().mark();
    let started_at = clock::now();
    agent.spawn();
    let in_sync = agent.log().wait_after(mark, LIMIT, &["Datastore in sync"]);
    agent.wait_answering();
    check_routes(cluster)?;
    Ok(in_sync.at.since(started_at))
}

/// That the routes are all there, and no others of theirs.
fn check_routes(cluster: &Cluster) -> Result<()> {
    let routes = cluster.host.namespace().run(dump_routes)?;
    let ours = routes.iter().filter(|route| route.protocol == 3).count();
    ensure!(ours == cluster.routes(), "{ours} routes, not {}", cluster.routes());
    Ok(())
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

fn spread(times: &Distribution) -> String {
    let [median, fastest, slowest] = [50, 1, 100].map(|percent| seconds(times.percentile(percent)));
    format!("{median} ({fastest} to {slowest})")
}

fn seconds(duration: Duration) -> String {
    format!("{:.3} s", duration.as_secs_f64())
}
