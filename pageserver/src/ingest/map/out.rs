//! Where the mapping writes: one record's versions in a batch.

use pgformat::Lsn;
use pgformat::page::Page;
use pgformat::redo::Change;

use crate::cluster::key::Key;
use crate::cluster::look::Look;
use crate::cluster::value::{ValueKind, encode_page};
use crate::store::Batch;

/// The batch at one record's end. A key gets one version per record; a base may replace another one.
pub(super) struct RecordOut<'a> {
    /// End of the record.
    pub(super) lsn: Lsn,
    /// What is filled.
    pub(super) batch: &'a mut Batch,
    /// What was there before.
    pub(super) look: &'a dyn Look,
}

impl RecordOut<'_> {
    /// A whole piece of metadata.
    pub(super) fn blob(&mut self, key: Key, value: &[u8]) {
        self.batch.put(key, self.lsn, ValueKind::Blob, |out| out.extend_from_slice(value));
    }

    /// The key is gone.
    pub(super) fn tombstone(&mut self, key: Key) {
        self.batch.put(key, self.lsn, ValueKind::Tombstone, |_| ());
    }

    /// A change to a page. One that `starts` does not build on what was there before: the page is made by the change,
    /// or begins as zeros. A change that needs a page then fails when it is read, until an image heals the page.
    pub(super) fn change(&mut self, key: Key, change: &Change<'_>, starts: bool) {
        let kind = if starts { ValueKind::Init } else { ValueKind::Change };
        self.batch.put(key, self.lsn, kind, |out| change.encode(out));
    }

    /// A page of zeros.
    pub(super) fn zeros(&mut self, key: Key) {
        self.batch.put(key, self.lsn, ValueKind::Image, |_| ());
    }

    /// A page as it is, its LSN included.
    pub(super) fn page(&mut self, key: Key, page: &Page) {
        self.batch.put(key, self.lsn, ValueKind::Image, |out| encode_page(page, out));
    }
}
