//! Errors of calls, classified by what the caller can do.

use std::io;

/// What a caller can do about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlobErrorKind {
    /// No blob has this name.
    NotFound,
    /// No space: goes away when space returns, the same call may be repeated.
    Full,
    /// May go away by itself, the same call may be repeated.
    Retryable,
    /// Nothing is written any more until the blobs are opened anew.
    Terminal,
}

/// A call that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation} {name}: {detail}")]
pub struct BlobError {
    /// What to do about it.
    pub kind: BlobErrorKind,
    /// What was tried, as a verb.
    pub operation: &'static str,
    /// On which blob or folder, with its place.
    pub name: String,
    /// What the file system or the service said.
    pub detail: String,
}

impl BlobError {
    pub(crate) fn io(operation: &'static str, name: impl ToString, e: &io::Error) -> BlobError {
        let kind = match e.kind() {
            io::ErrorKind::NotFound => BlobErrorKind::NotFound,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BlobErrorKind::Full,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => BlobErrorKind::Terminal,
            _ => BlobErrorKind::Retryable,
        };
        BlobError { kind, operation, name: name.to_string(), detail: e.to_string() }
    }

    /// A sync of names that failed: what the kernel shows may not be on the disk, and a second sync would not tell.
    pub(crate) fn unsynced(name: impl ToString, e: &io::Error) -> BlobError {
        BlobError { kind: BlobErrorKind::Terminal, ..BlobError::io("fsync of", name, e) }
    }

    /// A name that no blob can have.
    pub(crate) fn bad_name(name: &str) -> BlobError {
        let detail = "is not a name that storage can have".to_owned();
        BlobError { kind: BlobErrorKind::Terminal, operation: "storage", name: format!("{name:?}"), detail }
    }
}
