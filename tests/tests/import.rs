//! Import of a running cluster, judged by the cluster's own files.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::Bounded as _;
use proto::api::{ImportStage, PageserverTimelineStatus};
use tests::fabric::TestFabric;
use tests::wait;
use walfabric::fabric::{Fabric, PostgresEntry};
use walfabric::http::Http;
use walfabric::sql;

const PATIENCE: Duration = Duration::from_secs(120);
const ROUNDS_MAX: u32 = 8;

async fn status(fabric: &Fabric) -> Result<PageserverTimelineStatus> {
    let path = format!("/v1/tenant/{}/timeline/{}", fabric.tenant_id, fabric.timeline_id);
    Http::new(Duration::from_secs(5))?.get(&fabric.pageservers[0].http, &path).await
}

/// Copies a template by files and changes it, again and again, until `over`; gives how many copies that were.
async fn copy_databases(pg: PostgresEntry, round: u32, over: Arc<AtomicBool>) -> Result<u32> {
    let template = pg.conninfo().replace("dbname=postgres", "dbname=tmpl");
    let client = sql::connect(&pg.conninfo()).await?;
    let mut copies = 0;
    while !over.load(Ordering::Relaxed) {
        copies += 1;
        let create = format!("CREATE DATABASE copy{round}_{copies} TEMPLATE tmpl STRATEGY file_copy");
        client.batch_execute(&create).await.context(create)?;
        // Nobody may be connected to a template that is copied.
        let session = sql::connect(&template).await?;
        session.batch_execute("UPDATE t SET a = a + 1 WHERE a % 7 = 0").await?;
        drop(session);
        wait_alone(&client).await?;
    }
    Ok(copies)
}

/// Ends the load as soon as an import has begun anew, or is done.
async fn end_with_first_attempt(fabric: &Fabric, over: &AtomicBool) {
    let ends = async || {
        let import = status(fabric).await.ok().and_then(|s| s.import)?;
        (import.attempts > 1 || import.state == ImportStage::Done).then_some(())
    };
    wait::until("the import comes to an end", PATIENCE, ends).await;
    over.store(true, Ordering::Relaxed);
}

/// Takes everything from the pageserver and has it import the cluster; gives the attempts that it needed.
async fn import_anew(fabric: &TestFabric, before: &Fabric) -> Result<u32> {
    let mut import = fabric.forget_pages()?;
    let output = tokio::task::spawn_blocking(move || import.output_within(PATIENCE)).await??;
    ensure!(output.status.success(), "import fails: {}", String::from_utf8_lossy(&output.stderr));
    let import = status(before).await?.import.context("an import")?;
    ensure!(import.state == ImportStage::Done, "{import:?}");
    Ok(import.attempts)
}

/// Waits until no session is connected to the template.
async fn wait_alone(client: &tokio_postgres::Client) -> Result<()> {
    let query = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'tmpl'";
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while sql::text(client, query).await? != "0" {
        ensure!(tokio::time::Instant::now() < deadline, "a session stays connected to the template");
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Goal: a cluster that works, and copies databases by files while its pages are copied, is imported; every page of
/// it is
/// then what PostgreSQL's own files say. Method: a fabric whose pageserver has lost everything imports again, under a
/// load that forces it to begin anew; PostgreSQL is stopped and all pages are compared.
#[tokio::test(flavor = "multi_thread")]
async fn databases_copied_by_files_during_an_import_are_right_in_the_end() -> Result<()> {
    let fabric = TestFabric::up(&[])?;
    let before = fabric.read()?;
    let pg = before.postgres.clone().context("postgres")?;
    let client = sql::connect(&pg.conninfo()).await?;
    client.batch_execute("CREATE DATABASE tmpl").await?;
    let template = pg.conninfo().replace("dbname=postgres", "dbname=tmpl");
    let session = sql::connect(&template).await?;
    session
        .batch_execute(
            "CREATE TABLE t (a int, b text); INSERT INTO t SELECT i, 'before' FROM generate_series(1, 500) i",
        )
        .await?;
    drop(session);
    wait_alone(&client).await?;
    // So much that copying it takes longer than copying the template.
    client
        .batch_execute("CREATE TABLE big AS SELECT i, repeat('x', 900) AS b FROM generate_series(1, 200000) i")
        .await?;

    // Whether a copy falls between the beginning and the end of a backup is chance: one import of a few meets one.
    let mut attempts = 1;
    for round in 1..=ROUNDS_MAX {
        let over = Arc::new(AtomicBool::new(false));
        let copying = tokio::spawn(copy_databases(pg.clone(), round, over.clone()));
        // The load ends before the import has to begin anew for ever.
        let ending = end_with_first_attempt(&before, &over);
        let (imported, ()) = tokio::join!(import_anew(&fabric, &before), ending);
        over.store(true, Ordering::Relaxed);
        attempts = imported?;
        ensure!(copying.await?? > 0, "nothing was copied");
        if attempts > 1 {
            break;
        }
    }
    assert!(attempts > 1, "no copy fell into {ROUNDS_MAX} imports");
    let (tenant, timeline) = (before.tenant_id.to_string(), before.timeline_id.to_string());

    // After the import a copy is taken as it comes.
    client.batch_execute("CREATE DATABASE late TEMPLATE tmpl STRATEGY file_copy").await?;
    let session = sql::connect(&template).await?;
    session.batch_execute("DELETE FROM t WHERE a % 3 = 0").await?;
    session.batch_execute("VACUUM t").await?;
    drop((session, client));
    fabric.ok(&["stop", "postgres"])?;
    let verify = std::process::Command::new(fabric.binary())
        .args(["page", "verify", "--pageserver", &before.pageservers[0].http, "--tenant", &tenant])
        .args(["--timeline", &timeline, "--data-dir"])
        .arg(&pg.data_dir)
        .output_within(PATIENCE)?;
    let report = String::from_utf8_lossy(&verify.stdout);
    assert_eq!(verify.status.code(), Some(0), "{report}{}", String::from_utf8_lossy(&verify.stderr));
    assert!(report.contains("equal"), "{report}");

    // A planted difference: one byte of a table's file.
    let file = largest_file(&pg.data_dir.join("base"))?;
    let mut bytes = std::fs::read(&file)?;
    // Inside of a row: what pads its end is nobody's.
    let at = bytes.len() - 100;
    bytes[at] ^= 1;
    std::fs::write(&file, &bytes)?;
    let verify = std::process::Command::new(fabric.binary())
        .args(["page", "verify", "--pageserver", &before.pageservers[0].http, "--tenant", &tenant])
        .args(["--timeline", &timeline, "--data-dir"])
        .arg(&pg.data_dir)
        .output_within(PATIENCE)?;
    assert_eq!(verify.status.code(), Some(5), "a flipped bit of {} is noticed", file.display());
    Ok(())
}

/// The table `big`.
fn largest_file(dir: &std::path::Path) -> Result<std::path::PathBuf> {
    let mut largest = (0, std::path::PathBuf::new());
    for database in std::fs::read_dir(dir)? {
        for file in std::fs::read_dir(database?.path())? {
            let file = file?;
            largest = largest.max((file.metadata()?.len(), file.path()));
        }
    }
    Ok(largest.1)
}
