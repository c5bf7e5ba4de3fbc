//! What in a configuration holds updates back, by its text: a rehearsal asks what is told, not when.

use crate::doctor::finding::{Area, Check, Finding};

pub(super) static DELAYS: Check = Check {
    area: Area::Bgp,
    name: "delays",
    wants: "Nothing in FRR's configuration holds updates back: no advertisement interval, no dampening, no waiting for the kernel",
    why: "Until the others have heard where a VM is, they send to the host that it has left. BIRD has none of these.",
};

/// Judges the text of FRR's configuration.
pub(super) fn of_frr(configuration: &str, text: &str) -> Vec<Finding> {
    let findings: Vec<Finding> = text.lines().filter_map(of_line).collect();
    if findings.is_empty() {
        return vec![DELAYS.ok(format!("nothing in {configuration} holds updates back"))];
    }
    findings
}

fn of_line(line: &str) -> Option<Finding> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        ["neighbor", peer, "advertisement-interval", seconds] if seconds != "0" => Some(DELAYS.warning(
            format!("neighbor {peer} advertisement-interval {seconds}: after one update, the next one waits for up to {seconds} s"),
            format!("no neighbor {peer} advertisement-interval"),
        )),
        ["bgp", "suppress-fib-pending"] => Some(DELAYS.warning(
            "bgp suppress-fib-pending: bgpd waits before each update; with FRR 8.4 a route was in the peer's kernel after 0.6 s instead of 0.1 s, at the median",
            "no bgp suppress-fib-pending: a compute host passes on no routes of others, for which it is meant",
        )),
        ["bgp", "dampening", ..] => Some(DELAYS.warning(
            "bgp dampening: a VM that moves to and fro looks like a flapping route, and is suppressed for minutes",
            "no bgp dampening",
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn each_line_that_delays_is_a_finding() {
        let text = "router bgp 64601\n bgp suppress-fib-pending\n neighbor 10.0.1.1 remote-as 64512\n \
            neighbor 10.0.1.1 advertisement-interval 5\n neighbor TOR advertisement-interval 0\n ! bgp dampening\n \
            address-family ipv4 unicast\n  bgp dampening 10\n exit-address-family\n";
        let found = of_frr("frr.conf", text);
        assert_eq!(found.iter().map(|it| it.level).collect::<Vec<_>>(), [Level::Warning; 3], "{found:?}");
        assert!(found[1].what.starts_with("neighbor 10.0.1.1 advertisement-interval 5: "), "{found:?}");
        let found = of_frr("frr.conf", "router bgp 64601\n no bgp suppress-fib-pending\n");
        assert_eq!(found.iter().map(|it| it.level).collect::<Vec<_>>(), [Level::Ok], "{found:?}");
    }
}
