//! The state of a cluster as the layers have it at an LSN. Reading it blocks: what is not in memory comes from files.

use std::ops::Range;

use bytes::Bytes;
use pgformat::page::Page;
use pgformat::{Lsn, PgMajor};

use super::layer::Through;
use super::merge::merge;
use super::redo::materialise;
use super::{Snapshot, StoreError};
use crate::cluster::error::LookError;
use crate::cluster::key::Key;
use crate::cluster::look::Look;

/// The state that a snapshot of the store shows at an LSN.
pub(crate) struct StateAt<'a> {
    /// The layers that have the state.
    pub(crate) snapshot: &'a Snapshot,
    /// Where in the log the state is.
    pub(crate) lsn: Lsn,
    /// Whose pages these are.
    pub(crate) version: PgMajor,
}

impl Look for StateAt<'_> {
    fn blob(&self, key: Key) -> Result<Option<Bytes>, LookError> {
        Ok(self.snapshot.blob(key, self.lsn)?)
    }

    fn scan(&self, range: Range<Key>) -> Result<Vec<(Key, Bytes)>, LookError> {
        let found = self.snapshot.scan(range, self.lsn)?;
        Ok(found.into_iter().map(|(key, version)| (key, version.value)).collect())
    }

    fn page(&self, key: Key, since: Option<Lsn>) -> Result<Option<Box<Page>>, LookError> {
        let history = self.snapshot.history_since(key, self.lsn, since)?;
        if history.versions.is_empty() {
            return Ok(None);
        }
        Ok(Some(materialise(&history, self.version)?))
    }

    fn keys(&self, range: Range<Key>, max: usize) -> Result<Vec<Key>, LookError> {
        let mut found: Vec<Key> = Vec::new();
        for next in merge(self.snapshot.iters(range, Through::Cache)) {
            let (key, _) = next?;
            if found.last() != Some(&key) {
                if found.len() == max {
                    break;
                }
                found.push(key);
            }
        }
        Ok(found)
    }
}

impl From<StoreError> for LookError {
    fn from(e: StoreError) -> LookError {
        match e {
            StoreError::Io { .. } => LookError::Away(e.to_string()),
            _ => LookError::Lost(e.to_string()),
        }
    }
}
