//! Files that may tear: what the servers do to a file system, behind two small traits.
//!
//! Owner of nothing: paths are the caller's. All calls block; callers run them off the async threads.
//!
//! | module | what |
//! |---|---|
//! | `fs` | [`FsDisk`], the operating system's files |
//! | `durable` | [`write_durably`] for small files, [`create_dir_durably`], [`read`] |
//! | `fake` | `FakeDisk`, files in memory that lose power, tear, fail and lie (feature `fake`) |
//! | `conformance` | what both of them do alike, checked (feature `fake`) |
//!
//! # Durability
//! Callers rely on this and no more: bytes are durable after a successful [`DiskFile::fdatasync`] that began after the
//! write returned; a name is durable after [`Disk::fsync_dir`] of its directory; a length and the reservation of blocks
//! after [`DiskFile::fsync`]. After a failed sync nothing written since the last good one counts.
//!
//! # Example
//! A new file that is there after a power loss, under the name that was asked for or not at all (what
//! [`write_durably`] does, call by call):
//!
//! ```
//! use std::path::Path;
//!
//! use disk::{Disk, FakeDisk, OpenMode};
//!
//! let fake = FakeDisk::new(7);
//! let disk: &dyn Disk = &fake;
//! let file = disk.open(Path::new("/data/new.tmp"), OpenMode::CreateNew)?;
//! file.write_at(0, &["hello".into()])?;
//! file.fsync()?;
//! disk.rename(Path::new("/data/new.tmp"), Path::new("/data/name"))?;
//! disk.fsync_dir(Path::new("/data"))?;
//!
//! fake.power_loss();
//! assert_eq!(fake.content(Path::new("/data/name")).as_deref(), Some(&b"hello"[..]));
//! # Ok::<(), std::io::Error>(())
//! ```

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

#[cfg(any(test, feature = "fake"))]
pub mod conformance;
mod durable;
#[cfg(any(test, feature = "fake"))]
mod fake;
mod fs;

pub use durable::{TEMPORARY, create_dir_durably, parent_of, read, write_durably};
#[cfg(any(test, feature = "fake"))]
pub use fake::{DiskImage, FakeDisk, IoFault, Lie};
pub use fs::FsDisk;

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A new file, for reading and writing; an existing one is an error.
    CreateNew,
}

/// What one name in a directory leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// Its name; an entry whose name is not UTF-8 is left out.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Length of a file in bytes; 0 for a directory.
    pub len: u64,
}

/// A file system, as far as the servers use one.
pub trait Disk: Send + Sync + Debug {
    /// Creates a directory and its parents; no error when it is there. Not durable until the parents are synced.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Opens a file, or creates it in a directory that is there.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes the names in a directory durable.
    fn fsync_dir(&self, path: &Path) -> io::Result<()>;
    /// Gives a file a second name; `AlreadyExists` when something has it.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Renames a file or directory; the target must not exist as a directory with content. Durable when both
    /// directories are synced; until then a power loss may leave either name, or, without a journal, both.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes the name of a file; who has it open reads on.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory that is empty; `DirectoryNotEmpty` when it is not.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with everything in it; no error when it is not there.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Entries of a directory, in no order. One that is removed meanwhile may be missing.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Whether the path exists.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Writes back everything of the file system that holds `path`: what a killed process left in the page cache. An
    /// error of a write-back since the last call fails it (Linux 5.8 and later).
    fn sync_all(&self, path: &Path) -> io::Result<()>;
    /// Bytes that are free on the file system that holds `path`, for whoever is not root.
    fn free(&self, path: &Path) -> io::Result<u64>;
}

#[expect(clippy::len_without_is_empty, reason = "a length on disk, not a collection")]
/// An open file. Positions are given with every call, so it may be shared.
pub trait DiskFile: Send + Sync + Debug {
    /// Writes all of `bufs`, one behind the other, at `offset`.
    fn write_at(&self, offset: u64, bufs: &[Bytes]) -> io::Result<()>;
    /// Reads at `offset`; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize>;
    /// Makes the file at least `len` bytes long, with real blocks that read as zeros where nothing was written; a full
    /// disk shows here.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Makes `[offset, offset + len)` read as zeros, keeping the blocks.
    fn zero_range(&self, offset: u64, len: u64) -> io::Result<()>;
    /// Cuts or extends (sparsely) to `len`.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Length in bytes, as the page cache has it.
    fn len(&self) -> io::Result<u64>;
    /// Makes the bytes durable, and of the metadata what is needed to read them.
    fn fdatasync(&self) -> io::Result<()>;
    /// Makes bytes and metadata durable.
    fn fsync(&self) -> io::Result<()>;
}
