//! One record longer than every buffer: commits go on, whoever restarts in the midst of it.

use std::time::{Duration, Instant};

use pgformat::Lsn;

use crate::fabric::{Fabric, Shim, until};
use crate::{PATIENCE, insert, with_table};

/// The shim's memory for WAL in this test, the smallest that is allowed.
const RING: u64 = 1 << 20;
/// The record has no safekeeper's flush position within itself, so this passes only when nobody waits for one.
const RECORD_MIB: u64 = 96;
/// Writing and syncing the record three times, on a busy machine.
const LONG: Duration = Duration::from_secs(60);

async fn end_of_wal(fabric: &Fabric) -> Lsn {
    fabric.pg.value("SELECT pg_current_wal_insert_lsn()").await.parse().expect("a position")
}

/// Waits until the shim has received more than `more` bytes behind `from`.
async fn received(shim: &Shim, from: Lsn, more: u64) -> Lsn {
    until("WAL arriving at the shim", LONG, async || {
        let at = shim.status().await?.received_lsn?;
        (at > from.add(more)).then_some(at)
    })
    .await
}

async fn counter(shim: &Shim, name: &str) -> u64 {
    let (_, text) = shim.text("/metrics").await;
    let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
    line.trim().parse().expect("a number")
}

/// Goal: a record of any size passes at the smallest ring, and so does a restart of safekeepers in the midst of it:
/// what the ring dropped and nobody acknowledged is read from the primary once more. Method: two of three safekeepers
/// are stopped and started again while one record of 96 MiB is under way; then the shim itself is killed in another.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_longer_than_the_ring_passes_with_safekeepers_restarting_in_the_midst_of_it() {
    let (mut fabric, shim) = with_table(&["--ring-mib", "1"]).await;
    let broker = fabric.broker.clone();
    let message = format!("SELECT pg_logical_emit_message(true, 'x', repeat('x', {RECORD_MIB} << 20))");
    let start = end_of_wal(&fabric).await;
    let client = fabric.pg.connect().await.expect("a connection");
    let statement = message.clone();
    let emitting = tokio::spawn(async move { client.batch_execute(&statement).await });

    received(&shim, start, 8 * RING).await;
    for safekeeper in &mut fabric.safekeepers[..2] {
        safekeeper.stop().await;
    }
    let status = shim.status().await.expect("a status");
    assert!(
        status.received_lsn < Some(start.add(RECORD_MIB << 20)),
        "the record was over before the safekeepers stopped"
    );
    assert!(status.commit_lsn <= Some(start), "the record is not whole, so nothing of it is committed");
    for safekeeper in &mut fabric.safekeepers[..2] {
        safekeeper.start(&broker).await;
    }
    tokio::time::timeout(LONG, emitting).await.expect("in time").expect("no panic").expect("committed");
    assert!(insert(&fabric, PATIENCE).await, "other commits go on");
    assert!(counter(&shim, "walfabric_shim_reread_bytes_total ").await > RING, "nobody else had these bytes");

    let start = end_of_wal(&fabric).await;
    let client = fabric.pg.connect().await.expect("a connection");
    let emitting = tokio::spawn(async move { client.batch_execute(&message).await });
    received(&shim, start, 8 * RING).await;
    shim.kill();
    let shim = fabric.shim(&["--ring-mib", "1"]);
    tokio::time::timeout(LONG, emitting).await.expect("in time").expect("no panic").expect("committed");
    let end = end_of_wal(&fabric).await;
    let before = Instant::now();
    until("every safekeeper has it", LONG, async || {
        let mut have = 0;
        for safekeeper in &fabric.safekeepers {
            have += usize::from(safekeeper.status().await?.flush_lsn >= Some(end));
        }
        (have == 3).then_some(())
    })
    .await;
    println!("the last safekeeper has it {:?} after the commit", before.elapsed());
    shim.stop().await;
}

/// Goal: when the primary has no second connection to give, a quorum that needs one is fed by a new session instead.
/// Method: the same restart with `max_wal_senders = 1`.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_second_connection_a_quorum_is_fed_by_a_new_session() {
    let mut fabric = Fabric::start().await;
    fabric.pg.set("max_wal_senders", "1");
    fabric.pg.stop_fast();
    fabric.pg.start().await;
    let shim = fabric.protected(&["--ring-mib", "1"]).await;
    let term = shim.status().await.expect("a status").term;
    let broker = fabric.broker.clone();
    let start = end_of_wal(&fabric).await;
    let client = fabric.pg.connect().await.expect("a connection");
    let message = format!("SELECT pg_logical_emit_message(true, 'x', repeat('x', {RECORD_MIB} << 20))");
    let emitting = tokio::spawn(async move { client.batch_execute(&message).await });
    received(&shim, start, 8 * RING).await;
    for safekeeper in &mut fabric.safekeepers[..2] {
        safekeeper.stop().await;
    }
    let status = shim.status().await.expect("a status");
    assert!(
        status.received_lsn < Some(start.add(RECORD_MIB << 20)),
        "the record was over before the safekeepers stopped"
    );
    for safekeeper in &mut fabric.safekeepers[..2] {
        safekeeper.start(&broker).await;
    }
    tokio::time::timeout(LONG, emitting).await.expect("in time").expect("no panic").expect("committed");
    assert!(shim.status().await.expect("a status").term > term, "by a new session");
    shim.stop().await;
}
