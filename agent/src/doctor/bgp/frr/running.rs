//! The running FRR: its configuration, its sessions, and whether it has the routes of the VMs here.

use super::super::{RESTART, RUNNING, VmRoute, compare};
use crate::doctor::command::answer;
use crate::doctor::finding::Finding;
use cutover_daemon::processes::Process;
use ipnet::IpNet;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io;

/// How to reach the daemons: vtysh with the options that belong to them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Vtysh {
    options: Vec<String>,
}

impl Vtysh {
    /// For the daemons of which `process` is one.
    pub(super) fn of(process: &Process) -> Self {
        let mut options = Vec::new();
        for (given, own) in [(&["-N", "--pathspace"][..], "-N"), (&["--vty_socket"], "--vty_socket")] {
            if let Some(value) = process.values_of(given).last() {
                options.extend([own.to_owned(), (*value).to_owned()]);
            }
        }
        Self { options }
    }

    fn ask(&self, command: &str) -> io::Result<String> {
        let options = self.options.iter().map(String::as_str);
        let arguments: Vec<&str> = options.chain(["-c", command]).collect();
        answer("vtysh", &arguments)
    }

    /// The configuration that is in force.
    pub(super) fn configuration(&self) -> io::Result<String> {
        self.ask("show running-config")
    }

    /// Asks the daemons.
    pub(super) fn examine(&self, routes: &[VmRoute]) -> Vec<Finding> {
        let asked = self.ask("show bgp summary json").and_then(|summary| {
            Ok([summary, self.ask("show ip route kernel json")?, self.ask("show ipv6 route kernel json")?])
        });
        let [summary, ipv4, ipv6] = match asked {
            Ok(answers) => answers,
            Err(error) => {
                let what = format!("could not ask FRR: {error}");
                return vec![RUNNING.notice(what, "run cutover doctor as root, with vtysh installed")];
            }
        };
        let mut findings = sessions(&summary);
        let known = kernel_routes(&ipv4).into_iter().chain(kernel_routes(&ipv6)).collect();
        findings.extend(compare("zebra", routes, &known));
        if findings.is_empty() {
            findings.push(RUNNING.ok("FRR runs, its sessions are up, and it has the routes of VMs"));
        }
        findings
    }
}

/// Whether zebra leaves routes in the kernel when it ends, and waits for bgpd before it tidies up.
pub(super) fn restarts(zebra: &Process) -> Finding {
    let has = |options: &[&str]| zebra.arguments.iter().any(|argument| options.contains(&argument.as_str()));
    let waits = !zebra.values_of(&["-K", "--graceful_restart"]).is_empty() || has(&["-K"]);
    if has(&["-r", "--retain"]) && waits {
        return RESTART.ok("zebra leaves routes in the kernel");
    }
    RESTART.warning(
        format!("zebra (process {}) runs without --retain and -K", zebra.pid),
        "zebra_options=\"  -A 127.0.0.1 -s 90000000 --retain -K 60\" in /etc/frr/daemons",
    )
}

fn sessions(summary: &str) -> Vec<Finding> {
    let summary: Value = serde_json::from_str(summary).unwrap_or_default();
    let families = summary.as_object().into_iter().flatten();
    let peers = families.filter_map(|(family, of)| Some((family, of.get("peers")?.as_object()?)));
    peers
        .flat_map(|(family, peers)| peers.iter().map(move |(name, peer)| (family, name, peer)))
        .filter(|(_, _, peer)| peer["state"] != "Established")
        .map(|(family, name, peer)| {
            let state = peer["state"].as_str().unwrap_or("unknown");
            RUNNING.warning(
                format!("BGP session {name} ({family}) is not up: {state}"),
                format!("see vtysh -c 'show bgp neighbors {name}', and the other side"),
            )
        })
        .collect()
}

/// Destination and kernel metric of each route that zebra has from the kernel.
fn kernel_routes(json: &str) -> BTreeSet<(IpNet, u32)> {
    let json: Value = serde_json::from_str(json).unwrap_or_default();
    let entries = json.as_object().into_iter().flatten();
    entries
        .filter_map(|(destination, routes)| Some((destination.parse().ok()?, routes.as_array()?)))
        .flat_map(|(destination, routes)| routes.iter().map(move |route| (destination, route)))
        .filter_map(|(destination, route)| {
            let number = |name: &str| u32::try_from(route[name].as_u64().unwrap_or(0)).ok();
            // KERNEL: the metric of the kernel, taken apart by zebra.
            Some((destination, (number("distance")? << 24) + number("metric")?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shape of FRR 8.4.
    #[test]
    fn answers_are_read() {
        let found = sessions(
            r#"{"ipv4Unicast":{"routerId":"10.0.1.2","peers":{"10.0.1.1":{"state":"Established"},"10.0.1.3":{"state":"Active"}}}}"#,
        );
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].what.contains("10.0.1.3 (ipv4Unicast) is not up: Active"));
        let routes =
            r#"{"10.65.0.2/32":[{"prefix":"10.65.0.2/32","protocol":"kernel","distance":6,"metric":2048}]}"#;
        assert_eq!(kernel_routes(routes), [("10.65.0.2/32".parse().unwrap(), (6 << 24) + 2048)].into());
        assert!(kernel_routes("").is_empty() && sessions("").is_empty());
    }

    #[test]
    fn options_of_the_daemons_are_read() {
        let process = |line: &str| Process {
            arguments: line.split(' ').map(str::to_owned).collect(),
            ..Process::default()
        };
        assert_eq!(Vtysh::of(&process("/usr/lib/frr/bgpd -d -N blue")).options, ["-N", "blue"]);
        assert_eq!(Vtysh::of(&process("bgpd --vty_socket /run/x")).options, ["--vty_socket", "/run/x"]);
        assert!(restarts(&process("zebra -d -A 127.0.0.1")).change.is_some());
        assert!(restarts(&process("zebra -d --retain -K 60")).change.is_none());
    }
}
