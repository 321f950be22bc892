//! Which layers a timeline has: an immutable set, swapped as a whole.
//!
//! Owner of the current set is [`LayerMap`]. Changes go through it one at a time; a reader takes an `Arc` of the set
//! and keeps what it needs alive. Correctness of reads does not depend on the order of layers or on disjoint ranges:
//! only on every version above the newest base being in some layer of the set.

use std::sync::{Arc, PoisonError, RwLock};

use super::batch::Batch;
use super::error::StoreError;
use super::layer::Layer;
use super::open::OpenLayer;
use super::snapshot::Snapshot;

/// Layers of a timeline.
#[derive(Clone, Default)]
pub(crate) struct LayerSet {
    /// What is appended to.
    pub(crate) open: Arc<OpenLayer>,
    /// Full layers that are not files yet, oldest first.
    pub(crate) frozen: Vec<Arc<OpenLayer>>,
    /// Files, those with the newest versions first.
    pub(crate) layers: Vec<Arc<Layer>>,
}

/// The current set of a timeline.
#[derive(Default)]
pub(crate) struct LayerMap {
    current: RwLock<Arc<LayerSet>>,
}

impl LayerMap {
    /// With these files, in any order, and nothing in memory.
    pub(crate) fn new(layers: Vec<Arc<Layer>>) -> LayerMap {
        let set = LayerSet { layers: newest_first(layers), ..LayerSet::default() };
        LayerMap { current: RwLock::new(Arc::new(set)) }
    }

    /// The layers of now. A read at an LSN takes its snapshot after the LSN was ingested.
    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Takes over a batch into the open layer and leaves it empty.
    ///
    /// # Errors
    /// See [`OpenLayer::append`]; nothing was taken then.
    pub(crate) fn append(&self, batch: &mut Batch) -> Result<(), StoreError> {
        // Held while appending: a layer that is frozen meanwhile would be written without the batch.
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.open.append(batch)
    }

    /// Begins a new open layer and returns the full one, which stays readable; `None` when it is empty.
    pub(crate) fn freeze(&self) -> Option<Arc<OpenLayer>> {
        self.change(|set| {
            set.open.size().lsns?;
            let full = std::mem::take(&mut set.open);
            set.frozen.push(full.clone());
            Some(full)
        })
    }

    /// Puts files in the place of a frozen layer.
    pub(crate) fn flushed(&self, frozen: &Arc<OpenLayer>, files: Vec<Arc<Layer>>) {
        self.change(|set| {
            set.frozen.retain(|f| !Arc::ptr_eq(f, frozen));
            set.layers.extend(files);
        });
    }

    /// Puts files in the place of others. What is to go and is not here is ignored.
    pub(crate) fn replace(&self, remove: &[Arc<Layer>], add: Vec<Arc<Layer>>) {
        self.change(|set| {
            set.layers.retain(|layer| !remove.iter().any(|gone| Arc::ptr_eq(gone, layer)));
            set.layers.extend(add);
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut LayerSet) -> T) -> T {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let mut set = LayerSet::clone(&current);
        let result = change(&mut set);
        set.layers = newest_first(set.layers);
        *current = Arc::new(set);
        result
    }
}

/// Newest versions first, so that a read finds its base early.
fn newest_first(mut layers: Vec<Arc<Layer>>) -> Vec<Arc<Layer>> {
    layers.sort_by_key(|l| std::cmp::Reverse(l.summary().last_lsn));
    layers
}
