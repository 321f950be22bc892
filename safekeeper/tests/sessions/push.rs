//! Push: choices on a broker, a pageserver by hand, and what the safekeeper does about both.

use std::net::SocketAddr;
use std::time::Duration;

use broker::Broker;
use bytes::Bytes;
use libpq::{Auth, CopyEvent, CopyReader, CopyWriter, ServerConnection};
use node::server::StartError;
use pgformat::Lsn;
use proto::api::StreamState;
use proto::broker::records::{ChoiceRecord, NodeRecord, PageserverTimelineRecord, SCHEMA, SafekeeperTimelineRecord};
use proto::command::{Command, StartPush};
use proto::feedback::PageserverFeedback;
use proto::id::NodeId;
use proto::pg::{SqlError, sqlstate};
use proto::replication::{PushStart, ReceiverMessage, SenderMessage};
use safekeeper::SafekeeperSettings;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::common::{DEADLINE, Log, NODE, Node, Proposer, collect, soon, ttid, until};

const PAGESERVER: NodeId = NodeId(5);

struct Fabric {
    broker: Broker,
    stop_broker: CancellationToken,
    node: Node,
    pageserver: TcpListener,
    _dir: TempDir,
}

impl Fabric {
    async fn start() -> Fabric {
        let dir = tempfile::tempdir().expect("a directory");
        let stop_broker = CancellationToken::new();
        let (told, address) = tokio::sync::oneshot::channel();
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let ready = move |a: SocketAddr| told.send(a).expect("somebody waits");
        tokio::spawn(brokerd::serve(dir.path().to_owned(), any, ready, stop_broker.clone()));
        let url = format!("http://{}", soon("the broker", address).await.expect("it is ready"));
        let broker = Broker::new(&url, "/walfabric").expect("a URL");
        let node = Node::start_with(|c| c.process.broker = url).await;
        let pageserver = TcpListener::bind(any).await.expect("a port");
        Fabric { broker, stop_broker, node, pageserver, _dir: dir }
    }

    fn key(&self) -> String {
        self.broker.keys().choice(NODE, ttid(1), PAGESERVER)
    }

    async fn choose(&self, choice_seq: u64) -> u64 {
        let record = ChoiceRecord {
            schema: SCHEMA,
            pageserver_id: PAGESERVER,
            pageserver_pg: self.pageserver.local_addr().expect("bound").to_string(),
            safekeeper_id: NODE,
            choice_seq,
            reason: "no_connection".into(),
            chosen_at: "2026-01-01T00:00:00Z".into(),
            nonce: format!("{choice_seq:032x}"),
            start_lsn_hint: None,
        };
        let put = self.broker.put(&self.key(), serde_json::to_vec(&record).expect("JSON")).await;
        u64::try_from(put.expect("the broker takes it")).expect("positive")
    }

    /// The next dial of the safekeeper, up to its command.
    async fn dialled(&self) -> (ServerConnection, StartPush) {
        let (stream, _) = soon("a dial", self.pageserver.accept()).await.expect("a connection");
        let accepting = ServerConnection::accept(stream, &Auth::Trust, DEADLINE, |_| Vec::new());
        let mut connection = accepting.await.expect("a session");
        let startup = connection.startup();
        assert_eq!(startup.application_name(), format!("safekeeper-{NODE}"));
        assert_eq!(startup.option("tenant_id"), Some(ttid(1).tenant_id.to_string().as_str()));
        assert_eq!(startup.option("timeline_id"), Some(ttid(1).timeline_id.to_string().as_str()));
        let text = soon("a command", connection.next_query()).await.expect("a session").expect("a command");
        match Command::parse(&text).expect("a command") {
            Command::StartPush(push) => {
                assert_eq!((push.version, push.safekeeper_id), (1, NODE));
                (connection, push)
            }
            other => panic!("{other:?}"),
        }
    }

    async fn accepted(&self, start_lsn: Lsn) -> (CopyReader, CopyWriter, StartPush) {
        let (connection, push) = self.dialled().await;
        let (reader, mut writer) = connection.copy_both().await.expect("a stream");
        let start = PushStart { version: 1, start_lsn, recv_window: 0, keepalive_s: 1 };
        writer.queue(&ReceiverMessage::PushStart(start).encode(), Bytes::new());
        writer.flush().await.expect("sent");
        (reader, writer, push)
    }
}

fn report(lsn: Lsn) -> Bytes {
    let feedback = PageserverFeedback {
        last_received_lsn: Some(lsn),
        disk_consistent_lsn: Some(lsn),
        ..PageserverFeedback::default()
    };
    ReceiverMessage::Feedback(feedback).encode()
}

/// Goal: the whole life of a push. A choice is dialled with its token, WAL flows from where the pageserver says,
/// feedback reaches the proposer, a key put again leaves the stream alone, a broken stream is dialled again with the
/// newest token, and the end of the key is the end of the dialling, not of the stream.
#[tokio::test]
async fn from_choice_to_revocation() {
    let f = Fabric::start().await;
    let mut log = Log::new();
    f.node.create(ttid(1), &log).await;
    let mut p = Proposer::elected(&f.node, ttid(1), 1, &log).await;
    let one = log.grow(200_000);
    p.push(&log, log.start, None).await;
    p.commit(one, one).await;

    let token = f.choose(1).await;
    let (mut reader, mut writer, push) = f.accepted(log.start).await;
    assert_eq!((push.choice, push.commit_lsn, push.term.map(|t| t.0)), (token, Some(one), Some(1)));
    assert_eq!(push.nonce, format!("{:032x}", 1));
    assert!(collect(&mut reader, log.start, log.bytes.len()).await == log.bytes, "the bytes differ");
    writer.queue(&report(one), Bytes::new());
    writer.flush().await.expect("sent");
    let fed_back = until("feedback reaches the proposer", async || {
        p.commit(one, one).await.pageserver_feedback.and_then(|f| f.last_received_lsn)
    });
    assert_eq!(fed_back.await, one);
    let pushes = f.node.status(ttid(1)).await.pushes;
    assert_eq!(pushes.len(), 1);
    let shown = (pushes[0].pageserver_id, pushes[0].state.as_str(), pushes[0].last_record_lsn, pushes[0].token);
    assert_eq!(shown, (PAGESERVER, "streaming", Some(one), token));
    let mut psql = f.node.dial_with(vec![], "psql").await;
    assert_eq!(psql.simple_query("SHOW CHOICES").await.expect("rows")[0].rows.len(), 1);
    let (_, choices) = f.node.get("/v1/choices").await;
    assert!(choices.contains("\"reason\":\"no_connection\"") && choices.contains("\"streaming\""), "{choices}");

    // The same choice under a newer revision: the stream goes on.
    let newer = f.choose(1).await;
    until("the newer token is seen", async || (f.node.status(ttid(1)).await.pushes[0].token == newer).then_some(()))
        .await;
    let two = log.grow(100_000);
    p.push(&log, one, None).await;
    p.commit(two, two).await;
    let more = usize::try_from(two.bytes_since(one)).expect("small");
    assert!(collect(&mut reader, one, more).await == log.slice(one, two), "the bytes differ");

    // The connection breaks: dialled again, with the newest token, from where the pageserver says.
    drop((reader, writer));
    let (mut reader, writer, push) = f.accepted(one).await;
    assert_eq!(push.choice, newer);
    assert!(collect(&mut reader, one, more).await == log.slice(one, two), "the bytes differ");

    // The key goes, as with a lease that could not be kept alive: the stream goes on, through its return as well.
    assert!(f.broker.delete(&f.key()).await.expect("the broker takes it"));
    let no_choice = async || f.node.get("/v1/choices").await.1.contains("[]").then_some(());
    until("the safekeeper sees no choice", no_choice).await;
    let three = log.grow(100_000);
    p.push(&log, two, None).await;
    p.commit(three, three).await;
    let more = usize::try_from(three.bytes_since(two)).expect("small");
    assert!(collect(&mut reader, two, more).await == log.slice(two, three), "the bytes differ");
    let put_again = f.choose(1).await;
    until("the newest token is seen", async || {
        f.node.status(ttid(1)).await.pushes.first().is_some_and(|p| p.token == put_again).then_some(())
    })
    .await;

    // Without the key nothing is dialled once the stream has ended; with it again, it is.
    assert!(f.broker.delete(&f.key()).await.expect("the broker takes it"));
    until("the safekeeper sees no choice", no_choice).await;
    drop((reader, writer));
    until("the push is gone", async || f.node.status(ttid(1)).await.pushes.is_empty().then_some(())).await;
    let quiet = tokio::time::timeout(Duration::from_millis(500), f.pageserver.accept()).await;
    assert!(quiet.is_err(), "it dialled without a choice");
    let token = f.choose(1).await;
    assert_eq!(f.dialled().await.1.choice, token);
}

/// Goal: a refusal as stale is not repeated until the key changes, and a broker that is away ends no stream.
#[tokio::test]
async fn stale_choices_and_an_absent_broker() {
    let f = Fabric::start().await;
    let mut log = Log::new();
    f.node.create(ttid(1), &log).await;
    let mut p = Proposer::elected(&f.node, ttid(1), 1, &log).await;
    let one = log.grow(50_000);
    p.push(&log, log.start, None).await;
    p.commit(one, one).await;
    f.choose(1).await;
    let (mut connection, _) = f.dialled().await;
    let stale = SqlError::fatal(sqlstate::STALE_CHOICE, "another choice was written since");
    connection.send_error(&stale).await.expect("sent");
    drop(connection);
    until("it waits", async || {
        f.node.status(ttid(1)).await.pushes.first().is_some_and(|p| p.state == StreamState::Stale).then_some(())
    })
    .await;
    let quiet = tokio::time::timeout(Duration::from_millis(500), f.pageserver.accept()).await;
    assert!(quiet.is_err(), "it dialled again though nothing changed");

    // A key that is put again while the pageserver is asked: the newer token is tried at once.
    f.choose(2).await;
    let (mut connection, push) = f.dialled().await;
    let token = f.choose(2).await;
    assert_ne!(push.choice, token);
    until("the newer token is seen", async || {
        f.node.status(ttid(1)).await.pushes.first().is_some_and(|p| p.token == token).then_some(())
    })
    .await;
    let refused = std::time::Instant::now();
    connection.send_error(&stale).await.expect("sent");
    let (mut reader, _writer, push) = f.accepted(log.start).await;
    assert!(refused.elapsed() < Duration::from_secs(3), "it waited for nothing");
    assert_eq!(push.choice, token);
    f.stop_broker.cancel();
    let two = log.grow(50_000);
    p.push(&log, one, None).await;
    p.commit(two, two).await;
    assert!(collect(&mut reader, log.start, log.bytes.len()).await == log.bytes, "the bytes differ");
    let (_, ready) = f.node.get("/readyz?verbose").await;
    assert!(ready.contains("\"ready\":true"), "{ready}");
}

/// Goal: a choice that comes before the timeline is dialled as soon as the timeline is there, without waiting.
#[tokio::test]
async fn a_choice_before_its_timeline() {
    let f = Fabric::start().await;
    f.choose(1).await;
    until("the choice shows", async || {
        let (_, choices) = f.node.get("/v1/choices").await;
        choices.contains("connecting").then_some(())
    })
    .await;
    let log = Log::new();
    f.node.create(ttid(1), &log).await;
    let (_connection, push) = f.dialled().await;
    assert_eq!(push.commit_lsn, Some(log.start));
}

/// Goal: a pageserver that allows so many bytes in flight gets no more before it acknowledges.
#[tokio::test]
async fn the_receive_window_is_kept() {
    let f = Fabric::start().await;
    let mut log = Log::new();
    f.node.create(ttid(1), &log).await;
    let mut p = Proposer::elected(&f.node, ttid(1), 1, &log).await;
    let end = log.grow(1_000_000);
    p.push(&log, log.start, None).await;
    p.commit(end, end).await;
    f.choose(1).await;
    let (connection, _) = f.dialled().await;
    let (mut reader, mut writer) = connection.copy_both().await.expect("a stream");
    let window = 200_000;
    let start = PushStart { version: 1, start_lsn: log.start, recv_window: window, keepalive_s: 1 };
    writer.queue(&ReceiverMessage::PushStart(start).encode(), Bytes::new());
    writer.flush().await.expect("sent");
    let (mut pos, mut acknowledged) = (log.start, log.start);
    while pos < end {
        let event = soon("a message", reader.next()).await.expect("the stream goes on");
        let CopyEvent::Data(bytes) = event else { panic!("{event:?}") };
        match SenderMessage::decode(bytes).expect("a message") {
            SenderMessage::XLogData { start, wal, .. } => {
                assert_eq!(start, pos);
                pos = pos.add(wal.len() as u64);
                // The last message may begin inside the window and end outside of it.
                assert!(pos.bytes_since(acknowledged) < u64::from(window) + 128 * 1024, "{pos} is beyond the window");
            }
            // It waits for us.
            SenderMessage::Keepalive { .. } => {
                acknowledged = pos;
                writer.queue(&report(pos), Bytes::new());
                writer.flush().await.expect("sent");
            }
        }
    }
}

/// Goal: the broker shows the node and where its timelines stand, and follows what moves.
#[tokio::test]
async fn announcements() {
    let f = Fabric::start().await;
    let mut log = Log::new();
    f.node.create(ttid(1), &log).await;
    let key = f.broker.keys().safekeeper(NODE);
    let node: NodeRecord = until("the node's record", async || {
        let entry = f.broker.get(&key).await.ok().flatten()?;
        serde_json::from_slice(&entry.value).ok()
    })
    .await;
    assert_eq!((node.pg, node.http), (f.node.pg.to_string(), f.node.http.to_string()));
    let mut p = Proposer::elected(&f.node, ttid(1), 4, &log).await;
    let end = log.grow(50_000);
    p.push(&log, log.start, None).await;
    p.commit(end, end).await;
    let key = f.broker.keys().timeline_safekeeper(ttid(1), NODE);
    let record: SafekeeperTimelineRecord = until("the timeline's record", async || {
        let entry = f.broker.get(&key).await.ok().flatten()?;
        let record: SafekeeperTimelineRecord = serde_json::from_slice(&entry.value).ok()?;
        (record.commit_lsn == Some(end)).then_some(record)
    })
    .await;
    assert_eq!((record.term.0, record.last_log_term.0, record.flush_lsn, record.streaming), (4, 4, Some(end), true));
    // A pageserver that streams from another safekeeper: its positions reach this proposer all the same.
    let elsewhere = PageserverTimelineRecord {
        schema: SCHEMA,
        pageserver_id: NodeId(9),
        safekeeper_id: Some(NodeId(2)),
        reason: None,
        choice_seq: 1,
        chosen_at: None,
        last_record_lsn: Some(end),
        disk_consistent_lsn: None,
        remote_consistent_lsn: None,
    };
    let at = f.broker.keys().timeline_pageserver(ttid(1), NodeId(9));
    f.broker.put(&at, serde_json::to_vec(&elsewhere).expect("JSON")).await.expect("the broker takes it");
    until("the relayed position", async || {
        let feedback = p.commit(end, end).await.pageserver_feedback?;
        (feedback.last_received_lsn == Some(end)).then_some(())
    })
    .await;
    let mut f = f;
    f.node.stop().await;
    until("the keys are gone", async || f.broker.get(&key).await.expect("it answers").is_none().then_some(())).await;
}

/// Goal: one id is one living process, and a record alone proves nothing. Method: a second one with its own directory,
/// with and without `--take-over`; then a record whose address nobody listens at.
#[tokio::test]
async fn one_id_is_one_living_process() {
    let f = Fabric::start().await;
    let key = f.broker.keys().safekeeper(NODE);
    until("the node record", async || f.broker.get(&key).await.ok().flatten()).await;
    let dir = tempfile::tempdir().expect("a directory");
    let mut config = f.node.config.clone();
    config.node.data_dir = dir.path().join("second");
    let start = async |config: &SafekeeperSettings| {
        let cancel = CancellationToken::new();
        let server = safekeeper::start(config.clone(), cancel.clone()).await?;
        cancel.cancel();
        server.stopped().await;
        Ok::<(), StartError>(())
    };
    let refused = start(&config).await.expect_err("the first one lives");
    assert_eq!(refused.exit_code(), 2);
    let text = refused.to_string();
    assert!(text.contains(&f.node.http.to_string()) && text.contains("--take-over"), "{text}");
    let mut told = config.clone();
    told.node.take_over = true;
    start(&told).await.expect("told to");
    let dead = NodeRecord {
        schema: SCHEMA,
        id: NODE,
        pg: "127.0.0.1:1".into(),
        http: "127.0.0.1:1".into(),
        availability_zone: None,
        version: String::new(),
    };
    config.process.broker_prefix = "/elsewhere".into();
    let elsewhere = Broker::new(&config.process.broker, &config.process.broker_prefix).expect("a URL");
    let record = serde_json::to_vec(&dead).expect("JSON");
    elsewhere.put(&elsewhere.keys().safekeeper(NODE), record).await.expect("the broker takes it");
    start(&config).await.expect("its process is dead");
}
