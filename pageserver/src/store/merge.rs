//! Several layers as one stream in the order of (key, LSN), for compaction, base backups and scans.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;

use super::error::StoreError;
use super::history::Version;
use super::layer::FileIter;
use super::open::OpenIter;
use crate::cluster::key::Key;

/// The versions of one layer, by (key, LSN).
pub(crate) enum LayerIter {
    /// Of a file. Ends after an error.
    File(FileIter),
    /// Of an open or frozen layer.
    Open(OpenIter),
}

impl Iterator for LayerIter {
    type Item = Result<(Key, Version), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            LayerIter::File(iter) => iter.next(),
            LayerIter::Open(iter) => iter.next().map(Ok),
        }
    }
}

/// The next version of one of the layers.
struct Head {
    key: Key,
    version: Version,
    from: usize,
}

impl Head {
    /// At one (key, LSN) a base comes before a change: both say the same, but the base needs nothing else.
    fn order(&self) -> (Key, pgformat::Lsn, bool, usize) {
        (self.key, self.version.lsn, !self.version.kind.is_base(), self.from)
    }
}

impl PartialEq for Head {
    fn eq(&self, other: &Head) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Head {}

impl PartialOrd for Head {
    fn partial_cmp(&self, other: &Head) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Head {
    /// Reversed: the heap's greatest is the smallest.
    fn cmp(&self, other: &Head) -> Ordering {
        other.order().cmp(&self.order())
    }
}

/// The versions of several layers in order: made by [`merge`].
pub(crate) struct Merge {
    layers: Vec<LayerIter>,
    heads: BinaryHeap<Head>,
    /// An error that was met while a version before it was still to be given out.
    error: Option<StoreError>,
    /// Layers whose first version was not asked for yet.
    started: bool,
    last: Option<(Key, pgformat::Lsn)>,
}

/// The versions of all layers by (key, LSN), each once. Ends after an error.
pub(crate) fn merge(layers: Vec<LayerIter>) -> Merge {
    Merge { heads: BinaryHeap::with_capacity(layers.len()), layers, error: None, started: false, last: None }
}

impl Merge {
    /// Takes the next version of a layer that has no head.
    fn begin(&mut self, from: usize) {
        match self.layers[from].next() {
            Some(Ok((key, version))) => self.heads.push(Head { key, version, from }),
            Some(Err(error)) => self.error = Some(error),
            None => {}
        }
    }

    /// The smallest head; the next version of its layer takes its place. That one is most often the smallest again, so
    /// that the heap has nothing to move.
    fn take(&mut self) -> Option<(Key, Version)> {
        let mut top = self.heads.peek_mut()?;
        match self.layers[top.from].next() {
            Some(Ok((key, version))) => {
                let key = std::mem::replace(&mut top.key, key);
                return Some((key, std::mem::replace(&mut top.version, version)));
            }
            Some(Err(error)) => self.error = Some(error),
            None => {}
        }
        let Head { key, version, .. } = PeekMut::pop(top);
        Some((key, version))
    }
}

impl Iterator for Merge {
    type Item = Result<(Key, Version), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if !self.started {
            self.started = true;
            (0..self.layers.len()).for_each(|i| self.begin(i));
        }
        loop {
            if let Some(error) = self.error.take() {
                self.heads.clear();
                return Some(Err(error));
            }
            let (key, version) = self.take()?;
            let at = (key, version.lsn);
            if self.last != Some(at) {
                self.last = Some(at);
                return Some(Ok((key, version)));
            }
        }
    }
}
