//! A hot standby that streams from a safekeeper: its feedback reaches the primary, and goes with it.

use bytes::Bytes;
use libpq::{ClientConnection, ConnectOptions, CopyReader, CopyWriter};
use proto::replication::ReceiverMessage;

use crate::cluster::{Postgres, value};
use crate::fabric::{Safekeeper, TENANT, TIMELINE, until};
use crate::{PATIENCE, with_table};

/// The streaming slot's xmin; empty while it keeps nothing for standbys.
const XMIN: &str = "SELECT coalesce(xmin::text, '') FROM pg_replication_slots WHERE slot_name NOT LIKE '%_pin'";

/// A standby on a copy of the stopped primary.
fn standby(primary: &Postgres, safekeeper: &Safekeeper) -> Postgres {
    let standby = primary.twin();
    // As pg_basebackup does it: the primary's slots are not the standby's.
    for slot in std::fs::read_dir(standby.data().join("pg_replslot")).expect("a directory") {
        std::fs::remove_dir_all(slot.expect("an entry").path()).expect("removed");
    }
    let (host, port) = (safekeeper.pg.ip(), safekeeper.pg.port());
    let options = format!("-c tenant_id={TENANT} -c timeline_id={TIMELINE}");
    let conninfo = format!("host={host} port={port} user=postgres options=''{options}''");
    standby.set("primary_conninfo", &conninfo);
    standby.set("hot_standby_feedback", "on");
    standby.set("wal_receiver_status_interval", "1s");
    // A query that is in the way of replay is cancelled at once.
    standby.set("max_standby_streaming_delay", "0");
    std::fs::write(standby.data().join("standby.signal"), "").expect("written");
    standby
}

/// A reader that says what a standby would say.
async fn says(safekeeper: &Safekeeper, xmin: u64) -> (CopyReader, CopyWriter) {
    let options = ConnectOptions {
        options: vec![("tenant_id".to_owned(), TENANT.to_owned()), ("timeline_id".to_owned(), TIMELINE.to_owned())],
        database: Some("replication".to_owned()),
        ..ConnectOptions::to_address(&safekeeper.pg.to_string(), "reader").expect("an address")
    };
    let connection = ClientConnection::dial(&options).await.expect("a session");
    let status = safekeeper.status().await.expect("a status");
    let command = format!("START_REPLICATION PHYSICAL {}", status.commit_lsn.expect("it has one"));
    let (reader, mut writer) = connection.copy_both(&command).await.expect("a stream");
    writer.queue(&ReceiverMessage::HotStandby { ts: 1, xmin, catalog_xmin: 0 }.encode(), Bytes::new());
    writer.flush().await.expect("sent");
    (reader, writer)
}

/// Goal: a long query on a standby behind a safekeeper is not cancelled by a vacuum on the primary, and what the slot
/// keeps for it is let go with the standby, and with the shim. An id that no primary takes does no harm. Method: a
/// repeatable-read transaction on a real standby, rows deleted and vacuumed on the primary, replay, the same query.
#[tokio::test(flavor = "multi_thread")]
async fn a_standbys_feedback_reaches_the_primary_and_goes_with_it() {
    let (mut fabric, shim) = with_table(&[]).await;
    fabric.pg.execute_async("INSERT INTO t (filler) SELECT 'x' FROM generate_series(1, 1000)").await;
    fabric.pg.stop_fast();
    let mut standby = standby(&fabric.pg, &fabric.safekeepers[0]);
    fabric.pg.start().await;
    shim.protects().await;
    standby.start().await;
    let keeps = async || (!fabric.pg.value(XMIN).await.is_empty()).then_some(());
    until("the slot keeps rows for the standby", PATIENCE, keeps).await;
    let reading = standby.connect().await.expect("the standby accepts connections");
    reading.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.expect("begun");
    assert_eq!(value(&reading, "SELECT count(*) FROM t").await, "1000");
    fabric.pg.execute_async("DELETE FROM t").await;
    fabric.pg.value("VACUUM t").await;
    let end = fabric.pg.value("SELECT pg_current_wal_flush_lsn()").await;
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
    until("the replay of the vacuum", PATIENCE, async || (standby.value(&replayed).await == "t").then_some(())).await;
    assert_eq!(value(&reading, "SELECT count(*) FROM t").await, "1000", "vacuum removed what the standby reads");

    // An id that does not exist yet keeps no row for anybody; the primary would ignore it, and keep the old one.
    let future = says(&fabric.safekeepers[1], u64::MAX - 9).await;
    standby.stop_fast();
    let later = fabric.pg.value("SELECT pg_current_xact_id()").await;
    let let_go =
        format!("SELECT xmin::text::bigint >= {later} FROM pg_replication_slots WHERE slot_name NOT LIKE '%_pin'");
    until("the standby's rows are let go", PATIENCE, async || (fabric.pg.value(&let_go).await == "t").then_some(()))
        .await;
    shim.stop().await;
    assert_eq!(fabric.pg.value(XMIN).await, "", "the shim that ended left the slot with what it kept for a standby");
    drop(future);
}
