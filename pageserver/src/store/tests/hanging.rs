//! Storage that hangs: whatever call of it does not come back, reads, intake and what others ask go on.

use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use blobs::{BlobEntry, BlobError, Blobs, Creation, MemoryBlobs, ReadAt};
use bytes::Bytes;
use pgformat::Lsn;

use crate::store::workload::{HandClock, Workload, empty, feed, shared, small};
use crate::store::{Intake, Store};

/// How long what must not wait may take, on a machine that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(20);

/// An operation of storage, and the folder that it is about.
type Call = (&'static str, &'static str);

#[derive(Debug, Default)]
struct Gate {
    /// Calls that do not come back.
    closed: Option<Call>,
    /// One has come.
    is_waiting: bool,
}

/// Storage of which calls of one kind do not come back until the test says so.
#[derive(Debug, Default)]
struct Hanging {
    inner: MemoryBlobs,
    gate: Mutex<Gate>,
    changed: Condvar,
}

impl Hanging {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().expect("nobody panics with the gate")
    }

    fn pass(&self, operation: &str, name: &str) {
        let mut gate = self.gate();
        while gate.closed.is_some_and(|(what, folder)| what == operation && name.starts_with(folder)) {
            gate.is_waiting = true;
            self.changed.notify_all();
            gate = self.changed.wait(gate).expect("nobody panics with the gate");
        }
    }

    fn close(&self, call: Call) {
        *self.gate() = Gate { closed: Some(call), is_waiting: false };
    }

    fn wait_for_a_call(&self) {
        let (_gate, waited) = self
            .changed
            .wait_timeout_while(self.gate(), PATIENCE, |gate| !gate.is_waiting)
            .expect("nobody panics with the gate");
        assert!(!waited.timed_out(), "storage was not asked");
    }

    fn open_gate(&self) {
        self.gate().closed = None;
        self.changed.notify_all();
    }
}

impl Blobs for Hanging {
    fn create(&self, name: &str, parts: &[Bytes]) -> Result<Creation, BlobError> {
        self.pass("create", name);
        self.inner.create(name, parts)
    }

    fn open(&self, name: &str) -> Result<Arc<dyn ReadAt>, BlobError> {
        self.pass("open", name);
        self.inner.open(name)
    }

    fn get(&self, name: &str) -> Result<Bytes, BlobError> {
        self.pass("get", name);
        self.inner.get(name)
    }

    fn list(&self, folder: &str) -> Result<Vec<BlobEntry>, BlobError> {
        self.pass("list", folder);
        self.inner.list(folder)
    }

    fn delete(&self, name: &str) -> Result<(), BlobError> {
        self.pass("delete", name);
        self.inner.delete(name)
    }

    fn clean(&self, folder: &str) -> Result<(), BlobError> {
        self.inner.clean(folder)
    }
}

/// A store on such storage, and records for it.
struct Scene {
    blobs: Arc<Hanging>,
    store: Arc<Store>,
    hand: HandClock,
    work: Workload,
}

impl Scene {
    /// With four layers in storage; of 200 records, 100 are left to feed.
    fn new(seed: u64) -> Scene {
        let blobs = Arc::new(Hanging::default());
        let (shared, hand) = shared(small());
        let store = Arc::new(Store::create(shared, blobs.clone(), empty()).expect("creates"));
        let work = Workload::new(seed, 200, 20);
        for chunk in work.records[..100].chunks(25) {
            feed(&store, chunk).expect("takes them");
            store.flush().expect("writes");
        }
        Scene { blobs, store, hand, work }
    }

    /// While `work` waits for `call`, `meanwhile` comes to its end; then so does `work`.
    fn during(
        &self,
        call: Call,
        work: impl FnOnce(&Store) + Send + 'static,
        meanwhile: impl FnOnce(&Store, &Workload) + Send + 'static,
    ) {
        self.blobs.close(call);
        let store = self.store.clone();
        let worker = thread::spawn(move || work(&store));
        self.blobs.wait_for_a_call();
        let (store, records) = (self.store.clone(), self.work.clone());
        let (tell, told) = channel();
        let other = thread::spawn(move || {
            meanwhile(&store, &records);
            tell.send(()).expect("somebody waits");
        });
        let went_on = told.recv_timeout(PATIENCE).is_ok();
        self.blobs.open_gate();
        worker.join().expect("does its work");
        other.join().expect("does its work");
        assert!(went_on, "something else waited for {call:?}");
    }
}

/// What the thread that drives the connections does, and readers: records `fed..fed + 10` are taken in, too.
fn goes_on(store: &Store, work: &Workload, fed: usize) {
    let before = fed.checked_sub(1).map(|last| work.records[last].position.end);
    assert_eq!(work.difference(&store.snapshot(), Lsn::new(0), before.unwrap_or(Lsn::new(0)), &[]), None);
    let more = &work.records[fed..fed + 10];
    feed(store, more).expect("memory takes them");
    store.freeze(false);
    let end = more[9].position.end;
    assert_eq!(work.difference(&store.snapshot(), Lsn::new(0), end, &[]), None);
    assert_eq!(store.published().end, end);
    asked(store);
    assert_eq!(*store.intake().borrow(), Intake::Open);
}

/// What status pages and metrics ask.
fn asked(store: &Store) {
    let manifest = store.manifest();
    assert_eq!(store.choice_seq(), manifest.choice_seq);
    assert!(store.readable_from().is_some());
    let durable = store.durable().borrow().0.lsn();
    assert!(durable <= store.published().end);
    assert!(store.is_claimed() && !store.is_stopping());
}

#[test]
fn reads_intake_and_status_go_on_while_a_flush_hangs() {
    for call in [("create", "layers"), ("create", "manifest"), ("list", "manifest"), ("open", "layers")] {
        let scene = Scene::new(51);
        feed(&scene.store, &scene.work.records[100..110]).expect("takes them");
        let flush = |store: &Store| assert!(store.flush().is_ok());
        scene.during(call, flush, |store, work| goes_on(store, work, 110));
        let end = scene.work.records[119].position.end;
        assert_eq!(scene.store.flush().expect("writes").lsn(), end);
    }
}

#[test]
fn reads_intake_and_status_go_on_while_a_compaction_hangs() {
    for call in [("create", "layers"), ("create", "manifest"), ("list", "manifest")] {
        let scene = Scene::new(52);
        let compact = |store: &Store| assert!(store.compact_one().expect("works").is_some());
        scene.during(call, compact, |store, work| goes_on(store, work, 100));
        let end = scene.store.flush().expect("writes").lsn();
        assert_eq!(scene.work.difference(&scene.store.snapshot(), Lsn::new(0), end, &[]), None);
    }
}

/// Nothing waits for a deletion: what is flushed and merged meanwhile becomes durable.
#[test]
fn layers_become_durable_while_a_collection_hangs() {
    for call in [("list", "manifest"), ("delete", "manifest"), ("delete", "layers")] {
        let scene = Scene::new(53);
        while scene.store.compact_one().expect("works").is_some() {}
        // What is due stays due: a flush asks for a listing of its own, which would hang as well.
        scene.hand.move_on(61);
        let collect = |store: &Store| assert!(store.collect().expect("deletes") > 0);
        scene.during(call, collect, move |store, work| {
            goes_on(store, work, 100);
            if call.0 == "delete" {
                store.flush().expect("writes");
                feed(store, &work.records[110..120]).expect("takes them");
                let end = store.flush().expect("writes").lsn();
                while store.compact_one().expect("works").is_some() {}
                assert_eq!(end, work.records[119].position.end);
                assert_eq!(work.difference(&store.snapshot(), Lsn::new(0), end, &[]), None);
            }
        });
    }
}

#[test]
fn status_is_told_while_an_import_that_begins_anew_hangs() {
    for call in [("create", "manifest"), ("list", "manifest")] {
        let scene = Scene::new(54);
        let again = scene.work.records[99].position.end;
        let restart = move |store: &Store| store.restart_import(again).expect("forgets");
        scene.during(call, restart, |store, _| asked(store));
        assert_eq!(scene.store.manifest().layers, []);
    }
}

#[test]
fn a_timeline_is_read_while_its_claim_hangs() {
    for call in [("create", "manifest"), ("list", "manifest"), ("list", "layers")] {
        let scene = Scene::new(55);
        let end = scene.work.records[99].position.end;
        // Nobody has an open gate for the claim of the opening itself: it fails, and a later one hangs.
        let blobs = Arc::new(Refusing { inner: scene.blobs.clone(), refuses: Mutex::new(true) });
        let (shared, _) = shared(small());
        let store = Arc::new(Store::open(shared, blobs.clone()).expect("opens"));
        assert!(!store.is_claimed());
        *blobs.refuses.lock().expect("not poisoned") = false;
        let again = Scene { blobs: scene.blobs.clone(), store, hand: scene.hand.clone(), work: scene.work.clone() };
        again.during(
            call,
            |store| store.claim().expect("claims"),
            move |store, work| {
                assert_eq!(work.difference(&store.snapshot(), Lsn::new(0), end, &[]), None);
                assert!(!store.is_claimed());
                assert!(matches!(*store.intake().borrow(), Intake::Full(_)));
                assert!(feed(store, &work.records[100..105]).is_err());
                assert!(store.readable_from().is_some());
            },
        );
        assert!(again.store.is_claimed());
    }
}

/// Storage that creates nothing for a while.
#[derive(Debug)]
struct Refusing {
    inner: Arc<dyn Blobs>,
    refuses: Mutex<bool>,
}

impl Blobs for Refusing {
    fn create(&self, name: &str, parts: &[Bytes]) -> Result<Creation, BlobError> {
        if *self.refuses.lock().expect("not poisoned") {
            let (name, detail) = (name.to_owned(), "injected".to_owned());
            return Err(BlobError { kind: blobs::BlobErrorKind::Retryable, operation: "create", name, detail });
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
