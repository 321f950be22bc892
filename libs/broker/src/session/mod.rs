//! One lease per node, and everything the node publishes under it.
//!
//! A session holds a *desired* set of keys. Its own task obtains the lease and keeps it alive (every third of its time
//! to live). The task writes keys that differ from their last sent value, at most once a second per key unless urgent.
//! After a lost lease or an emptied broker it writes everything again. While nothing changes, it writes nothing.
//!
//! `desired` is the pure bookkeeping, `task` owns the lease and talks to the broker.

mod desired;
mod shared;
mod task;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{Broker, BrokerError, Revision};
use desired::TxnWrites;
use shared::{SessionCommand, SessionShared};

/// Urgent requests that may wait for the session's task; more callers wait their turn. A pageserver makes one per
/// choice.
const COMMANDS_MAX: usize = 64;

/// Handle of a node's session; cheap to clone. The task ends with the token given to [`Session::start`], with
/// [`Session::close`], or when the last handle is dropped.
#[derive(Clone)]
pub struct Session {
    shared: Arc<SessionShared>,
    commands: mpsc::Sender<SessionCommand>,
    _task: Arc<AbortOnDropHandle<()>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("broker", &self.shared.url).field("connected", &self.is_connected()).finish()
    }
}

impl Session {
    /// Starts the session's task. `ttl_s` is the lease's time to live in seconds.
    pub fn start(broker: Broker, ttl_s: i64, cancel: CancellationToken) -> Session {
        let shared = Arc::new(SessionShared::new(broker.url().to_owned()));
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let task = tokio::spawn(task::run(broker, ttl_s, shared.clone(), receiver, cancel));
        Session { shared, commands, _task: Arc::new(AbortOnDropHandle::new(task)) }
    }

    /// Sets the desired value of `key`; returns at once. The broker is told within a second (coalesced), or never told
    /// when it already has the value.
    pub fn publish(&self, key: String, value: Vec<u8>) {
        self.shared.desired().publish(key, Bytes::from(value));
        self.shared.changed.notify_one();
    }

    /// Removes `key` from the desired set and from the broker; returns at once.
    pub fn withdraw(&self, key: &str) {
        self.shared.desired().withdraw(key);
        self.shared.changed.notify_one();
    }

    /// In one transaction: deletes the keys of `delete` (never `key` itself) and puts `key`, under the lease; from then
    /// on `key` is part of the desired set and those of `delete` are not. The revision is the token of a choice. After
    /// a lost lease or an emptied broker the key is put again by the session and gets a new revision: see
    /// [`Session::revision_of`] and [`Session::renewals`].
    ///
    /// # Errors
    /// When the broker does not take it within `timeout`: then the desired set is as before, and if the broker took it
    /// after all, the session undoes it.
    pub async fn replace(
        &self,
        delete: Vec<String>,
        key: String,
        value: Vec<u8>,
        timeout: Duration,
    ) -> Result<Revision, BrokerError> {
        let deadline = Instant::now() + timeout;
        let delete: Vec<String> = delete.into_iter().filter(|other| *other != key).collect();
        let batch = TxnWrites { delete, put: vec![(key, Bytes::from(value))] };
        let (reply, answer) = oneshot::channel();
        let ask = async {
            self.commands.send(SessionCommand::Replace { batch, deadline, reply }).await.map_err(|_| self.closed())?;
            answer.await.map_err(|_| self.closed())?
        };
        match tokio::time::timeout_at(deadline, ask).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.unreachable(format!("no answer within {} ms", timeout.as_millis()))),
        }
    }

    /// The revision of the session's last put of `key` that the broker confirmed, as long as the key is desired. It
    /// stands while the broker is away.
    pub fn revision_of(&self, key: &str) -> Option<Revision> {
        self.shared.desired().revision_of(key)
    }

    /// Changes whenever the session by itself put keys again that the broker had lost, so that [`Session::revision_of`]
    /// gives other numbers than [`Session::replace`] returned.
    pub fn renewals(&self) -> watch::Receiver<u64> {
        self.shared.renewals.subscribe()
    }

    /// A key of this session that another process has put on a lease of its own: two processes with one id. It is put
    /// back as soon as the other one's is gone.
    pub fn taken_key(&self) -> Option<String> {
        self.shared.desired().taken_key().map(str::to_owned)
    }

    /// A reason for readiness pages when [`Session::taken_key`] says that there is one.
    pub fn intruder(&self) -> Option<String> {
        let key = self.taken_key()?;
        Some(format!("another process publishes as this node ({key} on the broker): stop one of the two"))
    }

    /// A reason for readiness pages when the broker answers and does not take what is published: it is full, say.
    pub fn refusal(&self) -> Option<String> {
        let why = self.shared.refusal().clone()?;
        Some(format!("degraded: the broker refuses what this node publishes ({why}); what others see of it grows old"))
    }

    /// Whether the broker answered lately (lease alive): for /readyz and for "while the broker is away" rules.
    pub fn is_connected(&self) -> bool {
        *self.shared.connected.borrow()
    }

    /// The same as [`Session::is_connected`], to wait for a change.
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.shared.connected.subscribe()
    }

    /// Removes every key and the lease, best effort, within `timeout`; for an orderly stop. The session's task ends.
    pub async fn close(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        let (reply, answer) = oneshot::channel();
        let ask = async {
            if self.commands.send(SessionCommand::Close { deadline, reply }).await.is_ok() {
                // Dropped without an answer: the task has ended, and there is nothing left to wait for.
                let _ = answer.await;
            }
        };
        let _ = tokio::time::timeout_at(deadline, ask).await;
    }

    /// Waits until the session's task has ended: closed, cancelled, or by a panic. Nothing is published from then on.
    pub async fn ended(&self) {
        self.commands.closed().await;
    }

    fn closed(&self) -> BrokerError {
        self.unreachable("the session was closed".to_owned())
    }

    fn unreachable(&self, detail: String) -> BrokerError {
        BrokerError::Unreachable { endpoint: self.shared.url.clone(), detail }
    }
}
