//! The supervisor: one process that is the parent and subreaper of every other process of a fabric. They run as the
//! user that it runs as, which is not root.
//!
//! Plain threads, no runtime: one thread reaps (`wait` for any child), one accepts requests on `supervisor.sock`, each
//! request is answered by a thread of its own. `table::ProcessTable` owns the state behind one lock; nothing blocks
//! while holding it except the spawn itself, so that a child cannot be reaped before its pid is known.
//!
//! It never restarts what a test killed unless asked to (`--supervise`), and keeps `fabric.json` true.

mod client;
mod proctree;
mod server;
mod table;

/// The program that runs, whatever its path.
pub(crate) const OWN_PROGRAM: &str = "/proc/self/exe";

pub use client::{Client, STOP_ORDER, STOP_PATIENCE_S, SupervisorReply, SupervisorRequest};
pub use proctree::{arguments, command_line, descendants, exists};
pub use server::supervise;
