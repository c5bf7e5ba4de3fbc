//! Two regions in one etcd, with equal names for everything: neither sees anything of the other.

use super::cloud::TIDIED;
use cutover_daemon::datastore::etcd::Keys;
use cutover_engine::EndpointKey;
use cutover_tests::datastore;
use cutover_tests::resources::new_uid;
use cutover_tests::route_watch::Mark;
use cutover_tests::scene::{ELEVATED, NORMAL, Node, SOURCE, TARGET};
use cutover_tests::{Agent, Etcd, Lab, Port, frames, wait};

/// The first heartbeat comes after ten seconds.
const FIRST_HEARTBEAT: std::time::Duration = std::time::Duration::from_secs(25);

/// Two hosts of a region, with one port.
struct Region {
    keys: Keys,
    source: Node,
    target: Node,
    port: Port,
}

fn configure(agent: &mut Agent, etcd: &Etcd, region: &str, host: &str) {
    agent.set("DatastoreType", "etcdv3");
    agent.set("EtcdEndpoints", etcd.endpoints());
    agent.set("FelixHostname", host);
    agent.set("OpenstackRegion", region);
    agent.set("LiveMigrationRouteConvergenceTime", 2);
    agent.set("ReportingIntervalSecs", 1);
}

impl Region {
    fn start(lab: &Lab, etcd: &Etcd, region: &str) -> Self {
        let port = Port::new(1);
        let node = |host: &str| {
            let mut node = Node::new(lab, &format!("{region}-{host}"), &lab.directory(), &port);
            configure(&mut node.agent, etcd, region, host);
            node
        };
        let mut region =
            Self { keys: Keys::new(SOURCE, region), source: node(SOURCE), target: node(TARGET), port };
        region.source.open();
        region.bind(etcd, SOURCE);
        region.source.agent.start_in_sync();
        region.target.agent.start_in_sync();
        region.source.wait_settled(&region.port);
        region
    }

    fn endpoint(&self, host: &str) -> EndpointKey {
        EndpointKey {
            host: host.into(),
            orchestrator: "openstack".into(),
            workload: format!("{}/{}", self.keys.namespace(), self.port.workload),
            endpoint: self.port.endpoint.clone(),
        }
    }

    fn bind(&self, etcd: &Etcd, host: &str) {
        let mut document = self.port.endpoint_on(host, &new_uid());
        document["metadata"]["namespace"] = self.keys.namespace().into();
        etcd.put(&self.keys.endpoint(&self.endpoint(host)), &document.to_string());
    }

    fn unbind(&self, etcd: &Etcd, host: &str) {
        etcd.delete(&self.keys.endpoint(&self.endpoint(host)));
    }

    fn migration_key(&self) -> String {
        self.keys.migration(&self.endpoint(TARGET).to_string())
    }

    fn announce(&self, etcd: &Etcd) {
        let mut document = self.port.migration(SOURCE, TARGET, &new_uid());
        document["metadata"]["namespace"] = self.keys.namespace().into();
        for side in ["source", "target"] {
            let workload = format!("{}/{}", self.keys.namespace(), self.port.workload);
            document["spec"][side]["workloadEndpoint"]["workloadID"] = workload.into();
        }
        etcd.put(&self.migration_key(), &document.to_string());
    }

    fn marks(&self) -> [Mark; 2] {
        [self.source.watch.mark(), self.target.watch.mark()]
    }

    /// Everything that its agents have ever written.
    fn reports(&self, etcd: &Etcd) -> Vec<(i64, String, Option<String>)> {
        let prefix = format!("/calico/felix/v2/{}/", self.keys.region());
        let written = etcd.written(&prefix).into_iter().filter(|write| !write.key.ends_with("status"));
        written.map(|write| (write.revision, write.key, write.value)).collect()
    }

    fn has_status(&self, etcd: &Etcd, host: &str) -> bool {
        etcd.value(&self.keys.status(&self.endpoint(host))).as_deref() == Some("{\"status\":\"up\"}")
    }
}

#[test]
fn equal_names_in_two_regions_do_not_disturb_one_another() {
    let lab = Lab::new();
    let etcd = Etcd::start(&lab);
    datastore::set_up(&etcd);
    let mut east = Region::start(&lab, &etcd, "east");
    let west = Region::start(&lab, &etcd, "west");
    for region in [&east, &west] {
        wait::until(wait::SOON, "reported", || region.has_status(&etcd, SOURCE));
    }
    let (marks, reports) = (west.marks(), west.reports(&etcd));
    assert_eq!(reports.len(), 1, "{reports:?}");

    // A migration in the east, all the way.
    east.announce(&etcd);
    east.bind(&etcd, TARGET);
    // Which it is not before the tap is watched.
    wait::until(wait::SOON, "reported", || east.has_status(&etcd, TARGET));
    let mac = east.port.mac;
    east.target.open().send(&frames::rarp(mac));
    east.target.wait_metrics(&east.port, &[ELEVATED]);
    etcd.delete(&east.migration_key());
    east.unbind(&etcd, SOURCE);
    east.source.unplug();
    east.target.wait_metrics(&east.port, &[NORMAL]);
    wait::until(TIDIED, "the source's status goes", || !east.has_status(&etcd, SOURCE));

    // Whatever the agents of the west would have done, they have done before they say that they live.
    for host in [SOURCE, TARGET] {
        for region in ["east", "west"] {
            let key = format!("/calico/felix/v2/region-{region}/host/{host}/status");
            wait::until(FIRST_HEARTBEAT, &key, || etcd.value(&key).is_some());
        }
    }
    assert_eq!(west.reports(&etcd), reports);
    for (node, mark) in [&west.source, &west.target].into_iter().zip(marks) {
        assert_eq!(node.watch.since(mark).writes_to(node.tap().ifindex()), Vec::<&_>::new());
    }
    west.source.wait_metrics(&west.port, &[NORMAL]);
    assert_eq!(west.target.agent.log().matching(&["LiveMigration"]).len(), 0);

    // And the other way round: the west's endpoint goes, the east's of the same name stays.
    let mark = east.target.watch.mark();
    west.unbind(&etcd, SOURCE);
    west.source.wait_metrics(&west.port, &[]);
    wait::until(wait::SOON, "the west's status goes", || !west.has_status(&etcd, SOURCE));
    assert!(east.has_status(&etcd, TARGET));
    assert_eq!(east.target.watch.since(mark).writes_to(east.target.tap().ifindex()), Vec::<&_>::new());
    let keys: Vec<String> = etcd.all("/calico/felix/v2/no-region/").into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, Vec::<String>::new());
}

/// One host that belongs to both: two agents with folders of their own, which know their routes by their protocols.
/// A port's tap is named after the port, so ports of one host cannot have equal names whatever their regions are.
#[test]
fn two_agents_on_one_host() {
    const PROTOCOLS: [u8; 2] = [3, 80];
    let lab = Lab::new();
    let etcd = Etcd::start(&lab);
    datastore::set_up(&etcd);
    let ports = [Port::new(1), Port::new(2)];
    let mut node = Node::new(&lab, "both", &lab.directory(), &ports[0]);
    node.open();
    let second_tap = node.host.plug(&ports[1].interface, ports[1].tap_mac());
    let second_qemu = second_tap.open();
    let regions = ["east", "west"];
    let keys = regions.map(|region| Keys::new(SOURCE, region));
    let status = |number: usize| {
        keys[number].status(&EndpointKey {
            host: SOURCE.into(),
            orchestrator: "openstack".into(),
            workload: format!("{}/{}", keys[number].namespace(), ports[number].workload),
            endpoint: ports[number].endpoint.clone(),
        })
    };
    let bind = |number: usize| {
        let mut document = ports[number].endpoint_on(SOURCE, &new_uid());
        document["metadata"]["namespace"] = keys[number].namespace().into();
        let key = format!("{}{}", keys[number].endpoints(), ports[number].name_on(SOURCE));
        etcd.put(&key, &document.to_string());
    };
    let mut agents: Vec<Agent> = regions
        .iter()
        .zip(PROTOCOLS)
        .map(|(region, protocol)| {
            let mut agent = Agent::named(&lab, &node.host, &lab.directory(), region);
            configure(&mut agent, &etcd, region, SOURCE);
            agent.set("DeviceRouteProtocol", protocol);
            agent
        })
        .collect();
    for (number, agent) in agents.iter_mut().enumerate() {
        bind(number);
        agent.start_in_sync();
    }
    for (number, port) in ports.iter().enumerate() {
        node.wait_metrics(port, &[NORMAL]);
        wait::until(wait::SOON, "reported", || etcd.value(&status(number)).is_some());
    }
    let protocols = |port: &Port| -> Vec<u8> {
        node.watch.routes_to(port.ipv4()).iter().map(|route| route.protocol).collect()
    };
    wait::until(wait::SOON, "neighbours of the second", || neighbours(&node, &ports[1]) == 2);
    wait::until(wait::SOON, "neighbours of the first", || neighbours(&node, &ports[0]) == 2);
    assert_eq!([protocols(&ports[0]), protocols(&ports[1])], [vec![3], vec![80]]);

    // One starts anew, which is when an agent looks at everything that there is.
    let mark = node.watch.mark();
    agents[0].kill();
    agents[0].start_in_sync();
    let again = status(0);
    etcd.delete(&again);
    agents[0].kill();
    agents[0].start_in_sync();
    wait::until(wait::SOON, "what was missing is restored", || etcd.value(&again).is_some());
    for ifindex in [node.tap().ifindex(), second_tap.ifindex()] {
        assert_eq!(node.watch.since(mark).writes_to(ifindex), Vec::<&_>::new());
    }
    drop(second_qemu);
}

/// Permanent neighbours of a port.
fn neighbours(node: &Node, port: &Port) -> usize {
    let found = node.host.namespace().run(cutover_tests::route_watch::dump_neighbours).expect("a dump");
    let of_it = |address| found.iter().any(|entry| entry.address == address && entry.permanent);
    port.addresses.iter().filter(|net| of_it(net.addr())).count()
}
