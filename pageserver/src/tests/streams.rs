//! What flows: WAL in, feedback out, and every kind of bad input.

use std::time::Duration;

use bytes::Bytes;
use pgformat::Lsn;
use proto::broker::records::PageserverTimelineRecord;
use proto::id::NodeId;
use proto::pg::sqlstate;
use proto::replication::{ReceiverMessage, SenderMessage};

use super::fabric::*;

#[tokio::test]
async fn wal_goes_in_feedback_comes_out_and_all_windows_show_the_same() {
    let f = Fabric::start().await;
    let sk = f.safekeeper(1, START);
    let (mut pusher, choice) = sk.push_after(0).await;
    assert_eq!(pusher.start, START);
    let mut b = builder();
    for n in 0..200 {
        b.noop(30 + n * 97);
    }
    b.switch();
    b.noop(2_000_000);
    let (at, wal) = b.take();
    let end = b.position();
    pusher.wal(at, wal.clone()).await;
    pusher.until_durable(end).await;

    let status = f.ps.status().await;
    assert_eq!((status.last_record_lsn, status.disk_consistent_lsn), (Some(end), Some(end)));
    assert_eq!((status.source_commit_lsn, status.lag_bytes, status.stopped.clone()), (Some(end), Some(0), None));
    assert_eq!(status.remote_consistent_lsn, Some(end));

    // The same choice on the broker, over HTTP and by SHOW.
    let shown = status.choice.expect("a choice");
    assert_eq!((shown.choice_seq, &shown.chosen_at), (choice.choice_seq, &choice.chosen_at));
    let key = sk.broker.keys().timeline_pageserver(ttid(), NodeId(1));
    let record = eventually("the record says the end", || async {
        let entry = sk.broker.get(&key).await.ok().flatten()?;
        let record: PageserverTimelineRecord = serde_json::from_slice(&entry.value).expect("a record");
        (record.disk_consistent_lsn == Some(end)).then_some(record)
    })
    .await;
    assert_eq!((record.safekeeper_id, record.reason.as_deref()), (Some(NodeId(1)), Some("no_existing_connection")));
    assert_eq!(record.remote_consistent_lsn, Some(end));
    let mut session = dial(&f.ps.pg.to_string(), Vec::new()).await;
    let rows = session.simple_query("SHOW CHOICES").await.expect("rows").remove(0);
    let cell = |name: &str| {
        let at = rows.columns.iter().position(|c| c == name).expect("a column");
        rows.rows[0][at].clone().expect("a value")
    };
    assert_eq!(cell("safekeeper_id"), "1");
    assert_eq!(cell("chosen_at"), choice.chosen_at);
    let (_, json) = f.ps.get("/v1/show/choices").await;
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(json[0]["chosen_at"], choice.chosen_at.as_str());
    for table in ["TIMELINES", "SAFEKEEPERS", "LAG", "CONFIG", "VERSION"] {
        let result = session.simple_query(&format!("SHOW {table}")).await.expect("rows").remove(0);
        assert!(!result.rows.is_empty(), "{table}");
        let (_, json) = f.ps.get(&format!("/v1/show/{table}")).await;
        let json: Vec<serde_json::Value> = serde_json::from_slice(&json).expect("JSON");
        assert_eq!(json.len(), result.rows.len(), "{table}");
    }
    let (_, metrics) = f.ps.get("/metrics").await;
    let metrics = String::from_utf8(metrics.to_vec()).expect("text");
    for line in ["walfabric_pageserver_wal_records_total 202", "lag_bytes_max 0", "streams 1", "choices_total{"] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    f.ps.stop().await;
}

/// Goal: a record that has to be held until it is whole waits for the node's memory for such records, one that nobody
/// needs passes without any, and all memory comes back. Method: other timelines are made to use all of it.
#[tokio::test]
async fn a_long_record_waits_for_memory_and_a_message_needs_none() {
    let f = Fabric::start().await;
    let memory = f.ps.node.shared().records.clone();
    let all = memory.available_permits();
    let taken = memory.clone().try_acquire_many_owned(u32::try_from(all - 1000).expect("fits")).expect("nobody else");
    let sk = f.safekeeper(1, START);
    let (mut pusher, _) = sk.push_after(0).await;
    let mut b = builder();
    b.record(21, 0, 0, &vec![b'x'; 9 << 20]);
    let message_end = b.position();
    b.noop(3_000_000);
    b.noop(100);
    let (at, wal) = b.take();
    pusher.wal(at, wal.clone()).await;
    eventually("the record waits", || async {
        let (_, text) = f.ps.get("/metrics").await;
        let text = String::from_utf8(text.to_vec()).expect("text");
        let line = text.lines().find_map(|l| l.strip_prefix("walfabric_pageserver_long_record_waits_total "));
        line.filter(|n| *n != "0").map(|_| ())
    })
    .await;
    assert_eq!(f.ps.status().await.last_record_lsn, Some(message_end), "the message passed, the record did not");
    drop(taken);
    pusher.until_durable(b.position()).await;
    assert_eq!(memory.available_permits(), all, "given back");

    // A stream that ends in the midst of a record holds nothing.
    b.noop(3_000_000);
    let (at, wal) = b.take();
    pusher.wal(at, wal.slice(..2_000_000)).await;
    eventually("memory is held", || async { (memory.available_permits() < all).then_some(()) }).await;
    drop(pusher);
    eventually("memory comes back", || async { (memory.available_permits() == all).then_some(()) }).await;
    let (mut pusher, _) = sk.push_after(0).await;
    assert_eq!(pusher.start, at, "from the record's beginning again");
    pusher.wal(at, wal).await;
    pusher.until_durable(b.position()).await;
    f.ps.stop().await;
}

#[tokio::test]
async fn a_keepalive_that_asks_is_answered_at_once() {
    let f = Fabric::start().await;
    let sk = f.safekeeper(1, START);
    let (mut pusher, _) = sk.push_after(0).await;
    // The first report comes unasked.
    while !matches!(pusher.reply().await, ReceiverMessage::Feedback(_)) {}
    for _ in 0..3 {
        let asked = tokio::time::Instant::now();
        pusher.keepalive(START).await;
        let ReceiverMessage::StatusUpdate(r) = pusher.reply().await else { panic!("r comes first") };
        assert_eq!((r.write, r.flush), (Some(START), Some(START)));
        let ReceiverMessage::Feedback(z) = pusher.reply().await else { panic!("then z") };
        assert_eq!((z.last_received_lsn, z.disk_consistent_lsn), (Some(START), Some(START)));
        assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
    }
    f.ps.stop().await;
}

#[tokio::test]
async fn bad_input_ends_the_stream_with_its_code_and_leaves_nothing_behind() {
    let f = Fabric::start().await;
    let sk = f.safekeeper(1, START);
    let mut b = builder();
    b.noop(300);
    let good_end = b.position();
    let (at, good) = b.take();
    let (mut pusher, choice) = sk.push_after(0).await;
    pusher.wal(at, good.clone()).await;
    pusher.until_durable(good_end).await;
    b.noop(300);
    let (_, next) = b.take();
    let mut damaged = next.to_vec();
    damaged[200] ^= 1;
    let mut foreign = builder_at(good_end, Some(Lsn::new(START.get() - 64)));
    foreign.noop(64);
    let (_, foreign) = foreign.take();
    let xlog = |start: Lsn, wal: Bytes| SenderMessage::XLogData { start, wal_end: Some(start), ts: 0, wal }.encode();
    let mut oversized = vec![b'd'];
    oversized.extend_from_slice(&(64u32 << 20).to_be_bytes());
    oversized.extend_from_slice(&[b'w'; 100]);
    let cases: Vec<(&str, Bytes, &str)> = vec![
        ("gap", xlog(good_end.add(8), next.clone()), sqlstate::WAL_NOT_CONTIGUOUS),
        ("overlap", xlog(START, good.clone()), sqlstate::WAL_NOT_CONTIGUOUS),
        ("checksum", xlog(good_end, damaged.into()), sqlstate::DATA_CORRUPTED),
        ("prev link", xlog(good_end, foreign), sqlstate::DATA_CORRUPTED),
        ("zeros", xlog(good_end, Bytes::from_static(&[0; 512])), sqlstate::DATA_CORRUPTED),
        ("garbage", xlog(good_end, Bytes::from_static(&[0xEE; 512])), sqlstate::DATA_CORRUPTED),
        ("unknown message", Bytes::from_static(b"?what"), sqlstate::PROTOCOL_VIOLATION),
        ("short message", Bytes::from_static(b"w\x00\x00"), sqlstate::PROTOCOL_VIOLATION),
        ("empty message", Bytes::new(), sqlstate::PROTOCOL_VIOLATION),
    ];
    let mut seq = choice.choice_seq;
    let mut stream = Some(pusher);
    for (what, payload, code) in cases {
        let mut pusher = match stream.take() {
            Some(pusher) => pusher,
            None => {
                let (pusher, choice) = sk.push_after(seq).await;
                assert_eq!(choice.reason, "bad_wal", "{what}");
                assert_eq!(pusher.start, good_end, "{what}: nothing of the last one was kept");
                seq = choice.choice_seq;
                pusher
            }
        };
        pusher.writer.queue(&[], payload);
        // The pageserver may close before all is written.
        let _ = pusher.writer.flush().await;

        assert_eq!(pusher.end().await.expect(what).code, code, "{what}");
    }
    let (mut pusher, _) = sk.push_after(seq).await;
    pusher.wal(good_end, next.clone()).await;
    pusher.until_durable(b.position()).await;
    let status = f.ps.status().await;
    assert_eq!((status.last_record_lsn, status.stopped), (Some(b.position()), None), "only what is sound is there");
    f.ps.stop().await;
}

#[tokio::test]
async fn an_oversized_frame_is_refused_before_it_is_read() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let f = Fabric::start().await;
    let sk = f.safekeeper(1, START);
    let (choice, token) = sk.choice_after(0).await;
    // A hand-made session: the client library would not send such a frame.
    let mut socket = tokio::net::TcpStream::connect(f.ps.pg).await.expect("connects");
    let parameters = format!(
        "user\0safekeeper\0options\0-c tenant_id={} -c timeline_id={}\0\0",
        ttid().tenant_id,
        ttid().timeline_id
    );
    let mut startup = Vec::new();
    startup.extend_from_slice(&u32::try_from(parameters.len() + 8).expect("short").to_be_bytes());
    startup.extend_from_slice(&196_608u32.to_be_bytes());
    startup.extend_from_slice(parameters.as_bytes());
    socket.write_all(&startup).await.expect("sent");
    let query = format!("{}\0", command(NodeId(1), token, &choice.nonce));
    let mut frame = vec![b'Q'];
    frame.extend_from_slice(&u32::try_from(query.len() + 4).expect("short").to_be_bytes());
    frame.extend_from_slice(query.as_bytes());
    frame.push(b'd');
    frame.extend_from_slice(&(1u32 << 30).to_be_bytes());
    socket.write_all(&frame).await.expect("sent");
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), socket.read_to_end(&mut answer));
    // A reset after the error is as good as an end.
    let _ = read.await.expect("closed in time");
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("08P01"), "{text}");
    f.ps.stop().await;
}

#[tokio::test]
async fn silence_ends_a_stream() {
    let disk = std::sync::Arc::new(disk::FsDisk);
    let f = Fabric::start_with(disk, |c| c.choice.silence_limit = Duration::from_millis(300)).await;
    let sk = f.safekeeper(1, START);
    let (pusher, choice) = sk.push_after(0).await;
    assert_eq!(pusher.end().await.expect("told why").code, "08006");
    let (next, _) = sk.choice_after(choice.choice_seq).await;
    assert_eq!(next.reason, "no_keepalives");
    f.ps.stop().await;
}
