//! The few file operations that local storage needs, behind a trait so that tests can cut, lose and refuse them.
//!
//! Each call that changes something is one point at which a crash can come.

use std::fmt::Debug;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

/// A new file that is being written.
pub trait NewFile: Send + Debug {
    /// Appends all of `bytes`.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes bytes and length durable (fsync).
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that is being read.
#[expect(clippy::len_without_is_empty, reason = "the length costs a call that may fail")]
pub trait OldFile: Send + Sync + Debug {
    /// Reads exactly `buf.len()` bytes.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
}

/// A file system.
pub trait BlobDisk: Send + Sync + Debug {
    /// Creates a directory whose parent exists; no error when it is there. Not durable until the parent is synced.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Creates a file; an existing one is an error.
    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>>;
    /// Opens a file for reading; it stays readable when its name is removed.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn OldFile>>;
    /// Gives a file a second name; `AlreadyExists` when something has it.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a name.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Names and lengths of the files in a directory, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>>;
}

/// The operating system's files.
#[derive(Debug)]
pub struct RealDisk;

impl NewFile for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl OldFile for File {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.metadata().map(|m| m.len())
    }
}

impl BlobDisk for RealDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        Ok(Box::new(OpenOptions::new().write(true).create_new(true).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn OldFile>> {
        Ok(Arc::new(File::open(path)?))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            // Removed since the directory was read: not there.
            let meta = match entry.metadata() {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            if let (true, Some(name)) = (meta.is_file(), entry.file_name().to_str()) {
                found.push((name.to_owned(), meta.len()));
            }
        }
        Ok(found)
    }
}
