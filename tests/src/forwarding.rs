//! What there is of forwarding on a host: routes of its two tables, the rules that lead there, the device, and the table of nf_tables. [`traces`] asks `ip` and `nft`, so a
//! bug of the agent's netlink code cannot hide itself there.

use crate::firewall;
use crate::host::Host;
use crate::wait;
use cutover_daemon::netlink::policy;
use ipnet::IpNet;

/// The table of what is forwarded, and of what came out of the tunnel, by default.
const TABLES: [u32; 2] = [FORWARDED, FORWARDED + 1];
const FORWARDED: u32 = 7179;

/// How an agent marks its routes and rules there.
const PROTOCOL: u8 = 79;

/// What is forwarded. Asks with the agent's netlink code, and so quickly that it can be asked again and again.
///
/// # Panics
/// When the kernel does not say so.
#[must_use]
pub fn forwarded(host: &Host) -> Vec<IpNet> {
    let routes = host.namespace().run(|| policy::routes(FORWARDED, PROTOCOL)).expect("the kernel tells");
    routes.into_iter().map(|route| route.destination).collect()
}

/// Routes, rules and the device, one line each.
///
/// # Panics
/// Without `ip` and `nft`.
#[must_use]
pub fn traces(host: &Host) -> Vec<String> {
    let ip = |arguments: &[&str]| {
        let output = host.namespace().command("ip").args(arguments).output().expect("ip");
        String::from_utf8(output.stdout).expect("text")
    };
    let mut found = Vec::new();
    for family in ["-4", "-6"] {
        for table in TABLES {
            let routes = ip(&[family, "route", "show", "table", &table.to_string()]);
            found.extend(routes.lines().map(|route| format!("table {table}: {}", route.trim())));
        }
        let rules = ip(&[family, "rule", "show"]);
        let leads = |rule: &&str| TABLES.iter().any(|table| rule.contains(&table.to_string()));
        found.extend(rules.lines().filter(leads).map(str::to_owned));
    }
    found.extend(host.ifindex("cutover0").map(|_| "cutover0".to_owned()));
    let rules = firewall::rules(host.namespace());
    found.extend(rules.lines().filter(|line| line.contains("table inet cutover")).map(str::to_owned));
    found
}

/// Waits until nothing of it is left.
///
/// # Panics
/// When something is.
#[track_caller]
pub fn wait_gone(host: &Host) {
    let is_gone = wait::holds_within(wait::SOON, || traces(host).is_empty());
    assert!(is_gone, "left on {}: {:?}", host.name(), traces(host));
}
