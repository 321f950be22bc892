//! An open file of a fake disk.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use fastrand::Rng;

use super::pages::{FileData, copy_out};
use super::state::{FakeState, Inode, IoFault, Lie, injected};
use crate::DiskFile;

/// A handle; it is dead when the node went down since it was opened.
#[derive(Clone)]
pub(super) struct FakeFile {
    pub(super) disk: Arc<Mutex<FakeState>>,
    pub(super) ino: u64,
    pub(super) epoch: u64,
}

impl std::fmt::Debug for FakeFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FakeFile({})", self.ino)
    }
}

impl FakeFile {
    fn lock(&self) -> MutexGuard<'_, FakeState> {
        self.disk.lock().expect("no panic while the lock is held")
    }

    fn check_alive(&self, state: &FakeState) -> io::Result<()> {
        if state.epoch == self.epoch { Ok(()) } else { Err(io::Error::other("a handle of a dead process")) }
    }

    /// Looks at the file's data, when the node is up and the handle is of this life.
    fn look<T>(&self, work: impl FnOnce(&FileData) -> T) -> io::Result<T> {
        let state = self.lock();
        state.look()?;
        self.check_alive(&state)?;
        state.file(self.ino).map(work).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    /// Changes the file's data; `state` was told of the call.
    fn with<T>(&self, state: &mut FakeState, work: impl FnOnce(&mut FileData, &mut Rng) -> T) -> io::Result<T> {
        self.check_alive(state)?;
        let mut rng = state.rng.fork();
        match state.inodes.get_mut(&self.ino) {
            Some(Inode::File(file)) => Ok(work(file, &mut rng)),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }

    fn sync(&self, lie: Lie) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        let fails = state.strikes(IoFault::Sync);
        let skips = state.lies(lie) && !fails;
        self.with(&mut state, |file, rng| match (skips, fails) {
            (true, _) => {}
            (false, true) => file.failed_sync(rng),
            (false, false) => file.sync(),
        })?;
        if fails { Err(injected("sync")) } else { Ok(()) }
    }

    /// A write that ends in the middle leaves a part of its bytes behind.
    fn torn_write(&self, state: &mut FakeState, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check_alive(state)?;
        let part = state.rng.usize(0..=data.len());
        if let Some(file) = state.file_mut(self.ino) {
            file.write(offset, &data[..part]);
        }
        Ok(())
    }
}

impl DiskFile for FakeFile {
    fn write_at(&self, offset: u64, bufs: &[Bytes]) -> io::Result<()> {
        let mut state = self.lock();
        let data = bufs.concat();
        let was_down = state.is_down;
        if let Err(down) = state.change() {
            if !was_down {
                self.torn_write(&mut state, offset, &data)?;
            }
            return Err(down);
        }
        if state.strikes(IoFault::Write) {
            self.torn_write(&mut state, offset, &data)?;
            return Err(injected("write"));
        }
        let fits = match state.room_for(self.ino, offset + data.len() as u64) {
            Ok(()) => data.len(),
            Err(end) => usize::try_from(end.saturating_sub(offset)).unwrap_or(0).min(data.len()),
        };
        let same = state.lies(Lie::NoRewrite) && state.file(self.ino).is_some_and(|f| f.shows(offset, &data));
        self.with(&mut state, |file, _| {
            if !same {
                file.write(offset, &data[..fits]);
            }
        })?;
        if fits < data.len() { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if self.lock().strikes(IoFault::Read) {
            return Err(injected("read"));
        }
        self.look(|file| {
            let n = usize::try_from(file.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(buf.len());
            copy_out(&file.cache, offset, &mut buf[..n]);
            n
        })
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        if state.room_for(self.ino, len).is_err() {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        self.with(&mut state, |file, _| file.len = file.len.max(len))
    }

    fn zero_range(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        let skips = state.lies(Lie::NoZeroing);
        self.with(&mut state, |file, _| {
            if !skips {
                file.zero(offset, len);
            }
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        self.with(&mut state, |file, _| file.cut(len))
    }

    fn len(&self) -> io::Result<u64> {
        self.look(|file| file.len)
    }

    fn fdatasync(&self) -> io::Result<()> {
        self.sync(Lie::NoFdatasync)
    }

    fn fsync(&self) -> io::Result<()> {
        self.sync(Lie::NoFsync)
    }
}
