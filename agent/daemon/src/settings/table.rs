//! The one table of every setting. Parsing, `cutover check-config` and `docs/configuration.md` come from it.

use super::value::{
    ADDRESS, Bool, Choice, IPV4, IPV6, Integer, Interfaces, Kind, List, MAC, Path, Prefixes, RequiredPath,
    Seconds, Secret, SecretText, Text, Timeouts, interpret,
};
use cutover_common::MacAddr;
use cutover_engine::InterfacePrefixes;
use cutover_engine::model::{Handover, Trigger, Validation};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

/// Where the resources are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DatastoreType {
    /// An etcd cluster.
    Etcdv3,
    /// A directory of files.
    Dir,
}

/// What of a host's data plane is the agent's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// All that this project does. No Felix runs here.
    Full,
    /// Routes, migrations and statuses. Felix runs beside the agent and keeps policy, heartbeat and sysctls.
    Routes,
}

impl Role {
    /// The word of the settings.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Routes => "routes",
        }
    }
}

/// Whether the agents of the two hosts of a migration talk to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peering {
    /// With etcd they do, with a directory of files they do not.
    Auto,
    /// They do, and find each other's addresses and keys in files.
    Files,
    /// They do not.
    Off,
}

/// Something that is done where it can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// Where it can be.
    Auto,
    /// Never.
    Off,
}

/// How the program is attached to a tap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attach {
    /// The best that the kernel has: tcx, else tc.
    Auto,
    /// A tcx link (Linux 6.6).
    Tcx,
    /// A filter of the clsact queueing discipline.
    Tc,
    /// An XDP link.
    Xdp,
}

/// The least important line that is logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogSeverity {
    /// Everything.
    Trace,
    /// For developers.
    Debug,
    /// What happens.
    Info,
    /// What an operator should look at.
    Warning,
    /// What does not work.
    Error,
    /// What ends the agent.
    Fatal,
    /// Nothing at all.
    Off,
}

/// Shape of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// `Enabled` or `Disabled`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Switch {
    /// On.
    Enabled,
    /// Off.
    Disabled,
}

/// Which addresses of the local subnet the host answers for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reachability {
    /// None.
    Disabled,
    /// Those of workloads.
    PodsAndLoadBalancers,
}

/// Whether a workload may send with other source addresses than its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spoofing {
    /// It may not.
    Disabled,
    /// It may, if it asks for it.
    Any,
}

/// What a client of the metrics has to show of itself, where they are served with TLS. The words are Go's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ClientAuth {
    /// Nothing.
    None,
    /// Any certificate whose key it has, whoever has signed it.
    RequireAny,
    /// If it shows a certificate, one of the authorities has signed it.
    VerifyIfGiven,
    /// A certificate that one of the authorities has signed.
    RequireAndVerify,
}

/// Who may read the page of the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PageAccess {
    /// Whoever is on the host.
    Loopback,
    /// Whoever may read the metrics.
    Metrics,
}

/// When a changed value is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// At once.
    Live,
    /// When the agent starts.
    AtStart,
    /// Never: it is read and checked so that a configuration of Felix can be kept, and its meaning says why.
    Never,
}

/// How a setting may be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// Only the environment and the file count, not the resources.
    pub local: bool,
    /// An invalid value is not replaced by the next source: it stops the start.
    pub fatal: bool,
    /// `none` is a value.
    pub may_be_none: bool,
}

const PLAIN: Rules = Rules { local: false, fatal: false, may_be_none: true };
const NEEDED: Rules = Rules { may_be_none: false, ..PLAIN };
const FATAL: Rules = Rules { fatal: true, ..PLAIN };
const FATAL_NEEDED: Rules = Rules { fatal: true, may_be_none: false, ..PLAIN };
const LOCAL: Rules = Rules { local: true, ..PLAIN };
const LOCAL_FATAL: Rules = Rules { local: true, fatal: true, ..PLAIN };
const LOCAL_NEEDED: Rules = Rules { local: true, may_be_none: false, ..PLAIN };
const LOCAL_FATAL_NEEDED: Rules = Rules { local: true, fatal: true, may_be_none: false };

/// One row of the table.
pub struct Setting {
    /// Its name, as Felix spells it.
    pub name: &'static str,
    /// The value if nobody gives one, as text; empty for none.
    pub default: &'static str,
    /// How it may be given.
    pub rules: Rules,
    /// When a change is used.
    pub effect: Effect,
    /// What it is for, in one line.
    pub meaning: &'static str,
    /// What the text may be.
    pub values: fn() -> String,
    pub(super) is_duration: bool,
    pub(super) is_secret: bool,
    pub(super) apply: fn(&mut Settings, &str) -> Result<(), String>,
    /// The value in force as canonical text, empty for none.
    pub show: fn(&Settings) -> String,
}

macro_rules! settings {
    ($($field:ident: $type:ty, $name:literal, $kind:expr, $default:literal, $rules:expr, $effect:expr, $meaning:literal;)+) => {
        /// What the operator wants, every value checked.
        #[derive(Clone, PartialEq, Debug)]
        pub struct Settings {
            $(#[doc = concat!("`", $name, "`: ", $meaning)] pub $field: $type,)+
        }

        /// Every setting, in the order in which people are shown them.
        pub const TABLE: &[Setting] = &[
            $(Setting {
                name: $name,
                default: $default,
                rules: $rules,
                effect: $effect,
                meaning: $meaning,
                values: || $kind.describe(),
                is_duration: is_duration(&$kind),
                is_secret: is_secret(&$kind),
                apply: |settings, text| {
                    settings.$field = interpret(&$kind, $rules.may_be_none, text)?;
                    Ok(())
                },
                show: |settings| $kind.show(&settings.$field),
            },)+
        ];

        impl Default for Settings {
            /// The built-in defaults; the host name is empty.
            fn default() -> Self {
                Self { $($field: built_in(&$kind, $name, $default),)+ }
            }
        }
    };
}

const fn is_duration<K: Kind>(_: &K) -> bool {
    K::IS_DURATION
}

const fn is_secret<K: Kind>(_: &K) -> bool {
    K::IS_SECRET
}

fn built_in<K: Kind>(kind: &K, name: &str, text: &str) -> K::Value {
    let value = if text.is_empty() { kind.none() } else { kind.parse(text).ok() };
    // INVARIANT: the defaults of the table are valid; a test reads all of them.
    value.unwrap_or_else(|| unreachable!("the built-in default of {name} is valid"))
}

/// Metrics that both families can have: the kernel's number is 32 bits wide, Felix stops at 31.
const PRIORITY: Integer<u32> = Integer { min: 1, max: 2_147_483_646, except: &[] };
const PORT: Integer<u16> = Integer { min: 0, max: 65_535, except: &[] };
const LISTENING_PORT: Integer<u16> = Integer { min: 1, max: 65_535, except: &[] };
/// LIMIT: the rule has to come before that of the main table (32766), and the table must be none of the kernel's.
const FORWARD_TABLE: Integer<u32> = Integer {
    min: 2,
    max: 32_764,
    except: &[
        (252, "the one before the kernel's table default, and the next one is needed, too"),
        (253, "the kernel's table default"),
        (254, "the kernel's table main"),
        (255, "the kernel's table local"),
    ],
};
const PROTOCOL: Integer<u8> =
    Integer { min: 3, max: 255, except: &[(12, "BIRD's, which would take our routes for its own")] };
/// LIMIT: an hour is far above the convergence of any fabric; a typing error must not elevate a route for days.
const CONVERGENCE: Seconds = Seconds { max_s: 3600 };
/// LIMIT: a deleted endpoint keeps its routes for this long, so minutes are too many.
const GRACE: Seconds = Seconds { max_s: 60 };
/// LIMIT: a day; anything longer is meant to be never, which is 0.
const PERIOD: Seconds = Seconds { max_s: 86_400 };
/// LIMIT: a second of spinning per wake-up already costs a core.
const SPIN_MICROS: Integer<u32> = Integer { min: 0, max: 1_000_000, except: &[] };
const SEVERITY: Choice<LogSeverity> = Choice {
    words: &[
        ("TRACE", LogSeverity::Trace),
        ("DEBUG", LogSeverity::Debug),
        ("INFO", LogSeverity::Info),
        ("WARNING", LogSeverity::Warning),
        ("ERROR", LogSeverity::Error),
        ("FATAL", LogSeverity::Fatal),
    ],
    none: Some(LogSeverity::Off),
};
const HOST: Text = Text { rule: host, description: "a host name or an address" };

fn host(text: &str) -> Result<String, &'static str> {
    let valid = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-:[]".contains(&b));
    if valid { Ok(text.to_owned()) } else { Err("write a host name or an address") }
}

fn host_name(text: &str) -> Result<String, &'static str> {
    let valid = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if valid && !text.is_empty() {
        Ok(text.to_owned())
    } else {
        Err("write a host name made of letters, digits, dots, dashes and underscores")
    }
}

fn host_and_port(text: &str) -> Result<String, &'static str> {
    let refusal = "write host:port without a scheme, such as 127.0.0.1:2379";
    let (name, port) = text.rsplit_once(':').ok_or(refusal)?;
    if name.is_empty() || text.contains('/') || port.parse::<u16>().is_err() {
        return Err(refusal);
    }
    host(name).map_err(|_| refusal)?;
    Ok(text.to_owned())
}

fn endpoint_url(text: &str) -> Result<String, &'static str> {
    let refusal = "write scheme://host:port with http or https, without a path or a user";
    let (scheme, rest) = text.split_once("://").ok_or(refusal)?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let scheme = scheme.to_ascii_lowercase();
    if !["http", "https"].contains(&scheme.as_str()) || authority.contains(['/', '@', '?', '#']) {
        return Err(refusal);
    }
    host_and_port(authority).map_err(|_| refusal)?;
    Ok(format!("{scheme}://{authority}/"))
}

fn region(text: &str) -> Result<String, &'static str> {
    let label = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    // LIMIT: the namespace `openstack-region-<region>` has to fit in a DNS label of 63 characters.
    if label && !text.is_empty() && text.len() <= 46 && !text.starts_with('-') && !text.ends_with('-') {
        Ok(text.to_owned())
    } else {
        Err("write a lower-case DNS label of at most 46 characters")
    }
}

fn any_text(text: &str) -> Result<String, &'static str> {
    Ok(text.to_owned())
}

fn interface_pattern(text: &str) -> Result<String, &'static str> {
    if text.starts_with('/') == text.ends_with('/') {
        Ok(text.to_owned())
    } else {
        Err("write an interface name, or a regular expression between slashes")
    }
}

use Effect::{AtStart, Live, Never};

settings! {
    felix_hostname: String, "FelixHostname",
        Text { rule: host_name, description: "letters, digits, dots, dashes and underscores" }, "",
        LOCAL_NEEDED, AtStart, "This host's name, exactly as Nova's `host` spells it; without it, the name of the system in lower case.";
    datastore_type: DatastoreType, "DatastoreType",
        Choice { words: &[("etcdv3", DatastoreType::Etcdv3), ("dir", DatastoreType::Dir)], none: None }, "etcdv3",
        LOCAL_FATAL_NEEDED, AtStart, "Where the resources are: an etcd cluster, or a directory of files.";
    cutover_role: Role, "CutoverRole",
        Choice { words: &[("full", Role::Full), ("routes", Role::Routes)], none: None }, "full",
        LOCAL_FATAL_NEEDED, AtStart, "What of this host's data plane is the agent's: `full`, or `routes` beside Calico's Felix, which keeps policy, heartbeat and sysctls (docs/beside-felix.md).";
    cutover_datastore_dir: PathBuf, "CutoverDatastoreDir", RequiredPath, "/etc/cutover/resources",
        LOCAL_NEEDED, AtStart, "Directory with the resource files, for `DatastoreType = dir`; watched.";
    cutover_run_dir: PathBuf, "CutoverRunDir", RequiredPath, "/run/cutover",
        LOCAL_NEEDED, AtStart, "Directory of `state.json`, `cutover.sock` and the status files; the agent does not start if anybody but root can change it.";
    cutover_status_group: String, "CutoverStatusGroup", Text { rule: any_text, description: "the name of a group" }, "",
        LOCAL, AtStart, "Members of this group of the system may see how things stand (`cutover status`, `watch`, `timeline`). Whatever changes something is root's.";
    cutover_pin_path: PathBuf, "CutoverPinPath", RequiredPath, "/sys/fs/bpf/cutover",
        LOCAL_NEEDED, AtStart, "Directory of a BPF file system in which programs, maps and links are pinned; the same holds for it.";

    interface_prefix: InterfacePrefixes, "InterfacePrefix", Prefixes, "cali,tap",
        FATAL_NEEDED, Live, "An interface whose name begins with one of these is a workload's. Felix's default is `cali`, to which the Neutron driver adds `tap`.";
    cutover_bridges: BTreeSet<String>, "CutoverBridges", Interfaces, "",
        LOCAL_FATAL, AtStart, "Bridges, such as `vmbr0`: routes of a workload whose tap is a port of one of them lead to the bridge (docs/bridge.md). `DeviceRouteProtocol` has to be one that nothing else on the host uses then.";
    cutover_gateway_mac: Option<MacAddr>, "CutoverGatewayMAC", MAC, "",
        PLAIN, Live, "The hardware address that all of `CutoverBridges` have, on every host: `cutover doctor` compares. Nothing is set to it.";
    ipv6_support: bool, "Ipv6Support", Bool, "true",
        PLAIN, Live, "Whether IPv6 routes, neighbours and sysctls are programmed.";
    ipv4_normal_route_priority: u32, "IPv4NormalRoutePriority", PRIORITY, "1024",
        PLAIN, Live, "Metric of the IPv4 routes of a workload that is not being migrated.";
    ipv4_elevated_route_priority: u32, "IPv4ElevatedRoutePriority", PRIORITY, "512",
        PLAIN, Live, "Metric of the IPv4 routes of a workload that has just arrived; lower than the normal one.";
    ipv6_normal_route_priority: u32, "IPv6NormalRoutePriority", PRIORITY, "1024",
        PLAIN, Live, "Metric of the IPv6 routes of a workload that is not being migrated.";
    ipv6_elevated_route_priority: u32, "IPv6ElevatedRoutePriority", PRIORITY, "512",
        PLAIN, Live, "Metric of the IPv6 routes of a workload that has just arrived; lower than the normal one.";
    live_migration_route_convergence_time: Duration, "LiveMigrationRouteConvergenceTime", CONVERGENCE, "30",
        PLAIN, Live, "How long routes stay elevated after a migration, so that the other hosts have learnt them.";
    device_route_protocol: u8, "DeviceRouteProtocol", PROTOCOL, "3",
        NEEDED, Live, "Route protocol number by which the agent knows its own routes.";
    device_route_source_address: Option<Ipv4Addr>, "DeviceRouteSourceAddress", IPV4, "",
        PLAIN, Live, "Preferred source address of IPv4 routes to workloads.";
    device_route_source_address_ipv6: Option<Ipv6Addr>, "DeviceRouteSourceAddressIPv6", IPV6, "",
        PLAIN, Live, "Preferred source address of IPv6 routes to workloads.";
    route_refresh_interval: Duration, "RouteRefreshInterval", PERIOD, "90",
        PLAIN, Live, "How often the routes of the kernel are read in full and compared; 0 for only when something is lost.";
    interface_refresh_interval: Duration, "InterfaceRefreshInterval", PERIOD, "90",
        PLAIN, Live, "How often the links of the kernel are read in full and compared; 0 for only when something is lost.";
    netlink_timeout: Duration, "NetlinkTimeoutSecs", PERIOD, "10",
        PLAIN, Live, "How long the kernel may take for the next part of an answer when links, routes and neighbours are read, before everything is read anew on another socket; 0 for as long as it likes, and less than 0.1 counts as 0.1. Writes have no such limit: the kernel carries them out before it takes the next one.";

    cutover_attach: Attach, "CutoverAttach",
        Choice { words: &[("auto", Attach::Auto), ("tcx", Attach::Tcx), ("tc", Attach::Tc), ("xdp", Attach::Xdp)], none: None }, "auto",
        NEEDED, AtStart, "How the program is attached to a tap; `auto` takes tcx where the kernel has it, else tc. A tap that comes while another one is watched gets XDP in place of tcx, which would keep the first one waiting.";
    cutover_trigger: Trigger, "CutoverTrigger",
        Choice { words: &[("announcement", Trigger::Announcement), ("first-frame", Trigger::FirstFrame)], none: None }, "announcement",
        NEEDED, Live, "What moves the route: an announcement, or any frame with the endpoint's hardware address.";
    cutover_validation: Validation, "CutoverValidation",
        Choice { words: &[("strict", Validation::Strict), ("any", Validation::Any)], none: None }, "strict",
        NEEDED, Live, "Which announcements count: those of the endpoint's addresses, or any RARP and gratuitous ARP on the tap.";
    cutover_endpoint_grace: Duration, "CutoverEndpointGrace", GRACE, "2",
        PLAIN, Live, "How long an endpoint that vanished from the datastore is held while its tap exists.";
    cutover_busy_poll_micros: u32, "CutoverBusyPollMicros", SPIN_MICROS, "0",
        PLAIN, AtStart, "How many microseconds the fast path spins before it sleeps.";
    cutover_frr_forgets: bool, "CutoverFrrForgets", Bool, "false",
        PLAIN, AtStart, "Whether FRR on this host forgets the IPv4 routes of all VMs whenever an interface changes, as 10.7 does: they are all written again then.";
    cutover_peering: Peering, "CutoverPeering",
        Choice { words: &[("auto", Peering::Auto), ("files", Peering::Files), ("off", Peering::Off)], none: None }, "auto",
        PLAIN, AtStart, "Whether the agents of the two hosts of a migration talk to each other: with etcd; with addresses and keys from files (`CutoverPeerDir`); or not at all. `auto` is with etcd if that is the datastore, and not at all otherwise.";
    cutover_peer_dir: PathBuf, "CutoverPeerDir", RequiredPath, "/etc/cutover/peers",
        LOCAL, AtStart, "With `CutoverPeering = files`: one file for each other host, `<host>.json`, as its agent writes it to `peer.json` in `CutoverRunDir`.";
    cutover_peer_address: Option<IpAddr>, "CutoverPeerAddress", ADDRESS, "",
        LOCAL, AtStart, "Underlay address of this host for other agents and for the tunnel; without it, the one from which this host reaches the datastore.";
    cutover_peer_port: u16, "CutoverPeerPort", LISTENING_PORT, "7179",
        PLAIN, AtStart, "TCP port on which other hosts' agents reach this one.";
    cutover_tunnel_port: u16, "CutoverTunnelPort", LISTENING_PORT, "4790",
        PLAIN, AtStart, "UDP port of the tunnel between the two hosts of a migration (VXLAN-GPE); the same on all hosts.";
    cutover_forward: Wish, "CutoverForward",
        Choice { words: &[("auto", Wish::Auto), ("off", Wish::Off)], none: None }, "auto",
        PLAIN, Live, "Whether what still comes here for a virtual machine that has left is forwarded to where it runs (docs/hitless.md); needs `CutoverPeering`.";
    cutover_hold: Wish, "CutoverHold",
        Choice { words: &[("auto", Wish::Auto), ("off", Wish::Off)], none: None }, "auto",
        PLAIN, Live, "Whether that begins when the virtual machine stops here, so that what comes meanwhile waits in the queue of the target's tap; needs `CutoverForward`.";
    cutover_conntrack: Handover, "CutoverConntrack",
        Choice { words: &[("auto", Handover::Auto), ("handover", Handover::Always), ("off", Handover::Off)], none: None }, "auto",
        PLAIN, Live, "Whether the tracked connections of a virtual machine are handed over to the target: `auto` where that one tracks connections, `handover` also where nothing is tracked yet; needs `CutoverForward`.";
    cutover_libvirt_uri: String, "CutoverLibvirtURI", Text { rule: any_text, description: "a URI of libvirt's" }, "qemu:///system",
        LOCAL, AtStart, "Where libvirt says that a virtual machine stops because it is being migrated away; none for not listening. Used where the agents talk to each other.";
    cutover_forward_table: u32, "CutoverForwardTable", FORWARD_TABLE, "7179",
        PLAIN, AtStart, "Routing table, and priority of its rule, of what is forwarded; the next table and the priority before it are for what comes out of the tunnel.";
    cutover_ready_command: Option<PathBuf>, "CutoverReadyCommand", Path, "",
        LOCAL, Live, "Program that gets an endpoint as JSON on standard input and must exit with 0 before it is reported up.";

    log_severity_screen: LogSeverity, "LogSeverityScreen", SEVERITY, "INFO",
        PLAIN, AtStart, "Least important line on standard error.";
    log_format: LogFormat, "LogFormat",
        Choice { words: &[("text", LogFormat::Text), ("json", LogFormat::Json)], none: None }, "text",
        NEEDED, AtStart, "Shape of the log lines.";
    log_severity_file: LogSeverity, "LogSeverityFile", SEVERITY, "INFO",
        PLAIN, Never, "Least important line in Felix's log file. The agent has none, see `LogFilePath`.";
    log_severity_sys: LogSeverity, "LogSeveritySys", SEVERITY, "INFO",
        PLAIN, Never, "Least important line that Felix sends to syslog. The agent does not: on standard error it gives each line its priority, from which systemd's journal, and a syslog daemon that reads that, have it; sent twice it would be there twice.";
    log_file_path: Option<PathBuf>, "LogFilePath", Path, "/var/log/calico/felix.log",
        FATAL, Never, "Felix's log file. The agent writes none: where Felix runs beside it, this file is Felix's, and a disk that is slow or full would hold up what the agent does. Whoever starts the agent keeps its standard error; systemd's journal does.";

    openstack_region: String, "OpenstackRegion",
        Text { rule: region, description: "a lower-case DNS label of at most 46 characters" }, "",
        FATAL, AtStart, "Region: part of the namespace of the resources and of the keys that are reported.";
    etcd_endpoints: Vec<String>, "EtcdEndpoints",
        List { item: Text { rule: endpoint_url, description: "scheme://host:port" } }, "",
        LOCAL, AtStart, "Members of the etcd cluster.";
    etcd_addr: String, "EtcdAddr", Text { rule: host_and_port, description: "host:port" }, "127.0.0.1:2379",
        LOCAL, AtStart, "The etcd server, if EtcdEndpoints is not given.";
    etcd_scheme: &'static str, "EtcdScheme",
        Choice { words: &[("http", "http"), ("https", "https")], none: None }, "http",
        LOCAL, AtStart, "Scheme that goes with EtcdAddr.";
    etcd_key_file: Option<PathBuf>, "EtcdKeyFile", Path, "", LOCAL, AtStart, "Private key for etcd.";
    etcd_cert_file: Option<PathBuf>, "EtcdCertFile", Path, "", LOCAL, AtStart, "Client certificate for etcd.";
    etcd_ca_file: Option<PathBuf>, "EtcdCaFile", Path, "", LOCAL, AtStart, "Authorities that sign etcd's certificates; without it, those of the system.";
    etcd_username: String, "EtcdUsername", Text { rule: any_text, description: "a name" }, "",
        LOCAL, AtStart, "User of etcd, with EtcdPassword.";
    etcd_password: Secret, "EtcdPassword", SecretText, "",
        LOCAL, AtStart, "Password of EtcdUsername.";

    endpoint_reporting_enabled: bool, "EndpointReportingEnabled", Bool, "false",
        PLAIN, Live, "Whether endpoint status is written to etcd; a `dir` datastore always has its status files, and with `CutoverRole = routes` it is always written.";
    endpoint_reporting_delay: Duration, "EndpointReportingDelaySecs", PERIOD, "1",
        PLAIN, Live, "Least time between two writes of one endpoint's status to etcd, unless somebody waits for the write; 0 for none.";
    reporting_interval: Duration, "ReportingIntervalSecs", PERIOD, "30",
        PLAIN, Live, "Time between two heartbeats; 0 for none. With `CutoverRole = routes` they are Felix's.";
    reporting_ttl: Duration, "ReportingTTLSecs", PERIOD, "90",
        PLAIN, Live, "How long a heartbeat is valid.";
    endpoint_status_path_prefix: Option<PathBuf>, "EndpointStatusPathPrefix", Path, "/var/run/calico",
        PLAIN, Never, "Directory of the status files that Felix writes for a container network's plugin. A cloud of virtual machines has no such plugin; the statuses of a `dir` datastore are in `CutoverRunDir`.";
    health_enabled: bool, "HealthEnabled", Bool, "false",
        PLAIN, Live, "Whether liveness and readiness are served over HTTP (docs/health.md).";
    health_host: String, "HealthHost", HOST, "localhost",
        PLAIN, Live, "Where liveness and readiness are served; everywhere if none.";
    health_port: u16, "HealthPort", PORT, "9099",
        PLAIN, Live, "Port of liveness and readiness. With `CutoverRole = routes` it is Felix's, and `CutoverHealthPort` counts.";
    health_timeout_overrides: BTreeMap<String, Duration>, "HealthTimeoutOverrides", Timeouts, "",
        PLAIN, Live, "How long a part of the agent may be busy before it does not count as live, in place of `DataplaneWatchdogTimeout`; 0 for as long as it likes (docs/health.md has the names).";
    cutover_health_port: u16, "CutoverHealthPort", PORT, "9199",
        PLAIN, Live, "Port of liveness and readiness with `CutoverRole = routes`.";
    prometheus_metrics_enabled: bool, "PrometheusMetricsEnabled", Bool, "false",
        PLAIN, Live, "Whether metrics are served over HTTP, for Prometheus (docs/metrics.md).";
    prometheus_metrics_host: String, "PrometheusMetricsHost", HOST, "",
        PLAIN, Live, "Where metrics are served; everywhere if none.";
    prometheus_metrics_port: u16, "PrometheusMetricsPort", PORT, "9091",
        PLAIN, Live, "Port of the metrics. With `CutoverRole = routes` it is Felix's, and `CutoverMetricsPort` counts.";
    prometheus_metrics_cert_file: Option<PathBuf>, "PrometheusMetricsCertFile", Path, "",
        PLAIN, Live, "Certificate, with those between it and its authority, that metrics are served with: over HTTPS then, and only. Read anew for each connection.";
    prometheus_metrics_key_file: Option<PathBuf>, "PrometheusMetricsKeyFile", Path, "",
        PLAIN, Live, "Private key of that certificate.";
    prometheus_metrics_ca_file: Option<PathBuf>, "PrometheusMetricsCAFile", Path, "",
        PLAIN, Live, "Authorities that sign the certificates of clients.";
    prometheus_metrics_client_auth: ClientAuth, "PrometheusMetricsClientAuth",
        Choice { words: &[("RequireAndVerifyClientCert", ClientAuth::RequireAndVerify), ("RequireAnyClientCert", ClientAuth::RequireAny), ("VerifyClientCertIfGiven", ClientAuth::VerifyIfGiven), ("NoClientCert", ClientAuth::None)], none: None }, "NoClientCert",
        NEEDED, Live, "What a client that reads metrics over HTTPS has to show of itself.";
    cutover_metrics_port: u16, "CutoverMetricsPort", PORT, "9191",
        PLAIN, Live, "Port of the metrics with `CutoverRole = routes`.";
    cutover_page_enabled: bool, "CutoverPageEnabled", Bool, "false",
        PLAIN, Live, "Whether a page for people is served over HTTP, at the port of the metrics and with their TLS, whether they are served or not (docs/page.md).";
    cutover_page_access: PageAccess, "CutoverPageAccess",
        Choice { words: &[("loopback", PageAccess::Loopback), ("metrics", PageAccess::Metrics)], none: None }, "loopback",
        NEEDED, Live, "Who may read the page: `loopback`, whoever is on the host, wherever metrics are served; `metrics`, whoever may read the metrics, where they are served. It names the host's VMs and addresses.";
    dataplane_watchdog_timeout: Duration, "DataplaneWatchdogTimeout", PERIOD, "90",
        PLAIN, Live, "How long a part of the agent may be busy without a pause before log, `cutover status`, health and doctor say so and no heartbeat is sent; 0 for as long as it likes.";
    ip_forwarding: Switch, "IPForwarding",
        Choice { words: &[("Enabled", Switch::Enabled), ("Disabled", Switch::Disabled)], none: None }, "Enabled",
        LOCAL, AtStart, "Whether the host is made to forward.";
    interface_exclude: Vec<String>, "InterfaceExclude",
        List { item: Text { rule: interface_pattern, description: "an interface name or a /regular expression/" } }, "kube-ipvs0",
        PLAIN, Never, "Interfaces that Felix leaves alone although it looks at all others. The agent looks at none but those that `InterfacePrefix` names.";
    remove_external_routes: bool, "RemoveExternalRoutes", Bool, "true",
        PLAIN, Never, "Whether Felix removes others' routes from workload interfaces. The agent never touches a route that is not its own.";
    route_sync_disabled: bool, "RouteSyncDisabled", Bool, "false",
        PLAIN, Never, "Whether Felix leaves routes alone, as it has to beside `CutoverRole = routes`, where the agent looks at it for that. An agent without routes would have nothing to do.";
    local_subnet_l2_reachability: Reachability, "LocalSubnetL2Reachability",
        Choice { words: &[("Disabled", Reachability::Disabled), ("PodsAndLoadBalancers", Reachability::PodsAndLoadBalancers)], none: None }, "Disabled",
        PLAIN, Never, "Whether the host answers ARP and neighbour solicitations of its own subnet for workloads. Addresses of virtual machines are routed, and none is on the hosts' subnet.";
    local_subnet_l2_reachability_refresh_interval: Duration, "LocalSubnetL2ReachabilityRefreshInterval", PERIOD, "120",
        PLAIN, Never, "How often that is refreshed.";
    metadata_addr: String, "MetadataAddr", HOST, "127.0.0.1",
        FATAL, Never, "Where Felix's policy sends what workloads ask of the metadata service. Policy is not the agent's.";
    metadata_port: u16, "MetadataPort", PORT, "8775",
        FATAL, Never, "Port of Nova's metadata service, for the same.";
    workload_source_spoofing: Spoofing, "WorkloadSourceSpoofing",
        Choice { words: &[("Disabled", Spoofing::Disabled), ("Any", Spoofing::Any)], none: None }, "Disabled",
        PLAIN, Never, "Whether workloads may ask Felix's policy to let them send with other source addresses. Policy is not the agent's.";
}
