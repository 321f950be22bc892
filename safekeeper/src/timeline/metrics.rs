//! Metrics of storage, over all timelines of the process.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Upper bounds in seconds: from a fast disk's sync to one that is in trouble.
const SECONDS: [f64; 10] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1.0, 5.0];

/// Counters and histograms; clones share them.
#[derive(Clone, Debug)]
pub(super) struct StorageMetrics {
    written_bytes: Counter,
    groups: Counter,
    group_seconds: Histogram,
    pub(super) failures: Counter,
    pub(super) full: Counter,
}

impl Default for StorageMetrics {
    fn default() -> StorageMetrics {
        StorageMetrics {
            written_bytes: Counter::default(),
            groups: Counter::default(),
            group_seconds: Histogram::new(SECONDS),
            failures: Counter::default(),
            full: Counter::default(),
        }
    }
}

impl StorageMetrics {
    pub(super) fn group(&self, wal_bytes: u64, took: Duration) {
        self.groups.inc();
        self.written_bytes.inc_by(wal_bytes);
        self.group_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry, wal_bytes: u64, recent_bytes: u64) {
        registry.register_with_unit(
            "storage_written",
            "WAL bytes written to segment files",
            Unit::Bytes,
            self.written_bytes.clone(),
        );
        registry.register("storage_groups", "Groups of writes, each ended by at most one sync", self.groups.clone());
        registry.register_with_unit(
            "storage_group",
            "Time from the start of a group's first write to the end of its sync",
            Unit::Seconds,
            self.group_seconds.clone(),
        );
        registry.register(
            "storage_failures",
            "Failed writes and syncs, each of which stopped a timeline",
            self.failures.clone(),
        );
        registry.register("storage_full", "Times that a timeline stopped because the disk was full", self.full.clone());
        let held = Gauge::<u64, AtomicU64>::default();
        held.set(wal_bytes);
        registry.register_with_unit(
            "wal_held",
            "Bytes of WAL files held; nothing is removed in this version",
            Unit::Bytes,
            held,
        );
        let recent = Gauge::<u64, AtomicU64>::default();
        recent.set(recent_bytes);
        registry.register_with_unit("ring", "Bytes of recent WAL in memory, of all timelines", Unit::Bytes, recent);
    }
}
