//! Readers: what they are sent, how far, and what happens when they are slow or gone.

use std::time::Duration;

use crate::common::{Log, Node, Proposer, collect, soon, ttid, until};
use bytes::Bytes;
use libpq::CopyEvent;
use pgformat::Lsn;
use proto::pg::sqlstate;
use proto::replication::{ReceiverMessage, SenderMessage, StatusUpdate};

fn status(lsn: Lsn, reply_requested: bool) -> Bytes {
    let at = Some(lsn);
    ReceiverMessage::StatusUpdate(StatusUpdate { write: at, flush: at, apply: at, ts: 0, reply_requested }).encode()
}

/// Goal: a reader gets the primary's bytes from the segment's start on, up to the commit position and not further, and
/// goes on when the commit position moves. Method: push, commit half, read; commit the rest, read on.
#[tokio::test]
async fn a_reader_sees_committed_wal_and_no_more() {
    let (node, mut log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    let mut p = Proposer::elected(&node, ttid(1), 1, &log).await;
    let half = log.grow(300_000);
    let from = log.start;
    p.push(&log, from, None).await;
    p.commit(half, half).await;
    let end = log.grow(200_000);
    p.push(&log, half, None).await;

    let first = log.start.segment_start(log.cfg.seg_size);
    let reader = node.dial(ttid(1), "reader").await;
    assert_eq!(reader.parameter("server_version"), Some("15.4"));
    let (mut reader, mut writer) =
        reader.copy_both(&format!("START_REPLICATION PHYSICAL {first} TIMELINE 1")).await.expect("a stream");
    let want = log.whole_segments();
    let committed = usize::try_from(half.bytes_since(first)).expect("small");
    let got = collect(&mut reader, first, committed).await;
    assert!(got == want[..committed], "the bytes differ");
    // Nothing but keepalives now, and they tell the commit position.
    let event = soon("a keepalive", reader.next()).await.expect("the stream goes on");
    let CopyEvent::Data(bytes) = event else { panic!("{event:?}") };
    match SenderMessage::decode(bytes).expect("a message") {
        SenderMessage::Keepalive { wal_end, reply_requested, .. } => {
            assert_eq!((wal_end, reply_requested), (Some(half), true));
        }
        other => panic!("uncommitted WAL was sent: {other:?}"),
    }
    writer.queue(&status(half, false), Bytes::new());
    writer.flush().await.expect("sent");
    p.commit(end, end).await;
    let rest = collect(&mut reader, half, want.len() - committed).await;
    assert!(rest == want[committed..], "the bytes differ");
}

/// Goal: CopyDone from the reader leads back to commands, as stock clients expect it.
#[tokio::test]
async fn copy_done_ends_the_stream_in_order() {
    let (node, mut log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    let mut p = Proposer::elected(&node, ttid(1), 1, &log).await;
    let end = log.grow(10_000);
    p.push(&log, log.start, None).await;
    p.commit(end, end).await;
    let connection = node.dial(ttid(1), "reader").await;
    let (mut reader, mut writer) =
        connection.copy_both(&format!("START_REPLICATION {}", log.start)).await.expect("a stream");
    collect(&mut reader, log.start, log.bytes.len()).await;
    writer.queue_done();
    writer.flush().await.expect("sent");
    loop {
        match soon("the end", reader.next()).await.expect("the stream goes on") {
            CopyEvent::Data(_) => {}
            CopyEvent::Done => break,
            other => panic!("{other:?}"),
        }
    }
    until("the stream leaves the page", async || node.status(ttid(1)).await.pushes.is_empty().then_some(())).await;
}

/// Goal: a request for a reply is answered at once, not with the next keepalive.
#[tokio::test]
async fn a_requested_reply_comes_at_once() {
    let (node, log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    let connection = node.dial(ttid(1), "reader").await;
    let (mut reader, mut writer) =
        connection.copy_both(&format!("START_REPLICATION {}", log.start)).await.expect("a stream");
    writer.queue(&status(log.start, true), Bytes::new());
    writer.flush().await.expect("sent");
    let event = soon("a reply", reader.next()).await.expect("the stream goes on");
    let CopyEvent::Data(bytes) = event else { panic!("{event:?}") };
    let message = SenderMessage::decode(bytes).expect("a message");
    assert!(matches!(message, SenderMessage::Keepalive { reply_requested: false, .. }), "{message:?}");
}

/// Goal: a proposer that recovers sees everything durable, and is stopped when the term changes under it.
#[tokio::test]
async fn recovery_reads_uncommitted_wal_until_the_term_changes() {
    let (node, mut log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    let mut p = Proposer::elected(&node, ttid(1), 1, &log).await;
    log.grow(200_000);
    p.push(&log, log.start, None).await;
    let connection = node.dial(ttid(1), "wal_proposer_recovery").await;
    let (mut reader, _writer) =
        connection.copy_both(&format!("START_REPLICATION {} (term='1')", log.start)).await.expect("a stream");
    assert!(collect(&mut reader, log.start, log.bytes.len()).await == log.bytes, "the bytes differ");

    let mut other = Proposer::connect(&node, ttid(1), crate::common::PUSH).await.expect("a stream");
    other.greet(&log).await;
    assert!(other.vote(2).await.vote_given);
    let error = loop {
        match soon("the end", reader.next()).await.expect("an error message") {
            CopyEvent::Data(_) => {}
            CopyEvent::Error(e) => break e,
            event => panic!("{event:?}"),
        }
    };
    assert_eq!(error.code, sqlstate::TERM_CHANGED, "{error}");
}

/// Goal: a reader that does not read stops nobody but itself. Method: one reader that takes nothing while much more WAL
/// than any socket buffers is pushed; the proposer and a second reader go on.
#[tokio::test]
async fn a_stalled_reader_stalls_only_itself() {
    let (node, mut log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    let command = format!("START_REPLICATION {}", log.start);
    let stalled = node.dial(ttid(1), "stalled").await.copy_both(&command).await.expect("a stream");
    let (mut reader, _writer) = node.dial(ttid(1), "quick").await.copy_both(&command).await.expect("a stream");
    let mut p = Proposer::elected(&node, ttid(1), 1, &log).await;
    let mut from = log.start;
    for _ in 0..24 {
        let end = log.grow(1 << 20);
        p.push(&log, from, None).await;
        p.commit(end, end).await;
        from = end;
    }
    let got = collect(&mut reader, log.start, log.bytes.len()).await;
    assert!(got == log.bytes, "the bytes differ");
    let (mut late, _writer) = stalled;
    let got = collect(&mut late, log.start, log.bytes.len()).await;
    assert!(got == log.bytes, "the stalled one finds all of it when it reads again");
}

/// Goal: what was durable is there after a restart, and a reader is told that the server stops.
#[tokio::test]
async fn wal_survives_a_restart_and_readers_are_told() {
    let (mut node, mut log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    let mut p = Proposer::elected(&node, ttid(1), 3, &log).await;
    let end = log.grow(1_500_000);
    p.push(&log, log.start, None).await;
    p.commit(end, end).await;
    let connection = node.dial(ttid(1), "reader").await;
    let (mut reader, _writer) =
        connection.copy_both(&format!("START_REPLICATION {}", log.start)).await.expect("a stream");
    collect(&mut reader, log.start, log.bytes.len()).await;
    node.restart().await;
    let error = loop {
        match soon("the end", reader.next()).await.expect("an error message") {
            CopyEvent::Data(_) => {}
            CopyEvent::Error(e) => break e,
            event => panic!("{event:?}"),
        }
    };
    assert_eq!(error.code, sqlstate::ADMIN_SHUTDOWN, "{error}");
    let now = node.status(ttid(1)).await;
    assert_eq!((now.flush_lsn, now.commit_lsn, now.term.0, now.last_log_term.0), (Some(end), Some(end), 3, 3));
    let connection = node.dial(ttid(1), "reader").await;
    let (mut reader, _writer) =
        connection.copy_both(&format!("START_REPLICATION {}", log.start)).await.expect("a stream");
    assert!(collect(&mut reader, log.start, log.bytes.len()).await == log.bytes, "the bytes differ");
    let _ = tokio::time::timeout(Duration::from_millis(1), reader.next()).await;
}
