//! The contract of [`Blobs`], checked for every implementation, and what is special to one.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Barrier};

use blobs::{BlobError, BlobErrorKind, Blobs, Creation, LocalBlobs, MemoryBlobs, Storage};
use bytes::Bytes;
use disk::{FakeDisk, FsDisk, IoFault, Lie};
use s3_server::{S3Server, variables};

const BELOW: [&str; 2] = ["tenant", "timeline"];
const FOLDERS: [&str; 2] = ["manifest", "layers"];

fn local(dir: &Path) -> Arc<dyn Blobs> {
    Storage::local(dir.to_owned(), Arc::new(FsDisk)).blobs(&BELOW, &FOLDERS).expect("directories")
}

fn fake(disk: &FakeDisk) -> LocalBlobs {
    LocalBlobs::new(Arc::new(disk.clone()), Path::new("/data"), &BELOW, &FOLDERS).expect("directories")
}

/// Blobs on a service, below a prefix that is made unique.
fn s3(server: &S3Server, prefix: &str) -> Arc<dyn Blobs> {
    let url = format!("s3://bucket/{prefix}{:016x}", fastrand::u64(..));
    let runtime = server.runtime.handle().clone();
    let storage = Storage::from_url(&url, variables(&server.url), Arc::new(FsDisk), runtime).expect("a good URL");
    storage.blobs(&BELOW, &FOLDERS).expect("nothing to make")
}

fn one(text: &'static str) -> [Bytes; 1] {
    [Bytes::from_static(text.as_bytes())]
}

/// Everything that one process sees of the contract.
fn conforms(blobs: &dyn Blobs) {
    let kind = |r: Result<Bytes, BlobError>| r.expect_err("an error").kind;
    assert_eq!(blobs.list("layers").expect("a listing"), []);
    assert_eq!(kind(blobs.get("layers/a")), BlobErrorKind::NotFound);
    assert_eq!(blobs.open("layers/a").err().expect("nothing there").kind, BlobErrorKind::NotFound);
    blobs.delete("layers/a").expect("nothing to delete is no error");

    let parts = [&b"one "[..], &b""[..], &b"two"[..]].map(Bytes::from_static);
    assert_eq!(blobs.create("layers/a", &parts).expect("creates"), Creation::New);
    assert_eq!(blobs.create("layers/a", &one("other")).expect("decides"), Creation::AlreadyExists);
    assert_eq!(blobs.get("layers/a").expect("reads"), "one two");
    assert_eq!(blobs.create("layers/empty", &[]).expect("creates"), Creation::New);
    assert_eq!(blobs.get("layers/empty").expect("reads"), "");

    // Larger than one write, and in parts of all sizes.
    let pattern: Bytes = (0..3_000_001_u32).map(|i| ((i * 7) >> 3) as u8).collect::<Vec<_>>().into();
    let parts = [pattern.slice(..5), pattern.slice(5..2_200_000), pattern.slice(2_200_000..)];
    assert_eq!(blobs.create("layers/large", &parts).expect("creates"), Creation::New);
    let large = blobs.open("layers/large").expect("opens");
    assert_eq!(large.len(), 3_000_001);
    assert!(large.name().contains("layers/large"));
    for (offset, len) in [(0, 1), (1_048_570, 20), (2_999_990, 11), (17, 0)] {
        let read = large.read_at(offset, len).expect("within");
        assert_eq!(read, pattern.slice(offset as usize..offset as usize + len));
    }
    assert_eq!(large.read_at(2_999_990, 12).expect_err("beyond").kind(), std::io::ErrorKind::UnexpectedEof);
    assert!(blobs.get("layers/large").expect("reads") == pattern);

    for i in 0..20 {
        assert_eq!(blobs.create(&format!("manifest/{i:016x}"), &one("m")).expect("creates"), Creation::New);
    }
    let names: Vec<String> = blobs.list("manifest").expect("lists").into_iter().map(|e| e.name).collect();
    assert_eq!(names, (0..20).map(|i| format!("manifest/{i:016x}")).collect::<Vec<_>>());
    let lens: Vec<u64> = blobs.list("layers").expect("lists").into_iter().map(|e| e.len).collect();
    assert_eq!(lens, [7, 0, 3_000_001]);

    blobs.delete("layers/a").expect("deletes");
    assert_eq!(kind(blobs.get("layers/a")), BlobErrorKind::NotFound);
    assert_eq!(blobs.create("layers/a", &one("again")).expect("creates"), Creation::New);
    blobs.clean("layers").expect("nothing to clean");
    for bad in ["a", "layers/../a", "layers/.a", "/a", "layers/", "layers/a/b", "layers/a b", ""] {
        assert_eq!(kind(blobs.get(bad)), BlobErrorKind::Terminal, "{bad}");
        assert_eq!(blobs.create(bad, &one("x")).expect_err("refused").kind, BlobErrorKind::Terminal, "{bad}");
    }
}

/// Rounds of creations under one name by several threads that did not have exactly one winner, or kept another's bytes.
fn wrong_rounds(blobs: &dyn Blobs, rounds: u32) -> u32 {
    const WRITERS: u64 = 8;
    let wrong = (0..rounds).filter(|round| {
        let name = format!("manifest/{round:016x}");
        let barrier = Barrier::new(WRITERS as usize);
        let body = |writer: u64| Bytes::from(vec![writer as u8; 1000]);
        let winners: Vec<u64> = std::thread::scope(|scope| {
            let (name, barrier) = (&name, &barrier);
            let spawn = |writer| {
                scope.spawn(move || {
                    barrier.wait();
                    let created = blobs.create(name, &[body(writer)]).expect("decides");
                    (created == Creation::New).then_some(writer)
                })
            };
            let threads: Vec<_> = (0..WRITERS).map(spawn).collect();
            threads.into_iter().filter_map(|t| t.join().expect("no panic")).collect()
        });
        winners.len() != 1 || blobs.get(&name).expect("created") != body(winners[0])
    });
    u32::try_from(wrong.count()).expect("at most rounds")
}

#[test]
fn every_implementation_conforms() {
    let dir = tempfile::tempdir().expect("a directory");
    conforms(&*local(dir.path()));
    conforms(&fake(&FakeDisk::new(1)));
    conforms(&MemoryBlobs::default());
    for server in S3Server::all() {
        conforms(&*s3(&server, "deep/prefix/"));
        conforms(&*s3(&server, ""));
    }
}

#[test]
fn exactly_one_creation_wins() {
    let dir = tempfile::tempdir().expect("a directory");
    assert_eq!(wrong_rounds(&*local(dir.path()), 100), 0);
    assert_eq!(wrong_rounds(&MemoryBlobs::default(), 200), 0);
    // The service of this test decides; others are asked about the protocol, not about races.
    assert_eq!(wrong_rounds(&*s3(&S3Server::start(), "race/"), 150), 0);
}

#[test]
fn the_race_test_notices_creations_that_replace() {
    assert!(wrong_rounds(&fake(&FakeDisk::lying(1, &[Lie::LinkReplaces])), 50) > 0);
    let server = S3Server::start();
    server.objects.races.store(true, Ordering::Relaxed);
    assert!(wrong_rounds(&*s3(&server, "race/"), 150) > 0);
}

#[test]
fn a_lost_answer_shows_as_existing_with_our_bytes() {
    let server = S3Server::start();
    let blobs = s3(&server, "lost/");
    server.objects.lost_answers.store(1, Ordering::Relaxed);
    // The library repeats the request after the error.
    assert_eq!(blobs.create("layers/a", &one("mine")).expect("decides"), Creation::AlreadyExists);
    assert_eq!(blobs.get("layers/a").expect("reads"), "mine");
}

#[test]
fn what_was_created_survives_every_power_loss() {
    assert_eq!(lost_after_power_loss(&[]), 0);
    assert!(lost_after_power_loss(&[Lie::NoFsync]) > 0);
    assert!(lost_after_power_loss(&[Lie::NoDirSync]) > 0);
}

/// Power losses, at every point and in several ways, after which something that was created is not there, or something
/// that is there is not whole.
fn lost_after_power_loss(lies: &[Lie]) -> u32 {
    let names = ["layers/a", "manifest/1", "layers/b"];
    let mut bad = 0;
    let mut point = 0;
    loop {
        let disk = FakeDisk::lying(1, lies);
        disk.die_at(point);
        let blobs = LocalBlobs::new(Arc::new(disk.clone()), Path::new("/data"), &["t", "l"], &FOLDERS);
        let created: Vec<&str> = match &blobs {
            Ok(blobs) => names.into_iter().filter(|name| blobs.create(name, &one("0123456789")).is_ok()).collect(),
            Err(_) => vec![],
        };
        for seed in 0..8 {
            let disk = disk.after_power_loss(&mut fastrand::Rng::with_seed(seed));
            let blobs = LocalBlobs::new(Arc::new(disk.clone()), Path::new("/data"), &["t", "l"], &FOLDERS);
            let blobs = blobs.expect("directories");
            FOLDERS.iter().for_each(|folder| blobs.clean(folder).expect("cleans"));
            let missing = created.iter().any(|name| blobs.get(name).is_err());
            let listed: Vec<_> = FOLDERS.iter().flat_map(|f| blobs.list(f).expect("lists")).collect();
            let torn = listed.iter().any(|e| blobs.get(&e.name).ok().is_none_or(|b| b != "0123456789"));
            let litter = disk.files().len() != listed.len();
            bad += u32::from(missing || torn || litter);
        }
        if created.len() == names.len() {
            return bad;
        }
        point += 1;
    }
}

#[test]
fn errors_say_what_to_do() {
    let disk = FakeDisk::new(1);
    let blobs = fake(&disk);
    disk.limit(Some(3));
    let full = blobs.create("layers/a", &one("12345")).expect_err("no room");
    assert_eq!(full.kind, BlobErrorKind::Full);
    assert!(full.to_string().contains("/data/tenant/timeline/layers/"), "{full}");
    assert!(disk.files().is_empty(), "what does not fit is removed");
    disk.limit(None);
    for (operation, kind) in [
        (IoFault::Write, BlobErrorKind::Retryable),
        (IoFault::Sync, BlobErrorKind::Retryable),
        (IoFault::Link, BlobErrorKind::Retryable),
        (IoFault::SyncDir, BlobErrorKind::Terminal),
    ] {
        disk.fail_next(operation);
        assert_eq!(blobs.create("layers/b", &one("x")).expect_err("injected").kind, kind, "{operation:?}");
        assert_eq!(
            disk.files().contains(&PathBuf::from("/data/tenant/timeline/layers/b")),
            operation == IoFault::SyncDir
        );
    }
}

#[test]
fn a_url_says_where() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let parse = |url: &str| {
        let variables = variables("http://127.0.0.1:1");
        Storage::from_url(url, variables, Arc::new(FsDisk), runtime.handle().clone())
    };
    for good in ["file:///tmp/x", "s3://bucket", "s3://bucket/", "s3://bucket/a/b/"] {
        assert!(parse(good).is_ok(), "{good}");
    }
    for bad in ["/tmp/x", "file://tmp/x", "s3:///x", "s3://b//x", "gs://b"] {
        let error = parse(bad).expect_err("refused").to_string();
        assert!(error.contains(bad), "{error}");
    }
}

#[test]
fn a_removed_set_leaves_nothing_and_touches_no_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let storage = Storage::local(dir.path().to_owned(), Arc::new(FsDisk));
    let (gone, kept) = (["tenant", "gone"], ["tenant", "kept"]);
    for below in [gone, kept] {
        let blobs = storage.blobs(&below, &FOLDERS).expect("directories");
        for name in ["layers/a", "manifest/1"] {
            assert_eq!(blobs.create(name, &one("x")).expect("creates"), Creation::New);
        }
    }
    for _ in 0..2 {
        storage.remove(&gone, &FOLDERS).expect("removes, also what is gone already");
        assert!(!dir.path().join("tenant/gone").exists());
    }
    assert_eq!(storage.blobs(&kept, &FOLDERS).expect("directories").get("layers/a").expect("there"), "x");
    assert_eq!(storage.blobs(&["..", "x"], &FOLDERS).expect_err("no name").kind, BlobErrorKind::Terminal);
}

/// Goal: a volume that is not mounted is no empty storage. Method: a base directory that is not there.
#[test]
fn a_base_that_is_gone_is_not_made_up() {
    let disk = FakeDisk::new(1);
    let gone = Path::new("/data/volume");
    let error = LocalBlobs::new(Arc::new(disk.clone()), gone, &BELOW, &FOLDERS).expect_err("refused");
    assert_eq!(error.kind, BlobErrorKind::NotFound);
    assert!(!disk::Disk::exists(&disk, gone).expect("known"));
}
