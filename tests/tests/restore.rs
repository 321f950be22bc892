//! The procedures of docs/recipes.md that need only a base backup and the safekeepers' WAL.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::Bounded as _;
use pgformat::SegSize;
use serde_json::Value;
use tests::fabric::TestFabric;
use tests::process::Postgres;
use tests::wait;
use tokio_util::sync::CancellationToken;
use walfabric::fabric::{Fabric, PostgresEntry};
use walfabric::sql;
use walfabric::timeline::{self, CreateArgs};

const PATIENCE: Duration = Duration::from_secs(60);

const COUNT: &str = "SELECT count(*) FROM t";

/// A copy of the base backup, owned by PostgreSQL's user.
fn copy_backup(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o700))?;
    harness::give_to_postgres(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_backup(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
            harness::give_to_postgres(&target)?;
        }
    }
    Ok(())
}

fn append(data_dir: &Path, name: &str, text: &str) -> Result<()> {
    let path = data_dir.join(name);
    let before = fs::read_to_string(&path).unwrap_or_default();
    fs::write(&path, before + text)?;
    harness::give_to_postgres(&path)
}

async fn base_backup(pg: &PostgresEntry, dir: &Path) -> Result<PathBuf> {
    let to = dir.join("base");
    let program = Postgres::adopt(pg.data_dir.clone())?.program("pg_basebackup")?;
    let mut command = program;
    command.args(["-h", &pg.host, "-p", &pg.port.to_string(), "-U", &pg.user, "--checkpoint=fast", "-D"]).arg(&to);
    let output = command.output_within(PATIENCE)?;
    ensure!(output.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&output.stderr));
    Ok(to)
}

/// A place that PostgreSQL's user can read, with the binary in it.
fn public_dir(fabric: &TestFabric) -> Result<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::Builder::new().prefix("walfabric-restore-").tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777))?;
    let binary = dir.path().join("walfabric");
    fs::copy(fabric.binary(), &binary)?;
    Ok((dir, binary))
}

fn wal_get(binary: &Path, fabric: &Fabric, name: &str, to: &Path) -> Result<(Option<i32>, String)> {
    let mut command = Command::new(binary);
    command.args(["wal", "get", name]).arg(to).args(source(fabric)).args(["--wait-s", "1"]);
    let output = command.output_within(PATIENCE)?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

fn source(fabric: &Fabric) -> [String; 6] {
    let (tenant, timeline) = (fabric.tenant_id.to_string(), fabric.timeline_id.to_string());
    let addresses: Vec<&str> = fabric.safekeepers.iter().map(|s| s.pg.as_str()).collect();
    let words = ["--safekeepers", &addresses.join(","), "--tenant-id", &tenant, "--timeline-id", &timeline];
    words.map(str::to_owned)
}

/// What PostgreSQL's recovery may be told: not there, or stop, and nothing in between.
fn exit_codes(fabric: &TestFabric, described: &Fabric, binary: &Path, first: &str, dir: &Path) -> Result<()> {
    let to = dir.join("file");
    let (code, text) = wal_get(binary, described, first, &to)?;
    ensure!(code == Some(0) && fs::metadata(&to)?.len() == 16 << 20, "{code:?}: {text}");
    for absent in [
        "0000000100000FFF00000001",
        "000000020000000000000001",
        "00000002.history",
        "00000001.history",
        "x",
        "00000001FFFFFFFF000000FF",
    ] {
        let (code, text) = wal_get(binary, described, absent, &dir.join("absent"))?;
        ensure!(code == Some(1) && text.contains("does not exist"), "{absent}: {code:?}: {text}");
    }
    ensure!(fs::read_dir(dir)?.count() == 3, "nothing half-made stays: base, walfabric, file");
    for arguments in [&["wal", "get"][..], &["wal", "get", first, "x"], &["wal", "get", first, "x", "--nonsense"]] {
        let output = Command::new(binary).args(arguments).current_dir(dir).output_within(PATIENCE)?;
        ensure!(output.status.code() == Some(126), "{arguments:?}: {:?}", output.status);
    }
    // One of three is no quorum: where the WAL ends is not known, so nothing may be called absent.
    fabric.ok(&["kill", "safekeeper-2"])?;
    fabric.ok(&["kill", "safekeeper-3"])?;
    let mut command = Command::new(binary);
    command.args(["wal", "get", "0000000100000FFF00000001", "x", "--wait-s", "0"]).args(source(described));
    let output = command.current_dir(dir).output_within(PATIENCE)?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(126) && text.contains("not known"), "{:?}: {text}", output.status);
    fabric.ok(&["start", "safekeeper-2"])?;
    fabric.ok(&["start", "safekeeper-3"])?;
    Ok(())
}

/// Where a member keeps the timeline.
fn member_dir(fabric: &Fabric, index: usize) -> PathBuf {
    fabric.safekeepers[index].data_dir.join(fabric.tenant_id.to_string()).join(fabric.timeline_id.to_string())
}

fn flip_a_bit(file: &Path, offset: usize) -> Result<()> {
    let mut bytes = fs::read(file).with_context(|| file.display().to_string())?;
    bytes[offset] ^= 1;
    Ok(fs::write(file, bytes)?)
}

/// Goal: a damaged copy is never handed out while another member has a good one. Method: a byte flipped in the file of
/// the member that is asked first, and back again.
async fn a_damaged_copy_is_named_and_the_next_one_taken(
    fabric: &TestFabric,
    described: &Fabric,
    binary: &Path,
    (name, offset): (&str, usize),
    dir: &Path,
) -> Result<()> {
    let bad = &described.safekeepers[1];
    let flip = || flip_a_bit(&member_dir(described, 1).join(name), offset);
    let (good, to) = (dir.join("good"), dir.join("second"));
    let (code, text) = wal_get(binary, described, name, &good)?;
    ensure!(code == Some(0) && text.is_empty(), "{name}: {code:?}: {text}");
    // Killed, so that it reads the file afterwards and not its memory.
    fabric.ok(&["kill", "safekeeper-2"])?;
    flip()?;
    fabric.ok(&["start", "safekeeper-2"])?;
    let (mut turned, mut alone) = (described.clone(), described.clone());
    turned.safekeepers.swap(0, 1);
    alone.safekeepers = vec![bad.clone()];
    // Started anew, it may not know yet that all of the segment is committed.
    wait::until(&format!("{name}, flipped at {offset}, is refused"), PATIENCE, async || {
        let (code, text) = wal_get(binary, &alone, name, &dir.join("third")).ok()?;
        assert_eq!(code, Some(126), "{name} {offset}: {text}");
        text.contains("good copy").then_some(())
    })
    .await;
    let (code, text) = wal_get(binary, &turned, name, &to)?;
    ensure!(code == Some(0) && text.contains(&bad.pg) && text.contains("damaged"), "{name} {offset}: {code:?}: {text}");
    ensure!(fs::read(&to)? == fs::read(&good)?, "the good copy");
    flip()
}

/// Names of three segments that one record lies in: its start, its middle, its end; `closed`: the last one, too.
async fn long_record(client: &tokio_postgres::Client, closed: bool) -> Result<[String; 3]> {
    let file = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())";
    client.batch_execute("SELECT pg_switch_wal()").await?;
    client.batch_execute("INSERT INTO t VALUES (0)").await?;
    let first = sql::text(client, file).await?;
    // Two segments and a half.
    client.batch_execute("SELECT pg_logical_emit_message(true, 'x', repeat('x', 40 << 20))").await?;
    client.batch_execute("INSERT INTO t VALUES (0)").await?;
    let (seg, last) = (SegSize::DEFAULT, sql::text(client, file).await?);
    let (tli, segno) = seg.parse_file_name(&first).context("a segment's name")?;
    ensure!(seg.file_name(tli, segno + 2) == last, "{first} to {last}");
    // A single member gives what is known to be committed: whole segments.
    if closed {
        client.batch_execute("SELECT pg_switch_wal()").await?;
        client.batch_execute("INSERT INTO t VALUES (0)").await?;
    }
    Ok([first, seg.file_name(tli, segno + 1), last])
}

/// A stock hot standby that streams from a safekeeper.
async fn standby(described: &Fabric, backup: &Path, dir: &Path, client: &tokio_postgres::Client) -> Result<()> {
    let data_dir = dir.join("standby");
    copy_backup(backup, &data_dir)?;
    let (host, port) = described.safekeepers[0].pg.rsplit_once(':').context("an address")?;
    let ids = format!("-c tenant_id={} -c timeline_id={}", described.tenant_id, described.timeline_id);
    let conninfo = format!("host={host} port={port} user=postgres options=''{ids}''");
    append(&data_dir, "standby.signal", "")?;
    append(&data_dir, "postgresql.auto.conf", &format!("primary_conninfo = '{conninfo}'\n"))?;
    let mut pg = Postgres::adopt(data_dir)?;
    pg.restart().await?;
    client.batch_execute("INSERT INTO t SELECT generate_series(1, 1000)").await?;
    let expected = sql::text(client, COUNT).await?;
    let reader = sql::connect(&pg.conninfo()).await?;
    wait::until("the standby's rows", PATIENCE, async || {
        (sql::text(&reader, COUNT).await.ok()? == expected).then_some(())
    })
    .await;
    drop(reader);
    pg.stop()
}

/// The lost primary restored as another cluster, by restore_command: it ends on the next tli.
async fn next_tli(described: &Fabric, binary: &Path, backup: &Path, dir: &Path, expected: &str) -> Result<()> {
    let data_dir = dir.join("restored");
    copy_backup(backup, &data_dir)?;
    let command = format!(
        "{} wal get %f %p --broker {} --tenant-id {} --timeline-id {}",
        binary.display(),
        described.broker.endpoint,
        described.tenant_id,
        described.timeline_id
    );
    append(&data_dir, "recovery.signal", "")?;
    append(&data_dir, "postgresql.auto.conf", &format!("restore_command = '{command}'\n"))?;
    let mut pg = Postgres::adopt(data_dir)?;
    pg.restart().await?;
    let client = sql::connect(&pg.conninfo()).await?;
    wait::until("the end of recovery", PATIENCE, async || {
        (sql::text(&client, "SELECT pg_is_in_recovery()::text").await.ok()? == "false").then_some(())
    })
    .await;
    assert_eq!(sql::text(&client, COUNT).await?, expected, "every acknowledged row is there");
    let tli = sql::text(&client, "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)").await?;
    assert_eq!(tli, "00000002");
    pg.kill();
    Ok(())
}

/// The lost primary restored in its place, by segments in pg_wal: the same tli goes on, protected by the same fabric.
async fn same_tli(fabric: &TestFabric, pg: &PostgresEntry, backup: &Path, first: &str, expected: &str) -> Result<()> {
    fs::remove_dir_all(&pg.data_dir)?;
    copy_backup(backup, &pg.data_dir)?;
    let pg_wal = pg.data_dir.join("pg_wal");
    let mut command = Command::new(fabric.binary());
    command.args(["wal", "copy", first]).arg(&pg_wal).arg("--dir").arg(fabric.path());
    let output = command.output_within(PATIENCE)?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wal copy: {text}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(text.lines().count() >= 3 && text.contains(first), "{text}");
    for entry in fs::read_dir(&pg_wal)? {
        harness::give_to_postgres(&entry?.path())?;
    }
    fabric.ok(&["start", "postgres"])?;
    let client = sql::connect(&pg.conninfo()).await?;
    assert_eq!(sql::text(&client, COUNT).await?, expected, "every acknowledged row is there");
    let tli = sql::text(&client, "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)").await?;
    assert_eq!(tli, "00000001");
    wait::until("protection", PATIENCE, async || {
        let status: Value = serde_json::from_slice(&fabric.run(&["status", "--json"]).ok()?.stdout).ok()?;
        (status.pointer("/timelines/0/shim/protected")? == &Value::Bool(true)).then_some(())
    })
    .await;
    client.batch_execute("INSERT INTO t VALUES (0)").await.context("commits reach the quorum again")
}

/// Goal: what no member can decode, the end of a record from before the timeline's first segment, is given when two
/// members have the same, and never otherwise. Method: a timeline that starts behind a long record; a bit flipped in
/// the copy of the member that is asked first.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_older_record_is_compared() -> Result<()> {
    let fabric = TestFabric::up(&["--pageservers", "0"])?;
    let mut described = fabric.read()?;
    let pg = described.postgres.clone().context("postgres")?;
    let client = sql::connect(&pg.conninfo()).await?;
    client.batch_execute("CREATE TABLE t (n int)").await?;
    let [_, _, name] = long_record(&client, false).await?;
    // A timeline starts where the newest checkpoint began.
    client.batch_execute("CHECKPOINT").await?;
    let ttid = timeline::random_ttid();
    let args = CreateArgs {
        primary: pg.conninfo(),
        broker: described.broker.endpoint.clone(),
        broker_prefix: described.broker.prefix.clone(),
        ttid,
        safekeepers: vec![1, 2, 3],
        pageservers: Vec::new(),
        import: false,
        interrupted: CancellationToken::new(),
    };
    timeline::create(&args).await?;
    (described.tenant_id, described.timeline_id) = (ttid.tenant_id, ttid.timeline_id);
    let (dir, binary) = public_dir(&fabric)?;
    let (good, to) = (dir.path().join("good"), dir.path().join("file"));
    let (code, text) = wal_get(&binary, &described, &name, &good)?;
    ensure!(code == Some(0) && text.is_empty(), "{code:?}: {text}");
    fabric.ok(&["kill", "safekeeper-2"])?;
    flip_a_bit(&member_dir(&described, 1).join(&name), 50_000)?;
    fabric.ok(&["start", "safekeeper-2"])?;
    described.safekeepers.swap(0, 1);
    let (code, text) = wal_get(&binary, &described, &name, &to)?;
    ensure!(code == Some(0) && text.contains("differs from that of"), "{code:?}: {text}");
    ensure!(fs::read(&to)? == fs::read(&good)?, "the good copy");
    described.safekeepers.truncate(2);
    let (code, text) = wal_get(&binary, &described, &name, &dir.path().join("none"))?;
    ensure!(code == Some(126) && text.contains("no member gives a good copy"), "{code:?}: {text}");
    Ok(())
}

/// Goal: what the recipes promise. Method: one fabric; a base backup, then rows over three segments; a standby from a
/// safekeeper; the primary lost, with its shim; both ways of restoring it, each with every acknowledged row.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_primary_comes_back_from_a_base_backup_and_the_members_wal() -> Result<()> {
    let fabric = TestFabric::up(&["--pageservers", "0"])?;
    let described = fabric.read()?;
    let pg = described.postgres.clone().context("postgres")?;
    let (dir, binary) = public_dir(&fabric)?;
    let client = sql::connect(&pg.conninfo()).await?;
    client.batch_execute("CREATE TABLE t (n int)").await?;
    let backup = base_backup(&pg, dir.path()).await?;
    let label = fs::read_to_string(backup.join("backup_label"))?;
    let first = label.split(['(', ')']).nth(1).and_then(|words| words.split(' ').nth(1)).context("a file")?.to_owned();
    for _ in 0..2 {
        client.batch_execute("INSERT INTO t SELECT generate_series(1, 1000); SELECT pg_switch_wal()").await?;
    }
    exit_codes(&fabric, &described, &binary, &first, dir.path())?;
    let [begins, within, ends] = long_record(&client, true).await?;
    let tail = (16 << 20) - 100;
    let held = fs::read_dir(member_dir(&described, 1))?.filter_map(|e| e.ok()?.file_name().into_string().ok());
    let oldest = held.filter(|name| name.len() == 24).min().context("a segment")?;
    // Where a record crosses out; inside of one; where it crosses in; before the timeline's start.
    for place in [(&begins, tail), (&within, 50_000), (&ends, 50_000), (&oldest, 200)] {
        let place = (place.0.as_str(), place.1);
        a_damaged_copy_is_named_and_the_next_one_taken(&fabric, &described, &binary, place, dir.path()).await?;
    }
    standby(&described, &backup, dir.path(), &client).await?;
    client.batch_execute("INSERT INTO t VALUES (1)").await?;
    let expected = sql::text(&client, COUNT).await?;
    drop(client);
    // Both at once: members may not have heard yet that the last row is committed.
    fabric.ok(&["kill", "shim"])?;
    fabric.ok(&["kill", "postgres"])?;
    next_tli(&described, &binary, &backup, dir.path(), &expected).await?;
    fabric.ok(&["start", "shim"])?;
    same_tli(&fabric, &pg, &backup, &first, &expected).await
}
