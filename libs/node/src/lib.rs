//! Shared plumbing of every server process: logging, supervised parts, shutdown on signals, HTTP serving, metrics.

mod aged;
mod connections;
pub mod datadir;
mod descriptors;
mod http;
mod logging;
mod metrics;
pub mod parts;
mod program;
mod repeats;
pub mod server;
mod sessions;
pub mod settings;
mod shutdown;
#[cfg(test)]
mod tests;
mod time;
mod tls;
pub mod users;

pub use aged::Aged;
pub use descriptors::{FILES_RESERVE, TooFewDescriptors, claim_descriptors};
pub use http::{
    BoundHttp, HTTP_CONNECTIONS_MAX, HttpError, PID_HEADER, bind_http, bind_tcp, health_router, json_body,
    probe_router, serve_http,
};
pub use logging::init_logging;
pub use metrics::metrics_router;
pub use program::{block_on, private_files};
pub use repeats::{Due, RepeatLog, RepeatLogs, Repeats};
pub use sessions::{Place, Places, serve_sessions};
pub use shutdown::shutdown_on_signals;
pub use time::{pg_now, rfc3339, rfc3339_now};
pub use tls::use_ring;

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
