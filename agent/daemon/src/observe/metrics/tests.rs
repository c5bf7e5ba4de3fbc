//! The page of a host that has something of everything.

use super::*;
use crate::control::{KernelRoute, Losses, Status, TunnelStatus};
use crate::felix;
use crate::libvirt;
use crate::observe::Tally;
use crate::peers::{ConversationStatus, PeersStatus};
use cutover_common::Counter;
use cutover_engine::machine::{Input, State, Transition};
pub(crate) use cutover_engine::view::EndpointView;
use cutover_engine::view::{FelixView, LossView, RouteView};
use cutover_engine::{BootTime, EndpointKey, Notice};

/// Of a host's endpoints, the one with this number.
pub(crate) fn endpoint(number: u64) -> EndpointView {
    let key = EndpointKey {
        host: "host".into(),
        orchestrator: "openstack".into(),
        workload: format!("openstack/vm{number}"),
        endpoint: format!("port{number}"),
    };
    EndpointView {
        name: key.to_string(),
        key,
        interface: format!("tap{number}"),
        ifindex: Some(7),
        bridge: None,
        mac: None,
        running: true,
        role: "NO_ROLE".into(),
        state: State::Base,
        migration_uid: String::new(),
        status: "up".into(),
        status_due: false,
        held: false,
        not_here: false,
        waits_for: None,
        routes: vec![RouteView { destination: "10.65.0.2/32".into(), metric: 1024 }],
        watch: None,
        announcement: None,
        announced_to_routed_ns: None,
        elevated_for_seconds: None,
        felix: Some(FelixView::default()),
        migration: None,
        from_memory: false,
    }
}

/// A host in whose page every family has a value.
pub(crate) fn observed() -> Observed {
    let waiting = FelixView { missing: vec!["ipv4 chain to".into()], for_ms: Some(8_000) };
    let endpoints = vec![
        endpoint(1),
        EndpointView { role: "SOURCE".into(), ..endpoint(2) },
        EndpointView {
            role: "TARGET".into(),
            state: State::Target,
            watch: Some(3),
            routes: Vec::new(),
            felix: Some(waiting),
            ..endpoint(3)
        },
        EndpointView {
            state: State::TimeWait,
            routes: vec![RouteView { destination: "10.65.0.5/32".into(), metric: 512 }],
            ..endpoint(4)
        },
    ];
    let route =
        |destination: &str, metric| KernelRoute { destination: destination.into(), ifindex: 7, metric };
    let conversation = ConversationStatus {
        endpoint: "e".into(),
        migration_uid: "u".into(),
        peer: "other".into(),
        side: "source".into(),
        is_connected: true,
        error: None,
        for_ms: 1,
    };
    let named = |name: &str| [(name.to_owned(), "a reason".to_owned())].into();
    let view = LossView { endpoints: vec!["e9".into(), "e10".into()], ..LossView::default() };
    let status = Status {
        schema: crate::control::SCHEMA,
        hostname: "host".into(),
        version: "0.1.0".into(),
        pid: 1,
        in_sync: true,
        datastore_trouble: None,
        complete: true,
        quarantine: named("endpoint x"),
        losses: Losses { view, hint: None, refused_settings: named("InterfacePrefix") },
        stuck: BTreeMap::new(),
        unarmed: BTreeMap::new(),
        role: "routes".into(),
        felix: Some(felix::Report {
            backends: vec!["nftables".into()],
            running: vec![felix::Running {
                pid: 9,
                route_sync_disabled: Some(true),
                endpoint_reporting_enabled: None,
                version: Some(felix::Version { text: "v3.31.2".into(), from: felix::VersionOrigin::Program }),
                mode: Some(BTreeMap::from([("NFTablesMode".into(), "Enabled".into())])),
            }],
            ..felix::Report::default()
        }),
        unprepared: named("tap1"),
        refused_routes: BTreeMap::new(),
        attach: "tcx".into(),
        from_memory: None,
        endpoints,
        forwards: Vec::new(),
        receivers: Vec::new(),
        handovers: Vec::new(),
        handover_error: None,
        peers: PeersStatus { known_hosts: 3, conversations: vec![conversation], ..PeersStatus::default() },
        libvirt: Some(libvirt::Report {
            standing: libvirt::Standing::Connected,
            why: None,
            for_ms: 1,
            library: None,
            daemon: None,
        }),
        tunnel: TunnelStatus {
            forwarded: 11,
            received: 12,
            dropped: [("receive_wrong_source".to_owned(), 2)].into(),
            error: None,
        },
        kernel_routes: vec![
            route("10.65.0.2/32", 1024),
            route("10.65.0.5/32", 512),
            route("2001:db8::2/128", 1024),
        ],
        announcements: Counter::ALL
            .iter()
            .zip(1..)
            .map(|(counter, count)| (counter.name().to_owned(), count))
            .collect(),
        route_writes: 5,
    };
    let mut tally = Tally::default();
    let input = Input::Target { is_here: false };
    let transition = Transition { from: State::Base, input, to: State::Target, uid: "u".into() };
    let endpoint = status.endpoints[2].key.clone();
    tally.note(BootTime(1), &Notice::Transition { endpoint, transition });
    Observed {
        status,
        tally,
        datastore: "etcdv3",
        datastore_troubles: 1,
        routes_attempted: true,
        is_remembered: true,
        netlink_overruns: 2,
        full_reads: 3,
        status_writes: [("done", 4), ("overtaken", 0), ("failed", 1)],
    }
}

fn busy() -> BTreeMap<&'static str, Duration> {
    [("the loop", Duration::from_millis(1500)), ("the fast path", Duration::ZERO)].into()
}

#[test]
fn every_family_of_the_table_is_on_the_page_of_a_host_that_has_everything() {
    let sheet = sheet(Some(&observed()), &busy(), &[]);
    assert_eq!(sheet.missing(), Vec::<&str>::new());
}

#[test]
fn the_page_says_what_was_observed() {
    let stuck = [Stuck { part: "the loop", duration: Duration::from_secs(91) }];
    let page = page(Some(&observed()), &busy(), &stuck, Format::Text);
    for line in [
        "# TYPE cutover_endpoints gauge",
        "cutover_endpoints{state=\"Base\"} 2.0",
        "cutover_endpoints{state=\"Live\"} 0.0",
        "cutover_endpoint_roles{role=\"target\"} 1.0",
        "# TYPE cutover_transitions_total counter",
        "cutover_transitions_total{from=\"Base\",input=\"Target\",to=\"Target\"} 1.0",
        "cutover_migrations_total{outcome=\"not_arrived\"} 0.0",
        "cutover_announcements_accepted_total{kind=\"rarp\"} 1.0",
        "cutover_announcements_refused_total{reason=\"truncated\"} 6.0",
        "cutover_routes{family=\"ipv4\",priority=\"normal\"} 1.0",
        "cutover_routes{family=\"ipv4\",priority=\"elevated\"} 1.0",
        "cutover_routes{family=\"ipv6\",priority=\"normal\"} 1.0",
        "cutover_part_busy_seconds{part=\"the loop\"} 1.5",
        "cutover_parts_stuck 1.0",
        "cutover_losses_kept{what=\"endpoint\"} 2.0",
        "cutover_felix_chains_awaited 1.0",
        "cutover_felix_setting_info{setting=\"RouteSyncDisabled\",value=\"true\"} 1.0",
        "cutover_felix_setting_info{setting=\"EndpointReportingEnabled\",value=\"unknown\"} 1.0",
        "cutover_felix_setting_info{setting=\"NFTablesMode\",value=\"Enabled\"} 1.0",
        "cutover_felix_info{version=\"v3.31.2\",from=\"program\"} 1.0",
        "cutover_felix_chains_wait_seconds{endpoint=\"host-openstack-vm3-port3\",interface=\"tap3\"} 8.0",
        "cutover_peer_conversations{side=\"source\",state=\"connected\"} 1.0",
        "cutover_status_writes_total{result=\"failed\"} 1.0",
        "cutover_migration_phase_seconds_bucket{phase=\"announced_to_routed\",le=\"+Inf\"} 0",
        "cutover_config_info{host=\"host\",role=\"routes\",datastore=\"etcdv3\",attach=\"tcx\"} 1.0",
    ] {
        assert!(page.lines().any(|it| it == line), "{line} is not in\n{page}");
    }
}

/// What a guest, a driver or a file can put into a name does not end a label.
#[test]
fn a_label_holds_whatever_it_is_given() {
    let mut observed = observed();
    observed.status.endpoints[2].interface = "a\"b\\c\nd".into();
    let page = page(Some(&observed), &busy(), &[], Format::OpenMetrics);
    assert!(page.contains(r#"interface="a\"b\\c\nd"} 8.0"#), "{page}");
}

/// The figures of the project: 300 endpoints that all wait for something.
#[test]
fn the_page_of_a_full_host_is_small() {
    let mut observed = observed();
    let waiting = || FelixView { missing: vec!["ipv4 chain to".into()], for_ms: Some(8_000) };
    observed.status.endpoints =
        (0..300).map(|number| EndpointView { felix: Some(waiting()), ..endpoint(number) }).collect();
    let bytes = page(Some(&observed), &busy(), &[], Format::OpenMetrics).len();
    assert!(bytes < 100_000, "{bytes} bytes");
}

/// Set CUTOVER_REGENERATE=1 to write the file instead.
#[test]
fn the_committed_page_is_up_to_date() {
    crate::committed::check("metrics.md", &reference::markdown());
}

#[test]
fn every_phase_of_the_histogram_is_explained() {
    let page = reference::markdown();
    for (phase, _) in crate::observe::tally::STRETCHES {
        assert!(page.contains(&format!("| `{phase}` |")), "{phase}");
    }
}
