//! The way to a directory, step by step from the root of the file system, past nobody's links but root's.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use node::users;
use node::users::User;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use crate::usage::UsageError;

/// As many links as Linux follows on a way.
const LINKS_MAX: usize = 40;
/// Group or others may write.
pub(super) const OTHERS_WRITE: u32 = 0o022;
/// Only owners rename and remove what is in a directory that others can write in.
const STICKY: u32 = 0o1000;
/// Others may pass through.
const OTHERS_PASS: u32 = 0o001;

/// How far a way leads.
pub(super) struct Way {
    /// The last directory that is there.
    pub(super) at: OwnedFd,
    /// Path of the directory.
    path: PathBuf,
    /// What is missing below it.
    pub(super) missing: VecDeque<OsString>,
    /// The directory on the way that is directly below the system's temporary one.
    temp: Option<OwnedFd>,
}

/// Opens a directory that is no link.
pub(super) fn open(at: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// Whether only root puts names into this directory, or takes them away.
fn is_roots_alone(at: &OwnedFd) -> rustix::io::Result<bool> {
    let stat = rustix::fs::fstat(at)?;
    Ok(stat.st_uid == 0 && (stat.st_mode & OTHERS_WRITE == 0 || stat.st_mode & STICKY != 0))
}

fn steps(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    let steps = path.components().filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir));
    steps.map(|c| c.as_os_str().to_owned())
}

impl Way {
    /// Goes to the absolute `path` as far as it is there. It must not be a link itself. `option` names it in errors.
    pub(super) fn to(option: &str, path: &Path) -> Result<Way> {
        let mut way = Way {
            at: std::fs::File::open("/").context("cannot open /")?.into(),
            path: PathBuf::from("/"),
            missing: steps(path).collect(),
            temp: None,
        };
        let (temp, mut links) = (std::env::temp_dir(), 0);
        while let Some(name) = way.missing.pop_front() {
            let next = way.path.join(&name);
            let told = || format!("{option} {}: cannot look at {}", path.display(), next.display());
            let stat = match rustix::fs::statat(&way.at, &name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {
                    way.missing.push_front(name);
                    break;
                }
                stat => stat.with_context(told)?,
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    way.at = open(&way.at, &name).with_context(told)?;
                    if way.path == temp {
                        way.temp = Some(way.at.try_clone()?);
                    }
                    way.path = next;
                }
                FileType::Symlink => {
                    links += 1;
                    way.follow(option, &name, &stat, links)?;
                }
                _ => {
                    let text = format!("{option} {}: {} is not a directory", path.display(), next.display());
                    return Err(UsageError(text).into());
                }
            }
        }
        Ok(way)
    }

    /// Follows a link of root's: nobody else could have put it there.
    fn follow(&mut self, option: &str, name: &OsStr, link: &Stat, links: usize) -> Result<()> {
        let path = self.path.join(name);
        let roots = link.st_uid == 0 && is_roots_alone(&self.at)?;
        if !roots || self.missing.is_empty() || links > LINKS_MAX {
            let text = format!(
                "{option}: root does not follow the link {} of {}: give the path that it leads to",
                path.display(),
                users::name_of(link.st_uid)
            );
            return Err(UsageError(text).into());
        }
        let target = rustix::fs::readlinkat(&self.at, name, Vec::new())
            .with_context(|| format!("cannot read the link {}", path.display()))?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        if target.is_absolute() {
            (self.at, self.path) = (std::fs::File::open("/")?.into(), PathBuf::from("/"));
        }
        steps(&target).rev().for_each(|step| self.missing.push_front(step));
        Ok(())
    }

    pub(super) fn stat(&self) -> Result<Stat> {
        rustix::fs::fstat(&self.at).with_context(|| format!("cannot look at {}", self.path.display()))
    }

    pub(super) fn is_roots_alone(&self) -> Result<bool> {
        is_roots_alone(&self.at).with_context(|| format!("cannot look at {}", self.path.display()))
    }

    /// Makes the first directory that is missing, for the user alone, who makes the others. In a directory of somebody
    /// else root makes nothing: what it has made there could be another thing at once.
    pub(super) fn make_next(&self, user: &User) -> Result<()> {
        let Some(name) = self.missing.front() else { return Ok(()) };
        if !self.is_roots_alone()? {
            return Ok(());
        }
        let make = || -> rustix::io::Result<()> {
            rustix::fs::mkdirat(&self.at, name, Mode::RWXU)?;
            let made = open(&self.at, name)?;
            rustix::fs::fchown(&made, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)))?;
            rustix::fs::fsync(&self.at)
        };
        make().with_context(|| format!("cannot make {} for {}", self.path.join(name).display(), user.name))
    }

    /// Lets others pass through a directory as `mktemp -d` makes it, root's, directly below the system's temporary one:
    /// it was made for such a use. No other directory on the way is changed.
    pub(super) fn open_private_temp(&self, user: &User) -> Result<()> {
        let Some(temp) = &self.temp else { return Ok(()) };
        let (stat, end) = (rustix::fs::fstat(temp)?, self.stat()?);
        let is_end = (stat.st_dev, stat.st_ino) == (end.st_dev, end.st_ino) && self.missing.is_empty();
        if stat.st_uid != 0 || is_end || stat.st_mode & OTHERS_PASS != 0 {
            return Ok(());
        }
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777 | OTHERS_PASS);
        let opened = rustix::fs::fchmod(temp, mode);
        opened.with_context(|| format!("cannot open the way to {} for {}", self.path.display(), user.name))
    }
}
