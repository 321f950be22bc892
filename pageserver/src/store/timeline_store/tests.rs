//! One timeline's store: bounds, errors, restart, import.

use blobs::{MemoryBlobs, Storage};
use bytes::Bytes;
use disk::{FakeDisk, FsDisk, IoFault};
use s3_server::{S3Server, variables};

use super::super::config::StoreConfig;
use super::super::manifest::Importing;
use super::super::storage;
use super::super::workload::{HandClock, START, Workload, empty, feed, on, shared, small};
use super::*;
use crate::cluster::key::{Key, KeyKind};

fn memory_store(config: StoreConfig) -> (Store, Arc<dyn Blobs>, HandClock) {
    let (shared, hand) = shared(config);
    let blobs: Arc<dyn Blobs> = Arc::new(MemoryBlobs::default());
    (Store::create(shared, blobs.clone(), empty()).expect("creates"), blobs, hand)
}

/// A life in storage: written, compacted, collected, opened by another, refused, opened again.
fn lives(blobs: &Arc<dyn Blobs>) {
    let (shared, hand) = shared(small());
    let store = Store::create(shared, blobs.clone(), empty()).expect("creates");
    let work = Workload::new(31, 200, 20);
    for chunk in work.records[..160].chunks(40) {
        feed(&store, chunk).expect("takes them");
        store.flush().expect("writes");
        store.compact_one().expect("works");
        hand.move_on(61);
        store.collect().expect("works");
    }
    hand.move_on(61);
    store.collect().expect("works");
    let layers = blobs.list(super::super::LAYERS).expect("lists").len();
    assert_eq!(layers, store.manifest().layers.len());
    let other = reopen(blobs);
    assert_eq!(whole(&other, &work, work.records[159].position.end), None);
    feed(&store, &work.records[160..]).expect("takes them");
    assert_eq!(store.flush().expect_err("fenced").kind(), BlobErrorKind::Terminal);
    feed(&other, &work.records[160..]).expect("takes them");
    other.flush().expect("writes");
    assert_eq!(whole(&reopen(blobs), &work, work.records[199].position.end), None);
}

#[test]
fn a_timeline_lives_in_every_backend() {
    let dir = tempfile::tempdir().expect("a directory");
    let storage = Storage::local(dir.path().to_owned(), Arc::new(FsDisk));
    lives(&storage::timeline(&storage, empty().id()).expect("directories"));
    lives(&(Arc::new(MemoryBlobs::default()) as Arc<dyn Blobs>));
    for server in S3Server::all() {
        let url = format!("s3://bucket/{:016x}", fastrand::u64(..));
        let runtime = server.runtime.handle().clone();
        let storage = Storage::from_url(&url, variables(&server.url), Arc::new(FsDisk), runtime).expect("a good URL");
        lives(&storage::timeline(&storage, empty().id()).expect("nothing to make"));
    }
}

fn durable(store: &Store) -> Lsn {
    store.durable().borrow().0.lsn()
}

fn reopen(blobs: &Arc<dyn Blobs>) -> Store {
    Store::open(shared(small()).0, blobs.clone()).expect("opens")
}

fn whole(store: &Store, work: &Workload, end: Lsn) -> Option<String> {
    work.difference(&store.snapshot(), Lsn::new(0), end, &[])
}

#[test]
fn a_restart_is_where_the_last_flush_was() {
    let (store, blobs, _) = memory_store(small());
    let work = Workload::new(1, 200, 20);
    let (first, rest) = work.records.split_at(120);
    feed(&store, first).expect("takes them");
    assert_eq!(whole(&store, &work, first[119].position.end), None);
    assert_eq!(durable(&store), Lsn::new(START));
    let flushed = store.flush().expect("writes").lsn();
    assert_eq!(flushed, first[119].position.end);
    feed(&store, &rest[..40]).expect("takes them");
    assert_eq!(whole(&store, &work, rest[39].position.end), None);

    let store = reopen(&blobs);
    assert_eq!(*store.durable().borrow(), (store.durable().borrow().0, first[119].position.start));
    assert_eq!(durable(&store), flushed);
    assert_eq!(whole(&store, &work, flushed), None);
    feed(&store, work.after(flushed)).expect("takes them");
    store.flush().expect("writes");
    assert_eq!(whole(&reopen(&blobs), &work, rest[79].position.end), None);
    assert_eq!(store.manifest().attach(), empty().attach());
}

#[test]
fn a_position_without_versions_becomes_durable_too() {
    let (store, blobs, hand) = memory_store(small());
    let position = Position { end: Lsn::new(START + 800), start: Some(Lsn::new(START + 700)) };
    store.publish(position);
    store.freeze(false);
    assert!(!store.flush_one().expect("nothing is due"));
    hand.move_on(301);
    store.freeze(false);
    store.freeze(false);
    assert!(store.flush_one().expect("writes"));
    assert!(!store.flush_one().expect("once"));
    assert_eq!(durable(&reopen(&blobs)), position.end);
    assert_eq!(store.manifest().layers, []);
}

#[test]
fn memory_is_bounded() {
    let config = StoreConfig { layer_bytes: 20_000, ..small() };
    let (store, _, _) = memory_store(config);
    let work = Workload::new(2, 3000, 20);
    let mut rest = &work.records[..];
    let mut refused = 0;
    while !rest.is_empty() {
        if feed(&store, &rest[..5.min(rest.len())]).is_ok() {
            rest = &rest[5.min(rest.len())..];
            let set = store.snapshot();
            assert!(set.set().frozen.len() <= 2);
            assert!(store.shared.memory.bytes() < 3 * 40_000);
        } else {
            refused += 1;
            assert_eq!(*store.intake().borrow(), Intake::Busy);
            assert!(store.flush_one().expect("writes"));
            assert_eq!(*store.intake().borrow(), Intake::Open);
        }
    }
    assert!(refused > 3, "{refused}");
    store.flush().expect("writes");
    assert_eq!(whole(&store, &work, work.records[2999].position.end), None);
    let shared = store.shared.clone();
    drop(store);
    assert_eq!(shared.memory.bytes(), 0);
}

#[test]
fn little_memory_for_all_makes_small_layers() {
    let config = StoreConfig { layer_bytes: 100_000, memory_bytes: 30_000, ..small() };
    let (store, _, _) = memory_store(config);
    let work = Workload::new(3, 400, 20);
    let mut rest = &work.records[..];
    while feed(&store, &rest[..5]).is_ok() {
        rest = &rest[5..];
    }
    assert!(store.shared.memory.bytes() < 60_000);
    assert_eq!(*store.intake().borrow(), Intake::Busy);
    while store.flush_one().expect("writes") {}
    assert_eq!(*store.intake().borrow(), Intake::Open);
}

#[test]
fn a_full_disk_stops_ingest_until_there_is_space() {
    let disk = FakeDisk::new(1);
    let (shared, _) = shared(small());
    let store = Store::create(shared, on(&disk).expect("directories"), empty()).expect("creates");
    let work = Workload::new(4, 100, 20);
    let (first, rest) = work.records.split_at(80);
    feed(&store, first).expect("takes them");
    disk.limit(Some(1000));
    let error = store.flush().expect_err("full");
    assert_eq!(error.kind(), BlobErrorKind::Full);
    assert!(matches!(&*store.intake().borrow(), Intake::Full(why) if why.contains("layers")), "{error}");
    assert!(matches!(feed(&store, rest), Err(AppendError::NotNow(Intake::Full(_)))));
    assert_eq!(durable(&store), Lsn::new(START));
    assert_eq!(whole(&store, &work, first[79].position.end), None);
    // Room for the layer, not for the manifest.
    disk.limit(Some(error_free_layer_bytes(&store) + 100));
    assert_eq!(store.flush_one().expect_err("full").kind(), BlobErrorKind::Full);
    assert_eq!(durable(&store), Lsn::new(START));
    disk.limit(None);
    while store.flush_one().expect("writes") {}
    assert_eq!(*store.intake().borrow(), Intake::Open);
    feed(&store, rest).expect("takes them");
    store.flush().expect("writes");
    assert_eq!(whole(&store, &work, rest[19].position.end), None);
}

/// A timeline on a disk that is full from then on, its records and how many of them are durable.
fn on_a_full_disk() -> (FakeDisk, Store, Workload) {
    let disk = FakeDisk::new(1);
    let store = Store::create(shared(small()).0, on(&disk).expect("directories"), empty()).expect("creates");
    let work = Workload::new(13, 100, 20);
    for chunk in work.records[..60].chunks(20) {
        feed(&store, chunk).expect("takes them");
        store.flush().expect("writes");
    }
    disk.limit(Some(0));
    (disk, store, work)
}

#[test]
fn a_timeline_opens_on_a_full_disk_and_is_claimed_when_there_is_space() {
    let (disk, old, work) = on_a_full_disk();
    drop(old);
    let blobs = on(&disk).expect("directories");
    // What a writer left that was killed.
    disk.limit(Some(10));
    blobs.create("layers/stray", &[Bytes::from_static(b"left over")]).expect("fits");
    disk.limit(Some(0));
    let before = disk.files();
    let flushed = work.records[59].position.end;
    let (shared, hand) = shared(small());
    let store = Store::open(shared, blobs.clone()).expect("opens");
    assert!(matches!(&*store.intake().borrow(), Intake::Full(why) if why.contains("manifest")));
    assert_eq!(whole(&store, &work, flushed), None);
    for _ in 0..2 {
        assert!(matches!(feed(&store, &work.records[60..80]), Err(AppendError::NotNow(Intake::Full(_)))));
        assert_eq!(store.flush_one().expect_err("full").kind(), BlobErrorKind::Full);
        assert_eq!(store.compact_one().expect_err("full").kind(), BlobErrorKind::Full);
        hand.move_on(1000);
        assert_eq!(store.collect().expect("does nothing"), 0);
        assert_eq!((durable(&store), disk.files()), (Lsn::new(START), before.clone()), "nothing counts yet");
        // Of what was read nothing is in doubt: only the claim waits.
        assert_eq!(store.manifest().disk_consistent_lsn, flushed);
    }
    disk.limit(None);
    assert!(!store.flush_one().expect("claims"));
    assert_eq!((durable(&store), store.intake().borrow().clone()), (flushed, Intake::Open));
    feed(&store, &work.records[60..]).expect("takes them");
    store.flush().expect("writes");
    hand.move_on(1000);
    assert!(store.collect().expect("works") > 0);
    assert!(blobs.get("layers/stray").is_err(), "garbage of before the claim goes as well");
    assert_eq!(whole(&reopen(&blobs), &work, work.records[99].position.end), None);
}

#[test]
fn who_writes_on_while_another_opening_has_no_space_keeps_the_timeline() {
    let (disk, old, work) = on_a_full_disk();
    let new = Store::open(shared(small()).0, on(&disk).expect("directories")).expect("opens");
    disk.limit(None);
    feed(&old, &work.records[60..80]).expect("takes them");
    let end = old.flush().expect("is not fenced").lsn();
    let error = new.claim().expect_err("its manifest is not the newest any more");
    assert_eq!(error.kind(), BlobErrorKind::Terminal);
    assert!(matches!(&*new.intake().borrow(), Intake::Stopped(why) if why.contains("another writer")), "{error}");
    assert_eq!(durable(&new), Lsn::new(START));
    assert!(new.flush_one().is_err() && new.compact_one().is_err());
    assert_eq!(whole(&new, &work, work.records[59].position.end), None);
    feed(&old, &work.records[80..]).expect("takes them");
    old.flush().expect("writes");
    assert_eq!(whole(&old, &work, work.records[99].position.end), None);
    assert!(end < durable(&old));
}

#[test]
fn storage_that_is_away_at_the_opening_is_claimed_later() {
    let (disk, old, work) = on_a_full_disk();
    drop(old);
    disk.limit(None);
    for operation in [IoFault::Write, IoFault::Link] {
        let blobs = on(&disk).expect("directories");
        disk.fail_next(operation);
        let store = Store::open(shared(small()).0, blobs).expect("opens");
        assert!(matches!(&*store.intake().borrow(), Intake::Full(why) if why.contains("injected")));
        assert_eq!(whole(&store, &work, work.records[59].position.end), None);
        store.claim().expect("it is back");
        assert_eq!(*store.intake().borrow(), Intake::Open);
        feed(&store, work.after(durable(&store))).expect("takes them");
    }
}

/// How large the frozen layer is as a file.
fn error_free_layer_bytes(store: &Store) -> u64 {
    let (other, blobs, _) = memory_store(small());
    for frozen in &store.snapshot().set().frozen {
        other.write_layer(frozen).expect("writes");
    }
    blobs.list(super::super::LAYERS).expect("lists").iter().map(|e| e.len).sum()
}

#[test]
fn who_lost_the_timeline_stops_and_can_be_read() {
    let (old, blobs, _) = memory_store(small());
    let work = Workload::new(5, 100, 20);
    feed(&old, &work.records[..50]).expect("takes them");
    let new = reopen(&blobs);
    let error = old.flush().expect_err("fenced");
    assert_eq!(error.kind(), BlobErrorKind::Terminal);
    assert!(matches!(&*old.intake().borrow(), Intake::Stopped(why) if why.contains("another writer")), "{error}");
    assert_eq!(durable(&old), Lsn::new(START));
    assert!(matches!(feed(&old, &work.records[50..]), Err(AppendError::NotNow(Intake::Stopped(_)))));
    assert_eq!(whole(&old, &work, work.records[49].position.end), None);
    assert_eq!(old.collect().expect("does nothing"), 0);
    feed(&new, &work.records).expect("takes them");
    new.flush().expect("writes");
    assert_eq!(whole(&reopen(&blobs), &work, work.records[99].position.end), None);
}

#[test]
fn a_failed_sync_of_names_stops_the_timeline() {
    let disk = FakeDisk::new(1);
    let (shared, _) = shared(small());
    let store = Store::create(shared, on(&disk).expect("directories"), empty()).expect("creates");
    let work = Workload::new(6, 40, 10);
    feed(&store, &work.records).expect("takes them");
    disk.fail_next(IoFault::SyncDir);
    assert_eq!(store.flush().expect_err("injected").kind(), BlobErrorKind::Terminal);
    assert!(matches!(&*store.intake().borrow(), Intake::Stopped(_)));
    assert_eq!(durable(&store), Lsn::new(START));
}

#[test]
fn a_lost_foreign_or_damaged_layer_is_named_and_the_rest_is_readable() {
    let (store, blobs, hand) = memory_store(small());
    let work = Workload::new(7, 80, 10);
    let half = work.records[39].position.end;
    for chunk in work.records.chunks(40) {
        feed(&store, chunk).expect("takes them");
        store.flush().expect("writes");
    }
    drop(store);
    let layers = blobs.list(super::super::LAYERS).expect("lists");
    let name = layers[1].name.clone();
    let bytes = blobs.get(&name).expect("there");
    let (other, other_blobs, _) = memory_store(small());
    feed(&other, &work.records[..20]).expect("takes them");
    other.flush().expect("writes");
    let foreign = other_blobs.get(&other_blobs.list("layers").expect("lists")[0].name).expect("there");
    let mut flipped = bytes.to_vec();
    let end = flipped.len() - 10;
    flipped[end] ^= 1;
    let cases = [(None, "is lost"), (Some(foreign), "not the file"), (Some(flipped.into()), "checksum")];
    for (content, what) in cases {
        blobs.delete(&name).expect("deletes");
        if let Some(content) = content {
            blobs.create(&name, &[content]).expect("creates");
        }
        let store = reopen(&blobs);
        assert_eq!(
            whole(&store, &work, half).filter(|p| !p.contains("above")),
            None,
            "what is older is in the other file"
        );
        let end = work.records[79].position.end;
        let error = store.snapshot().history(Key::first(KeyKind::Control), end).expect_err("damaged").to_string();
        assert!(error.contains(&name) && error.contains(what) && error.contains("lost are keys"), "{error}");
        let scan = store.snapshot().scan(Key::all_of(KeyKind::Control), end);
        assert!(scan.expect_err("damaged").to_string().contains(what));
        // Compaction leaves it alone, and collection too.
        while store.compact_one().expect("works").is_some() {}
        hand.move_on(1000);
        store.collect().expect("works");
        assert!(store.manifest().layers.iter().any(|l| name.ends_with(&l.name)));
    }
    blobs.delete(&name).expect("deletes");
    blobs.create(&name, &[bytes]).expect("creates");
    assert_eq!(whole(&reopen(&blobs), &work, work.records[79].position.end), None);
}

#[test]
fn an_import_is_begun_anew_or_becomes_readable() {
    let (shared, _) = shared(small());
    let blobs: Arc<dyn Blobs> = Arc::new(MemoryBlobs::default());
    let importing = Importing { pages_at: Lsn::new(START), end: None, rest: serde_json::Map::new() };
    let store = Store::create(shared, blobs.clone(), Manifest { importing: Some(importing), ..empty() });
    let store = store.expect("creates");
    let junk = Workload::new(8, 30, 10);
    feed(&store, &junk.records).expect("takes them");
    store.flush().expect("writes");
    feed(&reopen(&blobs), &[]).expect("nothing");

    let store = reopen(&blobs);
    assert!(store.manifest().importing.as_ref().is_some_and(|i| i.end.is_none()));
    let again = Lsn::new(START + 8);
    store.restart_import(again).expect("forgets");
    assert_eq!((durable(&store), store.manifest().layers.len()), (again, 0));
    assert_eq!(Workload::default().difference(&store.snapshot(), again, again, &[]), None);
    assert!(junk.keys().iter().all(|k| store.snapshot().history(*k, Lsn::MAX).expect("reads").versions.is_empty()));

    // Pages at one LSN, then the log.
    let work = Workload::new(9, 60, 10);
    let (pages, log) = work.records.split_at(1);
    let end = log[30].position.end;
    let mut batch = Batch::default();
    for (key, kind, value) in &pages[0].versions {
        batch.put(*key, again, *kind, |out| out.extend_from_slice(value));
    }
    store.append(&mut batch).expect("takes them");
    store.publish(Position { end: again, start: None });
    store.pages_copied(end).expect("writes");
    let copied = reopen(&blobs);
    assert!(pages[0].versions.iter().all(|(k, _, _)| copied.snapshot().history(*k, again).is_ok_and(|h| h.exists())));
    let store = copied;
    feed(&store, pages).expect("takes them");
    assert_eq!(store.manifest().readable_from, end);
    feed(&store, &log[..20]).expect("takes them");
    store.flush().expect("writes");
    let store = reopen(&blobs);
    assert!(store.manifest().importing.as_ref().is_some_and(|i| i.end == Some(end)));
    feed(&store, work.after(durable(&store))).expect("takes them");
    store.flush().expect("writes");
    assert_eq!(store.manifest().importing, None);
    assert_eq!(whole(&reopen(&blobs), &work, work.records[59].position.end), None);
}
