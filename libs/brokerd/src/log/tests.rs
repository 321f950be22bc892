//! The files: round trips, torn ends, damage, rewriting, and the golden file of version 1.

use etcd_client::proto::{PbDeleteRequest, PbKeyValue, PbPutRequest};
use proptest::prelude::*;

use super::*;

fn put(store: &mut KeyStore, key: &str, value: &[u8], lease: i64) {
    let request = PbPutRequest { key: key.into(), value: value.to_vec(), lease, ..PbPutRequest::default() };
    store.put(&request, 0).expect("put");
}

fn delete(store: &mut KeyStore, key: &str) {
    store.delete_range(&PbDeleteRequest { key: key.into(), ..PbDeleteRequest::default() }, 0).expect("delete");
}

fn open(dir: &Path) -> Opened {
    StoreLog::open(dir, 0xC1, 0).expect("the log opens")
}

/// One batch of changes, logged.
fn log(opened: &mut Opened, work: impl FnOnce(&mut KeyStore)) {
    work(&mut opened.store);
    let changes = opened.store.take_changes();
    opened.log.append(&changes).expect("append");
}

/// A directory with a lease and three batches.
fn filled(dir: &Path) -> KeyStore {
    let mut opened = open(dir);
    log(&mut opened, |store| drop(store.grant(0xA, 10, 0)));
    log(&mut opened, |store| {
        put(store, "a", b"1", 0xA);
        put(store, "b", b"2", 0);
    });
    log(&mut opened, |store| delete(store, "b"));
    opened.store
}

fn path_of(dir: &Path) -> PathBuf {
    newest_file(dir).expect("directory").expect("a file").1
}

fn keys(store: &KeyStore) -> Vec<(Vec<u8>, i64, i64)> {
    store.keys().map(|kv| (kv.key.clone(), kv.mod_revision, kv.lease)).collect()
}

#[test]
fn what_was_logged_is_there_again_and_starts_are_counted() {
    let dir = tempfile::tempdir().expect("temp dir");
    let before = filled(dir.path());
    let opened = open(dir.path());
    assert_eq!((keys(&opened.store), opened.store.revision()), (keys(&before), 4));
    assert_eq!(opened.store.identity(), Identity { cluster: 0xC1, boots: 2 });
    assert!(opened.store.has_lease(0xA) && opened.store.next_end() == Some(10_000), "a lease has its full time again");
    let history = opened.history.from(2, usize::MAX).expect("it is there");
    assert_eq!(
        history.iter().map(|commit| (commit.revision, commit.events.len())).collect::<Vec<_>>(),
        [(2, 1), (3, 1), (4, 1)]
    );
}

#[test]
fn a_torn_end_is_cut_off_wherever_it_was_torn() {
    let whole = tempfile::tempdir().expect("temp dir");
    filled(whole.path());
    let bytes = fs::read(path_of(whole.path())).expect("file");
    let mut opened = open(whole.path());
    let sealed = length_of(&bytes);
    assert!(opened.log.length > sealed);
    log(&mut opened, |store| put(store, "torn", b"3", 0));
    let longer = fs::read(path_of(whole.path())).expect("file");
    let start = longer.len() - (longer.len() - bytes.len()) / 2;
    for end in start..longer.len() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join(file_name(1));
        fs::write(&path, &longer[..end]).expect("file");
        assert_eq!(open(dir.path()).store.revision(), 4, "cut at {end} of {}", longer.len());
        assert_eq!(open(dir.path()).store.revision(), 4, "and it goes on from there");
        // Pages that never reached the disk read as zeros.
        let mut zeros = longer[..end].to_vec();
        zeros.resize(longer.len(), 0);
        let dir = tempfile::tempdir().expect("temp dir");
        fs::write(dir.path().join(file_name(1)), &zeros).expect("file");
        assert_eq!(open(dir.path()).store.revision(), if zeros == longer { 5 } else { 4 });
    }
}

#[test]
fn damage_in_the_middle_is_refused_and_nothing_is_changed() {
    let dir = tempfile::tempdir().expect("temp dir");
    filled(dir.path());
    let path = path_of(dir.path());
    let good = fs::read(&path).expect("file");
    let last_frame = good.windows(4).rposition(|window| window == b"WFbf").expect("frames");
    for at in 0..last_frame {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(&path, &bad).expect("file");
        let Err(error) = StoreLog::open(dir.path(), 0xC1, 0) else { panic!("byte {at} was flipped unnoticed") };
        assert!(matches!(error, LogError::Damaged { .. }), "{error}");
        assert_eq!(fs::read(&path).expect("file"), bad);
    }
}

#[test]
fn an_unknown_version_is_refused() {
    let dir = tempfile::tempdir().expect("temp dir");
    filled(dir.path());
    let path = path_of(dir.path());
    let mut bytes = fs::read(&path).expect("file");
    bytes[8] = 2;
    fs::write(&path, &bytes).expect("file");
    let Err(error) = StoreLog::open(dir.path(), 0xC1, 0) else { panic!("version 2 was accepted") };
    assert!(error.to_string().contains("version 2 is not known"), "{error}");
    fs::write(&path, b"something else").expect("file");
    let Err(error) = StoreLog::open(dir.path(), 0xC1, 0) else { panic!("a foreign file was accepted") };
    assert!(error.to_string().contains("not a file of the embedded broker"), "{error}");
}

#[test]
fn a_grown_file_is_rewritten_and_left_overs_go() {
    let dir = tempfile::tempdir().expect("temp dir");
    filled(dir.path());
    let mut opened = open(dir.path());
    let value = vec![7; 1 << 20];
    let mut rounds = 0;
    while !opened.log.wants_rewrite() {
        log(&mut opened, |store| put(store, "large", &value, 0xA));
        rounds += 1;
        assert!(rounds < 10, "it grows without end");
    }
    let log = opened.log.rewrite(&opened.store).expect("rewrite");
    assert!(!log.wants_rewrite());
    let names = || paths(dir.path()).expect("directory").len();
    assert_eq!(names(), 1, "the old file is gone");
    drop(log);
    // A crash during the next rewrite leaves an incomplete file or, after the rename, the old one.
    fs::write(dir.path().join("broker-0000000000000003.tmp"), b"half").expect("file");
    fs::write(dir.path().join(file_name(1)), b"old").expect("file");
    let again = open(dir.path());
    assert_eq!((keys(&again.store), again.store.revision()), (keys(&opened.store), opened.store.revision()));
    let history = again.history.from(again.store.revision() + 1, usize::MAX).expect("nothing is asked for");
    assert_eq!((again.store.identity().boots, history.len(), names()), (3, 0, 1));
}

/// A file with every kind of record and operation.
fn golden(dir: &Path) -> PathBuf {
    filled(dir);
    let Opened { log: old, store, .. } = open(dir);
    drop(old.rewrite(&store).expect("rewrite"));
    let mut opened = open(dir);
    log(&mut opened, |store| drop(store.grant(0xB, 3, 0)));
    log(&mut opened, |store| put(store, "c", b"\x00\xff", 0xB));
    log(&mut opened, |store| {
        delete(store, "c");
        store.revoke(0xA, 0).expect("revoke");
        store.compact(5, 0).expect("compact");
    });
    path_of(dir)
}

/// The bytes of version 1 never change: docs/formats.md describes this file.
#[test]
fn golden_file_of_version_1() {
    let bytes = include_bytes!("golden-v1.log");
    let dir = tempfile::tempdir().expect("temp dir");
    let written = fs::read(golden(dir.path())).expect("file");
    assert!(written == bytes, "the format changed: {}", written.iter().map(|b| format!("{b:02x}")).collect::<String>());
    let dir = tempfile::tempdir().expect("temp dir");
    fs::write(dir.path().join(file_name(2)), bytes).expect("file");
    let opened = open(dir.path());
    assert_eq!(keys(&opened.store), []);
    assert_eq!((opened.store.revision(), opened.store.compacted(), opened.store.identity().boots), (7, 5, 4));
    assert_eq!(opened.store.leases().map(|(lease, _)| lease).collect::<Vec<_>>(), [0xB]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = FileHeader::decode(&bytes);
        let _ = format::frame_at(&bytes);
        let _ = LogRecord::decode_all(&bytes);
        let mut payload = bytes.clone();
        payload.insert(0, 4);
        let _ = LogRecord::decode_all(&payload);
    }

    #[test]
    fn records_survive_a_round_trip(
        lease in any::<i64>(),
        ttl_s in any::<i64>(),
        key in any::<Vec<u8>>(),
        value in any::<Vec<u8>>(),
    ) {
        use super::super::store::StoreOp;
        let ops = vec![
            StoreOp::Put { lease, key: key.clone(), value: value.clone() },
            StoreOp::Delete { key: key.clone() },
            StoreOp::Grant { lease, ttl_s },
            StoreOp::Revoke { lease },
            StoreOp::Compact { revision: ttl_s },
        ];
        let kv = PbKeyValue { key, value, lease, mod_revision: ttl_s, create_revision: 1, version: 2 };
        let records = vec![
            LogRecord::Base { revision: lease, compacted: ttl_s, boots: 1, leases: 2, keys: 3 },
            LogRecord::Lease { lease, ttl_s },
            LogRecord::Key(kv),
            LogRecord::Change { revision: ttl_s, ops },
            LogRecord::Boot { boots: 9 },
        ];
        let mut bytes = Vec::new();
        records.iter().for_each(|record| record.encode(&mut bytes));
        prop_assert_eq!(LogRecord::decode_all(&bytes), Ok(records));
        let frame = format::frame(5, &bytes);
        prop_assert_eq!(format::frame_at(&frame), Some((5, bytes.as_slice())));
    }
}
