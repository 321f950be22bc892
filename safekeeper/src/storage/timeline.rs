//! One timeline's directory: the control file and the WAL together.
//!
//! Owner of both files' handles. A directory exists wholly or not at all: it is built elsewhere, synced, and renamed.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use pgformat::Lsn;

use super::control::ControlFile;
use super::disk::Disk;
use super::error::StorageError;
use super::wal::WalStorage;
use crate::core::{ControlState, LogEnd};

/// An open timeline directory.
#[derive(Debug)]
pub struct TimelineStorage {
    control: ControlFile,
    /// As persisted.
    state: ControlState,
    wal: WalStorage,
}

impl TimelineStorage {
    /// Builds a timeline in `staging`, which must not exist, and moves it to `target`; durable when this returns.
    ///
    /// # Errors
    /// Whatever the disk says. Nothing is left at `target`; when the last directory sync failed and power goes before
    /// the removal is durable, it may be there after a restart, whole.
    pub fn create(
        disk: &Arc<dyn Disk>,
        staging: &Path,
        target: &Path,
        state: &ControlState,
        prehistory: Bytes,
    ) -> Result<(), StorageError> {
        let built = Self::build(disk, staging, state, prehistory).and_then(|()| {
            let parent = target.parent().unwrap_or(target);
            disk.create_dir_all(parent).map_err(StorageError::io("creating", parent))?;
            if let Some(above) = parent.parent() {
                disk.fsync_dir(above).map_err(StorageError::io("fsync of", above))?;
            }
            disk.rename(staging, target).map_err(StorageError::io("renaming to", target))
        });
        if let Err(e) = built {
            // Wiped at the next start in any case.
            if let Err(e) = disk.remove_dir_all(staging) {
                tracing::debug!(error = %e, "half-built timeline not removed");
            }
            return Err(e);
        }
        let synced = [target.parent(), staging.parent()]
            .into_iter()
            .flatten()
            .try_for_each(|dir| disk.fsync_dir(dir).map_err(StorageError::io("fsync of", dir)));
        if synced.is_err() {
            // Its name may not be durable, and syncing again would not tell: a repeated request builds it anew.
            if let Err(e) = disk.remove_dir_all(target) {
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
        WalStorage::create(Arc::clone(disk), staging, state, prehistory)?;
        ControlFile::create(&**disk, staging, state)?;
        for dir in [Some(staging), staging.parent()].into_iter().flatten() {
            disk.fsync_dir(dir).map_err(StorageError::io("fsync of", dir))?;
        }
        Ok(())
    }

    /// Opens a timeline: what is given out is durable, and behind the end of the log there are only zeros.
    ///
    /// # Errors
    /// See [`StorageError`]; [`StorageError::is_corruption`] when it must not be served.
    pub fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
    ) -> Result<(TimelineStorage, ControlState, Option<LogEnd>), StorageError> {
        let (control, state) = ControlFile::open(&**disk, dir)?;
        let (wal, end) = WalStorage::open(Arc::clone(disk), dir, &state, control.durable_lsn())?;
        let mut storage = TimelineStorage { control, state: state.clone(), wal };
        if let Some(end) = end {
            storage.forget_durable(end.flush_lsn)?;
        }
        Ok((storage, state, end))
    }

    /// The log.
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

    /// See [`ControlFile::persist`].
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
