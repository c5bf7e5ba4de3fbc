//! How the daemon is seen from outside: metrics for Prometheus, liveness and readiness, a page for people, and what systemd is told.
//!
//! Owns what is counted for that (`tally`), the pages ([`metrics`], `health`; that for people is [`crate::browser`]'s), the listeners that serve
//! them (`http`), who gets which (`page`) and the word to the service manager (`service`). It changes nothing. Counting happens where the loop hands out notices, which is after the
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
use crate::settings::{ClientAuth, PageAccess, Settings};
use http::{Listening, Tls};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::time::Instant;

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
    /// `CutoverPageAccess`; nothing if there is no page.
    page: Option<PageAccess>,
    /// `CutoverRunDir`, where the record of migrations is.
    run_dir: PathBuf,
}

impl Limits {
    fn of(settings: &Settings) -> Self {
        Self {
            silence: settings.dataplane_watchdog_timeout,
            overrides: settings.health_timeout_overrides.clone(),
            page: settings.cutover_page_enabled.then_some(settings.cutover_page_access),
            run_dir: settings.cutover_run_dir.clone(),
        }
    }
}

/// An answer of the loop, and when it was asked for.
type Asked = (Instant, Arc<Observed>);

/// Where pages get what they show. Cheap to clone.
#[derive(Clone, Debug)]
struct Source {
    requests: mpsc::Sender<Request>,
    progress: Progress,
    limits: watch::Receiver<Limits>,
    last: Arc<Mutex<Option<Asked>>>,
}

/// LIMIT: a loop that is well answers within milliseconds; who asks gives up after some seconds.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// LIMIT: so often is the loop asked at most, however many ask. An answer costs it about a millisecond for some hundred endpoints.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

impl Source {
    /// How everything stands, or stood a moment ago; nothing if the loop does not say so in time.
    async fn ask(&self) -> Option<Arc<Observed>> {
        let asked = async {
            // Held while the loop is asked: whoever comes meanwhile gets the same answer.
            let mut last = self.last.lock().await;
            let now = Instant::now();
            if let Some((at, observed)) = &*last
                && now.duration_since(*at) < ASK_AGAIN_AFTER
            {
                return Some(Arc::clone(observed));
            }
            *last = None;
            let observed = Arc::from(control::put(&self.requests, Request::Observe).await.ok()?);
            *last = Some((now, Arc::clone(&observed)));
            Some(observed)
        };
        tokio::time::timeout(ANSWER_WITHIN, asked).await.ok()?
    }
}

/// The way from the loop to what shows the daemon.
#[derive(Debug)]
pub struct Observers {
    metrics: watch::Sender<Option<Listening>>,
    page: watch::Sender<Option<Listening>>,
    health: watch::Sender<Option<Listening>>,
    limits: watch::Sender<Limits>,
    source: Source,
}

impl Observers {
    /// With these settings. `requests` leads to the loop.
    #[must_use]
    pub fn new(settings: &Settings, requests: mpsc::Sender<Request>, progress: Progress) -> Self {
        let limits = watch::Sender::new(Limits::of(settings));
        let source = Source { requests, progress, limits: limits.subscribe(), last: Arc::default() };
        Self {
            metrics: watch::Sender::new(metrics_listening(settings)),
            page: watch::Sender::new(page_listening(settings)),
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
        // ORDER: before anybody can ask a listener that begins with these settings.
        self.limits.send_replace(Limits::of(settings));
        replace(&self.metrics, metrics_listening(settings));
        replace(&self.page, page_listening(settings));
        replace(&self.health, health_listening(settings));
    }

    /// Serves the page for people where the listener for metrics does not, while that is wanted.
    pub fn serve_page(&self) -> impl Future<Output = ()> + Send + use<> {
        http::run("the page", self.page.subscribe(), page::Pages::Page(self.source.clone()))
    }

    /// Serves metrics while that is wanted, and the page for people to whom it may.
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
    settings.prometheus_metrics_enabled.then(|| Listening {
        host: settings.prometheus_metrics_host.clone(),
        port: settings.metrics_port(),
        tls: tls(settings),
    })
}

/// Where the page is served and metrics are not; nothing if whoever may read it can ask where metrics are served.
fn page_listening(settings: &Settings) -> Option<Listening> {
    let host = match settings.cutover_page_access {
        PageAccess::Metrics => settings.prometheus_metrics_host.as_str(),
        PageAccess::Loopback => "localhost",
    };
    let is_reached = match settings.cutover_page_access {
        PageAccess::Metrics => true,
        PageAccess::Loopback => includes_loopback(&settings.prometheus_metrics_host),
    };
    let is_served_with_metrics = settings.prometheus_metrics_enabled && is_reached;
    (settings.cutover_page_enabled && !is_served_with_metrics).then(|| Listening {
        host: host.to_owned(),
        port: settings.metrics_port(),
        tls: tls(settings),
    })
}

/// Whether who listens there is reached through the loopback interface.
fn includes_loopback(host: &str) -> bool {
    let address: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    host.is_empty()
        || host.eq_ignore_ascii_case("localhost")
        || address.is_some_and(|address| address.is_loopback() || address.is_unspecified())
}

fn tls(settings: &Settings) -> Option<Tls> {
    let (certificate, key) = (&settings.prometheus_metrics_cert_file, &settings.prometheus_metrics_key_file);
    (certificate.is_some() || key.is_some()).then(|| Tls {
        // As in Felix, one without the other is an error when it is used, not a reason to serve without TLS.
        certificate: certificate.clone().unwrap_or_default(),
        key: key.clone().unwrap_or_default(),
        authorities: settings.prometheus_metrics_ca_file.clone(),
        client_auth: settings.prometheus_metrics_client_auth,
    })
}

fn health_listening(settings: &Settings) -> Option<Listening> {
    settings.health_enabled.then(|| Listening {
        host: settings.health_host.clone(),
        port: settings.health_port(),
        tls: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics::tests::observed;

    #[test]
    fn the_page_has_a_listener_of_its_own_only_where_that_of_the_metrics_is_not_enough() {
        let place = |metrics: Option<&str>, access| {
            let settings = Settings {
                cutover_page_enabled: true,
                cutover_page_access: access,
                prometheus_metrics_enabled: metrics.is_some(),
                prometheus_metrics_host: metrics.unwrap_or("10.0.0.7").to_owned(),
                ..Settings::default()
            };
            page_listening(&settings).map(|it| (it.host, it.port))
        };
        let at = |host: &str| Some((host.to_owned(), 9091));
        for everywhere in ["", "localhost", "127.0.0.1", "[::1]", "0.0.0.0", "::"] {
            assert_eq!(place(Some(everywhere), PageAccess::Loopback), None, "{everywhere}");
        }
        assert_eq!(place(Some("10.0.0.7"), PageAccess::Loopback), at("localhost"));
        assert_eq!(place(None, PageAccess::Loopback), at("localhost"));
        assert_eq!(place(Some("10.0.0.7"), PageAccess::Metrics), None);
        assert_eq!(place(None, PageAccess::Metrics), at("10.0.0.7"));
        assert_eq!(
            page_listening(&Settings { prometheus_metrics_enabled: true, ..Settings::default() }),
            None
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_loop_is_asked_now_and_then_however_many_ask() {
        let (requests, mut asked) = mpsc::channel(8);
        let observers = Observers::new(&Settings::default(), requests, Progress::default());
        let answers = tokio::spawn(async move {
            let mut count = 0;
            while let Ok(Some(request)) = tokio::time::timeout(Duration::from_secs(1), asked.recv()).await {
                let Request::Observe(reply) = request else { panic!("{request:?}") };
                count += 1;
                drop(reply.send(Box::new(observed())));
            }
            count
        });
        for _ in 0..2 {
            let source = || observers.source.clone();
            let asking: Vec<_> = (0..20)
                .map(|_| {
                    tokio::spawn({
                        let it = source();
                        async move { it.ask().await }
                    })
                })
                .collect();
            for one in asking {
                assert!(one.await.unwrap().is_some());
            }
            tokio::time::sleep(ASK_AGAIN_AFTER).await;
        }
        assert_eq!(answers.await.unwrap(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_long_for_a_loop_that_does_not_answer() {
        let (requests, _kept) = mpsc::channel(8);
        let observers = Observers::new(&Settings::default(), requests, Progress::default());
        let begun = Instant::now();
        let asking: Vec<_> = (0..3)
            .map(|_| {
                tokio::spawn({
                    let it = observers.source.clone();
                    async move { it.ask().await.is_some() }
                })
            })
            .collect();
        for one in asking {
            assert!(!one.await.unwrap());
        }
        assert_eq!(begun.elapsed(), ANSWER_WITHIN);
    }
}
