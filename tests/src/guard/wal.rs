//! WAL to feed, and the paths of its decoder.

use bytes::Bytes;
use pgformat::wal::{StreamConfig, WalBuilder, WalDecoder};
use pgformat::{Lsn, PgMajor, SegSize, Tli};

use super::Load;

/// Bytes of one record: what a small transaction writes.
const RECORD_LEN: u32 = 100;
/// Bytes of one large feed: the most that one append carries.
const CHUNK: usize = proto::consensus::MAX_SEND_SIZE;
/// Records that the feed of single records goes through before it starts over.
const ROUND: usize = 10_000;

pub(super) fn seg_size() -> SegSize {
    SegSize::new(16 << 20).expect("a valid size")
}

/// Where every log begins: at the start of a segment.
pub(super) fn start() -> Lsn {
    Lsn::new(3 << 24)
}

pub(super) fn stream() -> StreamConfig {
    StreamConfig {
        version: PgMajor::new(15).expect("supported"),
        seg_size: seg_size(),
        system_id: Some(7_000_000_001),
        tlis: vec![(Tli(1), Lsn::new(1 << 24))],
    }
}

/// That many records from [`start`] on, each with the page header before it, as slices of one buffer.
pub(super) fn records(count: usize) -> Vec<(Lsn, Bytes)> {
    let mut builder = WalBuilder::new(stream(), start(), None);
    let ends: Vec<Lsn> = (0..count).map(|_| builder.noop(RECORD_LEN).end).collect();
    let (mut at, mut rest) = builder.take();
    let cut = |end: Lsn| {
        let record = rest.split_to(usize::try_from(end.bytes_since(at)).expect("one record"));
        (std::mem::replace(&mut at, end), record)
    };
    ends.into_iter().map(cut).collect()
}

fn large_feed() -> Bytes {
    let mut builder = WalBuilder::new(stream(), start(), None);
    while builder.bytes().len() < CHUNK {
        builder.noop(RECORD_LEN);
    }
    builder.take().1.slice(..CHUNK)
}

/// The same feed over and over, each time into a copy of a decoder that has seen nothing.
pub(super) fn chunk(_: usize) -> Load {
    let (fresh, feed) = (WalDecoder::new(stream(), start(), None), large_feed());
    Box::new(move || {
        let mut decoder = fresh.clone();
        decoder.feed(start(), &feed).expect("valid WAL");
        assert!(decoder.position() == start().add(CHUNK as u64), "not all of it was read");
    })
}

pub(super) fn chunk_records(_: usize) -> Load {
    let (fresh, feed) = (WalDecoder::new(stream(), start(), None), large_feed());
    Box::new(move || {
        let (mut decoder, mut found) = (fresh.clone(), 0);
        decoder.feed_records(start(), &feed, &mut |_| found += 1).expect("valid WAL");
        assert!(found > CHUNK / 2 / RECORD_LEN as usize, "only {found} records were found");
    })
}

pub(super) fn record(_: usize) -> Load {
    let (fresh, feeds) = (WalDecoder::new(stream(), start(), None), records(ROUND));
    let (mut decoder, mut next) = (fresh.clone(), 0);
    Box::new(move || {
        if next == feeds.len() {
            (decoder, next) = (fresh.clone(), 0);
        }
        let (at, wal) = &feeds[next];
        decoder.feed(*at, wal).expect("valid WAL");
        assert!(decoder.boundary() == at.add(wal.len() as u64), "a record was not seen");
        next += 1;
    })
}
