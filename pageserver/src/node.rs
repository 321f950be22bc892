//! The pageserver process: its timelines, its place on the broker, and what all of its tasks share.
//!
//! Owner of the state: the registry of timelines is locked for look-ups only; attaches run one at a time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blobs::Storage;
use broker::{Broker, Session};
use node::{RepeatLogs, parts};
use proto::api::{AttachRequest, PageserverTimelineStatus, Readiness};
use proto::broker::records::{NodeRecord, SCHEMA};
use proto::id::{NodeId, TenantTimelineId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::import;
use crate::ingest::control::{Control, HISTORY_MAX};
use crate::ingest::disk::Disk;
use crate::ingest::recover::OpenError;
use crate::ingest::{Ingest, recover, stream_config};
use crate::manager;
use crate::manager::view::Directory;
use crate::metrics::{Levels, Metrics};
use crate::net::pace::Awake;
use crate::store::{Shared, upkeep};
use crate::timeline::{Opened, Timeline};

/// Where timelines live below the data directory.
const TENANTS: &str = "tenants";

/// A timeline that could not be opened for a reason that may pass is tried again this often.
const OPEN_AGAIN: Duration = Duration::from_secs(1);

/// Between two looks at whether timelines follow.
const LOOK: Duration = Duration::from_secs(1);

/// Why a timeline's files cannot be opened.
struct NotOpened {
    why: String,
    may_pass: bool,
}

impl NotOpened {
    fn for_good(why: impl ToString) -> NotOpened {
        NotOpened { why: why.to_string(), may_pass: false }
    }
}

impl From<OpenError> for NotOpened {
    fn from(e: OpenError) -> NotOpened {
        NotOpened { why: e.to_string(), may_pass: e.may_pass() }
    }
}

/// A timeline's files, with the number of its last choice and the import that is not done.
type OpenedFiles = (Opened, u64, Option<import::Request>);

/// What came of an attach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Attached {
    /// It is new.
    Created,
    /// It was there, with equal parameters.
    Unchanged,
}

/// Why an attach was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The timeline is here with other parameters.
    #[error("{0}")]
    Conflict(String),
    /// The cluster cannot be imported as it is.
    #[error("{0}")]
    Unfit(String),
    /// The disk refused.
    #[error("{0}")]
    Disk(String),
}

/// Everything that the tasks of this process share.
pub(crate) struct Node {
    /// Settings.
    pub(crate) config: Config,
    /// Metrics.
    pub(crate) metrics: Arc<Metrics>,
    /// The broker's client.
    pub(crate) broker: Broker,
    /// Our lease and what we publish under it.
    pub(crate) session: Session,
    /// Cancelled when the process shall stop.
    pub(crate) shutdown: CancellationToken,
    /// Every task below this node.
    pub(crate) tasks: TaskTracker,
    /// What the broker shows.
    pub(crate) directory: Directory,
    /// Choices by safekeeper, over all timelines of this node.
    pub(crate) pushes: Mutex<BTreeMap<NodeId, u32>>,
    /// Address that safekeepers dial.
    pub(crate) advertise_pg: String,
    /// Address that others ask over HTTP.
    pub(crate) advertise_http: String,
    /// Refused commands and pushes, and sessions that broke the protocol, in the log.
    pub(crate) refusals: RepeatLogs,
    /// WAL streams that ended as they should not, by timeline and safekeeper.
    pub(crate) stream_ends: RepeatLogs,
    /// Whether quick clients are waited for awake.
    pub(crate) awake: Arc<Awake>,
    disk: Arc<dyn Disk>,
    storage: Storage,
    shared: Shared,
    timelines: Mutex<BTreeMap<TenantTimelineId, Arc<Timeline>>>,
    attaching: tokio::sync::Mutex<()>,
    started: Instant,
}

impl Node {
    /// What its timelines share.
    #[cfg(test)]
    pub(crate) const fn shared(&self) -> &Shared {
        &self.shared
    }

    /// A node without timelines. `pages` are where they are stored and how; `advertise` are the addresses of its
    /// libpq and HTTP ports.
    pub(crate) fn new(
        config: Config,
        broker: Broker,
        disk: Arc<dyn Disk>,
        pages: (Storage, Shared),
        advertise: (String, String),
        shutdown: CancellationToken,
    ) -> Arc<Node> {
        // The session outlives the shutdown token: it takes the keys back at the very end.
        let session = Session::start(broker.clone(), LEASE_TTL_S, CancellationToken::new());
        Arc::new(Node {
            awake: Awake::new(config.page_awake),
            config,
            metrics: Arc::new(Metrics::new()),
            broker,
            session,
            shutdown,
            tasks: TaskTracker::new(),
            directory: Directory::default(),
            pushes: Mutex::default(),
            refusals: RepeatLogs::new("refused"),
            stream_ends: RepeatLogs::new("WAL stream ended"),
            advertise_pg: advertise.0,
            advertise_http: advertise.1,
            disk,
            storage: pages.0,
            shared: pages.1,
            timelines: Mutex::default(),
            attaching: tokio::sync::Mutex::default(),
            started: Instant::now(),
        })
    }

    /// Jobs that block end at their next step: a record, a piece, a version.
    pub(crate) fn stop_jobs(&self) {
        self.shared.stopping.store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// Publishes the node.
    pub(crate) fn publish(&self) {
        let record = NodeRecord {
            schema: SCHEMA,
            id: self.config.id,
            pg: self.advertise_pg.clone(),
            http: self.advertise_http.clone(),
            availability_zone: self.config.choice.zone.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        match serde_json::to_vec(&record) {
            Ok(value) => self.session.publish(self.broker.keys().pageserver(self.config.id), value),
            Err(e) => tracing::error!("node record cannot be written as JSON: {e}"),
        }
    }

    /// Runs a part of a timeline; it ends with the node, and with the timeline. Its panic stops that timeline, with the
    /// reason; the others go on.
    pub(crate) fn run_part(
        &self,
        timeline: &Arc<Timeline>,
        part: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let tracker = timeline.tasks.clone();
        let timeline = timeline.clone();
        self.tasks.spawn(tracker.track_future(async move {
            let planted = async {
                #[cfg(test)]
                crate::planted::look(timeline.ttid, part);
                work.await;
            };
            if let Err(panic) = parts::caught(planted).await {
                timeline.part_panicked(part, &panic);
            }
        }));
    }

    /// Attaches and deletions take turns.
    pub(crate) async fn attaching(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.attaching.lock().await
    }

    /// Where pages are stored.
    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// A timeline was deleted.
    pub(crate) fn forget(&self, ttid: TenantTimelineId) {
        self.registry().remove(&ttid);
    }

    /// Time since the node started: the clock of the chooser.
    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// A timeline by its id.
    pub(crate) fn timeline(&self, ttid: TenantTimelineId) -> Option<Arc<Timeline>> {
        self.registry().get(&ttid).cloned()
    }

    /// All timelines, ordered by id.
    pub(crate) fn timelines(&self) -> Vec<Arc<Timeline>> {
        self.registry().values().cloned().collect()
    }

    /// The state of all timelines.
    pub(crate) fn statuses(&self) -> Vec<PageserverTimelineStatus> {
        self.timelines().iter().map(|t| t.status(self.config.id)).collect()
    }

    /// Opens what is in the data directory. A timeline that cannot be opened is listed as stopped; the others serve.
    ///
    /// # Errors
    /// When the directory itself cannot be read.
    pub(crate) async fn open_all(self: &Arc<Node>) -> std::io::Result<()> {
        let node = self.clone();
        let list = tokio::task::spawn_blocking(move || node.list_dirs()).await.map_err(std::io::Error::other)??;
        for (ttid, dir) in list {
            self.open(ttid, dir).await;
        }
        Ok(())
    }

    /// Attaches a timeline, durably. Repeating it with equal values changes nothing.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub(crate) async fn attach(
        self: &Arc<Node>,
        ttid: TenantTimelineId,
        request: AttachRequest,
    ) -> Result<Attached, AttachError> {
        check_attach(&request)?;
        let _one_at_a_time = self.attaching.lock().await;
        if let Some(timeline) = self.timeline(ttid) {
            return match &timeline.attach {
                Some(attach) if *attach == request => Ok(Attached::Unchanged),
                Some(attach) => Err(AttachError::Conflict(format!(
                    "timeline {ttid} is attached with other parameters: {}",
                    differences(attach, &request)
                ))),
                None => Err(AttachError::Conflict(format!(
                    "timeline {ttid} is here but cannot be opened: {}",
                    timeline.trouble().stopped.unwrap_or_default()
                ))),
            };
        }
        let control = Control { ttid, pageserver: self.config.id, choice_seq: 0, attach: request };
        let (dir, disk) = (self.dir_of(ttid), self.disk.clone());
        let create_in = dir.clone();
        tokio::task::spawn_blocking(move || recover::create(&create_in, &control, &disk))
            .await
            .map_err(|e| AttachError::Disk(e.to_string()))?
            .map_err(|e| AttachError::Disk(e.to_string()))?;
        self.open(ttid, dir).await;
        tracing::info!(timeline = %ttid, "attached");
        Ok(Attached::Created)
    }

    /// Attaches a timeline and copies the cluster that writes it, unless that was done or is under way.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub(crate) async fn import(
        self: &Arc<Node>,
        ttid: TenantTimelineId,
        request: AttachRequest,
        from: String,
    ) -> Result<Attached, AttachError> {
        // Before anything is made. A cluster that does not answer now is asked again by the import, which waits for it.
        let is_begun = |t: &Timeline| {
            t.import.borrow().status().is_some() || t.store.as_ref().is_some_and(|s| s.readable_from().is_some())
        };
        if !self.timeline(ttid).is_some_and(|t| is_begun(&t))
            && let Ok(Some(why)) = import::managers::check(&from, request.pg_version_num).await
        {
            return Err(AttachError::Unfit(why));
        }
        let attached = self.attach(ttid, request).await?;
        let _one_at_a_time = self.attaching.lock().await;
        let timeline = self.timeline(ttid).ok_or_else(|| AttachError::Disk("it is gone".to_owned()))?;
        if timeline.store.is_none() {
            return Err(AttachError::Conflict(timeline.trouble().stopped.unwrap_or_default()));
        }
        if is_begun(&timeline) {
            return Ok(attached);
        }
        let (dir, request) = (self.dir_of(ttid), import::Request { from });
        let kept = request.clone();
        tokio::task::spawn_blocking(move || import::write(&dir, &kept))
            .await
            .map_err(|e| AttachError::Disk(e.to_string()))?
            .map_err(|e| AttachError::Disk(format!("the request cannot be kept: {e}")))?;
        timeline.set_copying(None);
        self.run_part(&timeline, "import", import::run(self.clone(), timeline.clone(), request));
        tracing::info!(timeline = %ttid, "import begins");
        Ok(Attached::Created)
    }

    /// Why the node does not do its job, or does it worse than it should.
    pub(crate) fn readiness(&self) -> Readiness {
        let mut reasons = Vec::new();
        for t in self.timelines() {
            reasons.extend(t.reasons().iter().map(|why| format!("timeline {} {why}", t.ttid)));
        }
        let ready = reasons.is_empty();
        reasons.extend(self.session.refusal());
        if !self.session.is_connected() {
            reasons.push(format!("broker {} does not answer; running streams go on", self.broker.url()));
        }
        Readiness { ready, reasons }
    }

    /// Looks at every timeline each second, so that what is too old shows.
    pub(crate) async fn watch(self: Arc<Node>) {
        loop {
            for timeline in self.timelines() {
                let told = self.directory.commit(timeline.ttid).filter(|_| self.session.is_connected());
                timeline.observe(told);
            }
            if self.shutdown.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
                return;
            }
        }
    }

    /// What the gauges show now.
    pub(crate) fn levels(&self) -> Levels {
        let mut levels = Levels::default();
        for t in self.timelines() {
            let position = t.position();
            levels.timelines += 1;
            levels.stopped += i64::from(t.trouble() != crate::timeline::Trouble::default());
            levels.streams += i64::from(t.running().is_some());
            let lag = t.lag();
            levels.lag_unknown += i64::from(lag.is_none());
            levels.lag_bytes_max = levels.lag_bytes_max.max(lag.unwrap_or(0));
            let unsynced = position.last_record_lsn.bytes_since(position.disk_consistent_lsn);
            levels.unsynced_bytes_max = levels.unsynced_bytes_max.max(unsynced);
        }
        levels
    }

    /// The counters of choices by safekeeper.
    pub(crate) fn pushes(&self) -> MutexGuard<'_, BTreeMap<NodeId, u32>> {
        self.pushes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn registry(&self) -> MutexGuard<'_, BTreeMap<TenantTimelineId, Arc<Timeline>>> {
        self.timelines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The timeline's directory on this machine.
    pub(crate) fn dir_of(&self, ttid: TenantTimelineId) -> PathBuf {
        self.config.data_dir.join(TENANTS).join(ttid.tenant_id.to_string()).join(ttid.timeline_id.to_string())
    }

    fn list_dirs(&self) -> std::io::Result<Vec<(TenantTimelineId, PathBuf)>> {
        let mut found = Vec::new();
        let tenants = match std::fs::read_dir(self.config.data_dir.join(TENANTS)) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(found),
            other => other?,
        };
        for tenant in tenants {
            let tenant = tenant?;
            let Some(tenant_id) = tenant.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
            for timeline in std::fs::read_dir(tenant.path())? {
                let timeline = timeline?;
                let name = timeline.file_name().into_string().unwrap_or_default();
                if name.ends_with(recover::UNFINISHED) {
                    std::fs::remove_dir_all(timeline.path())?;
                } else if let Ok(timeline_id) = name.parse() {
                    found.push((TenantTimelineId::new(tenant_id, timeline_id), timeline.path()));
                }
            }
        }
        Ok(found)
    }

    async fn open(self: &Arc<Node>, ttid: TenantTimelineId, dir: PathBuf) {
        let opened = self.open_files(ttid, dir.clone()).await;
        if let Err(NotOpened { why, may_pass: true }) = &opened {
            tracing::warn!(timeline = %ttid, "cannot be opened, and is tried again: {why}");
            // Listed as stopped meanwhile; nobody chooses for it.
            let why = format!("it cannot be opened, and is tried again: {why}");
            let gone = self.shutdown.child_token();
            let timeline = Timeline::new(ttid, Err(why), 0, gone.clone()).0;
            self.registry().insert(ttid, timeline.clone());
            self.run_part(&timeline, "opening", self.clone().open_again(ttid, dir, gone));
            return;
        }
        self.take_up(ttid, opened);
    }

    async fn open_again(self: Arc<Node>, ttid: TenantTimelineId, dir: PathBuf, gone: CancellationToken) {
        while gone.run_until_cancelled(tokio::time::sleep(OPEN_AGAIN)).await.is_some() {
            let opened = self.open_files(ttid, dir.clone()).await;
            if !matches!(opened, Err(NotOpened { may_pass: true, .. })) {
                return self.take_up(ttid, opened);
            }
        }
    }

    /// Lists a timeline and starts its tasks.
    fn take_up(self: &Arc<Node>, ttid: TenantTimelineId, opened: Result<OpenedFiles, NotOpened>) {
        let (opened, choice_seq, request) = match opened {
            Ok((opened, choice_seq, request)) => (Ok(opened), choice_seq, request),
            Err(NotOpened { why, .. }) => {
                tracing::error!(timeline = %ttid, "cannot be opened: {why}");
                (Err(why), 0, None)
            }
        };
        let (timeline, queue) = Timeline::new(ttid, opened, choice_seq, self.shutdown.child_token());
        self.registry().insert(ttid, timeline.clone());
        self.run_part(&timeline, "chooser", manager::driver::run(self.clone(), timeline.clone(), queue));
        if let Some(store) = timeline.store.clone() {
            if let Some(why) = timeline.trouble().full {
                tracing::error!(timeline = %ttid, "can be read, and takes nothing in before storage does: {why}");
            }
            self.run_part(&timeline, "upkeep", upkeep::run(store, timeline.gone.clone()));
        }
        if let Some(request) = request {
            self.run_part(&timeline, "import", import::run(self.clone(), timeline.clone(), request));
        }
    }

    async fn open_files(&self, ttid: TenantTimelineId, dir: PathBuf) -> Result<OpenedFiles, NotOpened> {
        let (disk, storage, shared) = (self.disk.clone(), self.storage.clone(), self.shared.clone());
        let (metrics, me, is_remote) = (self.metrics.clone(), self.config.id, self.config.is_remote());
        let open = move || {
            let request = import::read(&dir);
            let request = request.map_err(|e| NotOpened::for_good(format!("the import's request: {e}")))?;
            let opened = recover::open(&dir, &disk, &storage, &shared)?;
            let (control, store) = (opened.control, opened.store);
            if control.ttid != ttid || control.pageserver != me {
                let (other, node) = (control.ttid, control.pageserver);
                let why = format!("its control file is that of timeline {other} on pageserver {node}");
                return Err(NotOpened::for_good(why));
            }
            // Pages that are still to be copied come first: until then no WAL is wanted.
            let is_copied = store.readable_from().is_some() || request.is_none();
            let ingest = if is_copied {
                let engine = recover::engine(&store, &control.attach)?;
                Some(Ingest::new(engine, store.clone(), is_remote, metrics))
            } else {
                None
            };
            let choice_seq = control.choice_seq.max(store.choice_seq());
            Ok((Opened { attach: control.attach, store, ingest }, choice_seq, request))
        };
        tokio::task::spawn_blocking(open).await.map_err(NotOpened::for_good)?
    }
}

/// Time to live of this node's lease on the broker, in seconds.
const LEASE_TTL_S: i64 = 10;

fn check_attach(request: &AttachRequest) -> Result<(), AttachError> {
    let invalid = |text: String| Err(AttachError::Invalid(text));
    let Some(cfg) = stream_config(request) else {
        return invalid(format!("PostgreSQL {} is not supported (14 to 18 are)", request.pg_version_num));
    };
    let history = &request.pg_history;
    if history.is_empty() || history.len() > HISTORY_MAX {
        return invalid(format!("pg_history has {} entries, expected 1 to {HISTORY_MAX}", history.len()));
    }
    if !history.is_sorted_by(|a, b| a.tli < b.tli && a.start_lsn <= b.start_lsn) {
        return invalid("pg_history must ascend in tli and start_lsn".into());
    }
    if request.start_lsn.get() == 0 {
        return invalid("start_lsn 0/0 is no position".into());
    }
    match pgformat::wal::synthetic_prehistory(&cfg, request.start_lsn) {
        Ok(_) => Ok(()),
        Err(e) => invalid(format!("start_lsn: {e}")),
    }
}

fn differences(have: &AttachRequest, asked: &AttachRequest) -> String {
    let mut list = Vec::new();
    let mut note = |name: &str, have: String, asked: String| {
        if have != asked {
            list.push(format!("{name} is {have}, {asked} was asked"));
        }
    };
    note("start_lsn", have.start_lsn.to_string(), asked.start_lsn.to_string());
    note("pg_version_num", have.pg_version_num.to_string(), asked.pg_version_num.to_string());
    note("system_id", have.system_id.to_string(), asked.system_id.to_string());
    note("wal_seg_size", have.wal_seg_size.bytes().to_string(), asked.wal_seg_size.bytes().to_string());
    note("pg_history", format!("{:?}", have.pg_history), format!("{:?}", asked.pg_history));
    list.join("; ")
}
