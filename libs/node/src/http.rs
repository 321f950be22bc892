//! HTTP serving for every server: a port bound before anything is announced, health routes, JSON error answers.

use std::net::SocketAddr;

use axum::extract::RawQuery;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::connections;
use proto::api::{ErrorBody, Readiness};

/// Connections at once unless configured: people, monitoring and the other nodes, with room; each may hold one body.
pub const HTTP_CONNECTIONS_MAX: usize = 256;

/// The most that the body of a request may have unless a route says otherwise: every one is a small piece of JSON.
const BODY_BYTES_MAX: usize = 1 << 20;

/// A bound HTTP port that is not served yet.
#[derive(Debug)]
pub struct BoundHttp {
    listener: TcpListener,
    address: SocketAddr,
    connections_max: usize,
}

/// Binds `listen` at once, without waiting; port 0 takes a free one. Needs a running tokio runtime.
///
/// # Errors
/// When the socket cannot be bound.
pub fn bind_http(listen: SocketAddr) -> std::io::Result<BoundHttp> {
    let listener = bind_tcp(listen)?;
    let address = listener.local_addr()?;
    Ok(BoundHttp { listener, address, connections_max: HTTP_CONNECTIONS_MAX })
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

    /// Serves at most so many connections at once.
    #[must_use]
    pub fn with_connections_max(self, connections_max: usize) -> BoundHttp {
        BoundHttp { connections_max, ..self }
    }

    /// Serves `router` until cancelled; open requests get five seconds to end. Unknown paths get a JSON error.
    ///
    /// # Errors
    /// When accepting fails for good.
    pub async fn serve(self, router: Router, cancel: CancellationToken) -> std::io::Result<()> {
        let router = router.fallback(|uri: axum::http::Uri| async move {
            HttpError::new(StatusCode::NOT_FOUND, format!("{} is not known here", uri.path()))
        });
        self.serve_as_is(router, cancel).await;
        Ok(())
    }

    /// [`BoundHttp::serve`] with the router's own fallback.
    pub async fn serve_as_is(self, router: Router, cancel: CancellationToken) {
        let router = router
            .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES_MAX))
            .layer(axum::middleware::from_fn(connections::unhurried));
        connections::serve(self.listener, router, self.connections_max, cancel).await;
    }
}

/// Serves `router` on `listen` until cancelled; open requests get five seconds to end.
///
/// The port is bound when the future is first polled; [`bind_http`] binds before, and tells the port.
///
/// # Errors
/// When the socket cannot be bound.
pub async fn serve_http(listen: SocketAddr, router: Router, cancel: CancellationToken) -> std::io::Result<()> {
    bind_http(listen)?.serve(router, cancel).await
}

/// An error answer: status and [`ErrorBody`] as JSON.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpError {
    /// Status.
    pub status: StatusCode,
    /// Body.
    pub body: ErrorBody,
}

impl HttpError {
    /// `error` says what is wrong, where, why.
    pub fn new(status: StatusCode, error: impl Into<String>) -> HttpError {
        HttpError { status, body: ErrorBody { error: error.into(), hint: None } }
    }

    /// 400.
    pub fn bad_request(error: impl Into<String>) -> HttpError {
        HttpError::new(StatusCode::BAD_REQUEST, error)
    }

    /// 404.
    pub fn not_found(error: impl Into<String>) -> HttpError {
        HttpError::new(StatusCode::NOT_FOUND, error)
    }

    /// 409.
    pub fn conflict(error: impl Into<String>) -> HttpError {
        HttpError::new(StatusCode::CONFLICT, error)
    }

    /// 500.
    pub fn internal(error: impl Into<String>) -> HttpError {
        HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, error)
    }

    /// 503.
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

async fn alive() -> ([(&'static str, String); 1], &'static str) {
    ([(PID_HEADER, std::process::id().to_string())], "alive\n")
}

/// `/livez` (always 200) and `/readyz` (200 or 503; with `?verbose` the [`Readiness`] as JSON, else one line of text).
pub fn health_router(readiness: impl Fn() -> Readiness + Clone + Send + Sync + 'static) -> Router {
    probe_router("/readyz", readiness).route("/livez", get(alive))
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
            let word = if readiness.ready { "ready" } else { "not ready" };
            (status, format!("{word}\n")).into_response()
        }
    };
    Router::new().route(path, get(probe))
}
