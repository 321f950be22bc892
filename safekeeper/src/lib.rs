//! The safekeeper: keeps the WAL of timelines durable, votes, and hands committed WAL on.
//!
//! | module | what | pure? |
//! |---|---|---|
//! | [`core`] | the acceptor: consensus of one timeline | yes |
//! | [`storage`] | WAL segments and control files | no |
//! | [`timeline`] | one driver per timeline, the handle for everybody else | no |
//! | [`config`] | settings, checked | |
//! | [`server`] | the process: start and stop | no |
//! | `context` | what the parts of the process share | no |
//! | `net` | libpq sessions: proposers, readers, people | no |
//! | `push` | dials the pageservers that chose this safekeeper | `desired` yes |
//! | `admission` | asks the other members what they remember of this one | no |
//! | `announce` | publishes positions to the broker | no |
//! | `relay` | pageservers' positions from the broker to the proposer | no |
//! | `http` | timelines, metrics, health | no |
//! | `measured` | a disk that counts writes and syncs | no |
//! | `metrics` | this process's metrics | |

mod admission;
mod announce;
pub mod config;
mod context;
pub mod core;
mod http;
mod measured;
mod metrics;
mod net;
#[cfg(test)]
mod planted;
mod push;
mod relay;
pub mod server;
pub mod storage;
pub mod timeline;

use std::ffi::OsString;
use std::process::ExitCode;

pub use config::SafekeeperSettings;
pub use context::VERSION;
pub use server::start;

/// The program: reads the command line, runs until SIGTERM or SIGINT.
pub fn cli() -> ExitCode {
    node::server::main::<SafekeeperSettings>("safekeeper", start)
}

/// Runs a safekeeper, told by the words behind its name, until SIGTERM or SIGINT; returns an exit code of
/// [`node::exit`].
pub async fn run(words: &[OsString]) -> u8 {
    node::server::run::<SafekeeperSettings>("safekeeper", words, start).await
}
