//! Combination of sources, cross checks, and the generated page.

use super::resource::FelixConfiguration;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

fn sources(environment: &[(&str, &str)], file: &str) -> Sources {
    let environment = environment.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    Sources::new(environment, Path::new("/etc/calico/felix.cfg"), file.as_bytes(), "Compute-7\n").unwrap()
}

fn configuration(name: &str, spec: serde_json::Value) -> FelixConfiguration {
    let serde_json::Value::Object(spec) = spec else { panic!("a spec is an object") };
    FelixConfiguration { name: name.into(), annotations: BTreeMap::new(), spec, has_selector: false }
}

fn warnings(loaded: &Loaded) -> Vec<String> {
    let problems = loaded.problems.iter().filter(|problem| problem.severity >= Severity::Warning);
    problems.map(ToString::to_string).collect()
}

#[test]
fn nothing_given_is_the_documented_default() {
    let loaded = load(&sources(&[], ""), &[]);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    let settings = loaded.settings;
    assert_eq!(settings.felix_hostname, "compute-7");
    assert_eq!(settings.datastore_type, DatastoreType::Etcdv3);
    let policy = settings.policy();
    assert_eq!((policy.ipv4.normal, policy.ipv4.elevated), (1024, 512));
    assert_eq!((policy.ipv6.normal, policy.ipv6.elevated), (1024, 512));
    assert_eq!(policy.convergence, Duration::from_secs(30));
    assert_eq!(policy.grace, Duration::from_secs(2));
    assert_eq!(policy.route_protocol, 3);
    assert_eq!(loaded.origins["FelixHostname"], Origin::System);
    assert_eq!(loaded.origins["DatastoreType"], Origin::BuiltIn);
    assert_eq!(loaded.origins.len(), TABLE.len());
}

#[test]
fn sources_win_in_their_order() {
    let name = "LiveMigrationRouteConvergenceTime";
    let file = "[global]\nLiveMigrationRouteConvergenceTime = 20\n";
    let own =
        configuration("node.compute-7", serde_json::json!({"liveMigrationRouteConvergenceTime": "15s"}));
    let all = configuration("default", serde_json::json!({"liveMigrationRouteConvergenceTime": "1m30s"}));
    let other =
        configuration("node.compute-8", serde_json::json!({"liveMigrationRouteConvergenceTime": "1s"}));
    let resources = [other.clone(), all.clone(), own.clone()];
    let environment = [("Felix_LiveMigrationRouteConvergenceTime", "10")];

    for (sources, resources, seconds, origin) in [
        (
            sources(&environment, file),
            &resources[..],
            10,
            "environment Felix_LiveMigrationRouteConvergenceTime",
        ),
        (sources(&[], file), &resources[..], 20, "/etc/calico/felix.cfg:2"),
        (sources(&[], ""), &resources[..], 15, "FelixConfiguration node.compute-7"),
        (sources(&[], ""), &resources[..2], 90, "FelixConfiguration default"),
        (sources(&[], ""), &resources[..1], 30, "built-in"),
    ] {
        let loaded = load(&sources, resources);
        assert_eq!(loaded.settings.live_migration_route_convergence_time, Duration::from_secs(seconds));
        assert_eq!(loaded.origins[name].to_string(), origin);
        assert!(warnings(&loaded).is_empty());
    }
}

/// W27.
#[test]
fn an_invalid_value_is_reported_and_the_next_source_counts() {
    let sources = sources(&[("FELIX_IPV4NORMALROUTEPRIORITY", "0")], "IPv4NormalRoutePriority = many\n");
    let resources = [
        configuration("node.compute-7", serde_json::json!({"ipv4NormalRoutePriority": 2_147_483_647_u32})),
        configuration("default", serde_json::json!({"ipv4NormalRoutePriority": 2000})),
    ];
    let loaded = load(&sources, &resources);
    assert_eq!(loaded.settings.ipv4_normal_route_priority, 2000);
    assert_eq!(loaded.origins["IPv4NormalRoutePriority"], Origin::Resource("default".into()));
    let warnings = warnings(&loaded);
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(
        warnings[0].starts_with("environment FELIX_IPV4NORMALROUTEPRIORITY: IPv4NormalRoutePriority: \"0\"")
    );
    assert!(warnings[1].starts_with("/etc/calico/felix.cfg:1: "));
    assert!(warnings[0].contains("1 to 2147483646"));
}

/// W22, either family, whoever set it.
#[test]
fn an_elevated_priority_has_to_be_lower_than_the_normal_one() {
    for (file, culprit) in [
        ("IPv4ElevatedRoutePriority = 1024", "IPv4ElevatedRoutePriority"),
        ("IPv4ElevatedRoutePriority = 2000", "IPv4ElevatedRoutePriority"),
        ("IPv4NormalRoutePriority = 512", "IPv4ElevatedRoutePriority"),
        ("IPv6ElevatedRoutePriority = 1025", "IPv6ElevatedRoutePriority"),
        ("IPv6NormalRoutePriority = 1\nIpv6Support = false", "IPv6ElevatedRoutePriority"),
    ] {
        let loaded = load(&sources(&[], file), &[]);
        let fatal: Vec<_> = loaded.fatal().collect();
        assert_eq!(fatal.len(), 1, "{file}");
        assert_eq!(fatal[0].setting, culprit);
        assert_eq!(fatal[0].origin, Origin::File("/etc/calico/felix.cfg".into(), 1));
    }
    let file = "IPv4NormalRoutePriority = 300\nIPv4ElevatedRoutePriority = 299";
    assert_eq!(load(&sources(&[], file), &[]).fatal().count(), 0);
}

/// On a bridge, what has no protocol of its own may be an operator's route.
#[test]
fn bridges_need_a_protocol_of_the_agents_own() {
    let culprits = |file: &str| -> Vec<String> {
        load(&sources(&[], file), &[]).fatal().map(|problem| problem.setting.clone()).collect()
    };
    for rest in [
        "",
        "DeviceRouteProtocol = 3",
        "DeviceRouteProtocol = 16",
        "DeviceRouteProtocol = 80\nCutoverRole = routes",
    ] {
        assert_eq!(culprits(&format!("CutoverBridges = vmbr0\n{rest}")), ["CutoverBridges"], "{rest}");
    }
    let file = "CutoverBridges = vmbr0, br-1\nDeviceRouteProtocol = 80";
    assert_eq!(culprits(file), [""; 0]);
    let settings = load(&sources(&[], file), &[]).settings;
    assert_eq!(Vec::from_iter(&settings.cutover_bridges), ["br-1", "vmbr0"]);
    let policy = settings.policy();
    assert!(policy.has_routes("vmbr0") && policy.has_routes("tap1") && !policy.has_routes("vmbr01"));
    let without = load(&sources(&[], ""), &[]).settings;
    assert_eq!(settings.waiting_for_restart(&without), ["CutoverBridges", "DeviceRouteProtocol"]);
    let kept = settings.reloaded(without);
    assert_eq!(kept.cutover_bridges, settings.cutover_bridges, "until the next start");
    assert_eq!(kept.device_route_protocol, 80, "boot may be anybody's on the bridge");
    let other = load(&sources(&[], "CutoverBridges = vmbr0, br-1\nDeviceRouteProtocol = 81"), &[]).settings;
    assert_eq!(settings.reloaded(other).device_route_protocol, 81);
}

#[test]
fn values_that_have_to_be_right_stop_the_start() {
    for file in [
        "DatastoreType = kubernetes",
        "DatastoreType = none",
        "OpenstackRegion = Europe",
        "InterfacePrefix = none",
        "InterfacePrefix = a/b",
        "MetadataPort = 70000",
        "LogFilePath = relative",
        "CutoverBridges = a/b",
        "CutoverBridges = a234567890123456",
    ] {
        assert_eq!(load(&sources(&[], file), &[]).fatal().count(), 1, "{file}");
    }
}

#[test]
fn convergence_time_is_finite_and_bounded() {
    for bad in ["-1", "nan", "inf", "3601", "1e300", "30s"] {
        let loaded = load(&sources(&[], &format!("LiveMigrationRouteConvergenceTime = {bad}")), &[]);
        assert_eq!(loaded.settings.live_migration_route_convergence_time, Duration::from_secs(30), "{bad}");
        assert_eq!(warnings(&loaded).len(), 1, "{bad}");
    }
    let loaded = load(&sources(&[], "LiveMigrationRouteConvergenceTime = none"), &[]);
    assert_eq!(loaded.settings.live_migration_route_convergence_time, Duration::ZERO);
}

#[test]
fn members_of_resources_are_mapped_to_settings() {
    let spec = serde_json::json!({
        "interfacePrefix": "tap,cali", "ipv6Support": false, "deviceRouteProtocol": 80,
        "netlinkTimeout": "1500ms", "reportingInterval": "1m", "reportingTTL": "2m", "endpointReportingDelay": "0",
        "deviceRouteSourceAddress": "192.0.2.1", "deviceRouteSourceAddressIPv6": "2001:db8::1",
        "logSeverityScreen": "Debug", "cutoverEndpointGrace": 3,
        "bpfEnabled": true, "routeTableRanges": [{"min": 1}],
    });
    let loaded = load(&sources(&[], ""), &[configuration("default", spec)]);
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    let settings = loaded.settings;
    assert_eq!(settings.interface_prefix.to_string(), "tap,cali");
    assert!(!settings.ipv6_support);
    assert_eq!(settings.device_route_protocol, 80);
    assert_eq!(settings.netlink_timeout, Duration::from_millis(1500));
    assert_eq!(settings.reporting_interval, Duration::from_secs(60));
    assert_eq!(settings.reporting_ttl, Duration::from_secs(120));
    assert_eq!(settings.endpoint_reporting_delay, Duration::ZERO);
    assert_eq!(settings.device_route_source_address, Some("192.0.2.1".parse().unwrap()));
    assert_eq!(settings.device_route_source_address_ipv6, Some("2001:db8::1".parse().unwrap()));
    assert_eq!(settings.log_severity_screen, LogSeverity::Debug);
    assert_eq!(settings.cutover_endpoint_grace, Duration::from_secs(3));
}

#[test]
fn what_has_no_effect_is_a_warning_if_it_was_asked_for() {
    let loaded = load(&sources(&[], "RouteSyncDisabled = true\nInterfaceExclude = kube-ipvs0\n"), &[]);
    let found: Vec<_> =
        loaded.problems.iter().map(|problem| (problem.setting.as_str(), problem.severity)).collect();
    assert_eq!(found, [("InterfaceExclude", Severity::Notice), ("RouteSyncDisabled", Severity::Warning)]);
}

/// Felix reads the same file and the same resources.
#[test]
fn what_felix_is_told_in_a_shared_place_is_said_and_does_not_stop_routes_or_reports() {
    let shared = "RouteSyncDisabled = true\nEndpointReportingEnabled = false\n";
    let loaded = load(&sources(&[("FELIX_CUTOVERROLE", "routes")], shared), &[]);
    assert!(warnings(&loaded).is_empty(), "{:?}", warnings(&loaded));
    let said: Vec<_> = loaded.problems.iter().map(|it| (it.setting.as_str(), it.text.as_str())).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said.iter().all(|(_, text)| text.contains("taken as Felix's")), "{said:?}");
    assert!(loaded.settings.reports_endpoints() && loaded.settings.policy().awaits_chains);

    let default = configuration("default", serde_json::json!({"endpointReportingEnabled": true}));
    let loaded = load(&sources(&[], "CutoverRole = routes\n"), &[default]);
    let said: Vec<_> = loaded.problems.iter().map(|it| it.text.as_str()).collect();
    assert!(said.len() == 1 && said[0].contains("FELIX_ENDPOINTREPORTINGENABLED=false"), "{said:?}");

    let full = load(&sources(&[], shared), &[]);
    assert_eq!(warnings(&full).len(), 1, "it has no effect");
    assert!(!full.settings.reports_endpoints() && !full.settings.policy().awaits_chains);
}

/// Felix has the same file and the same resources, and listens on the ports that they name.
#[test]
fn beside_felix_its_ports_are_left_to_it() {
    let shared = "PrometheusMetricsEnabled = true\nPrometheusMetricsPort = 9100\nHealthPort = 9101\n";
    let full = load(&sources(&[], shared), &[]).settings;
    assert_eq!((full.metrics_port(), full.health_port()), (9100, 9101));
    let beside = load(&sources(&[("FELIX_CUTOVERROLE", "routes")], shared), &[]).settings;
    assert!(beside.prometheus_metrics_enabled);
    assert_eq!((beside.metrics_port(), beside.health_port()), (9191, 9199));
}

#[test]
fn timeouts_of_parts_come_from_a_file_or_from_a_list_in_a_resource() {
    let expected =
        [("the loop".to_owned(), Duration::from_secs(30)), ("x".to_owned(), Duration::from_secs(90))];
    let file = load(&sources(&[], "HealthTimeoutOverrides = the loop=30s,x=1m30s\n"), &[]).settings;
    assert_eq!(file.health_timeout_overrides, expected.clone().into());
    let list = serde_json::json!([{"name": "the loop", "timeout": "30s"}, {"name": "x", "timeout": "1m30s"}]);
    let resource = configuration("default", serde_json::json!({"healthTimeoutOverrides": list}));
    assert_eq!(load(&sources(&[], ""), &[resource]).settings.health_timeout_overrides, expected.into());
}

/// With a word that nobody knows, the agent would do everything beside a Felix that does the same.
#[test]
fn the_role_is_local_fatal_if_wrong_and_kept_until_the_next_start() {
    assert_eq!(load(&sources(&[], "CutoverRole = router\n"), &[]).fatal().count(), 1);
    let all = configuration("default", serde_json::json!({"cutoverRole": "routes"}));
    assert_eq!(load(&sources(&[], ""), &[all]).settings.cutover_role, Role::Full);
    let (full, routes) =
        (load(&sources(&[], ""), &[]).settings, load(&sources(&[], "CutoverRole = routes\n"), &[]).settings);
    assert_eq!(full.waiting_for_restart(&routes), ["CutoverRole"]);
    assert_eq!(full.reloaded(routes).cutover_role, Role::Full);
}

#[test]
fn annotations_win_over_the_spec_of_their_resource() {
    let mut own = configuration("default", serde_json::json!({"ipv4NormalRoutePriority": 2000}));
    own.annotations.insert("config.projectcalico.org/IPv4NormalRoutePriority".into(), "3000".into());
    own.annotations.insert("example.org/IPv4NormalRoutePriority".into(), "4000".into());
    assert_eq!(load(&sources(&[], ""), &[own]).settings.ipv4_normal_route_priority, 3000);
}

#[test]
fn resources_cannot_set_what_is_local_nor_speak_for_a_selector() {
    let spec = serde_json::json!({"felixHostname": "evil", "datastoreType": "dir", "cutoverPinPath": "/x"});
    let mut selected = configuration("racks", serde_json::json!({"ipv4NormalRoutePriority": 2000}));
    selected.has_selector = true;
    let loaded = load(&sources(&[], ""), &[configuration("default", spec), selected]);
    assert_eq!(loaded.settings, load(&sources(&[], ""), &[]).settings);
    assert_eq!(warnings(&loaded).len(), 3);
    let notices = loaded.problems.iter().filter(|problem| problem.severity == Severity::Notice);
    assert_eq!(notices.count(), 1);
}

#[test]
fn repeated_unknown_and_empty_values_are_reported() {
    let loaded = load(
        &sources(&[("FELIX_NOSUCHTHING", "1")], "Ipv6Support = true\nIPV6SUPPORT = no\nHealthPort =\n"),
        &[],
    );
    assert!(!loaded.settings.ipv6_support);
    assert_eq!(loaded.origins["Ipv6Support"].to_string(), "/etc/calico/felix.cfg:2");
    let texts: Vec<_> = loaded.problems.iter().map(|p| (p.severity, p.setting.as_str())).collect();
    assert_eq!(
        texts,
        [
            (Severity::Notice, "nosuchthing"),
            (Severity::Warning, "Ipv6Support"),
            (Severity::Notice, "HealthPort")
        ]
    );
}

/// W26: what Felix reads from the environment and then forgets.
#[test]
fn variables_of_calicos_clients_count_less_than_the_file() {
    let given = [
        ("ETCD_ENDPOINTS", "http://a:1"),
        ("ETCD_CA_CERT_FILE", "/a.pem"),
        ("CALICO_ETCD_CA_CERT_FILE", "/b.pem"),
        ("CALICO_DATASTORE_TYPE", "dir"),
        ("ETCD_USERNAME", "felix"),
        ("ETCD_PASSWORD", "word1"),
        ("CALICO_ETCD_PASSWORD", "word2"),
        ("FELIX_ETCDUSERNAME", "cutover"),
    ];
    let loaded = load(&sources(&given, "EtcdEndpoints = http://f:2\n"), &[]);
    let settings = &loaded.settings;
    assert_eq!(settings.etcd_endpoints, ["http://f:2/"]);
    assert_eq!(settings.etcd_ca_file, Some("/b.pem".into()));
    assert_eq!(settings.datastore_type, DatastoreType::Dir);
    assert_eq!((settings.etcd_username.as_str(), settings.etcd_password.as_str()), ("cutover", "word2"));
    assert_eq!(loaded.origins["EtcdPassword"].to_string(), "environment CALICO_ETCD_PASSWORD");
    // Whatever is shown, the password is not.
    let shown: Vec<String> = TABLE.iter().map(|setting| (setting.show)(settings)).collect();
    let problems: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
    for text in [format!("{shown:?}"), format!("{problems:?}"), format!("{settings:?}")] {
        assert!(!text.contains("word1") && !text.contains("word2"), "{text}");
    }
}

#[test]
fn etcd_settings_of_the_environment_count() {
    let environment =
        [("FELIX_ETCDENDPOINTS", "HTTPS://a:2379, https://[::1]:2379/"), ("felix_etcdcafile", "/ca.pem")];
    let settings = load(&sources(&environment, ""), &[]).settings;
    assert_eq!(settings.etcd_endpoints, ["https://a:2379/", "https://[::1]:2379/"]);
    assert_eq!(settings.etcd_ca_file, Some("/ca.pem".into()));
    for bad in ["ftp://a:1", "https://a:1/path", "https://u@a:1", "a:1", "https://a"] {
        let settings = load(&sources(&[("FELIX_ETCDENDPOINTS", bad)], ""), &[]).settings;
        assert!(settings.etcd_endpoints.is_empty(), "{bad}");
    }
}

#[test]
fn a_file_that_is_no_ini_is_refused_with_its_line() {
    let error = Sources::new([], Path::new("/f.cfg"), b"A = 1\nwhat\n", "h").unwrap_err();
    assert!(error.to_string().starts_with("/f.cfg: line 2: "), "{error}");
}

#[test]
fn a_missing_file_is_fine_unless_it_was_named() {
    let directory = tempfile::tempdir().unwrap();
    let error = Sources::read(Some(&directory.path().join("felix.cfg"))).unwrap_err();
    assert!(matches!(error, SourcesError::Unreadable { .. }));
    assert!(matches!(Sources::read(Some(directory.path())), Err(SourcesError::Unreadable { .. })));
}

#[test]
fn the_host_keeps_its_name_however_often_the_settings_are_read_again() {
    let file = |name: &str, priority: u32| {
        load(&sources(&[], &format!("FelixHostname = {name}\nIPv4NormalRoutePriority = {priority}\n")), &[])
            .settings
    };
    let running = file("old", 2000).reloaded(file("new", 3000)).reloaded(file("new", 4000));
    assert_eq!(running.policy().hostname, "old");
    assert_eq!(running.policy().ipv4.normal, 4000);
}

#[test]
fn settings_read_at_start_are_named_when_they_change() {
    let old = load(&sources(&[], ""), &[]).settings;
    let new = load(&sources(&[], "CutoverAttach = xdp\nIPv4NormalRoutePriority = 2000\n"), &[]).settings;
    assert_eq!(old.waiting_for_restart(&new), ["CutoverAttach"]);
    assert!(old.waiting_for_restart(&old).is_empty());
}

/// Set CUTOVER_REGENERATE=1 to write the file instead.
#[test]
fn the_committed_page_is_up_to_date() {
    crate::committed::check("configuration.md", &reference::markdown());
}

proptest! {
    /// Whatever is written, the result is complete and what is in force was given validly or is the default.
    #[test]
    fn any_text_for_any_setting_is_taken_or_refused(row in 0..TABLE.len(), text in "[ -~]{1,20}") {
        let setting = &TABLE[row];
        let loaded = load(&sources(&[(&format!("FELIX_{}", setting.name), &text)], ""), &[]);
        let default = load(&sources(&[], ""), &[]).settings;
        let taken = matches!(loaded.origins[setting.name], Origin::Environment(_));
        let reported = loaded.problems.iter().any(|problem| problem.setting == setting.name);
        let fatal = loaded.fatal().count() > 0;
        prop_assert!(taken || reported);
        if !taken {
            prop_assert_eq!((setting.show)(&loaded.settings), (setting.show)(&default));
        }
        let policy = loaded.settings.policy();
        prop_assert!(fatal || (policy.ipv4.elevated < policy.ipv4.normal && policy.ipv6.elevated < policy.ipv6.normal));
    }

    /// What is shown can be written into a file again.
    #[test]
    fn shown_values_read_back(row in 0..TABLE.len(), text in "[ -~]{1,20}") {
        let setting = &TABLE[row];
        let first = load(&sources(&[(&format!("FELIX_{}", setting.name), &text)], ""), &[]).settings;
        let shown = (setting.show)(&first);
        if !shown.is_empty() {
            let again = load(&sources(&[(&format!("FELIX_{}", setting.name), &shown)], ""), &[]).settings;
            prop_assert_eq!((setting.show)(&again), shown);
        }
    }
}
