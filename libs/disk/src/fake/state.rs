//! What a fake disk holds: inodes, what goes wrong next, and how far the node is from its end.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};

use fastrand::Rng;

use super::pages::{DirData, FileData};

/// The inode of `/`.
pub(super) const ROOT: u64 = 0;

/// A kind of call that can be told to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoFault {
    /// A write fails half way.
    Write,
    /// Reading from an open file fails.
    Read,
    /// A sync of a file, or of everything, fails.
    Sync,
    /// A sync of a directory fails.
    SyncDir,
    /// A second name is not given.
    Link,
    /// A name is not removed.
    Remove,
}

/// A way in which a disk does less than it says: planted to show that a check notices.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lie {
    /// `fdatasync` does nothing.
    NoFdatasync,
    /// `fsync` of a file does nothing.
    NoFsync,
    /// `sync_all` does nothing.
    NoSyncAll,
    /// `fsync_dir` does nothing, and `sync_all` leaves names out.
    NoDirSync,
    /// Zeroing a range does nothing.
    NoZeroing,
    /// Removing a name does nothing.
    NoRemoval,
    /// Writing what the cache shows already does not make it dirty again.
    NoRewrite,
    /// A link replaces what has the name.
    LinkReplaces,
}

/// A file or a directory, as cache and medium have it.
#[derive(Clone)]
pub(super) enum Inode {
    File(FileData),
    Dir(DirData),
}

/// A fault that strikes later.
#[derive(Clone, Copy)]
pub(super) struct PlannedFault {
    pub(super) kind: IoFault,
    /// Calls of its kind that pass before.
    pub(super) passes: u32,
    /// Calls that fail then.
    pub(super) strikes: u32,
}

/// Everything that a fake disk is.
#[derive(Clone)]
pub(super) struct FakeState {
    pub(super) rng: Rng,
    pub(super) inodes: BTreeMap<u64, Inode>,
    pub(super) next: u64,
    pub(super) lies: BTreeSet<Lie>,
    pub(super) fault: Option<PlannedFault>,
    /// Calls so far that change something or make it durable.
    pub(super) operations: u64,
    /// The node goes down in the middle of the call after so many.
    pub(super) dies_after: Option<u64>,
    pub(super) is_down: bool,
    /// Raised when the node goes down: handles opened before are dead.
    pub(super) epoch: u64,
    /// Files may not grow beyond this together, in bytes.
    pub(super) capacity: u64,
    /// Faults that struck and were not asked for yet.
    pub(super) fired: u64,
}

impl FakeState {
    pub(super) fn new(seed: u64) -> FakeState {
        FakeState {
            rng: Rng::with_seed(seed),
            inodes: BTreeMap::from([(ROOT, Inode::Dir(DirData::default()))]),
            next: ROOT + 1,
            lies: BTreeSet::new(),
            fault: None,
            operations: 0,
            dies_after: None,
            is_down: false,
            epoch: 0,
            capacity: u64::MAX,
            fired: 0,
        }
    }

    /// Bytes that the files take together.
    pub(super) fn used(&self) -> u64 {
        let len = |i: &Inode| if let Inode::File(f) = i { f.len } else { 0 };
        self.inodes.values().map(len).sum()
    }

    /// How many bytes of the growth of `ino` to `len` there is room for; a shortage is noted as a fault.
    pub(super) fn room_for(&mut self, ino: u64, len: u64) -> Result<(), u64> {
        if self.capacity == u64::MAX {
            return Ok(());
        }
        let own = if let Some(Inode::File(f)) = self.inodes.get(&ino) { f.len } else { 0 };
        let (room, grown) = (self.capacity.saturating_sub(self.used()), len.saturating_sub(own));
        if grown <= room {
            return Ok(());
        }
        self.fired += 1;
        Err(own + room)
    }

    pub(super) fn lies(&self, lie: Lie) -> bool {
        self.lies.contains(&lie)
    }

    /// The node is up again: planned faults are gone, handles of its last life are dead.
    pub(super) fn come_up(&mut self) {
        self.is_down = false;
        self.dies_after = None;
        self.fault = None;
        self.epoch += 1;
    }

    pub(super) fn process_kill(&mut self) {
        self.come_up();
        let evict = self.rng.bool();
        for inode in self.inodes.values_mut() {
            if let Inode::File(file) = inode
                && evict
            {
                file.evict_phantoms();
            }
        }
    }

    pub(super) fn power_loss(&mut self) {
        self.come_up();
        let mut rng = self.rng.fork();
        for inode in self.inodes.values_mut() {
            match inode {
                Inode::File(file) => file.power_loss(&mut rng),
                Inode::Dir(dir) => dir.power_loss(&mut rng),
            }
        }
        self.collect();
    }

    /// Drops what no name leads to.
    fn collect(&mut self) {
        let mut reachable = BTreeSet::from([ROOT]);
        let mut todo = vec![ROOT];
        while let Some(ino) = todo.pop() {
            if let Some(Inode::Dir(dir)) = self.inodes.get(&ino) {
                for child in dir.names.values().chain(dir.medium.values()) {
                    if reachable.insert(*child) {
                        todo.push(*child);
                    }
                }
            }
        }
        self.inodes.retain(|ino, _| reachable.contains(ino));
    }

    /// A call that only looks starts here. `Err` when the node is down.
    pub(super) fn look(&self) -> io::Result<()> {
        if self.is_down { Err(io::Error::other("the node is down")) } else { Ok(()) }
    }

    /// A call that changes something starts here. `Err` when the node is down or goes down now.
    pub(super) fn change(&mut self) -> io::Result<()> {
        self.operations += 1;
        if self.dies_after.is_some_and(|n| self.operations > n) {
            self.is_down = true;
            self.dies_after = None;
        }
        self.look()
    }

    /// Whether a planned fault strikes this call of its kind.
    pub(super) fn strikes(&mut self, kind: IoFault) -> bool {
        let Some(planned) = self.fault.as_mut().filter(|f| f.kind == kind) else { return false };
        if planned.passes > 0 {
            planned.passes -= 1;
            return false;
        }
        planned.strikes -= 1;
        if planned.strikes == 0 {
            self.fault = None;
        }
        self.fired += 1;
        true
    }

    pub(super) fn resolve(&self, path: &Path) -> io::Result<u64> {
        let mut at = ROOT;
        for name in names(path) {
            at = *self.dir(at)?.names.get(&name).ok_or_else(|| not_found(path))?;
        }
        Ok(at)
    }

    /// The directory that holds the last name of `path`, and that name.
    pub(super) fn parent_of(&self, path: &Path) -> io::Result<(u64, String)> {
        let mut parts = names(path);
        let name = parts.pop().ok_or_else(|| not_found(path))?;
        let parent: PathBuf = parts.iter().collect();
        Ok((self.resolve(&parent)?, name))
    }

    pub(super) fn dir(&self, ino: u64) -> io::Result<&DirData> {
        match self.inodes.get(&ino) {
            Some(Inode::Dir(dir)) => Ok(dir),
            _ => Err(io::Error::from(io::ErrorKind::NotADirectory)),
        }
    }

    pub(super) fn dir_mut(&mut self, ino: u64) -> io::Result<&mut DirData> {
        match self.inodes.get_mut(&ino) {
            Some(Inode::Dir(dir)) => Ok(dir),
            _ => Err(io::Error::from(io::ErrorKind::NotADirectory)),
        }
    }

    pub(super) fn file(&self, ino: u64) -> Option<&FileData> {
        match self.inodes.get(&ino) {
            Some(Inode::File(file)) => Some(file),
            _ => None,
        }
    }

    pub(super) fn file_mut(&mut self, ino: u64) -> Option<&mut FileData> {
        match self.inodes.get_mut(&ino) {
            Some(Inode::File(file)) => Some(file),
            _ => None,
        }
    }

    pub(super) fn add(&mut self, inode: Inode) -> u64 {
        let ino = self.next;
        self.next += 1;
        self.inodes.insert(ino, inode);
        ino
    }

    /// Creates the directories of `path` that are missing.
    pub(super) fn make_dirs(&mut self, path: &Path) -> io::Result<()> {
        let mut at = ROOT;
        for name in names(path) {
            at = match self.dir(at)?.names.get(&name) {
                Some(ino) => *ino,
                None => {
                    let ino = self.add(Inode::Dir(DirData::default()));
                    self.dir_mut(at)?.put(name, ino);
                    ino
                }
            };
        }
        Ok(())
    }
}

/// The names that a path consists of, from the root.
pub(super) fn names(path: &Path) -> Vec<String> {
    let normal = |c: Component<'_>| match c {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    };
    path.components().filter_map(normal).collect()
}

pub(super) fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

pub(super) fn injected(what: &str) -> io::Error {
    io::Error::other(format!("injected {what} error"))
}
