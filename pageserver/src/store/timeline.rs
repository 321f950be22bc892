//! The store of one timeline: takes versions in, makes them durable, reads them back.
//!
//! Owner of the timeline's layers in memory, its files and its manifests. Versions are appended to the open layer;
//! a full one is frozen, written as a file, listed in a manifest, and only then given back. One thread appends and
//! publishes; others flush, compact and read at the same time. All calls that reach storage block.
//!
//! Invariants:
//! 1. a layer is frozen only at a published position: the versions of one record are never in two layers, and a file
//!    with everything up to a position says so;
//! 2. what is durable ([`Durable`]) comes from a manifest that counts, never from a write that may have failed;
//! 3. frozen layers are written in their order, so that the durable position has nothing missing below it;
//! 4. memory is bounded: beyond its bounds [`Store::append`] refuses, and the caller's sender waits;
//! 5. a layer in memory goes only after the file that replaces it is in the set that readers get;
//! 6. no layer is written and none is deleted before the timeline is claimed ([`Store::claim`]): it opens for reads
//!    where storage is full or away, and takes versions in once it is claimed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use blobs::{BlobErrorKind, Blobs};
use pgformat::Lsn;
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};

use super::batch::Batch;
use super::config::Shared;
use super::files::{self, File, FileError, Files, Place};
use super::manifest::{Durable, Manifest, ManifestError, Manifests};
use super::open::OpenLayer;
use super::pages::Pages;
use super::{LayerMap, Snapshot, StoreError};

/// A record boundary: end of a record and where that record starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Position {
    /// End of the last record.
    pub(crate) end: Lsn,
    /// Its start; none before the first.
    pub(crate) start: Option<Lsn>,
}

/// Whether versions are taken in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Intake {
    /// They are.
    Open,
    /// Not until something was written.
    Busy,
    /// Not until space returns, or storage that was away at the opening; reads go on. What storage said.
    Full(String),
    /// Not until the timeline is opened anew; reads go on. Why.
    Stopped(String),
}

/// Why a batch was not taken in; the batch is as before.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// Not now: see [`Store::intake`].
    #[error("not now: {0:?}")]
    NotNow(Intake),
    /// It does not fit to what is there.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why storage does not have what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// A layer.
    #[error(transparent)]
    File(#[from] FileError),
    /// A manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl WriteError {
    /// What to do about it.
    pub(crate) fn kind(&self) -> BlobErrorKind {
        match self {
            WriteError::File(e) => e.kind(),
            WriteError::Manifest(e) => e.kind(),
        }
    }
}

/// A full layer on its way to storage.
struct Frozen {
    /// None: only the position moved.
    layer: Option<Arc<OpenLayer>>,
    /// With it, everything up to here is written.
    end: Position,
    memory: usize,
    /// Written, and not listed in a manifest that is known to count.
    file: Option<File>,
}

/// What waits for being written.
pub(super) struct Memory {
    pub(super) published: Position,
    frozen: VecDeque<Frozen>,
    /// Bytes of all of it, as counted for all timelines.
    counted: usize,
    /// When the open layer was begun.
    open_since: Duration,
}

/// The store of one timeline.
pub(crate) struct Store {
    pub(super) shared: Shared,
    pub(super) blobs: Arc<dyn Blobs>,
    pub(super) map: LayerMap,
    pub(super) manifests: Mutex<Manifests>,
    /// The manifest that counts, for those who must not wait while the next one is written.
    pub(super) shown: Mutex<Arc<Manifest>>,
    pub(super) files: Mutex<Files>,
    pub(super) memory: Mutex<Memory>,
    flushing: Mutex<()>,
    /// See invariant 6.
    claimed: AtomicBool,
    claiming: Mutex<()>,
    pub(super) swap: Mutex<Option<super::compact::Swap>>,
    intake: watch::Sender<Intake>,
    durable: watch::Sender<(Durable, Option<Lsn>)>,
    /// There may be something to write.
    pub(super) work: Notify,
    /// There may be something to compact.
    pub(super) flushed: Notify,
    /// The running compaction ends at its next version.
    pub(super) stop_compaction: AtomicBool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What a panic left half done in memory is not written: the manifest is changed by one call.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Creates a timeline in storage.
    ///
    /// # Errors
    /// When it exists, and those of storage.
    pub(crate) fn create(shared: Shared, blobs: Arc<dyn Blobs>, first: Manifest) -> Result<Store, WriteError> {
        let manifests = Manifests::create(blobs.clone(), shared.clock.clone(), shared.config.grace, first)?;
        let files = Files::new(blobs.clone(), shared.clone());
        let store = Store::new(shared, blobs, manifests, files);
        store.claimed.store(true, Ordering::Release);
        Ok(store)
    }

    /// Opens a timeline from storage alone, at the position that its highest manifest says, and fences every other
    /// writer; where storage is full or away, [`Store::claim`] does that later.
    ///
    /// # Errors
    /// When it does not exist or is damaged, and those of storage when it cannot be read.
    pub(crate) fn open(shared: Shared, blobs: Arc<dyn Blobs>) -> Result<Store, WriteError> {
        let manifests = Manifests::open(blobs.clone(), shared.clock.clone(), shared.config.grace)?;
        let files = Files::open(blobs.clone(), shared.clone(), manifests.current())?;
        let unclaimed = manifests.unclaimed().cloned();
        let store = Store::new(shared, blobs, manifests, files);
        match unclaimed.map_or_else(|| store.try_claim(), |e| Err(e.into())) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), BlobErrorKind::Full | BlobErrorKind::Retryable) => {
                store.intake.send_replace(Intake::Full(e.to_string()));
            }
            Err(e) => return Err(e),
        }
        Ok(store)
    }

    /// Memory for a record of `len` bytes that is held until it is whole; `None` while other timelines have it.
    pub(crate) fn reserve_record(&self, len: u32) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.shared.records).try_acquire_many_owned(len).ok()
    }

    fn new(shared: Shared, blobs: Arc<dyn Blobs>, manifests: Manifests, files: Files) -> Store {
        let (durable, start) = (manifests.durable(), manifests.current().last_record_start);
        let published = Position { end: manifests.current().disk_consistent_lsn, start };
        let open_since = shared.clock.now();
        Store {
            map: LayerMap::new(files.live().map(|f| f.layer.clone()).collect()),
            shared,
            blobs,
            shown: Mutex::new(Arc::new(manifests.current().clone())),
            manifests: Mutex::new(manifests),
            files: Mutex::new(files),
            memory: Mutex::new(Memory { published, frozen: VecDeque::new(), counted: 0, open_since }),
            flushing: Mutex::new(()),
            claimed: AtomicBool::new(false),
            claiming: Mutex::new(()),
            swap: Mutex::new(None),
            intake: watch::Sender::new(Intake::Open),
            durable: watch::Sender::new((durable, start)),
            work: Notify::new(),
            flushed: Notify::new(),
            stop_compaction: AtomicBool::new(false),
        }
    }

    /// The layers of now. A read at an LSN takes its snapshot after the LSN was published.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.map.snapshot()
    }

    /// Pages of this timeline that took long to build, for those who read.
    pub(crate) fn pages(&self) -> Pages {
        self.shared.pages.of_timeline()
    }

    /// What the manifest that counts says. Never waits for storage.
    pub(crate) fn manifest(&self) -> Arc<Manifest> {
        lock(&self.shown).clone()
    }

    /// Up to where everything is durable, and where the record that ends there starts.
    pub(crate) fn durable(&self) -> watch::Receiver<(Durable, Option<Lsn>)> {
        self.durable.subscribe()
    }

    /// Whether versions are taken in.
    pub(crate) fn intake(&self) -> watch::Receiver<Intake> {
        self.intake.subscribe()
    }

    /// Whether the timeline is ours to write: see [`Store::claim`].
    pub(crate) fn is_claimed(&self) -> bool {
        self.claimed.load(Ordering::Acquire)
    }

    /// Whether the process ends, so that jobs that block should end soon.
    pub(crate) fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Relaxed)
    }

    /// Claims the timeline, if that was not possible when it was opened, and finds the files that nothing names.
    ///
    /// # Errors
    /// By [`WriteError::kind`]; [`Store::intake`] says what it means for ingest.
    pub(crate) fn claim(&self) -> Result<(), WriteError> {
        if self.is_claimed() {
            return Ok(());
        }
        let result = self.try_claim();
        self.update_intake(result.as_ref().err());
        result
    }

    pub(super) fn try_claim(&self) -> Result<(), WriteError> {
        let _only = lock(&self.claiming);
        if !self.is_claimed() {
            // Nothing to change: the claim itself is what is repeated.
            self.edit(|_| {})?;
            // Before the first layer is written, and not before others were fenced: neither's are mistaken for garbage.
            lock(&self.files).take_stock()?;
            self.claimed.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Takes over all versions of a batch and leaves it empty. They count once [`Store::publish`] says so.
    ///
    /// # Errors
    /// [`AppendError::NotNow`] when memory is at its bound or storage takes nothing: the caller waits for
    /// [`Store::intake`]. Versions that do not fit to those before are an error of the caller.
    pub(crate) fn append(&self, batch: &mut Batch) -> Result<(), AppendError> {
        let intake = self.intake.borrow().clone();
        if intake != Intake::Open {
            return Err(AppendError::NotNow(intake));
        }
        Ok(self.map.append(batch)?)
    }

    /// Everything up to `position`, a record boundary, was appended. Freezes the open layer when it is full.
    pub(crate) fn publish(&self, position: Position) {
        let config = &self.shared.config;
        let mut memory = lock(&self.memory);
        assert!(position.end >= memory.published.end, "positions do not go back");
        memory.published = position;
        let open = self.map.snapshot().set().open.size().memory;
        self.count(&mut memory, open);
        // So small a layer is not worth a file, however little memory there is.
        let crowded = self.shared.memory.bytes() > config.memory_bytes && open > config.layer_bytes / 16;
        if (open >= config.layer_bytes || crowded) && memory.frozen.len() < config.frozen_max {
            self.freeze_at(&mut memory);
        }
        drop(memory);
        self.update_intake(None);
    }

    /// Freezes what is open when it is older than [`super::config::StoreConfig::layer_age`]; or at once.
    pub(crate) fn freeze(&self, at_once: bool) {
        let mut memory = lock(&self.memory);
        let age = self.shared.clock.now().saturating_sub(memory.open_since);
        let newest = memory.frozen.back().map_or(self.durable.borrow().0.lsn(), |f| f.end.end);
        // The pages of an import are all versions at one position.
        let holds = self.map.snapshot().set().open.size().lsns.is_some();
        if (holds || memory.published.end > newest) && (at_once || age >= self.shared.config.layer_age) {
            self.freeze_at(&mut memory);
        }
    }

    fn freeze_at(&self, memory: &mut Memory) {
        let layer = self.map.freeze();
        let size = layer.as_ref().map_or(0, |l| l.size().memory);
        let end = memory.published;
        memory.frozen.push_back(Frozen { layer, end, memory: size, file: None });
        memory.open_since = self.shared.clock.now();
        self.work.notify_one();
    }

    fn count(&self, memory: &mut Memory, open: usize) {
        let now = open + memory.frozen.iter().map(|f| f.memory).sum::<usize>();
        self.shared.memory.change(memory.counted, now);
        memory.counted = now;
    }

    /// What ingest may do; `failed`: because of that error.
    fn update_intake(&self, failed: Option<&WriteError>) {
        let config = &self.shared.config;
        let memory = lock(&self.memory);
        let open = self.map.snapshot().set().open.size().memory;
        let waits = memory.frozen.len() >= config.frozen_max && open >= config.layer_bytes;
        let crowded = !memory.frozen.is_empty()
            && self.shared.memory.bytes() > config.memory_bytes.saturating_add(config.memory_bytes / 4);
        let unclaimed = !self.is_claimed();
        let now = match failed {
            Some(e) if matches!(e.kind(), BlobErrorKind::Terminal | BlobErrorKind::NotFound) => {
                Intake::Stopped(e.to_string())
            }
            Some(e) if e.kind() == BlobErrorKind::Full || unclaimed => Intake::Full(e.to_string()),
            _ if waits || crowded => Intake::Busy,
            _ => Intake::Open,
        };
        self.intake.send_if_modified(|intake| {
            // Only that everything could be written shows that there is space again; nothing heals what has stopped.
            let stays = match intake {
                Intake::Stopped(_) => true,
                Intake::Full(_) => !matches!(now, Intake::Stopped(_)) && (unclaimed || !memory.frozen.is_empty()),
                _ => false,
            };
            let changes = !stays && *intake != now;
            if changes {
                *intake = now;
            }
            changes
        });
    }

    /// Writes the oldest frozen layer; false when there is none. Repeated after an error, it goes on where it was.
    ///
    /// # Errors
    /// By [`WriteError::kind`]; [`Store::intake`] says what it means for ingest.
    pub(crate) fn flush_one(&self) -> Result<bool, WriteError> {
        let _only = lock(&self.flushing);
        let result = self.try_claim().and_then(|()| self.flush_oldest());
        self.update_intake(result.as_ref().err());
        result
    }

    fn flush_oldest(&self) -> Result<bool, WriteError> {
        let (layer, end, file) = match lock(&self.memory).frozen.front() {
            None => return Ok(false),
            Some(f) => (f.layer.clone(), f.end, f.file.clone()),
        };
        let file = match (&layer, file) {
            (Some(layer), None) => {
                let file = self.write_layer(layer)?;
                if let Some(front) = lock(&self.memory).frozen.front_mut() {
                    front.file = Some(file.clone());
                }
                Some(file)
            }
            (_, file) => file,
        };
        let entry = file.as_ref().map(|f| f.entry.clone());
        let has_steps = layer.as_ref().is_some_and(|layer| layer.has_steps());
        self.edit(|manifest| {
            manifest.has_steps |= has_steps;
            manifest.layers.retain(|l| entry.as_ref().is_none_or(|e| e.name != l.name));
            manifest.layers.extend(entry.clone());
            manifest.disk_consistent_lsn = end.end;
            manifest.last_record_start = end.start;
            if manifest.importing.as_ref().is_some_and(|i| i.end.is_some_and(|copied| end.end >= copied)) {
                manifest.importing = None;
            }
        })?;
        if let Some(file) = &file {
            lock(&self.files).add(std::slice::from_ref(file));
        }
        if let Some(layer) = &layer {
            self.map.flushed(layer, file.iter().map(|f| f.layer.clone()).collect());
        }
        let mut memory = lock(&self.memory);
        memory.frozen.pop_front();
        let open = self.map.snapshot().set().open.size().memory;
        self.count(&mut memory, open);
        self.flushed.notify_one();
        Ok(true)
    }

    fn write_layer(&self, layer: &Arc<OpenLayer>) -> Result<File, FileError> {
        let mut writer = files::writer(&self.shared)?;
        layer.visit(|key, lsn, kind, value| writer.push(key, lsn, kind, value))?;
        files::store(&*self.blobs, &self.shared, writer, Place::new_run(0))
    }

    /// Makes everything published so far durable, and returns up to where that is.
    ///
    /// # Errors
    /// As [`Store::flush_one`]; what was not written stays where it is.
    pub(crate) fn flush(&self) -> Result<Durable, WriteError> {
        self.freeze(true);
        while self.flush_one()? {}
        Ok(self.durable.borrow().0)
    }

    /// Changes the manifest; when this returns, the change is durable and counts. See [`Manifests::advance`].
    pub(super) fn edit(&self, edit: impl FnOnce(&mut Manifest)) -> Result<(), ManifestError> {
        let mut manifests = lock(&self.manifests);
        let result = manifests.advance(edit);
        *lock(&self.shown) = Arc::new(manifests.current().clone());
        let now = (manifests.durable(), manifests.current().last_record_start);
        self.durable.send_if_modified(|durable| {
            let moved = durable.0 < now.0;
            *durable = now;
            moved
        });
        if matches!(result, Err(ManifestError::Fenced { .. })) {
            let why = result.as_ref().err().map(ToString::to_string).unwrap_or_default();
            drop(manifests);
            self.intake.send_replace(Intake::Stopped(why));
        }
        result
    }

    /// Deletes manifests and files that nothing needs any more; returns how many.
    ///
    /// # Errors
    /// Those of storage; the rest is tried again.
    pub(crate) fn collect(&self) -> Result<usize, ManifestError> {
        let mut manifests = lock(&self.manifests);
        if manifests.is_fenced() || manifests.is_unknown() {
            return Ok(0);
        }
        let old = manifests.collect()?;
        Ok(old + lock(&self.files).collect()?)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let memory = self.memory.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.shared.memory.change(memory.counted, 0);
    }
}

#[cfg(test)]
mod crash;
mod edits;
#[cfg(test)]
mod tests;
