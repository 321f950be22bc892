//! Manifests one step at a time: the file, claims, fencing, collection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use blobs::MemoryBlobs;
use pgformat::{SegSize, Tli};
use proto::api::{AttachRequest, PgHistoryEntry};
use proto::id::{SystemId, TenantId, TenantTimelineId, TimelineId};
use serde_json::json;

use super::*;
use crate::cluster::key::{Key, KeyKind};

const GRACE: Duration = Duration::from_secs(60);

/// A clock that the test moves.
#[derive(Clone, Default)]
pub(super) struct Hand(Arc<AtomicU64>);

impl Hand {
    pub(super) fn clock(&self) -> Clock {
        let seconds = self.0.clone();
        Clock::new(move || Duration::from_secs(seconds.load(Ordering::Relaxed)))
    }

    pub(super) fn move_on(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

pub(super) fn first() -> Manifest {
    let id = TenantTimelineId::new(TenantId::new([1; 16]), TimelineId::new([2; 16]));
    let attach = AttachRequest {
        start_lsn: Lsn::new(0x0100_0028),
        pg_version_num: 150_004,
        system_id: SystemId(7_000_000_000_000_000_001),
        wal_seg_size: SegSize::new(16 << 20).expect("possible"),
        pg_history: vec![PgHistoryEntry { tli: Tli(1), start_lsn: Lsn::new(0) }],
    };
    let manifest = Manifest::new(id, &attach);
    assert_eq!((manifest.id(), manifest.attach()), (id, attach));
    manifest
}

fn full() -> Manifest {
    let key = HexKey(Key::first(KeyKind::Control));
    let rest = serde_json::Map::new();
    let layer = LayerEntry {
        name: "0000000000000001-a".into(),
        bytes: 1 << 40,
        keys: [key, key],
        lsns: [Lsn::new(1), Lsn::new(u64::MAX)],
        level: 1,
        run: u64::MAX,
        versions: 9,
        chains: 3,
        checksum: u32::MAX,
        cleaned_to: Some(Lsn::new(4)),
        rest: rest.clone(),
    };
    let importing = Importing { pages_at: Lsn::new(5), end: None, rest: rest.clone() };
    let lease = VersionLease { name: "backup".into(), lsn: Lsn::new(6), until: Some(u64::MAX), rest };
    Manifest { layers: vec![layer], importing: Some(importing), leases: vec![lease], ..first() }
}

#[test]
fn unknown_fields_survive_on_every_level() {
    let mut json = serde_json::to_value(full()).expect("JSON");
    let add = |value: &mut serde_json::Value| {
        let fields = value.as_object_mut().expect("an object");
        fields.insert("from_the_future".into(), json!({"deep": [1, null, u64::MAX]}));
    };
    add(&mut json);
    for path in ["/origin", "/importing", "/layers/0", "/leases/0", "/origin/pg_history/0"] {
        add(json.pointer_mut(path).expect("there"));
    }
    let read: Manifest = serde_json::from_value(json.clone()).expect("understood");
    let again = file::decode(&file::encode(&read, 8), 8).expect("a manifest");
    assert_eq!(again, read);
    assert_eq!(serde_json::to_value(again).expect("JSON"), json);
}

#[test]
fn every_flipped_bit_is_noticed() {
    let bytes = file::encode(&full(), 0x1234);
    assert_eq!(file::decode(&bytes, 0x1234).expect("good"), full());
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(file::decode(&flipped, 0x1234).is_err(), "bit {bit}");
    }
    for len in 0..bytes.len() {
        assert!(file::decode(&bytes[..len], 0x1234).is_err(), "{len} bytes");
    }
    assert!(matches!(file::decode(&bytes, 0x1235), Err(ManifestFileError::Damaged { offset: 16, .. })));
    let changed = |at: usize, value: u32| {
        let mut bytes = bytes.to_vec();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let body = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..body]);
        bytes[body..].copy_from_slice(&crc.to_le_bytes());
        file::decode(&bytes, 0x1234)
    };
    assert_eq!(changed(8, 2), Err(ManifestFileError::Version(2)));
    assert_eq!(changed(12, 0x5), Err(ManifestFileError::Features(0x4)));
    assert!(matches!(changed(24, 1), Err(ManifestFileError::Damaged { offset: 24, .. })));
}

fn set_choice(manifests: &mut Manifests, choice: u64) -> Result<(), ManifestError> {
    manifests.advance(|m| m.choice_seq = choice)
}

#[test]
fn a_timeline_is_created_once_and_opened_by_one() {
    let memory: Arc<dyn Blobs> = Arc::new(MemoryBlobs::default());
    let clock = Hand::default().clock();
    let open = || Manifests::open(memory.clone(), clock.clone(), GRACE);
    assert!(matches!(open(), Err(ManifestError::Missing)));
    let a = Manifests::create(memory.clone(), clock.clone(), GRACE, first()).expect("creates");
    let mut a = Ownership::Held(Box::new(a));
    let second = Manifests::create(memory.clone(), clock.clone(), GRACE, first());
    assert!(matches!(second, Err(ManifestError::Exists(1))));
    let mut choose = |choice| a.advance(|m| m.choice_seq = choice);
    choose(1).expect("advances");
    choose(1).expect("nothing to do");
    let mut b = open().expect("takes over");
    assert_eq!((b.number(), b.current().choice_seq), (3, 1));
    assert!(matches!(choose(2), Err(ManifestError::Fenced(Fenced { number: 3 }))));
    set_choice(&mut b, 3).expect("advances");
    // For good, also when the number that it lost is free again.
    memory.delete(&name(3)).expect("deletes");
    assert!(matches!(choose(2), Err(ManifestError::Fenced(Fenced { number: 3 }))));
    assert!(a.counting().is_none() && a.begin_sweep().is_none());
}

fn sweep(manifests: &mut Manifests) -> usize {
    let mut sweep = manifests.begin_sweep().expect("nothing is unknown");
    let deleted = sweep.run().expect("deletes");
    manifests.end_sweep(sweep);
    deleted
}

#[test]
fn a_writer_that_slept_through_collection_is_refused() {
    let memory: Arc<dyn Blobs> = Arc::new(MemoryBlobs::default());
    let hand = Hand::default();
    let mut sleeper = Manifests::create(memory.clone(), hand.clock(), GRACE, first()).expect("creates");
    let mut other = Manifests::open(memory.clone(), hand.clock(), GRACE).expect("takes over");
    for choice in 1..20 {
        set_choice(&mut other, choice).expect("advances");
    }
    let numbers = || memory.list(FOLDER).expect("lists").len();
    assert_eq!((sweep(&mut other), numbers()), (0, 21));
    hand.move_on(61);
    assert_eq!((sweep(&mut other), numbers()), (20, 1));
    // Number 2 is free, so that its creation succeeds; only the listing tells.
    let woken = sleeper.advance(|m| m.disk_consistent_lsn = Lsn::new(1 << 40));
    assert!(matches!(woken, Err(ManifestError::Fenced(Fenced { number: 21 }))), "{woken:?}");
    assert!(memory.get(&name(2)).is_ok());
    assert_eq!(sleeper.durable().lsn(), first().origin.start_lsn);
    set_choice(&mut other, 77).expect("undisturbed");
    let (number, highest) = read_highest(&memory, &hand.clock(), GRACE).expect("reads").expect("one");
    assert_eq!((number, highest.choice_seq), (22, 77));
    // What the sleeper left is collected in its turn.
    sweep(&mut other);
    hand.move_on(61);
    assert_eq!((sweep(&mut other), numbers()), (2, 1));
}

#[test]
fn a_damaged_manifest_is_named_and_not_replaced() {
    let memory = MemoryBlobs::default();
    let clock = Hand::default().clock();
    let blobs: Arc<dyn Blobs> = Arc::new(memory.clone());
    drop(Manifests::create(blobs.clone(), clock.clone(), GRACE, first()).expect("creates"));
    memory.flip(&name(1), 50);
    let error = Manifests::open(blobs, clock, GRACE).expect_err("damaged");
    assert_eq!(error.kind(), BlobErrorKind::Terminal);
    assert!(error.to_string().starts_with("manifest 0000000000000001 is damaged at offset"), "{error}");
}
