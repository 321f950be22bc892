//! A disk that counts: every sync of storage goes through it, timed. Changes nothing else.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use disk::{DirEntry, Disk, DiskFile, OpenMode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// Kind of a sync: fdatasync (WAL), fsync (lengths, control file), dir (names).
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Sync {
    op: &'static str,
}

type SyncSeconds = Family<Sync, Histogram, fn() -> Histogram>;

/// What is counted.
#[derive(Clone, Debug)]
pub(crate) struct DiskMetrics {
    sync_seconds: SyncSeconds,
    failures: Counter,
}

impl DiskMetrics {
    /// All at zero.
    pub(crate) fn new() -> DiskMetrics {
        // 32 microseconds to two seconds: from a cache that lies to a disk that is in trouble.
        fn histogram() -> Histogram {
            Histogram::new(exponential_buckets(0.000_032, 2.0, 17))
        }
        DiskMetrics { sync_seconds: Family::new_with_constructor(histogram), failures: Counter::default() }
    }

    /// Names them in the exposition.
    pub(crate) fn register(&self, r: &mut Registry) {
        let help = "Duration of fdatasync, fsync and directory syncs; the count is their number";
        r.register_with_unit("disk_sync", help, Unit::Seconds, self.sync_seconds.clone());
        r.register("disk_failures", "Writes and syncs that failed", self.failures.clone());
    }

    fn timed(&self, op: &'static str, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let began = Instant::now();
        let done = self.noted(sync());
        self.sync_seconds.get_or_create(&Sync { op }).observe(began.elapsed().as_secs_f64());
        done
    }

    fn noted<T>(&self, done: io::Result<T>) -> io::Result<T> {
        if done.is_err() {
            self.failures.inc();
        }
        done
    }
}

/// A disk that measures every sync of `inner` and counts what fails.
#[derive(Debug)]
pub(crate) struct MeasuredDisk<D> {
    inner: D,
    metrics: DiskMetrics,
}

#[derive(Debug)]
struct MeasuredFile {
    inner: Arc<dyn DiskFile>,
    metrics: DiskMetrics,
}

impl<D: Disk> MeasuredDisk<D> {
    /// Measures `inner` with `metrics`.
    pub(crate) fn new(inner: D, metrics: DiskMetrics) -> MeasuredDisk<D> {
        MeasuredDisk { inner, metrics }
    }
}

impl<D: Disk> Disk for MeasuredDisk<D> {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.inner.open(path, mode)?;
        Ok(Arc::new(MeasuredFile { inner, metrics: self.metrics.clone() }))
    }

    fn fsync_dir(&self, path: &Path) -> io::Result<()> {
        self.metrics.timed("dir", || self.inner.fsync_dir(path))
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.link(from, to)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.inner.exists(path)
    }

    fn sync_all(&self, path: &Path) -> io::Result<()> {
        self.metrics.timed("syncfs", || self.inner.sync_all(path))
    }

    fn free(&self, path: &Path) -> io::Result<u64> {
        self.inner.free(path)
    }
}

impl DiskFile for MeasuredFile {
    fn write_at(&self, offset: u64, bufs: &[Bytes]) -> io::Result<()> {
        self.metrics.noted(self.inner.write_at(offset, bufs))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read_at(offset, buf)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.metrics.noted(self.inner.allocate(len))
    }

    fn zero_range(&self, offset: u64, len: u64) -> io::Result<()> {
        self.metrics.noted(self.inner.zero_range(offset, len))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.metrics.noted(self.inner.set_len(len))
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn fdatasync(&self) -> io::Result<()> {
        self.metrics.timed("fdatasync", || self.inner.fdatasync())
    }

    fn fsync(&self) -> io::Result<()> {
        self.metrics.timed("fsync", || self.inner.fsync())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use disk::FsDisk;

    #[test]
    fn a_measured_disk_does_what_its_inner_one_does() {
        let disk = MeasuredDisk::new(disk::FakeDisk::new(1), DiskMetrics::new());
        disk::conformance::check(&disk, Path::new("/data"));
    }

    #[test]
    fn syncs_are_counted() {
        let dir = tempfile::tempdir().expect("a directory");
        let metrics = DiskMetrics::new();
        let disk = MeasuredDisk::new(FsDisk, metrics.clone());
        let file = disk.open(&dir.path().join("f"), OpenMode::CreateNew).expect("created");
        file.write_at(0, &[Bytes::from_static(b"abc"), Bytes::from_static(b"de")]).expect("written");
        file.fdatasync().expect("synced");
        file.fdatasync().expect("synced");
        let mut r = Registry::default();
        metrics.register(&mut r);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &r).expect("text");
        assert!(text.contains(r#"disk_sync_seconds_count{op="fdatasync"} 2"#), "{text}");
    }
}
