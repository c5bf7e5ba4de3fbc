//! Whether what is sent to a virtual machine while it moves can be forwarded: by what a running agent says of other hosts' agents, of the
//! tunnel and of tracked connections.

use super::finding::{Area, Check, Finding};
use cutover_daemon::control::Status;
use std::fmt::Display;
use std::time::Duration;

static CHANNEL: Check = Check {
    area: Area::Hitless,
    name: "channel",
    wants: "Other hosts' agents can reach this one, unless CutoverPeering is off",
    why: "They tell each other that a VM has announced itself, and the source forwards what still comes for it. Without that it is lost until the last router has the new route.",
};
static RECORDS: Check = Check {
    area: Area::Hitless,
    name: "records",
    wants: "The records of other hosts' agents can be read, and that of this host can be written",
    why: "An agent finds the others, and knows that it is them, by the address and the key in their records: /cutover/v1/host/ in etcd, or the files of CutoverPeerDir.",
};
static CONVERSATIONS: Check = Check {
    area: Area::Hitless,
    name: "conversations",
    wants: "The two agents of every migration talk to each other",
    why: "As long as they do not, nothing of this migration is forwarded; the VM moves all the same, by BGP.",
};
static TUNNEL: Check = Check {
    area: Area::Hitless,
    name: "tunnel",
    wants: "Device, tables and rules of the tunnel are as the agent wants them",
    why: "What is forwarded goes through them. They are there while a migration needs them.",
};
static CONNECTIONS: Check = Check {
    area: Area::Hitless,
    name: "connections",
    wants: "Tracked connections can be read and made, where the kernel tracks any",
    why: "A firewall on the target drops what it takes for the middle of a connection that it has never seen.",
};

pub(super) static CHECKS: &[&Check] = &[&CHANNEL, &RECORDS, &CONVERSATIONS, &TUNNEL, &CONNECTIONS];

/// LIMIT: an agent waits three seconds for another one that has not seen the migration yet, and tries again after two.
const BRIEFLY: Duration = Duration::from_secs(6);

/// What a running agent says.
pub(super) fn judge(status: &Status) -> Vec<Finding> {
    if let Some(reason) = &status.peers.off {
        return vec![CHANNEL.ok(format!("nothing is forwarded: {reason}"))];
    }
    let mut findings = vec![channel(status)];
    findings.extend(records(status));
    findings.extend(conversations(status));
    let tunnel = status.tunnel.error.as_ref();
    findings.push(match tunnel {
        None => TUNNEL.ok("the tunnel is as it is wanted"),
        Some(error) => TUNNEL.warning(error, "take away what is in the way; the agent tries again"),
    });
    findings.push(match &status.handover_error {
        None => CONNECTIONS.ok("nothing hinders the hand-over of tracked connections"),
        Some(error) => CONNECTIONS
            .warning(error, "let the kernel have nf_conntrack_netlink, or set CutoverConntrack = off"),
    });
    findings
}

fn channel(status: &Status) -> Finding {
    let troubles = &status.peers.troubles;
    let trouble = ["address", "listener", "keys"].iter().find_map(|part| troubles.get(*part));
    match (trouble, status.peers.address) {
        (Some(trouble), _) => CHANNEL
            .warning(trouble, "set CutoverPeerAddress and CutoverPeerPort to what other hosts can reach"),
        (None, Some(address)) => CHANNEL.ok(format!("listening on {address}")),
        (None, None) => CHANNEL.warning(
            "the agent does not know yet by which address other hosts can reach it",
            "set CutoverPeerAddress, or let this host reach etcd: its address there is taken",
        ),
    }
}

fn records(status: &Status) -> Vec<Finding> {
    let grant = "etcdctl role grant-permission <role of the agent> --prefix readwrite /cutover/v1/";
    let trouble =
        status.peers.troubles.get("records").map(|trouble| RECORDS.warning(trouble, mend(trouble, grant)));
    let bad = status.peers.bad_records.iter().map(|(host, reason)| {
        RECORDS.warning(
            format!("that of {host}: {reason}"),
            format!("look at the agent on {host}: it writes its record when it starts, and of the release that runs there"),
        )
    });
    let found: Vec<_> = trouble.into_iter().chain(bad).collect();
    if found.is_empty() {
        return vec![RECORDS.ok(format!("{} other hosts are known", status.peers.known_hosts))];
    }
    found
}

fn mend<'a>(trouble: &str, grant: &'a str) -> &'a str {
    if trouble.contains("permission denied") {
        grant
    } else {
        "see what datastore.member says; or set CutoverPeering = off"
    }
}

fn conversations(status: &Status) -> Vec<Finding> {
    let port = status.peers.address.map_or(7179, |address| address.port());
    let silent = status
        .peers
        .conversations
        .iter()
        .filter(|it| !it.is_connected && Duration::from_millis(it.for_ms) > BRIEFLY);
    let found: Vec<_> = silent
        .map(|it| {
            let reason = it.error.as_ref().map_or(&"nobody has asked" as &dyn Display, |error| error);
            CONVERSATIONS.warning(
                format!("about {} with {}: {reason}", it.endpoint, it.peer),
                format!(
                    "let TCP {port} and the UDP port of CutoverTunnelPort pass between the two hosts, both ways, and see cutover doctor on {}",
                    it.peer
                ),
            )
        })
        .collect();
    if found.is_empty() {
        let count = status.peers.conversations.len();
        return vec![CONVERSATIONS.ok(format!("{count} are wanted, and none is waited for"))];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use cutover_daemon::peers::{ConversationStatus, PeersStatus};

    fn status(peers: PeersStatus) -> Status {
        Status { peers, ..crate::example::status(Vec::new()) }
    }

    fn peers() -> PeersStatus {
        PeersStatus { address: Some(([192, 0, 2, 1], 7179).into()), ..PeersStatus::default() }
    }

    fn problems(status: &Status) -> Vec<(&'static str, Level)> {
        let found = judge(status);
        let bad = found.iter().filter(|finding| finding.level != Level::Ok);
        bad.map(|finding| (finding.check.name, finding.level)).collect()
    }

    #[test]
    fn one_that_is_off_is_said_to_be_and_nothing_else() {
        let off = status(PeersStatus { off: Some("CutoverPeering is off".into()), ..PeersStatus::default() });
        assert_eq!((judge(&off).len(), problems(&off)), (1, vec![]));
        assert_eq!(problems(&status(peers())), []);
    }

    #[test]
    fn each_trouble_is_a_finding() {
        for (part, check) in
            [("address", "channel"), ("listener", "channel"), ("keys", "channel"), ("records", "records")]
        {
            let troubles = [(part.to_owned(), "etcdserver: permission denied".to_owned())].into();
            let status = status(PeersStatus { troubles, ..peers() });
            assert_eq!(problems(&status), [(check, Level::Warning)], "{part}");
        }
        let unknown = status(PeersStatus { address: None, ..peers() });
        assert_eq!(problems(&unknown), [("channel", Level::Warning)]);
        let bad_records = [("compute2".to_owned(), "no JSON".to_owned())].into();
        assert_eq!(problems(&status(PeersStatus { bad_records, ..peers() })), [("records", Level::Warning)]);
    }

    #[test]
    fn who_may_not_read_records_is_told_how_to_grant_it() {
        let troubles = [("records".to_owned(), "read records: permission denied".to_owned())].into();
        let found = judge(&status(PeersStatus { troubles, ..peers() }));
        let change = found.iter().find_map(|finding| finding.change.as_ref()).unwrap();
        assert!(change.ends_with("--prefix readwrite /cutover/v1/"), "{change}");
    }

    #[test]
    fn two_that_do_not_talk_are_given_a_moment() {
        let conversation = |for_ms, is_connected| ConversationStatus {
            endpoint: "openstack/vm/port".into(),
            migration_uid: "u".into(),
            peer: "compute2".into(),
            side: "target".into(),
            is_connected,
            error: Some("cannot connect to 192.0.2.2:7179 from 192.0.2.1: timed out".into()),
            for_ms,
        };
        for (for_ms, is_connected, expected) in [
            (5_000, false, vec![]),
            (7_000, false, vec![("conversations", Level::Warning)]),
            (7_000, true, vec![]),
        ] {
            let conversations = vec![conversation(for_ms, is_connected)];
            assert_eq!(problems(&status(PeersStatus { conversations, ..peers() })), expected);
        }
    }
}
