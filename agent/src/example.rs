//! What an agent answers on a healthy host, for tests: they say what is otherwise.

use cutover_common::MacAddr;
use cutover_daemon::control::Status;
use cutover_engine::EndpointKey;
use cutover_engine::machine::State;
use cutover_engine::view::EndpointView;
use std::collections::BTreeMap;

/// One that runs on `tap1`, without routes.
pub(crate) fn endpoint() -> EndpointView {
    let key = EndpointKey {
        host: "b".into(),
        orchestrator: "openstack".into(),
        workload: "openstack/vm1".into(),
        endpoint: "port1".into(),
    };
    EndpointView {
        name: key.to_string(),
        key,
        interface: "tap1".into(),
        ifindex: Some(3),
        bridge: None,
        mac: Some(MacAddr([0xfa, 0x16, 0x3e, 0, 0, 1])),
        running: true,
        role: "NO_ROLE".into(),
        state: State::Base,
        migration_uid: String::new(),
        status: "up".into(),
        status_due: false,
        held: false,
        not_here: false,
        waits_for: None,
        routes: Vec::new(),
        watch: None,
        announcement: None,
        announced_to_routed_ns: None,
        elevated_for_seconds: None,
        felix: None,
        migration: None,
        from_memory: false,
    }
}

/// What an agent with these endpoints answers.
pub(crate) fn status(endpoints: Vec<EndpointView>) -> Status {
    Status {
        schema: 1,
        forwards: Vec::new(),
        receivers: Vec::new(),
        handovers: Vec::new(),
        handover_error: None,
        peers: Default::default(),
        tunnel: Default::default(),
        libvirt: None,
        hostname: "b".into(),
        version: "0.1.0".into(),
        pid: 1,
        in_sync: true,
        datastore_trouble: None,
        complete: true,
        from_memory: None,
        losses: Default::default(),
        quarantine: Default::default(),
        stuck: Default::default(),
        unarmed: Default::default(),
        role: "full".into(),
        felix: None,
        unprepared: Default::default(),
        refused_routes: Default::default(),
        attach: "tcx".into(),
        endpoints,
        kernel_routes: Vec::new(),
        announcements: BTreeMap::new(),
        route_writes: 0,
    }
}
