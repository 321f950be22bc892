//! Whose directory a fabric may take: an empty one, or the fabric that is in it, of the same user.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use anyhow::{Context, Result};
use proto::runtime::users;

use crate::fabric::{FabricDir, Usage};
use crate::postgres::{self, RunAs};

/// The folder that outlives a bring-up that failed: it says why.
pub(super) const LOGS: &str = "log";

/// Mode of a fabric's directory.
const PRIVATE: u32 = 0o700;

/// What an interrupted or failed `up` leaves behind, and the root of a file system: no hindrance to a new fabric.
const NO_HINDRANCE: [&str; 7] =
    [LOGS, "plan.json", "plan.json.new", "fabric.json.new", "supervisor.lock", "supervisor.sock", "lost+found"];

/// Makes the directory where it is missing, gives it to the user who runs the processes, and closes it to others.
///
/// # Errors
/// What the operating system says; [`Usage`] when the user cannot get there.
pub(super) fn make(dir: &FabricDir, user: RunAs) -> Result<()> {
    let root = dir.root();
    postgres::make_dirs(&root.join(LOGS), user)?;
    postgres::give(root, user)?;
    postgres::check_reachable(root, user)?;
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
pub(super) fn check(dir: &FabricDir, fresh: bool, user: RunAs) -> Result<()> {
    let root = dir.root();
    let meta = match std::fs::metadata(root) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        meta => meta.with_context(|| format!("cannot look at {}", root.display()))?,
    };
    if !meta.is_dir() {
        return Err(Usage(format!("--dir {} is not a directory", root.display())).into());
    }
    let me = rustix::process::geteuid().as_raw();
    let runs = user.map_or(me, |(uid, _)| uid);
    if meta.uid() != me && meta.uid() != runs {
        let (owner, runs) = (users::name_of(meta.uid()), users::name_of(runs));
        let text = format!(
            "{} belongs to {owner}, and the processes would run as {runs}: run this as the owner (root: --run-as), or \
             use another --dir",
            root.display()
        );
        return Err(Usage(text).into());
    }
    if !fresh {
        return Ok(());
    }
    for entry in std::fs::read_dir(root).with_context(|| format!("cannot list {}", root.display()))? {
        let name = entry?.file_name();
        if !NO_HINDRANCE.iter().any(|known| name == *known) {
            let text = format!(
                "{} is not empty ({} is in it) and is no fabric (fabric.json is missing): use an empty or a new --dir",
                root.display(),
                name.display()
            );
            return Err(Usage(text).into());
        }
    }
    Ok(())
}
