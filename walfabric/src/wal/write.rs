//! A file that is there as a whole or not at all: written beside its place, synced, renamed.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// A file in the making; removed when it is dropped unfinished.
pub(super) struct Target {
    path: PathBuf,
    beside: PathBuf,
    file: File,
    bytes: u64,
    done: bool,
}

impl Target {
    pub(super) fn create(path: &Path) -> Result<Target> {
        let name = path.file_name().with_context(|| format!("{} names no file", path.display()))?;
        let mut beside = name.to_owned();
        beside.push(".walfabric-tmp");
        let beside = path.with_file_name(beside);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&beside);
        let file = file.with_context(|| format!("{} cannot be made", beside.display()))?;
        Ok(Target { path: path.to_owned(), beside, file, bytes: 0, done: false })
    }

    /// `len` bytes that were written at `offset`.
    pub(super) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        let read = self.file.read_exact_at(&mut bytes, offset);
        read.with_context(|| format!("{} cannot be read back", self.beside.display()))?;
        Ok(bytes)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).with_context(|| format!("{} cannot be written", self.beside.display()))?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Fills it with zeros up to `bytes` and puts it in its place.
    pub(super) fn finish(mut self, bytes: u64) -> Result<()> {
        // Written, not left out: PostgreSQL may go on in this file, and its space must be there then.
        while self.bytes < bytes {
            let zeros = usize::try_from(bytes - self.bytes).unwrap_or(usize::MAX).min(ZEROS.len());
            self.write(&ZEROS[..zeros])?;
        }
        let broken = || format!("{} cannot be put in its place", self.beside.display());
        self.file.sync_all().with_context(broken)?;
        fs::rename(&self.beside, &self.path).with_context(broken)?;
        self.done = true;
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        proto::runtime::datadir::sync_dir(dir).with_context(|| format!("{} cannot be synced", dir.display()))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.done {
            // What cannot be removed is overwritten by the next attempt.
            let _ = fs::remove_file(&self.beside);
        }
    }
}

pub(super) fn write_small(path: &Path, content: &[u8]) -> Result<()> {
    let mut target = Target::create(path)?;
    target.write(content)?;
    target.finish(content.len() as u64)
}
