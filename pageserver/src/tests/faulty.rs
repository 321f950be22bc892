//! A file system for pages that fails when it is told to.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use blobs::{BlobDisk, NewFile, OldFile, RealDisk};

/// The operating system's files, with faults.
#[derive(Debug, Default)]
pub(super) struct FaultyDisk {
    /// Nothing can be written.
    pub(super) full: Arc<AtomicBool>,
    /// Nothing can be read.
    pub(super) unreadable: Arc<AtomicBool>,
    /// The next sync of a directory fails.
    pub(super) next_sync_fails: AtomicBool,
}

#[derive(Debug)]
struct FaultyFile {
    file: Box<dyn NewFile>,
    full: Arc<AtomicBool>,
}

impl NewFile for FaultyFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()
    }
}

#[derive(Debug)]
struct FaultyOldFile {
    file: Arc<dyn OldFile>,
    unreadable: Arc<AtomicBool>,
}

impl OldFile for FaultyOldFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        if self.unreadable.load(Ordering::Relaxed) {
            return Err(io::Error::other("injected"));
        }
        self.file.read_exact_at(buf, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

impl BlobDisk for FaultyDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        Ok(Box::new(FaultyFile { file: RealDisk.create(path)?, full: self.full.clone() }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn OldFile>> {
        Ok(Arc::new(FaultyOldFile { file: RealDisk.open(path)?, unreadable: self.unreadable.clone() }))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if self.next_sync_fails.swap(false, Ordering::Relaxed) {
            return Err(io::Error::other("injected"));
        }
        RealDisk.sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>> {
        RealDisk.list(path)
    }
}
