//! Whose directory a fabric may take: an empty one, or the fabric that is in it, of the same user.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use anyhow::{Context, Result};

use crate::fabric::{FabricDir, Usage};

/// The folder that outlives a bring-up that failed: it says why.
pub(super) const LOGS: &str = "log";

/// What an interrupted or failed `up` leaves behind, and the root of a file system: no hindrance to a new fabric.
const NO_HINDRANCE: [&str; 7] =
    [LOGS, "plan.json", "plan.json.new", "fabric.json.new", "supervisor.lock", "supervisor.sock", "lost+found"];

/// Makes the directory where it is missing, and closes it to others.
///
/// # Errors
/// What the operating system says.
pub(super) fn make(dir: &FabricDir) -> Result<()> {
    let root = dir.root();
    std::fs::create_dir_all(root.join(LOGS)).with_context(|| format!("cannot create {}", root.display()))?;
    let mode = std::fs::metadata(root)?.permissions().mode() & 0o7777;
    // Root's PostgreSQL is another user's, and passes through.
    let wanted = if rustix::process::geteuid().is_root() { 0o711 } else { 0o700 };
    if mode & 0o077 & !wanted != 0 {
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(wanted))
            .with_context(|| format!("cannot close {} to other users", root.display()))?;
        println!("{} was open to other users (mode {mode:04o}): it is {wanted:04o} now", root.display());
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
        return Err(Usage(format!("--dir {} is not a directory", root.display())).into());
    }
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != me {
        let (owner, me) = (proto::runtime::users::name_of(meta.uid()), proto::runtime::users::name_of(me));
        let text =
            format!("{} belongs to {owner}, and this is {me}: run as its owner, or use another --dir", root.display());
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
