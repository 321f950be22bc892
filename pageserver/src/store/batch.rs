//! What ingest hands to the store in one go: the versions of one received chunk, values in one buffer.
//!
//! A key has one version per LSN. When a record has several effects on a key, the one who fills the batch says what
//! they come to: a later base replaces the version before at the same LSN, a second [`ValueKind::Change`] at the same
//! LSN is refused by [`super::open::OpenLayer::append`]. All versions of one record are in one batch.

use pgformat::Lsn;

use crate::cluster::key::Key;
use crate::cluster::value::{VALUE_BYTES_MAX, ValueKind};

/// One version; its value is `buf[at..at + len]` of the batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BatchEntry {
    /// The key whose state it changes.
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

/// Memory of a batch. One record can hardly need as much: its versions are some times as long as itself.
pub(crate) const BATCH_BYTES_MAX: usize = 2 << 30;

/// Versions in the order of their LSNs.
#[derive(Default, Debug)]
pub(crate) struct Batch {
    /// Values, one behind the other.
    pub(crate) buf: Vec<u8>,
    /// Versions, LSNs never decreasing.
    pub(crate) entries: Vec<BatchEntry>,
    overfull: bool,
}

impl Batch {
    /// Adds a version whose value `write` appends to the buffer (and must not shorten it). When that is more than a
    /// batch holds, it is left out, and the batch is overfull.
    pub(crate) fn put(&mut self, key: Key, lsn: Lsn, kind: ValueKind, write: impl FnOnce(&mut Vec<u8>)) {
        let at = self.buf.len();
        write(&mut self.buf);
        let len = self.buf.len() - at;
        if len > VALUE_BYTES_MAX || self.memory() > BATCH_BYTES_MAX {
            self.buf.truncate(at);
            self.overfull = true;
            return;
        }
        let small = |n: usize| u32::try_from(n).expect("a batch has less than 4 GiB");
        self.entries.push(BatchEntry { key, lsn, kind, at: small(at), len: small(len) });
    }

    /// Whether something did not fit: what the batch holds is not all of its last record.
    pub(crate) const fn is_overfull(&self) -> bool {
        self.overfull
    }

    /// Memory of all of it, in bytes.
    pub(crate) const fn memory(&self) -> usize {
        self.buf.len() + self.entries.len() * size_of::<BatchEntry>()
    }

    /// Forgets everything, keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.buf.clear();
        self.entries.clear();
        self.overfull = false;
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
