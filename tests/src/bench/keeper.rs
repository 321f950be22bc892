//! One safekeeper process with its own embedded broker, for parts that drive it with scripted proposers.
//!
//! Both run as in a fabric: subcommands of the `walfabric` binary. Counts come from the safekeeper's `/metrics`,
//! CPU time and memory from `/proc`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use broker::{Broker, Revision, Watch, WatchEvent};
use libpq::{ClientConnection, ConnectOptions};
use proto::api::SafekeeperTimelineStatus;
use proto::broker::keys::DEFAULT_PREFIX;
use proto::id::{NodeId, TenantId, TenantTimelineId, TimelineId};
use tempfile::TempDir;
use tokio_util::task::AbortOnDropHandle;
use walfabric::http::Http;

use super::wal::Origin;
use crate::process::{Process, free_port};
use crate::{fabric, wait};

/// Its node id.
pub const NODE: NodeId = NodeId(1);
/// A start or a creation that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// The broker counts as settled when nothing was written for so long: nodes write at most once a second and key.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// A safekeeper and its broker; both end, and their files go, when it is dropped.
pub struct Keeper {
    safekeeper: Process,
    _broker_process: Process,
    broker: Broker,
    client: Http,
    binary: PathBuf,
    ports: (u16, u16),
    dir: TempDir,
}

/// Syncs that a safekeeper has done, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Syncs(BTreeMap<String, u64>);

impl Syncs {
    /// Of every kind.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// What came on top of `earlier`.
    pub fn since(&self, earlier: &Syncs) -> Syncs {
        let before = |op: &String| earlier.0.get(op).copied().unwrap_or_default();
        Syncs(self.0.iter().map(|(op, n)| (op.clone(), n - before(op))).collect())
    }

    /// For raw results.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!(self.0)
    }
}

/// Counts what a watcher of everything is told.
pub struct Events {
    count: Arc<AtomicU64>,
    _task: AbortOnDropHandle<()>,
}

impl Events {
    /// Puts and deletes so far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// Tenant and timeline number `n` of a benchmark.
pub fn ttid(n: u32) -> TenantTimelineId {
    let mut timeline = [0x11; 16];
    timeline[..4].copy_from_slice(&n.to_be_bytes());
    TenantTimelineId::new(TenantId::new([0xBE; 16]), TimelineId::new(timeline))
}

impl Keeper {
    /// Starts both with empty directories below `dir`.
    ///
    /// # Errors
    /// When one of them is not ready in time.
    pub async fn start(dir: &Path) -> Result<Keeper> {
        let dir = tempfile::Builder::new().prefix("keeper-").tempdir_in(dir)?;
        let binary = fabric::binary()?;
        let broker_port = free_port();
        let mut command = Command::new(&binary);
        command.arg("broker").arg("--dir").arg(dir.path().join("broker"));
        command.args(["--listen", &format!("127.0.0.1:{broker_port}")]);
        let broker_process = Process::spawn(command, &dir.path().join("broker.log"))?;
        let broker = Broker::new(&format!("http://127.0.0.1:{broker_port}"), DEFAULT_PREFIX)?;
        let ports = (free_port(), free_port());
        let safekeeper = spawn(&binary, dir.path(), broker.url(), ports)?;
        let client = Http::new(PATIENCE)?;
        let keeper = Keeper { safekeeper, _broker_process: broker_process, broker, client, binary, ports, dir };
        keeper.ready().await?;
        Ok(keeper)
    }

    /// kill -9, then a start on the same directory; how long the start took until it was ready.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn restart(&mut self) -> Result<Duration> {
        self.safekeeper.kill();
        let began = Instant::now();
        self.safekeeper = spawn(&self.binary, self.dir.path(), self.broker.url(), self.ports)?;
        self.ready().await?;
        Ok(began.elapsed())
    }

    async fn ready(&self) -> Result<()> {
        let answers = wait::until("the safekeeper's readiness", 2 * PATIENCE, async || {
            self.client.get_ok(&self.http(), "/readyz").await.ok()
        });
        let log = self.dir.path().join("safekeeper.log");
        let timely = tokio::time::timeout(PATIENCE, answers).await;
        timely.with_context(|| format!("not ready: {}", std::fs::read_to_string(log).unwrap_or_default()))
    }

    /// Process id of the safekeeper.
    pub fn pid(&self) -> u32 {
        self.safekeeper.id()
    }

    /// Its data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn http(&self) -> String {
        format!("127.0.0.1:{}", self.ports.1)
    }

    /// Creates a timeline that starts at `origin` and has this safekeeper as its only member.
    ///
    /// # Errors
    /// When it is refused, or exists.
    pub async fn create(&self, ttid: TenantTimelineId, origin: &Origin) -> Result<()> {
        let body = origin.creation(ttid, NODE)?;
        let (address, form) = (self.http(), "application/x-walfabric-timeline");
        let made = self.client.post(&address, "/v1/tenant/timeline", body, form).await?;
        ensure!(made, "timeline {ttid} exists");
        Ok(())
    }

    /// A session that names the timeline.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn dial(&self, ttid: TenantTimelineId) -> Result<ClientConnection> {
        let options = ConnectOptions {
            host: "127.0.0.1".into(),
            port: self.ports.0,
            user: "bench".into(),
            application_name: "walproposer".into(),
            options: vec![
                ("tenant_id".to_owned(), ttid.tenant_id.to_string()),
                ("timeline_id".to_owned(), ttid.timeline_id.to_string()),
            ],
            timeout: PATIENCE,
            ..ConnectOptions::default()
        };
        Ok(ClientConnection::dial(&options).await?)
    }

    /// A timeline as it stands.
    ///
    /// # Errors
    /// When there is none.
    pub async fn status(&self, ttid: TenantTimelineId) -> Result<SafekeeperTimelineStatus> {
        let path = format!("/v1/tenant/{}/timeline/{}", ttid.tenant_id, ttid.timeline_id);
        self.client.get(&self.http(), &path).await
    }

    /// How many timelines it lists. The listing is long: do not look at memory after it.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn listed(&self) -> Result<usize> {
        let all: Vec<SafekeeperTimelineStatus> = self.client.get(&self.http(), "/v1/tenant/timeline").await?;
        Ok(all.len())
    }

    /// Syncs since it was started.
    ///
    /// # Errors
    /// When it does not tell.
    pub async fn syncs(&self) -> Result<Syncs> {
        let bytes = self.client.get_bytes(&self.http(), "/metrics").await?;
        let text = String::from_utf8_lossy(&bytes);
        let count = |line: &str| {
            let (op, n) =
                line.strip_prefix("walfabric_safekeeper_disk_sync_seconds_count{op=\"")?.split_once("\"} ")?;
            Some((op.to_owned(), n.trim().parse().ok()?))
        };
        let syncs = Syncs(text.lines().filter_map(count).collect());
        // Every start syncs its directory: no line means that the metric has another name now.
        ensure!(syncs.total() > 0, "/metrics tells no syncs");
        Ok(syncs)
    }

    /// Revision of the broker's store: it grows by one with every transaction that writes.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn revision(&self) -> Result<Revision> {
        Ok(self.broker.get_prefix(&self.broker.keys().safekeepers()).await?.1)
    }

    /// Waits until nothing is written to the broker any more; gives its revision then.
    ///
    /// # Errors
    /// When that does not come.
    pub async fn settled(&self) -> Result<Revision> {
        let mut seen = (self.revision().await?, Instant::now());
        let quiet = wait::until("the broker being quiet", 2 * PATIENCE, async || {
            let now = self.revision().await.ok()?;
            if now != seen.0 {
                seen = (now, Instant::now());
            }
            (seen.1.elapsed() > SETTLED_AFTER).then_some(now)
        });
        tokio::time::timeout(PATIENCE, quiet).await.context("the broker is written to all the time")
    }

    /// Watches everything on the broker from now on.
    pub async fn events(&self) -> Events {
        let count = Arc::new(AtomicU64::new(0));
        let mut watch = Watch::start(self.broker.clone(), format!("{DEFAULT_PREFIX}/"));
        // What is there already comes first, as one event.
        watch.next().await;
        let counter = Arc::clone(&count);
        let task = tokio::spawn(async move {
            loop {
                if let WatchEvent::Put(_) | WatchEvent::Delete(_) = watch.next().await {
                    counter.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Events { count, _task: AbortOnDropHandle::new(task) }
    }
}

fn spawn(binary: &Path, dir: &Path, broker: &str, ports: (u16, u16)) -> Result<Process> {
    let mut command = Command::new(binary);
    command.args(["safekeeper", "--id", &NODE.to_string(), "--broker", broker]);
    command.args(["--listen-pg", &format!("127.0.0.1:{}", ports.0)]);
    command.args(["--listen-http", &format!("127.0.0.1:{}", ports.1)]);
    command.arg("--data-dir").arg(dir.join("data"));
    Process::spawn(command, &dir.join("safekeeper.log"))
}

/// Largest resident memory that a process ever had, in MiB.
pub fn rss_peak_mib(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmHWM:"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}
