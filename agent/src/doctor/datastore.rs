//! Whether the resources can be read: each member of an etcd cluster by itself, or each file of a directory.

use super::finding::{Area, Check, Finding};
use cutover_daemon::control::Losses;
use cutover_daemon::datastore::etcd::{Cluster, Keys, MemberLook, Permission, look, look_at_hosts};
use cutover_daemon::datastore::resource::Resource;
use cutover_daemon::datastore::whereabouts::{Whereabouts, region_setting};
use cutover_daemon::datastore::{read_file, resource_files};
use cutover_daemon::settings::{DatastoreType, Settings};
use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinSet;

static MEMBER: Check = Check {
    area: Area::Datastore,
    name: "member",
    wants: "Each member of the etcd cluster answers, accepts us, and is quick",
    why: "The agent follows one member and goes on to the next one when it fails: each that is of no use is time without news when it is needed.",
};
static CLUSTER: Check = Check {
    area: Area::Datastore,
    name: "cluster",
    wants: "The endpoints lead to one cluster without alarms, and TLS files and user are complete",
    why: "Two clusters under one name show two clouds, depending on which member answers; a cluster with an alarm refuses writes.",
};
static PERMISSION: Check = Check {
    area: Area::Datastore,
    name: "permission",
    wants: "The agent may write its reports",
    why: "Neutron lets a migration begin only when the target's agent has reported the port.",
};
static READY: Check = Check {
    area: Area::Datastore,
    name: "ready",
    wants: "ClusterInformation says that the datastore is ready",
    why: "Nothing of a datastore that is not ready is used.",
};
static DIRECTORY: Check = Check {
    area: Area::Datastore,
    name: "directory",
    wants: "With DatastoreType dir, the directory and every file in it can be read",
    why: "A VM whose file is refused keeps what it had, and a new one has no route; nothing is removed as long as something cannot be read.",
};
static HOST_NAME: Check = Check {
    area: Area::Datastore,
    name: "host-name",
    wants: "Endpoints that look like this host's are spelt like it",
    why: "An endpoint is a host's only if the names are equal to the letter; with another spelling the agent takes all VMs for somebody else's.",
};

static REGION: Check = Check {
    area: Area::Datastore,
    name: "region",
    wants: "This host's endpoints are in the namespace of OpenstackRegion",
    why: "The agent reads the endpoints of one region only; with another one it takes all VMs for somebody else's.",
};
static KEPT: Check = Check {
    area: Area::Datastore,
    name: "kept",
    wants: "The agent keeps nothing that the datastore does not show any more",
    why: "Endpoints that vanish all at once while their taps have carrier are most probably a mistake: a wrong host name, region or prefix, or a cluster without its data. Their routes stay until somebody mends or confirms it.",
};

pub(super) static CHECKS: &[&Check] =
    &[&MEMBER, &CLUSTER, &PERMISSION, &READY, &DIRECTORY, &HOST_NAME, &REGION, &KEPT];

/// What a running agent keeps.
pub(super) fn judge_kept(losses: &Losses) -> Vec<Finding> {
    if losses.is_empty() {
        return vec![KEPT.ok("nothing is kept that the datastore does not show")];
    }
    let refused = losses.refused_settings.iter().map(|(name, reason)| {
        KEPT.error(
            format!("{name} refused: {reason}"),
            format!("correct {name}, or restart the agent if it is meant"),
        )
    });
    let count = losses.view.count();
    let kept = (count > 0).then(|| {
        let hint = losses.hint.as_deref().unwrap_or("why is not known");
        KEPT.error(
            format!("{count} endpoints and interfaces are kept that the datastore does not show: {hint}"),
            format!("mend the settings or the datastore; if they are really gone: cutover release {count}"),
        )
    });
    refused.chain(kept).collect()
}

/// LIMIT: a healthy cluster in one place answers in a few milliseconds; one that takes longer than this is overloaded or far.
const READ_SLOW: Duration = Duration::from_millis(100);

/// Looks at the datastore that the settings name.
pub(super) fn examine(settings: &Settings) -> Vec<Finding> {
    match settings.datastore_type {
        DatastoreType::Dir => {
            let seen = DirectorySeen::look(&settings.cutover_datastore_dir);
            judge_directory(&seen, &settings.felix_hostname)
        }
        DatastoreType::Etcdv3 => match Cluster::new(settings) {
            Ok(cluster) => {
                let keys = Keys::new(&settings.felix_hostname, &settings.openstack_region);
                match EtcdSeen::look(&cluster, &keys) {
                    Ok(seen) => judge_etcd(&seen, &settings.felix_hostname, &keys.namespace()),
                    Err(error) => vec![CLUSTER.notice(format!("could not tell: {error}"), "try again")],
                }
            }
            Err(error) => vec![CLUSTER.error(
                error.to_string(),
                "correct the setting that it names; the agent does not start until then",
            )],
        },
    }
}

/// What an etcd cluster showed.
#[derive(Debug)]
struct EtcdSeen {
    members: Vec<(String, Result<MemberLook, String>)>,
    /// Hosts that have endpoints, if this one has none.
    hosts: Whereabouts,
}

impl EtcdSeen {
    fn look(cluster: &Cluster, keys: &Keys) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(async {
            let mut looks = JoinSet::new();
            for endpoint in cluster.endpoints() {
                let (cluster, keys, endpoint) = (cluster.clone(), keys.clone(), endpoint.clone());
                looks.spawn(async move {
                    let seen = look(&cluster, &keys, &endpoint).await;
                    (endpoint, seen.map_err(|error| error.to_string()))
                });
            }
            let mut members = looks.join_all().await;
            members.sort_by(|(one, _), (other, _)| one.cmp(other));
            let answers = || members.iter().filter_map(|(_, seen)| seen.as_ref().ok());
            let hosts = if answers().count() > 0 && answers().all(|seen| seen.own_endpoints == 0) {
                look_at_hosts(cluster).await.unwrap_or_default()
            } else {
                Whereabouts::default()
            };
            Self { members, hosts }
        }))
    }
}

fn judge_etcd(seen: &EtcdSeen, host: &str, namespace: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (endpoint, answer) in &seen.members {
        findings.push(judge_member(endpoint, answer));
    }
    let answers: Vec<&MemberLook> =
        seen.members.iter().filter_map(|(_, answer)| answer.as_ref().ok()).collect();
    if answers.is_empty() {
        return findings;
    }
    let clusters: BTreeSet<u64> = answers.iter().map(|look| look.cluster).collect();
    let alarms: BTreeSet<&String> = answers.iter().flat_map(|look| &look.alarms).collect();
    if clusters.len() > 1 {
        findings.push(CLUSTER.error(
            format!("the endpoints lead to {} different clusters", clusters.len()),
            "take the endpoints of the other cluster out of EtcdEndpoints",
        ));
    }
    findings.extend(alarms.iter().map(|alarm| {
        CLUSTER.error(
            format!("etcd reports: {alarm}"),
            "see etcdctl alarm list; for NOSPACE: compact, defragment, then etcdctl alarm disarm",
        )
    }));
    if clusters.len() == 1 && alarms.is_empty() {
        findings.push(CLUSTER.ok("one cluster without alarms"));
    }
    let denied = answers.iter().find_map(|look| match &look.may_write {
        Permission::Denied(reason) => Some(reason),
        Permission::Granted => None,
    });
    findings.push(match denied {
        Some(reason) => PERMISSION.error(
            format!("reports may not be written: {reason}"),
            "etcdctl role grant-permission <role of the agent> --prefix readwrite /calico/felix/v2/",
        ),
        None => PERMISSION.ok("reports may be written"),
    });
    findings.push(if answers.iter().all(|look| look.is_ready) {
        READY.ok("the datastore is ready")
    } else {
        READY.error(
            "ClusterInformation default is missing, or its datastoreReady is not true",
            "let the Neutron driver do its full resync, which makes it; or set datastoreReady: true when the upgrade that took it away is over",
        )
    });
    let has_endpoints = answers.iter().any(|look| look.own_endpoints > 0);
    findings.extend(host_name(host, has_endpoints, &seen.hosts));
    findings.extend(seen.hosts.elsewhere(host, namespace).filter(|_| !has_endpoints).map(|other| {
        REGION.error(
            format!("there are no endpoints of {host} in the namespace {namespace}, but in {other}"),
            region_setting(other),
        )
    }));
    findings
}

fn judge_member(endpoint: &str, answer: &Result<MemberLook, String>) -> Finding {
    match answer {
        Err(reason) => MEMBER.error(
            reason.clone(),
            format!("start the member, let this host reach it, or take it out of EtcdEndpoints: {endpoint}"),
        ),
        Ok(look) if look.read_takes > READ_SLOW => MEMBER.warning(
            format!("{endpoint} takes {} ms for a read", look.read_takes.as_millis()),
            "see its disk and its network: etcd_disk_wal_fsync_duration_seconds among its metrics",
        ),
        Ok(look) => MEMBER.ok(format!(
            "{endpoint} (etcd {}) answers in {:.1} ms",
            look.version,
            look.read_takes.as_secs_f64() * 1000.0
        )),
    }
}

/// Whether the datastore speaks of this host under another name.
fn host_name(host: &str, has_endpoints: bool, hosts: &Whereabouts) -> Option<Finding> {
    if has_endpoints {
        return Some(HOST_NAME.ok(format!("there are endpoints of {host}")));
    }
    let alike = hosts.alike(host)?;
    Some(HOST_NAME.error(
        format!("there are no endpoints of {host}, but of {alike}"),
        format!("FelixHostname = {alike}"),
    ))
}

/// What a directory of resources showed.
#[derive(Debug)]
struct DirectorySeen {
    /// Why it cannot be listed.
    unlisted: Option<String>,
    files: usize,
    /// Why a file is refused, or a part of it left out.
    refused: Vec<String>,
    left_out: Vec<String>,
    hosts: Whereabouts,
}

impl DirectorySeen {
    fn look(directory: &Path) -> Self {
        let mut seen = Self {
            unlisted: None,
            files: 0,
            refused: Vec::new(),
            left_out: Vec::new(),
            hosts: Whereabouts::default(),
        };
        match resource_files(directory) {
            Err(error) => seen.unlisted = Some(error.to_string()),
            Ok(files) => files.iter().for_each(|path| seen.take(path)),
        }
        seen
    }

    fn take(&mut self, path: &Path) {
        self.files += 1;
        match read_file(path) {
            Err(refusal) => self.refused.push(format!("{}: {refusal}", path.display())),
            Ok((_, documents)) => {
                for document in documents {
                    let notices = document.parsed.notices.iter();
                    self.left_out.extend(notices.map(|notice| format!("{}: {notice}", path.display())));
                    if let Resource::Endpoint(key, _) = document.parsed.resource {
                        self.hosts.0.insert((String::new(), key.host));
                    }
                }
            }
        }
    }
}

fn judge_directory(seen: &DirectorySeen, host: &str) -> Vec<Finding> {
    if let Some(reason) = &seen.unlisted {
        return vec![
            DIRECTORY.error(reason.clone(), "make the directory readable, or set CutoverDatastoreDir"),
        ];
    }
    let mut findings: Vec<Finding> = seen
        .refused
        .iter()
        .map(|line| DIRECTORY.error(line.clone(), "correct the file; what it said before stays in force"))
        .chain(seen.left_out.iter().map(|line| DIRECTORY.warning(line.clone(), "correct what it names")))
        .collect();
    if findings.is_empty() {
        findings.push(DIRECTORY.ok(format!("{} files can be read", seen.files)));
    }
    let has_endpoints = seen.hosts.0.iter().any(|(_, other)| other == host);
    findings.extend(host_name(host, has_endpoints, &seen.hosts));
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use std::fs;

    fn member() -> MemberLook {
        MemberLook {
            cluster: 1,
            version: "3.4.23".into(),
            alarms: Vec::new(),
            read_takes: Duration::from_millis(2),
            is_ready: true,
            own_endpoints: 1,
            may_write: Permission::Granted,
        }
    }

    fn problems(findings: &[Finding]) -> Vec<(String, Level)> {
        let problems = findings.iter().filter(|finding| finding.level != Level::Ok);
        problems.map(|finding| (finding.check.id(), finding.level)).collect()
    }

    #[test]
    fn each_fault_of_a_cluster_is_exactly_one_finding() {
        let judged = |second: Result<MemberLook, String>| {
            let members = vec![("http://a:1".into(), Ok(member())), ("http://b:1".into(), second)];
            problems(&judge_etcd(&EtcdSeen { members, hosts: Whereabouts::default() }, "host1", "openstack"))
        };
        let error = |name: &str| vec![(format!("datastore.{name}"), Level::Error)];
        assert_eq!(judged(Ok(member())), []);
        assert_eq!(judged(Err("etcd http://b:1: cannot connect".into())), error("member"));
        assert_eq!(judged(Ok(MemberLook { cluster: 2, ..member() })), error("cluster"));
        assert_eq!(judged(Ok(MemberLook { alarms: vec!["NOSPACE".into()], ..member() })), error("cluster"));
        assert_eq!(judged(Ok(MemberLook { is_ready: false, ..member() })), error("ready"));
        let denied = Permission::Denied("etcdserver: permission denied".into());
        assert_eq!(judged(Ok(MemberLook { may_write: denied, ..member() })), error("permission"));
        let slow = MemberLook { read_takes: Duration::from_millis(300), ..member() };
        assert_eq!(judged(Ok(slow)), [("datastore.member".to_owned(), Level::Warning)]);
    }

    #[test]
    fn nothing_is_claimed_about_a_cluster_that_does_not_answer() {
        let members = vec![("http://a:1".to_owned(), Err("no answer".to_owned()))];
        let found = judge_etcd(&EtcdSeen { members, hosts: Whereabouts::default() }, "host1", "openstack");
        assert_eq!(found.len(), 1, "{found:?}");
    }

    #[test]
    fn another_spelling_of_the_host_is_recognised() {
        let hosts = |name: &str| {
            Whereabouts([name, "other"].map(|host| ("openstack".to_owned(), host.to_owned())).into())
        };
        for alike in ["Compute-2", "compute-2.example.org"] {
            let finding = host_name("compute-2", false, &hosts(alike)).unwrap();
            assert_eq!(finding.change.unwrap(), format!("FelixHostname = {alike}"));
        }
        assert_eq!(host_name("compute-2", false, &hosts("compute-22")), None);
        assert_eq!(host_name("compute-2", true, &hosts("x")).unwrap().level, Level::Ok);
    }

    #[test]
    fn a_wrong_region_is_one_finding() {
        let look = MemberLook { own_endpoints: 0, ..member() };
        let members = vec![("http://a:1".to_owned(), Ok(look))];
        let hosts = Whereabouts([("openstack-region-west".to_owned(), "host1".to_owned())].into());
        let found = judge_etcd(&EtcdSeen { members, hosts }, "host1", "openstack");
        assert_eq!(problems(&found), [("datastore.region".to_owned(), Level::Error)]);
    }

    #[test]
    fn what_is_kept_is_one_finding_with_the_command() {
        let mut losses = Losses::default();
        assert_eq!(problems(&judge_kept(&losses)), []);
        losses.view.interfaces = vec!["tap1".to_owned(), "tap2".to_owned()];
        let found = judge_kept(&losses);
        assert_eq!(problems(&found), [("datastore.kept".to_owned(), Level::Error)]);
        assert!(found[0].change.as_ref().unwrap().ends_with("cutover release 2"), "{found:?}");
    }

    #[test]
    fn each_fault_of_a_directory_is_exactly_one_finding() {
        let folder = tempfile::tempdir().unwrap();
        let judged = || problems(&judge_directory(&DirectorySeen::look(folder.path()), "compute2"));
        let error = |name: &str| vec![(format!("datastore.{name}"), Level::Error)];
        assert_eq!(judged(), []);
        let endpoint = "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\n\
            metadata: {name: HOST-openstack-vm1-port1, namespace: openstack}\n\
            spec: {orchestrator: openstack, workload: vm1, node: HOST, endpoint: port1, interfaceName: tapport1, \
            mac: 'fa:16:3e:00:00:01', ipNetworks: [10.65.0.2/32]}\n";
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("a.yaml", &endpoint.replace("HOST", "compute2"));
        assert_eq!(judged(), []);
        write("a.yaml", &endpoint.replace("HOST", "Compute2"));
        assert_eq!(judged(), error("host-name"));
        write(
            "a.yaml",
            &endpoint.replace("HOST", "compute2").replace("10.65.0.2/32", "10.65.0.2/32, nonsense"),
        );
        assert_eq!(judged(), [("datastore.directory".to_owned(), Level::Warning)]);
        write("a.yaml", "kind: [\n");
        assert_eq!(judged(), error("directory"));
        let missing = judge_directory(&DirectorySeen::look(&folder.path().join("missing")), "compute2");
        assert_eq!(problems(&missing), error("directory"));
    }
}
