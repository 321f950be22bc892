//! The calls of a fake disk that concern names.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::FakeDisk;
use super::file::FakeFile;
use super::pages::FileData;
use super::state::{Inode, IoFault, Lie, injected, not_found};
use crate::{DirEntry, Disk, DiskFile, OpenMode};

impl Disk for FakeDisk {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        state.make_dirs(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        if mode == OpenMode::CreateNew {
            state.change()?
        } else {
            state.look()?
        }
        let (parent, name) = state.parent_of(path)?;
        let found = state.dir(parent)?.names.get(&name).copied();
        let ino = match (found, mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::Error::from(io::ErrorKind::AlreadyExists)),
            (Some(ino), _) => ino,
            (None, OpenMode::CreateNew) => {
                let ino = state.add(Inode::File(FileData::default()));
                state.dir_mut(parent)?.put(name, ino);
                ino
            }
            (None, _) => return Err(not_found(path)),
        };
        Ok(Arc::new(FakeFile { disk: Arc::clone(&self.0), ino, epoch: state.epoch }))
    }

    fn fsync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        let ino = state.resolve(path)?;
        if state.strikes(IoFault::SyncDir) {
            state.dir_mut(ino)?.failed_sync();
            return Err(injected("directory sync"));
        }
        if !state.lies(Lie::NoDirSync) {
            state.dir_mut(ino)?.sync();
        }
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        if state.strikes(IoFault::Link) {
            return Err(injected("link"));
        }
        let ino = state.resolve(from)?;
        let (parent, name) = state.parent_of(to)?;
        if state.dir(parent)?.names.contains_key(&name) && !state.lies(Lie::LinkReplaces) {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists));
        }
        state.dir_mut(parent)?.put(name, ino);
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        let (from_dir, from_name) = state.parent_of(from)?;
        let (to_dir, to_name) = state.parent_of(to)?;
        let ino = *state.dir(from_dir)?.names.get(&from_name).ok_or_else(|| not_found(from))?;
        let replaced = state.dir(to_dir)?.names.get(&to_name).copied();
        if replaced.is_some_and(|ino| state.dir(ino).is_ok_and(|dir| !dir.names.is_empty())) {
            return Err(io::Error::from(io::ErrorKind::DirectoryNotEmpty));
        }
        state.dir_mut(from_dir)?.take(&from_name);
        state.dir_mut(to_dir)?.put(to_name, ino);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        if state.strikes(IoFault::Remove) {
            return Err(injected("removal"));
        }
        if state.lies(Lie::NoRemoval) {
            return Ok(());
        }
        let (parent, name) = state.parent_of(path)?;
        if state.dir_mut(parent)?.take(&name) { Ok(()) } else { Err(not_found(path)) }
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        if !state.dir(state.resolve(path)?)?.names.is_empty() {
            return Err(io::Error::from(io::ErrorKind::DirectoryNotEmpty));
        }
        let (parent, name) = state.parent_of(path)?;
        state.dir_mut(parent)?.take(&name);
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        if let Ok((parent, name)) = state.parent_of(path) {
            state.dir_mut(parent)?.take(&name);
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let state = self.lock();
        state.look()?;
        let ino = state.resolve(path)?;
        let entry = |(name, ino): (&String, &u64)| {
            let len = state.file(*ino).map_or(0, |f| f.len);
            DirEntry { name: name.clone(), is_dir: state.dir(*ino).is_ok(), len }
        };
        Ok(state.dir(ino)?.names.iter().map(entry).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let state = self.lock();
        state.look()?;
        Ok(state.resolve(path).is_ok())
    }

    fn sync_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.lock();
        state.change()?;
        state.resolve(path)?;
        if state.strikes(IoFault::Sync) {
            return Err(injected("sync"));
        }
        if state.lies(Lie::NoSyncAll) {
            return Ok(());
        }
        let leaves_names = state.lies(Lie::NoDirSync);
        for inode in state.inodes.values_mut() {
            match inode {
                Inode::File(file) => file.sync(),
                Inode::Dir(dir) if !leaves_names => dir.sync(),
                Inode::Dir(_) => {}
            }
        }
        Ok(())
    }

    fn free(&self, path: &Path) -> io::Result<u64> {
        let state = self.lock();
        state.look()?;
        state.resolve(path)?;
        Ok(state.capacity.saturating_sub(state.used()))
    }
}
