//! Which page answers which request.

use super::metrics::{self, Format};
use super::{Source, health};
use crate::browser::{self, Host};
use crate::settings::PageAccess;
use crate::timeline::Migration;
use crate::{clock, migrations};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use std::convert::Infallible;
use std::net::IpAddr;

/// What a listener serves.
#[derive(Clone, Debug)]
pub(super) enum Pages {
    /// `/metrics`, and `/` for whoever may read it.
    Metrics(Source),
    /// `/` alone.
    Page(Source),
    /// `/liveness` and `/readiness`.
    Health(Source),
}

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// What a browser is told with the page, besides what it is.
const FOR_BROWSERS: [(HeaderName, &str); 5] = [
    (CONTENT_SECURITY_POLICY, browser::POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// LIMIT: finished migrations on the page. `cutover timeline` has more.
const MIGRATIONS_MAX: usize = 20;

impl Pages {
    /// The answer to a request, of whose body nothing is read. `is_local` is whether both ends of the connection are on the loopback interface.
    pub(super) async fn answer<Body>(
        self,
        request: Request<Body>,
        is_local: bool,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n".to_owned());
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return Ok(refusal);
        }
        Ok(match (self, request.uri().path()) {
            (Self::Metrics(source), "/metrics") => {
                let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
                source.metrics(Format::accepted(accept.unwrap_or_default())).await
            }
            (Self::Metrics(source) | Self::Page(source), "/") if source.access().is_some() => {
                match source.refusal(&request, is_local) {
                    Some(refusal) => text(StatusCode::FORBIDDEN, refusal.to_owned()),
                    None => source.page(browser::period(request.uri().query())).await,
                }
            }
            (Self::Health(source), "/liveness") => {
                let view = source.view();
                answer(health::liveness(&view))
            }
            (Self::Health(source), "/readiness") => {
                let observed = source.ask().await;
                answer(health::readiness(&source.view(), observed.as_deref()))
            }
            (Self::Metrics(source), _) if source.access().is_some() => {
                text(StatusCode::NOT_FOUND, "here are / and /metrics\n".to_owned())
            }
            (Self::Metrics(_), _) => text(StatusCode::NOT_FOUND, "here is /metrics\n".to_owned()),
            (Self::Page(_), _) => text(StatusCode::NOT_FOUND, "here is /\n".to_owned()),
            (Self::Health(_), _) => {
                text(StatusCode::NOT_FOUND, "here are /liveness and /readiness\n".to_owned())
            }
        })
    }
}

impl Source {
    async fn metrics(&self, format: Format) -> Response<Full<Bytes>> {
        let observed = self.ask().await;
        let now = clock::now();
        let silence = self.limits.borrow().silence;
        let (busy, stuck) = (self.progress.all(now), self.progress.stuck(now, silence));
        let page = metrics::page(observed.as_deref(), &busy, &stuck, format);
        let mut response = text(StatusCode::OK, page);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        response
    }

    fn access(&self) -> Option<PageAccess> {
        self.limits.borrow().page
    }

    /// Why who asks does not get the page.
    fn refusal<Body>(&self, request: &Request<Body>, is_local: bool) -> Option<&'static str> {
        match self.access() {
            Some(PageAccess::Loopback) if !is_local => {
                Some("only from this host itself: CutoverPageAccess has not been set to metrics\n")
            }
            // A page from elsewhere whose name leads to this address, in a browser here, must not read this one.
            Some(PageAccess::Loopback) if !names_loopback(request) => {
                Some("only as localhost or under a loopback address\n")
            }
            _ => None,
        }
    }

    async fn page(&self, refresh: Option<u32>) -> Response<Full<Bytes>> {
        let observed = self.ask().await;
        let (now, run_dir) = (clock::now(), self.limits.borrow().run_dir.clone());
        let Some(observed) = observed else {
            let busy: Vec<_> =
                self.progress.all(now).into_iter().filter(|(_, for_this)| !for_this.is_zero()).collect();
            return html(StatusCode::SERVICE_UNAVAILABLE, browser::unanswered(&busy));
        };
        // Reads files, and writes a page of some hundred kilobytes: not where others wait for their turn.
        let written = tokio::task::spawn_blocking(move || {
            let latest = migrations::latest(&run_dir, MIGRATIONS_MAX);
            let unreadable = latest.as_ref().err().map(ToString::to_string);
            let migrations: Vec<_> =
                latest.unwrap_or_default().into_iter().map(Migration::finished).collect();
            browser::host(&Host {
                status: &observed.status,
                migrations: &migrations,
                unreadable: unreadable.as_deref(),
                now,
                now_unix_ns: clock::wall_unix_ns(now),
                refresh,
            })
        });
        match written.await {
            Ok(page) => html(StatusCode::OK, page),
            Err(error) => {
                text(StatusCode::INTERNAL_SERVER_ERROR, format!("the page cannot be written: {error}\n"))
            }
        }
    }

    /// What is known of the parts without asking the loop.
    pub(super) fn view(&self) -> health::Parts {
        let limits = self.limits.borrow();
        health::Parts::new(&self.progress.all(clock::now()), limits.silence, &limits.overrides)
    }
}

/// The codes are Felix's.
fn answer(report: health::Report) -> Response<Full<Bytes>> {
    let code = if report.is_good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    text(code, report.to_string())
}

/// Whether the address that somebody has asked for says that it is this host's own.
fn names_loopback<Body>(request: &Request<Body>) -> bool {
    // Without one there is no browser.
    let Some(host) = request.headers().get(HOST) else { return true };
    let name = host.to_str().unwrap_or("?");
    let name = match name.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => name,
    };
    let address: Option<IpAddr> = name.trim_start_matches('[').trim_end_matches(']').parse().ok();
    name.eq_ignore_ascii_case("localhost") || address.is_some_and(|address| address.is_loopback())
}

fn html(code: StatusCode, page: String) -> Response<Full<Bytes>> {
    let mut response = text(code, page);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(HTML));
    for (name, value) in FOR_BROWSERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn text(code: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    response
}
