//! What every server process is, written once. A server differs by its settings, its parts and its last steps.
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | flags, file and environment, from one struct |
//! | [`server`] | start and end of the process, in order |
//! | [`parts`] | tasks that must not die |
//! | [`datadir`] | a directory with one owner |
//! | `http`, `connections` | health and metrics in one form, a bound on connections |
//! | `sessions` | libpq connections with places that are kept for streams |
//! | `logging`, `repeats` | logs, and what repeats without flooding them |
//! | `descriptors`, `program`, `shutdown`, `tls` | limits, thread, signals and cryptography of the process |
//! | `aged`, `time`, [`users`] | values with an age, the clock as PostgreSQL counts, names of users |
//!
//! A server of one part, stopped in order:
//!
//! ```
//! use std::time::Duration;
//!
//! use node::parts::Part;
//! use node::server::{LastStep, RunningServer};
//! use tokio_util::sync::CancellationToken;
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
//! # runtime.block_on(async {
//! let stop = CancellationToken::new();
//! let parts = vec![Part::until("listener", stop.clone(), std::future::pending())];
//! let flush = LastStep::new("flush", Duration::from_secs(1), async { println!("everything is on disk") });
//! let http = "127.0.0.1:80".parse().expect("an address");
//! let server = RunningServer::start("example", http, parts, vec![flush], stop.clone());
//! stop.cancel();
//! assert_eq!(server.stopped().await, node::exit::OK);
//! # });
//! ```

mod aged;
mod connections;
pub mod datadir;
mod descriptors;
mod http;
mod logging;
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
pub use http::{BoundHttp, HttpError, PID_HEADER, bind_http, bind_tcp, health_router, json_body, probe_router};
pub use logging::init_logging;
pub use program::{block_on, private_files};
pub use repeats::{DueLine, RepeatLog, RepeatLogs, Repeats};
pub use sessions::{SessionPlace, SessionPlaces, serve_sessions};
pub use shutdown::shutdown_on_signals;
pub use time::{pg_now, rfc3339, rfc3339_now};
pub use tls::use_ring;

/// Exit codes of every server and of the operator's binary.
pub mod exit {
    /// Stopped in order, or done.
    pub const OK: u8 = 0;
    /// An error that none of the others names.
    pub const ERROR: u8 = 1;
    /// Wrong usage or configuration.
    pub const USAGE: u8 = 2;
    /// Something is not ready, or degraded.
    pub const NOT_READY: u8 = 3;
    /// No quorum of safekeepers answers.
    pub const NO_QUORUM: u8 = 4;
    /// Something durable is damaged.
    pub const CORRUPTION: u8 = 5;
    /// Refused by fencing or by the attach proof.
    pub const REFUSED: u8 = 6;
}
