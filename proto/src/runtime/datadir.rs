//! A node's data directory: one process at a time, one node for ever.
//!
//! The lock file is taken before anything else is read or written; the id file says whose directory it is, so that a
//! wrong
//! `--id` or a directory of another kind of node is refused instead of mixed up. The lock goes with the process,
//! however it ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::id::NodeId;

const LOCK_FILE: &str = "lock";
const ID_FILE: &str = "node.json";
const ID_SCHEMA: u32 = 1;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process works on it.
    #[error("data directory {dir} is in use by process {pid}; stop it first", dir = .dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// What the lock file says, "unknown" when it says nothing.
        pid: String,
    },
    /// It belongs to another node.
    #[error("data directory {} belongs to {found}, not to {wanted}; check --id and --data-dir", .dir.display())]
    OtherNode {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        found: String,
        /// Who asked.
        wanted: String,
    },
    /// Its id file is no id file of a known version.
    #[error("{file}: {problem}", file = .file.display())]
    BadIdFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The operating system refused.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct IdFile {
    schema: u32,
    kind: String,
    id: NodeId,
}

/// A locked data directory. The lock is held as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the directory when it is not there, locks it, and checks or writes whose it is. `kind` is "safekeeper"
    /// or "pageserver".
    ///
    /// # Errors
    /// See [`DataDirError`].
    pub fn open(path: &Path, kind: &str, id: NodeId) -> Result<DataDir, DataDirError> {
        create_dir_durably(path).map_err(|source| DataDirError::Io { path: path.to_owned(), source })?;
        let lock = take_lock(path)?;
        check_owner(path, kind, id)?;
        Ok(DataDir { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn take_lock(dir: &Path) -> Result<File, DataDirError> {
    let path = dir.join(LOCK_FILE);
    let io_error = |source| DataDirError::Io { path: path.clone(), source };
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(io_error)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            // Only for the message: a lock file that cannot be read changes nothing.
            let _ = file.read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
            return Err(DataDirError::InUse { dir: dir.to_owned(), pid });
        }
        Err(errno) => return Err(io_error(errno.into())),
    }
    match file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())) {
        // The number is for a message only: a node shall start on a full disk, to serve what it has.
        Err(e) if !matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => Err(io_error(e)),
        _ => Ok(file),
    }
}

fn check_owner(dir: &Path, kind: &str, id: NodeId) -> Result<(), DataDirError> {
    let file = dir.join(ID_FILE);
    let wanted = format!("{kind} {id}");
    let text = match fs::read(&file) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let record = IdFile { schema: ID_SCHEMA, kind: kind.to_owned(), id };
            let text = serde_json::to_vec(&record)
                .map_err(|e| DataDirError::Io { path: file.clone(), source: io::Error::other(e) })?;
            return write_durably(&file, &text).map_err(|source| DataDirError::Io { path: file, source });
        }
        Err(source) => return Err(DataDirError::Io { path: file, source }),
    };
    let found: IdFile = serde_json::from_slice(&text)
        .map_err(|e| DataDirError::BadIdFile { file: file.clone(), problem: e.to_string() })?;
    if found.schema != ID_SCHEMA {
        let problem = format!("schema {} is not known to this version (it knows {ID_SCHEMA})", found.schema);
        return Err(DataDirError::BadIdFile { file, problem });
    }
    if found.kind != kind || found.id != id {
        let found = format!("{} {}", found.kind, found.id);
        return Err(DataDirError::OtherNode { dir: dir.to_owned(), found, wanted });
    }
    Ok(())
}

/// Creates `path` and its parents where they are missing, each made durable in its parent.
///
/// # Errors
/// What the operating system says.
pub fn create_dir_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = parent_of(path);
    create_dir_durably(parent)?;
    match fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    sync_dir(parent)
}

/// Replaces `path` by a file that holds `bytes`: written beside it, synced, renamed, directory synced.
///
/// # Errors
/// What the operating system says; the old file is then still there.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().map(std::ffi::OsStr::to_owned).unwrap_or_default();
    name.push(".tmp");
    let tmp = path.with_file_name(name);
    let mut file = File::create(&tmp)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&tmp, path)?;
    sync_dir(parent_of(path))
}

/// Makes the names in `dir` durable.
///
/// # Errors
/// What the operating system says.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        Some(_) => Path::new("."),
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_one_node_one_kind() {
        let tmp = tempfile::tempdir().expect("temp dir");
        let dir = tmp.path().join("a/b");
        let first = DataDir::open(&dir, "pageserver", NodeId(1)).expect("fresh directory");
        assert!(matches!(DataDir::open(&dir, "pageserver", NodeId(1)), Err(DataDirError::InUse { .. })));
        drop(first);
        assert!(matches!(DataDir::open(&dir, "pageserver", NodeId(2)), Err(DataDirError::OtherNode { .. })));
        assert!(matches!(DataDir::open(&dir, "safekeeper", NodeId(1)), Err(DataDirError::OtherNode { .. })));
        DataDir::open(&dir, "pageserver", NodeId(1)).expect("the same node again");
        fs::write(dir.join(ID_FILE), br#"{"schema":9,"kind":"pageserver","id":1}"#).expect("write");
        let refused = DataDir::open(&dir, "pageserver", NodeId(1)).expect_err("unknown schema");
        assert!(refused.to_string().contains("schema 9"), "{refused}");
    }
}
