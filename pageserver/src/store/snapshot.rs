//! Reads: the layers of one moment.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use pgformat::Lsn;

use super::error::StoreError;
use super::history::{Gather, History, Version};
use super::layer::Through;
use super::merge::{LayerIter, merge};
use super::open::OpenLayer;
use super::set::LayerSet;
use crate::cluster::key::Key;
use crate::cluster::value::ValueKind;

/// The layers of one moment. Cheap to clone; keeps its layers alive.
#[derive(Clone)]
pub(crate) struct Snapshot {
    set: Arc<LayerSet>,
}

impl Snapshot {
    pub(super) const fn new(set: Arc<LayerSet>) -> Snapshot {
        Snapshot { set }
    }

    /// The layers themselves, in memory and in files.
    pub(crate) fn set(&self) -> &LayerSet {
        &self.set
    }

    /// A key's versions that decide its state at `lsn`. May read files.
    ///
    /// # Errors
    /// A file that cannot be read or is damaged where the key's versions are.
    pub(crate) fn history(&self, key: Key, lsn: Lsn) -> Result<History, StoreError> {
        self.history_above(key, lsn, None)
    }

    /// [`Snapshot::history`] of the versions above an LSN at which the key's state is known.
    ///
    /// # Errors
    /// As [`Snapshot::history`].
    pub(crate) fn history_above(&self, key: Key, lsn: Lsn, above: Option<Lsn>) -> Result<History, StoreError> {
        let mut gather = Gather::new(key, lsn, above);
        self.gather_memory(&mut gather);
        for layer in &self.set.layers {
            layer.gather(&mut gather)?;
        }
        Ok(gather.finish())
    }

    /// [`Snapshot::history`] of the versions from an LSN on, if one is given: those before do not count.
    ///
    /// # Errors
    /// As [`Snapshot::history`].
    pub(crate) fn history_since(&self, key: Key, lsn: Lsn, since: Option<Lsn>) -> Result<History, StoreError> {
        self.history_above(key, lsn, since.map(before))
    }

    /// [`Snapshot::history_above`] if nothing has to be read for it; never blocks on a file.
    pub(crate) fn try_history_cached(&self, key: Key, lsn: Lsn, above: Option<Lsn>) -> Option<History> {
        let mut gather = Gather::new(key, lsn, above);
        self.gather_memory(&mut gather);
        self.set.layers.iter().all(|layer| layer.gather_cached(&mut gather)).then(|| gather.finish())
    }

    /// A piece of metadata; `None` when there is none at this LSN.
    ///
    /// # Errors
    /// As [`Snapshot::history`]; [`StoreError::NotABlob`] when the key holds a page.
    pub(crate) fn blob(&self, key: Key, lsn: Lsn) -> Result<Option<Bytes>, StoreError> {
        match self.history(key, lsn)?.versions.pop() {
            None => Ok(None),
            Some(v) if v.kind == ValueKind::Tombstone => Ok(None),
            Some(v) if v.kind == ValueKind::Blob => Ok(Some(v.value)),
            Some(v) => Err(StoreError::NotABlob { key, lsn: v.lsn }),
        }
    }

    /// The newest version at or below `lsn` of each key in `range`, keys ascending, without those that a tombstone
    /// ended. Made for sparse keys: everything is held in memory.
    ///
    /// # Errors
    /// As [`Snapshot::history`].
    pub(crate) fn scan(&self, range: Range<Key>, lsn: Lsn) -> Result<Vec<(Key, Version)>, StoreError> {
        let mut found: Vec<(Key, Version)> = Vec::new();
        for next in merge(self.iters(range, Through::Cache)) {
            let (key, version) = next?;
            if version.lsn > lsn {
                continue;
            }
            match found.last_mut() {
                Some(last) if last.0 == key => last.1 = version,
                _ => found.push((key, version)),
            }
        }
        found.retain(|(_, v)| v.kind != ValueKind::Tombstone);
        Ok(found)
    }

    /// The versions of all layers in a range of keys, to be merged.
    pub(crate) fn iters(&self, range: Range<Key>, through: Through) -> Vec<LayerIter> {
        let open = self.memory().map(|open| LayerIter::Open(open.clone().iter(range.clone())));
        let files = self.set.layers.iter().map(|layer| LayerIter::File(layer.iter(range.clone(), through)));
        open.chain(files).collect()
    }

    /// `range` in about `parts` parts with about equally many bytes in files each, ascending.
    pub(crate) fn divide(&self, range: Range<Key>, parts: usize) -> Vec<Range<Key>> {
        let mut starts: Vec<Key> = self.set.layers.iter().flat_map(|l| l.block_starts()).collect();
        starts.retain(|key| range.contains(key) && *key != range.start);
        starts.sort_unstable();
        let step = (starts.len() / parts.max(1)).max(1);
        let mut bounds: Vec<Key> = starts.into_iter().step_by(step).collect();
        bounds.dedup();
        let from = std::iter::once(range.start).chain(bounds.iter().copied());
        from.zip(bounds.iter().copied().chain([range.end])).map(|(from, to)| from..to).collect()
    }

    /// Layers in memory, newest first.
    fn memory(&self) -> impl Iterator<Item = &Arc<OpenLayer>> {
        std::iter::once(&self.set.open).chain(self.set.frozen.iter().rev())
    }

    fn gather_memory(&self, gather: &mut Gather) {
        self.memory().for_each(|open| open.gather(gather));
    }
}

/// The LSN before: what is above it is what counts from `since` on.
pub(crate) const fn before(since: Lsn) -> Lsn {
    Lsn::new(since.get().saturating_sub(1))
}
