//! Failover, restarts, a broker that goes and comes back empty, disks that fail.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use disk::{FakeDisk, FsDisk, IoFault};
use libpq::{Auth, CopyEvent, ServerConnection};
use node::exit;
use node::server::StartError;
use pgformat::Lsn;
use pgformat::redo::rmid;
use pgformat::wal::WalBuilder;
use proto::api::PageserverTimelineState;
use proto::api::Readiness;
use proto::broker::records::ChoiceRecord;
use proto::command::Command;
use proto::id::NodeId;
use proto::pg::sqlstate;
use proto::replication::{ReceiverMessage, SenderMessage};
use tokio_util::sync::CancellationToken;

use super::fabric::*;
use crate::config::PageserverSettings;
use crate::server::start;

#[tokio::test]
async fn a_timeline_attached_when_the_broker_has_nothing_new_to_show_gets_its_choice() {
    let f = Fabric::start_unattached(Arc::new(FsDisk), |_| {}).await;
    let one = f.safekeeper(1, START.add(8));
    eventually("the safekeeper is seen", || async {
        let (_, table) = f.ps.get("/v1/show/safekeepers").await;
        String::from_utf8_lossy(&table).contains("127.0.0.1:1").then_some(())
    })
    .await;
    assert_eq!(f.ps.attach().await, 201);
    assert_eq!(one.choice_after(0).await.0.safekeeper_id, NodeId(1));
    f.ps.stop().await;
}

#[tokio::test]
async fn a_lost_pusher_is_replaced_at_once() {
    let f = Fabric::start().await;
    let (one, two) = (f.safekeeper(1, START.add(8)), f.safekeeper(2, START));
    let (mut pusher, first) = one.push_after(0).await;
    let mut b = builder();
    b.noop(1000);
    let (at, wal) = b.take();
    pusher.wal(at, wal).await;
    pusher.until_durable(b.position()).await;
    let lost_at = tokio::time::Instant::now();
    drop(pusher);
    let (mut pusher, second) = two.push_after(first.choice_seq).await;
    assert!(lost_at.elapsed() < Duration::from_secs(1), "{:?}", lost_at.elapsed());
    assert_eq!((second.reason.as_str(), second.safekeeper_id), ("connection_lost", NodeId(2)));
    assert_eq!(pusher.start, b.position(), "goes on where the first one ended");
    b.noop(1000);
    let (at, wal) = b.take();
    pusher.wal(at, wal).await;
    pusher.until_durable(b.position()).await;
    f.ps.stop().await;
}

#[tokio::test]
async fn a_restart_goes_on_from_the_durable_position_and_attaches_nothing_anew() {
    let f = Fabric::start().await;
    let sk = f.safekeeper(1, START);
    let (mut pusher, first) = sk.push_after(0).await;
    let mut b = builder();
    b.noop(100_000);
    let (at, wal) = b.take();
    pusher.wal(at, wal).await;
    pusher.until_durable(b.position()).await;
    let Fabric { tmp, broker, ps } = f;
    ps.stop().await;
    drop(pusher);
    let ps = TestPageserver::start(config(broker.address, tmp.path().join("ps")), Arc::new(FsDisk)).await;
    let status = ps.status().await;
    assert_eq!((status.last_record_lsn, status.disk_consistent_lsn), (Some(b.position()), Some(b.position())));
    let (pusher, next) = sk.push_after(first.choice_seq).await;
    assert_eq!(pusher.start, b.position());
    assert!(next.choice_seq > first.choice_seq, "choices are counted across restarts");
    assert_eq!(ps.attach().await, 200, "unchanged");
    let mut other = attach_request();
    other.start_lsn = START.add(8);
    let (code, body) = ps.post(&format!("{}/attach", timeline_path()), &other).await;
    assert_eq!(code, 409);
    assert!(String::from_utf8_lossy(&body).contains("start_lsn is 0/300028, 0/300030 was asked"));
    other.start_lsn = Lsn::new(START.get() + 1);
    let fresh = timeline_path().replace("b2", "c3");
    assert_eq!(ps.post(&format!("{fresh}/attach"), &other).await.0, 400, "no record boundary");
    other = attach_request();
    other.pg_version_num = 130_000;
    assert_eq!(ps.post(&format!("{fresh}/attach"), &other).await.0, 400, "unsupported major");
    assert_eq!(ps.get(&fresh).await.0, 404);
    ps.stop().await;
    broker.stop().await;
}

#[tokio::test]
async fn an_emptied_broker_gets_everything_anew_and_the_stream_goes_on() {
    let f = Fabric::start().await;
    let sk = f.safekeeper(1, START);
    let (mut pusher, choice) = sk.push_after(0).await;
    let Fabric { tmp: _tmp, broker, ps } = f;
    let (dir, address) = (broker.dir.clone(), broker.address);
    broker.stop().await;
    let mut b = builder();
    b.noop(700);
    let (at, wal) = b.take();
    pusher.wal(at, wal).await;
    pusher.until_durable(b.position()).await;
    std::fs::remove_dir_all(&dir).expect("emptied");
    let broker = BrokerProcess::start(dir, address).await;
    let key = sk.broker.keys().choice(NodeId(1), ttid(), NodeId(1));
    let token = eventually("the choice is put again", || async {
        let entry = sk.broker.get(&key).await.ok().flatten()?;
        u64::try_from(entry.mod_revision).ok()
    })
    .await;
    b.noop(700);
    let (at, wal) = b.take();
    pusher.wal(at, wal).await;
    pusher.until_durable(b.position()).await;
    // The new revision counts as well: the same choice, dialled again.
    let again = eventually("the new token is accepted", || async { Pusher::open(&choice, token).await.ok() }).await;
    assert_eq!(again.start, b.position());
    assert_eq!(pusher.end().await.expect("told why").code, sqlstate::PREEMPTED);
    assert_eq!(ps.status().await.choice.expect("a choice").choice_seq, choice.choice_seq);
    ps.stop().await;
    broker.stop().await;
}

/// A safekeeper that does not push but lets itself be read.
async fn serve_pull(listener: tokio::net::TcpListener, wal: Bytes) {
    let (stream, _) = listener.accept().await.expect("dialled");
    let mut c = ServerConnection::accept(stream, &Auth::Trust, Duration::from_secs(5), |_| Vec::new())
        .await
        .expect("starts up");
    assert_eq!(c.startup().option("timeline_id"), Some(ttid().timeline_id.to_string().as_str()));
    let query = c.next_query().await.expect("a query").expect("a query");
    let Ok(Command::StartReplication(start)) = Command::parse(&query) else { panic!("{query}") };
    assert_eq!((start.start_lsn, start.slot), (START, None));
    let (mut reader, mut writer) = c.copy_both().await.expect("copies");
    let end = START.add(wal.len() as u64);
    writer.queue(&SenderMessage::XLogData { start: START, wal_end: Some(end), ts: 0, wal }.encode(), Bytes::new());
    writer.flush().await.expect("sent");
    while let Ok(CopyEvent::Data(bytes)) = reader.next().await {
        if let Ok(ReceiverMessage::Feedback(z)) = ReceiverMessage::decode(bytes)
            && z.disk_consistent_lsn == Some(end)
        {
            // Stays open until the pageserver turns elsewhere.
            while let Ok(CopyEvent::Data(_)) = reader.next().await {}
        }
    }
}

#[tokio::test]
async fn nobody_dials_so_the_pageserver_pulls_and_later_asks_for_a_push_again() {
    let disk = Arc::new(FsDisk);
    let f = Fabric::start_with(disk, |c| {
        c.choice.dial_timeout = Duration::from_millis(150);
        c.choice.hold = Duration::from_millis(500);
    })
    .await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let mut b = builder();
    b.noop(9000);
    let (_, wal) = b.take();
    let serving = tokio::spawn(serve_pull(listener, wal));
    let sk = Safekeeper::start(f.broker.client(), NodeId(1), b.position(), address);
    let status = f
        .ps
        .until("pulled", |s| s.state == PageserverTimelineState::Pulling && s.disk_consistent_lsn == Some(b.position()))
        .await;
    let choice = status.choice.expect("a choice");
    assert_eq!((choice.mode.as_str(), choice.reason.as_str()), ("pull", "not_dialled"));
    // When its penalty is over it is asked to push again, and the pull goes on until it does.
    let (next, token) = sk.choice_after(choice.choice_seq).await;
    assert_eq!(next.reason, "push_possible");
    let pusher = Pusher::open(&next, token).await.expect("accepted");
    assert_eq!(pusher.start, b.position());
    f.ps.until("pushed", |s| s.state == PageserverTimelineState::Pushed).await;
    serving.await.expect("the pull ended in order");
    f.ps.stop().await;
}

#[tokio::test]
async fn a_failed_sync_of_names_stops_the_timeline_until_a_restart() {
    let disk = FakeDisk::new(1);
    let f = Fabric::start_with(Arc::new(disk.clone()), |_| {}).await;
    let sk = f.safekeeper(1, START);
    let (mut pusher, choice) = sk.push_after(0).await;
    let mut b = builder();
    b.noop(1000);
    let good = b.position();
    let (at, wal) = b.take();
    pusher.wal(at, wal).await;
    pusher.until_durable(good).await;
    f.ps.until("the position is saved", |s| s.state == PageserverTimelineState::Pushed).await;
    disk.fail_next(IoFault::SyncDir);
    b.noop(1000);
    let (at, wal) = b.take();
    pusher.wal(at, wal.clone()).await;
    assert_eq!(pusher.end().await.expect("told why").code, sqlstate::TIMELINE_STOPPED);
    let status = f.ps.until("stopped", |s| s.state == PageserverTimelineState::Stopped).await;
    assert!(status.stopped.expect("a reason").contains("injected"));
    assert_eq!(status.disk_consistent_lsn, Some(good), "nothing beyond the last good sync");
    let (code, body) = f.ps.get("/readyz?verbose").await;
    let readiness: Readiness = serde_json::from_slice(&body).expect("JSON");
    assert_eq!((code, readiness.ready), (503, false));
    assert!(readiness.reasons[0].contains("injected"), "{readiness:?}");
    let key = sk.broker.keys().choice(NodeId(1), ttid(), NodeId(1));
    eventually("the choice is withdrawn", || async {
        sk.broker.get(&key).await.expect("answers").is_none().then_some(())
    })
    .await;
    let refused = Pusher::open(&choice, 1).await.err().expect("refused");
    assert_eq!(refused.server_error().expect("a code").code, sqlstate::TIMELINE_STOPPED);
    let Fabric { tmp, broker, ps } = f;
    ps.stop().await;
    let ps = TestPageserver::start(config(broker.address, tmp.path().join("ps")), Arc::new(disk)).await;
    let (mut pusher, _) = sk.push_after(0).await;
    if pusher.start == good {
        pusher.wal(at, wal).await;
    }
    b.noop(50);
    let (at, wal) = b.take();
    pusher.wal(at, wal).await;
    pusher.until_durable(b.position()).await;
    ps.stop().await;
    broker.stop().await;
}

/// A pageserver that was stopped with everything durable.
struct Stopped {
    disk: FakeDisk,
    tmp: tempfile::TempDir,
    broker: BrokerProcess,
    sk: Safekeeper,
    /// Its last choice.
    first: ChoiceRecord,
    /// Goes on behind the WAL that it has.
    b: WalBuilder,
    /// End of that.
    good: Lsn,
}

impl Stopped {
    async fn after(fill: impl FnOnce(&mut WalBuilder)) -> Stopped {
        let disk = FakeDisk::new(1);
        let f = Fabric::start_with(Arc::new(disk.clone()), |_| {}).await;
        let sk = f.safekeeper(1, START);
        let (mut pusher, first) = sk.push_after(0).await;
        let mut b = builder();
        fill(&mut b);
        let (at, wal) = b.take();
        pusher.wal(at, wal).await;
        let good = b.position();
        pusher.until_durable(good).await;
        let Fabric { tmp, broker, ps } = f;
        ps.stop().await;
        Stopped { disk, tmp, broker, sk, first, b, good }
    }
}

#[tokio::test]
async fn a_restart_on_a_full_disk_reads_on_and_takes_wal_once_there_is_space() {
    let Stopped { disk, tmp, broker, sk, first, mut b, good } = Stopped::after(|b| _ = b.noop(1000)).await;
    disk.limit(Some(0));
    let ps = TestPageserver::start(config(broker.address, tmp.path().join("ps")), Arc::new(disk.clone())).await;
    let status = ps.status().await;
    assert_ne!(status.state, PageserverTimelineState::Stopped);
    // What was read is not promised before this process has written something itself.
    assert_eq!((status.last_record_lsn, status.disk_consistent_lsn), (Some(good), Some(START)));
    let (code, body) = ps.get("/readyz?verbose").await;
    assert!(code == 503 && String::from_utf8_lossy(&body).contains("waits for storage"), "{code} {body:?}");
    let (mut pusher, _) = sk.push_after(first.choice_seq).await;
    assert_eq!(pusher.start, good);
    b.noop(3 << 20);
    let (at, wal) = b.take();
    pusher.wal(at, wal).await;
    ps.until("it is not taken in", |s| s.lag_bytes > Some(0) && s.stopped.is_some()).await;
    assert_eq!(ps.status().await.last_record_lsn, Some(good));
    disk.limit(None);
    pusher.until_durable(b.position()).await;
    eventually("ready again", || async { (ps.get("/readyz").await.0 == 200).then_some(()) }).await;
    ps.stop().await;
    // Without a stream it heals as well.
    disk.limit(Some(0));
    drop(pusher);
    sk.session.close(Duration::from_secs(2)).await;
    let ps = TestPageserver::start(config(broker.address, tmp.path().join("ps")), Arc::new(disk.clone())).await;
    assert_eq!(ps.get("/readyz").await.0, 503);
    disk.limit(None);
    eventually("ready again", || async { (ps.get("/readyz").await.0 == 200).then_some(()) }).await;
    ps.stop().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_timeline_that_cannot_be_read_at_the_start_is_opened_later() {
    let Stopped { disk, tmp, broker, sk, first, mut b, good } = Stopped::after(|b| _ = b.noop(1000)).await;
    disk.fail_times(IoFault::Read, u32::MAX);
    let ps = TestPageserver::start(config(broker.address, tmp.path().join("ps")), Arc::new(disk.clone())).await;
    let status = ps.status().await;
    assert!(
        status.state == PageserverTimelineState::Stopped
            && status.stopped.is_some_and(|why| why.contains("tried again"))
    );
    assert_eq!(ps.attach().await, 409, "it is here");
    disk.no_faults();
    ps.until("it is open", |s| s.state != PageserverTimelineState::Stopped && s.disk_consistent_lsn == Some(good))
        .await;
    let (mut pusher, _) = sk.push_after(first.choice_seq).await;
    assert_eq!(pusher.start, good);
    b.noop(1000);
    let (at, wal) = b.take();
    pusher.wal(at, wal).await;
    pusher.until_durable(b.position()).await;
    assert_eq!((ps.get("/readyz").await.0, ps.attach().await), (200, 200));
    ps.stop().await;
    broker.stop().await;
}

/// The creation of a relation: what the store has of it is looked up.
fn create_relation(b: &mut WalBuilder, rel: u32) {
    b.record(rmid::SMGR, 0x10, 0, &[1663, 5, rel, 0].map(u32::to_le_bytes).concat());
}

#[tokio::test]
async fn a_read_that_fails_while_wal_is_taken_in_is_tried_again_without_a_restart() {
    let Stopped { disk, tmp, broker, sk, first, mut b, good } =
        Stopped::after(|b| (0..100).for_each(|rel| create_relation(b, 16384 + rel))).await;
    let mut without_cache = config(broker.address, tmp.path().join("ps"));
    without_cache.cache_bytes = 0;
    let ps = TestPageserver::start(without_cache, Arc::new(disk.clone())).await;
    let (mut pusher, mut choice) = sk.push_after(first.choice_seq).await;
    disk.fail_times(IoFault::Read, u32::MAX);
    // The first one needs nothing of storage; it comes with the one that does, and is thrown away with it.
    b.noop(50);
    create_relation(&mut b, 16400);
    b.noop(1000);
    let (at, wal) = b.take();
    assert_eq!((pusher.start, at), (good, good));
    pusher.wal(at, wal.clone()).await;
    assert_eq!(pusher.end().await.expect("told why").code, sqlstate::IO_ERROR);
    let status = ps.until("it shows", |s| s.stopped.is_some()).await;
    assert!(
        status.state != PageserverTimelineState::Stopped && status.stopped.is_some_and(|why| why.contains("injected"))
    );
    assert_eq!(status.last_record_lsn, Some(good));
    let (code, body) = ps.get("/readyz?verbose").await;
    assert!(code == 503 && String::from_utf8_lossy(&body).contains("waits for storage"), "{code} {body:?}");
    // Whoever dials meanwhile is told the same, at once or at the record: as far as memory has what is asked.
    let (next, token) = sk.choice_after(choice.choice_seq).await;
    let error = match Pusher::open(&next, token).await {
        Ok(mut pusher) => {
            pusher.wal(at, wal.clone()).await;
            pusher.end().await
        }
        Err(refused) => refused.server_error().cloned(),
    };
    assert_eq!(error.expect("told why").code, sqlstate::IO_ERROR);
    assert_eq!(ps.status().await.last_record_lsn, Some(good));
    disk.no_faults();
    choice = next;
    let mut pusher = eventually("a stream begins", || async {
        let (next, token) = sk.choice_after(choice.choice_seq).await;
        Pusher::open(&next, token).await.ok()
    })
    .await;
    assert_eq!(pusher.start, good, "from what was published");
    pusher.wal(at, wal).await;
    create_relation(&mut b, 16401);
    let (at, wal) = b.take();
    pusher.wal(at, wal).await;
    pusher.until_durable(b.position()).await;
    eventually("ready again", || async { (ps.get("/readyz").await.0 == 200).then_some(()) }).await;
    // What is not understood stops the timeline as ever.
    b.record(rmid::XLOG, 0xF0, 0, &[]);
    let (at, wal) = b.take();
    pusher.wal(at, wal).await;
    assert_eq!(pusher.end().await.expect("told why").code, sqlstate::TIMELINE_STOPPED);
    ps.until("stopped", |s| s.state == PageserverTimelineState::Stopped).await;
    ps.stop().await;
    broker.stop().await;
}

#[tokio::test]
async fn a_full_disk_shows_and_heals_while_the_stream_lives() {
    let disk = FakeDisk::new(1);
    let f = Fabric::start_with(Arc::new(disk.clone()), |_| {}).await;
    let sk = f.safekeeper(1, START);
    let (mut pusher, choice) = sk.push_after(0).await;
    disk.limit(Some(0));
    let mut b = builder();
    b.noop(3 << 20);
    let (at, wal) = b.take();
    pusher.wal(at, wal).await;
    let (code, body) = eventually("not ready", || async {
        let answer = f.ps.get("/readyz?verbose").await;
        (answer.0 == 503).then_some(answer)
    })
    .await;
    assert!(String::from_utf8_lossy(&body).contains("space"), "{code} {body:?}");
    assert!(f.ps.status().await.disk_consistent_lsn < Some(b.position()));
    disk.limit(None);
    pusher.until_durable(b.position()).await;
    eventually("ready again", || async { (f.ps.get("/readyz").await.0 == 200).then_some(()) }).await;
    assert_eq!(f.ps.status().await.choice.expect("a choice").choice_seq, choice.choice_seq, "the same stream");
    f.ps.stop().await;
}

/// Goal: an import that begins while a stream runs gets the stream's writer back before it copies: that writer stands
/// before the pages, and whatever it published later would be older than the copy. Method: a stream at work, an import
/// from a cluster that is not there, so that nothing but its beginning happens.
#[tokio::test]
async fn an_import_ends_a_stream_that_began_before_it_and_keeps_its_writer() {
    let f = Fabric::start().await;
    let sk = f.safekeeper(1, START.add(8));
    let (mut pusher, _) = sk.push_after(0).await;
    let mut b = builder();
    b.noop(1000);
    let (at, wal) = b.take();
    pusher.wal(at, wal).await;
    pusher.until_durable(b.position()).await;
    let timeline = f.ps.node.timeline(ttid()).expect("listed");
    assert!(timeline.stream.running().is_some());
    crate::attach::import(&f.ps.node, ttid(), attach_request(), "host=127.0.0.1 port=1".to_owned())
        .await
        .expect("it begins");
    pusher.end().await;
    eventually("the first attempt's end", || async {
        timeline.import.borrow().status().is_some_and(|s| s.last_error.is_some()).then_some(())
    })
    .await;
    // Whoever asks for the writer waits for the one that the copy brings.
    let writer = tokio::time::timeout(Duration::from_millis(100), timeline.slot.take()).await;
    assert!(writer.is_err(), "the stream's writer is still to be had");
    f.ps.stop().await;
}

/// Goal: one id is one living process, and a record alone proves nothing. Method: a second pageserver with a directory
/// of its own, with and without `--take-over`, then after the end of the first one.
#[tokio::test]
async fn one_id_is_one_living_process() {
    let f = Fabric::start().await;
    let broker = f.broker.client();
    let key = broker.keys().pageserver(NodeId(1));
    eventually("the node record", || async { broker.get(&key).await.ok().flatten() }).await;
    let dir = tempfile::tempdir().expect("a directory");
    let second = config(f.broker.address, dir.path().join("second"));
    let begin = async |config: &PageserverSettings| {
        let cancel = CancellationToken::new();
        let server = start(config.clone(), cancel.clone()).await?;
        cancel.cancel();
        server.stopped().await;
        Ok::<(), StartError>(())
    };
    let refused = begin(&second).await.expect_err("the first one lives");
    assert_eq!(refused.exit_code(), exit::USAGE);
    let text = refused.to_string();
    assert!(text.contains(&f.ps.http.to_string()) && text.contains("--take-over"), "{text}");
    let mut told = second.clone();
    told.node.take_over = true;
    begin(&told).await.expect("told to");
    f.ps.stop().await;
    begin(&second).await.expect("nobody lives there any more");
}
