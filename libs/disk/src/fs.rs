//! The operating system's files, through std and rustix. Owner of nothing but open descriptors.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::{DirEntry, Disk, DiskFile, OpenMode};

/// Slices per gather write: the kernel's limit (`IOV_MAX`).
const SLICES_MAX: usize = 1024;

/// Zeros for file systems that cannot zero a range by themselves.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Modes of what is created: for this user only, whatever the umask.
const PRIVATE_DIR: u32 = 0o700;
const PRIVATE_FILE: u32 = 0o600;

/// The real disk: the operating system with all its caches. What it creates is for its user only (0700, 0600).
#[derive(Clone, Copy, Debug, Default)]
pub struct FsDisk;

#[derive(Debug)]
struct FsFile(File);

impl Disk for FsDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(PRIVATE_DIR).create(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::Write => drop(options.write(true)),
            OpenMode::CreateNew => drop(options.write(true).create_new(true).mode(PRIVATE_FILE)),
        }
        Ok(Arc::new(FsFile(options.open(path)?)))
    }

    fn fsync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            // Removed since the directory was read: not there.
            let found = match entry.metadata() {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                other => other?,
            };
            let is_dir = found.is_dir();
            entries.push(DirEntry { name, is_dir, len: if is_dir { 0 } else { found.len() } });
        }
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        path.try_exists()
    }

    fn sync_all(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::syncfs(File::open(path)?)?)
    }

    fn free(&self, path: &Path) -> io::Result<u64> {
        let now = rustix::fs::statvfs(path)?;
        Ok(now.f_bavail.saturating_mul(now.f_frsize))
    }
}

impl DiskFile for FsFile {
    fn write_at(&self, offset: u64, bufs: &[Bytes]) -> io::Result<()> {
        let mut at = offset;
        for group in bufs.chunks(SLICES_MAX) {
            let slices: Vec<IoSlice<'_>> = group.iter().map(|b| IoSlice::new(b)).collect();
            let total: u64 = group.iter().map(|b| b.len() as u64).sum();
            let written = gather(&self.0, &slices, at)?;
            // Rare (a signal, a full disk): the rest goes out slice by slice.
            if written < total {
                self.write_rest(group, written, at)?;
            }
            at += total;
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, len) {
            Err(Errno::OPNOTSUPP) => {
                let held = self.len()?;
                write_zeros(&self.0, held, len.saturating_sub(held))
            }
            other => Ok(other?),
        }
    }

    fn zero_range(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.0, FallocateFlags::ZERO_RANGE, offset, len) {
            Err(Errno::OPNOTSUPP) => write_zeros(&self.0, offset, len),
            other => Ok(other?),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn fdatasync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn fsync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

impl FsFile {
    fn write_rest(&self, group: &[Bytes], written: u64, at: u64) -> io::Result<()> {
        let mut pos = 0;
        for b in group {
            let end = pos + b.len() as u64;
            if end > written {
                let skip = usize::try_from(written.saturating_sub(pos)).unwrap_or(b.len());
                self.0.write_all_at(&b[skip..], at + pos + skip as u64)?;
            }
            pos = end;
        }
        Ok(())
    }
}

fn gather(file: &File, slices: &[IoSlice<'_>], at: u64) -> io::Result<u64> {
    loop {
        match rustix::io::pwritev(file, slices, at) {
            Err(Errno::INTR) => {}
            other => return Ok(other? as u64),
        }
    }
}

fn write_zeros(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let end = offset + len;
    let mut at = offset;
    while at < end {
        let n = (end - at).min(ZEROS.len() as u64) as usize;
        file.write_all_at(&ZEROS[..n], at)?;
        at += n as u64;
    }
    Ok(())
}
