//! Versions on their way to storage: what is in memory, and whether more is taken in. Nothing here asks storage.
//!
//! Owner of the full layers that wait for being written and of the published position. Versions are appended to the
//! open layer; a full one is *frozen*, and taken off when its file is in the set that readers get.
//!
//! Invariants:
//! 1. a layer is frozen only at a published position: the versions of one record are never in two layers, and a file
//!    with everything up to a position says so;
//! 2. frozen layers leave in their order, so that the durable position has nothing missing below it;
//! 3. memory is bounded: beyond its bounds [`StoreWriter::append`] refuses, and the caller's sender waits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use blobs::BlobErrorKind;
use pgformat::Lsn;
use tokio::sync::{Notify, watch};

use super::batch::Batch;
use super::config::StoreShared;
use super::open::OpenLayer;
use super::order::{Lock, Rank};
use super::{LayerMap, StoreError};

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
    /// Versions are taken in.
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
    /// Not now: see [`StoreWriter::intake`].
    #[error("not now: {0:?}")]
    NotNow(Intake),
    /// It does not fit to what is there.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A full layer on its way to storage.
#[derive(Clone)]
pub(super) struct FrozenLayer {
    /// None: only the position moved.
    pub(super) layer: Option<Arc<OpenLayer>>,
    /// With it, everything up to here is written.
    pub(super) end: Position,
    memory: usize,
}

/// What waits for being written.
struct Unwritten {
    published: Position,
    frozen: VecDeque<FrozenLayer>,
    /// Bytes of all of it, as counted for all timelines.
    counted: usize,
    /// When the open layer was begun.
    open_since: Duration,
}

/// The side of a store that takes versions in.
pub(super) struct StoreWriter {
    shared: StoreShared,
    /// The open layer is in it, and the frozen ones are for readers.
    layers: Arc<LayerMap>,
    unwritten: Lock<Unwritten>,
    intake: watch::Sender<Intake>,
    /// There may be something to write.
    work: Notify,
}

impl StoreWriter {
    /// For a store that has everything up to `published` in storage.
    pub(super) fn new(shared: StoreShared, layers: Arc<LayerMap>, published: Position) -> StoreWriter {
        let open_since = shared.clock.now();
        let unwritten = Unwritten { published, frozen: VecDeque::new(), counted: 0, open_since };
        StoreWriter {
            shared,
            layers,
            unwritten: Lock::new(Rank::Memory, unwritten),
            intake: watch::Sender::new(Intake::Open),
            work: Notify::new(),
        }
    }

    /// Whether versions are taken in.
    pub(super) fn intake(&self) -> watch::Receiver<Intake> {
        self.intake.subscribe()
    }

    /// Nothing is taken in until [`StoreWriter::update_intake`] finds that it can be, or for good.
    pub(super) fn refuse(&self, why: Intake) {
        self.intake.send_replace(why);
    }

    /// Waits until there may be something to write. Cancel safe; for one who waits.
    pub(super) async fn wait_work(&self) {
        self.work.notified().await;
    }

    /// Up to where versions count.
    pub(super) fn published(&self) -> Position {
        self.unwritten.lock().published
    }

    /// Takes over all versions of a batch and leaves it empty. They count once [`StoreWriter::publish`] says so.
    ///
    /// # Errors
    /// [`AppendError::NotNow`] when memory is at its bound or storage takes nothing: the caller waits for
    /// [`StoreWriter::intake`]. Versions that do not fit to those before are an error of the caller.
    pub(super) fn append(&self, batch: &mut Batch) -> Result<(), AppendError> {
        let intake = self.intake.borrow().clone();
        if intake != Intake::Open {
            return Err(AppendError::NotNow(intake));
        }
        Ok(self.layers.append(batch)?)
    }

    /// Everything up to `position`, a record boundary, was appended. Freezes the open layer when it is full.
    pub(super) fn publish(&self, position: Position) {
        let config = &self.shared.config;
        let mut unwritten = self.unwritten.lock();
        assert!(position.end >= unwritten.published.end, "positions do not go back");
        unwritten.published = position;
        let open = self.open_bytes();
        self.count(&mut unwritten, open);
        // So small a layer is not worth a file, however little memory there is.
        let crowded = self.shared.memory.bytes() > config.memory_bytes && open > config.layer_bytes / 16;
        if (open >= config.layer_bytes || crowded) && unwritten.frozen.len() < config.frozen_max {
            self.freeze_at(&mut unwritten);
        }
    }

    /// Freezes what is open when it is older than [`super::config::StoreConfig::layer_age`]; or at once. `durable` says
    /// up to where storage has everything.
    pub(super) fn freeze(&self, at_once: bool, durable: impl FnOnce() -> Lsn) {
        let mut unwritten = self.unwritten.lock();
        let age = self.shared.clock.now().saturating_sub(unwritten.open_since);
        let newest = unwritten.frozen.back().map_or_else(durable, |f| f.end.end);
        // The pages of an import are all versions at one position.
        let holds = self.layers.snapshot().set().open.size().lsns.is_some();
        if (holds || unwritten.published.end > newest) && (at_once || age >= self.shared.config.layer_age) {
            self.freeze_at(&mut unwritten);
        }
    }

    fn freeze_at(&self, unwritten: &mut Unwritten) {
        let layer = self.layers.freeze();
        let memory = layer.as_ref().map_or(0, |l| l.size().memory);
        unwritten.frozen.push_back(FrozenLayer { layer, end: unwritten.published, memory });
        unwritten.open_since = self.shared.clock.now();
        self.work.notify_one();
    }

    /// The layer that is to be written next.
    pub(super) fn oldest(&self) -> Option<FrozenLayer> {
        self.unwritten.lock().frozen.front().cloned()
    }

    /// The oldest frozen layer is in storage, and readers have its file.
    pub(super) fn drop_oldest(&self) {
        let mut unwritten = self.unwritten.lock();
        unwritten.frozen.pop_front();
        let open = self.open_bytes();
        self.count(&mut unwritten, open);
    }

    /// Forgets everything that was taken in, and begins at `published`; nothing is being written.
    pub(super) fn restart(&self, published: Position) {
        let mut unwritten = self.unwritten.lock();
        unwritten.published = published;
        unwritten.frozen.clear();
        self.layers.freeze();
        let set = self.layers.snapshot();
        set.set().frozen.iter().for_each(|layer| self.layers.flushed(layer, vec![]));
        self.count(&mut unwritten, 0);
    }

    fn open_bytes(&self) -> usize {
        self.layers.snapshot().set().open.size().memory
    }

    fn count(&self, unwritten: &mut Unwritten, open: usize) {
        let now = open + unwritten.frozen.iter().map(|f| f.memory).sum::<usize>();
        self.shared.memory.change(unwritten.counted, now);
        unwritten.counted = now;
    }

    /// What ingest may do; `failed`: because storage gave an error of this kind, in these words.
    pub(super) fn update_intake(&self, failed: Option<(BlobErrorKind, String)>, is_claimed: impl FnOnce() -> bool) {
        let config = &self.shared.config;
        let unwritten = self.unwritten.lock();
        let open = self.open_bytes();
        let waits = unwritten.frozen.len() >= config.frozen_max && open >= config.layer_bytes;
        let crowded = !unwritten.frozen.is_empty()
            && self.shared.memory.bytes() > config.memory_bytes.saturating_add(config.memory_bytes / 4);
        let unclaimed = !is_claimed();
        let now = match failed {
            Some((BlobErrorKind::Terminal | BlobErrorKind::NotFound, why)) => Intake::Stopped(why),
            Some((kind, why)) if kind == BlobErrorKind::Full || unclaimed => Intake::Full(why),
            _ if waits || crowded => Intake::Busy,
            _ => Intake::Open,
        };
        self.intake.send_if_modified(|intake| {
            // Only that everything could be written shows that there is space again; nothing heals what has stopped.
            let stays = match intake {
                Intake::Stopped(_) => true,
                Intake::Full(_) => !matches!(now, Intake::Stopped(_)) && (unclaimed || !unwritten.frozen.is_empty()),
                _ => false,
            };
            let changes = !stays && *intake != now;
            if changes {
                *intake = now;
            }
            changes
        });
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        self.shared.memory.change(self.unwritten.get_mut().counted, 0);
    }
}
