//! What had to be the case at every moment of a recording, and what is left at its end.

use crate::member::CONVERGENCE_SECONDS;
use crate::outage::Outage;
use crate::replay::Replay;
use cutover_engine::BootTime;
use cutover_tests::route_history::Change;
use cutover_tests::scene::{ELEVATED, NORMAL};
use cutover_tests::wait;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// A virtual machine ran on a host, and its routes had come.
pub(crate) struct Stay {
    pub(crate) host: String,
    pub(crate) port: String,
    pub(crate) destinations: BTreeSet<IpNet>,
    pub(crate) from: BootTime,
    pub(crate) to: Option<BootTime>,
}

/// A virtual machine came by a live migration.
pub(crate) struct Arrival {
    pub(crate) host: String,
    pub(crate) port: String,
    /// Every address that the endpoint has had since.
    pub(crate) destinations: BTreeSet<IpNet>,
    pub(crate) sent_at: BootTime,
}

/// How long it is checked that rewriting everything changes nothing.
const NOTHING_HAPPENS: Duration = Duration::from_millis(500);

/// LIMIT: how late a deadline of an agent may be on a loaded machine.
const LATE: Duration = Duration::from_secs(2);

impl Replay {
    /// Waits for the last convergence, then looks back.
    pub(crate) fn finish(&mut self, name: &str, outage: Option<Outage>) {
        self.wait_converged();
        self.judge_rewriting();
        self.judge_stays();
        self.judge_elevated();
        self.judge_states(name);
        self.judge_logs(name, outage);
    }

    fn wait_converged(&self) {
        for (port, home) in &self.homes {
            let shown = self.written.port(&home.host, port);
            let migrating = self.written.migration_to(&home.host, port).is_some();
            if let (Some(shown), false) = (shown, migrating) {
                let member = &self.members[&home.host];
                member.wait(
                    "converged in the end",
                    |member| member.is_settled(&shown),
                    |member| format!("{:?}\n{}", member.metrics(&shown.routed()), member.agent.log_text()),
                );
            }
        }
    }

    fn judge_rewriting(&mut self) {
        let marks: Vec<_> = self.members.values().map(|member| member.watch.mark()).collect();
        self.rewrite_everything();
        wait::holds_within(NOTHING_HAPPENS, || false);
        for (member, mark) in self.members.values().zip(marks) {
            let history = member.watch.since(mark);
            let (name, writes) = (member.host.name(), history.writes());
            assert!(writes.is_empty(), "{name}: everything was rewritten, and {writes:#?}");
        }
    }

    /// No virtual machine without a route at any moment, in either family.
    fn judge_stays(&self) {
        assert!(!self.stays.is_empty(), "a recording without a virtual machine");
        for Stay { host, port, destinations, from, to } in &self.stays {
            let history = self.members[host].watch.history();
            for destination in destinations {
                let moments = history.moments(*destination);
                let without = moments.iter().filter(|moment| moment.routes.is_empty()).find(|moment| {
                    let since = moment.since.unwrap_or(BootTime(0));
                    since > *from && to.is_none_or(|to| since < to)
                });
                assert!(without.is_none(), "{port} on {host} had no route to {destination}: {moments:#?}");
            }
        }
    }

    /// An elevated route is only where a virtual machine has arrived, after it has announced itself, and not for
    /// longer than the convergence time when the migration is over.
    fn judge_elevated(&self) {
        for (host, member) in &self.members {
            let history = member.watch.history();
            for event in &history.events {
                let Change::Added { route, .. } = &event.change else { continue };
                if route.metric != ELEVATED {
                    continue;
                }
                let arrived = self.arrivals.iter().any(|arrival| {
                    &arrival.host == host
                        && arrival.sent_at <= event.at
                        && arrival.destinations.contains(&route.destination)
                });
                assert!(arrived, "{host} was elevated, but nothing had arrived: {event:?}");
            }
            self.judge_convergence(host);
        }
    }

    fn judge_convergence(&self, host: &str) {
        let history = self.members[host].watch.history();
        for arrival in self.arrivals.iter().filter(|arrival| arrival.host == host) {
            let of_it = |(at, on, port): &&(BootTime, String, String)| {
                (on, port) == (&arrival.host, &arrival.port) && *at > arrival.sent_at
            };
            let Some((ended_at, ..)) = self.ended.iter().find(of_it) else { continue };
            for stay in self.stays.iter().filter(|stay| stay.host == host && stay.port == arrival.port) {
                // A virtual machine that left meanwhile took its routes along.
                if stay.from < arrival.sent_at || stay.to.is_some() {
                    continue;
                }
                for destination in &stay.destinations {
                    let normal = history.moments(*destination).into_iter().find(|moment| {
                        moment.since.is_some_and(|since| since > arrival.sent_at)
                            && moment.routes.iter().map(|route| route.metric).eq([NORMAL])
                    });
                    let at = normal.and_then(|moment| moment.since).expect("it converged in the end");
                    let took = at.since(*ended_at);
                    let wanted = Duration::from_secs(CONVERGENCE_SECONDS);
                    let in_time = took >= wanted && took <= wanted + LATE;
                    assert!(in_time, "{destination} on {host} was elevated for {took:?}, not {wanted:?}");
                }
            }
        }
    }

    /// Every endpoint went through the states that the engine's own tests expect of it, and no other ones.
    fn judge_states(&self, name: &str) {
        for (host, member) in &self.members {
            for (port, number) in self.ports.iter().zip(1..) {
                let dashes = port.replace('-', "--");
                let lines = member.agent.log().matching(&["Live migration state transition", &dashes]);
                let went: Vec<String> = lines.iter().filter_map(|line| state_in(&line.text)).collect();
                assert_eq!(
                    went,
                    expected(name, host, number),
                    "{host}, port {number}:\n{}",
                    member.agent.log_text()
                );
            }
        }
    }

    /// Nothing that an operator has to look at, but what is wrong with the data itself.
    fn judge_logs(&self, name: &str, outage: Option<Outage>) {
        let of_members =
            |level| self.members.values().flat_map(move |member| member.agent.log().matching(&[level]));
        let said: Vec<String> =
            [" ERROR ", " WARN "].into_iter().flat_map(of_members).map(|line| line.text).collect();
        // Agents start before the recording begins, and it begins with the ClusterInformation.
        let said: Vec<String> =
            said.into_iter().filter(|line| !line.contains("Datastore not ready")).collect();
        if outage.is_some() {
            // Whoever asks etcd for something says so, and nobody else says anything.
            let of_it = ["Datastore lost", "heartbeat", "status", "Records of agents", "peer's agent"];
            let is_of_it = |line: &String| of_it.iter().any(|part| line.contains(part));
            assert!(said.iter().any(|line| line.contains("Datastore lost")), "{said:#?}");
            assert!(said.iter().all(is_of_it), "{said:#?}");
            return;
        }
        let about = match name {
            // An address with two prefix lengths (W30).
            "06c-address-pairs-and-fixed-ips" => Some("10.65.0.208/29/32"),
            // A LiveMigration that is not JSON, and an orphan that claims the tap of somebody else.
            "07c-resync-repairs" => Some("compute2-openstack"),
            _ => None,
        };
        match about {
            Some(part) => {
                // One that nobody can read is a migration that one of two hosts may know.
                let of_peers = ["peer's agent", "other hosts' agents"];
                let said: Vec<String> =
                    said.into_iter().filter(|line| !of_peers.iter().any(|it| line.contains(it))).collect();
                assert!(!said.is_empty() && said.iter().all(|line| line.contains(part)), "{said:#?}")
            }
            None => assert!(said.is_empty(), "{said:#?}"),
        }
    }
}

fn state_in(line: &str) -> Option<String> {
    let rest = line.split(" to=").nth(1)?;
    Some(rest.split(' ').next()?.to_owned())
}

fn expected(name: &str, host: &str, number: u32) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../agent/engine/tests/recordings/states");
    let text = fs::read_to_string(path).expect("the states");
    let of_it = |line: &str| {
        let mut fields = line.split(' ').map(str::to_owned);
        let key: Vec<String> = fields.by_ref().take(3).collect();
        (key == [name, host, &number.to_string()]).then(|| fields.collect())
    };
    text.lines().find_map(of_it).unwrap_or_default()
}
