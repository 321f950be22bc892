//! What the mapping asks the store: the state that was there before the batch it fills.

use std::ops::Range;

use bytes::Bytes;
use pgformat::page::Page;
use pgformat::rel::{BlockNumber, RelFork};
use pgformat::{Lsn, PgMajor};

use super::control::StateError;
use crate::cluster::key::{Key, Kind};
use crate::store::batch::{BATCH_BYTES_MAX, VALUE_BYTES_MAX};
use crate::store::layer::Through;
use crate::store::merge::merge;
use crate::store::redo::{RedoFailure, materialise};
use crate::store::{Snapshot, StoreError};

/// Why the store has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    /// Something cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A page cannot be rebuilt.
    #[error(transparent)]
    Redo(#[from] RedoFailure),
    /// What is stored makes no sense.
    #[error("{0} is damaged")]
    Damaged(Key),
    /// A fork has been cut, and has grown over long gaps, more often than is kept track of.
    #[error(
        "{fork} was cut, and grew over gaps of thousands of blocks behind all that it had, hundreds of times; its \
         block {blk} is behind one more"
    )]
    Gaps {
        /// Which fork.
        fork: RelFork,
        /// The block that is to be reached.
        blk: BlockNumber,
    },
    /// What a record does takes more memory than there may be.
    #[error(
        "the record at {0} makes more than {batch} MiB of versions, or one of more than {value} MiB: memory and layers \
         are not made for more",
        batch = BATCH_BYTES_MAX >> 20,
        value = VALUE_BYTES_MAX >> 20
    )]
    TooMuch(Lsn),
    /// The control state is damaged, of another version, or not there.
    #[error("the control state: {0}")]
    Control(#[from] StateError),
}

/// The newest state of a timeline, without the batch that is being filled.
pub(crate) trait Look {
    /// A piece of metadata; `None` when there is none, or no more.
    ///
    /// # Errors
    /// When it cannot be read.
    fn blob(&self, key: Key) -> Result<Option<Bytes>, LookError>;

    /// The metadata in a range, keys ascending, without what is no more.
    ///
    /// # Errors
    /// When it cannot be read.
    fn scan(&self, range: Range<Key>) -> Result<Vec<(Key, Bytes)>, LookError>;

    /// A page, rebuilt of the versions since `since` (see [`Extent::since`](crate::cluster::extent::Extent::since));
    /// `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read or rebuilt.
    fn page(&self, key: Key, since: Option<Lsn>) -> Result<Option<Box<Page>>, LookError>;

    /// The first keys in a range, at most `max`, that have a version of any time.
    ///
    /// # Errors
    /// When it cannot be read.
    fn keys(&self, range: Range<Key>, max: usize) -> Result<Vec<Key>, LookError>;
}

/// The state that a snapshot of the store shows at an LSN.
pub(crate) struct At<'a> {
    /// The layers.
    pub(crate) snapshot: &'a Snapshot,
    /// Which state.
    pub(crate) lsn: Lsn,
    /// Whose pages these are.
    pub(crate) version: PgMajor,
}

impl Look for At<'_> {
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

/// Everything of one kind that a database has in a tablespace.
pub(super) fn of_database(kind: Kind, spc: u32, db: u32) -> Range<Key> {
    let first = Key::of_database(kind, spc, db);
    first..Key { rel: u32::MAX, fork: u8::MAX, blk: u32::MAX, ..first }
}

/// Everything of one kind with this first number: a tablespace, an SLRU.
pub(super) fn of_space(kind: Kind, spc: u32) -> Range<Key> {
    let first = Key { spc, ..Key::first(kind) };
    first..Key { db: u32::MAX, rel: u32::MAX, fork: u8::MAX, blk: u32::MAX, ..first }
}
