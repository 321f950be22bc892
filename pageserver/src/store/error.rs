//! What can go wrong in the store.

use std::fmt;
use std::io;

use pgformat::Lsn;

use crate::cluster::key::Key;

/// Keys from the first to the last, both included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct KeyBounds {
    /// The smallest of the keys.
    pub(crate) first: Key,
    /// The largest of the keys.
    pub(crate) last: Key,
}

impl KeyBounds {
    /// Whether `key` lies within.
    pub(crate) fn contains(&self, key: Key) -> bool {
        self.first <= key && key <= self.last
    }
}

impl fmt::Display for KeyBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.first, self.last)
    }
}

/// Where damage was found: what the operator needs to know about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Damage {
    /// File or object.
    pub(crate) file: String,
    /// Where in it, in bytes from its beginning.
    pub(crate) offset: u64,
    /// Which keys cannot be read because of it; `None` when not even that is known: all keys of the file.
    pub(crate) keys: Option<KeyBounds>,
    /// What is wrong.
    pub(crate) what: &'static str,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is damaged at offset {}: {}; ", self.file, self.offset, self.what)?;
        match &self.keys {
            Some(keys) => write!(f, "lost are keys {keys}"),
            None => write!(f, "lost are all keys of the file"),
        }
    }
}

/// Why the store cannot answer, or cannot take something in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// A checksum or length is wrong. Terminal for those keys; others stay readable.
    #[error("{0}")]
    Damaged(Damage),
    /// The file was written by another version of this program.
    #[error("{file}: {what}")]
    Unsupported {
        /// File or object.
        file: String,
        /// What is not known.
        what: String,
    },
    /// Reading failed; may go away.
    #[error("{file}, offset {offset}: {source}")]
    Io {
        /// File or object.
        file: String,
        /// Where, in bytes.
        offset: u64,
        /// What the operating system or the object store says.
        source: io::Error,
    },
    /// A key was read as metadata that holds pages, or the other way round.
    #[error("{key} at {lsn} is a version of a page, not metadata")]
    NotABlob {
        /// The key that was read or written.
        key: Key,
        /// The version that was met.
        lsn: Lsn,
    },
    /// A batch does not fit to what is there.
    #[error("{key} at {lsn}: {why}")]
    Order {
        /// The key that was read or written.
        key: Key,
        /// The version that does not fit.
        lsn: Lsn,
        /// What is wrong with its order.
        why: &'static str,
    },
}
