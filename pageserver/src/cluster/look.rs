//! What is asked of whatever holds a cluster's state.

use std::ops::Range;

use bytes::Bytes;
use pgformat::Lsn;
use pgformat::page::Page;

use super::error::LookError;
use super::key::Key;

/// A cluster at one position: for the mapping the newest one, without the batch that is being filled.
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

    /// A page, rebuilt of the versions since `since` (see [`Extent::since`](super::extent::Extent::since));
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
