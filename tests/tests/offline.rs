//! Pages without a server, judged by the files of their cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use pageserver::offline::Offline;
use pgformat::rel::{BlockNumber, BlockTag, RelFork};
use pgformat::slru::Slru;
use proto::api::ControlDifference;
use proto::id::{TenantId, TenantTimelineId, TimelineId};
use tests::process::Postgres;
use walfabric::page::local::Local;
use walfabric::page::verify::{PageReport, PagesAtLsn, verify};
use walfabric::sql;

/// A timeline that nobody else has open, as a side of the comparison.
struct Ours<'a>(&'a Offline);

impl PagesAtLsn for Ours<'_> {
    async fn relations(&mut self) -> Result<(BTreeMap<RelFork, BlockNumber>, BTreeSet<u32>)> {
        Ok((self.0.relations()?.into_iter().collect(), self.0.logged_databases()?.into_iter().collect()))
    }

    async fn pages(&mut self, tags: &[BlockTag]) -> Result<Vec<Result<Bytes, String>>> {
        Ok(tags.iter().map(|tag| self.0.page(*tag).map_err(|e| e.to_string())).collect())
    }

    async fn segments(&mut self, slru: Slru) -> Result<Vec<u32>> {
        Ok(self.0.slru_segments(slru)?)
    }

    async fn segment(&mut self, slru: Slru, segno: u32) -> Result<Bytes> {
        Ok(self.0.slru_segment(slru, segno)?)
    }

    async fn files(&mut self) -> Result<Vec<String>> {
        Ok(self.0.files()?)
    }

    async fn file(&mut self, path: &str) -> Result<Bytes> {
        Ok(self.0.file(path)?.with_context(|| format!("no {path}"))?.into())
    }

    async fn control(&mut self, file: &[u8]) -> Result<Vec<ControlDifference>> {
        Ok(self.0.compare_control(file)?)
    }
}

async fn equal(offline: &Offline, data_dir: &Path) -> Result<PageReport> {
    let report = verify(&Local::read(data_dir)?, &mut Ours(offline)).await?;
    ensure!(report.equal, "{}", report.render());
    Ok(report)
}

/// Goal: a cluster that is loaded offline, and the WAL that it writes afterwards, come to the pages of its own files.
/// Method: work, shut down, load; work of other kinds on the same tables, shut down, replay; compare every page, SLRU
/// segment and the control file; again after a compaction, after opening anew, and below a horizon.
#[tokio::test]
async fn a_loaded_cluster_and_its_wal_come_to_the_clusters_own_pages() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut postgres = Postgres::start(dir.path(), "pg").await?;
    let client = sql::connect(&postgres.conninfo()).await?;
    // All WAL since the load stays in the cluster.
    client.batch_execute("ALTER SYSTEM SET wal_keep_size = '1GB'").await?;
    client
        .batch_execute(
            "CREATE TABLE t (a int PRIMARY KEY, b text);
             INSERT INTO t SELECT i, repeat('x', i % 300) FROM generate_series(1, 20000) i;
             CREATE TABLE gone AS SELECT * FROM t; CREATE INDEX ON t USING gin (string_to_array(b, 'y'))",
        )
        .await?;
    drop(client);
    postgres.stop()?;
    let (storage, id) =
        (dir.path().join("storage"), TenantTimelineId::new(TenantId::new([1; 16]), TimelineId::new([2; 16])));
    let mut offline = Offline::load(&postgres.data_dir, &storage, id)?;
    let before = offline.position();

    postgres.restart().await?;
    let client = sql::connect(&postgres.conninfo()).await?;
    for statement in [
        "UPDATE t SET b = b || 'y' WHERE a % 3 = 0",
        "DELETE FROM t WHERE a % 5 = 0",
        "VACUUM t",
        "INSERT INTO t SELECT i, 'new' FROM generate_series(20001, 30000) i",
        "DROP TABLE gone",
        "CREATE DATABASE other",
        "CREATE TABLE late AS SELECT * FROM t WHERE a < 1000",
        "TRUNCATE late",
        "CHECKPOINT",
        "UPDATE t SET b = 'after' WHERE a % 7 = 0",
    ] {
        client.batch_execute(statement).await?;
    }
    drop(client);
    postgres.stop()?;
    let end = Local::read(&postgres.data_dir)?.lsn;
    let done = offline.replay(&postgres.data_dir.join("pg_wal"), end)?;
    ensure!(done.to == end && done.from == before && done.records > 10_000, "{done:?}, not up to {end}");
    let report = equal(&offline, &postgres.data_dir).await?;
    ensure!(report.pages > 2000, "only {} pages", report.pages);
    offline.compact()?;
    equal(&offline, &postgres.data_dir).await?;
    drop(offline);
    let offline = Offline::open(&storage, id)?;
    ensure!(offline.position() == end, "{} is durable, not {end}", offline.position());
    equal(&offline, &postgres.data_dir).await?;

    // What is below the horizon goes, but for a lease; nothing of now does.
    ensure!(!offline.set_horizon(end.add(1))?, "a horizon above the end");
    ensure!(offline.put_lease("load", before)?, "everything is readable yet");
    ensure!(offline.set_horizon(end)?, "the horizon is the end");
    let all = offline.stored_bytes();
    offline.compact()?;
    ensure!(offline.stored_bytes() < all, "{} bytes are left of {all}", offline.stored_bytes());
    equal(&offline, &postgres.data_dir).await?;
    ensure!(offline.put_lease("again", before)?, "the first lease keeps it");
    offline.drop_lease("load")?;
    offline.drop_lease("again")?;
    ensure!(!offline.put_lease("late", before)?, "nothing keeps what is below the horizon");
    Ok(())
}
