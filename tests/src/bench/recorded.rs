//! WAL of a pgbench load, recorded once and replayed any number of times, by PostgreSQL and by us.
//!
//! The cluster is filled and shut down, and we copy its pages. Then it runs without a checkpoint until there is enough
//! WAL, and is killed. The rest is the input of crash recovery: pages as of the shutdown (nothing is evicted or written
//! back meanwhile) and all WAL since.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::{Bounded as _, LONG};
use pgformat::Lsn;
use walfabric::sql;

use super::window::{Crowd, Window};
use crate::process::Postgres;
use crate::wait;

/// `shared_buffers` of the cluster, while it is recorded and while it recovers: everything fits.
pub const SHARED_BUFFERS: &str = "1GB";
/// No checkpoint, no eviction, nothing but the load.
const SETTINGS: [&str; 9] = [
    "shared_buffers = '1GB'",
    "fsync = off",
    "synchronous_commit = off",
    "checkpoint_timeout = '1h'",
    "max_wal_size = '64GB'",
    "autovacuum = off",
    "bgwriter_lru_maxpages = 0",
    "wal_compression = off",
    "log_checkpoints = on",
];
/// The transaction of `pgbench` (`-b tpcb-like`), without the way between client and server.
const PROCEDURE: &str = "CREATE PROCEDURE tpcb_like(scale int, transactions int) LANGUAGE plpgsql AS $$
DECLARE a int; t int; b int; d int; seen int;
BEGIN
  FOR i IN 1..transactions LOOP
    a := 1 + floor(random() * 100000 * scale); t := 1 + floor(random() * 10 * scale);
    b := 1 + floor(random() * scale); d := -5000 + floor(random() * 10001);
    UPDATE pgbench_accounts SET abalance = abalance + d WHERE aid = a;
    SELECT abalance INTO seen FROM pgbench_accounts WHERE aid = a;
    UPDATE pgbench_tellers SET tbalance = tbalance + d WHERE tid = t;
    UPDATE pgbench_branches SET bbalance = bbalance + d WHERE bid = b;
    INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (t, b, a, d, CURRENT_TIMESTAMP);
    COMMIT;
  END LOOP;
END $$";
/// Sessions of the load.
const SESSIONS: usize = 4;
/// Transactions between two looks at how much WAL there is.
const TRANSACTIONS: u32 = 1000;
/// A recovery of a gigabyte on a crowded machine.
const RECOVERY_MAX: Duration = Duration::from_secs(300);

/// What was recorded.
pub struct Recorded {
    crashed: PathBuf,
    /// Where recovery begins.
    pub from: Lsn,
    /// Everything up to here was written to files.
    pub to: Lsn,
}

/// PostgreSQL's own crash recovery, as its log tells.
#[derive(Clone, Copy, Debug)]
pub struct Recovery {
    /// Seconds from the first to the last record.
    pub seconds: f64,
    /// CPU seconds of the startup process.
    pub cpu_seconds: f64,
    /// Meanwhile.
    pub crowd: Crowd,
}

impl Recorded {
    /// Records at least `bytes` of WAL of a cluster of pgbench's `scale` in `dir/name`. `at_rest` gets the data
    /// directory while the cluster is shut down, before the load.
    ///
    /// # Errors
    /// With what PostgreSQL said.
    pub async fn pgbench(
        dir: &Path,
        name: &str,
        (scale, bytes): (u32, u64),
        full_page_writes: bool,
        at_rest: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Recorded> {
        let mut postgres = Postgres::start(dir, name).await?;
        let client = sql::connect(&postgres.conninfo()).await?;
        for setting in SETTINGS {
            client.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await?;
        }
        client.batch_execute(&format!("ALTER SYSTEM SET full_page_writes = {full_page_writes}")).await?;
        drop(client);
        postgres.stop()?;
        postgres.restart().await?;
        let mut pgbench = postgres.program("pgbench")?;
        pgbench.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &postgres.port.to_string()]);
        let output = pgbench.args(["-i", "-q", "-s", &scale.to_string(), "postgres"]).output_within(LONG)?;
        ensure!(output.status.success(), "pgbench -i: {}", String::from_utf8_lossy(&output.stderr));
        sql::connect(&postgres.conninfo()).await?.batch_execute(PROCEDURE).await?;
        postgres.stop()?;
        at_rest(&postgres.data_dir)?;
        postgres.restart().await?;
        let client = sql::connect(&postgres.conninfo()).await?;
        let from = sql::text(&client, "SELECT redo_lsn FROM pg_control_checkpoint()").await?.parse()?;
        let to = load(&postgres, scale, from, bytes).await?;
        postgres.kill();
        std::fs::remove_file(postgres.data_dir.join("postmaster.pid"))?;
        Ok(Recorded { crashed: postgres.data_dir.clone(), from, to })
    }

    /// Bytes of WAL.
    pub fn bytes(&self) -> u64 {
        self.to.bytes_since(self.from)
    }

    /// The WAL's directory.
    pub fn wal_dir(&self) -> PathBuf {
        self.crashed.join("pg_wal")
    }

    /// PostgreSQL's recovery of a fresh copy in `dir`, which is removed.
    ///
    /// # Errors
    /// When it does not recover up to the end.
    pub fn recover(&self, dir: &Path) -> Result<Recovery> {
        let dir = tempfile::Builder::new().prefix("recovered-").tempdir_in(dir)?;
        walfabric::postgres::check_reachable(dir.path(), walfabric::postgres::run_as()?)?;
        let data = dir.path().join("data");
        self.copy(&data)?;
        rustix::fs::sync();
        let log = data.with_extension("log");
        let mut postgres = Postgres::adopt(data)?;
        let window = Window::open(&[]);
        postgres.spawn()?;
        let done = wait::until_blocking("PostgreSQL's recovery", RECOVERY_MAX, || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.lines().find(|l| l.contains("redo done at ")).map(str::to_owned)
        });
        let crowd = window.close().crowd;
        postgres.kill();
        parse(&done, self.to).map(|(seconds, cpu_seconds)| Recovery { seconds, cpu_seconds, crowd })
    }

    /// A copy to be recovered. WAL files are only read, but for the last one, which goes on after recovery.
    fn copy(&self, to: &Path) -> Result<()> {
        harness::copy_entries(&self.crashed, to, |name| name != "pg_wal")?;
        harness::link_tree(&self.wal_dir(), &to.join("pg_wal"))?;
        let mut segments = Vec::new();
        for entry in std::fs::read_dir(self.wal_dir())? {
            let name = entry?.file_name();
            if name.len() == 24 {
                segments.push(name);
            }
        }
        segments.sort();
        let last = segments.last().context("there is no WAL")?;
        let copy = to.join("pg_wal").join(last);
        std::fs::remove_file(&copy)?;
        harness::copy_tree(&self.wal_dir().join(last), &copy)
    }
}

/// Works until there are `bytes` of WAL since `from`; gives up to where it is in files.
async fn load(postgres: &Postgres, scale: u32, from: Lsn, bytes: u64) -> Result<Lsn> {
    let sessions = (0..SESSIONS).map(async |_| -> Result<()> {
        let client = sql::connect(&postgres.conninfo()).await?;
        loop {
            client.batch_execute(&format!("CALL tpcb_like({scale}, {TRANSACTIONS})")).await?;
            if flushed(&client).await?.bytes_since(from) >= bytes {
                return Ok(());
            }
        }
    });
    futures::future::try_join_all(sessions).await?;
    let client = sql::connect(&postgres.conninfo()).await?;
    // A commit that waits for the disk takes everything before it along.
    client.batch_execute("SET synchronous_commit = on; CREATE TABLE last()").await?;
    flushed(&client).await
}

async fn flushed(client: &tokio_postgres::Client) -> Result<Lsn> {
    Ok(sql::text(client, "SELECT pg_current_wal_flush_lsn()").await?.parse()?)
}

/// `redo done at X system usage: CPU: user: U s, system: S s, elapsed: E s`: elapsed and CPU seconds.
fn parse(line: &str, to: Lsn) -> Result<(f64, f64)> {
    let after = |key: &str| {
        let rest = line.split_once(key).map(|(_, rest)| rest.trim_start());
        rest.and_then(|r| r.split([' ', ',']).next()).with_context(|| format!("no {key:?} in {line:?}"))
    };
    let last: Lsn = after("redo done at ")?.parse()?;
    ensure!(to.get().abs_diff(last.get()) < 1 << 20, "recovery ended at {last}, the WAL at {to}");
    Ok((after("elapsed:")?.parse()?, after("user:")?.parse::<f64>()? + after("system:")?.parse::<f64>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_tells_what_recovery_took() {
        let line = "LOG:  redo done at 0/5000028 system usage: CPU: user: 0.25 s, system: 0.50 s, elapsed: 1.75 s";
        let end = Lsn::new(0x500_0050);
        assert_eq!(parse(line, end).expect("parses"), (1.75, 0.75));
        assert!(parse(line, Lsn::new(0x900_0000)).is_err(), "recovery that ended early is no measurement");
        assert!(parse("redo is not required", end).is_err());
    }
}
