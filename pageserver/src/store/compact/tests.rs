//! Compaction against a model: random histories, flushes, merges, horizons and leases; also on storage that fails.

use std::sync::Arc;

use blobs::{BlobEntry, BlobError, BlobErrorKind, Blobs, Creation, MemoryBlobs, ReadAt};
use bytes::Bytes;
use pgformat::Lsn;
use pgformat::redo::slru::SlruChange;
use pgformat::slru::{Slru, XidStatus};

use super::super::manifest::VersionLease;
use super::super::workload::{Workload, empty, feed, shared, small};
use super::plan::CompactionReason;
use super::*;
use crate::cluster::extent::Reach;
use crate::cluster::value::ValueKind;
use crate::read::store::StoredVersions;
use crate::read::{Io, ReadView};
use crate::store::{Batch, Position};

/// Storage that fails at random: before the work, after it, or, for a creation, much later.
#[derive(Debug, Default)]
struct Flaky {
    inner: MemoryBlobs,
    rng: std::sync::Mutex<fastrand::Rng>,
    late: std::sync::Mutex<Vec<(String, Bytes)>>,
    /// One of so many calls fails; 0: none.
    one_in: std::sync::atomic::AtomicU32,
}

impl Flaky {
    fn fate(&self) -> u32 {
        let one_in = self.one_in.load(std::sync::atomic::Ordering::Relaxed);
        if one_in == 0 { 0 } else { plain(&self.rng).u32(..one_in * 3) + 1 }
    }

    fn error(name: &str) -> BlobError {
        let detail = "injected".to_owned();
        BlobError { kind: BlobErrorKind::Retryable, operation: "test", name: name.to_owned(), detail }
    }

    fn carry_out_late(&self) {
        let mut late = plain(&self.late);
        if !late.is_empty() && plain(&self.rng).u8(..4) == 0 {
            let (name, bytes) = late.remove(0);
            drop(self.inner.create(&name, &[bytes]));
        }
    }
}

impl Blobs for Flaky {
    fn create(&self, name: &str, parts: &[Bytes]) -> Result<Creation, BlobError> {
        self.carry_out_late();
        match self.fate() {
            1 => Err(Flaky::error(name)),
            2 => self.inner.create(name, parts).and(Err(Flaky::error(name))),
            3 => {
                plain(&self.late).push((name.to_owned(), parts.concat().into()));
                Err(Flaky::error(name))
            }
            _ => self.inner.create(name, parts),
        }
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>, BlobError> {
        if self.fate() == 1 { Err(Flaky::error(name)) } else { self.inner.open(name) }
    }

    fn get(&self, name: &str) -> Result<Bytes, BlobError> {
        if self.fate() == 1 { Err(Flaky::error(name)) } else { self.inner.get(name) }
    }

    fn list(&self, folder: &str) -> Result<Vec<BlobEntry>, BlobError> {
        if self.fate() == 1 { Err(Flaky::error(folder)) } else { self.inner.list(folder) }
    }

    fn delete(&self, name: &str) -> Result<(), BlobError> {
        if self.fate() == 1 { Err(Flaky::error(name)) } else { self.inner.delete(name) }
    }

    fn clean(&self, folder: &str) -> Result<(), BlobError> {
        self.inner.clean(folder)
    }
}

fn plain<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics with it")
}

fn lease(name: &str, lsn: Lsn) -> VersionLease {
    VersionLease { name: name.into(), lsn, until: None, rest: serde_json::Map::new() }
}

/// Does one thing; errors are those of storage, after which the same or another thing is tried.
fn act(store: &Store, rng: &mut fastrand::Rng, work: &Workload, fed: &mut usize) {
    let any = |rng: &mut fastrand::Rng, below: usize| work.records[rng.usize(..below.max(1))].position.end;
    match rng.u8(..20) {
        0..6 => {
            let to = (*fed + rng.usize(1..20)).min(work.records.len());
            if feed(store, &work.records[*fed..to]).is_ok() {
                *fed = to;
            }
        }
        6..10 => drop(store.flush()),
        10..15 => drop(store.compact_one()),
        15 => drop(store.collect()),
        16 => drop(store.set_horizon(any(rng, *fed))),
        17..19 => drop(store.put_lease(lease(&format!("{}", rng.u8(..4)), any(rng, *fed)))),
        _ => drop(store.drop_lease(&format!("{}", rng.u8(..4)))),
    }
}

fn check(store: &Store, work: &Workload, end: Lsn) -> Option<String> {
    let manifest = store.manifest();
    let leases: Vec<Lsn> = manifest.leases.iter().map(|l| l.lsn).filter(|l| *l <= end).collect();
    work.difference(&store.snapshot(), manifest.readable_from, end, &leases)
}

/// One random history; what the store had at its end, in files.
fn run(seed: u64, one_in: u32) -> Result<u64, String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let work = Workload::new(seed, 300, rng.u32(3..40));
    let flaky = Arc::new(Flaky::default());
    plain(&flaky.rng).seed(seed);
    let blobs: Arc<dyn Blobs> = flaky.clone();
    let (shared, hand) = shared(small());
    let mut store = Store::create(shared.clone(), blobs.clone(), empty()).expect("creates");
    let mut fed = 0;
    flaky.one_in.store(one_in, std::sync::atomic::Ordering::Relaxed);
    for _ in 0..120 {
        act(&store, &mut rng, &work, &mut fed);
        hand.move_on(rng.u64(..40));
        if rng.u8(..30) == 0 {
            drop(store);
            store = (0..100).find_map(|_| Store::open(shared.clone(), blobs.clone()).ok()).ok_or("does not open")?;
            // Claimed or not: this is where it goes on.
            fed = work.records.len() - work.after(store.manifest().disk_consistent_lsn).len();
        }
        let end = fed.checked_sub(1).map_or(Lsn::new(0), |last| work.records[last].position.end);
        if let Some(problem) = check(&store, &work, end) {
            return Err(format!("seed {seed}: {problem}"));
        }
    }
    flaky.one_in.store(0, std::sync::atomic::Ordering::Relaxed);
    store.flush().map_err(|e| e.to_string())?;
    while store.compact_one().map_err(|e| e.to_string())?.is_some() {}
    hand.move_on(1000);
    store.collect().map_err(|e| e.to_string())?;
    hand.move_on(1000);
    store.collect().map_err(|e| e.to_string())?;
    // Only what is listed is left; what came late is found by the next opening.
    let store = Store::open(shared, blobs.clone()).map_err(|e| e.to_string())?;
    hand.move_on(1000);
    store.collect().map_err(|e| e.to_string())?;
    let end = store.durable().borrow().0.lsn();
    if let Some(problem) = check(&store, &work, end) {
        return Err(format!("seed {seed}, at the end: {problem}"));
    }
    let left = blobs.list("layers").map_err(|e| e.to_string())?;
    if plain(&flaky.late).is_empty() && left.len() != store.manifest().layers.len() {
        return Err(format!("seed {seed}: {} files for {} layers", left.len(), store.manifest().layers.len()));
    }
    Ok(left.iter().map(|e| e.len).sum())
}

#[test]
fn reads_are_the_same_whatever_is_merged() {
    for seed in 0..60 {
        run(seed, 0).expect("no difference");
    }
}

#[test]
fn reads_are_the_same_when_storage_fails_at_any_call() {
    for seed in 1000..1060 {
        run(seed, 8).expect("no difference");
    }
}

fn compacted(work: &Workload, horizon: Option<Lsn>, leases: &[Lsn]) -> (Store, Vec<CompactionReport>) {
    let (shared, _) = shared(small());
    let store = Store::create(shared, Arc::new(MemoryBlobs::default()), empty()).expect("creates");
    for chunk in work.records.chunks(50) {
        feed(&store, chunk).expect("takes them");
        store.flush().expect("writes");
    }
    for (i, lsn) in leases.iter().enumerate() {
        assert!(store.put_lease(lease(&i.to_string(), *lsn)).expect("writes"));
    }
    if let Some(horizon) = horizon {
        store.set_horizon(horizon).expect("writes");
    }
    let done = std::iter::from_fn(|| store.compact_one().expect("works")).collect();
    (store, done)
}

fn versions(store: &Store) -> u64 {
    store.manifest().layers.iter().map(|l| l.versions).sum()
}

#[test]
fn long_chains_get_images_and_nothing_goes_without_a_horizon() {
    let work = Workload::new(21, 800, 30);
    let (store, done) = compacted(&work, None, &[]);
    assert!(
        done.iter().all(|d| d.reason == CompactionReason::Overlap) && done.iter().any(|d| d.images > 0),
        "{done:?}"
    );
    assert_eq!(versions(&store), work.model.0.len() as u64);
    let end = work.records[799].position.end;
    let longest = work.keys().into_iter().map(|k| store.snapshot().history(k, end).expect("reads").versions.len());
    assert!(longest.max() <= Some(2 * small().chain_versions), "a read redoes few changes");
    // Files of a run are cut at a size.
    assert!(store.manifest().layers.iter().all(|l| l.bytes < 3 * small().file_bytes));
}

#[test]
fn below_the_horizon_only_leases_keep_versions() {
    let work = Workload::new(22, 800, 30);
    let end = work.records[799].position.end;
    let at = |i: usize| work.records[i].position.end;
    let keys = work.keys().len() as u64;
    let (store, _) = compacted(&work, Some(end), &[]);
    assert!(versions(&store) < 5 * keys, "{} versions of {keys} keys", versions(&store));
    let (leased, _) = compacted(&work, Some(end), &[at(200), at(500)]);
    assert!(versions(&leased) < 15 * keys && versions(&leased) > versions(&store));
    assert_eq!(work.difference(&leased.snapshot(), end, end, &[at(200), at(500)]), None);
    assert!(work.difference(&store.snapshot(), end, end, &[at(200)]).is_some(), "without a lease it is gone");
    assert!(!store.put_lease(lease("late", at(200))).expect("writes"), "a lease below the horizon is refused");
}

#[test]
fn readers_keep_what_they_read() {
    let work = Workload::new(23, 200, 20);
    let (shared, hand) = shared(small());
    let blobs: Arc<dyn Blobs> = Arc::new(MemoryBlobs::default());
    let store = Store::create(shared, blobs.clone(), empty()).expect("creates");
    for chunk in work.records.chunks(50) {
        feed(&store, chunk).expect("takes them");
        store.flush().expect("writes");
    }
    let old = store.snapshot();
    let files = || blobs.list("layers").expect("lists").len();
    while store.compact_one().expect("works").is_some() {}
    let live = store.manifest().layers.len();
    let all = files();
    assert!(all > live);
    hand.move_on(61);
    store.collect().expect("deletes");
    let kept = files();
    let end = work.records[199].position.end;
    assert_eq!(work.difference(&old, Lsn::new(0), end, &[]), None, "four files are still read");
    assert_eq!(kept, live + 4, "what came and went meanwhile is deleted");
    drop(old);
    store.collect().expect("deletes");
    assert_eq!(files(), live);
}

/// Goal: a merge makes no image that builds on what a page was before its file was cut and grew again over a gap, with
/// and without a horizon. Method: SLRU pages with long chains of changes in every life of their segment, lives that
/// begin behind gaps; every read at every position before and after all merges, and with horizons.
#[test]
fn an_image_does_not_build_on_an_earlier_life() {
    let (shared, _) = shared(small());
    let store = Store::create(shared, Arc::new(MemoryBlobs::default()), empty()).expect("creates");
    let segment = Key::numbered(KeyKind::SlruSegment, 0, 0);
    let mut rng = fastrand::Rng::with_seed(77);
    let (mut end, mut ends) = (0x1000, Vec::new());
    let mut extent: Option<Extent> = None;
    for n in 0..600_u32 {
        end += 64;
        let lsn = Lsn::new(end);
        let mut batch = Batch::default();
        if n % 90 == 89 {
            extent = None;
            batch.put(segment, lsn, ValueKind::Tombstone, |_| ());
        } else {
            let page = rng.u32(..6);
            let file = extent.get_or_insert_default();
            let grown = file.reach(page, lsn, 0) != Reach::Inside;
            let kind = if grown { ValueKind::Init } else { ValueKind::Change };
            if grown {
                batch.put(segment, lsn, ValueKind::Blob, |out| out.extend(file.encode()));
            }
            let xids = [page * 32_768 + rng.u32(..32_768)].into_iter();
            let change = SlruChange::clog(page, XidStatus::Committed, xids);
            batch.put(Key::numbered(KeyKind::SlruPage, 0, page), lsn, kind, |out| change.change().encode(out));
        }
        store.append(&mut batch).expect("takes it");
        store.publish(Position { end: lsn, start: Some(Lsn::new(end - 64)) });
        ends.push(lsn);
        if n % 40 == 39 {
            store.flush().expect("writes");
        }
    }
    let read = |lsn: Lsn| {
        let versions = StoredVersions::new(store.snapshot(), PgMajor::ALL[1], store.pages());
        let view = ReadView { versions: &versions, lsn, latest: lsn, io: Io::Files };
        view.slru_segment(Slru::Xact, 0).ok()
    };
    let before: Vec<_> = ends.iter().map(|lsn| read(*lsn)).collect();
    let lives = before.iter().flatten().map(|pages| pages.iter().map(|b| b.count_ones()).sum::<u32>());
    assert!(lives.max().is_some_and(|bits| bits < 100), "the bits of one life at most");
    let mut images = 0;
    for horizon in [None, Some(200), Some(333), Some(599)] {
        if let Some(n) = horizon {
            store.set_horizon(ends[n]).expect("writes");
        }
        while let Some(done) = store.compact_one().expect("works") {
            images += done.images;
        }
        for (lsn, before) in ends.iter().zip(&before).skip(horizon.unwrap_or(0)) {
            assert!(read(*lsn) == *before, "horizon {horizon:?}, at {lsn}");
        }
    }
    assert!(images > 20, "{images} images");
    assert!(store.manifest().has_steps, "an older program must refuse it");
}
