//! All timelines of this safekeeper. Owner of the map; each timeline's state is its driver's.
//!
//! Layout below the data directory: `<tenant>/<timeline>/`, and `tmp/`, where timelines are built before they are moved
//! to their place, and where deleted ones are moved. `tmp/` is emptied at every start: a name in it never leads to a
//! timeline that is in its place, since a rename is one change. Creations and deletions of one timeline take turns,
//! those of different ones overlap; a timeline is in the map when, and only when, its creation is durable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use disk::Disk;
use node::parts;
use prometheus_client::registry::Registry;
use proto::api::CreateTimelineRequest;
use proto::consensus::ProposerGreeting;
use proto::id::{NodeId, TenantTimelineId};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::commands::DriverCommand;
use super::create::{self, CreateError, CreationPlan};
use super::driver::TimelineDriver;
use super::handle::TimelineHandle;
use super::metrics::StorageMetrics;
use super::positions::TimelinePositions;
use super::rings::WalRings;
use super::shared::{TimelineShared, TimelineView};
use super::tenants::Tenants;
use super::turns::CreationTurns;
use super::worker::{OpenFailure, OpenedTimeline, TimelineHome};
use super::{load, turns};
use crate::core::ControlState;
use crate::storage::shared_dir::SharedDir;
use crate::storage::{StorageError, TimelineStorage};

mod delete;

pub use delete::DeleteError;

/// Where timelines are built.
const STAGING_DIR: &str = "tmp";
/// WAL kept in memory per active timeline: what a caught-up reader may fall behind without touching files.
const RING_BYTES: usize = 8 << 20;
/// Messages queued per connection: 32 of the largest appends, so that a reader of a socket rarely waits for the disk.
const QUEUE_BYTES: u32 = 4 << 20;
/// Of all timelines together: eight that write at once have all that helps them.
const RINGS_BYTES: usize = 64 << 20;
/// Without WAL for this long a timeline gives back its ring: whoever follows it has read what is in there.
const RECENT_FOR: Duration = Duration::from_secs(1);
/// Without WAL for this long a timeline gives back its prepared segment.
const IDLE_AFTER: Duration = Duration::from_secs(60);
/// Creations at work at a time: the disk merges the syncs of this many, and each holds a thread and 256 KiB.
const CREATIONS_MAX: usize = 32;
/// Bytes that a creation leaves to the timelines that are there: their control files, pages, logs of the node.
const RESERVE: u64 = 64 << 20;
/// And segments of its own size: the first one and the next.
const RESERVE_SEGMENTS: u64 = 2;
/// How long a shutdown waits for the drivers.
const SHUTDOWN_MAX: Duration = Duration::from_secs(20);

/// Settings of the registry and of every timeline.
#[derive(Clone, Debug)]
pub struct TimelinesConfig {
    /// Data directory, locked by the caller.
    pub dir: PathBuf,
    /// The safekeeper that holds these timelines.
    pub node_id: NodeId,
    /// Whether a foreign walproposer's greeting may create a timeline.
    pub allow_implicit: bool,
    /// WAL kept in memory per active timeline, in bytes.
    pub ring_bytes: usize,
    /// The same of all timelines together.
    pub rings_bytes: usize,
    /// Without WAL for this long a timeline gives that memory back.
    pub recent_for: Duration,
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
            rings_bytes: RINGS_BYTES,
            recent_for: RECENT_FOR,
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
        /// The timeline that is damaged.
        ttid: TenantTimelineId,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The disk refused or failed.
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
        /// The timeline that is not served.
        ttid: TenantTimelineId,
        /// What is wrong.
        problem: String,
    },
}

/// The registry. Clones share it.
#[derive(Clone, Debug)]
pub struct Timelines {
    inner: Arc<TimelinesInner>,
}

#[derive(Debug)]
struct TimelinesInner {
    disk: Arc<dyn Disk>,
    rings: Arc<WalRings>,
    config: TimelinesConfig,
    metrics: StorageMetrics,
    last_turn: Arc<Mutex<Option<(TenantTimelineId, Instant)>>>,
    map: RwLock<BTreeMap<TenantTimelineId, TimelineHandle>>,
    /// The running drivers; held until they ended when the registry shuts down.
    drivers: tokio::sync::Mutex<Drivers>,
    /// Which timelines are being created.
    turns: CreationTurns,
    tenants: Tenants,
    /// Where timelines are built.
    staging: SharedDir,
    creations: Semaphore,
    /// Creations begun: names in `tmp/` never come twice.
    begun: AtomicU64,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Drivers {
    tasks: JoinSet<()>,
    closed: bool,
}

impl Timelines {
    /// Loads every timeline below `config.dir`, many at a time, and starts its driver. Blocks on the disk; needs a
    /// tokio runtime around it.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn open(disk: Arc<dyn Disk>, config: TimelinesConfig) -> Result<Timelines, RegistryError> {
        let io = |path: &PathBuf| {
            let path = path.clone();
            move |source| RegistryError::Io { path, source }
        };
        // A killed process leaves writes and names in the page cache: they are made durable before anything is removed.
        disk.sync_all(&config.dir).map_err(io(&config.dir))?;
        let staging = config.dir.join(STAGING_DIR);
        disk.remove_dir_all(&staging).map_err(io(&staging))?;
        disk.create_dir_all(&staging).map_err(io(&staging))?;
        disk.fsync_dir(&config.dir).map_err(io(&config.dir))?;
        let registry = Timelines {
            inner: Arc::new(TimelinesInner {
                disk,
                tenants: Tenants::new(config.dir.clone()),
                staging: SharedDir::new(config.dir.join(STAGING_DIR)),
                rings: WalRings::new(config.rings_bytes),
                config,
                metrics: StorageMetrics::default(),
                last_turn: Arc::default(),
                map: RwLock::default(),
                drivers: tokio::sync::Mutex::default(),
                turns: CreationTurns::default(),
                creations: Semaphore::new(CREATIONS_MAX),
                begun: AtomicU64::new(0),
                changes: watch::Sender::new(0),
            }),
        };
        let mut drivers = Drivers::default();
        let loaded = load::open_all(&registry.find()?, |ttid| registry.load(ttid))?;
        // What opening wrote becomes durable before any position is reported: once for all of them.
        let (disk, dir) = (&registry.inner.disk, &registry.inner.config.dir);
        disk.sync_all(dir).map_err(io(dir))?;
        for (ttid, (home, opened)) in loaded {
            registry.inner.tenants.found(ttid.tenant_id);
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
        let (ttid, timelines) = (plan.state.ttid, self.clone());
        to_its_end(ttid, async move {
            let turn = timelines.inner.turns.take(ttid).await;
            if let Some(handle) = timelines.get(ttid) {
                let held = Arc::clone(handle.shared());
                return blocking(ttid, move || create::compare(&plan, &held)).await.map(|()| Creation::Unchanged);
            }
            timelines.build(plan, &turn).await.map(|()| Creation::Created)
        })
        .await
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
        let (ttid, timelines) = (greeting.ttid, self.clone());
        to_its_end(ttid, async move {
            let turn = timelines.inner.turns.take(ttid).await;
            // Another connection may have been faster.
            if timelines.get(ttid).is_none() {
                timelines.build(plan, &turn).await?;
            }
            Ok(timelines.get(ttid))
        })
        .await
    }

    /// A timeline, when it exists.
    pub fn get(&self, ttid: TenantTimelineId) -> Option<TimelineHandle> {
        self.inner.map.read().unwrap_or_else(PoisonError::into_inner).get(&ttid).cloned()
    }

    /// All timelines, ordered by id.
    pub fn list(&self) -> Vec<TimelineHandle> {
        self.inner.map.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Counts creations and deletions: wakes who follows the list.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Bytes of recent WAL in memory, of all timelines.
    pub fn recent_bytes(&self) -> u64 {
        self.inner.rings.bytes() as u64
    }

    /// Adds what storage counts to a registry that is about to be shown.
    pub fn register_metrics(&self, registry: &mut Registry) {
        let held = self.list().iter().map(TimelineHandle::wal_bytes).sum();
        self.inner.metrics.register(registry, held, self.recent_bytes());
    }

    /// Stops every driver after what was received is durable and the commit position is persisted.
    pub async fn shutdown(&self) {
        let mut drivers = self.inner.drivers.lock().await;
        drivers.closed = true;
        for handle in self.list() {
            // A driver that is gone needs no telling.
            let _ = handle.shared().commands.send(DriverCommand::Shutdown);
        }
        let all = async { while drivers.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_MAX, all).await.is_err() {
            let left = drivers.tasks.len();
            warn!(left, limit = ?SHUTDOWN_MAX, "timelines still busy at shutdown; the next start recovers them");
        }
    }

    fn home(&self, ttid: TenantTimelineId) -> TimelineHome {
        let dir = self.inner.config.dir.join(ttid.tenant_id.to_string()).join(ttid.timeline_id.to_string());
        let inner = &self.inner;
        let last_turn = Arc::clone(&inner.last_turn);
        TimelineHome { disk: Arc::clone(&inner.disk), dir, node_id: inner.config.node_id, last_turn }
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

    fn load(&self, ttid: TenantTimelineId) -> Result<(TimelineHome, OpenedTimeline), RegistryError> {
        let home = self.home(ttid);
        let opened = home.open(TimelineStorage::open_at_start).map_err(|e| load_error(ttid, &e))?;
        if opened.storage.persisted().ttid != ttid {
            let problem = format!("its control file belongs to {}", opened.storage.persisted().ttid);
            return Err(RegistryError::Corrupt { ttid, problem });
        }
        Ok((home, opened))
    }

    /// Only in a turn of that timeline.
    async fn build(&self, plan: CreationPlan, turn: &turns::CreationTurn<'_>) -> Result<(), CreateError> {
        let ttid = plan.state.ttid;
        debug_assert_eq!(turn.ttid(), ttid, "another timeline's turn");
        let stopping = || CreateError::Invalid("this safekeeper is being stopped".to_owned());
        let _slot = self.inner.creations.acquire().await.map_err(|_| stopping())?;
        if self.inner.drivers.lock().await.closed {
            return Err(stopping());
        }
        let begun = self.inner.begun.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}_{}_{begun}", ttid.tenant_id, ttid.timeline_id);
        let staging = self.inner.config.dir.join(STAGING_DIR).join(name);
        let home = self.home(ttid);
        let opened = blocking(ttid, {
            let (home, inner) = (home.clone(), Arc::clone(&self.inner));
            move || {
                check_room(&*home.disk, &inner.config.dir, &plan.state)?;
                let made = inner.tenants.ensure(&*home.disk, ttid.tenant_id).and_then(|tenant| {
                    let target = (&*tenant, &*home.dir);
                    let staging = (&inner.staging, &*staging);
                    TimelineStorage::create(&home.disk, staging, target, &plan.state, plan.prehistory)
                });
                made.map_err(|e| io_error(ttid, e))?;
                home.open(TimelineStorage::open_fresh).map_err(|e| {
                    // Whole, but not served: out of the way of the next attempt.
                    if let Err(e) = home.disk.rename(&home.dir, &staging) {
                        warn!(%ttid, error = %e, "a timeline whose creation failed is not removed");
                    }
                    CreateError::Io { ttid, source: std::io::Error::other(e) }
                })
            }
        })
        .await?;
        let mut drivers = self.inner.drivers.lock().await;
        if drivers.closed {
            // It is there, whole; the next start serves it.
            return Err(stopping());
        }
        self.start(&mut drivers, ttid, home, opened);
        info!(%ttid, "timeline created");
        Ok(())
    }

    fn start(&self, drivers: &mut Drivers, ttid: TenantTimelineId, home: TimelineHome, opened: OpenedTimeline) {
        let core = opened.acceptor.positions();
        let (positions, watching) = watch::channel(TimelinePositions::new(&opened.acceptor, None));
        let (commands, receiver) = mpsc::unbounded_channel();
        let control: ControlState = opened.storage.persisted().clone();
        let view =
            TimelineView { control: Arc::new(control), core, segments: Arc::clone(opened.storage.wal().segments()) };
        let config = &self.inner.config;
        let limits = (self.inner.rings.timeline(config.ring_bytes), config.queue_bytes);
        let shared = Arc::new(TimelineShared::new(ttid, config.node_id, watching, commands, view, limits));
        let driver = TimelineDriver::new(
            Arc::clone(&shared),
            home,
            self.inner.metrics.clone(),
            (positions, receiver),
            opened,
            (config.recent_for, config.idle_after),
        );
        let of_driver = Arc::clone(&shared);
        drivers.tasks.spawn(async move {
            if let Err(panic) = parts::caught(driver.run()).await {
                of_driver.broke(&format!("its driver panicked: {panic}"));
            }
        });
        let mut map = self.inner.map.write().unwrap_or_else(PoisonError::into_inner);
        map.insert(ttid, TimelineHandle::new(shared));
        drop(map);
        self.inner.changes.send_modify(|n| *n += 1);
    }
}

/// Runs `work` to its end also when nobody waits for it any longer: its turn must not end before its blocking part.
async fn to_its_end<T: Send + 'static>(
    ttid: TenantTimelineId,
    work: impl Future<Output = Result<T, CreateError>> + Send + 'static,
) -> Result<T, CreateError> {
    let done = tokio::spawn(work).await;
    done.map_err(|panic| CreateError::Io { ttid, source: std::io::Error::other(panic) })?
}

async fn blocking<T: Send + 'static>(
    ttid: TenantTimelineId,
    work: impl FnOnce() -> Result<T, CreateError> + Send + 'static,
) -> Result<T, CreateError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|panic| CreateError::Io { ttid, source: std::io::Error::other(panic) })?
}

/// Whether the disk has room for a new timeline's WAL, and some is left then for the others.
fn check_room(disk: &dyn Disk, dir: &Path, state: &ControlState) -> Result<(), CreateError> {
    let ttid = state.ttid;
    let free = disk.free(dir).map_err(|source| CreateError::Io { ttid, source })?;
    let wanted = RESERVE + RESERVE_SEGMENTS * state.seg_size.bytes();
    if free < wanted { Err(CreateError::NoRoom { ttid, free, wanted }) } else { Ok(()) }
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
