//! The shim between a real PostgreSQL 15 and real safekeepers: commits wait for the quorum, every restart continues,
//! and a primary that must not extend the log is refused with exit code 6.

mod cluster;
mod fabric;
mod records;
mod standby;

use std::time::Duration;

use cluster::value;
use fabric::{Fabric, Shim, until};
use pgformat::{Lsn, SegSize};

const PATIENCE: Duration = Duration::from_secs(20);

async fn count(fabric: &Fabric) -> u64 {
    fabric.pg.value("SELECT count(*) FROM t").await.parse().expect("a number")
}

/// One committed insert per call; true when it was acknowledged in time.
async fn insert(fabric: &Fabric, patience: Duration) -> bool {
    let Some(client) = fabric.pg.connect().await else { return false };
    let inserting = client.batch_execute("INSERT INTO t DEFAULT VALUES");
    matches!(tokio::time::timeout(patience, inserting).await, Ok(Ok(())))
}

async fn with_table(extra: &[&str]) -> (Fabric, Shim) {
    let fabric = Fabric::start().await;
    let shim = fabric.protected(extra).await;
    let client = fabric.pg.connect().await.expect("a connection");
    client.batch_execute("CREATE TABLE t (id serial PRIMARY KEY, filler text)").await.expect("created");
    (fabric, shim)
}

/// Goal: an acknowledged commit is on two safekeepers; without a quorum it waits; it goes on when the quorum is back.
#[tokio::test(flavor = "multi_thread")]
async fn commits_wait_for_the_quorum_and_the_primary_shows_a_sane_row() {
    let (mut fabric, shim) = with_table(&[]).await;
    assert!(insert(&fabric, PATIENCE).await);
    let end: Lsn = fabric.pg.value("SELECT pg_current_wal_flush_lsn()").await.parse().expect("a position");
    until("every safekeeper has it", PATIENCE, async || {
        let mut have = 0;
        for safekeeper in &fabric.safekeepers {
            have += usize::from(safekeeper.status().await?.flush_lsn >= Some(end));
        }
        (have == 3).then_some(())
    })
    .await;
    let row = "SELECT state = 'streaming' AND sync_state = 'sync' AND write_lsn = sent_lsn AND flush_lsn = sent_lsn \
               AND replay_lsn = sent_lsn AND coalesce(write_lag, '0') < '1 s' AND coalesce(replay_lag, '0') < '1 s' \
               FROM pg_stat_replication";
    until("a sane row", PATIENCE, async || (fabric.pg.value(row).await == "t").then_some(())).await;
    assert_eq!(fabric.pg.value("SELECT count(*) FROM pg_stat_replication").await, "1");

    fabric.safekeepers[0].stop().await;
    assert!(insert(&fabric, PATIENCE).await, "two of three are a quorum");
    fabric.safekeepers[1].stop().await;
    let client = fabric.pg.connect().await.expect("a connection");
    let waiting = tokio::spawn(async move { client.batch_execute("INSERT INTO t DEFAULT VALUES").await });
    let blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    until("the commit waits", PATIENCE, async || (fabric.pg.value(blocked).await == "1").then_some(())).await;
    assert!(!waiting.is_finished());
    let broker = fabric.broker.clone();
    fabric.safekeepers[1].start(&broker).await;
    tokio::time::timeout(PATIENCE, waiting).await.expect("in time").expect("no panic").expect("committed");
    shim.stop().await;
}

/// Goal: neither a shim nor a PostgreSQL that is killed loses an acknowledged commit, and both go on.
#[tokio::test(flavor = "multi_thread")]
async fn restarts_of_the_shim_and_of_postgres_go_on() {
    let (mut fabric, shim) = with_table(&[]).await;
    let mut acknowledged = 0;
    for _ in 0..20 {
        acknowledged += u64::from(insert(&fabric, PATIENCE).await);
    }
    assert_eq!(acknowledged, 20);
    shim.kill();
    let shim = fabric.shim(&[]);
    assert!(insert(&fabric, PATIENCE).await, "a commit made while the shim was away is acknowledged by the next one");
    shim.protects().await;
    let term = shim.status().await.expect("a status").term;

    let client = fabric.pg.connect().await.expect("a connection");
    let load = tokio::spawn(async move {
        let mut done = 0u64;
        while client.batch_execute("INSERT INTO t (filler) VALUES (repeat('x', 3000))").await.is_ok() {
            done += 1;
        }
        done
    });
    until("load", PATIENCE, async || (count(&fabric).await > 100).then_some(())).await;
    fabric.pg.kill();
    acknowledged += 1 + load.await.expect("no panic");
    fabric.pg.start().await;
    assert!(insert(&fabric, PATIENCE).await, "the same shim attaches to the restarted PostgreSQL");
    acknowledged += 1;
    assert!(count(&fabric).await >= acknowledged, "{} of {acknowledged}", count(&fabric).await);
    let status = shim.status().await.expect("a status");
    assert!(status.term > term, "a new connection is a new election");
    fabric.pg.stop_fast();
    fabric.pg.start().await;
    assert!(insert(&fabric, PATIENCE).await, "a fast shutdown ends, and the shim attaches again");
    shim.stop().await;
}

/// Goal: a safekeeper that missed more than the ring holds is fed from another one.
#[tokio::test(flavor = "multi_thread")]
async fn a_laggard_behind_the_ring_is_fed_from_a_donor() {
    let (mut fabric, shim) = with_table(&["--ring-mib", "1"]).await;
    fabric.safekeepers[2].stop().await;
    let client = fabric.pg.connect().await.expect("a connection");
    client
        .batch_execute("INSERT INTO t (filler) SELECT repeat('y', 1000) FROM generate_series(1, 8000)")
        .await
        .expect("ok");
    let end: Lsn = value(&client, "SELECT pg_current_wal_flush_lsn()").await.parse().expect("a position");
    let broker = fabric.broker.clone();
    fabric.safekeepers[2].start(&broker).await;
    until("it caught up", PATIENCE, async || {
        (fabric.safekeepers[2].status().await?.flush_lsn >= Some(end)).then_some(())
    })
    .await;
    let (_, metrics) = shim.text("/metrics").await;
    let fetched = metrics.lines().find_map(|l| l.strip_prefix("walfabric_shim_donor_bytes_total "));
    assert!(fetched.expect("counted").parse::<u64>().expect("a number") > 4 << 20, "{metrics}");
    // A session that begins with a laggard feeds it from the elected donor, too.
    fabric.safekeepers[2].stop().await;
    client
        .batch_execute("INSERT INTO t (filler) SELECT repeat('z', 1000) FROM generate_series(1, 4000)")
        .await
        .expect("ok");
    let end: Lsn = value(&client, "SELECT pg_current_wal_flush_lsn()").await.parse().expect("a position");
    shim.kill();
    let shim = fabric.shim(&[]);
    shim.streams().await;
    fabric.safekeepers[2].start(&broker).await;
    until("it caught up again", PATIENCE, async || {
        (fabric.safekeepers[2].status().await?.flush_lsn >= Some(end)).then_some(())
    })
    .await;
    shim.stop().await;
}

/// Goal: one flipped bit on the first donor neither keeps a laggard out, nor stays unknown to the one that holds it.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_donor_is_named_and_the_next_one_feeds_the_laggard() {
    let (mut fabric, shim) = with_table(&["--ring-mib", "1"]).await;
    fabric.safekeepers[2].stop().await;
    let client = fabric.pg.connect().await.expect("a connection");
    let from: Lsn = value(&client, "SELECT pg_current_wal_flush_lsn()").await.parse().expect("a position");
    // More than a safekeeper holds in memory.
    let insert = "INSERT INTO t (filler) SELECT repeat('y', 1000) FROM generate_series(1, 15000)";
    client.batch_execute(insert).await.expect("ok");
    let end: Lsn = value(&client, "SELECT pg_current_wal_flush_lsn()").await.parse().expect("a position");
    let (file, at) = flip(&fabric.safekeepers[0], from.add(1 << 20));
    let broker = fabric.broker.clone();
    fabric.safekeepers[2].start(&broker).await;
    until("it caught up", PATIENCE, async || {
        (fabric.safekeepers[2].status().await?.flush_lsn >= Some(end)).then_some(())
    })
    .await;
    let donor = fabric.safekeepers[0].pg.to_string();
    until("the shim names the donor", PATIENCE, async || {
        let warnings = shim.status().await?.warnings;
        warnings.iter().any(|w| w.contains(&donor) && w.contains("reads back damaged")).then_some(())
    })
    .await;
    let (_, metrics) = shim.text("/metrics").await;
    assert!(metrics.contains("walfabric_shim_donors_doubted 1"), "{metrics}");
    let health = fabric.safekeepers[0].readiness().await.expect("an answer");
    assert!(!health.ready && health.reasons.iter().any(|r| r.contains("WAL held here is damaged at")), "{health:?}");
    assert!(fabric.safekeepers[0].status().await.expect("an answer").damaged.is_some());
    assert!(fabric.safekeepers[1].readiness().await.expect("an answer").ready, "the other one is sound");
    // Repaired: it says so itself.
    set_byte(&file, at, b'y');
    assert_eq!(fabric.safekeepers[0].check_wal(from, end).await, [None, None]);
    let health = fabric.safekeepers[0].readiness().await.expect("an answer");
    assert!(health.ready, "{health:?}");
    shim.stop().await;
}

/// Goal: a flipped bit on the safekeeper that the attach proof compares with is not taken for a primary that must be
/// rebuilt.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_safekeeper_is_no_proof_against_the_primary() {
    let (mut fabric, shim) = with_table(&[]).await;
    let client = fabric.pg.connect().await.expect("a connection");
    let from: Lsn = value(&client, "SELECT pg_current_wal_flush_lsn()").await.parse().expect("a position");
    let rows = "INSERT INTO t (filler) SELECT repeat('y', 1000) FROM generate_series(1, 200)";
    client.batch_execute(rows).await.expect("ok");
    let end: Lsn = value(&client, "SELECT pg_current_wal_flush_lsn()").await.parse().expect("a position");
    until("all know that it is committed", PATIENCE, async || {
        for safekeeper in &fabric.safekeepers {
            safekeeper.status().await.filter(|s| s.commit_lsn >= Some(end))?;
        }
        Some(())
    })
    .await;
    shim.kill();
    // Whom the proof asks is up to the shim: two of them are damaged, and neither holds it in memory any more.
    let broker = fabric.broker.clone();
    for i in [0, 2] {
        fabric.safekeepers[i].stop().await;
        flip(&fabric.safekeepers[i], from);
        fabric.safekeepers[i].start(&broker).await;
    }
    let shim = fabric.shim(&[]);
    shim.protects().await;
    let warnings = shim.status().await.expect("an answer").warnings;
    assert!(warnings.iter().any(|w| w.contains("attach proof") && w.contains("damaged")), "{warnings:?}");
    assert!(insert(&fabric, PATIENCE).await, "commits go on");
    shim.stop().await;
}

/// Flips a bit of a row behind `near`; gives the file, and the place in it.
fn flip(safekeeper: &fabric::Safekeeper, near: Lsn) -> (std::path::PathBuf, usize) {
    let file = safekeeper.segment(near);
    let bytes = std::fs::read(&file).expect("the segment");
    let offset = usize::try_from(near.segment_offset(SegSize::DEFAULT)).expect("inside a segment");
    let row = bytes[offset..].windows(16).position(|w| w == [b'y'; 16]).expect("a row") + offset;
    set_byte(&file, row, b'y' ^ 1);
    (file, row)
}

fn set_byte(file: &std::path::Path, at: usize, byte: u8) {
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::OpenOptions::new().write(true).open(file).expect("the segment");
    file.write_all_at(&[byte], at as u64).expect("written");
}

/// Goal: what the guard finds is visible in status, /readyz and /metrics, and goes away when it is repaired.
#[tokio::test(flavor = "multi_thread")]
async fn protection_is_told_with_reasons() {
    let (fabric, shim) = with_table(&[]).await;
    assert_eq!(shim.text("/readyz").await.0, 200);
    fabric.pg.set_and_reload("synchronous_standby_names", "").await;
    until("the reason shows", PATIENCE, async || {
        let status = shim.status().await?;
        (!status.protected && status.reasons.iter().any(|r| r.contains("is empty"))).then_some(())
    })
    .await;
    let (code, body) = shim.text("/readyz?verbose").await;
    assert!(code == 503 && body.contains("synchronous_standby_names"), "{code} {body}");
    assert!(shim.text("/metrics").await.1.contains("walfabric_shim_protected 0"));
    fabric.record_says("unprotected", |r| !r.protected && r.reasons.iter().any(|r| r.contains("is empty"))).await;
    let names = walproposer_shim::names::synchronous_standby_names(fabric::ttid().timeline_id);
    fabric.pg.set_and_reload("synchronous_standby_names", &names).await;
    shim.protects().await;
    fabric.record_says("protected", |r| r.protected && r.reasons.is_empty() && r.term.is_some()).await;
    shim.stop().await;
}

/// Goal: who commits without the quorum is named; a setting of the shim's own role is nobody else's; allowed, it is a
/// warning.
#[tokio::test(flavor = "multi_thread")]
async fn roles_and_databases_that_commit_without_the_quorum_are_named() {
    let (fabric, shim) = with_table(&[]).await;
    let alter = async |statement: &str| drop(fabric.pg.value(statement).await);
    let says = async |shim: &Shim, words: &[&str]| {
        let status = shim.status().await?;
        let said = |w: &&str| status.reasons.iter().chain(&status.warnings).any(|r| r.contains(w));
        words.iter().all(said).then_some(status)
    };
    alter("ALTER ROLE postgres SET synchronous_commit = local").await;
    shim.stop().await;
    let shim = fabric.shim(&[]);
    shim.protects().await;
    alter("CREATE DATABASE app").await;
    alter("CREATE ROLE ann LOGIN").await;
    alter("ALTER DATABASE app SET synchronous_commit = off").await;
    alter("ALTER ROLE ann SET synchronous_commit = local").await;
    let words = ["database app has synchronous_commit = off", "role ann has synchronous_commit = local"];
    let status = until("both are named", PATIENCE, async || says(&shim, &words).await).await;
    assert!(!status.protected && !status.reasons.iter().any(|r| r.contains("role postgres")), "{:?}", status.reasons);
    shim.stop().await;
    let shim = fabric.shim(&["--allow-async-commits"]);
    shim.protects().await;
    let status = until("both are warnings", PATIENCE, async || says(&shim, &words).await).await;
    assert!(status.protected && status.warnings.len() == 2, "{:?}", status.warnings);
    shim.stop().await;
}

/// Goal: a pin slot that PostgreSQL gave up, or that somebody dropped, is made anew, and commits are protected again.
#[tokio::test(flavor = "multi_thread")]
async fn a_pin_slot_that_is_lost_is_made_anew() {
    let (fabric, shim) = with_table(&[]).await;
    let sound = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE '%_pin' AND wal_status = 'reserved' \
                 AND NOT active";
    until("the pin slot is there", PATIENCE, async || (fabric.pg.value(sound).await == "1").then_some(())).await;
    fabric.pg.set_and_reload("max_slot_wal_keep_size", "1MB").await;
    let lost = async || {
        fabric.pg.value("SELECT pg_switch_wal()").await;
        fabric.pg.execute_async("INSERT INTO t DEFAULT VALUES").await;
        // Only the pin slot is to be behind at the checkpoint.
        let streamed = "SELECT count(*) FROM pg_replication_slots WHERE active AND restart_lsn >= pg_current_wal_lsn()";
        until("the stream's slot moves", PATIENCE, async || (fabric.pg.value(streamed).await == "1").then_some(()))
            .await;
        fabric.pg.execute_async("CHECKPOINT").await;
        let log = fabric.pg.log();
        log.lines().any(|l| l.contains("invalidating") && l.contains("_pin")).then_some(())
    };
    until("PostgreSQL gives the pin slot up", PATIENCE, lost).await;
    fabric.pg.set_and_reload("max_slot_wal_keep_size", "-1").await;
    until("it is made anew", PATIENCE, async || (fabric.pg.value(sound).await == "1").then_some(())).await;
    shim.protects().await;
    let drop_it = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE '%_pin'";
    fabric.pg.value(drop_it).await;
    until("it is made anew once more", PATIENCE, async || (fabric.pg.value(sound).await == "1").then_some(())).await;
    shim.protects().await;
    shim.stop().await;
}

/// Goal: with `--apply-source pageserver` and no pageserver, flush moves and replay does not.
#[tokio::test(flavor = "multi_thread")]
async fn apply_waits_for_a_pageserver_when_told_to() {
    let (fabric, shim) = with_table(&["--apply-source", "pageserver"]).await;
    assert!(insert(&fabric, PATIENCE).await);
    let row = "SELECT flush_lsn IS NOT NULL AND replay_lsn IS NULL FROM pg_stat_replication";
    assert_eq!(fabric.pg.value(row).await, "t");
    shim.stop().await;
}

/// Goal: every primary that must not extend the log is refused with exit code 6, and the true one still attaches
/// afterwards.
#[tokio::test(flavor = "multi_thread")]
async fn primaries_that_must_not_extend_the_log_are_refused() {
    let (mut fabric, shim) = with_table(&[]).await;
    for _ in 0..5 {
        assert!(insert(&fabric, PATIENCE).await);
    }
    shim.stop().await;
    fabric.pg.stop();
    let old = fabric.pg.copy_data("old");
    fabric.pg.start().await;
    let shim = fabric.shim(&[]);
    shim.protects().await;
    for _ in 0..50 {
        assert!(insert(&fabric, PATIENCE).await);
    }
    shim.stop().await;
    fabric.pg.stop();
    let present = fabric.pg.copy_data("present");

    // Rolled back: same cluster, but it ends before the quorum's log does.
    fabric.pg.restore(&old);
    fabric.pg.start().await;
    fabric.shim(&[]).refuses("it lost WAL").await;
    // Diverged: the same copy wrote other WAL, further than the quorum's log goes.
    fabric.pg.execute_async("INSERT INTO t (filler) SELECT repeat('q', 500) FROM generate_series(1, 2000)").await;
    fabric.shim(&[]).refuses(", in the record at ").await;
    // A standby.
    fabric.pg.stop();
    fabric.pg.restore(&present);
    let signal = fabric.pg.data().join("standby.signal");
    std::fs::write(&signal, "").expect("written");
    fabric.pg.start().await;
    fabric.shim(&[]).refuses("is a standby").await;
    // fsync and full_page_writes off.
    fabric.pg.stop();
    std::fs::remove_file(&signal).expect("removed");
    fabric.pg.set("fsync", "off");
    fabric.pg.start().await;
    fabric.shim(&[]).refuses("fsync off").await;
    let shim = fabric.shim(&["--allow-fsync-off"]);
    shim.protects().await;
    shim.stop().await;
    fabric.pg.set_and_reload("full_page_writes", "off").await;
    fabric.shim(&["--allow-fsync-off"]).refuses("full_page_writes off").await;
    fabric.pg.stop();
    fabric.pg.set("fsync", "on");
    fabric.pg.set("full_page_writes", "on");
    fabric.pg.start().await;
    // Wrong address lists.
    let first = &fabric.safekeepers[0];
    let twice = format!("{},localhost:{}", first.pg, first.pg.port());
    Shim::start(&fabric.pg, &twice, &fabric.broker, &[]).refuses("both lead to safekeeper 1").await;
    Shim::start(&fabric.pg, &first.pg.to_string(), &fabric.broker, &[]).refuses("cannot form a quorum").await;
    // Another cluster.
    let mut foreign = cluster::Postgres::init();
    foreign.start().await;
    Shim::start(&foreign, &fabric.addresses(), &fabric.broker, &[]).refuses("belongs to system").await;
    // Nothing of this has disturbed the log: the true primary goes on.
    let shim = fabric.shim(&[]);
    shim.protects().await;
    assert!(insert(&fabric, PATIENCE).await);
    shim.stop().await;
}

/// Goal: a second shim waits for the slot and takes over, the pin slot follows, switched segments and a lost slot are
/// no obstacle.
#[tokio::test(flavor = "multi_thread")]
async fn slots_switches_and_a_second_shim() {
    let (fabric, first) = with_table(&[]).await;
    let term = first.status().await.expect("a status").term;
    let second = fabric.shim(&[]);
    until("the second one waits", PATIENCE, async || {
        let status = second.status().await?;
        status.reasons.iter().any(|r| r.contains("in use by walsender")).then_some(())
    })
    .await;
    assert!(insert(&fabric, PATIENCE).await);
    assert_eq!(first.status().await.expect("a status").term, term, "the waiting shim did not depose the one at work");
    first.kill();
    second.protects().await;
    assert!(insert(&fabric, PATIENCE).await);

    // Log ends at the start of a segment, several times.
    for _ in 0..5 {
        fabric.pg.value("SELECT pg_switch_wal()").await;
        assert!(insert(&fabric, PATIENCE).await);
    }
    let pin = "SELECT pg_current_wal_flush_lsn() - restart_lsn BETWEEN 16777216 AND 50331648 FROM pg_replication_slots \
               WHERE slot_name LIKE '%_pin'";
    until("the pin slot follows", PATIENCE, async || (fabric.pg.value(pin).await == "t").then_some(())).await;
    fabric.pg.value("SELECT pg_switch_wal()").await;
    second.kill();
    let slot = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active";
    until("both slots are gone", PATIENCE, async || {
        fabric.pg.value(slot).await;
        (fabric.pg.value("SELECT count(*) FROM pg_replication_slots").await == "0").then_some(())
    })
    .await;
    let third = fabric.shim(&[]);
    third.protects().await;
    assert!(insert(&fabric, PATIENCE).await);
    third.stop().await;
}

/// Goal: without a quorum the shim's memory stays bounded, PostgreSQL keeps its walsender beyond wal_sender_timeout (5
/// s here), and everything flows when the quorum is back.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_bounded_while_there_is_no_quorum() {
    let (mut fabric, shim) = with_table(&["--ring-mib", "1"]).await;
    let broker = fabric.broker.clone();
    fabric.safekeepers[0].stop().await;
    fabric.safekeepers[1].stop().await;
    fabric.pg.execute_async("INSERT INTO t (filler) SELECT repeat('w', 1000) FROM generate_series(1, 20000)").await;
    let gauge = async |name: &str| -> u64 {
        let (_, text) = shim.text("/metrics").await;
        let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.expect("the metric exists")
    };
    until("the ring is full", PATIENCE, async || (gauge("walfabric_shim_ring_bytes").await >= 1 << 20).then_some(()))
        .await;
    let pid = fabric.pg.value("SELECT pid FROM pg_stat_replication").await;
    let replied = "SELECT reply_time > backend_start + interval '7 s' FROM pg_stat_replication";
    until("replies beyond the timeout", PATIENCE, async || (fabric.pg.value(replied).await == "t").then_some(())).await;
    assert_eq!(fabric.pg.value("SELECT pid FROM pg_stat_replication").await, pid);
    assert!(gauge("walfabric_shim_ring_bytes").await < 2 << 20);
    fabric.safekeepers[0].start(&broker).await;
    assert!(insert(&fabric, PATIENCE).await, "a quorum is back");
    shim.stop().await;
}

/// Goal: an old primary that comes back while its successor is at work is refused, and neither the successor nor its
/// term is disturbed: the proof comes before any vote.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_primary_that_comes_back_is_refused_and_disturbs_nobody() {
    let (mut fabric, shim) = with_table(&[]).await;
    assert!(insert(&fabric, PATIENCE).await);
    shim.stop().await;
    fabric.pg.stop();
    let mut successor = fabric.pg.twin();
    successor.start().await;
    let shim = Shim::start(&successor, &fabric.addresses(), &fabric.broker, &[]);
    shim.protects().await;
    let client = successor.connect().await.expect("a connection");
    client.batch_execute("INSERT INTO t DEFAULT VALUES").await.expect("acknowledged");
    let term = shim.status().await.expect("a status").term;

    fabric.pg.start().await;
    fabric.pg.execute_async("INSERT INTO t (filler) SELECT repeat('o', 100) FROM generate_series(1, 5000)").await;
    fabric.shim(&[]).refuses("it diverged").await;
    client.batch_execute("INSERT INTO t DEFAULT VALUES").await.expect("acknowledged");
    let status = shim.status().await.expect("a status");
    assert_eq!((status.term, status.protected), (term, true), "the successor was disturbed");
    shim.stop().await;
}
