//! Chunks of WAL that say much with few bytes, and an engine that is asked to stop.

use std::sync::atomic::Ordering;

use blobs::MemoryBlobs;
use pgformat::wal::WalBuilder;

use super::*;
use crate::ingest::stream_config;
use crate::store::manifest::{Importing, Manifest};
use crate::store::workload::{empty, shared};
use crate::store::{StoreConfig, StoreShared};

/// Transactions of one commit, each on a page of its own.
const PAGES: u32 = 10_000;

/// An engine of an empty timeline, and what it shares.
fn engine(config: StoreConfig) -> (Engine, Arc<Store>, StoreShared) {
    let (shared, _) = shared(config);
    let first = empty();
    let importing = Some(Importing { pages_at: first.origin.start_lsn, end: None, rest: Default::default() });
    let store = Store::create(shared.clone(), Arc::new(MemoryBlobs::default()), Manifest { importing, ..first });
    let store = Arc::new(store.expect("a timeline"));
    let engine = Engine::open(&store, &store.manifest().attach()).expect("an engine");
    (engine, store, shared)
}

/// Commits of many transactions.
fn commits(store: &Store, count: u32) -> Piece {
    let attach = store.manifest().attach();
    let mut wal = WalBuilder::new(stream_config(&attach).expect("supported"), attach.start_lsn, None);
    for n in 0..count {
        let mut main = 0_i64.to_le_bytes().to_vec();
        let words = [2, PAGES].into_iter().chain((0..PAGES).map(|page| page * 32_768 + 3 + n));
        main.extend(words.flat_map(u32::to_le_bytes));
        wal.record(rmid::XACT, 0x80, 3, &main);
    }
    let (at, wal) = wal.take();
    Piece { at, wal }
}

/// Goal: what a chunk comes to does not have to fit into memory at once. Method: a chunk whose versions take many times
/// its length, over a store that holds small layers; some must be written before the chunk ends, and all of it is
/// there in the end.
#[test]
fn a_chunk_that_says_much_is_handed_over_in_pieces() {
    let (mut engine, store, _) = engine(StoreConfig { layer_bytes: 1 << 20, frozen_max: 1, ..StoreConfig::default() });
    let piece = commits(&store, 160);
    let (len, end) = (piece.wal.len(), piece.at.add(piece.wal.len() as u64));
    let taken = engine.take(&[piece]);
    assert_eq!((taken.records, taken.halted, taken.blocked), (160, None, None));
    assert!(end.bytes_since(taken.end.end) < 8, "{} of {end}", taken.end.end);
    let manifest = store.manifest();
    assert!(!manifest.layers.is_empty(), "a chunk of {len} bytes is in memory as a whole");
    assert!(manifest.disk_consistent_lsn < taken.end.end);
    assert_eq!(store.published().end, taken.end.end);
}

/// Goal: an engine that is asked to stop ends at its next record; what it did not take is taken by the next one.
#[test]
fn a_chunk_ends_at_the_next_record_when_the_server_stops() {
    let (mut engine, store, shared) = engine(StoreConfig::default());
    let piece = commits(&store, 3);
    shared.stopping.store(true, Ordering::Relaxed);
    let taken = engine.take(std::slice::from_ref(&piece));
    assert!(matches!(taken.halted, Some(Halt::ReadAgain(_))), "{:?}", taken.halted);
    assert_eq!((taken.records, store.published().end), (0, piece.at));
    shared.stopping.store(false, Ordering::Relaxed);
    assert_eq!(engine.take(&[]).halted, None, "a new beginning");
    assert_eq!(engine.take(&[piece]).records, 3);
}
