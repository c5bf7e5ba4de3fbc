//! Documents as a browser gets them: what is in them, what cannot be, and how large they become.

use super::*;
use crate::control::{Status, Trouble};
use crate::observe::metrics::tests::{EndpointView, endpoint, observed};
use crate::timeline::samples::{BEGAN, migration, phases};
use crate::timeline::{Departure, Migration, Step};
use cutover_engine::machine::{Phases, State};
use cutover_engine::view::{FelixView, ForwardView, MigrationView, RouteView};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What somebody may have written into a datastore.
const HOSTILE: &str = "\"><img src=x onerror=alert(1)><!--'&\n\u{202e}";

fn page(status: &Status, migrations: &[Migration]) -> String {
    let now = BEGAN + Duration::from_secs(60);
    host(&Host {
        status,
        migrations,
        unreadable: None,
        now,
        now_unix_ns: 1_709_210_156_000_000_000,
        refresh: None,
    })
}

/// Tags that are opened, in their order. Fails unless each that has to be closed is closed in its turn.
#[track_caller]
fn tags(document: &str) -> Vec<&str> {
    const VOID: [&str; 3] = ["!DOCTYPE", "meta", "br"];
    let (mut tags, mut open) = (Vec::new(), Vec::new());
    let mut rest = document;
    while let Some((before, after)) = rest.split_once('<') {
        assert!(!before.contains('>') || open.last() == Some(&"style"), "a stray > in {before}");
        let (tag, after) = after.split_once('>').expect("a tag ends");
        rest = after;
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "before {}", &rest[..rest.len().min(80)]);
            continue;
        }
        let name = tag.split_once(' ').map_or(tag, |(name, _)| name);
        tags.push(tag);
        if !VOID.contains(&name) {
            open.push(name);
        }
    }
    assert_eq!(open, Vec::<&str>::new());
    tags
}

fn arriving(number: u64) -> EndpointView {
    let phases = Phases {
        targeted_at: Some(BEGAN),
        armed_at: Some(BEGAN + Duration::from_secs(1)),
        ..Phases::default()
    };
    EndpointView {
        role: "TARGET".into(),
        state: State::Target,
        watch: Some(1),
        routes: Vec::new(),
        migration: Some(MigrationView {
            uid: "5b1c".into(),
            source: Some("compute1-openstack-vm1-port1".into()),
            phases,
        }),
        ..endpoint(number)
    }
}

fn forward() -> ForwardView {
    ForwardView {
        endpoint: "host-openstack-vm7-port7".into(),
        migration_uid: "u7".into(),
        to: "compute9-openstack-vm7-port7".into(),
        tap: Some(7),
        last_frame_at: None,
        tunnel_id: Some(7),
        peer: None,
        prefixes: Vec::new(),
        is_ready: true,
        is_stopped: true,
        is_announced: false,
        is_active: true,
        began_at: Some(BEGAN),
        stopped_at: Some(BEGAN + Duration::from_secs(1)),
        heard_at: None,
        started_at: Some(BEGAN + Duration::from_secs(2)),
        since_ms: Some(58_000),
        packets: 12,
        ends_in_ms: None,
    }
}

/// A host with something of everything.
fn busy() -> Status {
    let mut status = observed().status;
    let waiting = FelixView { missing: vec!["ipv4 chain to".into()], for_ms: Some(8_000) };
    status.endpoints.push(EndpointView { felix: Some(waiting), ..arriving(5) });
    status.forwards.push(forward());
    status
}

#[test]
fn a_page_says_what_is_under_way_and_what_is_waited_for() {
    let page = page(&busy(), &[migration("u1", phases())]);
    tags(&page);
    for text in [
        "<title>host – 3 under way, ",
        "Last phase: <strong>armed</strong>, 59.0 s ago. Under way for 1 min 00 s.",
        "It waits for Felix: ipv4 chain to, for 8.00 s; the announcement of its virtual machine, for 59.0 s.",
        "stopped here, forwarded for 58.0 s, 12 packets",
        "<td>compute9</td>",
        "<td class=\"long\">migrating; nothing is forwarded</td>",
        "<strong>port1 of vm1</strong> from compute-1: arrived, announced by RARP, routed 43.0 µs after that, blackout 3.50 ms ± 120 µs.",
        "<th scope=\"row\">routed</th><td class=\"number\">+4.01 s</td><td class=\"number\">+29.0 µs</td><td class=\"number\">2024-02-29T12:35:00.006043Z</td>",
        "Waiting for the machine: <strong>4.00 s</strong>",
        "3 of 5 wait for something.",
        "<a href=\"/\" aria-current=\"true\">Once</a>",
        "<dt>Announcements accepted</dt><dd>first frame 5, garp reply 3",
        "<dt>Felix, process 9</dt><dd>version v3.31.2; RouteSyncDisabled true, EndpointReportingEnabled not known, NFTablesMode Enabled</dd>",
        "2 kept that the datastore does not show any more",
        "<li>endpoint x: a reason</li>",
    ] {
        assert!(page.contains(text), "{text} is not in\n{page}");
    }
}

#[test]
fn what_moves_and_what_waits_comes_first() {
    let page = page(&busy(), &[]);
    let table = page.split_once("id=\"endpoints-table\"").expect("the table").1;
    let rows: Vec<&str> = table.split("<th scope=\"row\">").skip(1).map(|row| &row[..5]).collect();
    assert_eq!(rows, ["port3", "port5", "port2", "port4", "port1"]);
}

#[test]
fn a_host_on_which_nothing_happens_says_so() {
    let mut status = observed().status;
    status.endpoints.clear();
    status.losses = crate::control::Losses::default();
    for reasons in [&mut status.quarantine, &mut status.unprepared] {
        reasons.clear();
    }
    let page = page(&status, &[]);
    tags(&page);
    for text in [
        "Everything is as it has to be.",
        "No migration to or from this host is under way.",
        "This host has no endpoints.",
        "None is known.",
        "<title>host – 0 under way, 0 to look at – Cutover</title>",
    ] {
        assert!(page.contains(text), "{text} is not in\n{page}");
    }
}

/// Whatever is in a name, a reason or a file, the document has the same elements.
#[test]
fn nothing_that_somebody_else_has_written_becomes_markup() {
    let harmless = |text: &str| {
        let mut status = busy();
        let mine = text.to_owned();
        for it in &mut status.endpoints {
            it.interface.clone_from(&mine);
            it.key.endpoint.clone_from(&mine);
            it.key.workload.clone_from(&mine);
            it.status.clone_from(&mine);
            it.routes.push(RouteView { destination: mine.clone(), metric: 1 });
            it.waits_for = Some(mine.clone());
            it.felix = Some(FelixView { missing: vec![mine.clone()], for_ms: None });
            if let Some(migration) = &mut it.migration {
                (migration.uid, migration.source) = (mine.clone(), Some(mine.clone()));
            }
        }
        for forward in &mut status.forwards {
            forward.to.clone_from(&mine);
            forward.migration_uid.clone_from(&mine);
        }
        status.hostname.clone_from(&mine);
        status.version.clone_from(&mine);
        status.datastore_trouble = Some(Trouble { reason: mine.clone(), for_ms: 1 });
        status.quarantine = [(mine.clone(), mine.clone())].into();
        status.losses.hint = Some(mine.clone());
        status.announcements = [(format!("refused_{mine}"), 1)].into();
        let mut finished = migration(text, phases());
        (finished.endpoint, finished.source) = (mine.clone(), Some(mine.clone()));
        let departure = Departure {
            uid: mine.clone(),
            endpoint: mine.clone(),
            to: mine.clone(),
            steps: vec![(Step::Began, 1)],
        };
        let record = Record {
            host: mine,
            clock_error_ns: Some(1),
            migrations: vec![finished.clone()],
            departures: vec![departure],
            agent_answered: true,
        };
        [page(&status, &[finished]), report(&[record])]
    };
    for (hostile, harmless) in harmless(HOSTILE).into_iter().zip(harmless("harmless")) {
        assert!(!hostile.contains("<img") && !hostile.contains("<!--") && !hostile.contains('\u{202e}'));
        assert!(
            hostile.contains("&quot;&gt;&lt;img src=x onerror=alert(1)&gt;&lt;!--&#39;&amp;\\n\\u{202e}")
        );
        assert_eq!(tags(&hostile), tags(&harmless));
    }
}

/// The figure of the project for a scrape, and for a page that shows all of it.
#[test]
fn a_page_of_a_full_host_has_at_most_200_kilobytes() {
    let mut status = observed().status;
    let named = |number: u64| {
        let mut one = endpoint(number);
        one.key.endpoint = format!("5b1c9a52-7f0e-4a51-9d7b-0f3c1c7f{number:04}");
        one.key.workload = format!("openstack/5b1c9a52-7f0e-4a51-9d7b-0f3c1c7f{number:04}");
        one.name = one.key.to_string();
        one.routes.push(RouteView { destination: "2001:db8:1234:5678::ffff/128".into(), metric: 1024 });
        one
    };
    status.endpoints = (0..300).map(named).collect();
    let migrations: Vec<_> = (0..20).map(|number| migration(&format!("u{number}"), phases())).collect();
    let bytes = page(&status, &migrations).len();
    assert!(bytes <= 200_000, "{bytes} bytes");
}

/// Whatever is in the datastore, and however much of it.
#[test]
fn a_page_has_a_greatest_length() {
    let mut status = busy();
    let long = "<".repeat(1 << 16);
    let one = |number| {
        let mut one = arriving(number);
        one.key.endpoint.clone_from(&long);
        one.routes = (0..100).map(|_| RouteView { destination: long.clone(), metric: 1 }).collect();
        one
    };
    status.endpoints = (0..1100).map(one).collect();
    status.quarantine = (0..1000).map(|number| (format!("{number}{long}"), long.clone())).collect();
    let page = page(&status, &[]);
    assert!(page.len() < 64 << 20, "{} bytes", page.len());
    for text in ["100 are left out;", "1050 more are left out;", "and 980 more, which cutover status shows"] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn a_document_needs_nothing_but_itself_and_can_be_read_without_a_mouse_or_sight() {
    let record = Record { migrations: vec![migration("u1", phases())], ..Record::default() };
    let mut refreshed = busy();
    refreshed.datastore_trouble = Some(Trouble { reason: "no member answers".into(), for_ms: 7_000 });
    for document in [page(&refreshed, &[migration("u1", phases())]), report(&[record]), unanswered(&[])] {
        let tags = tags(&document);
        for tag in &tags {
            let name = tag.split(' ').next().unwrap_or_default();
            let is_allowed = !["script", "link", "img", "iframe", "form", "object", "base"].contains(&name);
            assert!(
                is_allowed && !tag.contains("style=") && !tag.contains(" on") && !tag.contains("//"),
                "{tag}"
            );
        }
        let has = |name: &str| tags.iter().filter(|tag| tag.split(' ').next() == Some(name)).count();
        assert_eq!((has("h1"), has("main"), has("title")), (1, 1, 1));
        assert_eq!((has("caption"), has("thead")), (has("table"), has("table")));
        assert!(
            tags.iter()
                .filter(|tag| tag.starts_with("th"))
                .all(|tag| tag.contains("scope=") || *tag == "thead"),
            "{tags:?}"
        );
        assert!(tags.contains(&"html lang=\"en\""));
        let ids: Vec<_> =
            tags.iter().filter_map(|tag| Some(tag.split_once(" id=\"")?.1.split_once('"')?.0)).collect();
        let unique: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(unique.len(), ids.len(), "{ids:?}");
        for tag in &tags {
            let leads = [" href=\"#", " aria-labelledby=\""].into_iter().filter_map(|it| tag.split_once(it));
            for (_, to) in leads {
                let to = to.split_once('"').expect("a value ends").0;
                assert!(ids.contains(&to), "{tag} leads nowhere");
            }
        }
    }
}

#[test]
fn a_browser_asks_again_only_if_somebody_has_asked_for_that() {
    let status = busy();
    let page = |refresh| {
        let (now, now_unix_ns) = (BEGAN, 0);
        host(&Host {
            status: &status,
            migrations: &[],
            unreadable: Some("no disk"),
            now,
            now_unix_ns,
            refresh,
        })
    };
    assert!(!page(None).contains("http-equiv=\"refresh\""));
    let page = page(Some(10));
    assert!(page.contains("<meta http-equiv=\"refresh\" content=\"10\">"), "{page}");
    assert!(page.contains("<a href=\"/?every=10\" aria-current=\"true\">Every 10 s</a>"), "{page}");
    assert!(page.contains("The record cannot be read: no disk"));
}

#[test]
fn a_loop_that_does_not_answer_is_named() {
    let page = unanswered(&[("the loop", Duration::from_secs(91))]);
    assert!(page.contains("<li>the loop, for 1 min 31 s</li>"), "{page}");
}

/// Source and target of a migration, each with a clock of its own.
#[test]
fn source_and_target_are_matched_by_the_migrations_uid() {
    let began = 1_709_210_096_000_000_000;
    let departure = |uid: &str| Departure {
        uid: uid.into(),
        endpoint: "compute--1-openstack-vm1-port1".into(),
        to: "compute--2-openstack-vm1-port1".into(),
        steps: vec![(Step::Began, began - 1_000_000), (Step::Stopped, began + 4_002_000_000)],
    };
    let source = Record {
        host: "compute-1".into(),
        departures: vec![departure("u1"), departure("u2")],
        ..Record::default()
    };
    let target = Record {
        host: "compute-2".into(),
        migrations: vec![migration("u1", phases())],
        agent_answered: true,
        ..Record::default()
    };
    let report = report(&[source, target]);
    tags(&report);
    assert!(report.contains("<title>2 migrations of 2 hosts – Cutover</title>"), "{report}");
    let blocks: Vec<&str> = report.split("<details").skip(1).collect();
    let [both, alone] = &blocks[..] else { panic!("{}", blocks.len()) };
    let (both, alone) = if both.contains("u1") { (both, alone) } else { (alone, both) };
    let rows: Vec<&str> = both.split("<tr class=").skip(1).collect();
    assert_eq!(rows.len(), 14, "12 phases and 2 steps");
    assert!(rows[0].contains("<td>compute-1</td><td>source</td><th scope=\"row\">began</th>"), "{}", rows[0]);
    assert!(
        rows[1].contains("+1.00 ms") && rows[1].contains("<td>compute-2</td><td>target</td>"),
        "{}",
        rows[1]
    );
    let order = |what: &str| rows.iter().position(|row| row.contains(what)).expect("it is there");
    assert!(order("the machine has stopped here") < order("stopped where it comes from"));
    assert!(
        alone.contains("from compute-1 to compute-2: the target&#39;s record is not among these."),
        "{alone}"
    );
}

/// The policy names the style by its hash; a browser leaves a page without style otherwise.
#[test]
fn the_policy_knows_the_style() {
    let document = unanswered(&[]);
    let style =
        document.split_once("<style>").and_then(|(_, rest)| rest.split_once("</style>")).expect("a style").0;
    let mut openssl = Command::new("sh");
    openssl.args(["-c", "openssl dgst -sha256 -binary | openssl base64"]);
    let mut child = openssl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh");
    std::io::Write::write_all(&mut child.stdin.take().expect("a pipe"), style.as_bytes()).expect("a pipe");
    let output = child.wait_with_output().expect("openssl is installed");
    let hash = String::from_utf8(output.stdout).expect("text");
    let expected = format!("style-src 'sha256-{}'", hash.trim());
    assert!(POLICY.contains(&expected), "browser/document.rs has to say {expected}");
}
