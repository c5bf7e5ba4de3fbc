//! No orchestrator but libvirt: its hook and the service beside it write what the agents need, into a directory of each host's own or into
//! etcd. What docs/libvirt.md promises is what these tests look at.

use cutover_daemon::datastore::etcd::Keys;
use cutover_engine::EndpointKey;
use cutover_tests::agent::{self, Agent};
use cutover_tests::libvirt::{self, Libvirt};
use cutover_tests::resources::{Directory, new_uid};
use cutover_tests::route_watch::RouteWatch;
use cutover_tests::scene::{ELEVATED, NORMAL, SOURCE, TARGET};
use cutover_tests::tap::Tap;
use cutover_tests::{Etcd, Host, Lab, Port, probe, wait};
use serde_json::json;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::Stdio;

const UUID: &str = "0f4ac1d2-2b0e-4f69-9a3e-3f0c3d7f0a03";
const NAME: &str = "vm1";

/// How long the priority stays elevated after a migration, in seconds.
const CONVERGENCE_S: u32 = 2;

/// A host. Fields go in this order.
struct Compute {
    agent: Agent,
    libvirt: Libvirt,
    watch: RouteWatch,
    directory: Directory,
    _tap: Tap,
    host: Host,
}

impl Compute {
    fn start(lab: &Lab, name: &str, etcd: Option<&Etcd>, port: &Port) -> Self {
        let host = lab.host(name);
        // KERNEL: a host answers ARP requests for the guest's gateway only if it knows a way there (arp_fwd_proxy).
        host.namespace().ip("route add default via 192.168.77.254 dev eth0");
        let watch = RouteWatch::start(host.namespace());
        let tap = host.plug(&port.interface, port.tap_mac());
        let directory = lab.directory_of(name);
        let mut libvirt = Libvirt::start(lab, &host, &agent::binary());
        let mut agent = Agent::new(lab, &host, &directory);
        agent.set("LiveMigrationRouteConvergenceTime", CONVERGENCE_S);
        if let Some(etcd) = etcd {
            agent = agent.on_etcd(etcd);
            agent.set("CutoverPeerAddress", host.ipv4());
            agent.set("EndpointReportingEnabled", true);
        }
        agent.run_daemon_by(libvirt.agent());
        agent.start_in_sync();
        libvirt.install_hook(agent.configuration());
        libvirt.start_follower();
        Self { agent, libvirt, watch, directory, _tap: tap, host }
    }

    #[track_caller]
    fn wait_metrics(&self, port: &Port, metrics: &[u32]) {
        let has = || port.routed().iter().all(|to| self.watch.metrics_to(*to) == metrics);
        if !wait::holds_within(libvirt::BEGUN, has) {
            let is: Vec<_> = port.routed().iter().map(|to| (*to, self.watch.metrics_to(*to))).collect();
            panic!(
                "{} has {is:?}, wanted {metrics:?}; {:?}\n{}\n{}",
                self.host.name(),
                self.directory.files(),
                self.libvirt.follower_log(),
                self.agent.log_text()
            );
        }
    }

    #[track_caller]
    fn wait_files(&self, expected: &[String]) {
        let in_time = wait::holds_within(libvirt::BEGUN, || self.directory.files() == expected);
        let (files, log) = (self.directory.files(), self.libvirt.follower_log());
        assert!(in_time, "{}: {files:?} and not {expected:?}\n{log}", self.host.name());
    }
}

/// Two hosts and a client. Fields go in this order, the lab last.
struct Site {
    source: Compute,
    target: Compute,
    client: Host,
    etcd: Option<Etcd>,
    port: Port,
    _lab: Lab,
}

impl Site {
    fn new(with_etcd: bool) -> Self {
        let lab = Lab::new();
        let mut port = Port::new(1);
        port.workload = UUID.into();
        let etcd = with_etcd.then(|| Etcd::start(&lab));
        if let Some(etcd) = &etcd {
            let ready = json!({"kind": "ClusterInformation", "apiVersion": "projectcalico.org/v3",
                "metadata": {"name": "default"}, "spec": {"datastoreReady": true}});
            etcd.put(&Keys::new(SOURCE, "").cluster(), &ready.to_string());
        }
        let [source, target] = [SOURCE, TARGET].map(|name| Compute::start(&lab, name, etcd.as_ref(), &port));
        let client = lab.host("client");
        let site = Self { source, target, client, etcd, port, _lab: lab };
        site.source.libvirt.boot_described(NAME, UUID, std::slice::from_ref(&site.port));
        site.source.wait_metrics(&site.port, &[NORMAL]);
        site
    }

    /// The client knows where the guest is, as BGP would tell it, and reaches it.
    #[track_caller]
    fn check_reached(&self, compute: &Compute) {
        for net in self.port.routed() {
            let next = if net.addr().is_ipv4() {
                compute.host.ipv4().to_string()
            } else {
                compute.host.ipv6().to_string()
            };
            self.client.namespace().ip(&format!("route replace {net} via {next}"));
            let is_reached = probe::answers_within(libvirt::BEGUN, self.client.namespace(), net.addr());
            assert!(is_reached, "{net} does not answer:\n{}", compute.agent.log_text());
        }
    }

    fn endpoint_file(&self, host: &str) -> String {
        format!("workloadendpoint-{}.yaml", self.port.name_on(host))
    }

    fn endpoint(&self, host: &str) -> EndpointKey {
        EndpointKey {
            host: host.to_owned(),
            orchestrator: "openstack".to_owned(),
            workload: format!("openstack/{UUID}"),
            endpoint: self.port.endpoint.clone(),
        }
    }
}

/// What the target's agent and its kernel have seen of a migration that has succeeded.
#[track_caller]
fn check_arrival(target: &Compute, port: &Port) {
    target.wait_metrics(port, &[NORMAL]);
    let log = target.agent.log_text();
    let announced = "Live migration state transition from=Target";
    assert!(log.lines().any(|line| line.contains(announced) && line.contains("input=GARPDetected")), "{log}");
    for net in port.routed() {
        let metrics = target.watch.history().metrics(net);
        let began = metrics.iter().find(|metrics| !metrics.is_empty()).expect("there is a route");
        assert_eq!(began, &[ELEVATED], "no route before the announcement: {metrics:?}");
    }
}

#[test]
fn with_a_directory_on_each_host_the_network_follows() {
    if !libvirt::is_there("libvirt's hook with directories") {
        return;
    }
    let site = Site::new(false);
    let (source, target, port) = (&site.source, &site.target, &site.port);
    source.wait_files(&[site.endpoint_file(SOURCE)]);
    target.wait_files(&[]);
    site.check_reached(source);

    source.libvirt.migrate(NAME, &target.libvirt);
    check_arrival(target, port);
    target.wait_files(&[site.endpoint_file(TARGET)]);
    source.wait_files(&[]);
    source.wait_metrics(port, &[]);
    site.check_reached(target);

    // Back, and cancelled on the way: nothing has changed for it, and nothing is left where it did not come to.
    let mark = target.watch.mark();
    target.host.slow_migrations_down();
    let mut migration = target.libvirt.begin_migration(NAME, &source.libvirt, &[]);
    wait::until(libvirt::BEGUN, "the migration has begun", || source.directory.files().len() == 2);
    let mut abort = target.libvirt.cancel_migration(NAME);
    target.host.speed_migrations_up();
    let aborted = abort.wait().expect("a child");
    assert!(!migration.wait().expect("a child").success() && aborted.success(), "it is cancelled");
    source.wait_files(&[]);
    assert_eq!(target.directory.files(), [site.endpoint_file(TARGET)]);
    site.check_reached(target);
    for net in port.routed() {
        assert_eq!(target.watch.since(mark).metrics(net), [[NORMAL]]);
    }

    target.libvirt.must(&["destroy", NAME]);
    target.wait_files(&[]);
    target.wait_metrics(port, &[]);

    // A hook that can do nothing keeps no machine from starting, and one whose machine runs can be called by hand.
    let configuration = target.libvirt.inside("etc/calico/felix.cfg");
    let text = fs::read_to_string(&configuration).expect("it was installed");
    fs::write(&configuration, "nonsense\n").expect("space on the disk");
    target.libvirt.boot_described(NAME, UUID, std::slice::from_ref(port));
    assert_eq!(target.directory.files(), [""; 0]);
    fs::write(&configuration, text).expect("space on the disk");
    let mut by_hand = target.libvirt.command("/bin/sh");
    by_hand.args(["-c", &format!("virsh dumpxml {NAME} | cutover libvirt hook {NAME} reconnect begin")]);
    let output = by_hand.output().expect("util-linux");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    target.wait_files(&[site.endpoint_file(TARGET)]);
    target.wait_metrics(port, &[NORMAL]);
}

#[test]
fn with_etcd_the_source_hears_of_the_migration_and_forwards() {
    if !libvirt::is_there("libvirt's hook with etcd") {
        return;
    }
    let site = Site::new(true);
    let (source, target, port) = (&site.source, &site.target, &site.port);
    let etcd = site.etcd.as_ref().expect("it was asked for");
    let keys = Keys::new(SOURCE, "");
    let [at_source, at_target] = [SOURCE, TARGET].map(|host| keys.endpoint(&site.endpoint(host)));
    assert!(etcd.value(&at_source).is_some() && etcd.value(&at_target).is_none());
    site.check_reached(source);

    source.libvirt.migrate(NAME, &target.libvirt);
    check_arrival(target, port);
    wait::until(libvirt::BEGUN, "the migration is ended", || etcd.all(&keys.migrations()).is_empty());
    assert!(etcd.value(&at_source).is_none() && etcd.value(&at_target).is_some());
    source.wait_metrics(port, &[]);
    let log = source.agent.log_text();
    assert!(log.contains("role=SOURCE"), "the source knows: {log}");
    let record = || source.agent.run_ok(&["timeline", "--json"]);
    wait::until(libvirt::BEGUN, "the source has forwarded", || record().contains("\"forwarded\""));
    site.check_reached(target);

    // Back. Which of two hosts it comes from nobody can tell, and the endpoint of one that has died goes with the migration.
    let at_dead_host = keys.endpoint(&site.endpoint("compute3"));
    etcd.put(&at_dead_host, &port.endpoint_on("compute3", &new_uid()).to_string());
    target.libvirt.migrate(NAME, &source.libvirt);
    wait::until(libvirt::BEGUN, "the migration is ended", || etcd.all(&keys.migrations()).is_empty());
    wait::until(libvirt::BEGUN, "the endpoint on the target goes", || etcd.value(&at_target).is_none());
    assert!(etcd.value(&at_source).is_some() && etcd.value(&at_dead_host).is_none());
    source.wait_metrics(port, &[NORMAL]);
}

/// The only member does nothing when it is asked first, and libvirt waits.
#[test]
fn etcd_that_answers_in_time_is_written_after_all() {
    let lab = Lab::new();
    let host = lab.host(TARGET);
    let etcd = Etcd::start(&lab);
    let (keys, port, folder) = (Keys::new(TARGET, ""), Port::new(1), lab.folder());
    let settings = folder.join("hook.cfg");
    let text = format!(
        "FelixHostname = {TARGET}\nDatastoreType = etcdv3\nEtcdEndpoints = {}\nCutoverRunDir = {}\n",
        etcd.endpoints(),
        folder.join("hook").display()
    );
    fs::write(&settings, text).expect("space on the disk");
    let connections = || -> BTreeSet<String> {
        let mut command = host.namespace().command("ss");
        command.args(["-Htn", "state", "established", "( dport = :2379 )"]);
        let output = command.output().expect("iproute2");
        // Local and remote address; what is queued before them changes.
        let addresses = |line: &str| line.split_whitespace().skip(2).collect::<Vec<_>>().join(" ");
        String::from_utf8_lossy(&output.stdout).lines().map(addresses).collect()
    };
    etcd.freeze(0);
    let mut command = host.namespace().command(agent::binary());
    command.args(["libvirt", "hook", "-c"]).arg(&settings).args(["--", NAME, "start", "begin", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut hook = command.spawn().expect("the program is there");
    let xml = format!(
        "<domain><name>{NAME}</name><uuid>{UUID}</uuid><metadata><c:ports xmlns:c='urn:cutover:libvirt:1'>\
         <c:port id='{}' mac='{}'><c:address>{}</c:address></c:port></c:ports></metadata><devices>\
         <interface type='ethernet'><mac address='{}'/><target dev='{}'/></interface></devices></domain>",
        port.endpoint,
        port.mac,
        port.ipv4(),
        port.mac,
        port.interface
    );
    hook.stdin.take().expect("it is a pipe").write_all(xml.as_bytes()).expect("it reads");
    wait::until(wait::SOON, "it asks", || !connections().is_empty());
    let first = connections();
    wait::until(wait::SOON, "it asks again", || connections().iter().any(|one| !first.contains(one)));
    etcd.thaw(0);
    let output = hook.wait_with_output().expect("it is a child");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let key = EndpointKey {
        host: TARGET.to_owned(),
        orchestrator: "openstack".to_owned(),
        workload: format!("openstack/{UUID}"),
        endpoint: port.endpoint.clone(),
    };
    assert!(etcd.value(&keys.endpoint(&key)).is_some());
}
