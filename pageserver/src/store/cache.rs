//! Decoded blocks in memory, bounded in bytes, one cache for all timelines of the process.
//!
//! A block is known by its layer's number in this process and its own number in the layer. Numbers are never used
//! twice, so a block of a layer that is gone is never found; it leaves by eviction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::error::StoreError;
use super::layer::Block;

/// A layer's number in this process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(crate) struct LayerId(u64);

/// Which block: layer, and number in it.
type BlockId = (LayerId, u32);

/// Bytes of an entry besides the block: key, pointers, the cache's own list.
const ENTRY_OVERHEAD: usize = 64;
/// Memory of a typical decoded block, to size the cache's tables by.
const BLOCK_TYPICAL: u64 = 48 * 1024;

#[derive(Clone)]
struct BlockWeight;

impl Weighter<BlockId, Arc<Block>> for BlockWeight {
    fn weight(&self, _: &BlockId, block: &Arc<Block>) -> u64 {
        (block.memory() + ENTRY_OVERHEAD) as u64
    }
}

/// Blocks of layer files that were decoded lately, of all timelines of the process.
pub(crate) struct BlockCache {
    blocks: Cache<BlockId, Arc<Block>, BlockWeight>,
    layers: AtomicU64,
}

/// What the cache did so far.
#[cfg(test)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct CacheStats {
    /// Blocks found.
    pub(crate) hits: u64,
    /// Blocks looked for in vain.
    pub(crate) misses: u64,
    /// Bytes held.
    pub(crate) bytes: u64,
    /// Bytes that may be held.
    pub(crate) capacity: u64,
}

impl BlockCache {
    /// A cache of at most `capacity` bytes. A block that does not fit into its shard is not kept.
    pub(crate) fn new(capacity: u64) -> Arc<BlockCache> {
        let blocks = (capacity / BLOCK_TYPICAL).max(16) as usize;
        Arc::new(BlockCache { blocks: Cache::with_weighter(blocks, capacity, BlockWeight), layers: AtomicU64::new(0) })
    }

    /// Bytes that may be held.
    pub(crate) fn capacity(&self) -> u64 {
        self.blocks.capacity()
    }

    /// A number for a layer that is being opened.
    pub(super) fn layer_id(&self) -> LayerId {
        LayerId(self.layers.fetch_add(1, Ordering::Relaxed))
    }

    /// The block, if it is here.
    pub(super) fn peek(&self, layer: LayerId, block: u32) -> Option<Arc<Block>> {
        self.blocks.get(&(layer, block))
    }

    /// The block; `load` brings it when it is not here, once for all who ask at the same time.
    pub(super) fn block(
        &self,
        layer: LayerId,
        block: u32,
        load: impl FnOnce() -> Result<Block, StoreError>,
    ) -> Result<Arc<Block>, StoreError> {
        self.blocks.get_or_insert_with(&(layer, block), || load().map(Arc::new))
    }

    /// What it did so far.
    #[cfg(test)]
    pub(crate) fn stats(&self) -> CacheStats {
        CacheStats {
            hits: self.blocks.hits(),
            misses: self.blocks.misses(),
            bytes: self.blocks.weight(),
            capacity: self.blocks.capacity(),
        }
    }
}
