//! The heartbeat: tells Neutron that this host's agent is alive, or it binds no port here.
//!
//! Owns the keys `status`, which expires, and `last_reported_status`, which does not, below
//! `/calico/felix/v2/<region>/host/<host>/`. It says nothing about any endpoint, and nothing at all before the
//! datastore is ready: until then the host is not to be used. The agent runs it if its datastore is etcd.

use crate::applier::WantedReceiver;
use crate::clock;
use crate::datastore::etcd::{Keys, RequestError, Writer};
use crate::progress::Progress;
use crate::retry::BackOff;
use cutover_engine::BootTime;
use etcd_client::PutOptions;
use serde::Serialize;
use std::time::Duration;
use tokio::sync::watch;
use tracing::{debug, warn};

/// As in Felix: time for the data plane to be looked at before the first one.
const FIRST_AFTER: Duration = Duration::from_secs(10);

/// How often, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cadence {
    /// `ReportingIntervalSecs`; zero for no heartbeat.
    pub interval: Duration,
    /// `ReportingTTLSecs`.
    pub lifetime: Duration,
}

/// What Neutron's driver reads.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct Document {
    time: String,
    /// Seconds.
    uptime: f64,
    /// No heartbeat of this process has arrived yet: Neutron sends the agent everything anew.
    first_update: bool,
}

/// LIMIT: how soon a heartbeat goes out once everything makes progress again.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Sends heartbeats for ever, while every part makes progress.
pub async fn run(
    writer: Writer,
    keys: Keys,
    mut cadence: watch::Receiver<Cadence>,
    mut ready: watch::Receiver<bool>,
    mut wanted: WantedReceiver,
    (progress, silence): (Progress, watch::Receiver<Duration>),
) {
    let started_at = clock::now();
    if wanted.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let (mut is_first, mut is_failing) = (true, false);
    let mut back_off = BackOff::new();
    let mut next_at = started_at + FIRST_AFTER;
    loop {
        let Cadence { interval, lifetime } = *cadence.borrow_and_update();
        if !wait(next_at, interval, &mut cadence).await {
            continue;
        }
        // While it is not ready nothing is written, and Neutron takes the host for one that is not to be used.
        if ready.wait_for(|ready| *ready).await.is_err() {
            return std::future::pending().await;
        }
        let now = clock::now();
        // Which one it is, is in the log.
        if !progress.stuck(now, *silence.borrow()).is_empty() {
            debug!("no heartbeat: a part of the agent makes no progress");
            next_at = now + LOOK_AGAIN_AFTER;
            continue;
        }
        let document = Document {
            time: clock::wall_text(),
            uptime: now.since(started_at).as_secs_f64(),
            first_update: is_first,
        };
        let pause = match send(&writer, &keys, &document, lifetime).await {
            Ok(()) => {
                debug!(first_update = is_first, "Heartbeat sent");
                is_first = false;
                is_failing = false;
                back_off.reset();
                interval
            }
            Err(error) => {
                if std::mem::replace(&mut is_failing, true) {
                    debug!(%error, "still no heartbeat");
                } else {
                    warn!(%error, "no heartbeat; it is tried again");
                }
                back_off.next_pause().min(interval)
            }
        };
        next_at = clock::now() + pause;
    }
}

/// Waits until `next_at`. False if the cadence changed meanwhile, or if there is to be no heartbeat.
async fn wait(next_at: BootTime, interval: Duration, cadence: &mut watch::Receiver<Cadence>) -> bool {
    if interval.is_zero() {
        if cadence.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        return false;
    }
    tokio::select! {
        changed = cadence.changed() => {
            if changed.is_err() {
                std::future::pending::<()>().await;
            }
            false
        }
        () = tokio::time::sleep(next_at.since(clock::now())) => true,
    }
}

/// Each heartbeat has a lease of its own, so that the time to live counts from the write; the driver takes every
/// write, also of equal text, for a sign of life.
async fn send(
    writer: &Writer,
    keys: &Keys,
    document: &Document,
    lifetime: Duration,
) -> Result<(), RequestError> {
    let text = serde_json::to_string(document).unwrap_or_default();
    // LIMIT: etcd counts whole seconds and has no lease without a life.
    let lifetime_s = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX).max(1);
    let (key, value) = (keys.heartbeat(), text.clone());
    writer
        .request("send a heartbeat", |member| async move {
            let lease = member.client().lease_client().grant(lifetime_s, None).await?.id();
            let options = PutOptions::new().with_lease(lease);
            member.kv().put(key, value, Some(options)).await
        })
        .await?;
    let key = keys.last_heartbeat();
    let last = writer
        .request("record the last heartbeat", |member| async move { member.kv().put(key, text, None).await });
    // Nobody but people reads this one, and the heartbeat has been sent.
    if let Err(error) = last.await {
        warn!(%error, "the heartbeat that does not expire is out of date");
    }
    Ok(())
}
