//! The few file operations that the control file needs, behind a trait so that tests can make them fail.
//!
//! All calls block: they run on blocking threads.

use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};

/// Buffers per `pwritev`: Linux takes 1024 at most.
const SLICES_MAX: usize = 1024;

/// File operations.
pub(crate) trait Disk: Send + Sync + Debug {
    /// Opens a file for reading and writing, creates it when it is missing, and gives it `len` bytes of real blocks.
    /// Returns with names, length and blocks durable.
    fn open_allocated(&self, path: &Path, len: u64) -> io::Result<File>;
    /// Writes all of `bufs`, one behind the other, at `offset`.
    fn write_at(&self, file: &File, offset: u64, bufs: &[&[u8]]) -> io::Result<()>;
    /// fdatasync.
    fn sync_data(&self, file: &File) -> io::Result<()>;
}

/// The operating system's files.
#[derive(Debug)]
pub(crate) struct RealDisk;

impl Disk for RealDisk {
    fn open_allocated(&self, path: &Path, len: u64) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        if file.metadata()?.len() != len {
            fallocate(&file, FallocateFlags::empty(), 0, len)?;
            file.sync_all()?;
        }
        // Also for a file that was there: its creator may have been killed before the name was durable.
        if let Some(dir) = path.parent() {
            node::datadir::sync_dir(dir)?;
        }
        Ok(file)
    }

    fn write_at(&self, file: &File, mut offset: u64, bufs: &[&[u8]]) -> io::Result<()> {
        for group in bufs.chunks(SLICES_MAX) {
            let mut slices: Vec<IoSlice<'_>> = group.iter().map(|b| IoSlice::new(b)).collect();
            let mut left = &mut slices[..];
            while !left.is_empty() {
                let n = match rustix::io::pwritev(file, left, offset) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(n) => n,
                    Err(rustix::io::Errno::INTR) => continue,
                    Err(e) => return Err(e.into()),
                };
                offset += n as u64;
                IoSlice::advance_slices(&mut left, n);
            }
        }
        Ok(())
    }

    fn sync_data(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }
}

/// Reads `len` bytes at `offset`, fewer at the end of the file.
pub(crate) fn read_up_to(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; len];
    let mut have = 0;
    while have < len {
        match file.read_at(&mut buf[have..], offset + have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    buf.truncate(have);
    Ok(buf)
}
