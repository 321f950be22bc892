//! The broker: hints, choices, leases and membership, kept in etcd or in the embedded server that speaks its API.
//!
//! No running stream waits for the broker, and log safety never rests on it.
//!
//! [`records`] and [`keys`] are pure; [`client`] talks etcd v3; [`session`] keeps one lease per node and whatever the
//! node publishes under it; [`watch`] follows a prefix across compactions and broker restarts; [`embedded`] is the
//! small server.

pub mod client;
mod connection;
pub mod embedded;
pub mod keys;
pub mod records;
pub mod session;
pub mod watch;

pub use client::{Broker, BrokerError, Entry, LeaseId, REQUEST_TIMEOUT, Revision};
pub use keys::Keys;
pub use session::Session;
pub use watch::{Watch, WatchEvent};
