//! Push: how fast a safekeeper sends its WAL to a pageserver that has none, against `pg_receivewal` taking the same WAL
//! from the primary.
//!
//! Both ends start with an empty directory and a warm file cache. Our interval begins at the last poll that still
//! showed nothing received, or with the attachment, and ends when `last_record_lsn` has reached the end. By then every
//! record is decoded, checked and mapped to versions of pages, which `pg_receivewal` does not do. Their interval begins
//! when the first file appears and ends with the process, which syncs each segment that it completes. Another figure is
//! the time until all our data is in durable layers; the last layer, otherwise written by age, is then written on
//! request. CPU seconds are those of all safekeepers and the pageserver, against `pg_receivewal` and the primary, which
//! do nothing else meanwhile.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::{Bounded as _, LONG};
use proto::Lsn;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde_json::json;
use tokio_postgres::Client;
use walfabric::fabric::PostgresEntry;
use walfabric::sql;

use crate::bench::figure::{Figure, Goal, Sample};
use crate::bench::look::{Look, poll};
use crate::bench::run::{Extent, Run};
use crate::bench::window::{Elapsed, Window};
use crate::fabric::TestFabric;

/// Rounds end after this in the table's run; what was measured until then counts.
const PAIRS_TIME_MAX: Duration = Duration::from_secs(95);
/// One transfer.
const PATIENCE: Duration = Duration::from_secs(120);
/// Holds the WAL back on the primary from the beginning on; each round of the peer starts from a copy.
const BASE_SLOT: &str = "bench_push_base";
const ROUND_SLOT: &str = "bench_push_round";
const MIB: f64 = 1024.0 * 1024.0;

/// One transfer, either way.
struct Block {
    seconds: f64,
    /// Until all of it was synced.
    durable: f64,
    bytes: u64,
    used: Elapsed,
}

impl Block {
    fn rate(&self) -> Sample {
        Sample { value: self.bytes as f64 / MIB / self.seconds, crowd: self.used.crowd }
    }

    fn durable_rate(&self) -> Sample {
        Sample { value: self.bytes as f64 / MIB / self.durable, crowd: self.used.crowd }
    }

    fn cpu_per_gib(&self) -> Sample {
        Sample { value: self.used.cpu_seconds / (self.bytes as f64 / MIB / 1024.0), crowd: self.used.crowd }
    }

    fn raw(&self, side: &str, pair: usize) -> serde_json::Value {
        json!({"side": side, "pair": pair, "seconds": self.seconds, "durable_seconds": self.durable,
            "bytes": self.bytes, "cpu_seconds": self.used.cpu_seconds, "pressure": self.used.crowd.pressure,
            "foreign": self.used.crowd.foreign})
    }
}

/// Measures the push.
///
/// # Errors
/// When a process does not do as asked.
pub async fn run(run: &mut Run) -> Result<()> {
    let wal_mib: u64 = run.extent.pick(64, 512, 1024);
    let pairs = run.extent.pick(2, 9, 15);
    let subject = Subject::new(wal_mib << 20).await?;
    let (mut ours, mut theirs): (Vec<Block>, Vec<Block>) = (Vec::new(), Vec::new());
    let began = Instant::now();
    while theirs.len() < pairs {
        let pair = theirs.len();
        if pair > 0 && run.extent <= Extent::Table && began.elapsed() > PAIRS_TIME_MAX {
            break;
        }
        // ABBA.
        if pair % 2 == 0 {
            ours.push(subject.push().await?);
            theirs.push(subject.receivewal(run.dir()).await?);
        } else {
            theirs.push(subject.receivewal(run.dir()).await?);
            ours.push(subject.push().await?);
        }
        for (side, blocks) in [("push", &ours), ("pg_receivewal", &theirs)] {
            run.raw(blocks.last().context("just measured")?.raw(side, pair))?;
        }
    }
    run.raw(json!({"pairs": theirs.len(), "pairs_planned": pairs, "wal_mib": wal_mib}))?;
    let short = match theirs.len() {
        n if n < pairs => format!(" ({n} of {pairs} pairs: out of time)"),
        _ => String::new(),
    };
    let of = |blocks: &[Block], value: fn(&Block) -> Sample| blocks.iter().map(value).collect::<Vec<_>>();
    let figure = |what: &str, value: fn(&Block) -> Sample| {
        let what = format!("{what}, {wal_mib} MiB of WAL{short}");
        Figure::against(what, &of(&ours, value), "pg_receivewal", &of(&theirs, value))
    };
    run.figure(figure("push to a pageserver, MiB/s", Block::rate).goal(Goal::AtLeast(3.0)));
    run.figure(figure("the same until all is synced, MiB/s", Block::durable_rate));
    run.figure(figure("CPU seconds per GiB, both ends", Block::cpu_per_gib));
    Ok(())
}

/// A fabric whose safekeepers and primary hold the WAL.
struct Subject {
    fabric: TestFabric,
    look: Look,
    primary: PostgresEntry,
    client: Client,
    end: Lsn,
}

impl Subject {
    async fn new(bytes: u64) -> Result<Subject> {
        let fabric = TestFabric::up(&[])?;
        let described = fabric.read()?;
        let primary = described.postgres.clone().context("no PostgreSQL")?;
        let client = sql::connect(&primary.conninfo()).await?;
        for setting in ["checkpoint_timeout = '1h'", "max_wal_size = '16GB'", "autovacuum = off"] {
            client.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await?;
        }
        client.batch_execute("SELECT pg_reload_conf()").await?;
        client.execute(&format!("SELECT pg_create_physical_replication_slot('{BASE_SLOT}', true)"), &[]).await?;
        fabric.ok(&["stop", "pageserver-1"])?;
        let end = generate(&client, &primary, bytes).await?;
        let look = Look::at(&described)?;
        look.held_by_safekeepers(end, PATIENCE).await?;
        // pg_receivewal ends at the first message that goes beyond --endpos.
        client.batch_execute("CREATE TABLE behind_the_end AS SELECT 1 AS n").await?;
        Ok(Subject { fabric, look, primary, client, end })
    }

    /// One push to a pageserver without a byte.
    async fn push(&self) -> Result<Block> {
        let dir = &self.look.pageserver_entry().data_dir;
        // Its pages lie beside: what is left there would not be pushed again.
        let pages = dir.parent().context("a directory above")?.join("remote");
        ensure!(pages.is_dir(), "there are no pages in {}", pages.display());
        for entry in std::fs::read_dir(dir)?.chain(std::fs::read_dir(&pages)?) {
            let path = entry?.path();
            if path.is_dir() { std::fs::remove_dir_all(path)? } else { std::fs::remove_file(path)? }
        }
        self.fabric.ok(&["start", "pageserver-1"])?;
        let under_test = |(name, _): &(String, u32)| name.starts_with("safekeeper") || name.starts_with("pageserver");
        let pids: Vec<u32> = self.fabric.read()?.pids().into_iter().filter(under_test).map(|(_, pid)| pid).collect();
        ensure!(pids.len() >= 2, "safekeepers and the pageserver should run");
        let window = Window::open(&pids);
        let mut began = Instant::now();
        let start = self.look.attach().await?;
        let (_, reached) = poll("the push", PATIENCE, async || {
            let looked = Instant::now();
            let now = self.look.pageserver().await.ok()?;
            if now.last_record_lsn <= Some(start) {
                began = looked;
            }
            (now.last_record_lsn >= Some(self.end)).then_some(())
        })
        .await?;
        let flushed = self.look.flush().await?;
        let durable = Instant::now();
        ensure!(flushed >= self.end, "durable up to {flushed}, not up to {}", self.end);
        let used = window.close();
        self.fabric.ok(&["stop", "pageserver-1"])?;
        Ok(Block {
            seconds: reached.duration_since(began).as_secs_f64(),
            durable: durable.duration_since(began).as_secs_f64(),
            bytes: self.end.bytes_since(start),
            used,
        })
    }

    /// The same WAL through pg_receivewal into a fresh directory.
    async fn receivewal(&self, scratch: &Path) -> Result<Block> {
        let copy = format!("SELECT pg_copy_physical_replication_slot('{BASE_SLOT}', '{ROUND_SLOT}')");
        self.client.execute(&copy, &[]).await?;
        let restart = "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = ";
        let restart: Lsn = sql::text(&self.client, &format!("{restart}'{ROUND_SLOT}'")).await?.parse()?;
        let seg: u64 = sql::text(&self.client, "SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'")
            .await?
            .parse()?;
        let target = tempfile::Builder::new().prefix("receivewal-").tempdir_in(scratch)?;
        let user = walfabric::postgres::run_as()?;
        walfabric::postgres::check_reachable(scratch, user)?;
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(target.path(), Some(uid), Some(gid))?;
        }
        let mut command = walfabric::postgres::command(&self.primary.bin_dir, "pg_receivewal", user);
        command.args(["--no-loop", "-S", ROUND_SLOT, "--endpos", &self.end.to_string()]);
        command.args(["-d", &self.primary.conninfo(), "-D"]).arg(target.path()).current_dir("/");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let postmaster = self.fabric.read()?.postgres.and_then(|p| p.pid).context("the primary runs")?;
        let window = Window::open(&[postmaster, child.id()]);
        let pid = Pid::from_raw(child.id().cast_signed()).context("a pid")?;
        let (mut began, mut seen) = (Instant::now(), false);
        // Not reaped until the CPU time was read: a zombie still tells it.
        let unreaped = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let (_, ended) = poll("pg_receivewal", PATIENCE, async || {
            let looked = Instant::now();
            if !seen {
                seen = std::fs::read_dir(target.path()).ok()?.next().is_some();
                began = looked;
            }
            waitid(WaitId::Pid(pid), unreaped).ok().flatten().map(|_| ())
        })
        .await?;
        let used = window.close();
        let output = child.wait_with_output()?; // it has ended: only its words are still to be read
        ensure!(output.status.success(), "pg_receivewal: {}", String::from_utf8_lossy(&output.stderr));
        self.client.execute(&format!("SELECT pg_drop_replication_slot('{ROUND_SLOT}')"), &[]).await?;
        let seconds = ended.duration_since(began).as_secs_f64();
        let bytes = self.end.get() - restart.get() / seg * seg;
        Ok(Block { seconds, durable: seconds, bytes, used })
    }
}

/// Mixed WAL, at least `bytes` of it: bulk load, then updates one by one and in bulk, with page images. Gives its end.
async fn generate(client: &Client, primary: &PostgresEntry, bytes: u64) -> Result<Lsn> {
    let start = position(client).await?;
    // A scale of one is about 14 MiB of WAL.
    let scale = (bytes / (28 << 20)).max(1).to_string();
    pgbench(primary, &["-i", "-q", "-s", &scale])?;
    client.batch_execute("CHECKPOINT").await?;
    loop {
        pgbench(primary, &["-N", "-n", "-c", "4", "-j", "2", "-T", "2"])?;
        let end = position(client).await?;
        if end.bytes_since(start) >= bytes {
            return Ok(end);
        }
        client.batch_execute("UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid % 4 = 0").await?;
    }
}

async fn position(client: &Client) -> Result<Lsn> {
    Ok(sql::text(client, "SELECT pg_current_wal_flush_lsn()").await?.parse()?)
}

fn pgbench(primary: &PostgresEntry, args: &[&str]) -> Result<()> {
    let mut command = walfabric::postgres::command(&primary.bin_dir, "pgbench", walfabric::postgres::run_as()?);
    let port = primary.port.to_string();
    command.args(["-h", &primary.host, "-U", &primary.user, "-p", &port]).env("PGDATABASE", &primary.dbname);
    let output = command.args(args).current_dir("/").output_within(LONG)?;
    ensure!(output.status.success(), "pgbench: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
