//! The open layer, the set and the cache.

use std::sync::Arc;

use bytes::Bytes;
use pgformat::Lsn;
use pgformat::page::Page;
use pgformat::redo::RedoError;
use pgformat::{PgMajor, redo::rmid};

use crate::cluster::key::{Key, KeyKind};
use crate::cluster::value::{ValueKind, encode_page};
use crate::store::redo::materialise;
use crate::store::testing::layer;
use crate::store::{Batch, BlockCache, History, LayerMap, StoreError, Version, WriteOptions};

fn block(blk: u32) -> Key {
    Key { spc: 1663, db: 5, rel: 16384, blk, ..Key::first(KeyKind::Block) }
}

fn put(batch: &mut Batch, key: Key, lsn: u64, kind: ValueKind, value: &[u8]) {
    batch.put(key, Lsn::new(lsn), kind, |out| out.extend_from_slice(value));
}

fn version(lsn: u64, kind: ValueKind, value: &[u8]) -> Version {
    Version { lsn: Lsn::new(lsn), kind, value: Bytes::copy_from_slice(value) }
}

/// Goal: a batch that does not fit changes nothing. Method: an old version, a second change, in the middle of a batch.
#[test]
fn a_batch_that_does_not_fit_changes_nothing() {
    for (key, lsn) in [(block(1), 79), (block(1), 80), (block(2), 88)] {
        let map = LayerMap::default();
        let mut batch = Batch::default();
        put(&mut batch, block(1), 80, ValueKind::Change, b"one");
        map.append(&mut batch).expect("the first");
        put(&mut batch, block(2), 88, ValueKind::Change, b"two");
        put(&mut batch, key, lsn, ValueKind::Change, b"wrong");
        let e = map.append(&mut batch).expect_err("out of order");
        assert!(matches!(e, StoreError::Order { key: k, .. } if k == key), "{e}");
        assert_eq!(batch.len(), 2);
        let read = |key| map.snapshot().history(key, Lsn::MAX).expect("memory").versions;
        assert_eq!(read(block(1)), [version(80, ValueKind::Change, b"one")]);
        assert_eq!(read(block(2)), []);
        let size = map.snapshot().set().open.size();
        assert_eq!((size.versions, size.chains, size.value_bytes), (1, 1, 3));
        assert_eq!(size.lsns, Some((Lsn::new(80), Lsn::new(80))));
    }
}

/// Goal: a later base of one record replaces the earlier. Method: two sizes of a fork at one LSN, in memory and in a
/// file.
#[test]
fn a_later_base_at_one_lsn_wins() {
    let map = LayerMap::default();
    let key = Key { rel: 5, ..Key::first(KeyKind::RelSize) };
    let mut batch = Batch::default();
    for (lsn, value) in [(80, b"1"), (88, b"2"), (88, b"3")] {
        put(&mut batch, key, lsn, ValueKind::Blob, value);
    }
    map.append(&mut batch).expect("in order");
    let read = || {
        let snapshot = map.snapshot();
        let found = snapshot.scan(Key::all_of(KeyKind::RelSize), Lsn::new(90)).expect("memory");
        assert_eq!(found, [(key, version(88, ValueKind::Blob, b"3"))]);
        [80, 87, 88].map(|lsn| snapshot.blob(key, Lsn::new(lsn)).expect("memory").expect("it is there"))
    };
    assert_eq!(read(), ["1", "1", "3"]);
    let full = map.freeze().expect("it is not empty");
    assert!(map.freeze().is_none());
    assert_eq!(read(), ["1", "1", "3"]);
    let file = layer(full.clone().iter(..), WriteOptions::default(), &BlockCache::new(1 << 20));
    assert_eq!(file.summary().versions, 2);
    map.flushed(&full, vec![file]);
    assert!(map.snapshot().set().frozen.is_empty());
    assert_eq!(read(), ["1", "1", "3"]);
}

/// Goal: what was replaced is left out wherever it stands. Method: 100 pairs behind a single version, so that pairs lie
/// across the ends of what is read together; all keys, and sparse ones only.
#[test]
fn what_was_replaced_is_left_out_of_the_stream() {
    let map = LayerMap::default();
    let key = Key { rel: 5, ..Key::first(KeyKind::RelSize) };
    let mut batch = Batch::default();
    put(&mut batch, key, 8, ValueKind::Blob, b"new");
    for n in 2..102 {
        put(&mut batch, key, n * 8, ValueKind::Blob, b"old");
        put(&mut batch, key, n * 8, ValueKind::Blob, b"new");
    }
    map.append(&mut batch).expect("in order");
    let open = map.snapshot().set().open.clone();
    for versions in [open.clone().iter(..), open.iter(Key::all_of(KeyKind::RelSize))] {
        let expected = (1..102).map(|n| (key, version(n * 8, ValueKind::Blob, b"new")));
        assert!(versions.eq(expected));
    }
}

/// Goal: an image made by compaction and the change that it came from count once. Method: both at one LSN, in two
/// layers, in either order.
#[test]
fn an_image_stands_for_the_change_at_its_lsn() {
    let cache = BlockCache::new(1 << 20);
    let change = |lsn| (block(1), version(lsn, ValueKind::Change, b"change"));
    let image = (block(1), version(88, ValueKind::Image, b"image"));
    let old = layer([change(80), change(88), change(96)], WriteOptions::default(), &cache);
    let new = layer([image.clone()], WriteOptions::default(), &cache);
    let map = LayerMap::new(vec![new, old]);
    let mut set = map.snapshot().set().clone();
    for _ in 0..2 {
        let read = |lsn| super::super::Snapshot::new(Arc::new(set.clone())).history(block(1), Lsn::new(lsn));
        assert_eq!(read(100).expect("memory").versions, [image.1.clone(), change(96).1]);
        assert_eq!(read(88).expect("memory").versions, std::slice::from_ref(&image.1));
        assert_eq!(read(87).expect("memory").versions, [change(80).1]);
        set.layers.reverse();
    }
}

/// Goal: a snapshot does not change. Method: taken, then frozen, flushed, written to.
#[test]
fn a_snapshot_keeps_its_layers() {
    let map = LayerMap::default();
    let mut batch = Batch::default();
    put(&mut batch, block(1), 80, ValueKind::Image, b"");
    map.append(&mut batch).expect("in order");
    let before = map.snapshot();
    let full = map.freeze().expect("it is not empty");
    let file = layer(full.clone().iter(..), WriteOptions::default(), &BlockCache::new(1 << 20));
    map.flushed(&full, vec![file.clone()]);
    map.replace(&[file], Vec::new());
    put(&mut batch, block(1), 88, ValueKind::Change, b"x");
    map.append(&mut batch).expect("in order");
    let read = |s: &crate::store::Snapshot| s.history(block(1), Lsn::MAX).expect("memory").versions.len();
    assert_eq!((read(&before), read(&map.snapshot())), (1, 1));
    assert!(before.history(block(1), Lsn::MAX).expect("memory").newest().is_some_and(|v| v.kind == ValueKind::Image));
}

/// Goal: the cache stays within its bound. Method: four times as many blocks as fit.
#[test]
fn the_cache_is_bounded() {
    let cache = BlockCache::new(1 << 20);
    let versions = (0..4096).map(|n| (block(n), version(80, ValueKind::Image, &[n as u8; 1024])));
    let file = layer(versions, WriteOptions { block_bytes: 8192, ..WriteOptions::default() }, &cache);
    let snapshot = LayerMap::new(vec![file]).snapshot();
    for n in 0..4096 {
        assert_eq!(snapshot.history(block(n), Lsn::MAX).expect("memory").versions.len(), 1);
    }
    let stats = cache.stats();
    assert!(stats.bytes <= stats.capacity && stats.capacity <= 1 << 20, "{stats:?}");
    assert!(stats.bytes > stats.capacity / 2 && stats.misses >= 4096 / 8, "{stats:?}");
}

/// Goal: pages come out of histories, and errors name key and LSN. Method: an image, zeros, a tombstone, a change of an
/// unknown resource manager, metadata.
#[test]
fn pages_are_rebuilt_or_the_version_is_named() {
    let mut page = Page::default();
    page.init(16);
    page.set_lsn(Lsn::new(70));
    let mut image = Vec::new();
    encode_page(&page, &mut image);
    let history = |versions| History { key: block(3), lsn: Lsn::new(100), versions };
    let rebuild = |versions| materialise(&history(versions), PgMajor::new(16).expect("a supported major"));
    let image = version(80, ValueKind::Image, &image);
    assert!(*rebuild(vec![image.clone()]).expect("an image") == page);
    assert!(rebuild(vec![]).expect("nothing").is_zero());
    let gone = version(88, ValueKind::Tombstone, b"");
    assert!(rebuild(vec![image.clone(), gone]).expect("gone").is_zero());
    let unknown = version(88, ValueKind::Change, &[200, 0x10, 0, 0]);
    let failure = rebuild(vec![image.clone(), unknown.clone()]).expect_err("nobody knows 200");
    assert_eq!((failure.key, failure.lsn), (block(3), Lsn::new(88)));
    assert_eq!(failure.cause, RedoError::Unknown { rmid: 200, info: 0x10 });
    let change = version(88, ValueKind::Change, &[rmid::HEAP, 0, 0, 0]);
    assert_eq!(rebuild(vec![change]).expect_err("no base").cause, RedoError::NewPage);
    assert!(rebuild(vec![version(80, ValueKind::Image, b"abc")]).is_err());
    assert!(rebuild(vec![version(80, ValueKind::Blob, b"")]).is_err());
}
