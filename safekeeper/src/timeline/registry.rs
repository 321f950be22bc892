//! All timelines of this safekeeper. Owner of the map; each timeline's state is its driver's.
//!
//! Layout below the data directory: `<tenant>/<timeline>/`, and `tmp/`, where timelines are built before they are moved
//! to their place. `tmp/` is emptied at every start. Creations are serialised; nothing else takes their lock.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus_client::registry::Registry;
use proto::api::CreateTimelineRequest;
use proto::consensus::ProposerGreeting;
use proto::id::{NodeId, TenantTimelineId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::create::{self, CreateError, Plan};
use super::driver::Driver;
use super::handle::{Positions, TimelineHandle};
use super::metrics::StorageMetrics;
use super::shared::{Command, Shared, View};
use super::worker::{Home, OpenFailure, Opened};
use crate::core::ControlState;
use crate::storage::disk::Disk;
use crate::storage::{StorageError, TimelineStorage};

/// Where timelines are built.
const STAGING_DIR: &str = "tmp";
/// WAL kept in memory per active timeline: what a caught-up reader may fall behind without touching files.
const RING_BYTES: usize = 8 << 20;
/// Messages queued per connection: 32 of the largest appends, so that a reader of a socket rarely waits for the disk.
const QUEUE_BYTES: u32 = 4 << 20;
/// Without WAL for this long a timeline gives back its ring and its prepared segment.
const IDLE_AFTER: Duration = Duration::from_secs(60);
/// How long a shutdown waits for the drivers.
const SHUTDOWN_MAX: Duration = Duration::from_secs(20);

/// Settings of the registry and of every timeline.
#[derive(Clone, Debug)]
pub struct TimelinesConfig {
    /// Data directory, locked by the caller.
    pub dir: PathBuf,
    /// This safekeeper.
    pub node_id: NodeId,
    /// Whether a foreign walproposer's greeting may create a timeline.
    pub allow_implicit: bool,
    /// WAL kept in memory per active timeline, in bytes.
    pub ring_bytes: usize,
    /// Messages queued per connection, in bytes; at least one largest append.
    pub queue_bytes: u32,
    /// Without WAL for this long a timeline is put to rest.
    pub idle_after: Duration,
}

impl TimelinesConfig {
    /// The settings that servers use.
    pub fn new(dir: PathBuf, node_id: NodeId, allow_implicit: bool) -> TimelinesConfig {
        TimelinesConfig {
            dir,
            node_id,
            allow_implicit,
            ring_bytes: RING_BYTES,
            queue_bytes: QUEUE_BYTES,
            idle_after: IDLE_AFTER,
        }
    }
}

/// Outcome of a creation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Creation {
    /// It is new and durable.
    Created,
    /// It was there with equal parameters.
    Unchanged,
}

/// Why the timelines cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Data is damaged: exit code 5.
    #[error("timeline {ttid} cannot be served: {problem}")]
    Corrupt {
        /// Which.
        ttid: TenantTimelineId,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The disk.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What the disk said.
        source: std::io::Error,
    },
    /// A timeline could not be opened for a reason that may pass.
    #[error("timeline {ttid}: {problem}")]
    Unavailable {
        /// Which.
        ttid: TenantTimelineId,
        /// What is wrong.
        problem: String,
    },
}

/// The registry. Clones share it.
#[derive(Clone, Debug)]
pub struct Timelines {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    disk: Arc<dyn Disk>,
    config: TimelinesConfig,
    metrics: StorageMetrics,
    last_turn: Arc<Mutex<Option<(TenantTimelineId, Instant)>>>,
    map: RwLock<BTreeMap<TenantTimelineId, TimelineHandle>>,
    /// Held while a timeline is created or the registry shuts down: the running drivers.
    drivers: tokio::sync::Mutex<Drivers>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Drivers {
    tasks: JoinSet<()>,
    closed: bool,
    created: u64,
}

impl Timelines {
    /// Loads every timeline below `config.dir` and starts its driver. Blocks on the disk; needs a tokio runtime around
    /// it.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn open(disk: Arc<dyn Disk>, config: TimelinesConfig) -> Result<Timelines, RegistryError> {
        let io = |path: &PathBuf| {
            let path = path.clone();
            move |source| RegistryError::Io { path, source }
        };
        // A killed process leaves writes in the page cache: they are made durable before any position is reported.
        disk.sync_all(&config.dir).map_err(io(&config.dir))?;
        let staging = config.dir.join(STAGING_DIR);
        disk.remove_dir_all(&staging).map_err(io(&staging))?;
        disk.create_dir_all(&staging).map_err(io(&staging))?;
        disk.fsync_dir(&config.dir).map_err(io(&config.dir))?;
        let registry = Timelines {
            inner: Arc::new(Inner {
                disk,
                config,
                metrics: StorageMetrics::default(),
                last_turn: Arc::default(),
                map: RwLock::default(),
                drivers: tokio::sync::Mutex::default(),
                changes: watch::Sender::new(0),
            }),
        };
        let mut drivers = Drivers::default();
        for ttid in registry.find()? {
            let home = registry.home(ttid);
            let opened = home.open().map_err(|e| load_error(ttid, &e))?;
            if opened.storage.persisted().ttid != ttid {
                let problem = format!("its control file belongs to {}", opened.storage.persisted().ttid);
                return Err(RegistryError::Corrupt { ttid, problem });
            }
            registry.start(&mut drivers, ttid, home, opened);
        }
        *registry.inner.drivers.try_lock().expect("nobody else has the registry yet") = drivers;
        Ok(registry)
    }

    /// Creates a timeline: either wholly and durably, or not at all.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub async fn create(&self, request: CreateTimelineRequest, prehistory: Bytes) -> Result<Creation, CreateError> {
        let plan = create::plan(self.inner.config.node_id, request, prehistory)?;
        let mut drivers = self.inner.drivers.lock().await;
        if let Some(handle) = self.get(plan.state.ttid) {
            let held = Arc::clone(handle.shared());
            return blocking(plan.state.ttid, move || create::compare(&plan, &held))
                .await
                .map(|()| Creation::Unchanged);
        }
        self.build(&mut drivers, plan).await?;
        Ok(Creation::Created)
    }

    /// The timeline that a foreign walproposer's greeting names, created when allowed and not there; `None` when it is
    /// not there and must not be created.
    ///
    /// # Errors
    /// See [`CreateError`].
    pub async fn for_greeting(&self, greeting: &ProposerGreeting) -> Result<Option<TimelineHandle>, CreateError> {
        if let Some(handle) = self.get(greeting.ttid) {
            return Ok(Some(handle));
        }
        if !self.inner.config.allow_implicit {
            return Ok(None);
        }
        let plan = create::plan_implicit(greeting)?;
        let mut drivers = self.inner.drivers.lock().await;
        // Another connection may have been faster.
        if self.get(greeting.ttid).is_none() {
            self.build(&mut drivers, plan).await?;
        }
        Ok(self.get(greeting.ttid))
    }

    /// A timeline, when it exists.
    pub fn get(&self, ttid: TenantTimelineId) -> Option<TimelineHandle> {
        self.inner.map.read().unwrap_or_else(PoisonError::into_inner).get(&ttid).cloned()
    }

    /// All timelines, ordered by id.
    pub fn list(&self) -> Vec<TimelineHandle> {
        self.inner.map.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Counts creations: wakes who follows the list.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Adds what storage counts to a registry that is about to be shown.
    pub fn register_metrics(&self, registry: &mut Registry) {
        let held = self.list().iter().map(TimelineHandle::wal_bytes).sum();
        self.inner.metrics.register(registry, held);
    }

    /// Stops every driver after what was received is durable and the commit position is persisted.
    pub async fn shutdown(&self) {
        let mut drivers = self.inner.drivers.lock().await;
        drivers.closed = true;
        for handle in self.list() {
            // A driver that is gone needs no telling.
            let _ = handle.shared().commands.send(Command::Shutdown);
        }
        let all = async { while drivers.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_MAX, all).await.is_err() {
            let left = drivers.tasks.len();
            warn!(left, limit = ?SHUTDOWN_MAX, "timelines still busy at shutdown; the next start recovers them");
        }
    }

    fn home(&self, ttid: TenantTimelineId) -> Home {
        let dir = self.inner.config.dir.join(ttid.tenant_id.to_string()).join(ttid.timeline_id.to_string());
        let inner = &self.inner;
        let last_turn = Arc::clone(&inner.last_turn);
        Home { disk: Arc::clone(&inner.disk), dir, node_id: inner.config.node_id, last_turn }
    }

    /// Directories that are named like tenants and timelines.
    fn find(&self) -> Result<Vec<TenantTimelineId>, RegistryError> {
        let (disk, top) = (&self.inner.disk, &self.inner.config.dir);
        let list = |path: &PathBuf| disk.list(path).map_err(|source| RegistryError::Io { path: path.clone(), source });
        let mut found = Vec::new();
        for tenant in list(top)?.into_iter().filter(|e| e.is_dir) {
            let Ok(tenant_id) = tenant.name.parse() else { continue };
            for timeline in list(&top.join(&tenant.name))?.into_iter().filter(|e| e.is_dir) {
                if let Ok(timeline_id) = timeline.name.parse() {
                    found.push(TenantTimelineId::new(tenant_id, timeline_id));
                }
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    async fn build(&self, drivers: &mut Drivers, plan: Plan) -> Result<(), CreateError> {
        let ttid = plan.state.ttid;
        if drivers.closed {
            return Err(CreateError::Invalid("this safekeeper is being stopped".to_owned()));
        }
        drivers.created += 1;
        let name = format!("{}_{}_{}", ttid.tenant_id, ttid.timeline_id, drivers.created);
        let staging = self.inner.config.dir.join(STAGING_DIR).join(name);
        let home = self.home(ttid);
        let opened = blocking(ttid, {
            let home = home.clone();
            move || {
                TimelineStorage::create(&home.disk, &staging, &home.dir, &plan.state, plan.prehistory)
                    .map_err(|e| io_error(ttid, e))?;
                home.open().map_err(|e| CreateError::Io { ttid, source: std::io::Error::other(e) })
            }
        })
        .await?;
        self.start(drivers, ttid, home, opened);
        info!(%ttid, "timeline created");
        Ok(())
    }

    fn start(&self, drivers: &mut Drivers, ttid: TenantTimelineId, home: Home, opened: Opened) {
        let core = opened.acceptor.positions();
        let (positions, watching) = watch::channel(Positions::new(&core, None));
        let (commands, receiver) = mpsc::unbounded_channel();
        let control: ControlState = opened.storage.persisted().clone();
        let view = View { control: Arc::new(control), core, segments: Arc::clone(opened.storage.wal().segments()) };
        let config = &self.inner.config;
        let limits = (config.ring_bytes, config.queue_bytes);
        let shared = Arc::new(Shared::new(ttid, config.node_id, watching, commands, view, limits));
        let driver = Driver::new(
            Arc::clone(&shared),
            home,
            self.inner.metrics.clone(),
            (positions, receiver),
            opened,
            config.idle_after,
        );
        drivers.tasks.spawn(driver.run());
        let mut map = self.inner.map.write().unwrap_or_else(PoisonError::into_inner);
        map.insert(ttid, TimelineHandle::new(shared));
        drop(map);
        self.inner.changes.send_modify(|n| *n += 1);
    }
}

async fn blocking<T: Send + 'static>(
    ttid: TenantTimelineId,
    work: impl FnOnce() -> Result<T, CreateError> + Send + 'static,
) -> Result<T, CreateError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|panic| CreateError::Io { ttid, source: std::io::Error::other(panic) })?
}

fn io_error(ttid: TenantTimelineId, e: StorageError) -> CreateError {
    match e {
        StorageError::Io { source, .. } | StorageError::NoSpace { source, .. } => CreateError::Io { ttid, source },
        StorageError::Misuse(problem) => CreateError::Invalid(problem),
        other => CreateError::Io { ttid, source: std::io::Error::other(other) },
    }
}

fn load_error(ttid: TenantTimelineId, e: &OpenFailure) -> RegistryError {
    let problem = e.to_string();
    if e.is_corruption() {
        RegistryError::Corrupt { ttid, problem }
    } else {
        RegistryError::Unavailable { ttid, problem }
    }
}
