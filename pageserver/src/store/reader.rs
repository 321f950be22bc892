//! What reads of a timeline are answered from: its current set of layers, and the pages that are kept of it.
//!
//! Nothing here waits for storage or for whoever writes: a reader takes a snapshot, and that is all it needs.

use std::sync::Arc;

use super::pages::{PageCache, Pages};
use super::{Layer, LayerMap, Snapshot};

/// The side of a store that is read.
pub(super) struct StoreReader {
    /// Shared with the writer, who changes what of it is in memory.
    layers: Arc<LayerMap>,
    kept: Arc<PageCache>,
}

impl StoreReader {
    /// Of a timeline with these files.
    pub(super) fn new(files: Vec<Arc<Layer>>, kept: Arc<PageCache>) -> StoreReader {
        StoreReader { layers: Arc::new(LayerMap::new(files)), kept }
    }

    /// The current set of layers.
    pub(super) fn layers(&self) -> &Arc<LayerMap> {
        &self.layers
    }

    /// The layers of now. A read at an LSN takes its snapshot after the LSN was published.
    pub(super) fn snapshot(&self) -> Snapshot {
        self.layers.snapshot()
    }

    /// Pages of this timeline that took long to build, for those who read.
    pub(super) fn pages(&self) -> Pages {
        self.kept.of_timeline()
    }
}
