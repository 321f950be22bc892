//! The open layer: versions in memory, in the order they arrived, with an index.
//!
//! Owner of its versions. A batch's buffer becomes a chunk of the layer without being copied. The index has the newest
//! version of each key, and every version knows the one before it: a read follows the chain from newest to oldest.
//! Invariants: along a chain LSNs fall, except that a base may stand in front of what it replaces at the same LSN;
//! versions never change or go; readers ask at LSNs whose batches were appended before.

use std::collections::BTreeSet;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use pgformat::Lsn;
use rustc_hash::FxHashMap;

use super::batch::{Batch, BatchEntry};
use super::error::StoreError;
use super::history::{Gather, Version};
use super::value::ValueKind;
use crate::key::{Key, Kind};

/// Marks the oldest version of a chain.
const NONE: u32 = u32::MAX;
/// Bytes of the index per key: map slot and its share of empty slots.
const KEY_MEMORY: usize = 48;

/// A version in memory.
#[derive(Clone, Copy, Debug)]
struct Entry {
    lsn: Lsn,
    /// The version before, or [`NONE`].
    before: u32,
    chunk: u32,
    at: u32,
    len: u32,
    kind: ValueKind,
}

#[derive(Default, Debug)]
struct Inner {
    chunks: Vec<Bytes>,
    entries: Vec<Entry>,
    newest: FxHashMap<Key, u32>,
    /// Keys other than blocks of relations: few, and scanned in order.
    sparse: BTreeSet<Key>,
    value_bytes: usize,
    lsns: Option<(Lsn, Lsn)>,
}

/// How much an open layer holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct OpenSize {
    /// Number of versions.
    pub(crate) versions: usize,
    /// Number of different keys.
    pub(crate) chains: usize,
    /// Bytes of the values.
    pub(crate) value_bytes: usize,
    /// Memory of all of it, in bytes.
    pub(crate) memory: usize,
    /// LSNs of the oldest and the newest version; `None` when there is none.
    pub(crate) lsns: Option<(Lsn, Lsn)>,
}

/// A layer in memory.
#[derive(Default, Debug)]
pub(crate) struct OpenLayer {
    inner: RwLock<Inner>,
}

impl OpenLayer {
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        // Whatever panicked while it appended was rolled back by nobody: but versions are linked only when complete.
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over all versions of a batch and leaves it empty.
    ///
    /// # Errors
    /// [`StoreError::Order`] when a version is older than the key's newest, or is a second change at its LSN. The layer
    /// and the batch are then as before.
    pub(crate) fn append(&self, batch: &mut Batch) -> Result<(), StoreError> {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.link(&batch.entries)?;
        inner.value_bytes += batch.buf.len();
        let chunk = if batch.buf.len() < batch.buf.capacity() / 2 {
            // A small batch in a large buffer would hold the large buffer's memory.
            Bytes::copy_from_slice(&batch.buf)
        } else {
            Bytes::from(std::mem::take(&mut batch.buf))
        };
        inner.chunks.push(chunk);
        batch.clear();
        Ok(())
    }

    /// How much there is.
    pub(crate) fn size(&self) -> OpenSize {
        let inner = self.read();
        let (versions, chains) = (inner.entries.len(), inner.newest.len());
        let memory = inner.value_bytes + inner.entries.capacity() * size_of::<Entry>() + chains * KEY_MEMORY;
        OpenSize { versions, chains, value_bytes: inner.value_bytes, memory, lsns: inner.lsns }
    }

    /// Adds the versions that the gathered key has here.
    pub(super) fn gather(&self, into: &mut Gather) {
        let inner = self.read();
        if !inner.lsns.is_some_and(|(first, last)| into.needs(first, last)) {
            return;
        }
        let mut next = inner.newest.get(&into.key()).copied().unwrap_or(NONE);
        while let Some(e) = inner.entries.get(next as usize) {
            if e.lsn <= into.lsn() && !into.add(inner.version(e)) {
                return;
            }
            next = e.before;
        }
    }

    /// All versions of the keys in `range` that are here now, by (key, LSN).
    pub(crate) fn iter(self: Arc<Self>, range: impl RangeBounds<Key>) -> OpenIter {
        let mut keys = self.read().keys(range);
        keys.sort_unstable();
        OpenIter { layer: self, keys: keys.into_iter(), chain: Vec::new() }
    }
}

impl Inner {
    /// Links a batch's versions; all or none.
    fn link(&mut self, batch: &[BatchEntry]) -> Result<(), StoreError> {
        let chunk = self.chunks.len() as u32;
        let start = self.entries.len();
        self.entries.reserve(batch.len());
        for (i, e) in batch.iter().enumerate() {
            let number = (start + i) as u32;
            let before = match self.newest.insert(e.key, number) {
                Some(before) => before,
                None => {
                    if e.key.kind != Kind::Block {
                        self.sparse.insert(e.key);
                    }
                    NONE
                }
            };
            let fits = match self.entries.get(before as usize) {
                Some(b) => b.lsn < e.lsn || b.lsn == e.lsn && e.kind.is_base(),
                None => true,
            };
            self.entries.push(Entry { lsn: e.lsn, before, chunk, at: e.at, len: e.len, kind: e.kind });
            if !fits {
                self.unlink(start, &batch[..=i]);
                let why = "the key has a version at or after this LSN already";
                return Err(StoreError::Order { key: e.key, lsn: e.lsn, why });
            }
        }
        for e in batch {
            let (first, last) = self.lsns.unwrap_or((e.lsn, e.lsn));
            self.lsns = Some((first.min(e.lsn), last.max(e.lsn)));
        }
        Ok(())
    }

    /// Takes back the versions from `start` on, which are those of `batch`.
    fn unlink(&mut self, start: usize, batch: &[BatchEntry]) {
        for (i, e) in batch.iter().enumerate().rev() {
            match self.entries[start + i].before {
                NONE => {
                    self.newest.remove(&e.key);
                    self.sparse.remove(&e.key);
                }
                before => {
                    self.newest.insert(e.key, before);
                }
            }
        }
        self.entries.truncate(start);
    }

    fn version(&self, e: &Entry) -> Version {
        let at = e.at as usize;
        let value = self.chunks[e.chunk as usize].slice(at..at + e.len as usize);
        Version { lsn: e.lsn, kind: e.kind, value }
    }

    /// Keys in a range, in any order, with their newest versions.
    fn keys(&self, range: impl RangeBounds<Key>) -> Vec<(Key, u32)> {
        let from = match range.start_bound() {
            Bound::Included(key) | Bound::Excluded(key) if key.kind != Kind::Block => *key,
            _ => return self.newest.iter().filter(|(key, _)| range.contains(key)).map(|(k, n)| (*k, *n)).collect(),
        };
        let behind = |key: &Key| match range.end_bound() {
            Bound::Included(end) => key > end,
            Bound::Excluded(end) => key >= end,
            Bound::Unbounded => false,
        };
        let keys = self.sparse.range(from..).take_while(|key| !behind(key));
        keys.filter(|key| range.contains(key)).map(|key| (*key, self.newest[key])).collect()
    }
}

/// Versions of an open layer by (key, LSN).
#[derive(Debug)]
pub(crate) struct OpenIter {
    layer: Arc<OpenLayer>,
    keys: std::vec::IntoIter<(Key, u32)>,
    /// What is left of the present key, newest first.
    chain: Vec<(Key, Version)>,
}

impl Iterator for OpenIter {
    type Item = (Key, Version);

    fn next(&mut self) -> Option<(Key, Version)> {
        if let Some(version) = self.chain.pop() {
            return Some(version);
        }
        let (key, mut next) = self.keys.next()?;
        let inner = self.layer.read();
        while let Some(e) = inner.entries.get(next as usize) {
            // A base may stand in front of what it replaced.
            if self.chain.last().is_none_or(|(_, newer)| newer.lsn > e.lsn) {
                self.chain.push((key, inner.version(e)));
            }
            next = e.before;
        }
        drop(inner);
        self.chain.pop()
    }
}
