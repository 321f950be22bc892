//! What ingest hands to the store in one go: the versions of one received chunk, values in one buffer.
//!
//! A key has one version per LSN. When a record has several effects on a key, the one who fills the batch says what
//! they come to: a later base replaces the version before at the same LSN, a second [`ValueKind::Change`] at the same
//! LSN is refused by [`super::open::OpenLayer::append`]. All versions of one record are in one batch.

use pgformat::Lsn;

use super::value::ValueKind;
use crate::key::Key;

/// One version; its value is `buf[at..at + len]` of the batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BatchEntry {
    /// What changed.
    pub(crate) key: Key,
    /// End of the record that changed it.
    pub(crate) lsn: Lsn,
    /// How to read the value.
    pub(crate) kind: ValueKind,
    /// Where the value starts.
    pub(crate) at: u32,
    /// Bytes of the value.
    pub(crate) len: u32,
}

/// Versions in the order of their LSNs.
#[derive(Default, Debug)]
pub(crate) struct Batch {
    /// Values, one behind the other.
    pub(crate) buf: Vec<u8>,
    /// Versions, LSNs never decreasing.
    pub(crate) entries: Vec<BatchEntry>,
}

impl Batch {
    /// Adds a version whose value `write` appends to the buffer (and must not shorten it).
    ///
    /// # Panics
    /// When the batch's values exceed 4 GiB; a batch is one network chunk.
    pub(crate) fn put(&mut self, key: Key, lsn: Lsn, kind: ValueKind, write: impl FnOnce(&mut Vec<u8>)) {
        let at = self.buf.len();
        write(&mut self.buf);
        let len = self.buf.len() - at;
        let small = |n: usize| u32::try_from(n).expect("a batch is far smaller than 4 GiB");
        self.entries.push(BatchEntry { key, lsn, kind, at: small(at), len: small(len) });
    }

    /// Forgets everything, keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.buf.clear();
        self.entries.clear();
    }

    /// Number of versions.
    pub(crate) const fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of the values.
    pub(crate) const fn bytes(&self) -> usize {
        self.buf.len()
    }
}
