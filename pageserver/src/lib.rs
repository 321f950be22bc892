//! The pageserver: chooses which safekeeper pushes a timeline here, makes page versions of its WAL, keeps them, and
//! gives back any page at any LSN.
//!
//! | module | what | pure? |
//! |---|---|---|
//! | `choose` | which safekeeper, and why | yes |
//! | `cluster` | what a cluster is at an LSN: keys, values, control state, lists of transactions and records | yes |
//! | `manager` | follows the broker, feeds the chooser, publishes choices | no |
//! | `receive` | push and pull streams, feedback | no |
//! | `import` | a running cluster becomes page versions | no |
//! | `ingest` | records become versions in the store | mapping: yes |
//! | `store` | every version of every key, in layers | plans: yes |
//! | `read` | pages and metadata as of an LSN | rules |
//! | `backup` | a data directory as of an LSN | plan: yes |
//! | `timeline` | the handle of one attached timeline | no |
//! | `process` | what all tasks share, and the registry of timelines | no |
//! | `attach` | from a request to a timeline that runs, and back | no |
//! | [`offline`] | pages of a stopped cluster and its WAL files, without a server | no |
//! | `net`, `http`, `rows` | libpq and HTTP ports, the tables of SHOW | no |
//! | [`config`] | settings, checked | |
//! | [`server`] | start and stop of the process | no |
//! | `metrics` | this process's metrics | |
//!
//! What can be asked of the crate without a server is small. For example, a cluster whose records only an extension can
//! redo is refused before anything of it is copied:
//!
//! ```
//! use pageserver::custom_managers::{query, refusal};
//!
//! // Before PostgreSQL 15 there are no custom resource managers to ask for.
//! assert!(query(140_012).is_none() && query(150_004).is_some());
//! // The names that the query finds decide.
//! assert_eq!(refusal(&[]), None);
//! let why = refusal(&["my_rmgr".to_owned()]).expect("nobody else can redo its records");
//! assert!(why.contains("custom resource managers loaded (my_rmgr)"));
//! ```

mod attach;
mod backup;
mod choose;
mod cluster;
pub mod config;
mod follow;
mod http;
mod import;
mod ingest;
mod manager;
mod metrics;
mod net;
pub mod offline;
#[cfg(test)]
mod planted;
mod process;
mod read;
mod receive;
mod rows;
pub mod server;
mod store;
mod timeline;

use std::ffi::OsString;
use std::process::ExitCode;

pub use config::PageserverSettings;
pub use import::managers as custom_managers;
pub use process::VERSION;
pub use server::start;

/// The program: reads the command line, runs until SIGTERM or SIGINT.
pub fn cli() -> ExitCode {
    node::server::main::<PageserverSettings>("pageserver", start)
}

/// Runs a pageserver, told by the words behind its name, until SIGTERM or SIGINT; returns an exit code of
/// [`node::exit`].
pub async fn run(words: &[OsString]) -> u8 {
    node::server::run::<PageserverSettings>("pageserver", words, start).await
}

#[cfg(test)]
mod tests;
