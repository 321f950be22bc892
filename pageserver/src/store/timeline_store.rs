//! The store of one timeline: takes versions in, makes them durable, reads them back.
//!
//! It has three sides, each with its own owner of state: the *writer* (what is in memory), the *catalogue* (what counts
//! in storage) and the *reader* (the set of layers). Two jobs connect them: a flush writes what the writer froze, lists
//! it in the catalogue and gives it to readers; a compaction does the same with what the catalogue lists. One thread
//! appends and publishes; others flush, compact and read at the same time.
//!
//! What asks storage blocks, and takes a turn; everything else goes on meanwhile. The order of turns and locks is
//! written in [`super::order`].
//!
//! Invariants:
//! 1. a layer in memory goes only after the file that replaces it is in the set that readers get;
//! 2. a layer is durable before a manifest names it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use blobs::{BlobErrorKind, Blobs};
use pgformat::Lsn;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::Snapshot;
use super::batch::Batch;
use super::catalogue::{Catalogue, WriteError};
use super::compact::swap::CompactionState;
use super::config::StoreShared;
use super::files::{LayerFile, LayerFiles};
use super::manifest::{Durable, Manifest, ManifestError};
use super::order::{Rank, Turn};
use super::pages::Pages;
use super::reader::StoreReader;
use super::storage::asked_without_locks;
use super::writer::{AppendError, Intake, Position, StoreWriter};

/// The store of one timeline.
pub(crate) struct Store {
    pub(super) shared: StoreShared,
    pub(super) blobs: Arc<dyn Blobs>,
    pub(super) reader: StoreReader,
    pub(super) writer: StoreWriter,
    pub(super) catalogue: Catalogue,
    /// The file of the oldest frozen layer, once it is written and until a manifest that lists it is known to count.
    pub(super) flusher: Turn<Option<LayerFile>>,
    pub(super) compaction: CompactionState,
}

impl Store {
    /// Creates a timeline in storage.
    ///
    /// # Errors
    /// When it exists, and those of storage.
    pub(crate) fn create(shared: StoreShared, blobs: Arc<dyn Blobs>, first: Manifest) -> Result<Store, WriteError> {
        let blobs = asked_without_locks(blobs);
        let catalogue = Catalogue::create(shared.clone(), blobs.clone(), first)?;
        Ok(Store::new(shared, blobs, catalogue))
    }

    /// Opens a timeline from storage alone, at the position that its highest manifest says, and fences every other
    /// writer; where storage is full or away, [`Store::claim`] does that later.
    ///
    /// # Errors
    /// When it does not exist or is damaged, and those of storage when it cannot be read.
    pub(crate) fn open(shared: StoreShared, blobs: Arc<dyn Blobs>) -> Result<Store, WriteError> {
        let blobs = asked_without_locks(blobs);
        let (catalogue, unclaimed) = Catalogue::open(shared.clone(), blobs.clone())?;
        let store = Store::new(shared, blobs, catalogue);
        match unclaimed.map_or_else(|| store.catalogue.claim(), |e| Err(e.into())) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), BlobErrorKind::Full | BlobErrorKind::Retryable) => {
                store.writer.refuse(Intake::Full(e.to_string()));
            }
            Err(e) => return Err(e),
        }
        Ok(store)
    }

    fn new(shared: StoreShared, blobs: Arc<dyn Blobs>, catalogue: Catalogue) -> Store {
        let manifest = catalogue.manifest();
        let published = Position { end: manifest.disk_consistent_lsn, start: manifest.last_record_start };
        let layers = catalogue.files(|files| files.live().map(|f| f.layer.clone()).collect());
        let reader = StoreReader::new(layers, shared.pages.clone());
        Store {
            writer: StoreWriter::new(shared.clone(), reader.layers().clone(), published),
            reader,
            catalogue,
            flusher: Turn::new(Rank::Flush, None),
            compaction: CompactionState::default(),
            shared,
            blobs,
        }
    }

    /// The layers of now. A read at an LSN takes its snapshot after the LSN was published.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.reader.snapshot()
    }

    /// Pages of this timeline that took long to build, for those who read.
    pub(crate) fn pages(&self) -> Pages {
        self.reader.pages()
    }

    /// What the manifest that counts says. Never waits for storage.
    pub(crate) fn manifest(&self) -> Arc<Manifest> {
        self.catalogue.manifest()
    }

    /// Up to where everything is durable, and where the record that ends there starts.
    pub(crate) fn durable(&self) -> watch::Receiver<(Durable, Option<Lsn>)> {
        self.catalogue.durable()
    }

    /// Whether versions are taken in.
    pub(crate) fn intake(&self) -> watch::Receiver<Intake> {
        self.writer.intake()
    }

    /// Whether the timeline is ours to write: see [`Store::claim`].
    pub(crate) fn is_claimed(&self) -> bool {
        self.catalogue.is_claimed()
    }

    /// Whether the process ends, so that jobs that block should end soon.
    pub(crate) fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Relaxed)
    }

    /// Pages can be read from here on, once WAL is ingested up to there. `None`: no pages were copied.
    pub(crate) fn readable_from(&self) -> Option<Lsn> {
        let manifest = self.manifest();
        match &manifest.importing {
            None => Some(manifest.readable_from),
            Some(importing) => importing.end,
        }
    }

    /// Number of the last choice that is remembered.
    pub(crate) fn choice_seq(&self) -> u64 {
        self.manifest().choice_seq
    }

    /// Up to where versions count.
    pub(crate) fn published(&self) -> Position {
        self.writer.published()
    }

    /// Memory for a record of `len` bytes that is held until it is whole; `None` while other timelines have it.
    pub(crate) fn reserve_record(&self, len: u32) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.shared.records).try_acquire_many_owned(len).ok()
    }

    /// Takes over all versions of a batch and leaves it empty. They count once [`Store::publish`] says so.
    ///
    /// # Errors
    /// [`AppendError::NotNow`] when memory is at its bound or storage takes nothing: the caller waits for
    /// [`Store::intake`]. Versions that do not fit to those before are an error of the caller.
    pub(crate) fn append(&self, batch: &mut Batch) -> Result<(), AppendError> {
        self.writer.append(batch)
    }

    /// Everything up to `position`, a record boundary, was appended. Freezes the open layer when it is full.
    pub(crate) fn publish(&self, position: Position) {
        self.writer.publish(position);
        self.update_intake(None);
    }

    /// Freezes what is open when it is older than [`super::config::StoreConfig::layer_age`]; or at once.
    pub(crate) fn freeze(&self, at_once: bool) {
        self.writer.freeze(at_once, || self.catalogue.durable_now().lsn());
    }

    /// Waits until there may be something to write. Cancel safe; for the one writer.
    pub(crate) async fn wait_work(&self) {
        self.writer.wait_work().await;
    }

    /// Claims the timeline, if that was not possible when it was opened, and finds the files that nothing names.
    ///
    /// # Errors
    /// By [`WriteError::kind`]; [`Store::intake`] says what it means for ingest.
    pub(crate) fn claim(&self) -> Result<(), WriteError> {
        if self.is_claimed() {
            return Ok(());
        }
        let result = self.catalogue.claim();
        self.update_intake(result.as_ref().err());
        result
    }

    /// Deletes manifests and files that nothing needs any more; returns how many.
    ///
    /// # Errors
    /// Those of storage; the rest is tried again.
    pub(crate) fn collect(&self) -> Result<usize, ManifestError> {
        self.catalogue.collect()
    }

    /// Changes the manifest, and then the files: see [`Catalogue::edit`].
    pub(super) fn edit(
        &self,
        edit: impl FnOnce(&mut Manifest),
        files: impl FnOnce(&mut LayerFiles),
    ) -> Result<(), ManifestError> {
        let result = self.catalogue.edit(edit, files);
        if let Err(ManifestError::Fenced(fenced)) = &result {
            self.writer.refuse(Intake::Stopped(fenced.to_string()));
        }
        result
    }

    /// What ingest may do; `failed`: because of that error.
    pub(super) fn update_intake(&self, failed: Option<&WriteError>) {
        self.writer.update_intake(failed.map(|e| (e.kind(), e.to_string())), || self.is_claimed());
    }
}

#[cfg(test)]
mod crash;
#[cfg(test)]
mod tests;
