//! The open layer: versions in memory, in the order they arrived, with an index.
//!
//! Owner of its versions. A batch's buffer becomes a chunk of the layer without being copied. The index has the newest
//! version of each key, and every version knows the one before it: a read follows the chain from newest to oldest. Only
//! when all versions are read in order, at the flush, the keys are sorted.
//! Invariants: along a chain LSNs fall, except that a base may stand in front of what it replaces at the same LSN;
//! versions never change or go; readers ask at LSNs whose batches were appended before.

use std::collections::{BTreeSet, hash_map};
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use pgformat::Lsn;
use rustc_hash::FxHashMap;

use super::batch::{Batch, BatchEntry};
use super::error::StoreError;
use super::history::{Gather, Version};
use crate::cluster::extent::Extent;
use crate::cluster::key::{Key, KeyKind};
use crate::cluster::value::ValueKind;

/// Marks the oldest version of a chain.
const NONE: u32 = u32::MAX;
/// Bytes of the index per key: map slot and its share of empty slots, and the key in the list.
const KEY_MEMORY: usize = 80;
/// Versions that are read together when all are read in order. They lie far apart in memory: the processor fetches
/// those of a group at the same time instead of waiting for each.
const GROUP: usize = 64;

/// A version in memory.
#[derive(Clone, Copy, Debug)]
struct OpenEntry {
    lsn: Lsn,
    /// The version before, or [`NONE`].
    before: u32,
    /// The key's number.
    chain: u32,
    chunk: u32,
    at: u32,
    len: u32,
    kind: ValueKind,
}

/// What the index has of a key.
#[derive(Clone, Copy, Debug)]
struct Chain {
    /// Its number: keys are counted as they come.
    number: u32,
    /// Its newest version.
    newest: u32,
    /// That version's LSN: looking at the version itself would cost a cache miss per version appended.
    lsn: Lsn,
}

#[derive(Default, Debug)]
struct Inner {
    chunks: Vec<Bytes>,
    entries: Vec<OpenEntry>,
    index: FxHashMap<Key, Chain>,
    /// Keys by their numbers.
    keys: Vec<Key>,
    /// Keys other than blocks of relations: few, and scanned in order.
    sparse: BTreeSet<Key>,
    value_bytes: usize,
    lsns: Option<(Lsn, Lsn)>,
    /// A size in here says that pages need not be stored.
    has_steps: bool,
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
        // Poisoned only by a bug in the appending, which ends its task; what was there before is whole.
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
        let (versions, chains) = (inner.entries.len(), inner.keys.len());
        let memory = inner.value_bytes + inner.entries.capacity() * size_of::<OpenEntry>() + chains * KEY_MEMORY;
        OpenSize { versions, chains, value_bytes: inner.value_bytes, memory, lsns: inner.lsns }
    }

    /// Whether a size in here says that pages need not be stored, which the manifest must tell.
    pub(crate) fn has_steps(&self) -> bool {
        self.read().has_steps
    }

    /// Adds the versions that the gathered key has here.
    pub(super) fn gather(&self, into: &mut Gather) {
        let inner = self.read();
        if !inner.lsns.is_some_and(|(first, last)| into.needs(first, last)) {
            return;
        }
        let mut next = inner.index.get(&into.key()).map_or(NONE, |chain| chain.newest);
        while let Some(e) = inner.entries.get(next as usize) {
            if e.lsn <= into.lsn() && !into.add(inner.version(e)) {
                return;
            }
            next = e.before;
        }
    }

    /// Gives every version to `each`, by (key, LSN). Who appends waits meanwhile: made for frozen layers.
    ///
    /// # Errors
    /// The first one of `each`, which ends it.
    pub(crate) fn visit<E>(&self, mut each: impl FnMut(Key, Lsn, ValueKind, &[u8]) -> Result<(), E>) -> Result<(), E> {
        let inner = self.read();
        let order = inner.full_order(..);
        let mut group = Vec::with_capacity(GROUP + 1);
        for start in (0..order.len()).step_by(GROUP) {
            let len = inner.fetch(&order, start, &mut group);
            for (i, e) in group[..len].iter().enumerate() {
                if !replaced(&group, i) {
                    each(inner.keys[e.chain as usize], e.lsn, e.kind, inner.value(e))?;
                }
            }
        }
        Ok(())
    }

    /// All versions of the keys in `range` that are here now, by (key, LSN).
    pub(crate) fn iter(self: Arc<Self>, range: impl RangeBounds<Key>) -> OpenIter {
        let order = self.read().order(range);
        OpenIter { layer: self, order, next: 0, group: Vec::with_capacity(GROUP), ready: Vec::with_capacity(GROUP) }
    }
}

impl Inner {
    /// Links a batch's versions; all or none.
    fn link(&mut self, batch: &[BatchEntry]) -> Result<(), StoreError> {
        let chunk = self.chunks.len() as u32;
        let start = self.entries.len() as u32;
        self.entries.reserve(batch.len());
        for (i, e) in batch.iter().enumerate() {
            let new = Chain { number: self.keys.len() as u32, newest: start + i as u32, lsn: e.lsn };
            let (chain, before, fits) = match self.index.entry(e.key) {
                hash_map::Entry::Occupied(mut slot) => {
                    let Chain { number, newest, lsn } = *slot.get();
                    slot.insert(Chain { number, ..new });
                    (number, newest, lsn < e.lsn || lsn == e.lsn && e.kind.is_base())
                }
                hash_map::Entry::Vacant(slot) => {
                    slot.insert(new);
                    self.keys.push(e.key);
                    if e.key.kind != KeyKind::Block {
                        self.sparse.insert(e.key);
                    }
                    (new.number, NONE, true)
                }
            };
            self.entries.push(OpenEntry { lsn: e.lsn, before, chain, chunk, at: e.at, len: e.len, kind: e.kind });
            if !fits {
                self.unlink(start, &batch[..=i]);
                let why = "the key has a version at or after this LSN already";
                return Err(StoreError::Order { key: e.key, lsn: e.lsn, why });
            }
        }
        for e in batch {
            self.has_steps |= matches!(e.key.kind, KeyKind::RelSize | KeyKind::SlruSegment) && Extent::has_steps(e.len);
            let (first, last) = self.lsns.unwrap_or((e.lsn, e.lsn));
            self.lsns = Some((first.min(e.lsn), last.max(e.lsn)));
        }
        Ok(())
    }

    /// Takes back the versions from `start` on, which are those of `batch`.
    fn unlink(&mut self, start: u32, batch: &[BatchEntry]) {
        let start = start as usize;
        for (i, e) in batch.iter().enumerate().rev() {
            match self.entries[start + i].before {
                NONE => {
                    self.index.remove(&e.key);
                    self.sparse.remove(&e.key);
                    self.keys.pop();
                }
                before => {
                    let OpenEntry { chain, lsn, .. } = self.entries[before as usize];
                    self.index.insert(e.key, Chain { number: chain, newest: before, lsn });
                }
            }
        }
        self.entries.truncate(start);
    }

    fn value(&self, e: &OpenEntry) -> &[u8] {
        &self.chunks[e.chunk as usize][e.at as usize..e.at as usize + e.len as usize]
    }

    fn version(&self, e: &OpenEntry) -> Version {
        let at = e.at as usize;
        let value = self.chunks[e.chunk as usize].slice(at..at + e.len as usize);
        Version { lsn: e.lsn, kind: e.kind, value }
    }

    /// Reads up to [`GROUP`] of the versions `order[start..]`, and one more, by which [`replaced`] goes; gives their
    /// number without that one.
    fn fetch(&self, order: &[u32], start: usize, group: &mut Vec<OpenEntry>) -> usize {
        let numbers = &order[start..(start + GROUP + 1).min(order.len())];
        group.clear();
        group.extend(numbers.iter().map(|n| self.entries[*n as usize]));
        let ends = group.iter().flat_map(|e| {
            let value = self.value(e);
            [value.first(), value.last()].map(|b| b.copied().unwrap_or(0))
        });
        std::hint::black_box(ends.fold(0, u8::wrapping_add));
        numbers.len().min(GROUP)
    }

    /// The versions of the keys in a range by (key, LSN), as numbers.
    fn order(&self, range: impl RangeBounds<Key>) -> Vec<u32> {
        match range.start_bound() {
            Bound::Included(key) | Bound::Excluded(key) if key.kind != KeyKind::Block => self.sparse_order(*key, range),
            _ => self.full_order(range),
        }
    }

    /// Of few keys, none of which is a block and none below `from`: chain by chain.
    fn sparse_order(&self, from: Key, range: impl RangeBounds<Key>) -> Vec<u32> {
        let behind = |key: &Key| match range.end_bound() {
            Bound::Included(end) => key > end,
            Bound::Excluded(end) => key >= end,
            Bound::Unbounded => false,
        };
        let mut order = Vec::new();
        let keys = self.sparse.range(from..).take_while(|key| !behind(key)).filter(|key| range.contains(key));
        for key in keys {
            let start = order.len();
            let mut next = self.index[key].newest;
            while let Some(e) = self.entries.get(next as usize) {
                order.push(next);
                next = e.before;
            }
            order[start..].reverse();
        }
        order
    }

    /// Of most keys: keys are sorted, versions are counted into their places.
    fn full_order(&self, range: impl RangeBounds<Key>) -> Vec<u32> {
        let mut chains: Vec<(Key, usize)> =
            self.keys.iter().copied().zip(0..).filter(|c| range.contains(&c.0)).collect();
        chains.sort_unstable();
        let mut counts = vec![0_u32; self.keys.len()];
        self.entries.iter().for_each(|e| counts[e.chain as usize] += 1);
        // Where the next version of each key goes; keys out of the range have no place.
        let mut places = vec![NONE; self.keys.len()];
        let mut place = 0;
        for (_, chain) in chains {
            places[chain] = place;
            place += counts[chain];
        }
        let mut order = vec![NONE; place as usize];
        for (number, e) in self.entries.iter().enumerate() {
            let place = &mut places[e.chain as usize];
            if *place != NONE {
                order[*place as usize] = number as u32;
                *place += 1;
            }
        }
        order
    }
}

/// Versions of an open layer by (key, LSN).
#[derive(Debug)]
pub(crate) struct OpenIter {
    layer: Arc<OpenLayer>,
    /// Numbers of the versions.
    order: Vec<u32>,
    /// How many of them were read.
    next: usize,
    /// The versions of the group being read.
    group: Vec<OpenEntry>,
    /// What was read and not given out, in reverse.
    ready: Vec<(Key, Version)>,
}

impl OpenIter {
    fn read_group(&mut self) {
        let inner = self.layer.read();
        let len = inner.fetch(&self.order, self.next, &mut self.group);
        for i in (0..len).rev().filter(|i| !replaced(&self.group, *i)) {
            let e = &self.group[i];
            self.ready.push((inner.keys[e.chain as usize], inner.version(e)));
        }
        self.next += len;
    }
}

/// Whether the next version of a group stands for this one, which then does not count: a base may stand in front of
/// what it replaced.
fn replaced(group: &[OpenEntry], i: usize) -> bool {
    group.get(i + 1).is_some_and(|after| (after.chain, after.lsn) == (group[i].chain, group[i].lsn))
}

impl Iterator for OpenIter {
    type Item = (Key, Version);

    fn next(&mut self) -> Option<(Key, Version)> {
        while self.ready.is_empty() && self.next < self.order.len() {
            self.read_group();
        }
        self.ready.pop()
    }
}
