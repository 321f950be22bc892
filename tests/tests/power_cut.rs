//! A power cut under a whole running fabric: EXT4_IOC_SHUTDOWN on its file system, without flushing the journal.
//!
//! Needs root and loop devices; without them the test says that it is skipped. The whole fabric (safekeepers,
//! pageserver, broker, PostgreSQL) is on the file system that loses its unsynced writes, so no process can make up for
//! another one's loss.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use harness::Bounded as _;
use rustix::process::{Pid, Signal, kill_process};
use tests::fabric::binary;
use tests::wait;
use walfabric::fabric::{Fabric, FabricDir};
use walfabric::ledger::Ledger;
use walfabric::supervisor::{descendants, exists};
use walfabric::verify::verify;

const PATIENCE: Duration = Duration::from_secs(60);

/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH` (Linux, `fs/ext4/ext4.h`): every write from now on fails, and
/// what the journal did not hold is gone at the next mount. Perl is on every Debian; our own code has no `unsafe`.
const SHUTDOWN: &str =
    r#"open(my $f, "<", $ARGV[0]) or die $!; my $a = pack("L", 2); ioctl($f, 0x8004587d, $a) or die $!;"#;

/// A loop-mounted ext4.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    fn make(dir: &Path) -> Result<Disk> {
        let disk = Disk { image: dir.join("disk.img"), mount: dir.join("mnt") };
        std::fs::create_dir(&disk.mount)?;
        std::fs::File::create(&disk.image)?.set_len(2 << 30)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk.image))?;
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> Result<()> {
        run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mount))
    }

    fn cut_power(&self) -> Result<()> {
        run(Command::new("perl").args(["-e", SHUTDOWN]).arg(&self.mount))
    }

    fn unmount(&self) {
        wait::until_blocking("unmounting", PATIENCE, || run(Command::new("umount").arg(&self.mount)).ok());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.mount).stderr(std::process::Stdio::null()).status();
    }
}

fn run(command: &mut Command) -> Result<()> {
    harness::run(command).map(drop)
}

fn up(root: &Path) -> Result<Fabric> {
    run(Command::new(binary()?).args(["up", "--detach", "--dir"]).arg(root))?;
    FabricDir::new(root)?.read_fabric()
}

/// The supervisor of a fabric that runs.
fn supervisor(fabric: &Fabric) -> Result<u32> {
    fabric.pids().into_iter().find_map(|(_, pid)| parent(pid)).context("no process of the fabric is there")
}

/// Kills everything that belongs to the fabric, the supervisor first so that it cannot tidy up. It was looked up while
/// there was power: without, a process may have ended by itself and tell nothing.
fn kill_all(fabric: &Fabric, supervisor: u32) {
    let mine: Vec<u32> = fabric.pids().into_iter().map(|(_, pid)| pid).collect();
    let family: Vec<u32> = mine.iter().flat_map(|p| descendants(*p)).chain(mine.iter().copied()).collect();
    for pid in std::iter::once(supervisor).chain(family.iter().copied()) {
        if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    wait::until_blocking("processes dying", PATIENCE, || (!family.iter().any(|p| exists(*p))).then_some(()));
}

fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Takes the fabric down when the test ends early: its processes are nobody's children here.
struct Running<'a>(&'a Path);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Ok(binary) = binary() {
            let _ = Command::new(binary).args(["down", "--dir"]).arg(self.0).output_within(PATIENCE);
        }
    }
}

fn skipped(why: &str) -> Result<()> {
    println!("skipped: {why}");
    Ok(())
}

/// Goal: what was acknowledged survives a power cut of every machine at once. Method: three rounds of load, cut,
/// remount, resume, proof.
#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_commits_survive_a_power_cut() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("walfabric-power-").tempdir()?;
    let disk = match Disk::make(dir.path()) {
        Ok(disk) if rustix::process::geteuid().is_root() => disk,
        Ok(_) => return skipped("needs root"),
        Err(e) => return skipped(&format!("no loop mounts here: {e:#}")),
    };
    let root = disk.mount.join("fabric");
    let running = Running(&root);
    let mut acked = Vec::new();
    for round in 1..=3 {
        let fabric = up(&root).with_context(|| format!("round {round}"))?;
        let conninfo = fabric.postgres.as_ref().context("no PostgreSQL")?.conninfo();
        // Sequence numbers start anew with each ledger: clients of a round are told apart by their number.
        let ledger = Ledger::start_numbered(&conninfo, round * 100, 4).await?;
        ledger.wait_progress(300, PATIENCE).await?;
        let supervisor = supervisor(&fabric)?;
        disk.cut_power()?;
        kill_all(&fabric, supervisor);
        acked.extend(ledger.finish().await);
        disk.unmount();
        disk.mount()?;
    }
    let fabric = up(&root)?;
    verify(&fabric, &acked, &mut |text| println!("{text}")).await?;
    drop(running);
    disk.unmount();
    Ok(())
}
