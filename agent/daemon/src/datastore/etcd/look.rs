//! One look at one member, as `cutover doctor` takes it: does it answer, how fast, what may we do, is the datastore ready.
//!
//! Writes nothing: whether writing is permitted is asked with a transaction that never does.

use super::connection::{Cluster, Member, RequestError};
use super::keys::Keys;
use super::session::is_ready;
use crate::clock;
use crate::datastore::whereabouts::Whereabouts;
use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp};
use std::time::Duration;

/// LIMIT: enough to tell a slow member from one slow answer.
const READS: usize = 5;
/// LIMIT: hosts are looked for among this many endpoints; a cloud with more has every host among them, most probably.
const ENDPOINTS_MAX: i64 = 10_000;

/// What a member showed.
#[derive(Clone, PartialEq, Debug)]
pub struct MemberLook {
    /// Number of the cluster that it is a member of.
    pub cluster: u64,
    /// Its version, if it says so.
    pub version: String,
    /// Alarms, such as that there is no space left.
    pub alarms: Vec<String>,
    /// Median time of a read that a majority agreed to.
    pub read_takes: Duration,
    /// Whether the datastore is ready, by the ClusterInformation.
    pub is_ready: bool,
    /// How many endpoints this host has.
    pub own_endpoints: i64,
    /// Whether reports may be written.
    pub may_write: Permission,
}

/// Whether something is permitted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Permission {
    /// It is.
    Granted,
    /// It is not, with etcd's words.
    Denied(String),
}

/// Looks at one of the cluster's endpoints.
///
/// # Errors
/// It does not answer, does not accept us, or does not let us read.
pub async fn look(cluster: &Cluster, keys: &Keys, endpoint: &str) -> Result<MemberLook, RequestError> {
    let member = cluster.connect(endpoint).await?;
    let mut kv = member.kv();
    let mut times = Vec::with_capacity(READS);
    let mut answer = member.ask("read", kv.get(keys.cluster(), None)).await?;
    for _ in 0..READS {
        let began_at = clock::now();
        answer = member.ask("read", kv.get(keys.cluster(), None)).await?;
        times.push(clock::now().since(began_at));
    }
    times.sort();
    let count = GetOptions::new().with_prefix().with_count_only();
    let own = member.ask("read endpoints", kv.get(keys.own_endpoints(), Some(count))).await?;
    // A member may refuse to say so to users that are not root.
    let status = member.client().maintenance_client().status().await.ok();
    Ok(MemberLook {
        cluster: answer.header().map_or(0, etcd_client::ResponseHeader::cluster_id),
        version: status.as_ref().map(|status| status.version().to_owned()).unwrap_or_default(),
        alarms: status.map(|status| status.errors().to_vec()).unwrap_or_default(),
        read_takes: times[READS / 2],
        is_ready: is_ready(answer.kvs().first()),
        own_endpoints: own.count(),
        may_write: may_write(&member, keys).await?,
    })
}

/// etcd checks the permission of every operation of a transaction, whichever branch is taken (checkTxnAuth in
/// server/etcdserver/apply.go), and this one's is never taken: no key has a negative version.
async fn may_write(member: &Member, keys: &Keys) -> Result<Permission, RequestError> {
    let key = keys.heartbeat();
    let never = Compare::version(key.as_str(), CompareOp::Less, 0);
    let transaction = Txn::new().when([never]).and_then([TxnOp::put(key, "", None)]);
    let mut kv = member.kv();
    match member.ask("ask for the permission to write", kv.txn(transaction)).await {
        Ok(_) => Ok(Permission::Granted),
        Err(error) if error.reason.contains("permission denied") => Ok(Permission::Denied(error.reason)),
        Err(error) => Err(error),
    }
}

/// The hosts that have endpoints, in whichever region.
///
/// # Errors
/// When no member answers.
pub async fn look_at_hosts(cluster: &Cluster) -> Result<Whereabouts, RequestError> {
    let member = cluster.connect_any(0).await?;
    let options = GetOptions::new().with_prefix().with_keys_only().with_limit(ENDPOINTS_MAX);
    let mut kv = member.kv();
    let answer = member.ask("read endpoints", kv.get(Keys::all_endpoints(), Some(options))).await?;
    let found = answer.kvs().iter().filter_map(|kv| Keys::namespace_and_host(kv.key_str().ok()?));
    Ok(Whereabouts(found.collect()))
}
