//! Records longer than every buffer, sent through a whole fabric; the pages must be equal.
//!
//! `WALFABRIC_LONG_RECORD_MIB=1000 WALFABRIC_SUBTRANSACTIONS=1000000 cargo test -p tests --test long_records` is the
//! large form: nearly the longest possible record, and a commit record of 4 MB.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::Bounded as _;
use pgformat::Lsn;
use proto::api::ShimStatus;
use tests::fabric::TestFabric;
use tests::wait;
use walfabric::fabric::Fabric;
use walfabric::http::Http;
use walfabric::sql;

/// For the large form on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// A number from the environment.
fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// The most memory that a process ever had, in bytes.
fn peak(pid: Option<u32>) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.context("it runs")?))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// Shim, safekeeper 1, pageserver.
fn peaks(fabric: &Fabric) -> Result<[u64; 3]> {
    let shim = fabric.shim.as_ref().context("a shim")?;
    Ok([peak(shim.pid)?, peak(fabric.safekeepers[0].pid)?, peak(fabric.pageservers[0].pid)?])
}

async fn received(fabric: &Fabric) -> Option<Lsn> {
    let http = Http::new(Duration::from_secs(5)).ok()?;
    let status: ShimStatus = http.get(&fabric.shim.as_ref()?.http, "/v1/status").await.ok()?;
    status.received_lsn
}

/// Goal: a record longer than every buffer passes at the default settings, in bounded memory, with a safekeeper that is
/// killed in the midst of it; so does the commit of very many subtransactions; and the pageserver has the same pages as
/// the cluster. Method: a logical message, kill -9 while it is under way, a commit behind it, a transaction with a
/// subtransaction for each row; then the cluster stops and every page is compared.
#[tokio::test(flavor = "multi_thread")]
async fn long_records_pass_in_bounded_memory_and_pages_are_equal() -> Result<()> {
    let (mib, subs) = (setting("WALFABRIC_LONG_RECORD_MIB", 300), setting("WALFABRIC_SUBTRANSACTIONS", 20_000));
    let fabric = TestFabric::up(&[])?;
    let described = fabric.read()?;
    let pg = described.postgres.clone().context("postgres")?;
    let client = sql::connect(&pg.conninfo()).await?;
    client.batch_execute("CREATE TABLE t (n int)").await?;
    let before = peaks(&described)?;
    let start: Lsn = sql::text(&client, "SELECT pg_current_wal_insert_lsn()").await?.parse()?;

    let began = Instant::now();
    let message = format!("SELECT pg_logical_emit_message(true, 'x', repeat('x', {mib} << 20))");
    let emitting = tokio::spawn(async move { client.batch_execute(&message).await.map(|()| client) });
    wait::until("a part of the record at the shim", PATIENCE, async || {
        received(&described).await.filter(|at| *at > start.add(80 << 20))
    })
    .await;
    fabric.ok(&["kill", "safekeeper-2"])?;
    let at = received(&described).await.context("the shim answers")?;
    ensure!(at < start.add(mib << 20), "the record was over before the safekeeper was killed: {at}");
    fabric.ok(&["start", "safekeeper-2"])?;
    let client = tokio::time::timeout(PATIENCE, emitting).await.context("the record hangs")???;
    client.batch_execute("INSERT INTO t VALUES (0)").await.context("a commit behind the record")?;
    println!("a record of {mib} MiB: committed after {:?}", began.elapsed());

    let began = Instant::now();
    let block = format!(
        "DO $$ BEGIN FOR i IN 1..{subs} LOOP \
         BEGIN INSERT INTO t VALUES (i); EXCEPTION WHEN others THEN NULL; END; END LOOP; END $$"
    );
    client.batch_execute(&block).await?;
    println!("{subs} subtransactions: committed after {:?}", began.elapsed());
    drop(client);

    fabric.ok(&["stop", "postgres"])?;
    let (tenant, timeline) = (described.tenant_id.to_string(), described.timeline_id.to_string());
    let mut verify = Command::new(fabric.binary());
    verify.args(["page", "verify", "--pageserver", &described.pageservers[0].http, "--tenant", &tenant]);
    let output = verify.args(["--timeline", &timeline, "--data-dir"]).arg(&pg.data_dir).output_within(PATIENCE)?;
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("all of it compared after {:?}\n{report}", began.elapsed());
    ensure!(output.status.code() == Some(0), "{report}{}", String::from_utf8_lossy(&output.stderr));
    for ((name, before), after) in ["shim", "safekeeper", "pageserver"].iter().zip(before).zip(peaks(&described)?) {
        println!("{name}: at most {} MiB, {} MiB before", after >> 20, before >> 20);
        // The ring, queues, receive buffers, pages in memory: not the record.
        ensure!(after < before + (200 << 20), "{name}: {before} bytes before the record, {after} at most");
    }
    Ok(())
}
