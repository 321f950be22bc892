//! Real WAL: a PostgreSQL that wrote about a gigabyte and keeps it in a slot, to be read any number of times.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use harness::{Bounded as _, LONG};
use pgformat::wal::WalDecoder;
use pgformat::{Lsn, SegSize, Tli};
use proto::id::SystemId;
use walfabric::sql;

use super::wal::Origin;
use crate::process::{Postgres, Process};

/// So that no checkpoint and no vacuum runs while somebody catches up.
const SETTINGS: [&str; 3] = ["checkpoint_timeout = '1h'", "max_wal_size = '16GB'", "autovacuum = off"];
/// The slot that keeps the WAL.
const KEEP: &str = "keep";
/// About what `pgbench -i` writes per unit of its scale.
const SCALE_BYTES: u64 = 15 << 20;
/// A catch-up over a slow disk takes minutes, not more.
const RECEIVE_MAX: Duration = Duration::from_secs(300);

/// A `pg_receivewal` that was not started yet.
pub struct Receivewal {
    command: std::process::Command,
    log: PathBuf,
}

impl Receivewal {
    /// Runs it to its end; gives its exit code.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(self) -> Result<Option<i32>> {
        let mut process = Process::spawn(self.command, &self.log)?;
        Ok(process.wait("pg_receivewal reaching the end", RECEIVE_MAX))
    }
}

/// A PostgreSQL with WAL to catch up with.
pub struct Primary {
    postgres: Postgres,
    client: tokio_postgres::Client,
    slots: u32,
    /// Where the WAL starts, with what lies before it in its segment.
    pub origin: Origin,
    /// From there up to the end of the last record.
    pub wal: Bytes,
}

impl Primary {
    /// Makes a cluster below `dir` and at least `bytes` of WAL: half of it by filling tables, half by transactions with
    /// a checkpoint now and then, so that there are small records as well as page images.
    ///
    /// # Errors
    /// With what PostgreSQL said.
    pub async fn start(dir: &Path, bytes: u64) -> Result<Primary> {
        let postgres = Postgres::start(dir, "catchup-primary").await?;
        let client = sql::connect(&postgres.conninfo()).await?;
        for setting in SETTINGS {
            client.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await?;
        }
        client.batch_execute("SELECT pg_reload_conf()").await?;
        let keep = format!("SELECT lsn FROM pg_create_physical_replication_slot('{KEEP}', true)");
        let start: Lsn = sql::text(&client, &keep).await?.parse()?;
        pgbench(&postgres, &["-i", "-q", "-s", &(bytes / 2 / SCALE_BYTES).max(1).to_string()])?;
        while position(&client).await?.bytes_since(start) < bytes {
            client.batch_execute("CHECKPOINT").await?;
            pgbench(&postgres, &["-N", "-n", "-M", "prepared", "-c", "4", "-j", "2", "-t", "4000"])?;
        }
        client.batch_execute("CHECKPOINT").await?;
        let origin = origin(&client, start).await?;
        let end = position(&client).await?;
        let (origin, wal) = read(&postgres.data_dir.join("pg_wal"), origin, end)?;
        rustix::fs::sync();
        Ok(Primary { postgres, client, slots: 0, origin, wal })
    }

    /// End of the last record.
    pub fn end(&self) -> Lsn {
        self.origin.start.add(self.wal.len() as u64)
    }

    /// A `pg_receivewal --synchronous` into the empty `target`, from the beginning up to the end of the WAL.
    ///
    /// # Errors
    /// When it has no slot.
    pub async fn receivewal(&mut self, target: &Path) -> Result<Receivewal> {
        std::fs::create_dir_all(target)?;
        if let Some((uid, gid)) = walfabric::postgres::run_as()? {
            std::os::unix::fs::chown(target, Some(uid), Some(gid))?;
        }
        // Acknowledging moves a slot on: each run gets a copy of the one that stays.
        self.slots += 1;
        let slot = format!("rx{}", self.slots);
        let copy = format!("SELECT pg_copy_physical_replication_slot('{KEEP}', '{slot}')");
        self.client.batch_execute(&copy).await?;
        let mut command = self.postgres.program("pg_receivewal")?;
        // It stops when it is beyond the position given, not when it is there.
        let last = Lsn::new(self.end().get() - 1);
        command.args(["--synchronous", "--no-loop", "-S", &slot, "--endpos", &last.to_string()]);
        command.args(["-d", &format!("host=127.0.0.1 port={} user=postgres", self.postgres.port), "-D"]).arg(target);
        Ok(Receivewal { command, log: target.with_extension("log") })
    }

    /// Checks what a `pg_receivewal` that ended with `code` has left in `target`, and drops its slot.
    ///
    /// # Errors
    /// When it failed, or when the bytes are not all there.
    pub async fn check_received(&self, target: &Path, code: Option<i32>) -> Result<()> {
        let log = std::fs::read_to_string(target.with_extension("log")).unwrap_or_default();
        ensure!(code == Some(0), "pg_receivewal ended with {code:?}: {log}");
        let seg = self.origin.seg_size;
        for segno in segments(&self.origin, self.end()) {
            let (name, start) = (seg.file_name(Tli(1), segno), seg.start_of(segno));
            let path = [name.clone(), format!("{name}.partial")].map(|n| target.join(n));
            let path = path.iter().find(|p| p.is_file()).with_context(|| format!("{name} is missing: {log}"))?;
            let held = std::fs::read(path)?;
            let from = start.max(self.origin.start);
            let to = seg.start_of(segno + 1).min(self.end());
            let at = |lsn: Lsn, base: Lsn| usize::try_from(lsn.bytes_since(base)).unwrap_or(usize::MAX);
            let ours = self.wal.get(at(from, self.origin.start)..at(to, self.origin.start));
            ensure!(ours == held.get(at(from, start)..at(to, start)), "{name} holds other bytes");
        }
        self.client.batch_execute(&format!("SELECT pg_drop_replication_slot('rx{}')", self.slots)).await?;
        Ok(())
    }
}

fn pgbench(postgres: &Postgres, args: &[&str]) -> Result<()> {
    let mut command = postgres.program("pgbench")?;
    command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &postgres.port.to_string()]).args(args);
    let output =
        command.env("PGDATABASE", "postgres").env("PGOPTIONS", "-c synchronous_commit=off").output_within(LONG)?;
    ensure!(output.status.success(), "pgbench {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Everything up to here is in the files.
async fn position(client: &tokio_postgres::Client) -> Result<Lsn> {
    Ok(sql::text(client, "SELECT pg_current_wal_flush_lsn()").await?.parse()?)
}

async fn origin(client: &tokio_postgres::Client, start: Lsn) -> Result<Origin> {
    let system_id = sql::text(client, "SELECT system_identifier FROM pg_control_system()").await?;
    let bytes = sql::text(client, "SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'").await?;
    Ok(Origin {
        system_id: SystemId(system_id.parse::<i64>()?.cast_unsigned()),
        pg_version_num: sql::text(client, "SHOW server_version_num").await?.parse()?,
        seg_size: SegSize::new(bytes.parse()?).context("no segment size")?,
        start,
        prehistory: Bytes::new(),
    })
}

fn segments(origin: &Origin, end: Lsn) -> std::ops::RangeInclusive<u64> {
    let seg = origin.seg_size;
    origin.start.segment_no(seg)..=Lsn::new(end.get() - 1).segment_no(seg)
}

/// The WAL from `origin` up to the end of the last record at or below `flushed`, found with the decoder.
fn read(pg_wal: &Path, mut origin: Origin, flushed: Lsn) -> Result<(Origin, Bytes)> {
    let (seg, first) = (origin.seg_size, origin.start.segment_start(origin.seg_size));
    let mut bytes = Vec::with_capacity(usize::try_from(flushed.bytes_since(first) + seg.bytes())?);
    for segno in segments(&origin, flushed) {
        let path = pg_wal.join(seg.file_name(Tli(1), segno));
        let mut file = std::fs::File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        file.read_to_end(&mut bytes)?;
    }
    let mut wal = Bytes::from(bytes);
    wal.truncate(usize::try_from(flushed.bytes_since(first))?);
    origin.prehistory = wal.split_to(usize::try_from(origin.start.bytes_since(first))?);
    let mut decoder = WalDecoder::new(origin.stream()?, origin.start, None);
    decoder.feed(origin.start, &wal)?;
    let end = decoder.boundary();
    // PostgreSQL's position may stand behind the header of a page that has no record yet.
    ensure!(flushed.bytes_since(end) <= 40, "flushed up to {flushed}, the last record ends at {end}");
    wal.truncate(usize::try_from(end.bytes_since(origin.start))?);
    Ok((origin, wal))
}
