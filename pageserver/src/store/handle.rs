//! What others ask a store about itself. Nothing here waits for storage: the thread that drives its connections asks.

use pgformat::Lsn;

use super::timeline::{Position, Store, lock};

impl Store {
    /// Pages can be read from here on, once WAL is ingested up to there. `None`: no pages were copied.
    pub(crate) fn readable_from(&self) -> Option<Lsn> {
        let manifest = self.manifest();
        match &manifest.importing {
            None => Some(manifest.readable_from),
            Some(importing) => importing.end,
        }
    }

    /// Up to where versions count.
    pub(crate) fn published(&self) -> Position {
        lock(&self.memory).published
    }

    /// Number of the last choice that is remembered.
    pub(crate) fn choice_seq(&self) -> u64 {
        self.manifest().choice_seq
    }

    /// Waits until there may be something to write. Cancel safe; for the one writer.
    pub(crate) async fn wait_work(&self) {
        self.work.notified().await;
    }
}
