//! Whose directory a fabric may take: an empty one, or the fabric that is in it, of the same user.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use node::users;

use crate::fabric::FabricDir;
use crate::usage::UsageError;

/// The folder that outlives a bring-up that failed: it says why.
pub(super) const LOGS: &str = "log";

/// Mode of a fabric's directory.
const PRIVATE: u32 = 0o700;

/// What an interrupted or failed `up` leaves behind, and the root of a file system: no hindrance to a new fabric.
const NO_HINDRANCE: [&str; 9] = [
    LOGS,
    "plan.json",
    "plan.json.tmp",
    "fabric.json.tmp",
    // As versions before this one named them.
    "plan.json.new",
    "fabric.json.new",
    "supervisor.lock",
    "supervisor.sock",
    "lost+found",
];

/// Makes the directory where it is missing, and closes it to others.
///
/// # Errors
/// What the operating system says.
pub(super) fn make(dir: &FabricDir) -> Result<()> {
    let root = dir.root();
    make_dirs(&root.join(LOGS))?;
    let mode = std::fs::metadata(root)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(PRIVATE))
            .with_context(|| format!("cannot close {} to other users", root.display()))?;
        println!("{} was open to other users (mode {mode:04o}): it is {PRIVATE:04o} now", root.display());
    }
    Ok(())
}

/// Checks a directory before anything is written into it; one that is missing is as good as an empty one.
///
/// # Errors
/// [`Usage`] when it belongs to another user, or has files of something else than a fabric.
pub(super) fn check(dir: &FabricDir, fresh: bool) -> Result<()> {
    let root = dir.root();
    let meta = match std::fs::metadata(root) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        meta => meta.with_context(|| format!("cannot look at {}", root.display()))?,
    };
    if !meta.is_dir() {
        return Err(UsageError(format!("--dir {} is not a directory", root.display())).into());
    }
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != me {
        let (owner, runs) = (users::name_of(meta.uid()), users::name_of(me));
        let text = format!(
            "{} belongs to {owner}, and the processes would run as {runs}: run this as the owner (root: --run-as), or \
             use another --dir",
            root.display()
        );
        return Err(UsageError(text).into());
    }
    if !fresh {
        return Ok(());
    }
    let names = std::fs::read_dir(root).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
    let names: Vec<OsString> = names.with_context(|| format!("cannot list {}", root.display()))?;
    refuse_foreign(root, &names)
}

/// Checks that what is in a directory is no hindrance to a new fabric.
///
/// # Errors
/// [`Usage`] with the name of what is.
pub(crate) fn refuse_foreign(root: &Path, names: &[OsString]) -> Result<()> {
    for name in names {
        if !NO_HINDRANCE.iter().any(|known| name == *known) {
            let text = format!(
                "{} is not empty ({} is in it) and is no fabric (fabric.json is missing): use an empty or a new --dir",
                root.display(),
                name.display()
            );
            return Err(UsageError(text).into());
        }
    }
    Ok(())
}

/// Checks as whom the fabric is to run: as the caller, whom root has become.
///
/// # Errors
/// [`Usage`] when another one is named.
pub(super) fn check_user(told: Option<&str>) -> Result<()> {
    let me = rustix::process::geteuid();
    ensure!(!me.is_root(), "root runs no fabric: it becomes the fabric's user first");
    match told {
        Some(name) if users::named(name).is_none_or(|user| user.uid != me.as_raw()) => {
            Err(UsageError(format!("--run-as {name}: only root runs a fabric as another user")).into())
        }
        _ => Ok(()),
    }
}

/// Makes the directories that are missing on the way to `dir`, for this user alone.
///
/// # Errors
/// Names what cannot be made.
pub(super) fn make_dirs(dir: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(PRIVATE).create(dir);
    made.with_context(|| format!("cannot make {} as {}", dir.display(), me()))
}

/// Makes sure that this user can pass through every directory on the way to `dir`, which may be missing.
///
/// # Errors
/// [`Usage`] with the directory that is closed, and what to do.
pub(super) fn check_reachable(dir: &Path) -> Result<()> {
    for closed in dir.ancestors() {
        let Some(inside) = closed.parent() else { continue };
        if std::fs::symlink_metadata(closed).is_err_and(|e| e.kind() == ErrorKind::PermissionDenied)
            && std::fs::symlink_metadata(inside).is_ok()
        {
            let text = format!(
                "{}, who runs the fabric, cannot pass through {}: `chmod o+x {1}`, choose another directory, or (root) \
                 --run-as another user",
                me(),
                inside.display()
            );
            return Err(UsageError(text).into());
        }
    }
    Ok(())
}

fn me() -> String {
    users::name_of(rustix::process::geteuid().as_raw())
}
