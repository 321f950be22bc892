//! Turns: of several creations of one timeline one works at a time, those of different timelines do not wait.
//!
//! Owner of the set of timelines that are being created.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::id::TenantTimelineId;
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(super) struct CreationTurns {
    taken: Mutex<BTreeSet<TenantTimelineId>>,
    ended: Notify,
}

/// A turn; ends when dropped.
#[derive(Debug)]
pub(super) struct CreationTurn<'a> {
    turns: &'a CreationTurns,
    ttid: TenantTimelineId,
}

impl CreationTurns {
    /// Waits until nobody else has this timeline's turn.
    pub(super) async fn take(&self, ttid: TenantTimelineId) -> CreationTurn<'_> {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // Before the look at the set: a turn that ends in between is not missed.
            ended.as_mut().enable();
            if self.lock().insert(ttid) {
                return CreationTurn { turns: self, ttid };
            }
            ended.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeSet<TenantTimelineId>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CreationTurn<'_> {
    pub(super) fn ttid(&self) -> TenantTimelineId {
        self.ttid
    }
}

impl Drop for CreationTurn<'_> {
    fn drop(&mut self) {
        self.turns.lock().remove(&self.ttid);
        self.turns.ended.notify_waiters();
    }
}
