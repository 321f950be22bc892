//! A disk in memory that forgets: what was not synced may be lost, reordered or torn. For the tests of storage.
//!
//! Owner of files as the page cache has them, of what is durable, and of the operations in between. A failed sync
//! leaves pages that read as written, are not durable, and look clean. Planted bugs ([`Lies`]) show that the checks
//! notice.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::disk::{DirEntry, Disk, DiskFile, OpenMode};

/// Ways in which this disk does less than it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Lies {
    #[default]
    None,
    /// fdatasync does nothing.
    NoFdatasync,
    /// fsync does nothing.
    NoFsync,
    /// fsync_dir does nothing.
    NoDirSync,
    /// Zeroing a range of an existing file does nothing.
    NoZeroing,
    /// Writing what the page cache already holds does not make it dirty again.
    NoRewrite,
}

#[derive(Clone, Debug)]
pub(crate) struct FakeDisk(Arc<Mutex<State>>);

#[derive(Clone, Debug, Default)]
struct State {
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    pending_names: Vec<NameOp>,
    files: BTreeMap<u64, Content>,
    next_file: u64,
    /// Operations so far that change something.
    operations: u64,
    /// From this one on every operation fails.
    dead_from: Option<u64>,
    /// This many fdatasyncs fail, from the next one on.
    failing_syncs: u32,
    /// The so-manieth directory sync from now fails; 0 = none.
    failing_dir_sync: u32,
    /// Room for further allocations, in bytes.
    room: Option<u64>,
    lies: Lies,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Node {
    Dir,
    File(u64),
}

#[derive(Clone, Debug)]
enum NameOp {
    Add(PathBuf, Node),
    Remove(PathBuf),
    /// With what the name leads to: a name that was never durable by itself is there under its new one.
    Rename(PathBuf, PathBuf, Node),
}

#[derive(Clone, Debug, Default)]
struct Content {
    cache: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug)]
struct FakeFile {
    disk: FakeDisk,
    id: u64,
}

impl FakeDisk {
    pub(crate) fn new(lies: Lies) -> FakeDisk {
        let mut state = State { lies, ..State::default() };
        for dir in ["/", "/data"] {
            state.names.insert(PathBuf::from(dir), Node::Dir);
            state.durable_names.insert(PathBuf::from(dir), Node::Dir);
        }
        FakeDisk(Arc::new(Mutex::new(state)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds the disk")
    }

    pub(crate) fn operations(&self) -> u64 {
        self.lock().operations
    }

    pub(crate) fn die_at(&self, operation: u64) {
        self.lock().dead_from = Some(operation);
    }

    pub(crate) fn fail_fdatasyncs(&self, n: u32) {
        self.lock().failing_syncs = n;
    }

    pub(crate) fn fail_dir_sync(&self, nth: u32) {
        self.lock().failing_dir_sync = nth;
    }

    pub(crate) fn set_room(&self, room: Option<u64>) {
        self.lock().room = room;
    }

    /// The process was killed: the page cache stays.
    pub(crate) fn after_kill(&self) -> FakeDisk {
        let mut state = self.lock().clone();
        state.dead_from = None;
        state.failing_syncs = 0;
        FakeDisk(Arc::new(Mutex::new(state)))
    }

    /// The power went: of what was not synced, some is there, in any order, torn at sectors.
    pub(crate) fn after_power_loss(&self, rng: &mut fastrand::Rng) -> FakeDisk {
        let mut state = self.lock().clone();
        for op in std::mem::take(&mut state.pending_names) {
            if rng.bool() {
                op.apply(&mut state.durable_names);
            }
        }
        state.names = state.durable_names.clone();
        for content in state.files.values_mut() {
            let mut pending = std::mem::take(&mut content.pending);
            rng.shuffle(&mut pending);
            for (at, bytes) in pending {
                // All, nothing, or some of its sectors.
                let keep = rng.u8(..3);
                for (i, sector) in bytes.chunks(512).enumerate() {
                    if keep == 1 || (keep == 2 && rng.bool()) {
                        put(&mut content.durable, at + i * 512, sector);
                    }
                }
            }
            content.cache = content.durable.clone();
        }
        state.dead_from = None;
        state.failing_syncs = 0;
        FakeDisk(Arc::new(Mutex::new(state)))
    }

    /// Every byte of a file as it reads now.
    pub(crate) fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.lock();
        match state.names.get(path) {
            Some(Node::File(id)) => Some(state.files[id].cache.clone()),
            _ => None,
        }
    }

    /// Flips a bit of a file, durably.
    pub(crate) fn flip(&self, path: &Path, at: usize) {
        let mut state = self.lock();
        let Some(Node::File(id)) = state.names.get(path).copied() else { panic!("no file") };
        let content = state.files.get_mut(&id).expect("a file");
        content.cache[at] ^= 0x10;
        content.durable[at] ^= 0x10;
    }
}

impl State {
    fn operation(&mut self) -> io::Result<()> {
        self.operations += 1;
        match self.dead_from {
            Some(from) if self.operations > from => Err(io::Error::other("the process is gone")),
            _ => Ok(()),
        }
    }

    fn name_op(&mut self, op: NameOp) {
        op.apply(&mut self.names);
        self.pending_names.push(op);
    }
}

impl NameOp {
    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            NameOp::Add(path, node) => drop(names.insert(path.clone(), *node)),
            NameOp::Remove(path) => drop(names.remove(path)),
            NameOp::Rename(from, to, node) => {
                let moved: Vec<PathBuf> = names.keys().filter(|p| p.starts_with(from)).cloned().collect();
                for path in moved {
                    let node = names.remove(&path).expect("listed");
                    let rest = path.strip_prefix(from).expect("filtered");
                    names.insert(if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) }, node);
                }
                names.insert(to.clone(), *node);
            }
        }
    }

    fn touches(&self, dir: &Path) -> bool {
        match self {
            NameOp::Add(path, _) | NameOp::Remove(path) => path.parent() == Some(dir),
            NameOp::Rename(from, to, _) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }
}

fn put(to: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if to.len() < at + bytes.len() {
        to.resize(at + bytes.len(), 0);
    }
    to[at..at + bytes.len()].copy_from_slice(bytes);
}

fn not_found() -> io::Error {
    io::Error::from(io::ErrorKind::NotFound)
}

impl Disk for FakeDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.operation()?;
        let missing: Vec<PathBuf> =
            path.ancestors().filter(|p| !state.names.contains_key(*p)).map(Path::to_owned).collect();
        missing.into_iter().rev().for_each(|dir| state.name_op(NameOp::Add(dir, Node::Dir)));
        Ok(())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        let found = state.names.get(path).copied();
        let id = match (found, mode) {
            (Some(Node::File(_)), OpenMode::CreateNew) => return Err(io::Error::from(io::ErrorKind::AlreadyExists)),
            (Some(Node::File(id)), _) => id,
            (None, OpenMode::CreateNew) => {
                state.operation()?;
                state.next_file += 1;
                let id = state.next_file;
                state.files.insert(id, Content::default());
                state.name_op(NameOp::Add(path.to_owned(), Node::File(id)));
                id
            }
            _ => return Err(not_found()),
        };
        Ok(Arc::new(FakeFile { disk: self.clone(), id }))
    }

    fn fsync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.operation()?;
        let nth = state.failing_dir_sync;
        if state.lies == Lies::NoDirSync {
            return Ok(());
        }
        let (synced, left): (Vec<NameOp>, Vec<NameOp>) =
            std::mem::take(&mut state.pending_names).into_iter().partition(|op| op.touches(path));
        state.pending_names = left;
        state.failing_dir_sync = state.failing_dir_sync.saturating_sub(1);
        if nth == 1 {
            // The changes stay visible, count as clean, and may never be written.
            return Err(io::Error::other("injected"));
        }
        for op in synced {
            op.apply(&mut state.durable_names);
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.operation()?;
        let node = *state.names.get(from).ok_or_else(not_found)?;
        if state.names.keys().any(|p| p.parent() == Some(to)) {
            return Err(io::Error::from(io::ErrorKind::DirectoryNotEmpty));
        }
        state.name_op(NameOp::Rename(from.to_owned(), to.to_owned(), node));
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.operation()?;
        if !state.names.contains_key(path) {
            return Err(not_found());
        }
        state.name_op(NameOp::Remove(path.to_owned()));
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.operation()?;
        let gone: Vec<PathBuf> = state.names.keys().filter(|p| p.starts_with(path)).cloned().collect();
        gone.into_iter().rev().for_each(|p| state.name_op(NameOp::Remove(p)));
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.lock();
        let inside = state.names.iter().filter(|(p, _)| p.parent() == Some(path));
        let entry = |(p, node): (&PathBuf, &Node)| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
            DirEntry { name, is_dir: *node == Node::Dir }
        };
        Ok(inside.map(entry).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        Ok(self.lock().names.contains_key(path))
    }

    fn sync_all(&self, _path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.operation()?;
        for op in std::mem::take(&mut state.pending_names) {
            op.apply(&mut state.durable_names);
        }
        for content in state.files.values_mut() {
            for (at, bytes) in std::mem::take(&mut content.pending) {
                put(&mut content.durable, at, &bytes);
            }
        }
        Ok(())
    }

    fn free(&self, _path: &Path) -> io::Result<u64> {
        Ok(self.lock().room.unwrap_or(u64::MAX))
    }
}

impl FakeFile {
    fn write(&self, at: usize, bytes: Vec<u8>) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.operation()?;
        let skip_equal = state.lies == Lies::NoRewrite;
        let content = state.files.get_mut(&self.id).expect("files stay");
        if skip_equal && content.cache.get(at..at + bytes.len()) == Some(&bytes[..]) {
            return Ok(());
        }
        put(&mut content.cache, at, &bytes);
        content.pending.push((at, bytes));
        Ok(())
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.operation()?;
        let fails = data_only && state.failing_syncs > 0;
        state.failing_syncs -= u32::from(fails);
        let lie = state.lies == if data_only { Lies::NoFdatasync } else { Lies::NoFsync };
        let content = state.files.get_mut(&self.id).expect("files stay");
        if lie {
            return Ok(());
        }
        let pending = std::mem::take(&mut content.pending);
        if fails {
            // The pages count as clean from now on and may never be written.
            return Err(io::Error::other("injected"));
        }
        for (at, bytes) in pending {
            put(&mut content.durable, at, &bytes);
        }
        Ok(())
    }
}

impl DiskFile for FakeFile {
    fn write_at(&self, offset: u64, bufs: &[Bytes]) -> io::Result<()> {
        self.write(usize::try_from(offset).expect("small"), bufs.concat())
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let state = self.disk.lock();
        let cache = &state.files[&self.id].cache;
        let from = cache.len().min(usize::try_from(offset).expect("small"));
        let n = buf.len().min(cache.len() - from);
        buf[..n].copy_from_slice(&cache[from..from + n]);
        Ok(n)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let have = self.len()?;
        {
            let mut state = self.disk.lock();
            let need = len.saturating_sub(have);
            if state.room.is_some_and(|room| room < need) {
                return Err(io::Error::from(io::ErrorKind::StorageFull));
            }
            state.room = state.room.map(|room| room - need);
        }
        let have = usize::try_from(have).expect("small");
        self.write(have, vec![0; usize::try_from(len).expect("small").saturating_sub(have)])
    }

    fn zero_range(&self, offset: u64, len: u64) -> io::Result<()> {
        if self.disk.lock().lies == Lies::NoZeroing {
            return Ok(());
        }
        self.write(usize::try_from(offset).expect("small"), vec![0; usize::try_from(len).expect("small")])
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let have = self.len()?;
        if len < have {
            return Err(io::Error::other("the tests' disk does not shrink files"));
        }
        self.zero_range(have, len - have)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.disk.lock().files[&self.id].cache.len() as u64)
    }

    fn fdatasync(&self) -> io::Result<()> {
        self.sync(true)
    }

    fn fsync(&self) -> io::Result<()> {
        self.sync(false)
    }
}
