//! The one writer of a timeline, handed from stream to stream.
//!
//! Whoever holds the [`IngestLease`] holds the [`Ingest`] itself. Dropping the lease puts it back; a stream that
//! ends in an orderly way has settled it first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::Ingest;

/// Where the ingest waits for the next stream.
#[derive(Default)]
pub(crate) struct IngestSlot {
    inner: Mutex<SlotContent>,
    returned: Notify,
}

#[derive(Default)]
struct SlotContent {
    ingest: Option<Ingest>,
    /// Whether a lease is out, whose end brings the ingest back.
    is_lent: bool,
}

impl IngestSlot {
    /// A slot that holds `ingest`; an empty one when the timeline could not be opened.
    pub(crate) fn new(ingest: Option<Ingest>) -> Arc<IngestSlot> {
        Arc::new(IngestSlot { inner: Mutex::new(SlotContent { ingest, is_lent: false }), returned: Notify::new() })
    }

    /// Waits until the ingest is here and takes it. Cancel safe; callers bound the wait.
    pub(crate) async fn take(self: &Arc<IngestSlot>) -> IngestLease {
        loop {
            // Armed before the look: a return in between is not missed.
            let returned = self.returned.notified();
            if let Some(ingest) = self.lend() {
                return IngestLease { slot: self.clone(), ingest: Some(ingest) };
            }
            returned.await;
        }
    }

    /// Takes the writer away for good, if there is one; waits until a stream that has it gives it back. Cancel safe.
    pub(crate) async fn take_away(&self) -> Option<Ingest> {
        loop {
            let returned = self.returned.notified();
            {
                let mut inner = self.lock();
                if !inner.is_lent {
                    return inner.ingest.take();
                }
            }
            returned.await;
        }
    }

    fn lend(&self) -> Option<Ingest> {
        let mut inner = self.lock();
        let ingest = inner.ingest.take();
        inner.is_lent |= ingest.is_some();
        ingest
    }

    fn lock(&self) -> MutexGuard<'_, SlotContent> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the writer here: a new one, or the one that was taken.
    pub(crate) fn put(&self, ingest: Ingest) {
        *self.lock() = SlotContent { ingest: Some(ingest), is_lent: false };
        // notify_one keeps a permit, so a waiter that is just arming gets it.
        self.returned.notify_one();
    }
}

/// The right to write, and the writer.
pub(crate) struct IngestLease {
    slot: Arc<IngestSlot>,
    ingest: Option<Ingest>,
}

impl std::ops::Deref for IngestLease {
    type Target = Ingest;
    fn deref(&self) -> &Ingest {
        self.ingest.as_ref().expect("present until drop")
    }
}

impl std::ops::DerefMut for IngestLease {
    fn deref_mut(&mut self) -> &mut Ingest {
        self.ingest.as_mut().expect("present until drop")
    }
}

impl Drop for IngestLease {
    fn drop(&mut self) {
        if let Some(ingest) = self.ingest.take() {
            self.slot.put(ingest);
        }
    }
}
