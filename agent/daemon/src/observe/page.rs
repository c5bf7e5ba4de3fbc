//! Which page answers which request.

use super::metrics::{self, Format};
use super::{Source, health};
use crate::clock;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use std::convert::Infallible;

/// What a listener serves.
#[derive(Clone, Debug)]
pub(super) enum Pages {
    /// `/metrics`.
    Metrics(Source),
    /// `/liveness` and `/readiness`.
    Health(Source),
}

const TEXT: &str = "text/plain; charset=utf-8";

impl Pages {
    /// The answer to a request, of whose body nothing is read.
    pub(super) async fn answer<Body>(
        self,
        request: Request<Body>,
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
            (Self::Health(source), "/liveness") => {
                let view = source.view();
                answer(health::liveness(&view))
            }
            (Self::Health(source), "/readiness") => {
                let observed = source.ask().await;
                answer(health::readiness(&source.view(), observed.as_deref()))
            }
            (Self::Metrics(_), _) => text(StatusCode::NOT_FOUND, "here is /metrics\n".to_owned()),
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

fn text(code: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    response
}
