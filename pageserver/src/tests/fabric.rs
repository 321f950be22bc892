//! A broker, a pageserver and scripted safekeepers in one process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use broker::{Broker, Session};
use bytes::{Bytes, BytesMut};
use disk::{Disk, FsDisk};
use libpq::{ClientConnection, ConnectOptions, CopyEvent, CopyReader, CopyWriter, NetError};
use pgformat::wal::WalBuilder;
use pgformat::{Lsn, SegSize, Tli};
use proto::api::{AttachRequest, PageserverTimelineStatus, PgHistoryEntry};
use proto::broker::records::{ChoiceRecord, NodeRecord, SCHEMA, SafekeeperTimelineRecord};
use proto::id::{NodeId, SystemId, TenantId, TenantTimelineId, Term, TimelineId};
use proto::pg::SqlError;
use proto::replication::{PushStart, ReceiverMessage, SenderMessage};
use tokio_util::sync::CancellationToken;

use crate::config::PageserverSettings;
use crate::process::Pageserver;
use crate::server::start_parts;

pub(super) const START: Lsn = Lsn::new((3 << 20) + 0x28);
const PREFIX: &str = "/walfabric";

pub(super) fn ttid() -> TenantTimelineId {
    TenantTimelineId::new(TenantId::new([0xA1; 16]), TimelineId::new([0xB2; 16]))
}

pub(super) fn attach_request() -> AttachRequest {
    AttachRequest {
        start_lsn: START,
        pg_version_num: 150_004,
        system_id: SystemId(77),
        wal_seg_size: SegSize::new(1 << 20).expect("1 MiB"),
        pg_history: vec![PgHistoryEntry { tli: Tli(1), start_lsn: Lsn::new(0) }],
    }
}

pub(super) fn builder_at(start: Lsn, prev: Option<Lsn>) -> WalBuilder {
    WalBuilder::new(crate::ingest::stream_config(&attach_request()).expect("15"), start, prev)
}

pub(super) fn builder() -> WalBuilder {
    builder_at(START, Some(Lsn::new(START.get() - 64)))
}

/// Waits until `probe` gives something.
pub(super) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{what} did not happen within 20 s");
        tokio::time::sleep(Duration::from_millis(5)).await; // between two looks
    }
}

/// A broker that can be stopped, emptied and started again on its port.
pub(super) struct BrokerProcess {
    pub(super) dir: PathBuf,
    pub(super) address: SocketAddr,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl BrokerProcess {
    pub(super) async fn start(dir: PathBuf, listen: SocketAddr) -> BrokerProcess {
        let cancel = CancellationToken::new();
        let (tell, told) = tokio::sync::oneshot::channel();
        let (served, stop) = (dir.clone(), cancel.clone());
        let task = tokio::spawn(async move {
            let ready = move |address| tell.send(address).expect("somebody waits");
            brokerd::serve(served, listen, ready, stop).await.expect("the broker serves");
        });
        BrokerProcess { dir, address: told.await.expect("the broker starts"), cancel, task }
    }

    pub(super) async fn stop(self) {
        self.cancel.cancel();
        self.task.await.expect("the broker ends");
    }

    pub(super) fn client(&self) -> Broker {
        Broker::new(&format!("http://{}", self.address), PREFIX).expect("a good URL")
    }
}

/// A pageserver.
pub(super) struct TestPageserver {
    pub(super) pg: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) node: Arc<Pageserver>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<u8>,
}

pub(super) fn config(broker: SocketAddr, data_dir: PathBuf) -> PageserverSettings {
    let (broker, dir) = (format!("http://{broker}"), data_dir.display().to_string());
    let any = ["--id", "1", "--listen-pg", "127.0.0.1:0", "--listen-http", "127.0.0.1:0"];
    let its = ["--data-dir", &dir, "--broker", &broker, "--broker-prefix", PREFIX];
    // Tests wait for what is durable.
    let flags = [&any[..], &its, &["--layer-age-ms", "20"]].concat();
    node::settings::from_flags::<PageserverSettings>(&flags).expect("valid")
}

impl TestPageserver {
    pub(super) async fn start(config: PageserverSettings, disk: Arc<dyn Disk>) -> TestPageserver {
        let cancel = CancellationToken::new();
        let started = start_parts(config, cancel.clone(), disk, |parts| parts).await;
        let (server, node) = started.expect("the pageserver starts");
        let (pg, http) = (server.pg_address().expect("it has one"), server.http_address());
        TestPageserver { pg, http, node, cancel, task: tokio::spawn(server.stopped()) }
    }

    pub(super) async fn stop(self) {
        self.cancel.cancel();
        assert_eq!(self.task.await.expect("it ends"), 0);
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    pub(super) async fn get(&self, path: &str) -> (u16, Bytes) {
        node::use_ring();
        let response = reqwest::get(self.url(path)).await.expect("HTTP answers");
        (response.status().as_u16(), response.bytes().await.expect("a body"))
    }

    pub(super) async fn post(&self, path: &str, body: &impl serde::Serialize) -> (u16, Bytes) {
        node::use_ring();
        let response = reqwest::Client::new().post(self.url(path)).json(body).send().await.expect("HTTP answers");
        (response.status().as_u16(), response.bytes().await.expect("a body"))
    }

    pub(super) async fn attach(&self) -> u16 {
        self.post(&format!("{}/attach", timeline_path()), &attach_request()).await.0
    }

    pub(super) async fn status(&self) -> PageserverTimelineStatus {
        serde_json::from_slice(&self.get(&timeline_path()).await.1).expect("a status")
    }

    /// Waits for a status.
    pub(super) async fn until(
        &self,
        what: &str,
        is: impl Fn(&PageserverTimelineStatus) -> bool,
    ) -> PageserverTimelineStatus {
        eventually(what, || async {
            let status = self.status().await;
            is(&status).then_some(status)
        })
        .await
    }
}

pub(super) fn timeline_path() -> String {
    format!("/v1/tenant/{}/timeline/{}", ttid().tenant_id, ttid().timeline_id)
}

/// A broker and a pageserver with the timeline attached.
pub(super) struct Fabric {
    pub(super) tmp: tempfile::TempDir,
    pub(super) broker: BrokerProcess,
    pub(super) ps: TestPageserver,
}

impl Fabric {
    pub(super) async fn start() -> Fabric {
        Fabric::start_with(Arc::new(FsDisk), |_| {}).await
    }

    pub(super) async fn start_with(disk: Arc<dyn Disk>, adjust: impl FnOnce(&mut PageserverSettings)) -> Fabric {
        let f = Fabric::start_unattached(disk, adjust).await;
        assert_eq!(f.ps.attach().await, 201);
        f
    }

    pub(super) async fn start_unattached(disk: Arc<dyn Disk>, adjust: impl FnOnce(&mut PageserverSettings)) -> Fabric {
        let tmp = tempfile::tempdir().expect("temp dir");
        let any = "127.0.0.1:0".parse().expect("an address");
        let broker = BrokerProcess::start(tmp.path().join("broker"), any).await;
        let mut config = config(broker.address, tmp.path().join("ps"));
        adjust(&mut config);
        let ps = TestPageserver::start(config, disk).await;
        Fabric { tmp, broker, ps }
    }

    pub(super) fn safekeeper(&self, id: u64, commit: Lsn) -> Safekeeper {
        Safekeeper::start(self.broker.client(), NodeId(id), commit, "127.0.0.1:1".into())
    }
}

/// A safekeeper as the broker and the pageserver see it.
pub(super) struct Safekeeper {
    pub(super) id: NodeId,
    pub(super) broker: Broker,
    pub(super) session: Session,
}

impl Safekeeper {
    pub(super) fn start(broker: Broker, id: NodeId, commit: Lsn, pg: String) -> Safekeeper {
        let session = Session::start(broker.clone(), 10, CancellationToken::new());
        let node = NodeRecord {
            schema: SCHEMA,
            id,
            pg,
            http: "127.0.0.1:1".into(),
            availability_zone: None,
            version: "test".into(),
        };
        session.publish(broker.keys().safekeeper(id), serde_json::to_vec(&node).expect("JSON"));
        let sk = Safekeeper { id, broker, session };
        sk.commit(commit);
        sk
    }

    pub(super) fn commit(&self, commit: Lsn) {
        let record = SafekeeperTimelineRecord {
            schema: SCHEMA,
            safekeeper_id: self.id,
            term: Term(1),
            last_log_term: Term(1),
            flush_lsn: Some(commit),
            commit_lsn: Some(commit),
            peer_horizon_lsn: None,
            local_start_lsn: None,
            remote_consistent_lsn: None,
            streaming: true,
        };
        let key = self.broker.keys().timeline_safekeeper(ttid(), self.id);
        self.session.publish(key, serde_json::to_vec(&record).expect("JSON"));
    }

    /// Waits for a choice newer than `seq` and returns it with its token.
    pub(super) async fn choice_after(&self, seq: u64) -> (ChoiceRecord, u64) {
        let key = self.broker.keys().choice(self.id, ttid(), NodeId(1));
        eventually("a choice", || async {
            let entry = self.broker.get(&key).await.ok().flatten()?;
            let record: ChoiceRecord = serde_json::from_slice(&entry.value).expect("a choice record");
            (record.choice_seq > seq).then(|| (record, u64::try_from(entry.mod_revision).expect("positive")))
        })
        .await
    }

    /// Waits for a choice and opens its stream.
    pub(super) async fn push_after(&self, seq: u64) -> (Pusher, ChoiceRecord) {
        let (choice, token) = self.choice_after(seq).await;
        (Pusher::open(&choice, token).await.expect("accepted"), choice)
    }
}

/// A session on the pageserver's libpq port.
pub(super) async fn dial(pg: &str, options: Vec<(String, String)>) -> ClientConnection {
    let mut connect = ConnectOptions::to_address(pg, "safekeeper").expect("an address");
    connect.options = options;
    ClientConnection::dial(&connect).await.expect("dials")
}

pub(super) fn options() -> Vec<(String, String)> {
    vec![("tenant_id".into(), ttid().tenant_id.to_string()), ("timeline_id".into(), ttid().timeline_id.to_string())]
}

pub(super) fn command(sk: NodeId, token: u64, nonce: &str) -> String {
    format!("START_PUSH_REPLICATION (proto_version '1', sk_id '{sk}', choice '{token}', nonce '{nonce}', term '1')")
}

/// An open push stream.
pub(super) struct Pusher {
    pub(super) reader: CopyReader,
    pub(super) writer: CopyWriter,
    pub(super) start: Lsn,
}

impl Pusher {
    pub(super) async fn open(choice: &ChoiceRecord, token: u64) -> Result<Pusher, NetError> {
        Pusher::open_as(&choice.pageserver_pg, choice.safekeeper_id, token, &choice.nonce).await
    }

    pub(super) async fn open_as(pg: &str, sk: NodeId, token: u64, nonce: &str) -> Result<Pusher, NetError> {
        let connection = dial(pg, options()).await;
        let (mut reader, writer) = connection.copy_both(&command(sk, token, nonce)).await?;
        match reader.next().await? {
            CopyEvent::Data(bytes) => match ReceiverMessage::decode(bytes).expect("a message") {
                ReceiverMessage::PushStart(PushStart { version: 1, start_lsn, .. }) => {
                    Ok(Pusher { reader, writer, start: start_lsn })
                }
                other => panic!("expected the start frame, got {other:?}"),
            },
            other => panic!("expected the start frame, got {other:?}"),
        }
    }

    pub(super) async fn send(&mut self, message: SenderMessage) {
        let mut head = BytesMut::new();
        message.encode_head(&mut head);
        self.writer.queue(&head, message.wal());
        self.writer.flush().await.expect("sent");
    }

    /// Sends WAL, 128 KiB at a time, all of it committed.
    pub(super) async fn wal(&mut self, at: Lsn, wal: Bytes) {
        let end = at.add(wal.len() as u64);
        let mut from = 0;
        while from < wal.len() {
            let to = wal.len().min(from + (128 << 10));
            let start = at.add(from as u64);
            self.send(SenderMessage::XLogData { start, wal_end: Some(end), ts: 0, wal: wal.slice(from..to) }).await;
            from = to;
        }
    }

    pub(super) async fn keepalive(&mut self, wal_end: Lsn) {
        self.send(SenderMessage::Keepalive { wal_end: Some(wal_end), ts: 0, reply_requested: true }).await;
    }

    /// The next message.
    pub(super) async fn reply(&mut self) -> ReceiverMessage {
        match self.reader.next().await.expect("an event") {
            CopyEvent::Data(bytes) => ReceiverMessage::decode(bytes).expect("a message"),
            other => panic!("expected a message, got {other:?}"),
        }
    }

    /// Reads feedback until `lsn` is durable there.
    pub(super) async fn until_durable(&mut self, lsn: Lsn) {
        let wait = async {
            loop {
                if let ReceiverMessage::Feedback(f) = self.reply().await {
                    assert_eq!(f.remote_consistent_lsn, f.disk_consistent_lsn, "one storage has everything");
                    assert!(f.disk_consistent_lsn <= f.last_received_lsn);
                    if f.disk_consistent_lsn >= Some(lsn) {
                        return;
                    }
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("durable in time");
    }

    /// Reads until the pageserver ends the stream with an error; `None` when it closes without one.
    pub(super) async fn end(mut self) -> Option<SqlError> {
        let wait = async {
            loop {
                match self.reader.next().await {
                    Ok(CopyEvent::Data(_)) => {}
                    Ok(CopyEvent::Error(e)) => return Some(*e),
                    Ok(_) | Err(_) => return None,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), wait).await.expect("the stream ends in time")
    }
}
