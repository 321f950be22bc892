//! A disk that keeps the promises of [`Disk`] and no others.
//!
//! Owns every byte of one simulated node. Each file has two contents, that of the page cache and that of the medium; a
//! sync copies pages from the cache to the medium. A *process kill* keeps the cache. A *power loss* keeps the medium
//! and an arbitrary part of what was not synced: whole pages, single sectors of a page, or nothing, in any order, and
//! likewise names and lengths. A *failed sync* marks its pages clean without having written all of them, as Linux does:
//! the cache still shows them, a later sync does not write them, and a power loss or a cache eviction brings the old
//! bytes back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use fastrand::Rng;
use safekeeper::storage::disk::{DirEntry, Disk, DiskFile, OpenMode};

mod pages;

use pages::{DirData, FileData, PAGE, copy_out};

const ROOT: u64 = 0;

/// What goes wrong on the next call of a kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IoFault {
    /// A write fails half way.
    Write,
    /// A sync of a file fails.
    Sync,
    /// A sync of a directory fails.
    SyncDir,
}

/// Mistakes to plant below the product.
#[derive(Clone, Copy, Default, Debug)]
pub struct DiskBugs {
    /// Directory syncs do nothing.
    pub no_dir_sync: bool,
    /// While a timeline is opened, zeroing and cutting do nothing.
    pub no_wipe_at_open: bool,
    /// While a timeline is opened, syncs do nothing.
    pub no_sync_at_open: bool,
}

#[derive(Clone)]
enum Inode {
    File(FileData),
    Dir(DirData),
}

struct State {
    rng: Rng,
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    bugs: DiskBugs,
    opening: bool,
    fault: Option<IoFault>,
    /// Calls left until the node loses power or is killed in the middle of the call.
    crash_in: Option<u64>,
    crashed: bool,
    /// Raised when the node goes down: handles opened before are dead.
    epoch: u64,
    /// Files may not grow beyond this together.
    capacity: u64,
    faults_fired: u64,
}

/// See [`SimDisk::image`].
#[derive(Clone)]
pub struct Image {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Image")
    }
}

/// One node's disk; clones share it.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

impl std::fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimDisk")
    }
}

#[derive(Clone, Debug)]
struct SimFile {
    disk: SimDisk,
    ino: u64,
    epoch: u64,
}

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64, bugs: DiskBugs) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(State {
            rng: Rng::with_seed(seed),
            inodes: BTreeMap::from([(ROOT, Inode::Dir(DirData::default()))]),
            next: ROOT + 1,
            bugs,
            opening: false,
            fault: None,
            crash_in: None,
            crashed: false,
            epoch: 0,
            capacity: u64::MAX,
            faults_fired: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic while the lock is held")
    }

    /// Lets the next call of that kind fail.
    pub fn plan_fault(&self, fault: Option<IoFault>) {
        self.lock().fault = fault;
    }

    /// Takes the node down in the middle of the `calls`-th call from now.
    pub fn plan_crash(&self, calls: Option<u64>) {
        self.lock().crash_in = calls;
    }

    /// Whether a planned crash struck.
    pub fn is_crashed(&self) -> bool {
        self.lock().crashed
    }

    /// Faults that struck since the last call.
    pub fn take_fired(&self) -> u64 {
        std::mem::take(&mut self.lock().faults_fired)
    }

    /// Limits the space; `None` lifts it. Returns whether growth is possible.
    pub fn limit(&self, bytes_left: Option<u64>) {
        let mut state = self.lock();
        let used = state.used();
        state.capacity = bytes_left.map_or(u64::MAX, |b| used + b);
    }

    /// Marks that a timeline is being opened (for planted bugs).
    pub fn set_opening(&self, opening: bool) {
        self.lock().opening = opening;
    }

    /// The process dies; the kernel lives. Pages of failed syncs may have been evicted from the cache.
    pub fn process_kill(&self) {
        let mut state = self.lock();
        state.come_up();
        let evict = state.rng.bool();
        for inode in state.inodes.values_mut() {
            if let Inode::File(file) = inode
                && evict
            {
                for page in std::mem::take(&mut file.phantom) {
                    file.restore(page);
                }
            }
        }
    }

    /// A copy of everything, as a snapshot of the volume gives it: what was written and not synced is in it.
    pub fn image(&self) -> Image {
        let state = self.lock();
        Image { inodes: state.inodes.clone(), next: state.next }
    }

    /// Everything is as it was when the image was taken; without one, nothing is there.
    pub fn restore(&self, image: Option<Image>) {
        let mut state = self.lock();
        state.come_up();
        let empty = || Image { inodes: BTreeMap::from([(ROOT, Inode::Dir(DirData::default()))]), next: ROOT + 1 };
        let image = image.unwrap_or_else(empty);
        (state.inodes, state.next) = (image.inodes, image.next);
    }

    /// The node loses power.
    pub fn power_loss(&self) {
        let mut state = self.lock();
        state.come_up();
        let mut rng = state.rng.fork();
        for inode in state.inodes.values_mut() {
            match inode {
                Inode::File(file) => file.power_loss(&mut rng),
                Inode::Dir(dir) => dir.power_loss(&mut rng),
            }
        }
        state.collect();
    }

    /// What the medium holds of a file at `[offset, offset + len)`; zeros where nothing is. `None` when the name is
    /// not durable.
    pub fn medium(&self, path: &Path, offset: u64, len: usize) -> Option<Vec<u8>> {
        let state = self.lock();
        let mut at = ROOT;
        for name in names(path) {
            let Inode::Dir(dir) = state.inodes.get(&at)? else { return None };
            at = *dir.medium.get(&name)?;
        }
        let Inode::File(file) = state.inodes.get(&at)? else { return None };
        let mut out = vec![0; len];
        copy_out(&file.medium, offset, &mut out);
        Some(out)
    }

    /// Flips one bit of what is stored of a file, in cache and on the medium: rot.
    pub fn rot(&self, path: &Path, offset: u64) -> bool {
        let mut state = self.lock();
        let Ok(ino) = state.resolve(path) else { return false };
        let Some(Inode::File(file)) = state.inodes.get_mut(&ino) else { return false };
        let (page, at) = (offset / PAGE as u64, (offset % PAGE as u64) as usize);
        for side in [&mut file.cache, &mut file.medium] {
            if let Some(data) = side.get_mut(&page) {
                data[at] ^= 0x10;
            }
        }
        true
    }
}

fn names(path: &Path) -> Vec<String> {
    let normal = |c: Component<'_>| match c {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    };
    path.components().filter_map(normal).collect()
}

impl State {
    fn used(&self) -> u64 {
        let len = |i: &Inode| if let Inode::File(f) = i { f.len } else { 0 };
        self.inodes.values().map(len).sum()
    }

    fn come_up(&mut self) {
        self.crashed = false;
        self.crash_in = None;
        self.fault = None;
        self.epoch += 1;
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

    /// Every call starts here. `Err` when the node is down or goes down now.
    fn enter(&mut self) -> io::Result<()> {
        if let Some(left) = self.crash_in.as_mut() {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.crashed = true;
                self.crash_in = None;
            }
        }
        if self.crashed { Err(io::Error::other("the node is down")) } else { Ok(()) }
    }

    fn strikes(&mut self, fault: IoFault) -> bool {
        let hit = self.fault == Some(fault);
        if hit {
            self.fault = None;
            self.faults_fired += 1;
        }
        hit
    }

    fn resolve(&self, path: &Path) -> io::Result<u64> {
        let mut at = ROOT;
        for name in names(path) {
            at = *self.dir(at)?.names.get(&name).ok_or_else(|| not_found(path))?;
        }
        Ok(at)
    }

    fn dir(&self, ino: u64) -> io::Result<&DirData> {
        match self.inodes.get(&ino) {
            Some(Inode::Dir(dir)) => Ok(dir),
            _ => Err(io::Error::from(io::ErrorKind::NotADirectory)),
        }
    }

    fn dir_mut(&mut self, ino: u64) -> io::Result<&mut DirData> {
        match self.inodes.get_mut(&ino) {
            Some(Inode::Dir(dir)) => Ok(dir),
            _ => Err(io::Error::from(io::ErrorKind::NotADirectory)),
        }
    }

    fn parent_of(&self, path: &Path) -> io::Result<(u64, String)> {
        let mut parts = names(path);
        let name = parts.pop().ok_or_else(|| not_found(path))?;
        let parent: PathBuf = parts.iter().collect();
        Ok((self.resolve(&parent)?, name))
    }

    fn add(&mut self, inode: Inode) -> u64 {
        let ino = self.next;
        self.next += 1;
        self.inodes.insert(ino, inode);
        ino
    }
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

fn injected(what: &str) -> io::Error {
    io::Error::other(format!("injected {what} error"))
}

impl Disk for SimDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.enter()?;
        let mut at = ROOT;
        for name in names(path) {
            at = match state.dir(at)?.names.get(&name) {
                Some(ino) => *ino,
                None => {
                    let ino = state.add(Inode::Dir(DirData::default()));
                    state.dir_mut(at)?.names.insert(name, ino);
                    ino
                }
            };
        }
        Ok(())
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        state.enter()?;
        let (parent, name) = state.parent_of(path)?;
        let found = state.dir(parent)?.names.get(&name).copied();
        let ino = match (found, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::Error::from(io::ErrorKind::AlreadyExists)),
            (Some(ino), _) => ino,
            (None, OpenMode::CreateNew) => {
                let ino = state.add(Inode::File(FileData::default()));
                state.dir_mut(parent)?.names.insert(name, ino);
                ino
            }
            (None, _) => return Err(not_found(path)),
        };
        Ok(Arc::new(SimFile { disk: self.clone(), ino, epoch: state.epoch }))
    }

    fn fsync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.enter()?;
        let ino = state.resolve(path)?;
        if state.strikes(IoFault::SyncDir) {
            return Err(injected("directory sync"));
        }
        if !state.bugs.no_dir_sync {
            let dir = state.dir_mut(ino)?;
            dir.medium = dir.names.clone();
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.enter()?;
        let (from_dir, from_name) = state.parent_of(from)?;
        let (to_dir, to_name) = state.parent_of(to)?;
        let ino = state.dir_mut(from_dir)?.names.remove(&from_name).ok_or_else(|| not_found(from))?;
        state.dir_mut(to_dir)?.names.insert(to_name, ino);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.enter()?;
        if state.opening && state.bugs.no_wipe_at_open {
            return Ok(());
        }
        let (parent, name) = state.parent_of(path)?;
        state.dir_mut(parent)?.names.remove(&name).map(drop).ok_or_else(|| not_found(path))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.enter()?;
        if let Ok((parent, name)) = state.parent_of(path) {
            state.dir_mut(parent)?.names.remove(&name);
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut state = self.lock();
        state.enter()?;
        let ino = state.resolve(path)?;
        let is_dir = |ino: &u64| matches!(state.inodes.get(ino), Some(Inode::Dir(_)));
        let entry = |(name, ino): (&String, &u64)| DirEntry { name: name.clone(), is_dir: is_dir(ino) };
        Ok(state.dir(ino)?.names.iter().map(entry).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let mut state = self.lock();
        state.enter()?;
        Ok(state.resolve(path).is_ok())
    }

    fn sync_all(&self, _path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.enter()?;
        if state.strikes(IoFault::Sync) {
            return Err(injected("sync"));
        }
        if state.opening && state.bugs.no_sync_at_open {
            return Ok(());
        }
        let no_dir_sync = state.bugs.no_dir_sync;
        for inode in state.inodes.values_mut() {
            match inode {
                Inode::File(file) => file.sync(),
                Inode::Dir(dir) if !no_dir_sync => dir.medium = dir.names.clone(),
                Inode::Dir(_) => {}
            }
        }
        Ok(())
    }

    fn free(&self, _path: &Path) -> io::Result<u64> {
        let state = self.lock();
        Ok(state.capacity.saturating_sub(state.used()))
    }
}

impl SimFile {
    /// Runs `work` on the file's data, when the node is up and the handle is of this life.
    fn with<T>(&self, work: impl FnOnce(&mut FileData, &mut Rng) -> T) -> io::Result<T> {
        let mut state = self.disk.lock();
        state.enter()?;
        self.alive(&state)?;
        let mut rng = state.rng.fork();
        match state.inodes.get_mut(&self.ino) {
            Some(Inode::File(file)) => Ok(work(file, &mut rng)),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }

    fn alive(&self, state: &State) -> io::Result<()> {
        if state.epoch == self.epoch { Ok(()) } else { Err(io::Error::other("a handle of a dead process")) }
    }

    fn sync(&self) -> io::Result<()> {
        let (fails, skip) = {
            let mut state = self.disk.lock();
            let skip = state.opening && state.bugs.no_sync_at_open;
            (!state.crashed && state.strikes(IoFault::Sync), skip)
        };
        if skip && !fails {
            return self.with(|_, _| ());
        }
        self.with(|file, rng| if fails { file.failed_sync(rng) } else { file.sync() })?;
        if fails { Err(injected("sync")) } else { Ok(()) }
    }

    /// A call that goes down in the middle leaves a part of its bytes behind.
    fn torn_write(&self, offset: u64, data: &[u8]) {
        let mut state = self.disk.lock();
        if state.epoch != self.epoch {
            return;
        }
        let part = state.rng.usize(0..=data.len());
        if let Some(Inode::File(file)) = state.inodes.get_mut(&self.ino) {
            file.write(offset, &data[..part]);
        }
    }
}

impl DiskFile for SimFile {
    fn write_at(&self, offset: u64, bufs: &[Bytes]) -> io::Result<()> {
        let (was_down, fails) = {
            let mut state = self.disk.lock();
            (state.crashed, !state.crashed && state.strikes(IoFault::Write))
        };
        let mut at = offset;
        let write = |file: &mut FileData, _: &mut Rng| {
            for buf in bufs {
                file.write(at, buf);
                at += buf.len() as u64;
            }
        };
        if fails {
            self.torn_write(offset, &bufs.concat());
            return Err(injected("write"));
        }
        let result = self.with(write);
        if result.is_err() && !was_down {
            self.torn_write(offset, &bufs.concat());
        }
        result
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|file, _| {
            let n = usize::try_from(file.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
            copy_out(&file.cache, offset, &mut buf[..n]);
            n
        })
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let (room, grown) = {
            let state = self.disk.lock();
            let own = if let Some(Inode::File(f)) = state.inodes.get(&self.ino) { f.len } else { 0 };
            (state.capacity.saturating_sub(state.used()), len.saturating_sub(own))
        };
        if grown > room {
            self.disk.lock().faults_fired += 1;
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.with(|file, _| file.len = file.len.max(len))
    }

    fn zero_range(&self, offset: u64, len: u64) -> io::Result<()> {
        let skip = {
            let state = self.disk.lock();
            state.opening && state.bugs.no_wipe_at_open
        };
        self.with(|file, _| {
            if !skip {
                file.zero(offset, len)
            }
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|file, _| file.cut(len))
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|file, _| file.len)
    }

    fn fdatasync(&self) -> io::Result<()> {
        self.sync()
    }

    fn fsync(&self) -> io::Result<()> {
        self.sync()
    }
}
