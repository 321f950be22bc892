//! A disk in memory that keeps the promises of [`Disk`](crate::Disk) and no others.
//!
//! Owns every byte of one node. Each file has two contents, that of the page cache and that of the medium; a sync
//! copies pages from the cache to the medium. A *process kill* keeps the cache. A *power loss* keeps the medium and an
//! arbitrary part of what was not synced: whole pages, single sectors of a page, or nothing, in any order, and likewise
//! names and lengths. A *failed sync* marks its pages and names clean without having written all of them, as Linux
//! does: the cache still shows them, a later sync does not write them, and a power loss or a cache eviction brings the
//! old ones back.
//! A [`Lie`] is a promise that the disk breaks, to show that a check notices.
//!
//! | module | what |
//! |---|---|
//! | `state` | inodes, planned faults, lies |
//! | `pages` | one file or directory: cache and medium |
//! | `tree` | the calls that concern names |
//! | `file` | the calls that concern an open file |

mod file;
mod pages;
mod state;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use fastrand::Rng;

use pages::copy_out;
use state::{FakeState, Inode, PlannedFault, ROOT, names};

pub use state::{IoFault, Lie};

/// One node's disk; clones share it. It begins with an empty directory `/data`, durably.
#[derive(Clone)]
pub struct FakeDisk(Arc<Mutex<FakeState>>);

/// A copy of all that a disk shows and holds: see [`FakeDisk::image`].
#[derive(Clone)]
pub struct DiskImage {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
}

impl std::fmt::Debug for FakeDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakeDisk")
    }
}

impl std::fmt::Debug for DiskImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DiskImage")
    }
}

impl FakeDisk {
    /// A disk with nothing on it but `/data`; what a power loss leaves is drawn from `seed`.
    pub fn new(seed: u64) -> FakeDisk {
        let mut state = FakeState::new(seed);
        state.make_dirs(Path::new("/data")).expect("the root is a directory");
        state.dir_mut(ROOT).expect("the root is a directory").sync();
        FakeDisk(Arc::new(Mutex::new(state)))
    }

    /// The same, and it lies from the beginning.
    pub fn lying(seed: u64, lies: &[Lie]) -> FakeDisk {
        let disk = FakeDisk::new(seed);
        disk.set_lies(lies);
        disk
    }

    fn lock(&self) -> MutexGuard<'_, FakeState> {
        self.0.lock().expect("no panic while the lock is held")
    }

    /// From now on the disk tells these lies and no others.
    pub fn set_lies(&self, lies: &[Lie]) {
        self.lock().lies = lies.iter().copied().collect();
    }

    /// The next call of that kind fails.
    pub fn fail_next(&self, kind: IoFault) {
        self.fail(kind, 0, 1);
    }

    /// The next `strikes` calls of that kind fail.
    pub fn fail_times(&self, kind: IoFault, strikes: u32) {
        self.fail(kind, 0, strikes);
    }

    /// The `nth` call of that kind from now fails, counted from 1.
    pub fn fail_nth(&self, kind: IoFault, nth: u32) {
        self.fail(kind, nth.saturating_sub(1), 1);
    }

    fn fail(&self, kind: IoFault, passes: u32, strikes: u32) {
        self.lock().fault = (strikes > 0).then_some(PlannedFault { kind, passes, strikes });
    }

    /// Takes back what was planned: no call fails, and the node stays up.
    pub fn no_faults(&self) {
        let mut state = self.lock();
        (state.fault, state.dies_after) = (None, None);
    }

    /// Faults that struck since the last call, a full disk among them.
    pub fn take_fired(&self) -> u64 {
        std::mem::take(&mut self.lock().fired)
    }

    /// Calls so far that changed something or made it durable: each is a point at which a crash can come.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Of the disk's calls, in all, `operations` work; the node goes down in the middle of the next one.
    pub fn die_at(&self, operations: u64) {
        self.lock().dies_after = Some(operations);
    }

    /// Takes the node down in the middle of the `calls`-th call from now.
    pub fn die_in(&self, calls: u64) {
        let mut state = self.lock();
        state.dies_after = Some((state.operations + calls).saturating_sub(1));
    }

    /// Whether a planned end of the node struck.
    pub fn is_down(&self) -> bool {
        self.lock().is_down
    }

    /// Limits the space to so many further bytes; `None` lifts the limit.
    pub fn limit(&self, bytes_left: Option<u64>) {
        let mut state = self.lock();
        let used = state.used();
        state.capacity = bytes_left.map_or(u64::MAX, |b| used + b);
    }

    /// The process dies; the kernel lives. Pages of failed syncs may have been evicted from the cache.
    pub fn process_kill(&self) {
        self.lock().process_kill();
    }

    /// The node loses power.
    pub fn power_loss(&self) {
        self.lock().power_loss();
    }

    /// A disk of its own, as a process finds it that starts right after this one's was killed: nothing was evicted.
    pub fn after_kill(&self) -> FakeDisk {
        let mut state = self.lock().clone();
        state.come_up();
        FakeDisk(Arc::new(Mutex::new(state)))
    }

    /// A disk of its own, as a loss of power now would leave this one.
    pub fn after_power_loss(&self, rng: &mut Rng) -> FakeDisk {
        let mut state = self.lock().clone();
        state.rng = rng.fork();
        state.power_loss();
        FakeDisk(Arc::new(Mutex::new(state)))
    }

    /// A copy of everything, as a snapshot of the volume gives it: what was written and not synced is in it.
    pub fn image(&self) -> DiskImage {
        let state = self.lock();
        DiskImage { inodes: state.inodes.clone(), next: state.next }
    }

    /// Everything is as it was when the image was taken; without one, nothing is there.
    pub fn restore(&self, image: Option<DiskImage>) {
        let mut state = self.lock();
        state.come_up();
        let fresh = || FakeState::new(0);
        let image = image.unwrap_or_else(|| DiskImage { inodes: fresh().inodes, next: fresh().next });
        (state.inodes, state.next) = (image.inodes, image.next);
    }

    /// Every byte of a file as it reads now; `None` when there is no such file.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.lock();
        let file = state.file(state.resolve(path).ok()?)?;
        let mut out = vec![0; usize::try_from(file.len).ok()?];
        copy_out(&file.cache, 0, &mut out);
        Some(out)
    }

    /// What the medium holds of a file at `[offset, offset + len)`; zeros where nothing is. `None` when the name is
    /// not durable.
    pub fn medium(&self, path: &Path, offset: u64, len: usize) -> Option<Vec<u8>> {
        let state = self.lock();
        let mut at = ROOT;
        for name in names(path) {
            at = *state.dir(at).ok()?.medium.get(&name)?;
        }
        let mut out = vec![0; len];
        copy_out(&state.file(at)?.medium, offset, &mut out);
        Some(out)
    }

    /// Every file that a name leads to, in order.
    pub fn files(&self) -> Vec<PathBuf> {
        let state = self.lock();
        let (mut found, mut todo) = (Vec::new(), vec![(PathBuf::from("/"), ROOT)]);
        while let Some((path, ino)) = todo.pop() {
            match state.inodes.get(&ino) {
                Some(Inode::Dir(dir)) => todo.extend(dir.names.iter().map(|(name, ino)| (path.join(name), *ino))),
                Some(Inode::File(_)) => found.push(path),
                None => {}
            }
        }
        found.sort();
        found
    }

    /// Flips one bit of what is stored of a file, in cache and on the medium: rot. False when there is no such file.
    pub fn rot(&self, path: &Path, offset: u64) -> bool {
        let mut state = self.lock();
        let Ok(ino) = state.resolve(path) else { return false };
        state.file_mut(ino).is_some_and(|file| {
            file.flip(offset);
            true
        })
    }
}
