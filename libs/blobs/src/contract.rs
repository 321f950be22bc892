//! The contract of every implementation: creation, reading, listing, deletion of blobs.
//!
//! Manifests and layers depend on these four rules; the conformance suite checks them for every implementation:
//! 1. a blob appears under its name whole or not at all, and never changes;
//! 2. of several creations under one name, exactly one wins, even in different processes;
//! 3. when [`Blobs::create`] has returned [`Creation::New`], bytes and name survive a power loss;
//! 4. a listing contains everything that was created before it began and not deleted before it ended. Blobs created or
//!    deleted meanwhile may or may not be in it: a listing is no snapshot.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::BlobError;

/// What came of a creation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Creation {
    /// The blob is there and durable, and it is ours.
    New,
    /// Something has the name already, ours or another's: the caller compares. Nothing was changed.
    AlreadyExists,
}

/// One entry of a listing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BlobEntry {
    /// Name, with the folder.
    pub name: String,
    /// Length in bytes.
    pub len: u64,
}

/// One set of blobs, such as those of a timeline. Names are `folder/name`: letters, digits, `-`, `_` and `.`. Neither
/// part starts with a dot.
pub trait Blobs: Send + Sync + Debug {
    /// Creates a blob of `parts`, one behind the other; durable when it returns.
    ///
    /// # Errors
    /// After an error the blob may be there, now or later: the caller repeats the same creation, or uses another name.
    fn create(&self, name: &str, parts: &[Bytes]) -> Result<Creation, BlobError>;
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
    fn list(&self, folder: &str) -> Result<Vec<BlobEntry>, BlobError>;
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

/// An open blob: a file, an object, memory. Its bytes never change.
pub trait ReadAt: Send + Sync {
    /// Exactly `len` bytes from `offset`; blocks the calling thread.
    ///
    /// # Errors
    /// `UnexpectedEof` beyond the end.
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes>;
    /// Length in bytes.
    fn len(&self) -> u64;
    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// What messages call it: path or object name.
    fn name(&self) -> &str;
}
