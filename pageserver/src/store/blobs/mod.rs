//! Storage of one timeline: named, immutable sequences of bytes that are durable once created.
//!
//! Owner of nothing but its connection. A pageserver has one backend for everything that the page store keeps, layers
//! and manifests: a local directory or a bucket. What is in it is durable, so no other tier is told apart.
//!
//! Contract that manifests rest on, and the conformance tests check for every backend:
//! 1. a blob appears under its name whole or not at all, and never changes;
//! 2. of several creations under one name, exactly one wins, also when they run in different processes;
//! 3. when [`Blobs::create`] has returned [`Created::New`], bytes and name survive a power loss;
//! 4. a listing contains everything that was created before it began and not deleted before it ended. What is created
//!    or deleted meanwhile may or may not be in it: a listing is no snapshot.
//!
//! All calls block: they run on blocking threads.

mod disk;
#[cfg(test)]
pub(crate) mod fake;
mod local;
#[cfg(test)]
pub(crate) mod memory;
mod s3;
#[cfg(test)]
pub(crate) mod s3_server;
mod storage;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::layer::ReadAt;

pub(crate) use disk::{Disk, RealDisk};
#[cfg(test)]
pub(crate) use disk::{NewFile, OldFile};
pub(crate) use local::LocalBlobs;
pub(crate) use storage::Storage;

/// What came of a creation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Created {
    /// The blob is there and durable, and it is ours.
    New,
    /// Something has the name already, ours or another's: the caller compares. Nothing was changed.
    AlreadyExists,
}

/// One entry of a listing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Entry {
    /// Name, with the folder.
    pub(crate) name: String,
    /// Bytes.
    pub(crate) len: u64,
}

/// Blobs of one timeline. Names are `folder/name`: letters, digits, `-`, `_` and `.`, not starting with a dot.
pub(crate) trait Blobs: Send + Sync + Debug {
    /// Creates a blob of `parts`, one behind the other; durable when it returns.
    ///
    /// # Errors
    /// After an error the blob may be there, now or later: the caller repeats the same creation, or uses another name.
    fn create(&self, name: &str, parts: &[Bytes]) -> Result<Created, BlobError>;
    /// A blob for reading at positions.
    ///
    /// # Errors
    /// [`BlobErrorKind::NotFound`] and those of the backend.
    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>, BlobError>;
    /// All of a blob.
    ///
    /// # Errors
    /// As for [`Blobs::open`].
    fn get(&self, name: &str) -> Result<Bytes, BlobError>;
    /// Every blob of a folder, by name.
    ///
    /// # Errors
    /// Those of the backend; a folder without blobs is empty.
    fn list(&self, folder: &str) -> Result<Vec<Entry>, BlobError>;
    /// Deletes a blob; none is no error. Not necessarily durable: a crash may bring the blob back.
    ///
    /// # Errors
    /// Those of the backend.
    fn delete(&self, name: &str) -> Result<(), BlobError>;
    /// Removes from a folder what interrupted creations left, of any process: only the one writer calls it.
    ///
    /// # Errors
    /// Those of the backend.
    fn clean(&self, folder: &str) -> Result<(), BlobError>;
}

/// What to do about an error.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BlobErrorKind {
    /// No such blob.
    NotFound,
    /// No space: goes away when space returns, the same call may be repeated.
    Full,
    /// May go away by itself, the same call may be repeated.
    Retryable,
    /// Nothing is written any more until the timeline is opened anew.
    Terminal,
}

/// A call that failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{operation} {name}: {detail}")]
pub(crate) struct BlobError {
    /// What to do about it.
    pub(crate) kind: BlobErrorKind,
    /// What was tried.
    pub(crate) operation: &'static str,
    /// On which blob or folder, with its place.
    pub(crate) name: String,
    /// What the backend said.
    pub(crate) detail: String,
}

impl BlobError {
    fn io(operation: &'static str, name: impl ToString, e: &io::Error) -> BlobError {
        let kind = match e.kind() {
            io::ErrorKind::NotFound => BlobErrorKind::NotFound,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => BlobErrorKind::Full,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => BlobErrorKind::Terminal,
            _ => BlobErrorKind::Retryable,
        };
        BlobError { kind, operation, name: name.to_string(), detail: e.to_string() }
    }

    /// A sync of names that failed: what the kernel shows may not be on the disk, and a second sync would not tell.
    fn unsynced(name: impl ToString, e: &io::Error) -> BlobError {
        BlobError { kind: BlobErrorKind::Terminal, ..BlobError::io("fsync of", name, e) }
    }

    /// A name that is none.
    fn bad_name(name: &str) -> BlobError {
        let detail = "is not a name that storage can have".to_owned();
        BlobError { kind: BlobErrorKind::Terminal, operation: "storage", name: format!("{name:?}"), detail }
    }
}

/// Checks one part of a name: names come from our own code, and from manifests, which others may have written.
fn is_part(part: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !part.is_empty() && part.len() <= 200 && !part.starts_with('.') && part.bytes().all(good)
}

/// Splits `folder/name`.
fn split(name: &str) -> Result<(&str, &str), BlobError> {
    match name.split_once('/') {
        Some((folder, file)) if is_part(folder) && is_part(file) => Ok((folder, file)),
        _ => Err(BlobError::bad_name(name)),
    }
}
