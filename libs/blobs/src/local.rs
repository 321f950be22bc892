//! Blobs in a local directory.
//!
//! A creation writes a temporary file beside the final name, syncs it, links it to the final name (which fails when the
//! name is taken, so creation is atomic and never replaces), syncs the directory and removes the temporary name. A
//! hard link and not a rename: a rename that refuses to replace is not available on every file system, and this one
//! leaves nothing to be read half.
//!
//! A failed sync of a file costs that file only: it never gets its name, and a repetition writes another one. A
//! failed sync of a directory is terminal: what the kernel shows then may never be on the disk.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use disk::{Disk, DiskFile, OpenMode};

use crate::contract::{BlobEntry, Blobs, Creation, ReadAt};
use crate::error::BlobError;
use crate::names::{is_part, split};

/// Bytes per write: large enough that calls do not show, small enough that a full disk shows early.
const WRITE_BYTES: usize = 1 << 20;
/// How the name of an unfinished file begins; listings leave them out.
const TEMPORARY: &str = ".tmp-";

/// One set of blobs below a directory.
#[derive(Debug)]
pub struct LocalBlobs {
    root: PathBuf,
    disk: Arc<dyn Disk>,
}

impl LocalBlobs {
    /// Blobs in `folders` of `root`, which is made durably below `base`, an existing directory, when it is missing.
    ///
    /// # Errors
    /// When the directories cannot be made.
    pub fn new(disk: Arc<dyn Disk>, base: &Path, below: &[&str], folders: &[&str]) -> Result<LocalBlobs, BlobError> {
        let missing = |e| BlobError::io("look for", base.display(), &e);
        // A base that is gone, such as a volume that is not mounted, is not made up.
        if !disk.exists(base).map_err(missing)? {
            return Err(missing(io::ErrorKind::NotFound.into()));
        }
        let mut root = base.to_owned();
        let make = |parent: &Path, name: &str| {
            let path = parent.join(name);
            disk.create_dir_all(&path).map_err(|e| BlobError::io("create directory", path.display(), &e))?;
            // Also for one that was there: its creator may have died before it was durable.
            disk.fsync_dir(parent).map_err(|e| BlobError::unsynced(parent.display(), &e))?;
            Ok(path)
        };
        for name in below {
            root = make(&root, name)?;
        }
        for name in folders {
            make(&root, name)?;
        }
        Ok(LocalBlobs { root, disk })
    }

    fn path(&self, name: &str) -> Result<(PathBuf, PathBuf), BlobError> {
        let (folder, file) = split(name)?;
        let dir = self.root.join(folder);
        Ok((dir.join(file), dir))
    }

    fn folder(&self, folder: &str) -> Result<PathBuf, BlobError> {
        if is_part(folder) { Ok(self.root.join(folder)) } else { Err(BlobError::bad_name(folder)) }
    }

    fn write(&self, path: &Path, parts: &[Bytes]) -> Result<(), BlobError> {
        let error = |e| BlobError::io("write", path.display(), &e);
        let file = self.disk.open(path, OpenMode::CreateNew).map_err(error)?;
        let (mut end, mut group, mut bytes) = (0, Vec::new(), 0);
        for part in parts {
            // Small parts are written together, large ones in pieces.
            for piece in pieces(part) {
                if bytes + piece.len() > WRITE_BYTES {
                    file.write_at(end, &group).map_err(error)?;
                    (end, bytes) = (end + bytes as u64, 0);
                    group.clear();
                }
                bytes += piece.len();
                group.push(piece);
            }
        }
        file.write_at(end, &group).map_err(error)?;
        file.fsync().map_err(|e| BlobError::io("fsync of", path.display(), &e))
    }
}

fn pieces(part: &Bytes) -> impl Iterator<Item = Bytes> {
    (0..part.len()).step_by(WRITE_BYTES).map(|from| part.slice(from..part.len().min(from + WRITE_BYTES)))
}

impl Blobs for LocalBlobs {
    fn create(&self, name: &str, parts: &[Bytes]) -> Result<Creation, BlobError> {
        let (path, dir) = self.path(name)?;
        let file = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let temporary = dir.join(format!("{TEMPORARY}{file}-{:016x}", fastrand::u64(..)));
        let linked = self.write(&temporary, parts).and_then(|()| match self.disk.link(&temporary, &path) {
            Ok(()) => Ok(Creation::New),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(Creation::AlreadyExists),
            Err(e) => Err(BlobError::io("create", path.display(), &e)),
        });
        if !matches!(linked, Err(_) | Ok(Creation::AlreadyExists)) {
            self.disk.fsync_dir(&dir).map_err(|e| BlobError::unsynced(dir.display(), &e))?;
        }
        if let Err(e) = self.disk.remove(&temporary)
            && e.kind() != io::ErrorKind::NotFound
        {
            // The blob is what counts; the next opening removes the rest.
            tracing::warn!(file = %temporary.display(), "a temporary file stays: {e}");
        }
        linked
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>, BlobError> {
        let path = self.path(name)?.0;
        let error = |e| BlobError::io("open", path.display(), &e);
        let file = self.disk.open(&path, OpenMode::Read).map_err(error)?;
        let len = file.len().map_err(error)?;
        Ok(Arc::new(LocalBlob { name: path.display().to_string(), len, file }))
    }

    fn get(&self, name: &str) -> Result<Bytes, BlobError> {
        let file = self.open(name)?;
        let len = usize::try_from(file.len()).map_err(|_| BlobError::bad_name(name))?;
        file.read_at(0, len).map_err(|e| BlobError::io("read", file.name(), &e))
    }

    fn list(&self, folder: &str) -> Result<Vec<BlobEntry>, BlobError> {
        let dir = self.folder(folder)?;
        let found = self.disk.list(&dir).map_err(|e| BlobError::io("list", dir.display(), &e))?;
        let ours = found.into_iter().filter(|entry| !entry.is_dir && is_part(&entry.name));
        let mut entries: Vec<BlobEntry> =
            ours.map(|entry| BlobEntry { name: format!("{folder}/{}", entry.name), len: entry.len }).collect();
        entries.sort();
        Ok(entries)
    }

    fn delete(&self, name: &str) -> Result<(), BlobError> {
        let path = self.path(name)?.0;
        match self.disk.remove(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(BlobError::io("delete", path.display(), &e)),
            _ => Ok(()),
        }
    }

    fn clean(&self, folder: &str) -> Result<(), BlobError> {
        let dir = self.folder(folder)?;
        for entry in self.disk.list(&dir).map_err(|e| BlobError::io("list", dir.display(), &e))? {
            if !entry.is_dir && entry.name.starts_with(TEMPORARY) {
                let path = dir.join(entry.name);
                self.disk.remove(&path).map_err(|e| BlobError::io("delete", path.display(), &e))?;
            }
        }
        Ok(())
    }
}

/// An open file, and its length when it was opened.
#[derive(Debug)]
struct LocalBlob {
    name: String,
    len: u64,
    file: Arc<dyn DiskFile>,
}

impl ReadAt for LocalBlob {
    fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let mut buf = vec![0; len];
        let found = self.file.read_at(offset, &mut buf)?;
        if found < len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(buf.into()) }
    }

    fn len(&self) -> u64 {
        self.len
    }

    fn name(&self) -> &str {
        &self.name
    }
}
