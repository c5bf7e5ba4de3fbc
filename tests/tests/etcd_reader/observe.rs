//! `cutover agent --observe`: it writes nothing, and what it says is what an agent then does.

use crate::site::{HOST, Site};
use cutover_tests::datastore::endpoint_key;
use cutover_tests::felix::Process;
use cutover_tests::route_history::{Change, History, Route};
use cutover_tests::{OpenTap, Port, Tap, wait};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Much longer than the grace time.
const QUIET: Duration = Duration::from_secs(4);
/// The protocol of Felix and of the agent, and that of somebody else.
const OURS: u8 = 3;
const BIRD: u8 = 12;

/// Destination, metric, interface, protocol.
type RouteKey = (String, u64, String, u64);

fn observe(site: &Site, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = site.node.agent.run(&[&["agent", "--observe"], arguments].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[track_caller]
fn report(site: &Site, code: i32) -> Value {
    let (ended, out, err) = observe(site, &["--json"]);
    assert_eq!(ended, Some(code), "{out}{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

fn list<'a>(report: &'a Value, name: &str) -> &'a Vec<Value> {
    report[name].as_array().unwrap_or_else(|| panic!("{name}: {report:#}"))
}

/// The routes that are to be written in one of these ways.
fn routes(report: &Value, ways: &[&str]) -> BTreeSet<RouteKey> {
    let number = |it: &Value| it.as_u64().expect("a number");
    let text = |it: &Value| it.as_str().expect("text").to_owned();
    let writes =
        list(report, "routes").iter().filter(|it| ways.contains(&it["write"].as_str().expect("a way")));
    writes
        .map(|it| {
            let [destination, interface] = ["destination", "interface"].map(|name| text(&it[name]));
            (destination, number(&it["metric"]), interface, number(&it["protocol"]))
        })
        .collect()
}

/// What was written, as the kernel has told it.
fn written(site: &Site, history: &History) -> [BTreeSet<RouteKey>; 2] {
    let name = |ifindex| {
        let name = site.node.host.namespace().run(|| nix::net::if_::if_indextoname(ifindex));
        name.expect("it is there").into_string().expect("text")
    };
    let key = |route: &Route| {
        let Route { destination, metric, ifindex, protocol, .. } = route;
        (destination.to_string(), u64::from(*metric), name(*ifindex), u64::from(*protocol))
    };
    let (mut added, mut removed) = (BTreeSet::new(), BTreeSet::new());
    for event in history.writes() {
        match &event.change {
            Change::Added { route, .. } => added.insert(key(route)),
            Change::Removed(route) => removed.insert(key(route)),
            _ => false,
        };
    }
    [added, removed]
}

/// Every setting of an interface, and the two of the host, by the name that the report gives them.
fn sysctls(site: &Site) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    site.node.host.namespace().run(|| {
        let root = Path::new("/proc/sys/net");
        for folder in ["ipv4/conf", "ipv4/neigh", "ipv6/conf"] {
            let interfaces = fs::read_dir(root.join(folder)).expect("sysctls").flatten();
            for file in interfaces.flat_map(|it| fs::read_dir(it.path()).expect("sysctls").flatten()) {
                let name = file.path().strip_prefix("/proc/sys").expect("below it").display().to_string();
                found.extend(fs::read_to_string(file.path()).map(|text| (name, text.trim().to_owned())));
            }
        }
        let forward = fs::read_to_string(root.join("ipv4/ip_forward")).expect("a sysctl");
        found.insert("net/ipv4/ip_forward".to_owned(), forward.trim().to_owned());
    });
    found
}

/// A host that Felix has served until now, with something of everything.
struct Switch {
    _open: OpenTap,
    others: Vec<(Port, Tap)>,
    _felix: Process,
    // ORDER: last, because its lab looks for what the others leave behind.
    site: Site,
}

fn before_the_switch() -> Switch {
    let mut site = Site::new();
    site.node.agent.set("CutoverRole", "routes");
    site.node.open();
    let others: Vec<_> = [2, 3].into_iter().map(|number| site.plug(number)).collect();
    let open = others[0].1.open();
    site.put_endpoint(&others[0].0, HOST, "u2");
    let nowhere = Port::new(4);
    site.put_endpoint(&nowhere, HOST, "u4");
    let [one, two, three] = [&site.port, &others[0].0, &others[1].0];
    let namespace = site.node.host.namespace();
    namespace.ip(&format!(
        "route add {ipv4} dev {tap1} scope link proto {OURS} metric 1024\n\
         neigh add 10.65.0.99 lladdr {mac} nud permanent dev {tap1}\n\
         route add {two_ipv4} dev {tap2} scope link proto 80 metric 1024\n\
         route add {two_ipv4} dev eth0 scope link proto {BIRD} metric 100\n\
         route add {leftover} dev {tap3} scope link proto {OURS} metric 1024",
        ipv4 = one.ipv4(),
        tap1 = one.interface,
        mac = one.mac,
        two_ipv4 = two.ipv4(),
        tap2 = two.interface,
        leftover = three.ipv4(),
        tap3 = three.interface,
    ));
    let felix = Process::start(
        namespace,
        site.lab.folder(),
        &[("FELIX_ROUTESYNCDISABLED", "true"), ("FELIX_ENDPOINTREPORTINGENABLED", "false")],
    );
    Switch { _open: open, others, _felix: felix, site }
}

#[test]
fn it_writes_nothing_and_an_agent_does_just_what_it_says() {
    let mut switch = before_the_switch();
    switch.site.node.watch.wait_quiet(wait::SOON, Duration::from_millis(300));
    let site = &switch.site;
    let (mark, revision, settings) = (site.node.watch.mark(), site.etcd.revision(), sysctls(site));
    let seen = report(site, 2);
    let (code, text, last) = observe(site, &[]);

    // Nothing was written.
    let writes = site.node.watch.since(mark);
    assert_eq!(writes.writes(), Vec::<&_>::new());
    assert_eq!(site.etcd.revision(), revision);
    assert_eq!(sysctls(site), settings);
    assert!(!site.node.agent.run_dir().exists() && !site.node.agent.pin_path().exists());

    // What it says.
    let [one, two, three] = [&site.port, &switch.others[0].0, &switch.others[1].0];
    assert_eq!((seen["endpoints"].as_u64(), seen["routes_kept"].as_u64()), (Some(3), Some(1)), "{seen:#}");
    assert_eq!((&seen["complete"], &seen["agent"]), (&Value::Bool(true), &Value::Null));
    assert_eq!(seen["felix"][0]["route_sync_disabled"], Value::Bool(true), "{seen:#}");
    let key = |to: ipnet::IpNet, port: &Port| (to.to_string(), 1024, port.interface.clone(), u64::from(OURS));
    let added = BTreeSet::from([key(one.ipv6(), one), key(two.ipv6(), two)]);
    assert_eq!(routes(&seen, &["add"]), added, "{seen:#}");
    assert_eq!(routes(&seen, &["replace"]), BTreeSet::from([key(two.ipv4(), two)]), "{seen:#}");
    assert_eq!(routes(&seen, &["remove"]), BTreeSet::from([key(three.ipv4(), three)]), "{seen:#}");
    let of = |way: &str| list(&seen, "routes").iter().find(|it| it["write"] == way).expect("one");
    assert_eq!(of("replace")["in_place_of"]["protocol"], 80, "{seen:#}");
    assert_eq!((&of("remove")["is_later"], &of("add")["is_later"]), (&true.into(), &false.into()));
    let in_the_way = list(&seen, "in_the_way");
    assert_eq!((in_the_way.len(), &in_the_way[0]["protocol"]), (1, &BIRD.into()), "{seen:#}");
    assert_eq!(in_the_way[0]["interface"], "eth0");
    let absent = list(&seen, "endpoints_without_interface");
    assert_eq!((absent.len(), &absent[0]["interface"]), (1, &"tapport4".into()), "{seen:#}");
    let alone = list(&seen, "interfaces_without_endpoint");
    assert_eq!(
        (alone.len(), &alone[0]["interface"], &alone[0]["routes"]),
        (1, &"tapport3".into(), &1.into())
    );
    let stale = list(&seen, "neighbours").iter().find(|it| it["address"] == "10.65.0.99");
    assert_eq!(stale.expect("the stale one")["write"], "remove");
    let named: Vec<&str> = list(&seen, "sysctls").iter().filter_map(|it| it["name"].as_str()).collect();
    assert!(named.contains(&"net/ipv4/conf/tapport1/proxy_arp"), "{named:?}");
    assert!(!named.iter().any(|it| it.ends_with("rp_filter")), "that is Felix's: {named:?}");
    assert_eq!(code, Some(2));
    assert!(last.contains("changes would be made; nothing was written"), "{last}");
    for part in [
        "nothing was written",
        "remove  10.65.0.4/32 dev tapport3 metric 1024 proto boot, after 2 s",
        "in place of 10.65.0.3/32 dev tapport2 metric 1024 proto 80",
        "metric 100 proto bird: is used instead",
        "tapport4 (",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }

    // What an agent then does.
    switch.site.node.agent.start_in_sync();
    let site = &switch.site;
    site.node.wait_settled(&site.port);
    site.node.watch.wait_quiet(wait::SOON, QUIET);
    let [added, removed] = written(site, &site.node.watch.since(mark));
    assert_eq!(added, routes(&seen, &["add", "replace"]), "{}", site.node.agent.log_text());
    assert_eq!(removed, routes(&seen, &["remove"]), "{}", site.node.agent.log_text());
    let (neighbours, tap) = (site.node.watch.since(mark), site.node.tap().ifindex());
    let neighbours: BTreeSet<String> = neighbours
        .events
        .iter()
        .filter_map(|event| match &event.change {
            Change::NeighbourSet(it) if it.permanent => Some(format!("{} {}", it.address, it.mac?)),
            // KERNEL: one that is removed is not permanent any more when it is told of.
            Change::NeighbourRemoved(it) if it.ifindex == tap => Some(format!("{} gone", it.address)),
            _ => None,
        })
        .collect();
    let told = list(&seen, "neighbours").iter().map(|it| {
        let address = it["address"].as_str().expect("an address");
        format!("{address} {}", it["mac"].as_str().unwrap_or("gone"))
    });
    assert_eq!(neighbours, told.collect());
    let after = sysctls(site);
    let changed: BTreeMap<&str, &str> = after
        .iter()
        .filter(|(name, value)| settings.get(*name) != Some(*value))
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    for it in list(&seen, "sysctls") {
        let name = it["name"].as_str().expect("a name");
        assert_eq!(changed.get(name).copied(), it["to_be"].as_str(), "{name}");
        assert_eq!(settings.get(name).map(String::as_str), it["is"].as_str(), "{name}");
    }
    // KERNEL: forwarding of the whole host is that of every interface.
    let of_taps = changed.keys().filter(|name| name.contains("/tapport") && !name.ends_with("/forwarding"));
    let unsaid: Vec<_> = of_taps.filter(|name| !named.contains(*name)).collect();
    assert!(unsaid.is_empty(), "{unsaid:?}");

    // Beside that agent, which goes on as before.
    let mark = site.node.watch.mark();
    let seen = report(site, 0);
    assert_eq!(seen["agent"].as_i64(), site.node.agent.pid().map(i64::from), "{seen:#}");
    assert_eq!(seen["routes_kept"], 4, "{seen:#}");
    assert_eq!(site.node.watch.since(mark).writes(), Vec::<&_>::new());
    assert_eq!(site.node.agent.status()["pid"].as_i64(), site.node.agent.pid().map(i64::from));
}

/// Routes of machines that run here, and a name under which the datastore has none of them.
#[test]
fn what_the_guard_would_keep_is_said_with_the_reason() {
    let mut switch = before_the_switch();
    switch.site.node.agent.set("FelixHostname", HOST.to_uppercase());
    let site = &switch.site;
    let mark = site.node.watch.mark();
    let seen = report(site, 2);
    let kept = seen["losses"]["interfaces"].as_array().expect("a list");
    assert_eq!(kept, &vec![Value::from("tapport1")], "{seen:#}");
    assert!(list(&seen, "routes").is_empty(), "{seen:#}");
    assert_eq!(seen["endpoints"], 0);
    let (_, text, last) = observe(site, &[]);
    assert!(text.contains(&format!("FelixHostname = {HOST}")), "{text}");
    assert!(last.contains("1 things would wait for cutover release"), "{last}");
    assert_eq!(site.node.watch.since(mark).writes(), Vec::<&_>::new());
}

/// Whoever cannot read something gives nothing up, and says what it is.
#[test]
fn what_cannot_be_read_is_named() {
    let switch = before_the_switch();
    let site = &switch.site;
    site.etcd.put(&endpoint_key(&Port::new(5), HOST), "{");
    let seen = report(site, 2);
    assert_eq!(
        (&seen["complete"], seen["quarantine"].as_object().map(serde_json::Map::len)),
        (&false.into(), Some(1))
    );
    assert!(routes(&seen, &["remove"]).is_empty(), "{seen:#}");
}

#[test]
fn without_an_answer_there_is_no_report() {
    let site = Site::new();
    site.etcd.kill(0);
    let (code, out, last) = observe(&site, &["--within", "1"]);
    assert_eq!((code, out.as_str()), (Some(69), ""), "{last}");
    assert!(last.contains("the datastore was not read within 1 s: "), "{last}");
}
