//! What can go wrong on disk, sorted by what is to be done about it.

use std::io;
use std::path::{Path, PathBuf};

/// A failure of storage.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No room for a new segment. Nothing was written; the same call may be repeated when space is back.
    #[error("no space for {path}: {source}", path = .path.display())]
    NoSpace {
        /// The file that could not be allocated.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// Reading or writing failed. After a write or a sync the timeline must be opened anew: what was not synced before
    /// it does not count, and the same bytes are not synced again without being written again.
    #[error("{what} {path}: {source}", path = .path.display())]
    Io {
        /// The operation, as in "fdatasync of".
        what: &'static str,
        /// File or directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// An earlier call failed; only opening anew helps.
    #[error("storage is closed after an earlier failure")]
    Poisoned,
    /// The bytes on disk are damaged: exit code 5.
    #[error("{path} is damaged: {problem}", path = .path.display())]
    Corrupt {
        /// Which file or directory.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Written by another version of this software: exit code 5.
    #[error("{path} has format version {found}; this program knows version {known}", path = .path.display())]
    UnknownVersion {
        /// The file that cannot be read.
        path: PathBuf,
        /// The version that it says.
        found: u32,
        /// The version that is written here.
        known: u32,
    },
    /// The caller asked for what the log's rules forbid; says nothing about the disk.
    #[error("{0}")]
    Misuse(String),
}

impl StorageError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StorageError {
        let path = path.to_owned();
        move |source| StorageError::Io { what, path, source }
    }

    /// Whether the data on disk cannot be used as it is: exit code 5.
    pub fn is_corruption(&self) -> bool {
        matches!(self, StorageError::Corrupt { .. } | StorageError::UnknownVersion { .. })
    }

    /// Whether the disk is full, and nothing else is wrong.
    pub fn is_no_space(&self) -> bool {
        matches!(self, StorageError::NoSpace { .. })
    }
}

/// Whether the operating system says that there is no room.
pub(crate) fn is_full(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
