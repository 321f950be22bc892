//! A safekeeper inside the test's process, a log to push into it, and a proposer that says exactly what it is told.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "every test binary uses its own part")]

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use libpq::{ClientConnection, ConnectOptions, CopyEvent, CopyReader, CopyWriter, NetError};
use node::server::RunningServer;
use pgformat::wal::{StreamConfig, WalBuilder, synthetic_prehistory};
use pgformat::{Lsn, PgMajor, SegSize, Tli};
use proto::api::{CreateTimelineRequest, PgHistoryEntry, SafekeeperTimelineStatus, TimelineSource};
use proto::consensus::{
    AcceptorMessage, AppendRequest, AppendResponse, MAX_SEND_SIZE, Member, MemberConf, ProposerElected,
    ProposerGreeting, ProposerMessage, ProtoVersion, TermHistory, TermLsn, VoteRequest, VoteResponse,
};
use proto::id::{Generation, NodeId, PrimaryEpoch, SystemId, TenantId, TenantTimelineId, Term, TimelineId};
use proto::pg::SqlError;
use safekeeper::SafekeeperSettings;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Nothing in these tests takes as long as this.
pub const DEADLINE: Duration = Duration::from_secs(20);

pub const SYSTEM: SystemId = SystemId(7_300_000_000_000_000_001);
pub const NODE: NodeId = NodeId(1);
pub const PG_VERSION: u32 = 150_004;

pub fn ttid(n: u8) -> TenantTimelineId {
    TenantTimelineId::new(TenantId::new([0xAA; 16]), TimelineId::new([n; 16]))
}

/// Runs a future, fails when it takes too long.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(done) => done,
        Err(_) => panic!("{what} took longer than {DEADLINE:?}"),
    }
}

/// Waits until `check` gives something.
pub async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    soon(what, async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await; // between two looks
        }
    })
    .await
}

/// A safekeeper in this process.
pub struct Node {
    pub config: SafekeeperSettings,
    pub pg: SocketAddr,
    pub http: SocketAddr,
    server: Option<RunningServer>,
    cancel: CancellationToken,
    pub dir: TempDir,
}

impl Node {
    /// Starts one without a broker that answers.
    pub async fn start() -> Node {
        Node::start_with(|_| {}).await
    }

    pub async fn start_with(change: impl FnOnce(&mut SafekeeperSettings)) -> Node {
        let dir = tempfile::tempdir().expect("a directory");
        let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
        let data = dir.path().join("data").display().to_string();
        let id = NODE.to_string();
        let its = ["--id", &id, "--data-dir", &data, "--broker", "http://127.0.0.1:1"];
        let ports = ["--listen-pg", "127.0.0.1:0", "--listen-http", "127.0.0.1:0"];
        let bounds = ["--pg-connections-max", "64", "--http-connections-max", "64"];
        let flags = [&its[..], &ports, &bounds].concat();
        let mut config = node::settings::from_flags::<SafekeeperSettings>(&flags).expect("valid settings");
        change(&mut config);
        let mut node = Node { config, pg: any, http: any, server: None, cancel: CancellationToken::new(), dir };
        node.run().await;
        node
    }

    async fn run(&mut self) {
        self.cancel = CancellationToken::new();
        let server = safekeeper::start(self.config.clone(), self.cancel.clone()).await.expect("the server starts");
        (self.pg, self.http) = (server.pg_address().expect("it has one"), server.http_address());
        self.server = Some(server);
    }

    /// Stops in order; the exit code.
    pub async fn stop(&mut self) -> u8 {
        self.cancel.cancel();
        let server = self.server.take().expect("it runs");
        soon("an orderly stop", server.stopped()).await
    }

    pub async fn restart(&mut self) {
        assert_eq!(self.stop().await, 0);
        self.run().await;
    }

    pub async fn post(&self, body: Vec<u8>) -> (u16, String) {
        let url = format!("http://{}/v1/tenant/timeline", self.http);
        node::use_ring();
        let answer = reqwest::Client::new().post(url).body(body).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        node::use_ring();
        let answer = reqwest::get(format!("http://{}{path}", self.http)).await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    }

    pub async fn delete(&self, path: &str) -> (u16, String) {
        node::use_ring();
        let url = format!("http://{}{path}", self.http);
        let answer = reqwest::Client::new().delete(url).send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    }

    pub async fn status(&self, ttid: TenantTimelineId) -> SafekeeperTimelineStatus {
        let (code, text) = self.get(&format!("/v1/tenant/{}/timeline/{}", ttid.tenant_id, ttid.timeline_id)).await;
        assert_eq!(code, 200, "{text}");
        serde_json::from_str(&text).expect("a status")
    }

    pub async fn create(&self, ttid: TenantTimelineId, log: &Log) {
        let (code, text) = self.post(log.creation(ttid)).await;
        assert_eq!(code, 201, "{text}");
    }

    pub async fn dial(&self, ttid: TenantTimelineId, application: &str) -> ClientConnection {
        let options = vec![
            ("tenant_id".to_owned(), ttid.tenant_id.to_string()),
            ("timeline_id".to_owned(), ttid.timeline_id.to_string()),
        ];
        self.dial_with(options, application).await
    }

    pub async fn dial_with(&self, options: Vec<(String, String)>, application: &str) -> ClientConnection {
        let options = ConnectOptions {
            host: self.pg.ip().to_string(),
            port: self.pg.port(),
            user: "test".into(),
            application_name: application.into(),
            options,
            timeout: DEADLINE,
            ..ConnectOptions::default()
        };
        ClientConnection::dial(&options).await.expect("a session")
    }
}

/// A log that grows, with everything that was ever in it.
pub struct Log {
    pub cfg: StreamConfig,
    pub start: Lsn,
    pub prehistory: Bytes,
    builder: WalBuilder,
    /// From `start` on.
    pub bytes: Vec<u8>,
}

impl Log {
    pub fn new() -> Log {
        let seg_size = SegSize::new(1 << 20).expect("1 MiB");
        let tlis = vec![(Tli(1), Lsn::new(0))];
        let version = PgMajor::new(15).expect("a supported version");
        let cfg = StreamConfig { version, seg_size, system_id: Some(SYSTEM.0), tlis };
        let start = Lsn::new(0x30_2100);
        let prehistory = Bytes::from(synthetic_prehistory(&cfg, start).expect("a boundary"));
        let builder = WalBuilder::new(cfg.clone(), start, None);
        Log { cfg, start, prehistory, builder, bytes: Vec::new() }
    }

    /// Adds records of `len` bytes together, about.
    pub fn grow(&mut self, len: usize) -> Lsn {
        let goal = self.bytes.len() + len;
        let mut size = 64;
        while self.bytes.len() < goal {
            self.builder.noop(size);
            size = size % 9000 + 97;
            let (_, bytes) = self.builder.take();
            self.bytes.extend_from_slice(&bytes);
        }
        self.end()
    }

    pub fn end(&self) -> Lsn {
        self.builder.position()
    }

    pub fn slice(&self, from: Lsn, to: Lsn) -> Bytes {
        let at = |l: Lsn| usize::try_from(l.bytes_since(self.start)).expect("small");
        Bytes::copy_from_slice(&self.bytes[at(from)..at(to)])
    }

    /// Everything from the start of the first segment on.
    pub fn whole_segments(&self) -> Vec<u8> {
        [&self.prehistory[..], &self.bytes].concat()
    }

    pub fn request(&self, ttid: TenantTimelineId) -> CreateTimelineRequest {
        CreateTimelineRequest {
            tenant_id: ttid.tenant_id,
            timeline_id: ttid.timeline_id,
            mconf: mconf(),
            pg_version_num: PG_VERSION,
            system_id: SYSTEM,
            wal_seg_size: self.cfg.seg_size,
            start_lsn: self.start,
            source: TimelineSource::Vanilla,
            primary_epoch: PrimaryEpoch::FIRST,
            pg_history: vec![PgHistoryEntry { tli: Tli(1), start_lsn: Lsn::new(0) }],
            prehistory_len: self.prehistory.len() as u64,
        }
    }

    pub fn creation(&self, ttid: TenantTimelineId) -> Vec<u8> {
        body(&self.request(ttid), &self.prehistory)
    }
}

pub fn body(request: &CreateTimelineRequest, prehistory: &[u8]) -> Vec<u8> {
    let mut body = serde_json::to_vec(request).expect("JSON");
    body.push(b'\n');
    body.extend_from_slice(prehistory);
    body
}

pub fn mconf() -> MemberConf {
    let member = Member { id: NODE, host: "127.0.0.1".into(), pg_port: 1 };
    MemberConf::new(Generation::FIRST, vec![member], vec![]).expect("a member set")
}

pub const PUSH: &str = "START_WAL_PUSH (proto_version '3', allow_timeline_creation 'false', primary_epoch '1')";

/// What came instead of a message.
#[derive(Debug)]
pub enum Refused {
    Error(SqlError),
    Closed,
}

/// A proposer by hand.
pub struct Proposer {
    pub reader: CopyReader,
    pub writer: CopyWriter,
    pub ttid: TenantTimelineId,
    pub term: Term,
    pub history: TermHistory,
}

impl Proposer {
    pub async fn connect(node: &Node, ttid: TenantTimelineId, command: &str) -> Result<Proposer, NetError> {
        let connection = node.dial(ttid, "walproposer").await;
        let (reader, writer) = connection.copy_both(command).await?;
        Ok(Proposer { reader, writer, ttid, term: Term::ZERO, history: TermHistory::empty() })
    }

    /// Connected, greeted, voted for, elected at the end of the acceptor's log.
    pub async fn elected(node: &Node, ttid: TenantTimelineId, term: u64, log: &Log) -> Proposer {
        let mut p = Proposer::connect(node, ttid, PUSH).await.expect("a stream");
        p.greet(log).await;
        let vote = p.vote(term).await;
        assert!(vote.vote_given, "{vote:?}");
        p.elect(&vote).await;
        p
    }

    pub async fn send(&mut self, message: ProposerMessage) {
        self.send_raw(message.encode(ProtoVersion::V3)).await;
    }

    pub async fn send_raw(&mut self, bytes: Bytes) {
        self.writer.queue(&[], bytes);
        // The safekeeper may have closed the connection by now; then reading tells why.
        let _ = soon("sending", self.writer.flush()).await;
    }

    pub async fn recv(&mut self) -> Result<AcceptorMessage, Refused> {
        match soon("an answer", self.reader.next()).await {
            Ok(CopyEvent::Data(bytes)) => Ok(AcceptorMessage::decode(ProtoVersion::V3, bytes).expect("a message")),
            Ok(CopyEvent::Error(e)) => Err(Refused::Error(*e)),
            Ok(CopyEvent::Closed | CopyEvent::Done) | Err(_) => Err(Refused::Closed),
            Ok(other) => panic!("{other:?}"),
        }
    }

    /// The error that ends the stream; the connection must be closed after it.
    pub async fn refusal(mut self) -> SqlError {
        let error = loop {
            match self.recv().await {
                Ok(_) => {}
                Err(Refused::Error(e)) => break e,
                Err(Refused::Closed) => panic!("closed without an error"),
            }
        };
        assert!(matches!(self.recv().await, Err(Refused::Closed)), "the connection stays open after {error}");
        error
    }

    pub fn greeting(&self, log: &Log) -> ProposerGreeting {
        ProposerGreeting {
            ttid: self.ttid,
            mconf: mconf(),
            pg_version_num: PG_VERSION,
            system_id: SYSTEM,
            seg_size: log.cfg.seg_size,
            tli: None,
        }
    }

    pub async fn greet(&mut self, log: &Log) {
        self.send(ProposerMessage::Greeting(self.greeting(log))).await;
        match self.recv().await {
            Ok(AcceptorMessage::Greeting(g)) => assert_eq!(g.node_id, NODE),
            other => panic!("expected a greeting, got {other:?}"),
        }
    }

    pub async fn vote(&mut self, term: u64) -> VoteResponse {
        self.term = Term(term);
        self.send(ProposerMessage::VoteRequest(VoteRequest { generation: Generation::FIRST, term: self.term })).await;
        match self.recv().await {
            Ok(AcceptorMessage::VoteResponse(v)) => v,
            other => panic!("expected a vote, got {other:?}"),
        }
    }

    pub async fn elect(&mut self, vote: &VoteResponse) {
        let end = vote.flush_lsn.expect("the log has a start");
        let history = vote.history.clone().with(TermLsn { term: self.term, lsn: end }).expect("it follows");
        self.history = history.clone();
        let elected =
            ProposerElected { generation: Generation::FIRST, term: self.term, start_streaming_at: end, history };
        self.send(ProposerMessage::Elected(elected)).await;
    }

    pub fn append_request(&self, begin: Lsn, wal: Bytes, commit: Option<Lsn>) -> AppendRequest {
        AppendRequest {
            generation: Generation::FIRST,
            term: self.term,
            begin_lsn: begin,
            end_lsn: begin.add(wal.len() as u64),
            commit_lsn: commit,
            truncate_lsn: None,
            wal,
        }
    }

    /// Sends `log` from `from` to its end and waits until it is durable.
    pub async fn push(&mut self, log: &Log, from: Lsn, commit: Option<Lsn>) -> AppendResponse {
        let mut pos = from;
        while pos < log.end() {
            let end = pos.add(MAX_SEND_SIZE as u64).min(log.end());
            let request = self.append_request(pos, log.slice(pos, end), commit);
            self.send(ProposerMessage::Append(request)).await;
            pos = end;
        }
        self.durable(log.end()).await
    }

    /// Tells the commit position by a heartbeat.
    pub async fn commit(&mut self, at: Lsn, end: Lsn) -> AppendResponse {
        let request = self.append_request(end, Bytes::new(), Some(at));
        self.send(ProposerMessage::Append(request)).await;
        self.response().await
    }

    pub async fn response(&mut self) -> AppendResponse {
        match self.recv().await {
            Ok(AcceptorMessage::Append(a)) => a,
            other => panic!("expected an append response, got {other:?}"),
        }
    }

    pub async fn durable(&mut self, end: Lsn) -> AppendResponse {
        loop {
            let response = self.response().await;
            if response.flush_lsn >= Some(end) {
                return response;
            }
        }
    }
}

/// Collects WAL from a stream until it holds `len` bytes; also the freshest end told.
pub async fn collect(reader: &mut CopyReader, start: Lsn, len: usize) -> Vec<u8> {
    use proto::replication::SenderMessage;
    let mut got = Vec::new();
    while got.len() < len {
        let event = soon("WAL", reader.next()).await.expect("the stream goes on");
        let CopyEvent::Data(bytes) = event else { panic!("{event:?}") };
        match SenderMessage::decode(bytes).expect("a message") {
            SenderMessage::XLogData { start: at, wal, .. } => {
                assert_eq!(at, start.add(got.len() as u64), "WAL comes without gap or overlap");
                got.extend_from_slice(&wal);
            }
            SenderMessage::Keepalive { .. } => {}
        }
    }
    got
}
