//! Records in etcd: this agent's is put below `/cutover/v1/host/` under a lease, and the other hosts' are followed.
//!
//! Owns that prefix. One session with one member does both, so that whoever sees the others is seen by them. What was read stays known
//! while no member can be reached.

use super::book::{Book, RECORDS_MAX, Records};
use super::report::PeersReport;
use crate::datastore::etcd::{Change, Cluster, Extent, Feed, Member, RequestError};
use crate::retry::BackOff;
use etcd_client::{Error, GetOptions, PutOptions};
use std::convert::Infallible;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

/// What the keys of the records begin with; the name of the host follows.
pub const PREFIX: &str = "/cutover/v1/host/";

/// LIMIT: how long a record outlives its agent. Nobody loses anything by it: who connects there is refused, or gets no answer.
const LEASE_S: i64 = 15;
/// LIMIT: a third of its life; with a thousand hosts two hundred small requests a second.
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// This host's record.
#[derive(Debug)]
struct Own {
    key: String,
    text: String,
    lease: Option<i64>,
    /// Between two writes if somebody else keeps on writing there.
    back_off: BackOff,
    is_disputed: bool,
}

/// Publishes and follows for ever.
pub(super) async fn run(cluster: Cluster, host: &str, text: String, book: Book, report: PeersReport) {
    let mut own = Own {
        key: format!("{PREFIX}{host}"),
        text,
        lease: None,
        back_off: BackOff::new(),
        is_disputed: false,
    };
    let mut back_off = BackOff::new();
    let members = cluster.endpoints();
    let mut next = 0;
    loop {
        let endpoint = &members[next % members.len()];
        next += 1;
        let mut has_worked = false;
        let session = async {
            let member = cluster.connect(endpoint).await?;
            session(&member, &mut own, &book, || {
                has_worked = true;
                if report.is_good("records") {
                    info!("Records of other hosts' agents are followed again");
                }
            })
            .await
        };
        let Err(error) = session.await;
        let line = error.to_string();
        if report.is_bad("records", &line) {
            warn!(error = %line, "Records of agents in etcd cannot be followed or published; those that are known stay so while it is tried again");
        }
        if has_worked {
            back_off.reset();
        }
        if has_worked || next % members.len() == 0 {
            tokio::time::sleep(back_off.next_pause()).await;
        }
    }
}

async fn session(
    member: &Member,
    own: &mut Own,
    book: &Book,
    mut works: impl FnMut(),
) -> Result<Infallible, RequestError> {
    // ORDER: watched before it is read, so that nothing between the two is missed.
    let mut feed = Feed::open(member.clone(), PREFIX, Extent::Prefix).await?;
    let limit = i64::try_from(RECORDS_MAX).unwrap_or(i64::MAX);
    let options = GetOptions::new().with_prefix().with_limit(limit);
    let answer = feed.meanwhile("read records", member.kv().get(PREFIX, Some(options))).await?;
    let (mut records, mut is_there) = (Records::new(), false);
    for kv in answer.kvs() {
        let key = String::from_utf8_lossy(kv.key()).into_owned();
        if key == own.key {
            is_there = kv.value() == own.text.as_bytes() && own.lease == Some(kv.lease());
            continue;
        }
        let host = key.strip_prefix(PREFIX).unwrap_or_default().to_owned();
        records.insert(host, (key, Ok(kv.value().to_vec())));
    }
    book.replace(&records);
    feed.skip_to(answer.header().map_or(0, etcd_client::ResponseHeader::revision));
    if !renew(member, &mut feed, own).await? || !is_there {
        publish(member, &mut feed, own).await?;
    }
    works();
    let mut renew_at = Instant::now() + RENEW_EVERY;
    let mut publish_at: Option<Instant> = None;
    loop {
        let put = async {
            match publish_at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            change = feed.next() => {
                let change = change?;
                if change.key != own.key.as_bytes() {
                    note(book, &change);
                } else if own.is_lost_by(&change) && publish_at.is_none() {
                    publish_at = Some(Instant::now() + own.back_off.next_pause());
                }
            }
            () = put => {
                publish_at = None;
                // It may have gone with its lease, while this process could not renew that.
                renew(member, &mut feed, own).await?;
                publish(member, &mut feed, own).await?;
            }
            () = sleep_until(renew_at) => {
                renew_at = Instant::now() + RENEW_EVERY;
                if renew(member, &mut feed, own).await? {
                    own.back_off.reset();
                } else {
                    publish(member, &mut feed, own).await?;
                }
            }
        }
    }
}

fn note(book: &Book, change: &Change) {
    let key = String::from_utf8_lossy(&change.key);
    let host = key.strip_prefix(PREFIX).unwrap_or_default();
    book.note(host, change.value(), &key);
}

/// Keeps the lease alive. False if there is none any more.
async fn renew(member: &Member, feed: &mut Feed, own: &mut Own) -> Result<bool, RequestError> {
    let Some(lease) = own.lease else { return Ok(false) };
    let mut client = member.client().lease_client();
    let renewed = async {
        match client.keep_alive(lease).await {
            Ok(_) => Ok(true),
            // What this error says is that etcd does not know the lease.
            Err(Error::LeaseKeepAliveError(_)) => Ok(false),
            Err(error) => Err(error),
        }
    };
    let is_alive = feed.meanwhile("renew the lease of this host's record", renewed).await?;
    if !is_alive {
        own.lease = None;
    }
    Ok(is_alive)
}

async fn publish(member: &Member, feed: &mut Feed, own: &mut Own) -> Result<(), RequestError> {
    let lease = match own.lease {
        Some(lease) => lease,
        None => {
            let mut client = member.client().lease_client();
            feed.meanwhile("publish this host's record", client.grant(LEASE_S, None)).await?.id()
        }
    };
    own.lease = Some(lease);
    let options = PutOptions::new().with_lease(lease);
    let put = async { member.kv().put(own.key.as_str(), own.text.as_str(), Some(options)).await };
    if let Err(error) = feed.meanwhile("publish this host's record", put).await {
        // It may be that of the lease that fails.
        own.lease = None;
        return Err(error);
    }
    Ok(())
}

impl Own {
    /// Whether a change of this host's key takes the record away. Who wrote something else there is somebody with the same name, and has
    /// another key: only one of the two can be talked to.
    fn is_lost_by(&mut self, change: &Change) -> bool {
        match change.value() {
            None => true,
            Some(value) if value == self.text.as_bytes() => false,
            Some(_) => {
                if !std::mem::replace(&mut self.is_disputed, true) {
                    warn!(key = %self.key, "Another agent writes the record of this host, or somebody has changed it; it is written again. Two hosts with one name (FelixHostname) cannot be talked to");
                }
                true
            }
        }
    }
}
