//! `walfabric page verify` beyond pages: relation maps, prepared transactions, replication origins.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use harness::{Bounded as _, PATIENCE};
use rustix::process::{Pid, Signal};
use tests::fabric::TestFabric;
use walfabric::fabric::Fabric;
use walfabric::sql;

/// What a cluster writes into such files; the tablespace's directory is filled in.
const CHANGES: [&str; 10] = [
    "CREATE DATABASE logged",
    "CREATE DATABASE copied TEMPLATE template0 STRATEGY file_copy",
    "CREATE TABLESPACE elsewhere LOCATION 'TABLESPACE'",
    "CREATE DATABASE there TABLESPACE elsewhere",
    // Another file for a mapped catalog: one of this database, and one that all share.
    "VACUUM FULL pg_class",
    "VACUUM FULL pg_database",
    "CREATE TABLE t (a int)",
    "SELECT pg_replication_origin_create('one')",
    "SELECT pg_replication_origin_advance('one', '0/ABCDEF')",
    // An entry without progress: that origin was merely used.
    "SELECT pg_replication_origin_create('two'), pg_replication_origin_session_setup('two')",
];

fn verify(fabric: &TestFabric, described: &Fabric, data_dir: &Path) -> Result<Output> {
    let (tenant, timeline) = (described.tenant_id.to_string(), described.timeline_id.to_string());
    let mut command = Command::new(fabric.binary());
    command.args(["page", "verify", "--pageserver", &described.pageservers[0].http, "--tenant", &tenant]);
    command.args(["--timeline", &timeline, "--data-dir"]).arg(data_dir).output_within(PATIENCE)
}

/// A directory for a tablespace, of the server's user.
fn tablespace(dir: &Path) -> Result<PathBuf> {
    let space = dir.join("space");
    std::fs::create_dir(&space)?;
    let user = walfabric::postgres::run_as()?;
    walfabric::postgres::check_reachable(dir, user)?;
    if let Some((uid, gid)) = user {
        std::os::unix::fs::chown(&space, Some(uid), Some(gid))?;
    }
    Ok(space)
}

/// Files below `dir` that have this name, or any.
fn named(dir: &Path, name: Option<&str>) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(named(&path, name)?);
        } else if name.is_none_or(|name| path.ends_with(name)) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Goal: relation maps of every database, a prepared transaction and the progress of origins are compared with the
/// files of a stopped cluster. Method: a cluster changes all of them after its import and stops: equal. Then a copy of
/// its directory has one byte flipped in each of these files in turn, and lacks one: each time that file is named. In
/// the end the cluster is imported as it is now: equal again.
#[tokio::test(flavor = "multi_thread")]
async fn files_beside_the_pages_are_compared() -> Result<()> {
    let fabric = TestFabric::up(&[])?;
    let described = fabric.read()?;
    let pg = described.postgres.clone().context("postgres")?;
    let dir = tempfile::Builder::new().prefix("walfabric-verify-").tempdir()?;
    let space = tablespace(dir.path())?;
    let client = sql::connect(&pg.conninfo()).await?;
    client.batch_execute("ALTER SYSTEM SET max_prepared_transactions = 5").await?;
    drop(client);
    fabric.ok(&["stop", "postgres"])?;
    fabric.ok(&["start", "postgres"])?;
    let client = sql::connect(&pg.conninfo()).await?;
    let is_14 = sql::text(&client, "SHOW server_version_num").await?.starts_with("14");
    for change in CHANGES {
        let change = change.replace("TABLESPACE'", &format!("{}'", space.display()));
        let change = if is_14 { change.replace("STRATEGY file_copy", "") } else { change };
        client.batch_execute(&change).await.context(change)?;
    }
    client.batch_execute("BEGIN; INSERT INTO t VALUES (1); SAVEPOINT s; INSERT INTO t VALUES (2)").await?;
    client.batch_execute("PREPARE TRANSACTION 'kept'").await?;
    drop(client);
    fabric.ok(&["stop", "postgres"])?;

    let output = verify(&fabric, &described, &pg.data_dir)?;
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(0), "{report}{}", String::from_utf8_lossy(&output.stderr));
    let copy = dir.path().join("copy");
    harness::copy_tree(&pg.data_dir, &copy)?;
    let prepared = named(&copy.join("pg_twophase"), None)?;
    ensure!(prepared.len() == 1, "no state of the prepared transaction: {prepared:?}");
    let mut files = named(&copy, Some("pg_filenode.map"))?;
    // Shared, three templates and postgres, and the three that were created.
    ensure!(files.len() == 7, "relation maps: {files:?}");
    files.extend(prepared);
    files.push(copy.join("pg_logical/replorigin_checkpoint"));
    let counted = format!("{} files beside them", files.len());
    assert!(report.contains(&counted), "{counted}? {report}");

    for file in &files {
        let whole = std::fs::read(file)?;
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        std::fs::write(file, &flipped)?;
        names(&verify(&fabric, &described, &copy)?, file.strip_prefix(&copy)?);
        std::fs::write(file, &whole)?;
    }
    let missing = files.iter().find(|f| f.parent().is_some_and(|d| d.ends_with("pg_twophase"))).context("a file")?;
    std::fs::remove_file(missing)?;
    names(&verify(&fabric, &described, &copy)?, missing.strip_prefix(&copy)?);

    fabric.ok(&["start", "postgres"])?;
    let import = fabric.forget_pages()?.output_within(PATIENCE)?;
    ensure!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));
    fabric.ok(&["stop", "postgres"])?;
    let output = verify(&fabric, &described, &pg.data_dir)?;
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(0) && report.contains(&counted), "after the import: {report}");
    Ok(())
}

/// Goal: a cluster that was killed in the midst of DDL is equal; what it left behind is listed; what the catalogs name
/// is judged as ever; so is the init fork of an extension's index, of which the file lacks the LSN. Method: a
/// transaction that has built an index, rebuilt another and filled a table is killed; after the next stop it is equal
/// whatever its files hold, and a flipped byte in any other file is a difference.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_crash_leaves_behind_is_no_difference() -> Result<()> {
    let fabric = TestFabric::up(&[])?;
    let described = fabric.read()?;
    let pg = described.postgres.clone().context("postgres")?;
    let client = sql::connect(&pg.conninfo()).await?;
    for change in [
        "CREATE EXTENSION bloom",
        "CREATE TABLE o AS SELECT g AS a, md5(g::text) AS t FROM generate_series(1, 20000) g",
        "CREATE INDEX o_a ON o (a)",
    ] {
        client.batch_execute(change).await.context(change)?;
    }
    let mut left = Vec::new();
    client.batch_execute("BEGIN; CREATE INDEX o_t ON o (t); REINDEX INDEX o_a; CREATE TABLE c AS TABLE o").await?;
    for name in ["o_t", "o_a", "c"] {
        left.push(sql::text(&client, &format!("SELECT pg_relation_filepath('{name}')")).await?);
    }
    // A backend that notices the end of the postmaster first would roll back, and take its files with it.
    let backend: i32 = sql::text(&client, "SELECT pg_backend_pid()").await?.parse()?;
    rustix::process::kill_process(Pid::from_raw(backend).context("a backend")?, Signal::STOP)?;
    fabric.ok(&["kill", "postgres"])?;
    drop(client);
    fabric.ok(&["start", "postgres"])?;
    let client = sql::connect(&pg.conninfo()).await?;
    let named = [
        sql::text(&client, "SELECT pg_relation_filepath('o')").await?,
        sql::text(&client, "SELECT pg_relation_filepath('o_a')").await?,
    ];
    client.batch_execute("INSERT INTO o VALUES (1, 'x')").await?;
    // After the crash: recovery would write the page with its LSN.
    client.batch_execute("CREATE UNLOGGED TABLE un (i int); CREATE INDEX ON un USING bloom (i)").await?;
    drop(client);
    fabric.ok(&["stop", "postgres"])?;

    // Whether the log of the last pages was flushed is chance; a page that never was in it is not.
    let mut flipped = 0;
    for path in &left {
        let file = pg.data_dir.join(path);
        let mut bytes = std::fs::read(&file).with_context(|| path.clone())?;
        if let Some(byte) = bytes.get_mut(100) {
            *byte ^= 1;
            flipped += 1;
        }
        std::fs::write(&file, bytes)?;
    }
    ensure!(flipped > 0, "an index is built in its file: none of {left:?} has a page");
    let output = verify(&fabric, &described, &pg.data_dir)?;
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.code() == Some(0), "{report}{}", String::from_utf8_lossy(&output.stderr));
    let listed = report.lines().find(|line| line.starts_with("left by a crash")).context("nothing is listed")?;
    // The table of long values of `c`, and its index, as well.
    assert!(listed.contains("not judged: 5 files"), "{listed}");
    assert!(left.iter().all(|path| listed.contains(path.as_str())), "{left:?}: {listed}");
    for path in &named {
        let file = pg.data_dir.join(path);
        let whole = std::fs::read(&file)?;
        let mut other = whole.clone();
        other[8179] ^= 1;
        std::fs::write(&file, &other)?;
        names(&verify(&fabric, &described, &pg.data_dir)?, Path::new(path));
        std::fs::write(&file, &whole)?;
    }
    Ok(())
}

/// Exit code 5, and one difference, in this file.
fn names(output: &Output, file: &Path) {
    let report = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(5), "{}: {report}", file.display());
    let different: Vec<&str> = report.lines().filter(|line| line.starts_with("DIFFERENT")).collect();
    let [one] = different[..] else { panic!("{}: {report}", file.display()) };
    assert!(one.contains(&*file.to_string_lossy()), "{} is not named: {one}", file.display());
}
