//! What root does for a fabric: it decides whose the fabric is, makes what only root can make, and becomes that user.
//!
//! A fabric's directory is its user's, who may put there what it likes. So root takes nothing from it: it looks only at
//! what its own command line names, follows nobody else's links, and starts this program anew as that user, with the
//! same arguments. Everything else is done there. Root changes:
//!
//! - the first missing directory on the way to the fabric, or to its pages: it is made and given to the user;
//! - a fabric of an older version that is still root's, in which nobody else could write: it is given to the user.

mod way;

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use node::users;
use node::users::User;
use rustix::fs::{AtFlags, FileType, Gid, Stat, Uid};

use crate::supervisor::OWN_PROGRAM;
use crate::up::directory;
use crate::usage::UsageError;
use way::{OTHERS_WRITE, Way};

/// The user who runs a new fabric for root.
const DEFAULT_USER: &str = "postgres";

/// What root was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Directory of the fabric.
    pub dir: &'a Path,
    /// Directory of PostgreSQL's programs.
    pub pg_bin: Option<&'a Path>,
    /// What may have to be made; `None`: the fabric must be there.
    pub makes: Option<Makes<'a>>,
}

/// What may have to be made for a fabric.
#[derive(Clone, Copy, Debug, Default)]
pub struct Makes<'a> {
    /// As whom the fabric shall run.
    pub run_as: Option<&'a str>,
    /// Where its pages shall be.
    pub remote_storage: Option<&'a str>,
}

/// Root becomes the fabric's user, by starting this program anew; for anybody else nothing happens.
///
/// Call it before there are threads.
///
/// # Errors
/// When it is not clear as whom the fabric runs, or what was asked for cannot be made. It returns only then.
pub fn step_down(asked: &Asked<'_>) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let dir = std::path::absolute(asked.dir)?;
    let user = match &asked.makes {
        Some(makes) => prepare(&dir, makes)?,
        None => owner(&dir)?,
    };
    become_user(&user, arguments(asked)?)
}

/// Owner of a fabric that must be there.
fn owner(dir: &Path) -> Result<User> {
    let way = Way::to("--dir", dir)?;
    ensure!(way.missing.is_empty(), "no fabric in {}: run `walfabric up --dir {0}` first", dir.display());
    match way.stat()?.st_uid {
        0 => Err(UsageError(format!(
            "{} belongs to root, who runs no fabric: `walfabric up --dir {0}` gives it to the user who shall run it",
            dir.display()
        ))
        .into()),
        uid => known(dir, uid),
    }
}

fn known(dir: &Path, uid: u32) -> Result<User> {
    let unknown = || {
        let text = format!("{} belongs to user {uid}, who is not in /etc/passwd: run this as that user", dir.display());
        UsageError(text).into()
    };
    users::of(uid).ok_or_else(unknown)
}

/// The user whom root has named, or the usual one.
fn named(told: Option<&str>) -> Result<User> {
    let name = told.unwrap_or(DEFAULT_USER);
    let user = users::named(name).ok_or_else(|| {
        UsageError(format!(
            "there is no user `{name}` to run the fabric's processes as, which root does not: --run-as USER"
        ))
    })?;
    if user.uid == 0 {
        return Err(UsageError("--run-as root: PostgreSQL and the servers do not run as root".to_owned()).into());
    }
    Ok(user)
}

/// Makes what only root can make; gives the user who does the rest, and who refuses what is not his own.
fn prepare(dir: &Path, makes: &Makes<'_>) -> Result<User> {
    let way = Way::to("--dir", dir)?;
    let uid = way.stat()?.st_uid;
    let there = way.missing.is_empty();
    let user = match makes.run_as {
        None if there && uid != 0 && exists(&way.at, "fabric.json")? => known(dir, uid)?,
        told => named(told)?,
    };
    way.open_private_temp(&user)?;
    if !there {
        way.make_next(&user)?;
    } else if uid == 0 {
        take_over(dir, &way, &user)?;
    }
    let folder = makes.remote_storage.and_then(|url| url.strip_prefix("file://")).map(Path::new);
    if let Some(folder) = folder.filter(|folder| folder.is_absolute()) {
        pages(folder, &user)?;
    }
    Ok(user)
}

/// An empty directory of root's, or a fabric of an older version, becomes the user's.
fn take_over(dir: &Path, way: &Way, user: &User) -> Result<()> {
    let names = names(&way.at).with_context(|| format!("cannot list {}", dir.display()))?;
    if !names.iter().any(|name| name == "fabric.json") {
        directory::refuse_foreign(dir, &names)?;
    }
    if !names.is_empty() && way.stat()?.st_mode & OTHERS_WRITE != 0 {
        let text =
            format!("others than root can write in {}: `chmod go-w {0}` after a look at what is there", dir.display());
        return Err(UsageError(text).into());
    }
    // It would do as root what the user writes into the fabric from now on.
    let supervisor = UnixStream::connect(format!("/proc/self/fd/{}/supervisor.sock", way.at.as_raw_fd()));
    if supervisor.is_ok() {
        let text =
            format!("the fabric in {} still runs as root: take it down with the version that runs", dir.display());
        return Err(UsageError(text).into());
    }
    give(&way.at, user).with_context(|| format!("cannot give {} to {}", dir.display(), users::name_of(user.uid)))
}

/// Makes the folder for pages, or gives those in it that an older version has written as root.
fn pages(folder: &Path, user: &User) -> Result<()> {
    let way = Way::to("--remote-storage", folder)?;
    way.open_private_temp(user)?;
    if !way.missing.is_empty() {
        return way.make_next(user);
    }
    if !way.is_roots_alone()? {
        return Ok(());
    }
    for name in names(&way.at)?.iter().filter(|name| name.as_encoded_bytes().starts_with(b"pageserver-")) {
        let stat = rustix::fs::statat(&way.at, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if stat.st_uid == 0 && is_dir(&stat) {
            let named = || format!("cannot give {} to {}", folder.join(name).display(), users::name_of(user.uid));
            give(&way::open(&way.at, name)?, user).with_context(named)?;
        }
    }
    Ok(())
}

/// Gives a directory and what is root's in it to the user, the directory last: given away, it has nothing of root's in
/// it. What belongs to others stays theirs, and links are not followed.
fn give(dir: &OwnedFd, user: &User) -> Result<()> {
    let (uid, gid) = (Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid)));
    for name in names(dir)? {
        let stat = rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        if stat.st_uid != 0 {
            continue;
        }
        if is_dir(&stat) {
            give(&way::open(dir, &name)?, user)?;
            continue;
        }
        // Under its other name it may be anything.
        ensure!(stat.st_nlink == 1, "{} has another name elsewhere: remove one of them", name.display());
        rustix::fs::chownat(dir, &name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(rustix::fs::fchown(dir, uid, gid)?)
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn exists(dir: &OwnedFd, name: &str) -> Result<bool> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

fn names(dir: &OwnedFd) -> Result<Vec<OsString>> {
    // What is open cannot be replaced by another directory meanwhile.
    let entries = std::fs::read_dir(format!("/proc/self/fd/{}", dir.as_raw_fd()))?;
    Ok(entries.map(|entry| Ok(entry?.file_name())).collect::<std::io::Result<_>>()?)
}

/// The arguments of this program, with whole paths: the user starts elsewhere.
fn arguments(asked: &Asked<'_>) -> Result<Vec<OsString>> {
    let mut words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let paths = [("--dir", Some(asked.dir)), ("--pg-bin", asked.pg_bin)];
    for (option, path) in
        paths.into_iter().filter_map(|(option, path)| Some((option, path.filter(|p| p.is_relative())?)))
    {
        make_whole(&mut words, option, path, &std::path::absolute(path)?);
    }
    Ok(words)
}

fn make_whole(words: &mut [OsString], option: &str, path: &Path, whole: &Path) {
    let joined = |path: &Path| {
        let mut word = OsString::from(format!("{option}="));
        word.push(path);
        word
    };
    for i in 0..words.len() {
        if words[i] == joined(path) {
            words[i] = joined(whole);
        } else if words[i] == path.as_os_str() && i > 0 && words[i - 1] == option {
            words[i] = whole.as_os_str().to_owned();
        }
    }
}

/// Starts this program anew as `user`, with that user's group alone, away from where root stands: a closed directory
/// that is somebody's current one is open to him.
fn become_user(user: &User, arguments: Vec<OsString>) -> Result<()> {
    let exe = std::env::current_exe().context("cannot find this program's own file")?;
    let mut command = Command::new(OWN_PROGRAM);
    command.arg0(std::env::args_os().next().unwrap_or_else(|| exe.clone().into())).args(arguments).current_dir("/");
    command.env("HOME", &user.home).env("USER", &user.name).env("LOGNAME", &user.name);
    // The standard library drops the supplementary groups of root together with its uid.
    let error = command.uid(user.uid).gid(user.gid).exec();
    let who = users::name_of(user.uid);
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        let text = format!("{who}, who runs the fabric for root, may not execute {}: `chmod o+x {0}`", exe.display());
        return Err(UsageError(text).into());
    }
    Err(error).with_context(|| format!("cannot start {} as {who}", exe.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_paths_of_the_options_are_made_whole() {
        let text = "up --pg-bin f --dir f --dir=f --initdb-option --dir f x";
        let mut words: Vec<OsString> = text.split(' ').map(OsString::from).collect();
        make_whole(&mut words, "--dir", Path::new("f"), Path::new("/w/f"));
        let words: Vec<_> = words.iter().filter_map(|word| word.to_str()).collect();
        assert_eq!(words.join(" "), "up --pg-bin f --dir /w/f --dir=/w/f --initdb-option --dir /w/f x");
    }
}
