//! The one table of every metric. The page, `docs/metrics.md` and the tests of dashboard and rules come from it.

/// What kind of value a family has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows, from the start of the agent on unless its help says otherwise.
    Counter,
    /// How things stand now.
    Gauge,
    /// Durations by how long they are.
    Histogram,
}

impl Kind {
    /// The word of Prometheus.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Metrics of one name.
#[derive(Debug)]
pub struct Family {
    /// The name. A counter's ends with `_total`.
    pub name: &'static str,
    /// The kind.
    pub kind: Kind,
    /// The labels of each of its metrics, in their order.
    pub labels: &'static [&'static str],
    /// What it says, in one line that ends without a full stop.
    pub help: &'static str,
}

macro_rules! families {
    ($($title:literal { $($constant:ident: $kind:ident, $name:literal, [$($label:literal),*], $help:literal;)+ })+) => {
        $($(
            #[doc = $help]
            pub(super) const $constant: Family =
                Family { name: $name, kind: Kind::$kind, labels: &[$($label),*], help: $help };
        )+)+

        /// Every family, under the titles of the page that describes them.
        pub const SECTIONS: &[(&str, &[Family])] = &[$(($title, &[$($constant),+]),)+];
    };
}

families! {
    "The agent" {
        BUILD_INFO: Gauge, "cutover_build_info", ["version"], "Always 1: the version of the running agent";
        CONFIG_INFO: Gauge, "cutover_config_info", ["host", "role", "datastore", "attach"], "Always 1: the host's name in the datastore, CutoverRole, DatastoreType, and how programs are attached to taps";
        START_TIME: Gauge, "cutover_process_start_time_seconds", [], "When the agent was started, in seconds since 1970";
        CPU: Counter, "cutover_process_cpu_seconds_total", [], "Processor time of the agent, user and system together";
        MEMORY: Gauge, "cutover_process_resident_memory_bytes", [], "Memory of the agent that is in RAM";
        DESCRIPTORS: Gauge, "cutover_process_open_fds", [], "Open file descriptors of the agent";
        LOOP_ANSWERS: Gauge, "cutover_loop_answers", [], "1 if the loop has answered this scrape. Where it is 0, the page has only what can be known without it";
        PARTS_STUCK: Gauge, "cutover_parts_stuck", [], "Parts of the agent that have been busy without a pause for longer than DataplaneWatchdogTimeout";
        PART_BUSY: Gauge, "cutover_part_busy_seconds", ["part"], "For how long a part of the agent has been busy without a pause; 0 while it waits for something to do";
        REMEMBERED: Gauge, "cutover_state_file_written", [], "1 if state.json holds what a restart has to know; 0 while it cannot be written";
    }
    "Endpoints and migrations" {
        ENDPOINTS: Gauge, "cutover_endpoints", ["state"], "Endpoints of this host by the state of their migration machine";
        ENDPOINT_ROLES: Gauge, "cutover_endpoint_roles", ["role"], "Endpoints of this host by their role in the migrations that there are";
        ENDPOINT_STATUSES: Gauge, "cutover_endpoint_statuses", ["status"], "Endpoints of this host by the status that is to be reported";
        STATUSES_DUE: Gauge, "cutover_endpoint_statuses_due", [], "Endpoints whose status somebody waits for and that is not written yet";
        HELD: Gauge, "cutover_endpoints_held", [], "Endpoints that vanished from the datastore while their tap exists, and are kept for the grace time";
        HELD_TOTAL: Counter, "cutover_endpoint_holds_total", [], "How often an endpoint vanished while its tap existed";
        FROM_MEMORY: Gauge, "cutover_endpoints_from_memory", [], "Endpoints that are known from state.json only, because the datastore has not been in sync since the start";
        NOT_HERE: Gauge, "cutover_endpoints_not_here", [], "Endpoints without a route after a migration to here that failed, until they are written again";
        UNRESOLVED: Gauge, "cutover_endpoints_unresolved", [], "Endpoints of which it is not known yet how the last migration to here ended";
        TRANSITIONS: Counter, "cutover_transitions_total", ["from", "input", "to"], "Transitions of migration machines, by the names that the log has";
        STATE_DURATION: Histogram, "cutover_state_duration_seconds", ["state"], "How long endpoints were in a state, counted when they leave it";
        STATE_LONGEST: Gauge, "cutover_state_longest_seconds", ["state"], "For how long the endpoint that has been in a state for longest is in it; 0 for none. Counts from the start of the agent at most";
        MIGRATIONS: Counter, "cutover_migrations_total", ["outcome"], "Migrations to this host that are over: announced, taken to have arrived without an announcement, and not arrived";
        PHASES: Histogram, "cutover_migration_phase_seconds", ["phase"], "Time between two phases of migrations to this host, counted when they are over. Phases that did not come, or came in the other order, are not counted";
        BLACKOUT: Histogram, "cutover_migration_blackout_seconds", [], "For how long nobody saw a virtual machine that came to this host: from the last frame on the tap that it left, as that host's agent says, to its announcement here. Counted when the migration is over, if it is known";
        BLACKOUT_ERROR: Histogram, "cutover_migration_blackout_error_seconds", [], "By how much each of these blackouts may be wrong, because its ends are on the clocks of two hosts";
    }
    "Announcements" {
        ACCEPTED: Counter, "cutover_announcements_accepted_total", ["kind"], "Announcements that the kernel program took for a sign that the virtual machine runs here. Counts since the host was started";
        REFUSED: Counter, "cutover_announcements_refused_total", ["reason"], "Frames of the form of an announcement that it refused on a tap that is watched. Counts since the host was started";
        REPEATED: Counter, "cutover_announcements_repeated_total", [], "Announcements after the first one of a migration. Counts since the host was started";
        RING_LOST: Counter, "cutover_ring_losses_total", [], "Announcements for whose record the ring buffer had no room; they are found within a second all the same. Counts since the host was started";
        EVIDENCE_LOST: Counter, "cutover_evidence_losses_total", [], "Announcements that could not be kept because there was no room. Counts since the host was started";
        WATCHES_ARMED: Gauge, "cutover_watches_armed", [], "Taps on which the announcement of a virtual machine is awaited";
        WATCHES_UNARMED: Gauge, "cutover_watches_unarmed", [], "Taps that have to be watched and cannot be: a virtual machine that arrives there is not heard";
    }
    "Routes and interfaces" {
        ROUTES: Gauge, "cutover_routes", ["family", "priority"], "Routes of the agent in the kernel: elevated for endpoints in Live and TimeWait, normal for others";
        ROUTE_WRITES: Counter, "cutover_route_writes_total", [], "Changes of routes that were sent to the kernel, without those of the fast path";
        ROUTES_REFUSED: Gauge, "cutover_routes_refused", [], "Routes whose last change the kernel has refused; cutover status names them with the reason";
        UNPREPARED: Gauge, "cutover_interfaces_unprepared", [], "Interfaces whose sysctls or neighbours are not as they have to be";
        OVERRUNS: Counter, "cutover_netlink_overruns_total", [], "How often notifications of the kernel were lost because there were too many";
        FULL_READS: Counter, "cutover_netlink_full_reads_total", [], "How often links, routes and neighbours of the kernel were read in full";
    }
    "The datastore" {
        IN_SYNC: Gauge, "cutover_datastore_in_sync", [], "1 if the datastore has been read in full and is followed now";
        COMPLETE: Gauge, "cutover_datastore_complete", [], "1 if all of it could be read";
        AGE: Gauge, "cutover_datastore_out_of_sync_seconds", [], "How old what is known of the datastore may be: for how long it has not been followed; 0 while it is";
        TROUBLES: Counter, "cutover_datastore_interruptions_total", [], "How often the datastore has ceased to be followed";
        QUARANTINED: Gauge, "cutover_datastore_quarantined", [], "Resources that cannot be read; what was known of them stays in force";
        KEPT: Gauge, "cutover_losses_kept", ["what"], "Endpoints and interfaces whose routes are kept although the datastore does not show them any more, until an operator confirms it with cutover release";
        SUSPECTED: Counter, "cutover_losses_suspected_total", [], "How often so much vanished from the datastore at once that it was kept";
        SETTINGS_REFUSED: Gauge, "cutover_settings_refused", [], "Settings that are not in force because they would take routes away";
        STATUS_WRITES: Counter, "cutover_status_writes_total", ["result"], "Writes of endpoint statuses: done, failed, and overtaken by a LiveMigration that was written meanwhile; the last two are tried again";
    }
    "Forwarding and other hosts" {
        FORWARDS: Gauge, "cutover_forwards", ["state"], "Virtual machines that are leaving this host: those whose packets are forwarded, and those that wait for it";
        RECEPTIONS: Gauge, "cutover_receptions", ["state"], "Virtual machines that are arriving with a tunnel: those for which it is ready, and the others";
        FORWARDS_BEGUN: Counter, "cutover_forwards_begun_total", ["held"], "How often forwarding has begun; held, if that was before the virtual machine had announced itself";
        FORWARD_DURATION: Histogram, "cutover_forward_duration_seconds", [], "For how long packets were forwarded, counted when that is over";
        HOLDS_GIVEN_UP: Counter, "cutover_holds_given_up_total", [], "Virtual machines that were said to have stopped and announced themselves nowhere";
        TUNNEL_FORWARDED: Counter, "cutover_tunnel_forwarded_packets_total", [], "Packets that went into a tunnel to where their virtual machine went";
        TUNNEL_RECEIVED: Counter, "cutover_tunnel_received_packets_total", [], "Packets that came out of a tunnel for a virtual machine that arrives";
        TUNNEL_DROPPED: Counter, "cutover_tunnel_dropped_packets_total", ["reason"], "Packets that were dropped at the tunnel's device";
        TUNNEL_BROKEN: Gauge, "cutover_tunnel_broken", [], "1 if the tunnel's device, its routes or its queues are not as they have to be";
        HANDED_OVER: Gauge, "cutover_handover_connections", ["stage"], "Tracked connections of virtual machines that are leaving (leaving, left) and that are arriving (expected, arrived, failed): those that were read there last, and those that were made here";
        HANDOVER_BROKEN: Gauge, "cutover_handover_broken", [], "1 if tracked connections cannot be read or made";
        PEERS_KNOWN: Gauge, "cutover_peers_known", [], "Other hosts whose record can be read";
        PEERS_UNREADABLE: Gauge, "cutover_peers_unreadable", [], "Other hosts whose record cannot be read";
        CONVERSATIONS: Gauge, "cutover_peer_conversations", ["side", "state"], "Conversations about migrations with other hosts' agents, by what this host is in the migration and whether the two talk";
        PEER_TROUBLES: Gauge, "cutover_peer_troubles", [], "What keeps this agent from talking to any other: address, listener, records or keys";
        LIBVIRT: Gauge, "cutover_libvirt_standing", ["state"], "Where libvirt is listened to, 1 for how that stands: connected, absent (there is none on this host) or unheard";
    }
    "Felix beside the agent (CutoverRole = routes)" {
        FELIX_BACKENDS: Gauge, "cutover_felix_backend_info", ["backend"], "Always 1: where Felix's chains are found";
        FELIX_INFO: Gauge, "cutover_felix_info", ["version", "from"], "Felixes that run with this version, as the program (from=\"program\") or, where that does not say it, the installed package has it (from=\"package\"); both labels are unknown where neither does";
        FELIX_RUNNING: Gauge, "cutover_felix_running", [], "Felixes that run on this host, looked at twice a minute";
        FELIX_SETTINGS: Gauge, "cutover_felix_setting_info", ["setting", "value"], "Felixes that run with this value of RouteSyncDisabled and of EndpointReportingEnabled: true, false, or unknown where their environment cannot be read; and with what their environment or their file says of BPFEnabled, NFTablesMode and IptablesBackend";
        FELIX_UNREADABLE: Gauge, "cutover_felix_chains_unreadable", [], "1 if Felix's chains cannot be seen: no new endpoint is reported up then";
        FELIX_CONFLICTS: Gauge, "cutover_felix_conflicts", [], "Ways in which the two get in each other's way; cutover status has them in words";
        FELIX_AWAITED: Gauge, "cutover_felix_chains_awaited", [], "Endpoints whose tap exists and for which Felix has no chains yet: they are not reported up";
        FELIX_LONGEST: Gauge, "cutover_felix_chains_longest_wait_seconds", [], "For how long the one of them has waited that has waited for longest";
        FELIX_WAIT: Gauge, "cutover_felix_chains_wait_seconds", ["endpoint", "interface"], "For how long each of them has waited, for the 50 that have waited for longest";
    }
}

/// Every family.
pub fn all() -> impl Iterator<Item = &'static Family> {
    SECTIONS.iter().flat_map(|(_, families)| families.iter())
}

/// The names of everything that a scrape has: a histogram has three.
pub fn series_names() -> impl Iterator<Item = String> {
    all().flat_map(|family| match family.kind {
        Kind::Histogram => ["_bucket", "_sum", "_count"].map(|end| format!("{}{end}", family.name)).to_vec(),
        Kind::Counter | Kind::Gauge => vec![family.name.to_owned()],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let mut names = BTreeSet::new();
        for Family { name, kind, labels, help } in all() {
            assert!(names.insert(name), "{name} is there twice");
            assert!(name.starts_with("cutover_"), "{name}");
            assert!(name.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase()), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert!(*kind != Kind::Histogram || name.ends_with("_seconds"), "{name}");
            let is_plain = |label: &str| !label.is_empty() && label.bytes().all(|it| it.is_ascii_lowercase());
            assert!(labels.iter().all(|label| is_plain(label)), "{name}: {labels:?}");
            assert!(!help.ends_with('.') && !help.contains('\n') && !help.contains('\\'), "{name}: {help}");
        }
    }
}
