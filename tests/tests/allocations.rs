//! Allocations per operation of every hot path (`tests/src/guard`), in the steady state, against their limits.
//!
//! `cargo test -p tests --test allocations -- --nocapture` prints the current figures. A limit is a ratchet: the test
//! fails when a figure exceeds it, and also when one more allocation per operation would go unnoticed.

use std::hint::black_box;

use pgformat::wal::{RecordRef, StreamConfig, WalBuilder, WalDecoder};
use pgformat::{Lsn, PgMajor, SegSize, Tli};
use tests::guard::{HotPath, PATHS};

/// Operations before the count: buffers reach their size, first steps are over.
const WARM_UP: usize = 1_000;
/// Operations counted.
const COUNTED: usize = 1_000;

/// Allocations (growth of a buffer counts as one) per operation; `beside` runs beside each one.
fn per_operation(path: &HotPath, beside: fn()) -> f64 {
    let mut load = (path.start)(WARM_UP + COUNTED);
    (0..WARM_UP).for_each(|_| load());
    let counted = allocation_counter::measure(|| {
        (0..COUNTED).for_each(|_| {
            load();
            beside();
        });
    });
    counted.count_total as f64 / COUNTED as f64
}

fn judge(path: &HotPath, measured: f64) -> Result<(), String> {
    let HotPath { name, operation, allocations_max: limit, allocations_why: why, .. } = path;
    if measured <= *limit {
        return Ok(());
    }
    Err(format!(
        "{name}: {measured:.3} allocations per operation, allowed are {limit} ({why}); the operation: {operation}.\n\
         Find what was added; when it is worth it, raise the limit in tests/src/guard/mod.rs and say why in the commit."
    ))
}

/// Goal: no hot path allocates more than it did. Method: count the allocations of 1000 operations.
#[test]
fn hot_paths_allocate_within_their_limits() {
    println!("{:<24} {:>10} {:>10}", "allocations per op.", "measured", "limit");
    let mut over = Vec::new();
    for path in &PATHS {
        let measured = per_operation(path, || {});
        println!("{:<24} {measured:>10.3} {:>10}", path.name, path.allocations_max);
        over.extend(judge(path, measured).err());
    }
    assert!(over.is_empty(), "{}", over.join("\n"));
}

/// Goal: the memory that a record takes while it passes the decoder is bounded: none for who only wants boundaries (a
/// safekeeper, the attach proof) or leaves the record out, one copy of it for who wants it whole. Method: the peak of
/// bytes held while 64 MiB are fed in pieces.
#[test]
fn a_long_record_is_held_once_or_not_at_all() {
    const LEN: u64 = 64 << 20;
    let cfg = StreamConfig {
        version: PgMajor::new(15).expect("supported"),
        seg_size: SegSize::DEFAULT,
        system_id: None,
        tlis: vec![(Tli(1), Lsn::new(0))],
    };
    let mut builder = WalBuilder::new(cfg.clone(), Lsn::new(32 << 20), None);
    builder.record(21, 0, 0, &vec![7; LEN as usize]);
    let (start, wal) = builder.take();
    let peak = |mut decoder: WalDecoder, whole: bool| {
        let mut shown = 0;
        let peak = allocation_counter::measure(|| {
            for (i, piece) in wal.chunks(128 << 10).enumerate() {
                let at = start.add((i as u64) << 17);
                let mut on = |_: RecordRef<'_>| shown += 1;
                let fed = if whole { decoder.feed_records(at, piece, &mut on) } else { decoder.feed(at, piece) };
                fed.expect("valid WAL");
            }
        });
        assert_eq!((shown, decoder.boundary()), (usize::from(whole), builder.position()));
        peak.bytes_max
    };
    let decoder = || WalDecoder::new(cfg.clone(), start, None);
    let (bounds, left_out, kept) =
        (peak(decoder(), false), peak(decoder().leaving_out(|_| true), true), peak(decoder(), true));
    println!("held of a record of {LEN} bytes: {bounds} for its boundaries, {left_out} left out, {kept} kept");
    assert!(bounds == 0 && left_out < 1024, "{bounds}, {left_out} bytes");
    // Growing moves it once, from half its size.
    assert!((LEN..=LEN * 3 / 2 + 8192).contains(&kept), "{kept} bytes for a record of {LEN}");
}

/// Goal: the guard is not blind, on any path. Method: every operation allocates once more, a single byte.
#[test]
fn one_more_allocation_is_over_every_limit() {
    for path in &PATHS {
        let measured = per_operation(path, || drop(black_box(Box::new(0u8))));
        let limit = path.allocations_max;
        assert!(
            judge(path, measured).is_err(),
            "{}: {measured:.3} allocations, one of them planted, pass the limit of {limit}: the path got better; lower \
             the limit in tests/src/guard/mod.rs",
            path.name
        );
    }
}
