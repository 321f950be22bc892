//! A crash at every write, fsync, link, unlink and directory sync of everything that the store does.
//!
//! Two lives are run: one that writes, compacts and collects, and an import that begins anew in the midst of its copy.
//! A run is cut at its k-th operation, for all k. Either the process is killed, or the power goes and what was not
//! synced is lost in part. Then the timeline is opened again: everything up to the position that was reported as
//! durable reads as the model says, nothing beyond is visible, and going on from there gives the same end. Planted bugs
//! in disk and storage show that the checks notice.

use std::sync::Mutex;

use blobs::{BlobEntry, BlobError, Creation, ReadAt};
use bytes::Bytes;
use disk::{FakeDisk, Lie};

use super::super::manifest::{Importing, VersionLease};
use super::super::workload::{HandClock, Record, START, Workload, empty, feed, on, shared, small};
use super::*;

/// What storage does wrong between the store and the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Bug {
    None,
    /// A manifest is written when the next one is created: what it says is published before.
    LateManifest,
    /// A layer that was dropped is deleted before the manifest that drops it is written.
    EarlyDelete,
}

/// Storage with a bug.
#[derive(Debug)]
struct Buggy {
    inner: Arc<dyn Blobs>,
    bug: Bug,
    late: Mutex<Option<(String, Vec<Bytes>)>>,
}

impl Blobs for Buggy {
    fn create(&self, name: &str, parts: &[Bytes]) -> Result<Creation, BlobError> {
        let is_manifest = name.starts_with("manifest/");
        if self.bug == Bug::LateManifest && is_manifest && !name.ends_with("0000001") {
            if let Some((name, parts)) =
                self.late.lock().expect("nobody panics with it").replace((name.to_owned(), parts.to_vec()))
            {
                self.inner.create(&name, &parts)?;
            }
            return Ok(Creation::New);
        }
        if self.bug == Bug::EarlyDelete && is_manifest {
            let text = String::from_utf8_lossy(&parts[0]).into_owned();
            let unlisted = self.inner.list("layers")?.into_iter().filter(|e| !text.contains(&e.name[7..]));
            for entry in unlisted {
                self.inner.delete(&entry.name)?;
            }
        }
        self.inner.create(name, parts)
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>, BlobError> {
        self.inner.open(name)
    }

    fn get(&self, name: &str) -> Result<Bytes, BlobError> {
        self.inner.get(name)
    }

    fn list(&self, folder: &str) -> Result<Vec<BlobEntry>, BlobError> {
        self.inner.list(folder)
    }

    fn delete(&self, name: &str) -> Result<(), BlobError> {
        self.inner.delete(name)
    }

    fn clean(&self, folder: &str) -> Result<(), BlobError> {
        self.inner.clean(folder)
    }
}

/// What was promised before the crash.
#[derive(Clone, Copy, Debug)]
struct Promised {
    created: bool,
    durable: Lsn,
    /// Versions below may be gone, except at the lease.
    horizon: Lsn,
    lease: Option<Lsn>,
    /// The import that was begun last copies pages as of here.
    pages_at: Option<Lsn>,
    /// All its pages are there.
    copied: bool,
}

/// What a timeline goes through.
trait Life {
    /// As it is created.
    fn first(&self) -> Manifest;
    /// Everything, from a timeline that was just created; an error at the end is the crash.
    fn steps(&self, store: &Store, hand: &HandClock, promised: &mut Promised) -> Result<(), String>;
    /// Whether a run got to its end.
    fn is_over(&self, promised: &Promised) -> bool;
    /// What an opened store says itself. Of a timeline that is not claimed that is no promise.
    fn note(&self, store: &Store, promised: &mut Promised);
    /// Compares what is there after a crash, and goes on to the end.
    fn check(&self, store: &Store, hand: &HandClock, promised: Promised) -> Result<(), String>;
}

fn open(disk: &FakeDisk, bug: Bug, create: Option<Manifest>) -> Result<(Store, HandClock), String> {
    let (shared, hand) = shared(small());
    let inner = on(disk).map_err(|e| e.to_string())?;
    let blobs: Arc<dyn Blobs> = Arc::new(Buggy { inner, bug, late: Mutex::default() });
    let store = match create {
        Some(first) => Store::create(shared, blobs, first),
        None => Store::open(shared, blobs),
    };
    Ok((store.map_err(|e| e.to_string())?, hand))
}

/// Creates the timeline and lives, until something fails.
fn run(life: &dyn Life, disk: &FakeDisk, bug: Bug) -> Promised {
    let (durable, horizon) = (Lsn::new(START), Lsn::new(0));
    let mut promised = Promised { created: false, durable, horizon, lease: None, pages_at: None, copied: false };
    let Ok((store, hand)) = open(disk, bug, Some(life.first())) else { return promised };
    promised.created = true;
    // An error at the end is the crash.
    let _ = life.steps(&store, &hand, &mut promised);
    promised
}

/// Opens after a crash and goes on to the end.
fn check(life: &dyn Life, disk: &FakeDisk, bug: Bug, promised: Promised) -> Result<(), String> {
    let (store, hand) = match open(disk, bug, None) {
        Ok(opened) => opened,
        Err(e) if promised.created => return Err(e),
        // Never created: that begins anew. Or it was, without anybody having been told.
        Err(_) => open(disk, bug, Some(life.first()))?,
    };
    life.check(&store, &hand, promised)
}

fn flush(store: &Store, promised: &mut Promised) -> Result<(), String> {
    while store.flush_one().map_err(|e| e.to_string())? {
        promised.durable = store.durable().borrow().0.lsn();
    }
    Ok(())
}

struct Scenario {
    work: Workload,
    lease: Lsn,
    horizons: [Lsn; 2],
}

impl Scenario {
    fn new() -> Scenario {
        let work = Workload::new(11, 120, 12);
        let at = |i: usize| work.records[i].position.end;
        Scenario { lease: at(25), horizons: [at(45), at(80)], work }
    }

    fn a_lease(&self) -> VersionLease {
        VersionLease { name: "backup".into(), lsn: self.lease, until: None, rest: serde_json::Map::new() }
    }

    fn compare(&self, store: &Store, promised: Promised, end: Lsn) -> Result<(), String> {
        let also: Vec<Lsn> = promised.lease.into_iter().collect();
        self.work.difference(&store.snapshot(), promised.horizon, end, &also).map_or(Ok(()), Err)
    }
}

/// What the next record's link back is compared with is the start of the last one.
fn check_start(store: &Store, work: &Workload, durable: Lsn) -> Result<(), String> {
    let last = work.records.iter().find(|r| r.position.end == durable).and_then(|r| r.position.start);
    match store.durable().borrow().1 {
        start if start == last => Ok(()),
        start => Err(format!("at {durable} the last record starts at {start:?}, not {last:?}")),
    }
}

impl Life for Scenario {
    fn first(&self) -> Manifest {
        empty()
    }

    fn is_over(&self, promised: &Promised) -> bool {
        promised.horizon == self.horizons[1]
    }

    fn note(&self, store: &Store, promised: &mut Promised) {
        promised.created |= store.is_claimed();
        promised.durable = promised.durable.max(store.durable().borrow().0.lsn());
    }

    /// Writes everything, compacts and collects.
    fn steps(&self, store: &Store, hand: &HandClock, promised: &mut Promised) -> Result<(), String> {
        for (i, chunk) in self.work.records.chunks(20).enumerate() {
            feed(store, chunk).map_err(|e| e.to_string())?;
            // Once, two layers wait.
            if i != 2 {
                store.freeze(true);
                flush(store, promised)?;
            } else {
                store.freeze(true);
            }
            if i == 2 {
                store.put_lease(self.a_lease()).map_err(|e| e.to_string())?;
                promised.lease = Some(self.lease);
            }
            if i == 3 || i == 5 {
                let horizon = self.horizons[usize::from(i == 5)];
                promised.horizon = horizon;
                store.set_horizon(horizon).map_err(|e| e.to_string())?;
            }
            while store.compact_one().map_err(|e| e.to_string())?.is_some() {}
            hand.move_on(61);
            store.collect().map_err(|e| e.to_string())?;
        }
        hand.move_on(61);
        store.collect().map_err(|e| e.to_string())?;
        Ok(())
    }

    fn check(&self, store: &Store, _: &HandClock, promised: Promised) -> Result<(), String> {
        let durable = store.durable().borrow().0.lsn();
        if durable < promised.durable {
            return Err(format!("{durable} is durable, {} was promised", promised.durable));
        }
        self.compare(store, promised, durable)?;
        check_start(store, &self.work, durable)?;
        feed(store, self.work.after(durable)).map_err(|e| e.to_string())?;
        let end = store.flush().map_err(|e| e.to_string())?.lsn();
        while store.compact_one().map_err(|e| e.to_string())?.is_some() {}
        self.compare(store, promised, end)
    }
}

/// An import that ends in the midst of its copy, begins anew, and becomes a timeline that goes on.
struct Import {
    /// The first attempt's pages, with blocks that the second one does not have.
    junk: Workload,
    work: Workload,
    /// End of the second attempt's backup.
    end: Lsn,
}

impl Import {
    fn new() -> Import {
        let junk = Workload::imported(12, 0, 16, Lsn::new(START + 8));
        let work = Workload::imported(13, 60, 10, Lsn::new(START + 64));
        Import { junk, end: work.records[20].position.end, work }
    }

    /// Takes in copied pages as an import does it; the last ones are in memory only.
    fn copy(store: &Store, pages: &Record, promised: &mut Promised) -> Result<(), String> {
        let at = pages.position.end;
        store.restart_import(at).map_err(|e| e.to_string())?;
        promised.pages_at = Some(at);
        for some in pages.versions.chunks(3) {
            let mut batch = Batch::default();
            for (key, kind, value) in some {
                batch.put(*key, at, *kind, |out| out.extend_from_slice(value));
            }
            store.append(&mut batch).map_err(|e| e.to_string())?;
            store.publish(pages.position);
            if some.len() == 3 {
                store.flush().map_err(|e| e.to_string())?;
            }
        }
        Ok(())
    }

    /// From wherever the timeline is to the end.
    fn go_on(&self, store: &Store, hand: &HandClock, promised: &mut Promised) -> Result<(), String> {
        if !is_copied(store) {
            Import::copy(store, &self.work.records[0], promised)?;
            store.pages_copied(self.end).map_err(|e| e.to_string())?;
            self.note(store, promised);
        }
        let durable = store.durable().borrow().0.lsn();
        for chunk in self.work.after(durable).chunks(15) {
            feed(store, chunk).map_err(|e| e.to_string())?;
            store.freeze(true);
            flush(store, promised)?;
            while store.compact_one().map_err(|e| e.to_string())?.is_some() {}
            hand.move_on(61);
            store.collect().map_err(|e| e.to_string())?;
        }
        Ok(())
    }

    /// Everything of the copy and of the log up to `to`, and nothing of the attempt before.
    fn compare(&self, store: &Store, to: Lsn) -> Result<(), String> {
        let manifest = store.manifest();
        if manifest.readable_from != self.end || manifest.importing.is_some() != (to < self.end) {
            return Err(format!("at {to} it is readable from {}: {:?}", manifest.readable_from, manifest.importing));
        }
        self.no_junk(store)?;
        let at = self.work.records[0].position.end;
        self.work.difference(&store.snapshot(), at, to, &[]).map_or(Ok(()), Err)
    }

    fn no_junk(&self, store: &Store) -> Result<(), String> {
        let (snapshot, at) = (store.snapshot(), self.junk.records[0].position.end);
        for key in self.junk.keys() {
            match snapshot.history(key, at) {
                Ok(history) if history.versions.is_empty() => {}
                other => return Err(format!("{key} of an import that was given up: {other:?}")),
            }
        }
        Ok(())
    }
}

fn is_copied(store: &Store) -> bool {
    store.manifest().importing.as_ref().is_none_or(|importing| importing.end.is_some())
}

impl Life for Import {
    fn first(&self) -> Manifest {
        let importing = Importing { pages_at: Lsn::new(START), end: None, rest: serde_json::Map::new() };
        Manifest { importing: Some(importing), ..empty() }
    }

    fn steps(&self, store: &Store, hand: &HandClock, promised: &mut Promised) -> Result<(), String> {
        Import::copy(store, &self.junk.records[0], promised)?;
        self.go_on(store, hand, promised)
    }

    fn is_over(&self, promised: &Promised) -> bool {
        self.work.records.last().is_some_and(|last| last.position.end == promised.durable)
    }

    fn note(&self, store: &Store, promised: &mut Promised) {
        if store.is_claimed() {
            promised.created = true;
            promised.pages_at = store.manifest().importing.as_ref().map(|i| i.pages_at).or(promised.pages_at);
            promised.copied = is_copied(store);
            promised.durable = store.durable().borrow().0.lsn();
        }
    }

    fn check(&self, store: &Store, hand: &HandClock, mut promised: Promised) -> Result<(), String> {
        let manifest = store.manifest();
        let pages_at = manifest.importing.as_ref().map_or(promised.pages_at, |i| Some(i.pages_at));
        if pages_at < promised.pages_at {
            return Err(format!("pages are those at {pages_at:?}, not those at {:?}", promised.pages_at));
        }
        if is_copied(store) {
            let durable = store.durable().borrow().0.lsn();
            if promised.copied && durable < promised.durable {
                return Err(format!("{durable} is durable, {} was promised", promised.durable));
            }
            check_start(store, &self.work, durable)?;
            self.compare(store, durable)?;
        } else if promised.copied {
            return Err("the copy that was complete is not".to_owned());
        } else if pages_at == Some(self.work.records[0].position.end) {
            self.no_junk(store)?;
        }
        self.go_on(store, hand, &mut promised)?;
        self.compare(store, self.work.records[self.work.records.len() - 1].position.end)?;
        // Nothing stays of the attempts that were given up.
        hand.move_on(1000);
        store.collect().map_err(|e| e.to_string())?;
        hand.move_on(1000);
        store.collect().map_err(|e| e.to_string())?;
        let files = store.blobs.list("layers").map_err(|e| e.to_string())?.len();
        let layers = store.manifest().layers.len();
        if files == layers { Ok(()) } else { Err(format!("{files} files for {layers} layers")) }
    }
}

/// Problems over all crash points (every `step`-th), and the number of points.
fn cut_everywhere(life: &dyn Life, lies: &[Lie], bug: Bug, step: u64) -> (Vec<String>, u64) {
    let disk = FakeDisk::lying(1, lies);
    let promised = run(life, &disk, bug);
    assert!(life.is_over(&promised), "without a crash the run gets to its end: {promised:?}");
    let points = disk.operations();
    let mut problems = Vec::new();
    for point in (0..points).step_by(usize::try_from(step).expect("small")) {
        let disk = FakeDisk::lying(point, lies);
        disk.die_at(point);
        let promised = run(life, &disk, bug);
        let mut rng = fastrand::Rng::with_seed(point);
        let mut report = |how: &str, disk: FakeDisk| {
            if let Err(e) = check(life, &disk, bug, promised) {
                problems.push(format!("{how} at operation {point}: {e}"));
            }
            disk
        };
        let killed = report("killed", disk.after_kill());
        report("power lost", disk.after_power_loss(&mut rng));
        // What the first opening said is still true when the power goes after it.
        report("killed, opened, finished, power lost", killed.after_power_loss(&mut rng));
        // Opened after a kill, with space or without, and the power goes at once.
        for room in [None, Some(0)] {
            let disk = disk.after_kill();
            disk.limit(room);
            if let Ok((store, _)) = open(&disk, bug, None) {
                let mut promised = promised;
                life.note(&store, &mut promised);
                let disk = disk.after_power_loss(&mut rng);
                disk.limit(None);
                if let Err(e) = check(life, &disk, bug, promised) {
                    problems.push(format!("killed, opened with room {room:?}, power lost at operation {point}: {e}"));
                }
            }
        }
    }
    (problems, points)
}

fn lose_nothing(life: &dyn Life) {
    let (problems, points) = cut_everywhere(life, &[], Bug::None, 1);
    assert!(problems.is_empty(), "{} problems, the first: {}", problems.len(), problems[0]);
    assert!(points > 200, "only {points} operations");
}

#[test]
fn nothing_that_was_durable_is_lost_at_any_crash_point() {
    lose_nothing(&Scenario::new());
}

#[test]
fn an_import_is_whole_or_begins_anew_at_any_crash_point() {
    lose_nothing(&Import::new());
}

#[test]
fn the_crash_test_notices_planted_bugs() {
    let bugs: [(&[Lie], Bug); 4] = [
        (&[Lie::NoFsync], Bug::None),
        (&[Lie::NoDirSync], Bug::None),
        (&[], Bug::LateManifest),
        (&[], Bug::EarlyDelete),
    ];
    let lives: [&dyn Life; 2] = [&Scenario::new(), &Import::new()];
    for (lies, bug) in bugs {
        for (number, life) in lives.iter().enumerate() {
            let problems = cut_everywhere(*life, lies, bug, 7).0;
            assert!(!problems.is_empty(), "{lies:?} {bug:?} was not noticed in life {number}");
        }
    }
}
