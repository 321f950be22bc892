//! Disks of single safekeepers that can become full: a tmpfs whose size is reduced to its content.
//!
//! Needs root and mounts; without them no disk is filled.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio_postgres::NoTls;
use walfabric::fabric::{Fabric, NodeEntry};

use crate::fabric::TestFabric;
use crate::wait;

/// Room while the disk is not full; memory is taken only by what is written.
const ROOMY: &str = "size=2g";

/// More than a segment in use and one prepared in advance have room for, MiB.
const USED_UP_MIB: usize = 40;

/// Limit for a mount to change: the holder writes meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);

/// Mounted disks by the name of their process; unmounted with the handle.
pub(super) struct Disks(Vec<(String, PathBuf)>);

impl Disks {
    /// Moves the data of these safekeepers to disks of their own. `None` where that is not possible.
    pub(super) fn put_below(fabric: &TestFabric, nodes: &[NodeEntry]) -> Result<Option<Disks>> {
        if !rustix::process::geteuid().is_root() {
            println!("no disk is filled: that needs root");
            return Ok(None);
        }
        let mut disks = Disks(Vec::new());
        for node in nodes {
            let (name, dir) = (format!("safekeeper-{}", node.id), &node.data_dir);
            fabric.ok(&["stop", &name])?;
            let mounted = disks.put_one(&name, dir);
            fabric.ok(&["start", &name])?;
            if let Err(e) = mounted {
                println!("no disk is filled: {e:#}");
                return Ok(None);
            }
        }
        Ok(Some(disks))
    }

    fn put_one(&mut self, name: &str, dir: &Path) -> Result<()> {
        let like = std::fs::metadata(dir)?;
        let before = dir.with_extension("before");
        std::fs::rename(dir, &before)?;
        std::fs::create_dir(dir)?;
        let options = format!("{ROOMY},mode={:o},uid={},gid={}", like.mode() & 0o7777, like.uid(), like.gid());
        let mounted = harness::run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(dir));
        if let Err(e) = mounted {
            std::fs::remove_dir(dir)?;
            std::fs::rename(&before, dir)?;
            return Err(e.context("no mounts here"));
        }
        self.0.push((name.to_owned(), dir.to_owned()));
        for entry in std::fs::read_dir(&before)? {
            let entry = entry?;
            harness::copy_tree(&entry.path(), &dir.join(entry.file_name()))?;
        }
        std::fs::remove_dir_all(&before)?;
        Ok(())
    }

    /// Leaves no room. What is written in the same moment may need another look.
    pub(super) fn fill(&self, name: &str) -> Result<()> {
        let dir = self.of(name)?;
        wait::until_blocking("a disk filling up", PATIENCE, || {
            let now = rustix::fs::statvfs(dir).ok()?;
            let used = (now.f_blocks - now.f_bfree) * now.f_frsize;
            remount(dir, &format!("size={used}")).ok()
        });
        Ok(())
    }

    pub(super) fn free(&self, name: &str) -> Result<()> {
        remount(self.of(name)?, ROOMY)
    }

    fn of(&self, name: &str) -> Result<&Path> {
        let found = self.0.iter().find(|(n, _)| n == name);
        found.map(|(_, dir)| dir.as_path()).with_context(|| format!("{name} has no disk of its own"))
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for (_, dir) in &self.0 {
            // Its holder still runs: the mount goes with the last open file.
            let _ = Command::new("umount").arg("-l").arg(dir).status();
        }
    }
}

fn remount(dir: &Path, size: &str) -> Result<()> {
    let options = format!("remount,{size}");
    harness::run(Command::new("mount").args(["-o", &options]).arg(dir)).map(drop)
}

/// Writes WAL that no commit waits for.
pub(super) async fn use_up(fabric: &Fabric) -> Result<()> {
    let conninfo = fabric.postgres.as_ref().context("no PostgreSQL")?.conninfo();
    let (client, connection) = tokio_postgres::connect(&conninfo, NoTls).await?;
    let connection = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connection));
    let emit = format!(
        "SET synchronous_commit = local; \
         SELECT count(pg_logical_emit_message(false, 'fill', repeat('x', 1 << 20))) \
         FROM generate_series(1, {USED_UP_MIB})"
    );
    client.batch_execute(&emit).await?;
    ensure!(!connection.is_finished(), "the connection was lost");
    Ok(())
}
