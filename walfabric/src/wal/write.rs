//! A file that is there as a whole or not at all: written beside its place, synced, renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use disk::{Disk, FsDisk, parent_of};

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

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
        check_place(path)?;
        let name = path.file_name().with_context(|| format!("{} names no file", path.display()))?;
        let mut beside = name.to_owned();
        // A name that nobody else has and that cannot be foreseen: two may write to one path.
        beside.push(format!(".walfabric-tmp-{}-{:08x}", std::process::id(), fastrand::u32(..)));
        let beside = path.with_file_name(beside);
        // A new file: never one that is there, and never through a link.
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&beside);
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
        let dir = parent_of(&self.path);
        FsDisk.fsync_dir(dir).with_context(|| format!("{} cannot be synced", dir.display()))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if !self.done {
            // What cannot be removed is in nobody's way.
            let _ = fs::remove_file(&self.beside);
        }
    }
}

/// Refuses a path at which something other than a regular file is: a rename would put a file in the place of a device,
/// a pipe or a link.
pub(super) fn check_place(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_file() => Ok(()),
        Ok(_) => bail!("{} is no regular file, and is not replaced; name a file", path.display()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e).with_context(|| format!("{} cannot be looked at", path.display())),
    }
}

pub(super) fn write_small(path: &Path, content: &[u8]) -> Result<()> {
    let mut target = Target::create(path)?;
    target.write(content)?;
    target.finish(content.len() as u64)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt, symlink};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn only_regular_files_are_replaced() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (socket, link, file) = (dir.path().join("socket"), dir.path().join("link"), dir.path().join("file"));
        let _listener = UnixListener::bind(&socket)?;
        fs::write(&file, "old")?;
        symlink(&file, &link)?;
        for path in [&socket, &link, &dir.path().to_owned()] {
            let refused = write_small(path, b"new").expect_err("no regular file").to_string();
            assert!(refused.contains("no regular file"), "{refused}");
        }
        assert!(fs::symlink_metadata(&socket)?.file_type().is_socket() && fs::symlink_metadata(&link)?.is_symlink());
        assert_eq!(fs::read(&file)?, b"old");
        write_small(&file, b"new")?;
        assert_eq!(fs::read(&file)?, b"new");
        Ok(())
    }

    #[test]
    fn two_write_to_one_path_and_a_planted_link_is_not_followed() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let (path, other) = (dir.path().join("file"), dir.path().join("other"));
        fs::write(&other, "other")?;
        symlink(&other, dir.path().join("file.walfabric-tmp"))?;
        let (mut one, mut two) = (Target::create(&path)?, Target::create(&path)?);
        one.write(b"one")?;
        two.write(b"two")?;
        one.finish(3)?;
        assert_eq!(fs::read(&path)?, b"one");
        two.finish(3)?;
        assert_eq!(fs::read(&path)?, b"two");
        assert_eq!(fs::read(&other)?, b"other");
        drop(Target::create(&path)?);
        assert_eq!(fs::read_dir(dir.path())?.count(), 3, "nothing half-made stays");
        Ok(())
    }
}
