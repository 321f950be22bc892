//! `walfabric backup`: clusters that start at an LSN out of pages alone.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use harness::{Bounded as _, PATIENCE};
use rustix::process::{Pid, Signal, kill_process};
use tests::fabric::TestFabric;
use tests::process::{Postgres, Process};
use tests::wait;
use tokio_postgres::Client;
use walfabric::fabric::Fabric;
use walfabric::sql;

/// A place that PostgreSQL's user can write, with the binary in it.
fn public_dir(fabric: &TestFabric) -> Result<(tempfile::TempDir, PathBuf)> {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::Builder::new().prefix("walfabric-backup-").tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777))?;
    let binary = dir.path().join("walfabric");
    fs::copy(fabric.binary(), &binary)?;
    Ok((dir, binary))
}

/// `walfabric backup`, as PostgreSQL's user.
fn backup(binary: &Path, fabric: &Fabric, to: &Path, options: &[&str]) -> Result<Output> {
    backup_command(binary, fabric, to, options)?.output_within(PATIENCE)
}

fn backup_command(binary: &Path, fabric: &Fabric, to: &Path, options: &[&str]) -> Result<Command> {
    let mut command: Command = harness::as_postgres(binary)?;
    command.args(["backup", "--pageserver", &fabric.pageservers[0].http, "--tenant", &fabric.tenant_id.to_string()]);
    command.args(["--timeline", &fabric.timeline_id.to_string(), "--to"]).arg(to).args(options);
    command.current_dir("/");
    Ok(command)
}

/// A cluster of a backup, on a port of its own, which lets the test in.
async fn start(data_dir: &Path) -> Result<(Postgres, Client)> {
    let hba = data_dir.join("pg_hba.conf");
    fs::write(&hba, fs::read_to_string(&hba)? + "host all all 127.0.0.1/32 trust\n")?;
    let mut pg = Postgres::adopt(data_dir.to_owned())?;
    pg.restart().await?;
    let client = sql::connect(&pg.conninfo()).await?;
    client.batch_execute("SET statement_timeout = '60s'").await?;
    Ok((pg, client))
}

/// What a client sees of the tables of the test.
async fn seen(client: &Client) -> Result<String> {
    let rows = "SELECT coalesce(string_agg(a || ':' || b, ',' ORDER BY a), '') FROM t";
    let mut seen = sql::text(client, rows).await?;
    seen += &sql::text(client, "SELECT ' ' || count(*) || ' elsewhere ' FROM e").await?;
    seen += &sql::text(client, "SELECT coalesce(string_agg(gid, ',' ORDER BY gid), '') FROM pg_prepared_xacts").await?;
    Ok(seen)
}

/// What happened, one after the other. Each step's end is a position to go back to.
const STEPS: [&str; 10] = [
    "INSERT INTO t SELECT g, 'first ' || g FROM generate_series(1, 2000) g",
    "BEGIN; INSERT INTO t VALUES (10001, 'prepared'); PREPARE TRANSACTION 'early'",
    "CHECKPOINT",
    "UPDATE t SET b = 'second ' || a WHERE a % 3 = 0",
    "BEGIN; INSERT INTO t VALUES (10002, 'prepared'); PREPARE TRANSACTION 'late'",
    "DELETE FROM t WHERE a % 7 = 0",
    "VACUUM t",
    "INSERT INTO e SELECT generate_series(1, 3000)",
    "COMMIT PREPARED 'early'",
    "INSERT INTO t SELECT g, repeat('x', 500) FROM generate_series(20001, 24000) g",
];

/// Goal: a cluster that is made at any past LSN has exactly what was committed there, of every kind; it survives a
/// kill, and its log goes on. Method: the state after each step is noted with its LSN; then a backup is started at
/// each.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_starts_at_any_lsn_with_what_was_committed_there() -> Result<()> {
    let fabric = TestFabric::up(&["--initdb-option=--data-checksums"])?;
    let described = fabric.read()?;
    let pg = described.postgres.clone().context("postgres")?;
    let client = sql::connect(&pg.conninfo()).await?;
    client.batch_execute("ALTER SYSTEM SET max_prepared_transactions = 5").await?;
    drop(client);
    fabric.ok(&["stop", "postgres"])?;
    fabric.ok(&["start", "postgres"])?;
    let client = sql::connect(&pg.conninfo()).await?;
    let (dir, binary) = public_dir(&fabric)?;
    let space = dir.path().join("space");
    fs::create_dir(&space)?;
    harness::give_to_postgres(&space)?;
    for make in [
        "CREATE EXTENSION amcheck",
        "CREATE DATABASE logged",
        "CREATE TABLE t (a int PRIMARY KEY, b text)",
        "CREATE INDEX t_b ON t (b)",
        "CREATE UNLOGGED TABLE u (a int PRIMARY KEY)",
        "INSERT INTO u SELECT generate_series(1, 1000)",
        "CREATE SEQUENCE s",
        "SELECT setval('s', 500)",
        "CREATE TABLESPACE elsewhere LOCATION 'TABLESPACE'",
        "CREATE TABLE e (a int) TABLESPACE elsewhere",
    ] {
        let make = make.replace("TABLESPACE'", &format!("{}'", space.display()));
        client.batch_execute(&make).await.context(make)?;
    }
    let mut points = Vec::new();
    for step in STEPS {
        client.batch_execute(step).await.context(step)?;
        let lsn = sql::text(&client, "SELECT pg_current_wal_insert_lsn()").await?;
        points.push((step, lsn, seen(&client).await?));
    }
    // In progress at the end, and in the WAL: nobody will see it.
    let open = sql::connect(&pg.conninfo()).await?;
    open.batch_execute("BEGIN; INSERT INTO t SELECT g, 'lost' FROM generate_series(50001, 52000) g").await?;
    client.batch_execute("INSERT INTO t VALUES (30000, 'last')").await?;
    let lsn = sql::text(&client, "SELECT pg_current_wal_insert_lsn()").await?;
    points.push(("the last", lsn, seen(&client).await?));

    for (n, (step, lsn, expected)) in points.iter().enumerate() {
        let to = dir.path().join(format!("at-{n}"));
        let made = backup(&binary, &described, &to, &["--at", lsn])?;
        ensure!(made.status.success(), "{step}: {}", String::from_utf8_lossy(&made.stderr));
        let own = fs::read_dir(dir.path().join(format!("at-{n}_tablespaces")))?.count();
        ensure!(own == 1, "{step}: {own} tablespaces beside the directory");
        check_cluster(&to, step, expected).await?;
    }
    // What the copies did, the cluster's own tablespace has not seen.
    assert_eq!(seen(&client).await?, points[points.len() - 1].2);
    drop((open, client));
    Ok(())
}

async fn check_cluster(data_dir: &Path, step: &str, expected: &str) -> Result<()> {
    let (mut pg, client) = start(data_dir).await.context(step.to_owned())?;
    assert_eq!(seen(&client).await?, *expected, "{step}");
    assert_eq!(sql::text(&client, "SELECT count(*) FROM u").await?, "0", "{step}: unlogged");
    let next: i64 = sql::text(&client, "SELECT nextval('s')").await?.parse()?;
    assert!((501..=533).contains(&next), "{step}: the sequence goes on at {next}");
    // The stricter check would wait for the prepared transaction's lock.
    let check = "SELECT count(bt_index_check(c.oid, true)) FROM pg_class c JOIN pg_am a ON a.oid = c.relam \
                 WHERE a.amname = 'btree' AND c.relpersistence = 'p' AND c.relkind = 'i'";
    sql::text(&client, check).await.context("amcheck")?;
    client.batch_execute("INSERT INTO u VALUES (7)").await?;
    client.batch_execute("INSERT INTO t VALUES (-1, 'after')").await?;
    let after = seen(&client).await?;
    drop(client);
    // From the checkpoint that was made by hand.
    pg.kill();
    pg.restart().await?;
    let client = sql::connect(&pg.conninfo()).await?;
    assert_eq!(seen(&client).await?, after, "{step}: after a crash");
    client.batch_execute("VACUUM").await?;
    client.batch_execute("CHECKPOINT").await?;
    let failures = sql::text(&client, "SELECT sum(checksum_failures) FROM pg_stat_database").await?;
    assert_eq!(failures, "0", "{step}: checksums");
    drop(client);
    pg.stop()?;
    Ok(())
}

/// Goal: whatever is refused is refused with its reason, and leaves nothing. Method: one request after the other that
/// cannot be granted, and a look at the place where its directory would be.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_leaves_nothing() -> Result<()> {
    let fabric = TestFabric::up(&[])?;
    let described = fabric.read()?;
    let (dir, binary) = public_dir(&fabric)?;
    let to = dir.path().join("copy");
    let refused = |fabric: &Fabric, options: &[&str], code: i32, text: &str| -> Result<()> {
        let made = backup(&binary, fabric, &to, options)?;
        let said = String::from_utf8_lossy(&made.stderr).into_owned();
        ensure!(made.status.code() == Some(code) && said.contains(text), "{options:?}: {}: {said}", made.status);
        Ok(())
    };
    refused(&described, &["--at", "0/100"], 1, "WF015")?;
    refused(&described, &["--at", "x"], 2, "minutes ago")?;
    refused(&described, &["--at", "2000-01-01"], 1, "WF015")?;
    refused(&described, &["--at", "2100-01-01"], 1, "lies in the future")?;
    refused(&described, &["--at", "xid:3"], 1, "42704")?;
    refused(&described, &["-T", "relative=/x"], 2, "absolute")?;
    let mut other = described.clone();
    other.timeline_id = proto::id::TimelineId::new([7; 16]);
    refused(&other, &[], 1, "WF001")?;
    ensure!(!to.exists(), "nothing is left");
    fs::create_dir(&to)?;
    fs::write(to.join("mine"), "kept")?;
    harness::give_to_postgres(&to)?;
    refused(&described, &[], 2, "not empty")?;
    assert_eq!(fs::read_to_string(to.join("mine"))?, "kept");
    fs::remove_file(to.join("mine"))?;
    refused(&other, &[], 1, "WF001")?;
    ensure!(to.exists(), "an empty directory that was there stays");
    // Interrupted while it waits for an LSN that does not come.
    fs::remove_dir(&to)?;
    let command = backup_command(&binary, &described, &to, &["--at", "FF/FFFFFFFF"])?;
    let mut waiting = Process::spawn(command, &dir.path().join("log"))?;
    wait::until("the directory", PATIENCE, async || to.exists().then_some(())).await;
    waiting.signal(Signal::INT);
    assert_eq!(waiting.wait("an interrupted backup", PATIENCE), Some(1));
    ensure!(!to.exists(), "an interrupted backup leaves nothing");
    let made = backup(&binary, &described, &to, &[])?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    Ok(())
}

/// Goal: who dropped that table is answered by one command, and nothing of it stays. Method: a table is dropped; psql
/// sees it as of the LSN, the time and the transaction before, and not as of now; pg_dump has it, too.
#[tokio::test(flavor = "multi_thread")]
async fn one_look_at_a_past_moment() -> Result<()> {
    let fabric = TestFabric::up(&[])?;
    let pg = fabric.read()?.postgres.context("postgres")?;
    let client = sql::connect(&pg.conninfo()).await?;
    client.batch_execute("CREATE TABLE t AS SELECT generate_series(1, 1234) AS a").await?;
    let xid = sql::text(&client, "SELECT xmin FROM pg_class WHERE relname = 't'").await?;
    let lsn = sql::text(&client, "SELECT pg_current_wal_insert_lsn()").await?;
    let time = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let time = sql::text(&client, time).await?;
    client.batch_execute("DROP TABLE t").await?;
    let after = sql::text(&client, "SELECT pg_current_wal_insert_lsn()").await?;

    let scratch = tempfile::Builder::new().prefix("walfabric-look-").tempdir()?;
    std::os::unix::fs::chown(scratch.path(), Some(fs::metadata(fabric.path())?.uid()), None)?;
    let place = scratch.path().to_string_lossy().into_owned();
    let count = ["-Atc", "SELECT count(*) FROM t"];
    for at in [lsn.clone(), time, format!("xid:{xid}")] {
        let seen = fabric.ok(&[&["psql", "--scratch", &place, "--at", &at, "--"][..], &count].concat());
        assert_eq!(seen.with_context(|| at.clone())?.trim(), "1234", "{at}");
    }
    let now = fabric.run(&[&["psql", "--scratch", &place, "--at", &after, "--"][..], &count].concat())?;
    ensure!(now.status.code() == Some(1), "psql's own exit code: {}", now.status);
    ensure!(String::from_utf8_lossy(&now.stderr).contains("does not exist"), "{now:?}");
    // Without a moment it is all that is committed, also when the pageserver is behind.
    let frozen = fabric.read()?.pageservers[0].pid.and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let frozen = frozen.context("a pageserver")?;
    kill_process(frozen, Signal::STOP)?;
    client.batch_execute("CREATE TABLE late AS SELECT generate_series(1, 77) AS a").await?;
    kill_process(frozen, Signal::CONT)?;
    let late = ["-Atc", "SELECT count(*) FROM late"];
    let seen = fabric.ok(&[&["psql", "--scratch", &place, "--"][..], &late].concat())?;
    assert_eq!(seen.trim(), "77");
    let dump = fabric.ok(&["dump", "--scratch", &place, "--at", &lsn, "--", "--table", "t"])?;
    ensure!(dump.contains("CREATE TABLE public.t") && dump.contains("1234"), "{dump}");
    ensure!(fs::read_dir(scratch.path())?.count() == 0, "nothing stays");
    Ok(())
}
