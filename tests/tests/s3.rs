//! A whole fabric whose pageserver keeps its pages in S3.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use s3_server::{S3Server, variables};
use tests::fabric::TestFabric;
use tests::process::Process;
use walfabric::fabric::PostgresEntry;
use walfabric::http::Http;
use walfabric::ledger::Ledger;
use walfabric::verify;

const PATIENCE: Duration = Duration::from_secs(120);
/// Commits between two events.
const COMMITS: usize = 200;

fn pgbench(fabric: &TestFabric, pg: &PostgresEntry, args: &[&str]) -> Result<Process> {
    let mut command = walfabric::postgres::command(&pg.bin_dir, "pgbench", walfabric::postgres::run_as()?);
    command.args(["-h", &pg.host, "-p", &pg.port.to_string(), "-U", &pg.user]).args(args).arg(&pg.dbname);
    command.current_dir("/");
    Process::spawn(command, &fabric.path().join("log/pgbench.log"))
}

/// Goal: with its pages in a bucket alone, a pageserver loses nothing by kill -9, whatever was stored by then. Method:
/// a fabric on an S3 service imports its cluster; under pgbench and a ledger the pageserver is killed right after
/// everything was stored, and once more while some was not; then every acknowledged commit is there, and every page is
/// what PostgreSQL's own files say.
#[test]
fn a_fabric_on_s3_survives_kill_9_of_its_pageserver() -> Result<()> {
    let server = S3Server::start();
    server.runtime.block_on(scene(&server))
}

async fn scene(server: &S3Server) -> Result<()> {
    let fabric = TestFabric::up_with(&["--remote-storage", "s3://bucket/fabric"], variables(&server.url))?;
    let described = fabric.read()?;
    let (pg, node) = (described.postgres.clone().context("postgres")?, described.pageservers[0].clone());
    let stored = |folder: &str| server.objects.names().iter().filter(|name| name.contains(folder)).count();
    ensure!(stored("/layers/") > 0 && stored("/manifest/") > 0, "no pages of the import: {:?}", server.objects.names());
    let ours = |name: &String| name.starts_with("bucket/fabric/pageserver-1/");
    assert!(server.objects.names().iter().all(ours), "{:?}", server.objects.names());

    let made = pgbench(&fabric, &pg, &["-i", "-q", "-s", "2"])?.wait("pgbench -i", PATIENCE);
    ensure!(made == Some(0), "pgbench -i: {made:?}");
    let mut load = pgbench(&fabric, &pg, &["-n", "-c", "4", "-T", "600"])?;
    let ledger = Ledger::start(&pg.conninfo(), 2).await?;
    ledger.wait_progress(COMMITS, PATIENCE).await?;
    let before = stored("/layers/");
    let flush = format!("/v1/tenant/{}/timeline/{}/flush", described.tenant_id, described.timeline_id);
    Http::new(PATIENCE)?.post(&node.http, &flush, Vec::new(), "application/json").await?;
    assert!(stored("/layers/") > before, "a flush stores something");
    for _ in 0..2 {
        fabric.ok(&["kill", "pageserver-1"])?;
        ledger.wait_progress(COMMITS, PATIENCE).await.context("commits do not wait for a pageserver")?;
        fabric.ok(&["start", "pageserver-1"])?;
        ledger.wait_progress(COMMITS, PATIENCE).await?;
    }
    assert!(load.running(), "pgbench ended");
    load.kill();

    let acked = ledger.finish().await;
    verify::verify(&described, &acked, &mut |text| println!("{text}")).await?;
    verify::verify_pages(&fabric.path(), &described, &mut |text| println!("{text}")).await?;
    for place in [node.data_dir.join("pages"), node.data_dir.with_file_name("remote")] {
        assert!(!place.exists(), "pages are in {} as well", place.display());
    }
    Ok(())
}
