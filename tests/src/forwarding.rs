//! What there is of forwarding on a host: routes of its two tables, the rules that lead there, the device, and the table of nf_tables. Asks `ip` and `nft`, so a bug of the
//! agent's netlink code cannot hide itself.

use crate::firewall;
use crate::host::Host;
use crate::wait;

/// The table of what is forwarded, and of what came out of the tunnel, by default.
const TABLES: [&str; 2] = ["7179", "7180"];

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
            let routes = ip(&[family, "route", "show", "table", table]);
            found.extend(routes.lines().map(|route| format!("table {table}: {}", route.trim())));
        }
        let rules = ip(&[family, "rule", "show"]);
        let leads = |rule: &&str| TABLES.iter().any(|table| rule.contains(table));
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
