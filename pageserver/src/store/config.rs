//! Sizes, thresholds and bounds of the page store, and what all timelines share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use super::BlockCache;
use super::pages::PageCache;
use tokio::sync::Semaphore;

use super::layer::WriteOptions;
use super::manifest::Clock;

/// Settings of the store; every value has a reason.
#[derive(Clone, Debug)]
pub(crate) struct StoreConfig {
    /// Bytes of memory at which an open layer is frozen and written. Larger: fewer files and less to merge; smaller:
    /// less WAL to receive again after a crash. 64 MiB hold about 100 MiB of WAL.
    pub(crate) layer_bytes: usize,
    /// An open layer is written after so long, however small: a quiet timeline lets its safekeepers forget WAL.
    pub(crate) layer_age: Duration,
    /// Frozen layers of one timeline that may wait for being written; ingest waits beyond. Two: one is being written
    /// while the next one fills up and a third is taken in.
    pub(crate) frozen_max: usize,
    /// Bytes of open and frozen layers of all timelines together; beyond, layers are frozen before they are full, and
    /// a quarter beyond that, ingest waits.
    pub(crate) memory_bytes: usize,
    /// Replaced manifests and layers stay for so long, and a listing that takes longer than half of it does not count.
    pub(crate) grace: Duration,
    /// Bytes at which compaction ends a file and begins the next. The memory of a compaction is about twice this.
    pub(crate) file_bytes: u64,
    /// So many overlapping files of one level are merged into the next one. A read looks at no more than this many
    /// filters per level; each version is rewritten once per level.
    pub(crate) fanout: usize,
    /// A page whose chain of changes is this long gets an image when it is rewritten ...
    pub(crate) chain_versions: usize,
    /// ... or this large, in bytes: a chain that is larger than the page costs more than an image.
    pub(crate) chain_bytes: usize,
    /// Timelines that compact at the same time. One keeps one core busy, and leaves the others to WAL and reads.
    pub(crate) compactions: usize,
    /// How layers are written.
    pub(crate) write: WriteOptions,
}

impl Default for StoreConfig {
    fn default() -> StoreConfig {
        StoreConfig {
            layer_bytes: 64 << 20,
            layer_age: Duration::from_secs(300),
            frozen_max: 2,
            memory_bytes: 1 << 30,
            grace: Duration::from_secs(60),
            file_bytes: 64 << 20,
            fanout: 8,
            chain_versions: 32,
            chain_bytes: 8192,
            compactions: 1,
            write: WriteOptions::default(),
        }
    }
}

/// What all timelines of a process share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct StoreShared {
    /// Settings of the store, the same for all timelines.
    pub(crate) config: Arc<StoreConfig>,
    /// Decoded blocks of layer files.
    pub(crate) cache: Arc<BlockCache>,
    /// Pages that took long to build.
    pub(crate) pages: Arc<PageCache>,
    /// Memory of open and frozen layers.
    pub(crate) memory: Arc<MemoryUse>,
    /// For ages and grace periods.
    pub(crate) clock: Clock,
    /// Turns to compact.
    pub(crate) compactions: Arc<Semaphore>,
    /// The process ends: jobs that block end at their next step.
    pub(crate) stopping: Arc<AtomicBool>,
    /// Bytes of records that are held until they are whole; see [`RECORDS_BYTES`].
    pub(crate) records: Arc<Semaphore>,
}

/// Memory for long records that must be held until they are whole, of all timelines together: one of the longest that
/// PostgreSQL can write, or several shorter ones.
pub(crate) const RECORDS_BYTES: usize = 1 << 30;

impl StoreShared {
    /// With the system's clock. For every three bytes of blocks there may be one of pages.
    pub(crate) fn new(config: StoreConfig, cache: Arc<BlockCache>) -> StoreShared {
        let pages = PageCache::new(cache.capacity() / 3);
        let memory = Arc::new(MemoryUse::default());
        let compactions = Arc::new(Semaphore::new(config.compactions.max(1)));
        let records = Arc::new(Semaphore::new(RECORDS_BYTES));
        StoreShared {
            config: Arc::new(config),
            cache,
            pages,
            memory,
            clock: Clock::monotonic(),
            compactions,
            stopping: Arc::default(),
            records,
        }
    }
}

/// Bytes of open and frozen layers of all timelines.
#[derive(Debug, Default)]
pub(crate) struct MemoryUse(AtomicUsize);

impl MemoryUse {
    /// Bytes that all timelines together have now.
    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// One timeline's share changes.
    pub(super) fn change(&self, from: usize, to: usize) {
        if to >= from {
            self.0.fetch_add(to - from, Ordering::Relaxed);
        } else {
            self.0.fetch_sub(from - to, Ordering::Relaxed);
        }
    }
}
