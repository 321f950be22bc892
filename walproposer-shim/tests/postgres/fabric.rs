//! Safekeepers, an embedded broker and the shim, all in this process, around a real PostgreSQL.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use broker::Broker;
use libpq::{ClientConnection, ConnectOptions};
use node::settings::from_flags;
use pgformat::{Lsn, SegSize, Tli};
use proto::api::{
    CreateTimelineRequest, PeerState, PgHistoryEntry, Readiness, SafekeeperTimelineStatus, ShimPhase, ShimStatus,
    TimelineSource,
};
use proto::broker::keys::DEFAULT_PREFIX;
use proto::broker::records::PrimaryRecord;
use proto::consensus::{Member, MemberConf};
use proto::id::{Generation, NodeId, PrimaryEpoch, SystemId, TenantTimelineId};
use safekeeper::SafekeeperSettings;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use walproposer_shim::names;

use crate::cluster::Postgres;

pub(crate) const TENANT: &str = "0123456789abcdef0011223344556677";
pub(crate) const TIMELINE: &str = "00112233445566770123456789abcdef";

pub(crate) fn ttid() -> TenantTimelineId {
    TenantTimelineId::new(TENANT.parse().expect("an id"), TIMELINE.parse().expect("an id"))
}

/// Looks until there is something to see.
pub(crate) async fn until<T>(what: &str, patience: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what} did not happen within {patience:?}");
        tokio::time::sleep(Duration::from_millis(5)).await; // between two looks
    }
}

/// A safekeeper that can be stopped and started again on the same ports and directory.
pub(crate) struct Safekeeper {
    id: u64,
    dir: PathBuf,
    pub(crate) pg: SocketAddr,
    pub(crate) http: SocketAddr,
    running: Option<(CancellationToken, JoinHandle<u8>)>,
}

impl Safekeeper {
    async fn new(id: u64, dir: PathBuf, broker: &str) -> Safekeeper {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut safekeeper = Safekeeper { id, dir, pg: any, http: any, running: None };
        safekeeper.start(broker).await;
        safekeeper
    }

    pub(crate) async fn start(&mut self, broker: &str) {
        let (id, pg, http) = (self.id.to_string(), self.pg.to_string(), self.http.to_string());
        let dir = self.dir.to_str().expect("UTF-8");
        let flags = ["--id", &id, "--data-dir", dir, "--listen-pg", &pg, "--listen-http", &http, "--broker", broker];
        let config = from_flags::<SafekeeperSettings>(&flags).expect("valid settings");
        let cancel = CancellationToken::new();
        let server = until("the safekeeper's start", Duration::from_secs(10), async || {
            safekeeper::start(config.clone(), cancel.clone()).await.ok()
        });
        let server = server.await;
        (self.pg, self.http) = (server.pg_address().expect("it has one"), server.http_address());
        self.running = Some((cancel, tokio::spawn(server.stopped())));
    }

    pub(crate) async fn stop(&mut self) {
        if let Some((cancel, task)) = self.running.take() {
            cancel.cancel();
            task.await.expect("the safekeeper ends");
        }
    }

    /// The segment file with the byte at `at`.
    pub(crate) fn segment(&self, at: Lsn) -> PathBuf {
        let seg = SegSize::DEFAULT;
        self.dir.join(TENANT).join(TIMELINE).join(seg.file_name(Tli(1), at.segment_no(seg)))
    }

    /// `GET /readyz?verbose`.
    pub(crate) async fn readiness(&self) -> Option<Readiness> {
        node::use_ring();
        reqwest::get(format!("http://{}/readyz?verbose", self.http)).await.ok()?.json().await.ok()
    }

    /// Has it read WAL back; what is damaged.
    pub(crate) async fn check_wal(&self, from: Lsn, to: Lsn) -> Vec<Option<String>> {
        let options = ConnectOptions {
            host: self.pg.ip().to_string(),
            port: self.pg.port(),
            user: "test".to_owned(),
            options: [("tenant_id", TENANT), ("timeline_id", TIMELINE)].map(|(k, v)| (k.into(), v.into())).to_vec(),
            ..ConnectOptions::default()
        };
        let mut connection = ClientConnection::dial(&options).await.expect("a session");
        let mut answer = connection.simple_query(&format!("CHECK_WAL {from} {to}")).await.expect("an answer");
        answer.remove(0).rows.remove(0)
    }

    pub(crate) async fn status(&self) -> Option<SafekeeperTimelineStatus> {
        let url = format!("http://{}/v1/tenant/{TENANT}/timeline/{TIMELINE}", self.http);
        node::use_ring();
        reqwest::get(url).await.ok()?.json().await.ok()
    }
}

/// A shim: the real program.
pub(crate) struct Shim {
    http: SocketAddr,
    child: std::process::Child,
    log: PathBuf,
    _dir: TempDir,
}

impl Drop for Shim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Shim {
    /// Starts one; `extra` flags come last.
    pub(crate) fn start(pg: &Postgres, safekeepers: &str, broker: &str, extra: &[&str]) -> Shim {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("log");
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let http = free.local_addr().expect("bound");
        drop(free);
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_walproposer-shim"));
        command.args(["--primary", &pg.conninfo(), "--safekeepers", safekeepers, "--tenant-id", TENANT]);
        command.args(["--timeline-id", TIMELINE, "--broker", broker, "--listen-http", &http.to_string()]).args(extra);
        command.stderr(std::fs::File::create(&log).expect("a file"));
        Shim { http, child: command.spawn().expect("the shim starts"), log, _dir: dir }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) async fn status(&self) -> Option<ShimStatus> {
        node::use_ring();
        reqwest::get(format!("http://{}/v1/status", self.http)).await.ok()?.json().await.ok()
    }

    pub(crate) async fn text(&self, path: &str) -> (u16, String) {
        node::use_ring();
        let answer = reqwest::get(format!("http://{}{path}", self.http)).await.expect("the shim answers");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    }

    /// SIGTERM; must end with exit code 0.
    pub(crate) async fn stop(mut self) {
        harness::signal(&self.child, rustix::process::Signal::TERM).expect("our child");
        assert_eq!(self.exit_code().await, Some(0), "{}", self.log());
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("killed");
        harness::wait(&mut self.child, "the killed shim", harness::PATIENCE).expect("it ends");
    }

    async fn exit_code(&mut self) -> Option<i32> {
        let child = &mut self.child;
        until("the end of the shim", Duration::from_secs(20), async || child.try_wait().expect("a child")).await.code()
    }

    /// Must end by itself with exit code 6, saying `words`.
    pub(crate) async fn refuses(mut self, words: &str) {
        let code = self.exit_code().await;
        assert_eq!(code, Some(6), "{words}: {}", self.log());
        let log = self.log();
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains(words) && last.contains("What to do"), "{words}: {log}");
    }

    pub(crate) async fn streams(&self) {
        until("streaming", Duration::from_secs(20), async || {
            let status = self.status().await?;
            let all = status.safekeepers.iter().filter(|s| s.state == PeerState::Active).count() >= 2;
            (status.state == ShimPhase::Streaming && all).then_some(())
        })
        .await;
    }

    pub(crate) async fn protects(&self) {
        until("protection", Duration::from_secs(20), async || self.status().await?.protected.then_some(())).await;
    }
}

/// Everything but the shim.
pub(crate) struct Fabric {
    _dir: TempDir,
    pub(crate) pg: Postgres,
    pub(crate) safekeepers: Vec<Safekeeper>,
    pub(crate) broker: String,
    _broker_task: tokio_util::task::AbortOnDropHandle<()>,
}

impl Fabric {
    /// PostgreSQL with a slot, three safekeepers with the timeline.
    pub(crate) async fn start() -> Fabric {
        let dir = tempfile::tempdir().expect("a directory");
        let (told, ready) = tokio::sync::oneshot::channel();
        let broker_dir = dir.path().join("broker");
        let task = tokio::spawn(async move {
            let listen = SocketAddr::from(([127, 0, 0, 1], 0));
            let tell = |address| _ = told.send(address);
            let served = brokerd::serve(broker_dir, listen, tell, CancellationToken::new()).await;
            served.expect("the broker serves");
        });
        let broker = format!("http://{}", ready.await.expect("the broker is bound"));
        let mut pg = Postgres::init();
        pg.start().await;
        let mut safekeepers = Vec::new();
        for id in 1..=3 {
            safekeepers.push(Safekeeper::new(id, dir.path().join(format!("sk{id}")), &broker).await);
        }
        let _broker_task = tokio_util::task::AbortOnDropHandle::new(task);
        let fabric = Fabric { _dir: dir, pg, safekeepers, broker, _broker_task };
        fabric.create_timeline().await;
        fabric
    }

    pub(crate) fn addresses(&self) -> String {
        self.safekeepers.iter().map(|s| s.pg.to_string()).collect::<Vec<_>>().join(",")
    }

    pub(crate) fn shim(&self, extra: &[&str]) -> Shim {
        Shim::start(&self.pg, &self.addresses(), &self.broker, extra)
    }

    /// A shim that streams and protects.
    pub(crate) async fn protected(&self, extra: &[&str]) -> Shim {
        let shim = self.shim(extra);
        shim.streams().await;
        let names = names::synchronous_standby_names(ttid().timeline_id);
        self.pg.set_and_reload("synchronous_standby_names", &names).await;
        shim.protects().await;
        shim
    }

    /// Waits until the primary record on the broker satisfies `wanted`.
    pub(crate) async fn record_says(&self, what: &str, wanted: impl Fn(&PrimaryRecord) -> bool) {
        let broker = Broker::new(&self.broker, DEFAULT_PREFIX).expect("a URL");
        let key = broker.keys().primary(ttid());
        until(what, Duration::from_secs(20), async || {
            let entry = broker.get(&key).await.ok()??;
            let record: PrimaryRecord = serde_json::from_slice(&entry.value).expect("a record");
            wanted(&record).then_some(())
        })
        .await;
    }

    async fn create_timeline(&self) {
        let slot = names::slot_name(ttid().timeline_id);
        for slot in [names::pin_slot_name(&slot), slot.clone()] {
            self.pg.value(&format!("SELECT pg_create_physical_replication_slot('{slot}', true)")).await;
        }
        let query = format!("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'");
        let start: Lsn = self.pg.value(&query).await.parse().expect("a position");
        let seg = SegSize::DEFAULT;
        let file = self.pg.data().join("pg_wal").join(seg.file_name(Tli(1), start.segment_no(seg)));
        let len = usize::try_from(start.segment_offset(seg)).expect("less than a segment");
        let prehistory = std::fs::read(file).expect("the segment")[..len].to_vec();
        let system_id = self.pg.value("SELECT system_identifier FROM pg_control_system()").await;
        let member = |s: &Safekeeper| Member { id: NodeId(s.id), host: "127.0.0.1".to_owned(), pg_port: s.pg.port() };
        let members = self.safekeepers.iter().map(member).collect();
        let request = CreateTimelineRequest {
            tenant_id: ttid().tenant_id,
            timeline_id: ttid().timeline_id,
            mconf: MemberConf::new(Generation::FIRST, members, Vec::new()).expect("a set"),
            pg_version_num: self.pg.value("SHOW server_version_num").await.parse().expect("a number"),
            system_id: SystemId(system_id.parse().expect("a number")),
            wal_seg_size: seg,
            start_lsn: start,
            source: TimelineSource::Vanilla,
            primary_epoch: PrimaryEpoch::FIRST,
            pg_history: vec![PgHistoryEntry { tli: Tli(1), start_lsn: Lsn::new(0) }],
            prehistory_len: prehistory.len() as u64,
        };
        let mut body = serde_json::to_vec(&request).expect("JSON");
        body.push(b'\n');
        body.extend_from_slice(&prehistory);
        for safekeeper in &self.safekeepers {
            let url = format!("http://{}/v1/tenant/timeline", safekeeper.http);
            node::use_ring();
            let answer = reqwest::Client::new().post(url).body(body.clone()).send().await.expect("an answer");
            let status = answer.status();
            assert!(status.is_success(), "{status}: {}", answer.text().await.unwrap_or_default());
        }
    }
}
