//! State that a session's handles and its task share.

use std::sync::{Mutex, MutexGuard};

use tokio::sync::{Notify, oneshot, watch};
use tokio::time::Instant;

use super::desired::{Desired, TxnWrites};
use crate::{BrokerError, Revision};

/// What handles and task share; locked for bookkeeping only.
pub(super) struct SessionShared {
    pub(super) url: String,
    desired: Mutex<Desired>,
    /// Why the broker refused the last publication, until it takes one.
    refusal: Mutex<Option<String>>,
    pub(super) changed: Notify,
    pub(super) connected: watch::Sender<bool>,
    pub(super) renewals: watch::Sender<u64>,
}

/// What must not wait for the next round.
pub(super) enum SessionCommand {
    Replace { batch: TxnWrites, deadline: Instant, reply: oneshot::Sender<Result<Revision, BrokerError>> },
    Close { deadline: Instant, reply: oneshot::Sender<()> },
}

impl SessionShared {
    pub(super) fn new(url: String) -> SessionShared {
        SessionShared {
            url,
            desired: Mutex::default(),
            refusal: Mutex::default(),
            changed: Notify::new(),
            connected: watch::Sender::new(false),
            renewals: watch::Sender::new(0),
        }
    }

    pub(super) fn desired(&self) -> MutexGuard<'_, Desired> {
        self.desired.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn refusal(&self) -> MutexGuard<'_, Option<String>> {
        self.refusal.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
