//! A data directory that is being made: entries in the order of the stream, everything on disk before the control file.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use pgformat::control::CONTROL_FILE_NAME;
use pgformat::datadir::TABLESPACES_DIR;
use proto::backup::tar::{EntryKind, TarEntry};

use super::receive::DirectoryEvent;
use crate::usage::UsageError;

/// PostgreSQL starts on no directory that others can read.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// The directory. Dropped before [`NewDirectory::finish`] it removes what it has made.
pub struct NewDirectory {
    root: PathBuf,
    /// Former and new directories of tablespaces.
    mapping: Vec<(PathBuf, PathBuf)>,
    /// Where entries go now.
    at: PathBuf,
    /// The entry that is being written; none while it is a directory.
    open: Option<(File, PathBuf)>,
    /// The control file, kept until everything else is on disk.
    control: Option<Vec<u8>>,
    is_control: bool,
    bytes: u64,
    /// Oids and directories of tablespaces.
    spaces: Vec<(u32, PathBuf)>,
    /// What is removed on failure.
    made: Vec<PathBuf>,
    /// The root was there, and empty: it stays.
    root_was_there: bool,
}

impl NewDirectory {
    /// Makes `root`, or takes an empty one. `mapping` has former and new directories of tablespaces.
    ///
    /// # Errors
    /// When there is something in it.
    pub fn make(root: &Path, mapping: &[(PathBuf, PathBuf)]) -> Result<NewDirectory> {
        let root = std::path::absolute(root)?;
        let root_was_there = begin(&root)?;
        let made = if root_was_there { Vec::new() } else { vec![root.clone()] };
        Ok(NewDirectory {
            at: root.clone(),
            root,
            mapping: mapping.to_vec(),
            open: None,
            control: None,
            is_control: false,
            bytes: 0,
            spaces: Vec::new(),
            made,
            root_was_there,
        })
    }

    /// One step of the stream.
    ///
    /// # Errors
    /// When a path leads elsewhere, or the disk does not take it.
    pub fn take(&mut self, event: DirectoryEvent) -> Result<()> {
        match event {
            DirectoryEvent::Base => self.at.clone_from(&self.root),
            DirectoryEvent::Tablespace(oid, former) => self.tablespace(oid, &former)?,
            DirectoryEvent::Entry(entry) => self.entry(&entry)?,
            DirectoryEvent::Content(bytes) => {
                self.bytes += bytes.len() as u64;
                match (&mut self.open, &mut self.control) {
                    (Some((file, path)), _) => {
                        file.write_all(&bytes).with_context(|| format!("{} cannot be written", path.display()))?;
                    }
                    (None, Some(control)) if self.is_control => control.extend_from_slice(&bytes),
                    _ => bail!("the backup has content outside of a file"),
                }
            }
            DirectoryEvent::End => {
                self.open = None;
                self.is_control = false;
            }
        }
        Ok(())
    }

    /// Syncs everything, then writes the control file. Gives the bytes of all files, and the tablespaces' directories.
    ///
    /// # Errors
    /// When the backup had no control file, or the disk fails.
    pub fn finish(mut self) -> Result<(u64, Vec<PathBuf>)> {
        let control = self.control.take().context("the backup has no control file")?;
        let failed = || format!("{} cannot be synced", self.root.display());
        for (oid, path) in &self.spaces {
            let link = self.root.join(TABLESPACES_DIR).join(oid.to_string());
            symlink(path, &link).with_context(|| format!("{} cannot be made", link.display()))?;
            sync_all(path).with_context(failed)?;
        }
        sync_all(&self.root).with_context(failed)?;
        let path = self.root.join(CONTROL_FILE_NAME);
        let mut file = new_file(&path).with_context(|| format!("{} cannot be written", path.display()))?;
        file.write_all(&control).and_then(|()| file.sync_all()).with_context(failed)?;
        sync_all(&self.root).with_context(failed)?;
        self.made.clear();
        self.root_was_there = false;
        Ok((self.bytes, std::mem::take(&mut self.spaces).into_iter().map(|(_, path)| path).collect()))
    }

    fn entry(&mut self, entry: &TarEntry) -> Result<()> {
        let inner = Path::new(entry.path.trim_end_matches('/'));
        let stays = inner.components().all(|c| matches!(c, Component::Normal(_)));
        ensure!(stays && !entry.path.is_empty(), "the backup has a file {:?}: it leads elsewhere", entry.path);
        let path = self.at.join(inner);
        let failed = || format!("{} cannot be made", path.display());
        match entry.kind {
            EntryKind::Directory => DirBuilder::new().mode(DIRECTORY_MODE).create(&path).with_context(failed),
            EntryKind::Link => bail!("the backup has a link {:?}", entry.path),
            EntryKind::File if self.at == self.root && entry.path == CONTROL_FILE_NAME => {
                (self.control, self.is_control) = (Some(Vec::new()), true);
                Ok(())
            }
            EntryKind::File => {
                let file = new_file(&path).with_context(failed)?;
                self.open = Some((file, path));
                Ok(())
            }
        }
    }

    /// A tablespace never goes where the cluster that it was copied from has it.
    fn tablespace(&mut self, oid: u32, former: &str) -> Result<()> {
        let mapped = self.mapping.iter().find(|(from, _)| from == Path::new(former)).map(|(_, to)| to.clone());
        let path = match mapped {
            Some(path) => {
                let path = std::path::absolute(path)?;
                if path.starts_with(&self.root) {
                    return Err(UsageError(format!("{} lies inside of the new directory", path.display())).into());
                }
                path
            }
            None => {
                let mut parent = self.root.clone().into_os_string();
                parent.push("_tablespaces");
                let parent = PathBuf::from(parent);
                if !parent.exists() {
                    DirBuilder::new().mode(DIRECTORY_MODE).create(&parent)?;
                    self.made.push(parent.clone());
                }
                parent.join(oid.to_string())
            }
        };
        if !begin(&path)? {
            self.made.push(path.clone());
        }
        self.at.clone_from(&path);
        self.spaces.push((oid, path));
        Ok(())
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        let inside = self.root_was_there.then(|| fs::read_dir(&self.root).ok()).flatten();
        let inside = inside.into_iter().flatten().flatten().map(|e| e.path());
        for path in self.made.drain(..).chain(inside) {
            let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            if let Err(e) = removed
                && e.kind() != io::ErrorKind::NotFound
            {
                eprintln!("walfabric: {} of a backup that broke off cannot be removed: {e}", path.display());
            }
        }
    }
}

/// Makes a directory; whether it was there, and empty.
fn begin(path: &Path) -> Result<bool> {
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Ok(()) => Ok(false),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            let mut entries = fs::read_dir(path).with_context(|| format!("{} cannot be read", path.display()))?;
            if entries.next().is_some() {
                let problem = format!("{} is not empty: name a directory that is not there yet", path.display());
                return Err(UsageError(problem).into());
            }
            Ok(true)
        }
        Err(e) => Err(e).with_context(|| format!("{} cannot be made", path.display())),
    }
}

fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)
}

/// Writes back the whole file system that holds `path`: cheaper than a sync for each of many files.
fn sync_all(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(path)?)?)
}
