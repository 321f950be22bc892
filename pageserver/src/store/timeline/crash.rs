//! A crash at every write, fsync, link, unlink and directory sync of everything that the store does.
//!
//! A run is cut at its k-th operation, for all k. Either the process is killed, or the power goes and what was not
//! synced is lost in part. Then the timeline is opened again: everything up to the position that was reported as
//! durable reads as the model says, nothing beyond is visible, and going on from there gives the same end. Planted bugs
//! in disk and storage show that the checks notice.

use std::sync::Mutex;

use bytes::Bytes;

use super::super::blobs::fake::{FakeDisk, Lies};
use super::super::blobs::{BlobError, Created, Entry};
use super::super::layer::ReadAt;
use super::super::manifest::Lease;
use super::super::workload::{HandClock, START, Workload, empty, feed, on, shared, small};
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
    fn create(&self, name: &str, parts: &[Bytes]) -> Result<Created, BlobError> {
        let is_manifest = name.starts_with("manifest/");
        if self.bug == Bug::LateManifest && is_manifest && !name.ends_with("0000001") {
            if let Some((name, parts)) = lock(&self.late).replace((name.to_owned(), parts.to_vec())) {
                self.inner.create(&name, &parts)?;
            }
            return Ok(Created::New);
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

    fn list(&self, folder: &str) -> Result<Vec<Entry>, BlobError> {
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

    fn store(disk: &FakeDisk, bug: Bug, create: bool) -> Result<(Store, HandClock), String> {
        let (shared, hand) = shared(small());
        let inner = on(disk).map_err(|e| e.to_string())?;
        let blobs: Arc<dyn Blobs> = Arc::new(Buggy { inner, bug, late: Mutex::default() });
        let store = if create { Store::create(shared, blobs, empty()) } else { Store::open(shared, blobs) };
        Ok((store.map_err(|e| e.to_string())?, hand))
    }

    /// Creates the timeline, writes everything, compacts and collects; until something fails.
    fn run(&self, disk: &FakeDisk, bug: Bug) -> Promised {
        let nothing = Lsn::new(0);
        let mut promised = Promised { created: false, durable: Lsn::new(START), horizon: nothing, lease: None };
        let Ok((store, hand)) = Scenario::store(disk, bug, true) else { return promised };
        promised.created = true;
        // An error at the end is the crash.
        let _ = self.steps(&store, &hand, &mut promised);
        promised
    }

    fn steps(&self, store: &Store, hand: &HandClock, promised: &mut Promised) -> Result<(), String> {
        for (i, chunk) in self.work.records.chunks(20).enumerate() {
            feed(store, chunk).map_err(|e| e.to_string())?;
            // Once, two layers wait.
            if i != 2 {
                store.freeze(true);
                let flushed = self.flush(store, promised);
                flushed?;
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

    fn flush(&self, store: &Store, promised: &mut Promised) -> Result<(), String> {
        while store.flush_one().map_err(|e| e.to_string())? {
            promised.durable = store.durable().borrow().0.lsn();
        }
        Ok(())
    }

    fn a_lease(&self) -> Lease {
        Lease { name: "backup".into(), lsn: self.lease, until: None, rest: serde_json::Map::new() }
    }

    /// Opens after a crash and goes on to the end.
    fn check(&self, disk: &FakeDisk, bug: Bug, promised: Promised) -> Result<(), String> {
        let (store, _) = match Scenario::store(disk, bug, false) {
            Ok(opened) => opened,
            Err(e) if promised.created => return Err(e),
            // Never created: that begins anew. Or it was, without anybody having been told.
            Err(_) => Scenario::store(disk, bug, true)?,
        };
        let durable = store.durable().borrow().0.lsn();
        if durable < promised.durable {
            return Err(format!("{durable} is durable, {} was promised", promised.durable));
        }
        self.compare(&store, promised, durable)?;
        let rest = self.work.after(durable);
        // What the next record's link back is compared with.
        let last = self.work.records.iter().find(|r| r.position.end == durable).and_then(|r| r.position.start);
        if store.durable().borrow().1 != last {
            return Err(format!("at {durable} the last record starts at {:?}", store.durable().borrow().1));
        }
        feed(&store, rest).map_err(|e| e.to_string())?;
        let end = store.flush().map_err(|e| e.to_string())?.lsn();
        while store.compact_one().map_err(|e| e.to_string())?.is_some() {}
        self.compare(&store, promised, end)
    }

    fn compare(&self, store: &Store, promised: Promised, end: Lsn) -> Result<(), String> {
        let also: Vec<Lsn> = promised.lease.into_iter().collect();
        self.work.difference(&store.snapshot(), promised.horizon, end, &also).map_or(Ok(()), Err)
    }
}

/// Problems over all crash points (every `step`-th), and the number of points.
fn cut_everywhere(lies: Lies, bug: Bug, step: u64) -> (Vec<String>, u64) {
    let scenario = Scenario::new();
    let disk = FakeDisk::new(lies);
    let promised = scenario.run(&disk, bug);
    assert_eq!(promised.horizon, scenario.horizons[1], "without a crash the run gets to its end");
    let points = disk.operations();
    let mut problems = Vec::new();
    for point in (0..points).step_by(usize::try_from(step).expect("small")) {
        let disk = FakeDisk::new(lies);
        disk.die_at(point);
        let promised = scenario.run(&disk, bug);
        let mut rng = fastrand::Rng::with_seed(point);
        let mut report = |how: &str, disk: FakeDisk| {
            if let Err(e) = scenario.check(&disk, bug, promised) {
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
            disk.set_room(room);
            if let Ok((store, _)) = Scenario::store(&disk, bug, false) {
                let now = store.durable().borrow().0.lsn();
                let created = promised.created || store.is_claimed();
                let promised = Promised { created, durable: now.max(promised.durable), ..promised };
                let disk = disk.after_power_loss(&mut rng);
                disk.set_room(None);
                if let Err(e) = scenario.check(&disk, bug, promised) {
                    problems.push(format!("killed, opened with room {room:?}, power lost at operation {point}: {e}"));
                }
            }
        }
    }
    (problems, points)
}

#[test]
fn nothing_that_was_durable_is_lost_at_any_crash_point() {
    let (problems, points) = cut_everywhere(Lies::None, Bug::None, 1);
    assert!(problems.is_empty(), "{} problems, the first: {}", problems.len(), problems[0]);
    assert!(points > 200, "only {points} operations");
}

#[test]
fn the_crash_test_notices_planted_bugs() {
    let bugs = [
        (Lies::NoSync, Bug::None),
        (Lies::NoDirSync, Bug::None),
        (Lies::None, Bug::LateManifest),
        (Lies::None, Bug::EarlyDelete),
    ];
    for (lies, bug) in bugs {
        let problems = cut_everywhere(lies, bug, 7).0;
        assert!(!problems.is_empty(), "{lies:?} {bug:?} was not noticed");
    }
}
