//! One thread appends, one freezes, flushes and merges, others read: what was published is always there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pgformat::Lsn;

use crate::cluster::key::{Key, KeyKind};
use crate::cluster::value::ValueKind;
use crate::store::layer::Through;
use crate::store::merge::{LayerIter, merge};
use crate::store::testing::layer;
use crate::store::{Batch, BlockCache, LayerMap, WriteOptions};

/// Batches, each with one version of every key.
const BATCHES: u64 = 3000;
const KEYS: u32 = 5;
/// A batch with a base of every key, every so many.
const BASES: u64 = 7;
/// Batches by which the appending may be ahead of each flush, so that all of it happens beside flushes.
const AHEAD: u64 = 40;

fn key(n: u32) -> Key {
    Key::numbered(KeyKind::SlruPage, 1, n)
}

fn append(map: &LayerMap, published: &AtomicU64, flushes: &AtomicU64) {
    let mut batch = Batch::default();
    for n in 1..=BATCHES {
        while n > (flushes.load(Ordering::Relaxed) + 1) * AHEAD {
            std::thread::yield_now();
        }
        let kind = if n % BASES == 0 { ValueKind::Init } else { ValueKind::Change };
        (0..KEYS).for_each(|k| batch.put(key(k), Lsn::new(n * 8), kind, |out| out.extend(n.to_le_bytes())));
        map.append(&mut batch).expect("in order");
        published.store(n, Ordering::Release);
    }
}

fn rearrange(map: &LayerMap, published: &AtomicU64, flushes: &AtomicU64, cache: &Arc<BlockCache>) {
    let options = WriteOptions { block_bytes: 200, ..WriteOptions::default() };
    while published.load(Ordering::Acquire) < BATCHES {
        if let Some(frozen) = map.freeze() {
            map.flushed(&frozen, vec![layer(frozen.clone().iter(..), options, cache)]);
            flushes.fetch_add(1, Ordering::Relaxed);
        }
        let files = map.snapshot().set().layers.clone();
        if files.len() > 3 {
            let iters = files.iter().map(|f| LayerIter::File(f.iter(.., Through::Bulk))).collect();
            let merged = layer(merge(iters).map(|v| v.expect("whole files")), options, cache);
            map.replace(&files, vec![merged]);
        }
    }
}

fn read(map: &LayerMap, published: &AtomicU64) {
    let mut n = 0;
    while n < BATCHES {
        n = published.load(Ordering::Acquire);
        let snapshot = map.snapshot();
        for k in 0..KEYS {
            let history = snapshot.history(key(k), Lsn::new(n * 8)).expect("whole files");
            let lsns: Vec<u64> = history.versions.iter().map(|v| v.lsn.get() / 8).collect();
            let oldest = if n < BASES { 1 } else { n - n % BASES };
            assert_eq!(lsns, (oldest..=n).collect::<Vec<u64>>(), "key {k} at batch {n}");
        }
    }
}

/// Goal: a snapshot taken after an LSN was published has everything up to it, whatever is being moved. Method: three
/// kinds of threads at once, until all batches are in.
#[test]
fn what_was_published_is_read_while_layers_move() {
    let (map, published, flushes) = (LayerMap::default(), AtomicU64::new(0), AtomicU64::new(0));
    let cache = BlockCache::new(1 << 20);
    std::thread::scope(|s| {
        s.spawn(|| append(&map, &published, &flushes));
        s.spawn(|| rearrange(&map, &published, &flushes, &cache));
        s.spawn(|| read(&map, &published));
        s.spawn(|| read(&map, &published));
    });
    assert!(flushes.into_inner() >= BATCHES / AHEAD - 1);
    let all = merge(map.snapshot().iters(Key::all_of(KeyKind::SlruPage), Through::Bulk));
    let whole = all.filter(|v| v.as_ref().is_ok()).count() as u64;
    assert_eq!(whole, BATCHES * u64::from(KEYS), "none is lost");
}
