//! One live migration between two real agents, on three hosts that are network namespaces, for people who want
//! to see it. `cargo xtask demo` builds and starts it. Leaves nothing behind.
//!
//! There is no BGP here. A stand-in, which says so, copies the routes of both compute hosts with their priority
//! to the client; every time that is printed about the agents does not depend on it.

mod fabric;
mod stream;
mod timeline;

use anyhow::{Context as _, Result, ensure};
use cutover_daemon::clock;
use cutover_tests::driver::Driver;
use cutover_tests::scene::{NORMAL, Node, SOURCE, TARGET};
use cutover_tests::{Agent, Host, Lab, Port, Vm, frames, wait};
use fabric::Fabric;
use std::io::{self, Write as _};
use stream::Stream;
use timeline::Timeline;

/// `LiveMigrationRouteConvergenceTime`: 30 s by default, short here because somebody is waiting.
const CONVERGENCE_SECONDS: u32 = 2;

fn main() -> Result<()> {
    let mut out = io::stdout().lock();
    let lab = Lab::new();
    let directory = lab.directory();
    let port = Port::new(1);
    let client = lab.host("client");
    let mut vm = Vm::create(&lab, "vm", &port);
    Driver::new(&directory, &port).bind(SOURCE);
    let [source, target] = [SOURCE, TARGET].map(|name| {
        let mut node = Node::new(&lab, name, &directory, &port);
        node.agent.set("LiveMigrationRouteConvergenceTime", CONVERGENCE_SECONDS);
        node.agent.spawn();
        node
    });
    let (mut source, mut target) = (source, target);
    source.agent.wait_answering();
    target.agent.wait_answering();
    vm.resume(source.tap().open());
    source.wait_metrics(&port, &[NORMAL]);
    let fabric = Fabric::start(&client, &[&source, &target])?;
    let stream = Stream::start(client.namespace(), port.ipv4().addr());
    wait::until(wait::SOON, "the VM answers the client", || stream.answered() > 0);

    writeln!(out, "Cutover: {} moves from {SOURCE} to {TARGET}, watched from the client\n", port.workload)?;
    writeln!(out, "Routes before")?;
    routes(&mut out, &[&source.host, &target.host, &client], &port)?;

    let mut timeline = Timeline::default();
    let stay = stream.answered();
    wait::until(wait::SOON, "some traffic before", || stream.answered() > stay + 500);
    migrate(&mut timeline, &source.agent, &["begin", "--port", &port.endpoint, "--to", TARGET])?;
    migrate(&mut timeline, &target.agent, &["wait-ready", "--port", &port.endpoint])?;

    let arriving = target.tap().open();
    drop(vm.pause());
    timeline.add(clock::now(), SOURCE, "virtual machine stopped");
    timeline.add(clock::now(), TARGET, "virtual machine runs, RARP leaves the hypervisor");
    arriving.send(&frames::rarp(port.mac));
    vm.resume(arriving);
    let resumed = clock::now();
    let first = wait::for_some(wait::SOON, "the VM answers again", || stream.first_answer_after(resumed));
    timeline.add(first, "client", "first answer to a datagram after that");

    writeln!(out, "\nRoutes when the virtual machine has arrived")?;
    routes(&mut out, &[&source.host, &target.host, &client], &port)?;

    migrate(&mut timeline, &source.agent, &["complete", "--port", &port.endpoint])?;
    source.wait_metrics(&port, &[]);
    target.wait_metrics(&port, &[NORMAL]);
    let after = stream.answered();
    wait::until(wait::SOON, "some traffic after", || stream.answered() > after + 200);
    let seen = stream.stop();
    fabric.stop()?;

    writeln!(out, "\nRoutes after")?;
    routes(&mut out, &[&source.host, &target.host, &client], &port)?;

    let record = timeline::wait_record(target.agent.run_dir()).context("no record of the migration")?;
    timeline.add_record(&record);
    for to in port.routed() {
        timeline.add_routes(SOURCE, &source.watch.history(), to);
        timeline.add_routes(TARGET, &target.watch.history(), to);
    }
    writeln!(out, "\nTimeline (CLOCK_BOOTTIME, microseconds)")?;
    timeline.print(&mut out)?;
    writeln!(
        out,
        "\nA thousand datagrams a second from the client: {} sent, {} answered, longest silence {} ms.\n\
         There is no BGP here: a stand-in copies the hosts' routes to the client, and its time is in that silence,\n\
         as is the time in which the virtual machine ran nowhere.",
        seen.sent,
        seen.answered,
        seen.longest_silence.as_millis()
    )?;
    ensure!(source.agent.terminate().success() && target.agent.terminate().success(), "an agent failed");
    Ok(())
}

/// Runs `cutover migrate …` and notes when it began and ended.
fn migrate(timeline: &mut Timeline, agent: &Agent, arguments: &[&str]) -> Result<()> {
    let what = arguments[0];
    timeline.add(clock::now(), "operator", &format!("cutover migrate {what}"));
    let output = agent.run(&[&["migrate"], arguments].concat());
    ensure!(
        output.status.success(),
        "cutover migrate {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    timeline.add(clock::now(), "operator", &format!("cutover migrate {what} is done"));
    Ok(())
}

/// What `ip route` says on each host about the VM's addresses.
fn routes(out: &mut impl io::Write, hosts: &[&Host], port: &Port) -> Result<()> {
    let mut lines = Vec::new();
    for host in hosts {
        let mut found = String::new();
        for net in port.routed() {
            let family = if net.addr().is_ipv4() { "-4" } else { "-6" };
            let output = host
                .namespace()
                .command("ip")
                .args([family, "route", "show", &net.addr().to_string()])
                .output()
                .context("iproute2")?;
            found += &String::from_utf8_lossy(&output.stdout);
        }
        if found.is_empty() {
            "none".clone_into(&mut found);
        }
        for line in found.lines() {
            lines.push(format!("  {:<9} {}", host.name(), line.trim_end()));
        }
    }
    for line in lines {
        writeln!(out, "{line}")?;
    }
    Ok(())
}
