//! A key's versions up to an LSN, and how they are gathered from layers that overlap.

use bytes::Bytes;
use pgformat::Lsn;

use super::layer::KeyHash;
use crate::cluster::key::Key;
use crate::cluster::value::ValueKind;

/// One version of a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Version {
    /// End of the record that made it.
    pub(crate) lsn: Lsn,
    /// How to read the value.
    pub(crate) kind: ValueKind,
    /// The value, see [`ValueKind`].
    pub(crate) value: Bytes,
}

/// All that decides a key's state at an LSN.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct History {
    /// The key that was asked for.
    pub(crate) key: Key,
    /// The LSN asked for.
    pub(crate) lsn: Lsn,
    /// Oldest first: the newest base at or below the LSN, if there is one, then the changes up to the LSN. No base and
    /// changes only: the page grew by itself and starts as zeros. Empty: the key was never written.
    pub(crate) versions: Vec<Version>,
}

impl History {
    /// The last version.
    pub(crate) fn newest(&self) -> Option<&Version> {
        self.versions.last()
    }

    /// Whether it begins with a base: nothing before it counts.
    pub(crate) fn has_base(&self) -> bool {
        self.versions.first().is_some_and(|v| v.kind.is_base())
    }

    /// Whether the key exists at this LSN: written, and not ended by a tombstone.
    pub(crate) fn exists(&self) -> bool {
        self.newest().is_some_and(|v| v.kind != ValueKind::Tombstone)
    }
}

/// Gathers one key's history. Sources may be visited in any order and may overlap; from each, versions come newest
/// first.
#[derive(Debug)]
pub(super) struct Gather {
    key: Key,
    hash: KeyHash,
    lsn: Lsn,
    /// LSN of the newest base seen, or of the state that is known: nothing older counts.
    base: Option<Lsn>,
    versions: Vec<Version>,
}

impl Gather {
    /// Of `key`, up to and including `lsn`; of those above `above` only, when the state there is known.
    pub(super) fn new(key: Key, lsn: Lsn, above: Option<Lsn>) -> Gather {
        Gather { key, hash: KeyHash::of(key), lsn, base: above, versions: Vec::new() }
    }

    /// The key whose versions are gathered.
    pub(super) const fn key(&self) -> Key {
        self.key
    }

    /// What filters know the key by.
    pub(super) const fn hash(&self) -> KeyHash {
        self.hash
    }

    /// Newest LSN that counts.
    pub(super) const fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// Whether a source with versions in `first..=last` can still contribute. One that ends at the base's own LSN
    /// cannot: it would repeat the base.
    pub(super) fn needs(&self, first: Lsn, last: Lsn) -> bool {
        first <= self.lsn && self.base.is_none_or(|base| last > base)
    }

    /// Takes a version at or below the LSN; says whether older ones of the same source are needed.
    pub(super) fn add(&mut self, version: Version) -> bool {
        if self.base.is_some_and(|base| version.lsn <= base) {
            return false;
        }
        let is_base = version.kind.is_base();
        if is_base {
            self.base = Some(version.lsn);
        }
        self.versions.push(version);
        !is_base
    }

    /// The history: ordered, without repetitions, starting with the newest base.
    pub(super) fn finish(self) -> History {
        let Gather { key, lsn, base, mut versions, .. } = self;
        if let Some(base) = base {
            versions.retain(|v| v.lsn >= base);
        }
        // One source gives newest first; several give runs, for which this sort is made. Of the versions at the base's
        // LSN the base was added last, so it stands first now, and a change that it stands for is dropped.
        versions.reverse();
        versions.sort_by_key(|v| v.lsn);
        versions.dedup_by_key(|v| v.lsn);
        History { key, lsn, versions }
    }
}
