//! One lease per node, and everything the node publishes under it.
//!
//! A session holds a *desired* set of keys. A task of its own grants the lease, keeps it alive (every third of its time to
//! live), writes what differs from what the broker was told last, at most once a second per key unless asked to be urgent,
//! and after a lost lease or an emptied broker writes everything anew. Nothing is written while nothing changes.

use tokio_util::sync::CancellationToken;

use super::{Broker, BrokerError, Revision};

/// Handle of a node's session; cheap to clone. The task ends with the token given to [`Session::start`].
#[derive(Clone)]
pub struct Session {}

impl Session {
    /// Starts the session's task. `ttl_s` is the lease's time to live in seconds.
    pub fn start(broker: Broker, ttl_s: i64, cancel: CancellationToken) -> Session {
        let _ = (broker, ttl_s, cancel);
        Session {}
    }

    /// Sets the desired value of `key`; returns at once. The broker is told within a second (coalesced), or never told when it
    /// already has the value.
    pub fn publish(&self, key: String, value: Vec<u8>) {
        let _ = (key, value);
    }

    /// Removes `key` from the desired set and from the broker; returns at once.
    pub fn withdraw(&self, key: &str) {
        let _ = key;
    }

    /// In one transaction: deletes the keys of `delete` (never `key` itself) and puts `key`, under the lease; from then on
    /// `key` is part of the desired set and those of `delete` are not. The revision is the token of a choice. After a lost
    /// lease or an emptied broker the key is put again by the session and gets a new revision: see [`Session::revision_of`].
    ///
    /// # Errors
    /// When the broker does not take it within `timeout`: then the desired set is as before.
    pub async fn replace(
        &self,
        delete: Vec<String>,
        key: String,
        value: Vec<u8>,
        timeout: std::time::Duration,
    ) -> Result<Revision, BrokerError> {
        let _ = (delete, key, value, timeout);
        todo!()
    }

    /// The revision of the session's last put of `key` that the broker confirmed.
    pub fn revision_of(&self, key: &str) -> Option<Revision> {
        let _ = key;
        todo!()
    }

    /// Whether the broker answered lately (lease alive): for /readyz and for "while the broker is away" rules.
    pub fn is_connected(&self) -> bool {
        todo!()
    }

    /// Removes every key and the lease, best effort, within `timeout`; for an orderly stop.
    pub async fn close(&self, timeout: std::time::Duration) {
        let _ = timeout;
        todo!()
    }
}
