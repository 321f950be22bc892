//! The client of the broker, which keeps hints, choices, leases and membership: etcd, or the small server of `brokerd`.
//!
//! No running stream waits for the broker, and log safety never depends on it. [`proto::broker`] has its keys and
//! records.
//!
//! [`client`] speaks etcd v3. [`session`] keeps one lease per node and everything that the node publishes under it.
//! [`watch`] follows a prefix across compactions and broker restarts. [`one_process`] checks whether a node's id is
//! taken.

pub mod client;
mod connection;
mod error;
mod one_id;
pub mod session;
pub mod watch;

pub use client::{Broker, KeyEntry, REQUEST_TIMEOUT};
pub use error::{BrokerError, LeaseId, Revision};
pub use one_id::{TwoProcesses, one_process};
pub use session::Session;
pub use watch::{Watch, WatchEvent};
