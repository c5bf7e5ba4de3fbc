//! The running BIRD: its sessions, and whether it has the routes of the VMs here.

use super::super::{RUNNING, VmRoute, compare};
use crate::doctor::command::answer;
use crate::doctor::finding::Finding;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::io;

/// The first number of the version of the daemon behind a control socket.
pub(super) fn version(socket: &str) -> io::Result<u32> {
    let text = answer("birdc", &["-r", "-s", socket, "show", "status"])?;
    major(&text).ok_or_else(|| io::Error::other("birdc does not say its version"))
}

fn major(text: &str) -> Option<u32> {
    let after = text.split_once("BIRD ")?.1;
    after.trim_start_matches('v').split('.').next()?.parse().ok()
}

/// Asks the daemon.
pub(super) fn examine(socket: &str, routes: &[VmRoute]) -> Vec<Finding> {
    let ask = |what: &[&str]| answer("birdc", &[&["-r", "-s", socket], what].concat());
    let asked =
        ask(&["show", "protocols"]).and_then(|protocols| Ok((protocols, ask(&["show", "route", "all"])?)));
    let (protocols, table) = match asked {
        Ok(answers) => answers,
        Err(error) => {
            let what = format!("could not ask BIRD at {socket}: {error}");
            return vec![RUNNING.notice(what, "run cutover doctor as root, with birdc installed")];
        }
    };
    let mut findings = sessions(&protocols);
    findings.extend(compare("BIRD", routes, &kernel_routes(&table)));
    if findings.is_empty() {
        findings.push(RUNNING.ok("BIRD runs, its sessions are up, and it has the routes of VMs"));
    }
    findings
}

/// BGP protocols that are not up: name, protocol, table, state, since when (one or two words), and more about it.
fn sessions(protocols: &str) -> Vec<Finding> {
    let rows = protocols.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let bgp = rows.filter(|row| row.get(1) == Some(&"BGP"));
    bgp.filter(|row| row.get(3) != Some(&"up") || !row.contains(&"Established"))
        .map(|row| {
            RUNNING.warning(
                format!("BGP session {} is not up: {}", row[0], row[3..].join(" ")),
                format!("see birdc show protocols all {}, and the other side", row[0]),
            )
        })
        .collect()
}

/// Destination and metric of each route that the table has from the kernel. BIRD 3 calls the metric otherwise.
fn kernel_routes(table: &str) -> BTreeSet<(IpNet, u32)> {
    let mut found = BTreeSet::new();
    let mut destination: Option<IpNet> = None;
    for line in table.lines() {
        if !line.starts_with(char::is_whitespace) {
            destination = line.split_whitespace().next().and_then(|word| word.parse().ok());
        }
        let metric =
            line.trim().split_once(": ").filter(|(name, _)| matches!(*name, "Kernel.metric" | "krt_metric"));
        if let (Some(destination), Some((_, metric))) = (destination, metric) {
            found.extend(metric.trim().parse().ok().map(|metric| (destination, metric)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What BIRD 2.0.12 prints, with a session that is not up.
    #[test]
    fn sessions_are_read() {
        let text = "BIRD 2.0.12 ready.\nName       Proto      Table      State  Since         Info\n\
            device1    Device     ---        up     05:39:38.847  \nkernel1    Kernel     master4    up     05:39:38.847  \n\
            p1         BGP        ---        up     05:39:42.783  Established   \n\
            p2         BGP        ---        start  05:39:42.783  Active        Socket: Connection refused\n";
        let found = sessions(text);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].what.contains("p2 is not up: start") && found[0].what.contains("Connection refused")
        );
        assert_eq!(major(text), Some(2));
        assert_eq!(major("BIRD 1.6.8 ready.\n"), Some(1));
        assert_eq!(major("BIRD v3.1.0 ready.\n"), Some(3));
    }

    /// What BIRD 2.0.12 prints for a local and a remote route; only the local one has a metric of the kernel.
    #[test]
    fn routes_of_the_kernel_are_read() {
        let text = "BIRD 2.0.12 ready.\nTable master4:\n\
            10.65.0.2/32         unicast [p1 05:39:45.855] * (100) [i]\n\tvia 192.168.9.1 on eth0\n\tType: BGP univ\n\
            \tBGP.local_pref: 2147482623\n                     unicast [kernel1 05:39:48.358] (10)\n\tdev tap1\n\
            \tKernel.source: 3\n\tKernel.metric: 512\n\nTable master6:\n\
            2001:db8::2/128      unicast [kernel2 05:39:48.358] (10)\n\tdev tap1\n\tkrt_metric: 1024\n";
        let expected = [("10.65.0.2/32".parse().unwrap(), 512), ("2001:db8::2/128".parse().unwrap(), 1024)];
        assert_eq!(kernel_routes(text), expected.into());
    }
}
