//! HTTP serving for every server: a port bound before anything is announced, health routes, JSON error answers.

use std::net::SocketAddr;

use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::connections;
use proto::api::{ErrorBody, Readiness};

/// The most that the body of a request may have unless a route says otherwise: every one is a small piece of JSON.
const BODY_BYTES_MAX: usize = 1 << 20;

/// A bound HTTP port that is not served yet.
#[derive(Debug)]
pub struct BoundHttp {
    listener: TcpListener,
    address: SocketAddr,
    connections_max: usize,
}

/// Binds `listen` at once, without waiting; port 0 takes a free one. At most `connections_max` connections are served
/// at a time. Needs a running tokio runtime.
///
/// # Errors
/// When the socket cannot be bound.
pub fn bind_http(listen: SocketAddr, connections_max: usize) -> std::io::Result<BoundHttp> {
    let listener = bind_tcp(listen)?;
    let address = listener.local_addr()?;
    Ok(BoundHttp { listener, address, connections_max })
}

/// Binds a TCP port at once, without waiting. A port of a process that just ended can be bound again.
///
/// # Errors
/// When the socket cannot be bound.
pub fn bind_tcp(listen: SocketAddr) -> std::io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind(listen)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

impl BoundHttp {
    /// The address bound, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves `router` until cancelled; open requests get five seconds to end. Who asks for an unknown path is told
    /// `known`, the paths that there are.
    pub async fn serve(self, router: Router, known: &'static str, cancel: CancellationToken) {
        let router = router
            .fallback(move |uri: axum::http::Uri| async move {
                HttpError::not_found(format!("{} is not known here", uri.path())).with_hint(known)
            })
            .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
            .layer(axum::middleware::from_fn(connections::unhurried));
        connections::serve(self.listener, router, self.connections_max, cancel).await;
    }
}

/// An error answer: status and [`ErrorBody`] as JSON.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpError {
    /// The status code of the answer.
    pub status: StatusCode,
    /// What the body says, as JSON.
    pub body: ErrorBody,
}

impl HttpError {
    /// `error` says what is wrong, where, why.
    pub fn new(status: StatusCode, error: impl Into<String>) -> HttpError {
        HttpError { status, body: ErrorBody { error: error.into(), hint: None } }
    }

    /// 400: the request itself is wrong.
    pub fn bad_request(error: impl Into<String>) -> HttpError {
        HttpError::new(StatusCode::BAD_REQUEST, error)
    }

    /// 404: there is no such thing.
    pub fn not_found(error: impl Into<String>) -> HttpError {
        HttpError::new(StatusCode::NOT_FOUND, error)
    }

    /// 409: it contradicts what there is.
    pub fn conflict(error: impl Into<String>) -> HttpError {
        HttpError::new(StatusCode::CONFLICT, error)
    }

    /// 500: a fault of this server.
    pub fn internal(error: impl Into<String>) -> HttpError {
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, error)
    }

    /// 503: not now, try again.
    pub fn unavailable(error: impl Into<String>) -> HttpError {
        HttpError::new(StatusCode::SERVICE_UNAVAILABLE, error)
    }

    /// Says what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> HttpError {
        self.body.hint = Some(hint.into());
        self
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

/// Reads a JSON body; what is wrong with it becomes a 400 with position.
///
/// # Errors
/// When it is not the JSON of a `T`.
pub fn json_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, HttpError> {
    serde_json::from_slice(body).map_err(|e| HttpError::bad_request(format!("request body: {e}")))
}

/// Header of `/livez`: the process that answers, for whoever has started one and must not take another for it.
pub const PID_HEADER: &str = "walfabric-pid";

/// Content type of the exposition format.
const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every server answers in one form: `/livez` (always 200), `/readyz` (200 or 503; with `?verbose` the
/// [`Readiness`] as JSON, else one line of text), and `/metrics`, the text that Prometheus scrapes.
pub fn health_router(
    readiness: impl Fn() -> Readiness + Clone + Send + Sync + 'static,
    metrics: impl Fn() -> Result<String, std::fmt::Error> + Clone + Send + Sync + 'static,
) -> Router {
    let exposition = move || {
        let text = metrics().map_err(|e| HttpError::internal(format!("metrics cannot be written: {e}")));
        async move { text.map(|text| ([(CONTENT_TYPE, METRICS_TYPE)], text)) }
    };
    probe_router("/readyz", readiness).route("/livez", get(alive)).route("/metrics", get(exposition))
}

async fn alive() -> ([(&'static str, String); 1], &'static str) {
    ([(PID_HEADER, std::process::id().to_string())], "ok\n")
}

/// `path`: 200 or 503; with `?verbose` the [`Readiness`] as JSON, else one line of text.
pub fn probe_router(path: &str, readiness: impl Fn() -> Readiness + Clone + Send + Sync + 'static) -> Router {
    let probe = move |RawQuery(query): RawQuery| {
        let readiness = readiness();
        let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let verbose = query.is_some_and(|q| q.split('&').any(|p| p == "verbose" || p.starts_with("verbose=")));
        async move {
            if verbose {
                return (status, Json(readiness)).into_response();
            }
            let word = if readiness.ready { "ok" } else { "not ready" };
            (status, format!("{word}\n")).into_response()
        }
    };
    Router::new().route(path, get(probe))
}
