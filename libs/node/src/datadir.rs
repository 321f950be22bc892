//! A node's data directory: one process at a time, one node for ever.
//!
//! The process takes the lock file before it reads or writes anything else. The id file names the directory's owner, so
//! a wrong `--id` or a directory of another kind of node is refused. The lock ends with the process, however that ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use disk::{FsDisk, create_dir_durably, write_durably};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::users;
use proto::id::NodeId;

const LOCK_FILE: &str = "lock";
const ID_FILE: &str = "node.json";
const ID_SCHEMA: u32 = 1;
/// What a first start leaves behind that was cut short, and the root of a file system.
const NO_HINDRANCE: [&str; 3] = [LOCK_FILE, "node.json.tmp", "lost+found"];
/// Mode of a data directory.
const PRIVATE: u32 = 0o700;

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process works on it.
    #[error("data directory {dir} is in use by process {pid}; stop it first", dir = .dir.display())]
    InUse {
        /// The directory, as it was given.
        dir: PathBuf,
        /// What the lock file says, "unknown" when it says nothing.
        pid: String,
    },
    /// It belongs to another user.
    #[error("data directory {dir} belongs to {owner}, and this process is {me}; start it as the \
             owner", dir = .dir.display())]
    OtherUser {
        /// The directory, as it was given.
        dir: PathBuf,
        /// The owner, by name where there is one.
        owner: String,
        /// Who runs this process.
        me: String,
    },
    /// It holds files that are not of a node.
    #[error("data directory {dir} is not empty ({name} is in it) and is no {kind}'s (node.json is missing); give an \
             empty or a new directory", dir = .dir.display())]
    NotEmpty {
        /// The directory, as it was given.
        dir: PathBuf,
        /// Something in it.
        name: String,
        /// What sort of node asked.
        kind: String,
    },
    /// It belongs to another node.
    #[error("data directory {} belongs to {found}, not to {wanted}; check --id and --data-dir", .dir.display())]
    OtherNode {
        /// The directory, as it was given.
        dir: PathBuf,
        /// Kind and id of the node whose it is.
        found: String,
        /// Kind and id of the node that asked.
        wanted: String,
    },
    /// Its id file is no id file of a known version.
    #[error("{file}: {problem}", file = .file.display())]
    BadIdFile {
        /// The path of the file.
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

impl DataDirError {
    /// Whether another directory, node or user was meant: exit code 2.
    pub fn is_usage(&self) -> bool {
        use DataDirError::{NotEmpty, OtherNode, OtherUser};
        matches!(self, OtherNode { .. } | OtherUser { .. } | NotEmpty { .. })
    }
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
    /// Creates the directory when it is not there, locks it, and checks or writes whose it is. `kind` is "safekeeper",
    /// "pageserver" or "broker". Nothing is written into a directory that is refused, but for the lock of another
    /// node's. One that others can enter is closed (0700).
    ///
    /// # Errors
    /// See [`DataDirError`].
    pub fn open(path: &Path, kind: &str, id: NodeId) -> Result<DataDir, DataDirError> {
        create_dir_durably(&FsDisk, path).map_err(|source| DataDirError::Io { path: path.to_owned(), source })?;
        check_user(path)?;
        if !path.join(ID_FILE).exists() {
            refuse_foreign(path, kind)?;
        }
        let lock = take_lock(path)?;
        check_owner(path, kind, id)?;
        make_private(path)?;
        Ok(DataDir { path: path.to_owned(), _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Refuses a directory of another user: what we wrote into it, its owner could not use.
fn check_user(dir: &Path) -> Result<(), DataDirError> {
    let meta = fs::metadata(dir).map_err(|source| DataDirError::Io { path: dir.to_owned(), source })?;
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != me {
        let (owner, me) = (users::name_of(meta.uid()), users::name_of(me));
        return Err(DataDirError::OtherUser { dir: dir.to_owned(), owner, me });
    }
    Ok(())
}

/// Refuses a directory that holds something before the first start, as initdb does.
fn refuse_foreign(dir: &Path, kind: &str) -> Result<(), DataDirError> {
    let io_error = |source| DataDirError::Io { path: dir.to_owned(), source };
    for entry in fs::read_dir(dir).map_err(io_error)? {
        let name = entry.map_err(io_error)?.file_name();
        if !NO_HINDRANCE.iter().any(|known| name == *known) {
            let name = name.display().to_string();
            return Err(DataDirError::NotEmpty { dir: dir.to_owned(), name, kind: kind.to_owned() });
        }
    }
    Ok(())
}

/// Closes a directory that an older version, or an operator, left open to others.
fn make_private(dir: &Path) -> Result<(), DataDirError> {
    let io_error = |source| DataDirError::Io { path: dir.to_owned(), source };
    let mode = fs::metadata(dir).map_err(io_error)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(PRIVATE)).map_err(io_error)?;
        tracing::warn!("{} was open to other users (mode {mode:04o}): it is {PRIVATE:04o} now", dir.display());
    }
    Ok(())
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
            // Only for the message: an unreadable lock file changes nothing.
            let _ = file.read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
            return Err(DataDirError::InUse { dir: dir.to_owned(), pid });
        }
        Err(errno) => return Err(io_error(errno.into())),
    }
    match file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())) {
        // The number is only for a message: a node must start on a full disk, too, to serve its data.
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
            return write_durably(&FsDisk, &file, &text).map_err(|source| DataDirError::Io { path: file, source });
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

    #[test]
    fn foreign_directories_are_refused_untouched_and_open_ones_are_closed() {
        let tmp = tempfile::tempdir().expect("temp dir");
        let dir = tmp.path().join("d");
        let set = |mode: u32| fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).expect("ours");
        let mode = || fs::metadata(&dir).expect("there").permissions().mode() & 0o777;
        fs::create_dir(&dir).expect("made");
        set(0o755);
        fs::write(dir.join("PG_VERSION"), b"15").expect("written");
        let refused = DataDir::open(&dir, "pageserver", NodeId(1)).expect_err("PostgreSQL's");
        assert!(refused.to_string().contains("PG_VERSION") && refused.is_usage(), "{refused}");
        assert_eq!((fs::read_dir(&dir).expect("listed").count(), mode()), (1, 0o755), "nothing was written or changed");

        fs::remove_file(dir.join("PG_VERSION")).expect("removed");
        fs::create_dir(dir.join("lost+found")).expect("made");
        drop(DataDir::open(&dir, "pageserver", NodeId(1)).expect("empty but for what a file system has"));
        assert_eq!(mode(), 0o700);
        set(0o750);
        drop(DataDir::open(&dir, "pageserver", NodeId(1)).expect("its own"));
        assert_eq!(mode(), 0o700, "one of an older version is closed too");

        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(&dir, Some(65534), None).expect("root may");
            let refused = DataDir::open(&dir, "pageserver", NodeId(1)).expect_err("somebody else's");
            let text = refused.to_string();
            assert!(refused.is_usage() && text.contains("65534") && text.contains("user root (0)"), "{text}");
        }
    }
}
