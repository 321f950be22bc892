//! One timeline's directory: the control file and the WAL together.
//!
//! Owner of both files' handles. A directory exists wholly or not at all: it is built elsewhere, synced, and renamed.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use disk::Disk;
use pgformat::Lsn;

use super::control::TimelineControlFile;
use super::error::StorageError;
use super::shared_dir::SharedDir;
use super::wal::WalStorage;
use crate::core::{ControlState, LogEnd};

/// What opening gives: the timeline, its state, and the end of its log when one was begun.
pub type FoundTimeline = (TimelineStorage, ControlState, Option<LogEnd>);

/// An open timeline directory.
#[derive(Debug)]
pub struct TimelineStorage {
    control: TimelineControlFile,
    /// What the control file durably says.
    state: ControlState,
    wal: WalStorage,
}

/// What is known of the files before a timeline is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Opening {
    /// This process created it just now: every byte and every name was synced, nothing is in doubt.
    Fresh,
    /// The process just started: see [`TimelineStorage::open_at_start`].
    AtStart,
    /// A sync may have failed, in this process or in one before it.
    Anew,
}

/// Makes the directory `dir` in `above`, in which timelines are created, durably. One caller at a time for one `dir`.
///
/// # Errors
/// Whatever the disk says; repeat it then before anything is created in `dir`.
pub fn make_parent(disk: &dyn Disk, above: &SharedDir, dir: &Path) -> Result<(), StorageError> {
    let ticket = above.begin();
    let creating = StorageError::io("creating", dir);
    let there = disk.exists(dir).and_then(|there| Ok(there && disk.list(dir)?.is_empty()));
    let made = there.and_then(|empty| {
        if empty {
            // Left by an attempt whose sync failed: its name may not be durable, and syncing again would not tell.
            disk.remove_dir_all(dir)?;
        }
        disk.create_dir_all(dir)
    });
    made.map_err(creating)?;
    // A timeline is found by way of this name.
    above.sync(disk, ticket).map_err(StorageError::io("fsync of", above.path()))
}

impl TimelineStorage {
    /// Builds a timeline in `staging`, which must not exist, and moves it to `target` in `parent`, which is there
    /// durably (see [`make_parent`]); durable when this returns.
    ///
    /// The directory above `staging` is synced too, behind the other: a file system without a journal may keep the old
    /// name beside the new one over a power loss, and wiping it at the next start would empty the timeline.
    ///
    /// # Errors
    /// Whatever the disk says. Nothing is left at `target`; when the last directory sync failed and power goes before
    /// the move back is durable, it may be there after a restart, whole.
    pub fn create(
        disk: &Arc<dyn Disk>,
        (above, staging): (&SharedDir, &Path),
        (parent, target): (&SharedDir, &Path),
        state: &ControlState,
        prehistory: Bytes,
    ) -> Result<(), StorageError> {
        let built = Self::build(disk, staging, state, prehistory).and_then(|()| {
            let tickets = [(parent, parent.begin()), (above, above.begin())];
            disk.rename(staging, target).map_err(StorageError::io("renaming to", target))?;
            Ok(tickets)
        });
        let tickets = match built {
            Ok(tickets) => tickets,
            Err(e) => {
                // Wiped at the next start in any case.
                if let Err(e) = disk.remove_dir_all(staging) {
                    tracing::debug!(error = %e, "half-built timeline not removed");
                }
                return Err(e);
            }
        };
        // The new name is what is acknowledged, and that the old one is gone.
        let synced = tickets
            .into_iter()
            .try_for_each(|(dir, ticket)| dir.sync(&**disk, ticket).map_err(StorageError::io("fsync of", dir.path())));
        if synced.is_err() {
            // Its name may not be durable, and syncing again would not tell: a repeated request builds it anew. Moved
            // back and not removed: a removal that is durable before the move would leave half a timeline at `target`.
            if let Err(e) = disk.rename(target, staging) {
                tracing::warn!(error = %e, path = %target.display(), "a timeline whose creation failed is not removed");
            }
        }
        synced
    }

    fn build(
        disk: &Arc<dyn Disk>,
        staging: &Path,
        state: &ControlState,
        prehistory: Bytes,
    ) -> Result<(), StorageError> {
        disk.create_dir_all(staging).map_err(StorageError::io("creating", staging))?;
        // Each file's content is synced: the target's name must never be durable without it.
        WalStorage::create(Arc::clone(disk), staging, state, prehistory)?;
        TimelineControlFile::create(&**disk, staging, state)?;
        // And so must the names inside.
        disk.fsync_dir(staging).map_err(StorageError::io("fsync of", staging))
    }

    /// Opens a timeline: what is given out is durable, and behind the end of the log there are only zeros.
    ///
    /// # Errors
    /// See [`StorageError`]; [`StorageError::is_corruption`] when it must not be served.
    pub fn open(disk: &Arc<dyn Disk>, dir: &Path) -> Result<FoundTimeline, StorageError> {
        Self::open_as(disk, dir, Opening::Anew)
    }

    /// Opens a timeline at the start of a process that called [`Disk::sync_all`] before it touched anything. What is
    /// given out is durable, and may be reported, only after another [`Disk::sync_all`]: one for all timelines,
    /// instead of two syncs for each that has no WAL.
    ///
    /// The control file's state is written anew, as ever: only so does the later sync cover pages that look clean and
    /// are not on disk. A directory from which nothing is removed is not synced: the first `sync_all` did it, and a
    /// removal that it did not cover brings back no more than a segment that begins with zeros.
    ///
    /// # Errors
    /// As for [`TimelineStorage::open`].
    pub fn open_at_start(disk: &Arc<dyn Disk>, dir: &Path) -> Result<FoundTimeline, StorageError> {
        Self::open_as(disk, dir, Opening::AtStart)
    }

    /// Opens a timeline that this process created just now, without a write.
    ///
    /// # Errors
    /// As for [`TimelineStorage::open`].
    pub fn open_fresh(disk: &Arc<dyn Disk>, dir: &Path) -> Result<FoundTimeline, StorageError> {
        Self::open_as(disk, dir, Opening::Fresh)
    }

    fn open_as(disk: &Arc<dyn Disk>, dir: &Path, opening: Opening) -> Result<FoundTimeline, StorageError> {
        let (control, state) = TimelineControlFile::read(&**disk, dir)?;
        if opening != Opening::Fresh {
            control.write_anew()?;
        }
        if opening == Opening::Anew {
            control.sync()?;
        }
        let durable = control.durable_lsn();
        let (wal, end) = match opening {
            Opening::Fresh => WalStorage::open_fresh(Arc::clone(disk), dir, &state)?,
            Opening::AtStart | Opening::Anew => {
                WalStorage::open(Arc::clone(disk), dir, &state, durable, opening == Opening::AtStart)?
            }
        };
        let mut storage = TimelineStorage { control, state: state.clone(), wal };
        if let Some(end) = end {
            storage.forget_durable(end.flush_lsn)?;
        }
        Ok((storage, state, end))
    }

    /// The timeline's log in segment files.
    pub fn wal(&self) -> &WalStorage {
        &self.wal
    }

    /// The state as it is on disk.
    pub fn persisted(&self) -> &ControlState {
        &self.state
    }

    /// See [`WalStorage::write`].
    ///
    /// # Errors
    /// As there.
    pub fn write(&mut self, begin: Lsn, bufs: &[Bytes]) -> Result<(), StorageError> {
        self.wal.write(begin, bufs)
    }

    /// See [`WalStorage::flush`].
    ///
    /// # Errors
    /// As there.
    pub fn flush(&mut self) -> Result<(), StorageError> {
        self.wal.flush()?;
        self.vouch()
    }

    /// See [`WalStorage::truncate`].
    ///
    /// # Errors
    /// As there.
    pub fn truncate(&mut self, to: Lsn) -> Result<LogEnd, StorageError> {
        self.forget_durable(to)?;
        let end = self.wal.truncate(to, &self.state)?;
        self.vouch()?;
        Ok(end)
    }

    /// Notes that the bytes up to the end are durable, when no record vouches for all of them. Rare: after a crash of
    /// the primary in the middle of a record.
    fn vouch(&mut self) -> Result<(), StorageError> {
        if let Some(to) = self.wal.write_lsn().filter(|_| self.wal.unvouched()) {
            self.control.note_durable(&self.state, to)?;
            self.wal.vouched();
        }
        Ok(())
    }

    /// What comes behind `end` from now on is not durable, whatever was there before.
    fn forget_durable(&mut self, end: Lsn) -> Result<(), StorageError> {
        if self.control.durable_lsn() > Some(end) {
            self.control.note_durable(&self.state, end)?;
        }
        Ok(())
    }

    /// See [`TimelineControlFile::persist`].
    ///
    /// # Errors
    /// As there.
    pub fn persist(&mut self, state: &ControlState) -> Result<(), StorageError> {
        self.control.persist(state)?;
        self.state = state.clone();
        Ok(())
    }

    /// See [`WalStorage::rest`].
    ///
    /// # Errors
    /// As there.
    pub fn rest(&mut self) -> Result<(), StorageError> {
        self.wal.rest()
    }
}
