//! The one writer of a timeline, handed from stream to stream.
//!
//! Whoever holds the [`Lease`] holds the [`Ingest`] itself. Dropping the lease puts it back; a stream that ends in an
//! orderly way has settled it first.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::Ingest;

/// Where the ingest waits for the next stream.
#[derive(Default)]
pub(crate) struct Slot {
    inner: Mutex<Option<Ingest>>,
    returned: Notify,
}

impl Slot {
    /// A slot that holds `ingest`; an empty one when the timeline could not be opened.
    pub(crate) fn new(ingest: Option<Ingest>) -> Arc<Slot> {
        Arc::new(Slot { inner: Mutex::new(ingest), returned: Notify::new() })
    }

    /// Waits until the ingest is here and takes it. Cancel safe; callers bound the wait.
    pub(crate) async fn take(self: &Arc<Slot>) -> Lease {
        loop {
            // Armed before the look: a return in between is not missed.
            let returned = self.returned.notified();
            if let Some(ingest) = self.try_take() {
                return Lease { slot: self.clone(), ingest: Some(ingest) };
            }
            returned.await;
        }
    }

    /// Takes the writer away for good, if it is here.
    pub(crate) fn take_away(&self) -> Option<Ingest> {
        self.try_take()
    }

    fn try_take(&self) -> Option<Ingest> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Puts the writer here: a new one, or the one that was taken.
    pub(crate) fn put(&self, ingest: Ingest) {
        *self.inner.lock().unwrap_or_else(PoisonError::into_inner) = Some(ingest);
        // notify_one keeps a permit, so a waiter that is just arming gets it.
        self.returned.notify_one();
    }
}

/// The right to write, and the writer.
pub(crate) struct Lease {
    slot: Arc<Slot>,
    ingest: Option<Ingest>,
}

impl std::ops::Deref for Lease {
    type Target = Ingest;
    fn deref(&self) -> &Ingest {
        self.ingest.as_ref().expect("present until drop")
    }
}

impl std::ops::DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Ingest {
        self.ingest.as_mut().expect("present until drop")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(ingest) = self.ingest.take() {
            self.slot.put(ingest);
        }
    }
}
