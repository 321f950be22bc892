//! Pages and metadata as of an LSN: which LSN is read, whether the thing exists there, and its bytes.
//!
//! Nothing is kept here: versions come from the store through [`Versions`], blocks are cached below it. A read reflects
//! exactly the records up to its LSN, or it is an error (I9): the size of a relation is looked up first, at the same
//! LSN, and what lies outside is not asked for.
//!
//! | module | what | pure? |
//! |---|---|---|
//! | [`at`] | from a request's two LSNs to the one that is read | yes |
//! | [`view`] | relations, databases, SLRUs and pages at one LSN | as the versions are |
//! | [`error`] | why there is no answer, as SQLSTATE and HTTP status | yes |
//! | [`store`] | [`Versions`] of the page store | no |
//! | [`service`] | waiting for WAL, memory first, files on a thread of their own | no |

pub(crate) mod at;
pub(crate) mod error;
pub(crate) mod live;
#[cfg(test)]
pub(crate) mod model;
pub(crate) mod service;
pub(crate) mod store;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod view;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use pgformat::page::Page;
use pgformat::{Lsn, SegSize};

use crate::cluster::key::Key;
use crate::cluster::records::RecordSpan;
use crate::cluster::state::ClusterState;
use crate::cluster::xacts::XactEntry;

pub(crate) use at::ReadPoint;
pub(crate) use error::{Problem, ReadError, Readable};
pub(crate) use service::PageReader;
pub(crate) use view::ReadView;

/// Whether a read may touch files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Io {
    /// No: what is not in memory is [`Fault::NotInMemory`].
    Memory,
    /// Yes; the calling thread blocks.
    Files,
}

/// The state of a piece of metadata.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum FoundBlob {
    /// Never written, up to the LSN asked for.
    Absent,
    /// It ended at this LSN.
    Gone(Lsn),
    /// Its bytes, and since when.
    Value(Lsn, Bytes),
}

/// Why the store does not give a version.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// It is in a file, and files were not to be touched.
    #[error("not in memory")]
    NotInMemory,
    /// A change that belongs to the page could not be redone.
    #[error("the record that ends at {record} cannot be redone: {cause}")]
    NotRedone {
        /// End of that record.
        record: Lsn,
        /// What is wrong with it.
        cause: String,
    },
    /// A file is damaged: which, where, which keys.
    #[error("{0}")]
    Damaged(String),
    /// Reading failed; may go away.
    #[error("{0}")]
    Io(String),
}

/// Every version of a timeline, as the store has them at one moment.
pub(crate) trait Versions: Send + Sync {
    /// Metadata at `lsn`.
    ///
    /// # Errors
    /// See [`Fault`].
    fn blob(&self, key: Key, lsn: Lsn, io: Io) -> Result<FoundBlob, Fault>;

    /// A page at `lsn`, of the versions from `since` on; `None` when none of them is stored, or it ended.
    ///
    /// # Errors
    /// See [`Fault`].
    fn page(&self, key: Key, lsn: Lsn, since: Option<Lsn>, io: Io) -> Result<Option<Box<Page>>, Fault>;

    /// All metadata in `keys` that exists at `lsn`, ordered; may touch files.
    ///
    /// # Errors
    /// See [`Fault`].
    fn scan(&self, keys: Range<Key>, lsn: Lsn) -> Result<Vec<(Key, Bytes)>, Fault>;
}

/// Whether this is the end of a transaction that is looked for.
pub(crate) type WantedEnd<'a> = dyn FnMut(&XactEntry) -> bool + 'a;

/// What a timeline offers to readers.
pub(crate) trait TimelineReads: Send + Sync {
    /// The first LSN at which every page is consistent: the end of the import, or what collection left. None while that
    /// is not known yet.
    fn readable_from(&self) -> Option<Lsn>;

    /// The versions as they are now. What was published as ingested before the call is in there.
    fn versions(&self) -> Arc<dyn Versions>;

    /// Whether the cluster has page checksums.
    fn has_checksums(&self) -> bool;

    /// What the control file would hold at `lsn`. Blocks: may read files.
    ///
    /// # Errors
    /// See [`Fault`].
    fn control(&self, lsn: Lsn) -> Result<ClusterState, Fault>;

    /// The last record that ends at or below `lsn`, in a log of segments of this size; none before the first one that
    /// is known. Blocks: may read files.
    ///
    /// # Errors
    /// See [`Fault`].
    fn last_record(&self, lsn: Lsn, seg: SegSize) -> Result<Option<RecordSpan>, Fault>;

    /// The first end of a transaction whose record ends in `(from, to]` and is `wanted`. Blocks: may read files.
    ///
    /// # Errors
    /// See [`Fault`].
    fn first_end(&self, from: Lsn, to: Lsn, wanted: &mut WantedEnd<'_>) -> Result<Option<XactEntry>, Fault>;

    /// The layers, newest first, for SHOW LAYERS.
    fn layers(&self) -> Vec<LayerRow>;
}

/// One layer in SHOW LAYERS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LayerRow {
    /// Name of its file or object; empty for one in memory.
    pub(crate) name: String,
    /// `open`, `frozen`, or the level of a file.
    pub(crate) kind: String,
    /// Its LSNs: after the first, up to and including the second.
    pub(crate) lsns: (Lsn, Lsn),
    /// Its smallest and largest key; none when it is empty.
    pub(crate) keys: Option<(Key, Key)>,
    /// Versions in it.
    pub(crate) versions: u64,
    /// Bytes of memory or of the file.
    pub(crate) bytes: u64,
}
