//! How the daemon is seen from outside: metrics for Prometheus, liveness and readiness, and what systemd is told.
//!
//! Owns what is counted for that (`tally`), the pages ([`metrics`], `health`), the two listeners that serve them (`http`) and the
//! word to the service manager (`service`). It changes nothing. Counting happens where the loop hands out notices, which is after the
//! routes of an announcement are in the kernel; everything else is asked of the loop when somebody wants a page.

mod health;
mod http;
pub mod metrics;
mod page;
mod service;
mod tally;

pub(crate) use service::stopping;
pub use tally::Tally;

use crate::control::{self, Request, Status};
use crate::progress::Progress;
use crate::settings::{ClientAuth, Settings};
use http::{Listening, Tls};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How everything stands, with what has been counted since the agent was started.
#[derive(Clone, Debug)]
pub struct Observed {
    /// As `cutover status` shows it.
    pub status: Status,
    /// What the loop has counted.
    pub tally: Tally,
    /// Where the resources are: `etcdv3` or `dir`.
    pub datastore: &'static str,
    /// How often the datastore has ceased to be followed.
    pub datastore_troubles: u64,
    /// Everything that was wanted at first has been tried in the kernel.
    pub routes_attempted: bool,
    /// state.json holds what a restart has to know.
    pub is_remembered: bool,
    /// How often notifications of the kernel were lost.
    pub netlink_overruns: u64,
    /// How often links, routes and neighbours were read in full.
    pub full_reads: u64,
    /// What became of the writes of endpoint statuses.
    pub status_writes: [(&'static str, u64); 3],
}

/// What the pages need to know of the settings.
#[derive(Clone, PartialEq, Debug)]
struct Limits {
    /// `DataplaneWatchdogTimeout`; zero for as long as it likes.
    silence: Duration,
    /// `HealthTimeoutOverrides`.
    overrides: BTreeMap<String, Duration>,
}

impl Limits {
    fn of(settings: &Settings) -> Self {
        Self {
            silence: settings.dataplane_watchdog_timeout,
            overrides: settings.health_timeout_overrides.clone(),
        }
    }
}

/// Where pages get what they show. Cheap to clone.
#[derive(Clone, Debug)]
struct Source {
    requests: mpsc::Sender<Request>,
    progress: Progress,
    limits: watch::Receiver<Limits>,
}

/// LIMIT: a loop that is well answers within milliseconds; who asks gives up after some seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

impl Source {
    /// How everything stands; nothing if the loop does not say so in time.
    async fn ask(&self) -> Option<Box<Observed>> {
        let asked = control::put(&self.requests, Request::Observe);
        tokio::time::timeout(ANSWER_WITHIN, asked).await.ok()?.ok()
    }
}

/// The way from the loop to what shows the daemon.
#[derive(Debug)]
pub struct Observers {
    metrics: watch::Sender<Option<Listening>>,
    health: watch::Sender<Option<Listening>>,
    limits: watch::Sender<Limits>,
    source: Source,
}

impl Observers {
    /// With these settings. `requests` leads to the loop.
    #[must_use]
    pub fn new(settings: &Settings, requests: mpsc::Sender<Request>, progress: Progress) -> Self {
        let limits = watch::Sender::new(Limits::of(settings));
        let source = Source { requests, progress, limits: limits.subscribe() };
        Self {
            metrics: watch::Sender::new(metrics_listening(settings)),
            health: watch::Sender::new(health_listening(settings)),
            limits,
            source,
        }
    }

    /// Takes changed settings over.
    pub fn configure(&self, settings: &Settings) {
        let replace = |sender: &watch::Sender<Option<Listening>>, new: Option<Listening>| {
            sender.send_if_modified(|before| {
                let is_new = *before != new;
                *before = new;
                is_new
            });
        };
        replace(&self.metrics, metrics_listening(settings));
        replace(&self.health, health_listening(settings));
        self.limits.send_replace(Limits::of(settings));
    }

    /// Serves metrics while that is wanted.
    pub fn serve_metrics(&self) -> impl Future<Output = ()> + Send + use<> {
        http::run("metrics", self.metrics.subscribe(), page::Pages::Metrics(self.source.clone()))
    }

    /// Serves liveness and readiness while that is wanted.
    pub fn serve_health(&self) -> impl Future<Output = ()> + Send + use<> {
        http::run("health", self.health.subscribe(), page::Pages::Health(self.source.clone()))
    }

    /// Tells the service manager how things stand; for ever, and nothing if there is none.
    pub fn tell_service_manager(&self) -> impl Future<Output = ()> + Send + use<> {
        service::run(self.source.clone())
    }
}

fn metrics_listening(settings: &Settings) -> Option<Listening> {
    let (certificate, key) = (&settings.prometheus_metrics_cert_file, &settings.prometheus_metrics_key_file);
    let tls = (certificate.is_some() || key.is_some()).then(|| Tls {
        // As in Felix, one without the other is an error when it is used, not a reason to serve without TLS.
        certificate: certificate.clone().unwrap_or_default(),
        key: key.clone().unwrap_or_default(),
        authorities: settings.prometheus_metrics_ca_file.clone(),
        client_auth: settings.prometheus_metrics_client_auth,
    });
    settings.prometheus_metrics_enabled.then(|| Listening {
        host: settings.prometheus_metrics_host.clone(),
        port: settings.metrics_port(),
        tls,
    })
}

fn health_listening(settings: &Settings) -> Option<Listening> {
    settings.health_enabled.then(|| Listening {
        host: settings.health_host.clone(),
        port: settings.health_port(),
        tls: None,
    })
}
