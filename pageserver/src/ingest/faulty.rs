//! A disk that fails on demand, for tests.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::disk::{Disk, RealDisk};

/// Which operation fails next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The next fdatasync of a WAL file fails; the bytes are in the file all the same.
    Sync,
    /// The next write writes half of its bytes and fails.
    Write,
}

/// The real disk with faults.
#[derive(Debug, Default)]
pub(crate) struct FaultyDisk {
    next: Mutex<Option<Fault>>,
    /// No new segment can be allocated.
    pub(crate) full: AtomicBool,
    /// Bytes written.
    pub(crate) written: AtomicU64,
    /// Writes and syncs asked for.
    pub(crate) calls: AtomicU64,
}

impl FaultyDisk {
    /// Arms one fault.
    pub(crate) fn arm(&self, fault: Fault) {
        *self.next.lock().expect("not poisoned") = Some(fault);
    }

    fn fires(&self, fault: Fault) -> bool {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut next = self.next.lock().expect("not poisoned");
        let fires = *next == Some(fault);
        if fires {
            *next = None;
        }
        fires
    }
}

impl Disk for FaultyDisk {
    fn open_allocated(&self, path: &Path, len: u64) -> io::Result<File> {
        if self.full.load(Ordering::Relaxed) && !path.exists() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        RealDisk.open_allocated(path, len)
    }

    fn write_at(&self, file: &File, offset: u64, bufs: &[&[u8]]) -> io::Result<()> {
        if self.fires(Fault::Write) {
            let all = bufs.concat();
            RealDisk.write_at(file, offset, &[&all[..all.len() / 2]])?;
            return Err(io::Error::other("injected write error"));
        }
        self.written.fetch_add(bufs.iter().map(|b| b.len() as u64).sum(), Ordering::Relaxed);
        RealDisk.write_at(file, offset, bufs)
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        let is_wal = file.metadata()?.len() >= 1 << 20;
        if is_wal && self.fires(Fault::Sync) {
            return Err(io::Error::other("injected fdatasync error"));
        }
        RealDisk.sync_data(file)
    }
}
