//! What every server process needs around its work: logging, shutdown on signals, HTTP serving, metrics exposition.

pub mod datadir;

use std::net::SocketAddr;

use tokio_util::sync::CancellationToken;

/// Exit codes of every server and of the operator's binary.
pub mod exit {
    /// Success.
    pub const OK: u8 = 0;
    /// An error.
    pub const ERROR: u8 = 1;
    /// Wrong usage or configuration.
    pub const USAGE: u8 = 2;
    /// Not ready or degraded.
    pub const NOT_READY: u8 = 3;
    /// No quorum.
    pub const NO_QUORUM: u8 = 4;
    /// Corruption found.
    pub const CORRUPTION: u8 = 5;
    /// Refused by fencing or by the attach proof.
    pub const REFUSED: u8 = 6;
}

/// Starts logging to standard error: text, or JSON when `json`; level from `WALFABRIC_LOG` (default `info`).
pub fn init_logging(json: bool) {
    let _ = json;
}

/// A token that is cancelled by SIGTERM or SIGINT.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub fn shutdown_on_signals() -> std::io::Result<CancellationToken> {
    todo!()
}

/// Serves `router` on `listen` until cancelled; open requests get five seconds to end.
///
/// # Errors
/// When the socket cannot be bound.
pub async fn serve_http(listen: SocketAddr, router: axum::Router, cancel: CancellationToken) -> std::io::Result<()> {
    let _ = (listen, router, cancel);
    todo!()
}

/// Now, in microseconds since 2000-01-01 00:00 UTC, PostgreSQL's timestamp.
pub fn pg_now() -> i64 {
    todo!()
}

/// Now, as RFC 3339 in UTC with milliseconds.
pub fn rfc3339_now() -> String {
    todo!()
}
