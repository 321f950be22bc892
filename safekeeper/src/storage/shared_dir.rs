//! A directory in which several threads change names at the same time.
//!
//! Owner of who may trust which sync. After a failed sync no change made since the last good one counts, whoever made
//! it, and a later sync that succeeds says nothing about them. So one sync runs at a time, for all who wait for one,
//! and its failure is the failure of everybody who began before it ended.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use disk::Disk;

/// See the module.
#[derive(Debug)]
pub struct SharedDir {
    path: PathBuf,
    state: Mutex<SharedDirState>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct SharedDirState {
    running: bool,
    /// Number of the syncs that began.
    begun: u64,
    failures: u64,
}

/// Taken before a change. Its sync fails when any failed since.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    failures: u64,
}

impl SharedDir {
    /// The directory at `path`.
    pub fn new(path: PathBuf) -> SharedDir {
        SharedDir { path, state: Mutex::default(), ended: Condvar::new() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// To be called before the change.
    pub fn begin(&self) -> Ticket {
        Ticket { failures: self.lock().failures }
    }

    /// Makes the change durable that was made since `ticket` was taken. Blocks.
    ///
    /// # Errors
    /// The disk's, or that another's sync failed in between: the change does not count.
    pub fn sync(&self, disk: &dyn Disk, ticket: Ticket) -> io::Result<()> {
        let mut state = self.lock();
        // The one that runs now may have begun before the change; the next one has not, whoever runs it.
        let wanted = state.begun + 1;
        loop {
            if state.failures != ticket.failures {
                return Err(io::Error::other("a sync of the directory failed, and covered this change too"));
            }
            if state.running {
                state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if state.begun >= wanted {
                return Ok(());
            }
            state.begun += 1;
            state.running = true;
            drop(state);
            let synced = disk.fsync_dir(&self.path);
            state = self.lock();
            state.running = false;
            state.failures += u64::from(synced.is_err());
            self.ended.notify_all();
            synced?;
        }
    }

    fn lock(&self) -> MutexGuard<'_, SharedDirState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
