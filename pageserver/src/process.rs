//! What all tasks of a pageserver share: settings, the broker, storage, counters, and the registry of timelines.
//!
//! Owner of the state: the registry is locked for look-ups only; attaches and deletions take turns. Nothing in here
//! starts a task by itself: `attach` stands above, and so does the server.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use blobs::Storage;
use broker::{Broker, Session};
use disk::Disk;
use node::{RepeatLogs, parts};
use proto::api::{PageserverTimelineStatus, Readiness};
use proto::broker::records::{NodeRecord, SCHEMA};
use proto::id::{NodeId, TenantTimelineId};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::PageserverSettings;
use crate::manager::directory::BrokerDirectory;
use crate::metrics::{Levels, Metrics};
use crate::net::pace::Awake;
use crate::store::StoreShared;
use crate::timeline::{Timeline, Trouble};

/// Version of this program, from its manifest.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Where timelines live below the data directory: a folder for each tenant, in it one for each timeline.
pub(crate) const TENANTS: &str = "tenants";

/// Time to live of this node's lease on the broker, in seconds.
const LEASE_TTL_S: i64 = 10;

/// Everything that the tasks of this process share.
pub(crate) struct Pageserver {
    /// Settings of this process, checked.
    pub(crate) config: PageserverSettings,
    /// This process's metrics.
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
    pub(crate) directory: BrokerDirectory,
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
    /// The files of this machine.
    pub(crate) disk: Arc<dyn Disk>,
    /// Whether quick clients are waited for awake.
    pub(crate) awake: Arc<Awake>,
    storage: Storage,
    shared: StoreShared,
    timelines: Mutex<BTreeMap<TenantTimelineId, Arc<Timeline>>>,
    attaching: tokio::sync::Mutex<()>,
    started: Instant,
}

impl Pageserver {
    /// What its timelines' stores share: sizes, caches, memory.
    pub(crate) const fn shared(&self) -> &StoreShared {
        &self.shared
    }

    /// A node without timelines. `disk` has its data directory; `pages` are where they are stored and how; `advertise`
    /// are the addresses of its libpq and HTTP ports.
    pub(crate) fn new(
        config: PageserverSettings,
        broker: Broker,
        disk: Arc<dyn Disk>,
        pages: (Storage, StoreShared),
        advertise: (String, String),
        shutdown: CancellationToken,
    ) -> Arc<Pageserver> {
        // The session outlives the shutdown token: it takes the keys back at the very end.
        let session = Session::start(broker.clone(), LEASE_TTL_S, CancellationToken::new());
        Arc::new(Pageserver {
            awake: Awake::new(config.page_awake),
            config,
            metrics: Arc::new(Metrics::new()),
            broker,
            disk,
            session,
            shutdown,
            tasks: TaskTracker::new(),
            directory: BrokerDirectory::default(),
            pushes: Mutex::default(),
            refusals: RepeatLogs::new("refused"),
            stream_ends: RepeatLogs::new("WAL stream ended"),
            advertise_pg: advertise.0,
            advertise_http: advertise.1,
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
            id: self.config.node.id,
            pg: self.advertise_pg.clone(),
            http: self.advertise_http.clone(),
            availability_zone: self.config.choice.zone.clone(),
            version: VERSION.to_owned(),
        };
        match serde_json::to_vec(&record) {
            Ok(value) => self.session.publish(self.broker.keys().pageserver(self.config.node.id), value),
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

    /// A timeline was attached or opened: it takes the place of one of this id that could not be.
    pub(crate) fn list(&self, timeline: &Arc<Timeline>) {
        self.registry().insert(timeline.ttid, timeline.clone());
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
        self.timelines().iter().map(|t| t.status(self.config.node.id)).collect()
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

    /// What the gauges show now.
    pub(crate) fn levels(&self) -> Levels {
        let mut levels = Levels::default();
        for t in self.timelines() {
            let position = t.position();
            levels.timelines += 1;
            levels.stopped += i64::from(t.trouble() != Trouble::default());
            levels.streams += i64::from(t.stream.running().is_some());
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
        self.config.node.data_dir.join(TENANTS).join(ttid.tenant_id.to_string()).join(ttid.timeline_id.to_string())
    }
}
