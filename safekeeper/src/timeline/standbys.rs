//! What the hot standbys that read here need kept on the primary: the oldest of all, while they read.
//!
//! An entry lives as long as its reader's stream, as PostgreSQL does it itself: a reader that falls silent is given up
//! by the stream, so nobody's word outlives him by more than that limit.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::consensus::HotStandbyFeedback;

/// The newest word of each reader that has one.
#[derive(Debug, Default)]
pub(super) struct Standbys {
    readers: Mutex<StandbyReaders>,
}

#[derive(Debug, Default)]
struct StandbyReaders {
    next: u64,
    newest: BTreeMap<u64, HotStandbyFeedback>,
}

impl Standbys {
    /// The oldest of all readers; nothing when there is none.
    pub(super) fn oldest(&self) -> HotStandbyFeedback {
        self.lock().newest.values().copied().fold(HotStandbyFeedback::default(), HotStandbyFeedback::with)
    }

    fn lock(&self) -> MutexGuard<'_, StandbyReaders> {
        // Only inserts, removals and reads happen under it: a panic elsewhere leaves it whole.
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One reader's place among the standbys; with it goes what the reader said.
#[derive(Debug)]
pub(crate) struct StandbyReader {
    standbys: Arc<Standbys>,
    number: u64,
}

impl StandbyReader {
    pub(super) fn new(standbys: Arc<Standbys>) -> StandbyReader {
        let number = {
            let mut readers = standbys.lock();
            readers.next += 1;
            readers.next
        };
        StandbyReader { standbys, number }
    }

    /// Takes the reader's word; it goes out with the next answer to each proposer.
    pub(crate) fn note(&self, feedback: HotStandbyFeedback) {
        let mut readers = self.standbys.lock();
        if feedback.is_none() {
            readers.newest.remove(&self.number);
        } else {
            readers.newest.insert(self.number, feedback);
        }
    }
}

impl Drop for StandbyReader {
    fn drop(&mut self) {
        self.standbys.lock().newest.remove(&self.number);
    }
}
