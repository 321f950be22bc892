//! A layer file from one key to another, block by block.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;

use super::super::error::StoreError;
use super::super::history::Version;
use super::block::Block;
use super::{Layer, read};
use crate::cluster::key::Key;

/// Bytes that a bulk read asks for at once.
const READ_AHEAD_BYTES: u64 = 1024 * 1024;

/// How a sequence of blocks is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Through {
    /// Block by block through the cache: for short ranges that are read again.
    Cache,
    /// Many blocks at once, past the cache: for compaction and backups.
    Bulk,
}

/// Versions of a layer file by (key, LSN). Ends after an error.
pub(crate) struct FileIter {
    layer: Arc<Layer>,
    range: (Bound<Key>, Bound<Key>),
    through: Through,
    /// The block that is read next.
    next: usize,
    block: Option<Arc<Block>>,
    /// Position in the block: version, and its chain.
    entry: usize,
    chain: usize,
    /// Bytes read ahead, from the offset of block `next` on.
    ahead: Bytes,
    /// After an error.
    ended: bool,
}

impl FileIter {
    pub(super) fn new(layer: Arc<Layer>, range: impl RangeBounds<Key>, through: Through) -> FileIter {
        let next = match range.start_bound() {
            // The block before may end with the key.
            Bound::Included(key) | Bound::Excluded(key) => {
                layer.index.partition_point(|b| b.first.0 < *key).saturating_sub(1)
            }
            Bound::Unbounded => 0,
        };
        let range = (range.start_bound().cloned(), range.end_bound().cloned());
        FileIter { layer, range, through, next, block: None, entry: 0, chain: 0, ahead: Bytes::new(), ended: false }
    }

    /// Moves on to the next block; `false` at the end.
    fn open_block(&mut self) -> Result<bool, StoreError> {
        let end = self.range.1;
        let keys = self.layer.summary.keys;
        let before_last = match self.range.0 {
            Bound::Included(start) | Bound::Excluded(start) => start <= keys.last,
            Bound::Unbounded => true,
        };
        if let Some(damage) = self.layer.damage().filter(|_| before_last && not_behind(end, keys.first)) {
            return Err(StoreError::Damaged(damage.clone()));
        }
        let Some(at) = self.layer.index.get(self.next).filter(|b| not_behind(end, b.first.0)) else {
            return Ok(false);
        };
        let block = match self.through {
            Through::Cache => self.layer.block(self.next)?,
            Through::Bulk => {
                let len = at.stored as usize;
                if self.ahead.len() < len {
                    self.ahead = self.read_ahead()?;
                }
                let stored = self.ahead.split_to(len);
                Arc::new(self.layer.decode(self.next, stored)?)
            }
        };
        self.entry = match self.range.0 {
            Bound::Included(key) | Bound::Excluded(key) => block.seek(key),
            Bound::Unbounded => 0,
        };
        self.chain = 0;
        self.next += 1;
        self.block = Some(block);
        Ok(true)
    }

    /// Reads the next block and as many behind it as are wanted and fit.
    fn read_ahead(&self) -> Result<Bytes, StoreError> {
        let blocks = &self.layer.index[self.next..];
        let start = blocks[0].offset;
        let wanted = |b: &&super::LayerBlockRef| {
            b.offset == start
                || not_behind(self.range.1, b.first.0) && b.offset + u64::from(b.stored) - start <= READ_AHEAD_BYTES
        };
        let len: usize = blocks.iter().take_while(wanted).map(|b| b.stored as usize).sum();
        read(&*self.layer.source, start, len)
    }

    fn step(&mut self) -> Result<Option<(Key, Version)>, StoreError> {
        loop {
            while let Some(block) = &self.block {
                if self.entry == block.len() {
                    break;
                }
                let (key, version) = block.at(self.entry, &mut self.chain);
                self.entry += 1;
                if !not_behind(self.range.1, key) {
                    self.next = self.layer.index.len();
                    break;
                }
                if self.range.0 != Bound::Excluded(key) {
                    return Ok(Some((key, version)));
                }
            }
            self.block = None;
            if !self.open_block()? {
                return Ok(None);
            }
        }
    }
}

/// Whether `key` does not lie behind the end of a range.
fn not_behind(end: Bound<Key>, key: Key) -> bool {
    match end {
        Bound::Included(end) => key <= end,
        Bound::Excluded(end) => key < end,
        Bound::Unbounded => true,
    }
}

impl Iterator for FileIter {
    type Item = Result<(Key, Version), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let next = self.step().transpose();
        self.ended = matches!(next, Some(Err(_)));
        next
    }
}
