//! A local PostgreSQL for a fabric: where its programs are, as whom it runs, how its cluster is made and configured.

mod initdb;

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use disk::{Disk, FsDisk, parent_of};
use node::users;

pub use initdb::InitdbOptions;

/// User and group to run processes as; `None`: the caller's.
pub type RunAs = Option<(u32, u32)>;

/// Finds the directory of PostgreSQL's programs: as told, else the newest supported Debian package (15 preferred), else
/// PATH.
///
/// # Errors
/// When there is none with initdb and postgres in it.
pub fn find_bin_dir(told: Option<&Path>) -> Result<PathBuf> {
    let complete = |dir: &Path| ["initdb", "postgres"].iter().all(|p| dir.join(p).is_file());
    if let Some(dir) = told {
        ensure!(complete(dir), "--pg-bin {}: there is no initdb and postgres in it", dir.display());
        return Ok(std::path::absolute(dir)?);
    }
    let debian = [15, 17, 16, 18, 14].iter().map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A relative one means something else in each directory.
    let listed = std::env::split_paths(&path).filter(|dir| dir.is_absolute());
    let found = debian.chain(listed).find(|dir| complete(dir));
    found.context("no PostgreSQL found: install one (Debian: apt-get install postgresql-15) or give --pg-bin DIR")
}

/// As whom a root that runs a PostgreSQL of its own, as the tests do, has to: as `postgres`; anybody else as himself.
///
/// # Errors
/// When the caller is root and there is no user `postgres`.
pub fn run_as() -> Result<RunAs> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let user = users::named("postgres").context("there is no user `postgres`, and PostgreSQL does not run as root")?;
    Ok(Some((user.uid, user.gid)))
}

/// Makes sure that the server's user can enter every directory above `dir`, which must exist.
///
/// The directory of the fabric itself was handed to us, so it is opened for passing through (`o+x`); others are not
/// touched.
///
/// # Errors
/// Names the directory that is closed, and what to do.
pub fn check_reachable(fabric_root: &Path, user: RunAs) -> Result<()> {
    let Some((uid, gid)) = user else { return Ok(()) };
    for dir in fabric_root.ancestors() {
        let meta = std::fs::metadata(dir).with_context(|| format!("cannot look at {}", dir.display()))?;
        let mode = meta.mode();
        let open =
            mode & 0o001 != 0 || (meta.uid() == uid && mode & 0o100 != 0) || (meta.gid() == gid && mode & 0o010 != 0);
        if open {
            continue;
        }
        ensure!(
            dir == fabric_root || is_own_private_temp(dir, &meta),
            "{}, who runs the processes for root, cannot pass through {}: `chmod o+x {1}`, choose another --dir, or \
             --run-as another user",
            users::name_of(uid),
            dir.display()
        );
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode & 0o7777 | 0o001))
            .with_context(|| format!("cannot open {} for passing through", dir.display()))?;
    }
    Ok(())
}

/// A directory as `mktemp -d` makes it, ours, directly below the system's temporary directory: made for such a use.
fn is_own_private_temp(dir: &Path, meta: &std::fs::Metadata) -> bool {
    dir.parent() == Some(&std::env::temp_dir()) && meta.uid() == rustix::process::geteuid().as_raw()
}

/// A command of PostgreSQL's, run as the right user.
pub fn command(bin_dir: &Path, program: &str, user: RunAs) -> Command {
    let mut command = Command::new(bin_dir.join(program));
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command.env("LC_ALL", "C.UTF-8").current_dir("/");
    command
}

/// Major version of the programs in a directory.
///
/// # Errors
/// When initdb cannot be run there.
pub(crate) fn major_of(bin_dir: &Path, user: RunAs) -> Result<u32> {
    let output = command(bin_dir, "initdb", user).arg("--version").output().context("cannot run initdb")?;
    ensure!(output.status.success(), "initdb --version failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let major = number.and_then(|n| n.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
    major.with_context(|| format!("initdb --version says {:?}", text.trim()))
}

/// Makes a cluster in `data_dir`, which must not exist, configured as a fabric's primary on `port`.
///
/// It is made next to it and renamed when everything is durable: a directory of that name is always a whole cluster,
/// and is never made anew, whatever happened.
///
/// # Errors
/// Says what initdb said.
pub fn create_cluster(bin_dir: &Path, data_dir: &Path, port: u16, user: RunAs, options: &InitdbOptions) -> Result<()> {
    ensure!(!data_dir.exists(), "{} exists already", data_dir.display());
    let new = data_dir.with_extension("new");
    if new.exists() {
        std::fs::remove_dir_all(&new).with_context(|| format!("cannot remove the half-made {}", new.display()))?;
    }
    std::fs::create_dir_all(&new)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o700))?;
    if let Some((uid, gid)) = user {
        chown(&new, Some(uid), Some(gid)).with_context(|| format!("cannot give {} away", new.display()))?;
    }
    let mut initdb = command(bin_dir, "initdb", user);
    initdb.arg("-D").arg(&new).args(["-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8"]);
    // Of an option that comes twice, initdb takes the last.
    initdb.args(options.for_major(major_of(bin_dir, user)?));
    let output = initdb.current_dir("/").output().context("cannot run initdb")?;
    ensure!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    let settings = format!(
        "\n# Set by walfabric up\nlisten_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\n\
         wal_level = replica\nmax_wal_senders = 16\nmax_replication_slots = 16\nwal_sender_timeout = 30s\n\
         log_checkpoints = off\n"
    );
    let configure = || -> std::io::Result<()> {
        let mut conf = OpenOptions::new().append(true).open(new.join("postgresql.conf"))?;
        conf.write_all(settings.as_bytes())?;
        conf.sync_all()?;
        FsDisk.fsync_dir(&new)?;
        std::fs::rename(&new, data_dir)?;
        FsDisk.fsync_dir(parent_of(data_dir))
    };
    configure().with_context(|| format!("cannot configure {}", data_dir.display()))
}
