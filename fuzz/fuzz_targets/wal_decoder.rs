//! Any bytes, split anywhere: the WAL decoder never panics, and its result does not depend on the split.
//!
//! The first bytes of the input choose major, start and split. There are two modes: random bytes, and damaged WAL.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use pgformat::wal::{StreamConfig, WalBuilder, WalDecoder, WalError};
use pgformat::{Lsn, PgMajor, SegSize, Tli};

fn decode(cfg: &StreamConfig, start: Lsn, bytes: &Bytes, step: usize) -> (Lsn, Option<Lsn>, Option<WalError>) {
    let mut d = WalDecoder::new(cfg.clone(), start, None);
    let mut error = None;
    let mut rest = bytes.clone();
    let mut last = start;
    while !rest.is_empty() && error.is_none() {
        let piece = rest.split_to(step.min(rest.len()));
        let at = d.position();
        error = d
            .feed_records(at, &piece, &mut |r| {
                assert!(r.start >= last && r.end > r.start && r.data.len() as u64 == u64::from(r.header.total_len));
                last = r.end;
            })
            .err();
    }
    assert_eq!(d.boundary(), last);
    (d.boundary(), d.last_record_start(), error)
}

/// Valid WAL with a few bytes changed: `damage` holds pairs of position and value.
fn damaged(cfg: &StreamConfig, start: Lsn, damage: &[u8]) -> Bytes {
    let mut b = WalBuilder::new(cfg.clone(), start, None);
    b.noop(100);
    b.noop(9000);
    b.abort_record_at_page(20_000, 1);
    b.overwrite_contrecord();
    b.noop_until_page_end();
    b.noop(60);
    let mut bytes = b.bytes().to_vec();
    for d in damage.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([d[0], d[1]])) % bytes.len();
        bytes[at] ^= d[2];
    }
    Bytes::from(bytes)
}

fuzz_target!(|data: &[u8]| {
    let [mode, offset, step, rest @ ..] = data else { return };
    let version = PgMajor::ALL[usize::from(*mode >> 1) % PgMajor::ALL.len()];
    let seg_size = SegSize::new(1 << 20).expect("a valid size");
    let cfg = StreamConfig { version, seg_size, system_id: None, tlis: vec![(Tli(1), Lsn::new(0))] };
    let start = Lsn::new((3 << 20) - 8192 + u64::from(*offset) * 64);
    let start = if (1..40).contains(&start.page_offset()) { start.page_start() } else { start };
    let bytes = if mode & 1 == 0 { Bytes::copy_from_slice(rest) } else { damaged(&cfg, start, rest) };
    assert_eq!(decode(&cfg, start, &bytes, usize::MAX), decode(&cfg, start, &bytes, usize::from(*step) + 1));
});
