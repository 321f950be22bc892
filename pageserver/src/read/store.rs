//! Versions as the page store has them.

use std::ops::Range;

use bytes::Bytes;
use pgformat::page::Page;
use pgformat::{Lsn, PgMajor};

use super::{Fault, FoundBlob, Io, Versions};
use crate::cluster::key::Key;
use crate::cluster::value::ValueKind;
use crate::store::pages::Pages;
use crate::store::redo::redo_onto;
use crate::store::snapshot::before;
use crate::store::{History, Snapshot, StoreError};

/// The layers of one moment, the major whose redo applies, and pages that were built before.
pub(crate) struct StoredVersions {
    snapshot: Snapshot,
    version: PgMajor,
    pages: Pages,
}

impl StoredVersions {
    /// Reads `snapshot`, redoing as `version` does.
    pub(crate) const fn new(snapshot: Snapshot, version: PgMajor, pages: Pages) -> StoredVersions {
        StoredVersions { snapshot, version, pages }
    }

    fn history(&self, key: Key, lsn: Lsn, above: Option<Lsn>, io: Io) -> Result<History, Fault> {
        match io {
            Io::Memory => self.snapshot.try_history_cached(key, lsn, above).ok_or(Fault::NotInMemory),
            Io::Files => self.snapshot.history_above(key, lsn, above).map_err(fault),
        }
    }
}

/// What an error of the store means to a reader.
fn fault(error: StoreError) -> Fault {
    match error {
        StoreError::Io { .. } => Fault::Io(error.to_string()),
        _ => Fault::Damaged(error.to_string()),
    }
}

impl Versions for StoredVersions {
    fn blob(&self, key: Key, lsn: Lsn, io: Io) -> Result<FoundBlob, Fault> {
        match self.history(key, lsn, None, io)?.versions.pop() {
            None => Ok(FoundBlob::Absent),
            Some(v) if v.kind == ValueKind::Tombstone => Ok(FoundBlob::Gone(v.lsn)),
            Some(v) if v.kind == ValueKind::Blob => Ok(FoundBlob::Value(v.lsn, v.value)),
            Some(v) => Err(fault(StoreError::NotABlob { key, lsn: v.lsn })),
        }
    }

    fn page(&self, key: Key, lsn: Lsn, since: Option<Lsn>, io: Io) -> Result<Option<Box<Page>>, Fault> {
        let built = self.pages.at(key, lsn).filter(|b| since.is_none_or(|since| b.lsn >= since));
        let above = built.as_ref().map(|b| b.lsn).or(since.map(before));
        let history = self.history(key, lsn, above, io)?;
        let before = built.filter(|_| !history.has_base());
        let Some(newest) = history.newest() else {
            return Ok(before.map(|built| Box::new(built.page.clone())));
        };
        if !history.exists() {
            return Ok(None);
        }
        let mut page = before.map_or_else(Page::zeroed, |built| Box::new(built.page.clone()));
        redo_onto(&history, self.version, &mut page)
            .map_err(|e| Fault::NotRedone { record: e.lsn, cause: e.cause.to_string() })?;
        self.pages.keep(key, newest.lsn, history.versions.len(), &page);
        Ok(Some(page))
    }

    fn scan(&self, keys: Range<Key>, lsn: Lsn) -> Result<Vec<(Key, Bytes)>, Fault> {
        let found = self.snapshot.scan(keys, lsn).map_err(fault)?;
        let blobs = found.into_iter().map(|(key, v)| match v.kind {
            ValueKind::Blob => Ok((key, v.value)),
            _ => Err(fault(StoreError::NotABlob { key, lsn: v.lsn })),
        });
        blobs.collect()
    }
}
