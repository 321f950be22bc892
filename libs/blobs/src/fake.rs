//! A disk in memory that forgets: what was not synced may be lost or torn. For the tests of storage.
//!
//! Owner of files as the page cache has them, of what is durable, and of the operations in between. Every operation
//! that changes something is counted and can be the last one. Planted bugs ([`Lies`]) show that the checks notice.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::{BlobDisk, NewFile, OldFile};

/// Ways in which this disk does less than it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Lies {
    /// It does all that it says.
    #[default]
    None,
    /// fsync of a file does nothing.
    NoSync,
    /// fsync of a directory does nothing.
    NoDirSync,
    /// A link replaces what has the name.
    LinkReplaces,
}

/// Handles to one disk.
#[derive(Clone, Debug)]
pub struct FakeDisk(Arc<Mutex<FakeDiskState>>);

#[derive(Clone, Debug, Default)]
struct FakeDiskState {
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    pending: Vec<NameOp>,
    files: Vec<Content>,
    operations: u64,
    /// From this one on every operation fails.
    dead_from: Option<u64>,
    /// Room for further bytes.
    room: Option<u64>,
    /// What the next operations of a kind do: fail.
    failing: Option<&'static str>,
    lies: Lies,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Node {
    Dir,
    File(usize),
}

#[derive(Clone, Debug)]
enum NameOp {
    Add(PathBuf, Node),
    Remove(PathBuf),
}

#[derive(Clone, Debug, Default)]
struct Content {
    cache: Vec<u8>,
    /// The bytes up to here are durable: files only grow.
    durable: usize,
}

impl FakeDisk {
    /// An empty disk with the directory `/data`.
    pub fn new(lies: Lies) -> FakeDisk {
        let mut state = FakeDiskState { lies, ..FakeDiskState::default() };
        for dir in ["/", "/data"] {
            state.names.insert(dir.into(), Node::Dir);
            state.durable_names.insert(dir.into(), Node::Dir);
        }
        FakeDisk(Arc::new(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, FakeDiskState> {
        self.0.lock().expect("no test panics while it holds the disk")
    }

    /// Operations so far.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// The process dies after so many operations.
    pub fn die_at(&self, operation: u64) {
        self.lock().dead_from = Some(operation);
    }

    /// So many bytes fit yet.
    pub fn set_room(&self, room: Option<u64>) {
        self.lock().room = room;
    }

    /// The next operation of a kind (`write`, `sync`, `link`, `sync_dir`, `remove`) fails.
    pub fn fail(&self, operation: &'static str) {
        self.lock().failing = Some(operation);
    }

    /// The process was killed: the page cache stays.
    pub fn after_kill(&self) -> FakeDisk {
        let mut state = self.lock().clone();
        state.dead_from = None;
        FakeDisk(Arc::new(Mutex::new(state)))
    }

    /// The power went: of what was not synced some is there. Names come and go independently of each other; of a
    /// file's bytes a part, with zeros where blocks were allocated and not written.
    pub fn after_power_loss(&self, rng: &mut fastrand::Rng) -> FakeDisk {
        let mut state = self.lock().clone();
        for op in std::mem::take(&mut state.pending) {
            if rng.bool() {
                op.apply(&mut state.durable_names);
            }
        }
        state.names = state.durable_names.clone();
        for file in &mut state.files {
            let lost = file.cache.len() - file.durable;
            match rng.u8(..3) {
                0 => file.cache.truncate(file.durable),
                1 => file.cache[file.durable..].fill(0),
                _ => file.cache.truncate(file.durable + rng.usize(..=lost)),
            }
            file.durable = file.cache.len();
        }
        state.dead_from = None;
        FakeDisk(Arc::new(Mutex::new(state)))
    }

    /// Paths of all files as a running process sees them, durable or not.
    pub fn files(&self) -> Vec<PathBuf> {
        let state = self.lock();
        state.names.iter().filter(|(_, node)| matches!(node, Node::File(_))).map(|(path, _)| path.clone()).collect()
    }
}

impl FakeDiskState {
    fn operation(&mut self, kind: &'static str) -> io::Result<()> {
        self.operations += 1;
        if self.dead_from.is_some_and(|from| self.operations > from) {
            return Err(io::Error::other("the process is gone"));
        }
        if self.failing == Some(kind) {
            self.failing = None;
            return Err(io::Error::other("injected"));
        }
        Ok(())
    }

    fn name_op(&mut self, op: NameOp) {
        op.apply(&mut self.names);
        self.pending.push(op);
    }
}

impl NameOp {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            NameOp::Add(path, node) => drop(names.insert(path.clone(), *node)),
            NameOp::Remove(path) => drop(names.remove(path)),
        }
    }

    fn within(&self, dir: &Path) -> bool {
        let (NameOp::Add(path, _) | NameOp::Remove(path)) = self;
        path.parent() == Some(dir)
    }
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl BlobDisk for FakeDisk {
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.operation("create_dir")?;
        if !path.parent().is_some_and(|parent| state.names.contains_key(parent)) {
            return Err(not_found());
        }
        if !state.names.contains_key(path) {
            state.name_op(NameOp::Add(path.to_owned(), Node::Dir));
        }
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn NewFile>> {
        let mut state = self.lock();
        state.operation("create")?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if !path.parent().is_some_and(|parent| state.names.contains_key(parent)) {
            return Err(not_found());
        }
        let id = state.files.len();
        state.files.push(Content::default());
        state.name_op(NameOp::Add(path.to_owned(), Node::File(id)));
        Ok(Box::new(FakeFile { disk: self.clone(), id }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn OldFile>> {
        match self.lock().names.get(path) {
            Some(Node::File(id)) => Ok(Arc::new(FakeFile { disk: self.clone(), id: *id })),
            _ => Err(not_found()),
        }
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.operation("link")?;
        let node = *state.names.get(from).ok_or_else(not_found)?;
        if state.names.contains_key(to) && state.lies != Lies::LinkReplaces {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.name_op(NameOp::Add(to.to_owned(), node));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.operation("remove")?;
        if !state.names.contains_key(path) {
            return Err(not_found());
        }
        state.name_op(NameOp::Remove(path.to_owned()));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        let dead = state.operation("sync_dir");
        let gone = state.dead_from.is_some_and(|from| state.operations > from);
        if state.lies == Lies::NoDirSync {
            return dead;
        }
        if gone {
            return dead;
        }
        let (synced, left) = std::mem::take(&mut state.pending).into_iter().partition(|op| op.within(path));
        state.pending = left;
        // A failed sync: the changes stay visible, count as clean, and may never be written.
        dead?;
        let synced: Vec<NameOp> = synced;
        synced.iter().for_each(|op| op.apply(&mut state.durable_names));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<(String, u64)>> {
        let state = self.lock();
        if !state.names.contains_key(path) {
            return Err(not_found());
        }
        let within = state.names.iter().filter(|(name, _)| name.parent() == Some(path));
        let files = within.filter_map(|(name, node)| match node {
            Node::File(id) => Some((name.file_name()?.to_str()?.to_owned(), state.files[*id].cache.len() as u64)),
            Node::Dir => None,
        });
        Ok(files.collect())
    }
}

#[derive(Debug)]
struct FakeFile {
    disk: FakeDisk,
    id: usize,
}

impl NewFile for FakeFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.lock();
        let torn = state.operation("write");
        if state.dead_from.is_some_and(|from| state.operations == from + 1) {
            // The write during which the process dies is done in part.
            state.files[self.id].cache.extend_from_slice(&bytes[..bytes.len() / 2]);
        }
        torn?;
        if let Some(room) = state.room {
            let fits = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            state.room = Some(room - fits as u64);
            state.files[self.id].cache.extend_from_slice(&bytes[..fits]);
            return if fits == bytes.len() { Ok(()) } else { Err(io::ErrorKind::StorageFull.into()) };
        }
        state.files[self.id].cache.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.operation("sync")?;
        if state.lies != Lies::NoSync {
            let file = &mut state.files[self.id];
            file.durable = file.cache.len();
        }
        Ok(())
    }
}

impl OldFile for FakeFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.disk.lock();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let content = &state.files[self.id].cache;
        match content.get(start..).and_then(|rest| rest.get(..buf.len())) {
            Some(bytes) => buf.copy_from_slice(bytes),
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().files[self.id].cache.len() as u64)
    }
}
