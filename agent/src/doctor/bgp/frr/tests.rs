//! Configurations that are right in everything, and what becomes of them when one thing is taken away.

use super::super::{Family, Wanted};
use super::config::Config;
use super::judge::judge;
use crate::doctor::finding::{Finding, Level};

const NORMAL: u32 = (6 << 24) + 2048;

fn text(is_external: bool) -> String {
    let community = if is_external { " set community 65000:100\n" } else { "" };
    let told = if is_external {
        " match community ELEVATED\n set local-preference 2147483637\n"
    } else {
        " match local-preference 2147483637\n"
    };
    let mut text = "frr version 8.4.4\nbgp community-list standard ELEVATED seq 5 permit 65000:100\n\
        bgp as-path access-list OWN seq 5 permit ^$\n!\ninterface eth0\n ip ospf cost 5\nexit\n"
        .to_owned();
    for (digit, ip, any, bits) in [(4, "ip", "0.0.0.0/0", 32), (6, "ipv6", "::/0", 128)] {
        text += &format!(
            "{ip} prefix-list VM{digit} seq 5 permit {any} ge {bits}\n\
             route-map KERNEL{digit} permit 10\n match {ip} address prefix-list VM{digit}\n match metric 10\n set local-preference 2147483637\n set weight 0\n{community}exit\n\
             route-map KERNEL{digit} permit 20\n match {ip} address prefix-list VM{digit}\n match metric 2048\n set local-preference 2046818303\n set weight 0\nexit\n\
             route-map IN{digit} permit 10\n match {ip} address prefix-list VM{digit}\n{told} set distance 5\nexit\n\
             route-map IN{digit} permit 20\nexit\n\
             route-map OUT{digit} permit 10\n match as-path OWN\nexit\n"
        );
    }
    let remote = if is_external { 64512 } else { 64601 };
    text += &format!(
        "router bgp 64601\n bgp router-id 10.0.1.2\n no bgp default ipv4-unicast\n bgp graceful-restart\n\
         neighbor G4 peer-group\n neighbor 10.0.1.1 remote-as {remote}\n neighbor 10.0.1.1 peer-group G4\n\
         neighbor G6 peer-group\n neighbor fd00::1 remote-as {remote}\n neighbor fd00::1 peer-group G6\n !\n"
    );
    for digit in [4, 6] {
        text += &format!(
            " address-family ipv{digit} unicast\n  redistribute kernel route-map KERNEL{digit}\n  neighbor G{digit} activate\n\
             \x20 neighbor G{digit} route-map IN{digit} in\n  neighbor G{digit} route-map OUT{digit} out\n exit-address-family\n !\n"
        );
    }
    text + "exit\n!\nend\n"
}

fn wanted(normal: u32, elevated: u32) -> Wanted {
    let family = |is_ipv6| Family { is_ipv6, normal, elevated, sample: None };
    Wanted {
        families: vec![family(false), family(true)],
        prefixes: "tap".parse().unwrap(),
        protocol: 3,
        here: vec![],
    }
}

fn judged(text: &str) -> Vec<Finding> {
    judge(&Config::of(text), &wanted(NORMAL, 10))
}

fn problems(findings: &[Finding]) -> Vec<(&'static str, Level)> {
    assert!(findings.iter().all(|finding| (finding.level == Level::Ok) == finding.change.is_none()));
    let bad = findings.iter().filter(|finding| finding.level != Level::Ok);
    let mut found: Vec<_> = bad.map(|finding| (finding.check.name, finding.level)).collect();
    found.sort();
    found.dedup();
    found
}

/// Exchanges a part that has to be there.
#[track_caller]
fn changed(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from:?} is not in {text}");
    text.replace(from, to)
}

#[test]
fn what_is_right_has_no_finding() {
    for is_external in [false, true] {
        let found = judged(&text(is_external));
        assert_eq!(problems(&found), [], "{found:#?}");
        assert!(found.len() > 12, "{found:#?}");
    }
}

#[test]
fn each_correction_that_is_missing_is_exactly_one_check() {
    use Level::{Error, Warning};
    for (is_external, from, to, expected) in [
        (false, " bgp graceful-restart\n", "", ("restart", Warning)),
        (false, "  redistribute kernel route-map KERNEL4\n", "", ("learns", Error)),
        (false, " match metric 2048\n", " match metric 1024\n", ("priorities", Error)),
        (false, " set weight 0\n", "", ("remote-elevated-wins", Error)),
        (false, " set distance 5\n", "", ("remote-elevated-wins", Error)),
        (false, " set distance 5\n", " set distance 6\n", ("remote-elevated-wins", Error)),
        (false, "neighbor G6 activate", "", ("announces", Level::Notice)),
        (false, "seq 5 permit 0.0.0.0/0 ge 32", "seq 5 permit 0.0.0.0/0 le 32", ("only-vms", Warning)),
        (false, "route-map IN4 permit 20", "route-map IN4 deny 20", ("into-kernel", Error)),
        (true, " set community 65000:100\n", "", ("elevated-announced", Error)),
        (true, "route-map OUT4 permit 10", "route-map OUT4 deny 10", ("announces", Error)),
        (true, "  neighbor G4 route-map OUT4 out\n", "", ("announces", Error)),
        (
            true,
            " set local-preference 2147483637\n set distance 5",
            " set distance 5",
            ("remote-elevated-wins", Error),
        ),
        (true, "permit 65000:100", "permit 65000:200", ("remote-elevated-wins", Error)),
    ] {
        let found = judged(&changed(&text(is_external), from, to));
        let mut only = problems(&found);
        // What is not announced cannot win elsewhere.
        if expected.0 == "elevated-announced" {
            only.retain(|(name, _)| *name != "remote-elevated-wins");
        }
        assert_eq!(only, [expected], "{from:?} -> {to:?}: {found:#?}");
    }
}

#[test]
fn equal_preferences_are_found_on_all_three_hosts() {
    let same = changed(&text(false), "set local-preference 2046818303", "set local-preference 2147483637");
    let found = problems(&judged(&same));
    let names: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["elevated-announced", "local-elevated-wins", "remote-elevated-wins"]);
}

#[test]
fn priorities_that_frr_cannot_carry_are_found_whatever_the_configuration() {
    let default = judge(&Config::of(&text(false)), &wanted(1024, 512));
    assert_eq!(problems(&default), [("remote-elevated-wins", Level::Error)]);
    assert!(
        default.iter().any(|it| it
            .change
            .as_ref()
            .is_some_and(|it| it.contains("IPv6NormalRoutePriority = 100665344")))
    );
    let late = changed(
        &changed(&text(false), "match metric 10\n", "match metric 512\n"),
        "2147483637",
        "2147483135",
    );
    let found = judge(&Config::of(&late), &wanted(NORMAL, 512));
    assert_eq!(problems(&found), [("kernel-metric", Level::Notice)]);
    let protocol = Wanted { protocol: 186, ..wanted(NORMAL, 10) };
    assert_eq!(problems(&judge(&Config::of(&text(false)), &protocol)), [("learns", Level::Error)]);
}

#[test]
fn what_cannot_be_known_is_not_claimed() {
    let interface =
        changed(&text(false), " match metric 2048\n", " match metric 2048\n match interface tap1\n");
    assert_eq!(problems(&judged(&interface)), [("learns", Level::Notice)]);
    let jump = changed(&text(false), "route-map IN4 permit 20\n", "route-map IN4 permit 20\n call OTHER\n");
    assert_eq!(problems(&judged(&jump)), [("into-kernel", Level::Notice)]);
    let addresses = changed(&text(false), "permit 0.0.0.0/0 ge 32", "permit 10.65.0.0/16 ge 32");
    assert_eq!(problems(&judged(&addresses)), [("learns", Level::Notice)]);
    let mut here = wanted(NORMAL, 10);
    here.families[0].sample = Some("10.65.0.2/32".parse().unwrap());
    assert_eq!(problems(&judge(&Config::of(&addresses), &here)), []);
}

#[test]
fn instances_of_vrfs_and_other_blocks_do_not_count() {
    let vrf = changed(&text(false), "router bgp 64601\n", "router bgp 64601 vrf blue\n");
    assert_eq!(problems(&judged(&vrf)), [("announces", Level::Error)]);
    assert_eq!(problems(&judged("")), [("announces", Level::Error)]);
    let evpn = changed(
        &text(false),
        "exit\n!\nend",
        " address-family l2vpn evpn\n  neighbor G4 activate\n exit-address-family\nexit\nend",
    );
    assert_eq!(problems(&judged(&evpn)), []);
}
