//! Small files and directories that a power loss leaves whole: as they were before, or as they were to be.
//!
//! For records that are written seldom and replaced as a whole. What grows or is written often does its own syncs.

use std::io;
use std::path::Path;

use bytes::Bytes;

use crate::{Disk, OpenMode};

/// Ending of the name under which [`write_durably`] writes; one of a process that was killed is removed by the next.
pub const TEMPORARY: &str = ".tmp";

/// Every byte of a file.
///
/// # Errors
/// What the disk says; `UnexpectedEof` when the file becomes shorter meanwhile.
pub fn read(disk: &dyn Disk, path: &Path) -> io::Result<Vec<u8>> {
    let file = disk.open(path, OpenMode::Read)?;
    let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
    let found = file.read_at(0, &mut bytes)?;
    if found < bytes.len() { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
}

/// Replaces `path` by a file that holds `bytes`: written beside it, synced, renamed, directory synced.
///
/// # Errors
/// What the disk says. The old file is then still there, unless it is the directory's sync that failed.
pub fn write_durably(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().map(std::ffi::OsStr::to_owned).unwrap_or_default();
    name.push(TEMPORARY);
    let temporary = path.with_file_name(name);
    match disk.remove(&temporary) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = disk.open(&temporary, OpenMode::CreateNew)?;
    file.write_at(0, &[Bytes::copy_from_slice(bytes)])?;
    file.fsync()?;
    disk.rename(&temporary, path)?;
    disk.fsync_dir(parent_of(path))
}

/// Creates `path` and its parents where they are missing, each made durable in its parent.
///
/// # Errors
/// What the disk says.
pub fn create_dir_durably(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    if disk.exists(path)? {
        return Ok(());
    }
    let parent = parent_of(path);
    create_dir_durably(disk, parent)?;
    disk.create_dir_all(path)?;
    disk.fsync_dir(parent)
}

/// The directory whose sync makes the name of `path` durable.
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) => Path::new("."),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;
    use crate::{FakeDisk, Lie};

    const OLD: &[u8] = &[1; 9000];
    const NEW: &[u8] = &[2; 5000];

    /// Crashes and losses of power, at every call of `work` and in several ways, of which `is_good` does not like what
    /// they leave; it hears whether `work` came to its end.
    fn bad_ends(
        lies: &[Lie],
        before: impl Fn(&FakeDisk),
        work: impl Fn(&FakeDisk) -> io::Result<()>,
        is_good: impl Fn(&FakeDisk, bool) -> bool,
    ) -> usize {
        let mut bad = 0;
        for point in 0.. {
            let disk = FakeDisk::new(point);
            before(&disk);
            disk.set_lies(lies);
            disk.die_in(point + 1);
            let done = work(&disk).is_ok();
            let mut rng = Rng::with_seed(point);
            bad += usize::from(!is_good(&disk.after_kill(), done));
            bad += (0..40).filter(|_| !is_good(&disk.after_power_loss(&mut rng), done)).count();
            if done {
                break;
            }
        }
        bad
    }

    #[test]
    fn a_file_is_the_old_one_or_the_new_one_and_the_new_one_once_it_was_said() {
        let path = Path::new("/data/file");
        let before = |disk: &FakeDisk| write_durably(disk, path, OLD).expect("written");
        let is_good = |disk: &FakeDisk, done: bool| {
            let found = disk.content(path).unwrap_or_default();
            let whole = found == NEW || !done && found == OLD;
            // What is left over is in nobody's way.
            whole && write_durably(disk, path, b"next").is_ok() && read(disk, path).is_ok_and(|found| found == b"next")
        };
        let bad = |lies: &[Lie]| bad_ends(lies, before, |disk| write_durably(disk, path, NEW), is_good);
        assert_eq!(bad(&[]), 0);
        assert!(bad(&[Lie::NoFsync]) > 0 && bad(&[Lie::NoDirSync]) > 0);
    }

    #[test]
    fn a_directory_that_was_created_is_there() {
        let path = Path::new("/data/a/b/c");
        let is_good = |disk: &FakeDisk, done: bool| !done || disk.exists(path).is_ok_and(|there| there);
        let bad = |lies: &[Lie]| bad_ends(lies, |_| {}, |disk| create_dir_durably(disk, path), is_good);
        assert_eq!(bad(&[]), 0);
        assert!(bad(&[Lie::NoDirSync]) > 0);
        assert_eq!(parent_of(Path::new("name")), Path::new("."));
    }
}
