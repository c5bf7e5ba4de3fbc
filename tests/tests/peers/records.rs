//! Records of agents in etcd: they come with an agent and go with it, and who reads them finds the others.

use crate::site::{Agent, RECORDS, Site, TUNNEL_PORT, source_says, target_says};
use cutover_tests::wait;
use std::sync::Arc;
use std::time::Duration;

/// How long a record may outlive its agent: its lease, and what etcd takes to notice.
const LEASE: Duration = Duration::from_secs(25);

/// How long an agent may take to find a cluster again.
const RECOVERY: Duration = Duration::from_secs(40);

#[test]
fn a_record_is_there_while_its_agent_is() {
    let mut site = Site::talking();
    let text = site.record("source").unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(record["version"], 1);
    assert_eq!(record["address"], site.source.address().to_string());
    assert_eq!(record["port"], 7179);
    assert_eq!(record["tunnel_port"], 4790);
    assert!(
        record["public_key"].as_str().is_some_and(|key| key.starts_with("302a300506032b6570032100")),
        "{text}"
    );
    assert_eq!(site.target.status().known_hosts, 1);
    // Longer than a lease that nobody keeps.
    wait::throughout(Duration::from_secs(17), "a record", || site.record("source").is_some());
    site.source.die();
    site.target.until(wait::SOON, "the end", |status| !status.conversations[0].is_connected);
    wait::until(LEASE, "no record", || site.record("source").is_none());
    site.target.until(wait::SOON, "no host", |status| status.known_hosts == 0);
    let words = "there is no record of source";
    site.target.until(wait::SOON, words, |status| {
        status.conversations[0].error.as_ref().is_some_and(|error| error.contains(words))
    });
    assert!(site.record("target").is_some());
}

/// Whoever is started again has another key, which the other one takes over without a pause.
#[test]
fn agents_that_are_started_again_talk_again() {
    let mut site = Site::talking();
    for round in 0..3 {
        let key = site.record("source").unwrap();
        site.source.start_again(&site.etcd);
        site.source.wants("target", "u", source_says(true));
        assert_eq!(site.source.hears().2, target_says(1), "round {round}");
        assert_ne!(site.record("source").unwrap(), key);
        if round == 0 {
            assert_eq!(site.target.hears().2, source_says(true));
        }
        wait::until(wait::SOON, "a connection", || site.target.is_connected());
    }
    site.target.start_again(&site.etcd);
    site.target.wants("source", "u", target_says(2));
    assert_eq!(site.source.hears().2, target_says(2));
    assert_eq!(site.target.hears().2, source_says(true));
}

#[test]
fn a_record_that_somebody_takes_away_comes_back() {
    let site = Site::talking();
    let text = site.record("source").unwrap();
    let is_back = || site.record("source").as_ref() == Some(&text);
    site.etcd.delete_all("/cutover/");
    wait::until(wait::SOON, "the record", is_back);
    site.etcd.put(&format!("{RECORDS}source"), "{}");
    wait::until(wait::SOON, "the record", is_back);
    assert!(site.source.is_connected() && site.target.is_connected());
}

#[test]
fn a_record_that_cannot_be_read_disturbs_nobody_else() {
    let mut site = Site::talking();
    for (host, text) in [("bad", "{"), ("late", "{\"version\": 2}"), ("a/b", "{}"), ("", "{}")] {
        site.etcd.put(&format!("{RECORDS}{host}"), text);
    }
    site.target.until(wait::SOON, "what is bad", |status| status.bad_records.len() >= 3);
    let bad = site.target.status().bad_records;
    assert!(bad["late"].contains("version is 2"), "{bad:?}");
    site.source.wants("target", "u", source_says(true));
    assert_eq!(site.target.hears().2, source_says(true));
    site.etcd.delete_all(&format!("{RECORDS}bad"));
    site.target.until(wait::SOON, "its end", |status| !status.bad_records.contains_key("bad"));
}

#[test]
fn an_outage_of_etcd_is_none_of_the_conversation() {
    let mut site = Site::talking();
    site.etcd.kill(0);
    site.target.until(RECOVERY, "trouble", |status| status.troubles.contains_key("records"));
    site.source.wants("target", "u", source_says(true));
    assert_eq!(site.target.hears().2, source_says(true));
    assert_eq!(site.target.status().known_hosts, 1);
    site.etcd.restart(0);
    site.etcd.wait_answering();
    for agent in [&site.source, &site.target] {
        agent.until(RECOVERY, "no trouble", |status| status.troubles.is_empty());
    }
    let third = Agent::start(Arc::new(site.lab.host("third")), &site.etcd, TUNNEL_PORT);
    third.until(RECOVERY, "both", |status| status.known_hosts == 2);
    site.target.until(wait::SOON, "the third", |status| status.known_hosts == 2);
    wait::throughout(Duration::from_secs(17), "records", || site.etcd.all(RECORDS).len() == 3);
}

/// What went by while an agent did not follow is read afterwards.
#[test]
fn history_that_is_gone_is_read_anew() {
    let site = Site::talking();
    site.etcd.kill(0);
    site.target.until(RECOVERY, "trouble", |status| status.troubles.contains_key("records"));
    site.etcd.restart(0);
    site.etcd.wait_answering();
    site.etcd.put(&format!("{RECORDS}bad"), "{");
    site.etcd.delete_all(&format!("{RECORDS}bad"));
    site.etcd.put(&format!("{RECORDS}worse"), "{");
    site.etcd.compact();
    site.target.until(RECOVERY, "the newest", |status| status.bad_records.keys().eq(["worse"]));
}

#[test]
fn one_tunnel_has_one_port() {
    let site = Site::new();
    let other = Agent::start(Arc::new(site.lab.host("other")), &site.etcd, TUNNEL_PORT + 1);
    other.wants("source", "u", target_says(1));
    site.source.wants("other", "u", source_says(false));
    let words = "CutoverTunnelPort of source is 4790, and here it is 4791";
    other.until(wait::SOON, words, |status| {
        let conversation = status.conversations.first();
        conversation.and_then(|it| it.error.as_ref()).is_some_and(|error| error.contains(words))
    });
}

#[test]
fn an_underlay_may_be_of_ipv6() {
    let lab = cutover_tests::Lab::new();
    let etcd = cutover_tests::Etcd::start(&lab);
    let agent = |name| {
        let host = Arc::new(lab.host(name));
        let address = host.ipv6().into();
        Agent::start_at(host, &etcd, TUNNEL_PORT, Some(address))
    };
    let (mut source, mut target) = (agent("source"), agent("target"));
    let third = Agent::start(Arc::new(lab.host("third")), &etcd, TUNNEL_PORT);
    source.wants("target", "u", source_says(false));
    target.wants("source", "u", target_says(1));
    assert_eq!(source.hears().1, std::net::IpAddr::from(target.host.ipv6()));
    assert_eq!(target.hears().1, std::net::IpAddr::from(source.host.ipv6()));
    third.wants("source", "u", target_says(1));
    third.until(wait::SOON, "one family", |status| {
        let conversation = status.conversations.first();
        conversation.and_then(|it| it.error.as_ref()).is_some_and(|error| error.contains("of one family"))
    });
}

/// Away from etcd for longer than its lease lasts: the record goes, and comes back with another lease.
#[test]
fn a_lease_that_is_lost_is_replaced() {
    let site = Site::talking();
    let host = site.source.host.namespace();
    let blackhole = |verb: &str| {
        let member = site.etcd.endpoint();
        let address = member.trim_start_matches("http://").trim_end_matches(":2379").to_owned();
        host.ip(&format!("route {verb} blackhole {address}/32"));
    };
    blackhole("add");
    wait::until(LEASE, "no record", || site.record("source").is_none());
    assert!(site.source.is_connected() && site.target.is_connected(), "they do without");
    blackhole("del");
    wait::until(RECOVERY, "the record", || site.record("source").is_some());
    site.target.until(wait::SOON, "the host", |status| status.known_hosts == 1);
}
