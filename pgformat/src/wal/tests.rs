//! Decoder and builder against each other, against planted damage, and with arbitrary splits of the input.

use bytes::Bytes;
use proptest::prelude::*;

use super::page::{FIRST_IS_CONTRECORD, LONG_HEADER_LEN, PageHeader, SHORT_HEADER_LEN};
use super::record::{RM_XLOG, XLOG_NOOP};
use super::*;
use crate::{Lsn, PgMajor, SegSize, Tli, WAL_PAGE_SIZE};

const MIB: u64 = 1 << 20;

fn seg() -> SegSize {
    SegSize::new(1 << 20).expect("a valid size")
}

fn cfg() -> StreamConfig {
    StreamConfig {
        version: PgMajor::new(15).expect("supported"),
        seg_size: seg(),
        system_id: Some(0x6912_3456_789A_BCDE),
        tlis: vec![(Tli(3), Lsn::new(3 * MIB))],
    }
}

fn start() -> Lsn {
    Lsn::new(5 * MIB)
}

fn prev() -> Option<Lsn> {
    Some(Lsn::new(5 * MIB - 64))
}

/// One of everything, about 2.3 MiB, with the boundary behind each record.
fn varied() -> (Vec<u8>, Vec<BuiltRecord>) {
    let mut b = WalBuilder::new(cfg(), start(), prev());
    let mut built = vec![b.record(RM_XLOG, XLOG_NOOP, 7, b"hello"), b.noop(24), b.noop(26), b.noop(27)];
    built.push(b.noop_until_page_end());
    built.push(b.noop(300));
    // Only the length and the xid of a record fit on the page, then 16 bytes: the header is split in both places.
    for room in [8, 16] {
        let end = b.position().page_start().add(WAL_PAGE_SIZE - room);
        built.push(b.noop_until(end));
        built.push(b.noop(100));
    }
    built.push(b.noop(70_000));
    // Unfinished records: cut at the first page, inside the header, and at the third page.
    b.abort_record_at_page(9_000, 1);
    built.push(b.overwrite_contrecord());
    built.push(b.noop_until(b.position().page_start().add(WAL_PAGE_SIZE - 8)));
    b.abort_record_at_page(500, 1);
    built.push(b.overwrite_contrecord());
    b.abort_record_at_page(60_000, 3);
    built.push(b.overwrite_contrecord());
    built.push(b.noop_until_segment_end());
    built.push(b.noop(40));
    built.push(b.switch());
    built.push(b.noop(2_000));
    // A record over a segment border.
    let end = b.position().segment_start(seg()).add(MIB);
    built.push(b.noop_until(Lsn::new(end.get() - 1_000)));
    built.push(b.noop(3_000));
    (b.bytes().to_vec(), built)
}

/// Feeds `bytes` in pieces of the given sizes, round and round.
fn decode(bytes: &[u8], sizes: &[usize]) -> (WalDecoder, Vec<Lsn>, Result<(), WalError>) {
    let mut d = WalDecoder::new(cfg(), start(), prev());
    let (mut boundaries, mut at, mut i) = (Vec::new(), 0, 0);
    while at < bytes.len() {
        let n = sizes[i % sizes.len()].min(bytes.len() - at);
        i += 1;
        let before = d.boundary();
        if let Err(e) = d.feed(d.position(), &bytes[at..at + n]) {
            if d.boundary() != before {
                boundaries.push(d.boundary());
            }
            return (d, boundaries, Err(e));
        }
        if d.boundary() != before {
            boundaries.push(d.boundary());
        }
        at += n;
    }
    (d, boundaries, Ok(()))
}

fn records(bytes: &[u8], sizes: &[usize]) -> (Vec<Record>, Result<(), WalError>) {
    let mut d = WalDecoder::new(cfg(), start(), prev());
    let (mut out, mut at, mut i) = (Vec::new(), 0, 0);
    let bytes = Bytes::copy_from_slice(bytes);
    while at < bytes.len() {
        let n = sizes[i % sizes.len()].min(bytes.len() - at);
        i += 1;
        if let Err(e) = d.feed_records(d.position(), &bytes.slice(at..at + n), &mut |r| out.push(r.to_record())) {
            return (out, Err(e));
        }
        at += n;
    }
    (out, Ok(()))
}

#[test]
fn every_record_ends_where_it_was_built() {
    let (bytes, built) = varied();
    let (d, boundaries, result) = decode(&bytes, &[1]);
    assert_eq!(result, Ok(()));
    assert_eq!(boundaries, built.iter().map(|b| b.end).collect::<Vec<_>>());
    assert_eq!(d.position(), start().add(bytes.len() as u64));
    assert_eq!(d.last_record_start(), built.last().map(|b| b.start));

    let (records, result) = records(&bytes, &[usize::MAX]);
    assert_eq!(result, Ok(()));
    let spans: Vec<_> = records.iter().map(|r| BuiltRecord { start: r.start, end: r.end }).collect();
    assert_eq!(spans, built);
    for r in &records {
        assert_eq!(r.data.len() as u64, u64::from(r.header.total_len));
        assert_eq!(record::record_crc(&r.data), r.header.crc);
    }
}

#[test]
fn a_record_inside_one_page_is_not_copied() {
    let mut b = WalBuilder::new(cfg(), start(), prev());
    b.noop(100);
    b.noop(20_000);
    let (at, bytes) = b.take();
    let mut copied = Vec::new();
    WalDecoder::new(cfg(), start(), prev())
        .feed_records(at, &bytes, &mut |r| copied.push(!bytes.as_ptr_range().contains(&r.data.as_ptr())))
        .expect("valid WAL");
    assert_eq!(copied, [false, true]);
}

#[test]
fn a_record_that_is_left_out_shows_its_header_alone_however_it_is_cut() {
    let (bytes, built) = varied();
    let headers: Vec<_> = records(&bytes, &[usize::MAX]).0.into_iter().map(|r| (r.start, r.end, r.header)).collect();
    for sizes in [&[usize::MAX][..], &[1], &[8191, 3], &[23, 24, 25]] {
        let mut d = WalDecoder::new(cfg(), start(), prev()).leaving_out(|h| h.total_len > 250);
        let (mut seen, mut at) = (Vec::new(), 0);
        for size in sizes.iter().cycle() {
            let n = (*size).min(bytes.len() - at);
            d.feed_records(d.position(), &bytes[at..at + n], &mut |r| {
                assert_eq!(r.is_left_out(), r.header.total_len > 250);
                assert_eq!(r.data.len(), if r.is_left_out() { 24 } else { r.header.total_len as usize });
                seen.push((r.start, r.end, r.header));
            })
            .expect("valid WAL");
            assert!(d.unfinished().is_none_or(|u| u.len <= 250), "nothing is kept of what is left out");
            at += n;
            if at == bytes.len() {
                break;
            }
        }
        assert_eq!(seen, headers, "{sizes:?}: {} records", built.len());
    }
}

#[test]
fn a_long_record_announces_itself_with_its_header() {
    let mut b = WalBuilder::new(cfg(), start(), prev());
    let short = b.noop(100);
    let long = b.noop(300_000);
    let (at, bytes) = b.take();
    let mut d = WalDecoder::new(cfg(), start(), prev());
    let mut announced = Vec::new();
    for (i, piece) in bytes.chunks(1000).enumerate() {
        d.feed_records(at.add(1000 * i as u64), piece, &mut |_| {}).expect("valid WAL");
        announced.push(d.unfinished());
    }
    let expected = Some(Unfinished { start: long.start, len: 300_000 });
    assert!(short.end < long.end && announced.pop() == Some(None), "whole at last");
    assert!(announced.iter().all(|a| *a == expected), "{announced:?}");
    let mut only_boundaries = WalDecoder::new(cfg(), start(), prev());
    only_boundaries.feed(at, &bytes[..100_000]).expect("valid WAL");
    assert_eq!(only_boundaries.unfinished(), None, "nothing is kept");
}

#[test]
fn boundaries_are_canonical_at_page_and_segment_ends() {
    let mut b = WalBuilder::new(cfg(), start(), prev());
    let page = b.noop_until_page_end();
    assert_eq!(page.end, start().add(WAL_PAGE_SIZE), "before the next page's header");
    let next = b.noop(50);
    assert_eq!(next.start, page.end.add(SHORT_HEADER_LEN));
    let segment = b.noop_until_segment_end();
    assert_eq!(segment.end, start().add(MIB));
    let next = b.noop(50);
    assert_eq!(next.start, segment.end.add(LONG_HEADER_LEN));
    assert_eq!(next_record_start(segment.end, seg()), next.start);

    // A new decoder can start at every boundary.
    let bytes = b.bytes();
    for (from, prev) in [(page.end, page.start), (segment.end, segment.start), (start(), self::prev().expect("set"))] {
        let mut d = WalDecoder::new(cfg(), from, Some(prev));
        let skip = usize::try_from(from.bytes_since(start())).expect("small");
        assert_eq!(d.feed(from, &bytes[skip..]), Ok(()));
        assert_eq!(d.boundary(), next.end);
    }
}

#[test]
fn a_stream_may_begin_just_behind_a_page_header() {
    for (page, header) in [(start(), LONG_HEADER_LEN), (start().add(WAL_PAGE_SIZE), SHORT_HEADER_LEN)] {
        let from = page.add(header);
        let mut b = WalBuilder::new(cfg(), from, prev());
        let built = b.noop(90);
        assert_eq!(built.start, from);
        let mut d = WalDecoder::new(cfg(), from, None);
        assert_eq!(d.feed(from, b.bytes()), Ok(()));
        assert_eq!(d.boundary(), built.end);
        // Inside the header no record begins.
        let bad = WalDecoder::new(cfg(), Lsn::new(from.get() - 8), None).feed(Lsn::new(from.get() - 8), b.bytes());
        assert_eq!(bad, Err(WalError::BadStart { at: Lsn::new(from.get() - 8) }));
    }
    for odd in [Lsn::new(start().get() + 100), Lsn::new(u64::MAX - 7)] {
        assert_eq!(WalDecoder::new(cfg(), odd, None).feed(odd, &[0]), Err(WalError::BadStart { at: odd }));
    }
}

#[test]
fn after_a_switch_the_boundary_is_ahead_of_the_bytes() {
    let mut b = WalBuilder::new(cfg(), start(), prev());
    b.noop(1000);
    let switch = b.switch();
    let after = b.noop(100);
    let bytes = b.bytes();
    let record_end = usize::try_from(switch.start.bytes_since(start())).expect("small") + 24;
    let mut d = WalDecoder::new(cfg(), start(), prev());
    d.feed(start(), &bytes[..record_end]).expect("valid WAL");
    assert_eq!(d.boundary(), start().add(MIB));
    assert_eq!(d.position(), switch.start.add(24));
    assert_eq!(d.fill_end(), Some(start().add(MIB)));

    // The fill is fed, or left out, or damaged.
    let mut fed = d.clone();
    fed.feed(d.position(), &bytes[record_end..]).expect("zeros");
    let mut skipped = d.clone();
    skipped.feed(start().add(MIB), &bytes[MIB as usize..]).expect("the fill need not be sent");
    for d in [fed, skipped] {
        assert_eq!((d.boundary(), d.fill_end()), (after.end, None));
    }
    let mut damaged = bytes.to_vec();
    for i in [record_end, record_end + 5000, MIB as usize - 1] {
        damaged[i] = 1;
        let mut d = d.clone();
        let at = d.position();
        assert_eq!(d.feed(at, &damaged[record_end..]), Err(WalError::SwitchFill { at: start().add(i as u64) }));
        assert_eq!(d.boundary(), start().add(MIB));
        damaged[i] = 0;
    }
}

#[test]
fn a_switch_record_that_ends_with_its_segment_has_no_fill() {
    let mut b = WalBuilder::new(cfg(), start(), prev());
    b.noop_until(Lsn::new(start().get() + MIB - 24));
    let switch = b.switch();
    assert_eq!(switch.end, start().add(MIB));
    let after = b.noop(30);
    let (d, _, result) = decode(b.bytes(), &[777]);
    assert_eq!((d.boundary(), result), (after.end, Ok(())));
}

#[test]
fn an_unfinished_record_holds_the_boundary_until_it_is_overwritten() {
    let mut b = WalBuilder::new(cfg(), start(), prev());
    let whole = b.noop(500);
    let lost = b.abort_record_at_page(30_000, 2);
    let mut d = WalDecoder::new(cfg(), start(), prev());
    let (at, bytes) = b.take();
    d.feed(at, &bytes).expect("valid so far");
    assert_eq!((d.boundary(), d.last_record_start()), (whole.end, Some(whole.start)));
    assert_eq!(lost, whole.end);

    // The next page must continue the record, or mark it as overwritten, with the right record.
    let page = b.position();
    let mut other = WalBuilder::new(cfg(), page, Some(whole.start));
    other.noop(60);
    let missing = d.clone().feed(page, other.bytes());
    assert_eq!(missing, Err(WalError::ContrecordMissing { at: page, record: lost }));

    let mut wrong = b.clone();
    wrong.overwrite_contrecord();
    let (_, wrong) = wrong.take();
    let mut wrong = wrong.to_vec();
    // Point the overwriting record elsewhere and correct its checksum.
    wrong[24 + 26] ^= 8;
    let crc = record::record_crc(&wrong[24..24 + 42]);
    wrong[24 + 20..24 + 24].copy_from_slice(&crc.to_le_bytes());
    let at = page.add(SHORT_HEADER_LEN);
    let found = Lsn::new(lost.get() ^ 8);
    for size in [1, 17, 1000] {
        let mut d = d.clone();
        let result = wrong.chunks(size).try_for_each(|c| d.feed(d.position(), c));
        assert_eq!(result, Err(WalError::OverwrittenLsn { at, expected: lost, found }));
        assert_eq!(d.boundary(), whole.end);
    }

    let over = b.overwrite_contrecord();
    let after = b.noop(99);
    d.feed(page, b.bytes()).expect("overwritten properly");
    assert_eq!((d.boundary(), d.last_record_start()), (after.end, Some(after.start)));
    assert_eq!(over.start, page.add(SHORT_HEADER_LEN));

    // Without an unfinished record, neither the flag nor the record is accepted.
    let mut b = WalBuilder::new(cfg(), start(), prev());
    let full = b.noop_until_page_end();
    let mut d = WalDecoder::new(cfg(), start(), prev());
    d.feed(start(), b.bytes()).expect("valid WAL");
    let mut o = WalBuilder::new(cfg(), Lsn::new(full.end.get() - WAL_PAGE_SIZE), Some(full.start));
    o.abort_record_at_page(20_000, 1);
    o.take();
    o.overwrite_contrecord();
    assert_eq!(d.feed(full.end, o.bytes()), Err(WalError::OverwriteUnexpected { at: full.end }));
    let mut b = WalBuilder::new(cfg(), start(), prev());
    let at = b.record(RM_XLOG, record::XLOG_OVERWRITE_CONTRECORD, 0, &[0; 16]).start;
    assert_eq!(decode(b.bytes(), &[9]).2, Err(WalError::OverwriteUnexpected { at }));
}

#[test]
fn wal_of_another_cluster_size_tli_or_major_is_refused_by_name() {
    let mut b = WalBuilder::new(cfg(), start(), prev());
    b.noop(10_000);
    let bytes = b.bytes();
    let refuse = |change: fn(&mut StreamConfig)| {
        let mut cfg = cfg();
        change(&mut cfg);
        WalDecoder::new(cfg, start(), prev()).feed(start(), bytes).expect_err("refused")
    };
    let at = start();
    let errors = [
        (
            refuse(|c| c.system_id = Some(1)),
            WalError::SystemId { at, expected: 1, found: cfg().system_id.expect("set") },
        ),
        (
            refuse(|c| c.seg_size = SegSize::new(16 << 20).expect("valid")),
            WalError::SegmentBorder { at, expected: 16 << 20, found: true },
        ),
        (refuse(|c| c.tlis = vec![(Tli(4), Lsn::new(0))]), WalError::PageTli { at, expected: Tli(4), found: Tli(3) }),
        (
            refuse(|c| c.version = PgMajor::new(17).expect("supported")),
            WalError::PageMagic { at, expected: 0xD116, found: 0xD110 },
        ),
    ];
    for (found, expected) in errors {
        assert_eq!(found, expected);
        assert_eq!(found.kind(), ErrorKind::Foreign, "{found}");
        assert_eq!(found.lsn(), at);
    }
    let small = StreamConfig { seg_size: SegSize::new(1 << 20).expect("valid"), ..cfg() };
    let big = StreamConfig { seg_size: SegSize::new(4 << 20).expect("valid"), ..cfg() };
    for at in [Lsn::new(8 * MIB), Lsn::new(9 * MIB)] {
        let mut b = WalBuilder::new(big.clone(), at, None);
        b.noop(10_000);
        let found = WalDecoder::new(small.clone(), at, None).feed(at, b.bytes());
        let expected = 1 << 20;
        assert_eq!(
            found,
            Err(if at.get() == 8 * MIB {
                WalError::SegSize { at, expected, found: 4 << 20 }
            } else {
                WalError::SegmentBorder { at, expected, found: false }
            })
        );
    }
    assert!(
        WalDecoder::new(StreamConfig { system_id: None, tlis: vec![], ..cfg() }, start(), None).feed(at, bytes).is_ok()
    );
}

#[test]
fn a_page_belongs_to_the_tli_at_its_first_byte() {
    let switch_point = start().add(2 * WAL_PAGE_SIZE + 100 * 8);
    let tlis = vec![(Tli(1), Lsn::new(0)), (Tli(2), switch_point)];
    let cfg = StreamConfig { tlis, ..cfg() };
    let mut b = WalBuilder::new(cfg.clone(), start(), prev());
    b.noop(40_000);
    let tli_of = |page: u64| PageHeader::parse(&b.bytes()[(page * WAL_PAGE_SIZE) as usize..]).expect("a header").tli;
    assert_eq!((tli_of(2), tli_of(3)), (Tli(1), Tli(2)));
    assert!(WalDecoder::new(cfg, start(), prev()).feed(start(), b.bytes()).is_ok());
    // The same bytes as one tli only.
    let old = StreamConfig { tlis: vec![(Tli(1), Lsn::new(0))], ..self::cfg() };
    let at = start().add(3 * WAL_PAGE_SIZE);
    let err = WalDecoder::new(old, start(), prev()).feed(start(), b.bytes());
    assert_eq!(err, Err(WalError::PageTli { at, expected: Tli(1), found: Tli(2) }));
}

#[test]
fn wal_from_elsewhere_is_refused() {
    let mut b = WalBuilder::new(cfg(), start(), prev());
    let built = b.noop(100);
    let bytes = b.bytes();
    let at = built.start;
    let expected = Some(Lsn::new(64));
    let wrong_prev = WalDecoder::new(cfg(), start(), expected).feed(start(), bytes);
    assert_eq!(wrong_prev, Err(WalError::PrevLink { at, expected, found: prev().expect("set") }));
    // Without a known predecessor any earlier one is accepted, a later one is not.
    let mut late = WalBuilder::new(cfg(), start(), Some(start().add(80)));
    late.noop(100);
    let found = start().add(80);
    assert_eq!(
        WalDecoder::new(cfg(), start(), None).feed(start(), late.bytes()),
        Err(WalError::PrevLink { at, expected: None, found })
    );
    // Bytes of one segment at the place of another: what a recycled segment looks like.
    let next = start().add(MIB);
    let moved = WalDecoder::new(cfg(), next, None).feed(next, bytes).expect_err("refused");
    assert_eq!(moved, WalError::PageAddr { at: next, found: start() });
    assert!(moved.is_end_of_log());
    // A mistake of the caller does not change the decoder.
    let mut d = WalDecoder::new(cfg(), start(), prev());
    assert_eq!(d.feed(next, bytes), Err(WalError::NotContiguous { at: next, expected: start() }));
    assert_eq!(d.feed(start(), bytes), Ok(()));
}

#[test]
fn after_an_error_the_decoder_stays_as_it_was() {
    let (mut bytes, built) = varied();
    let at = usize::try_from(built[5].start.bytes_since(start())).expect("small") + 30;
    bytes[at] ^= 1;
    let (mut d, _, result) = decode(&bytes, &[4096]);
    let e = result.expect_err("damaged");
    assert!(matches!(e, WalError::Crc { at, .. } if at == built[5].start), "{e}");
    for _ in 0..2 {
        assert_eq!(d.feed(d.position(), &bytes[..1]), Err(e));
        assert_eq!(d.boundary(), built[4].end);
    }
}

/// Bytes that PostgreSQL does not look at either: padding behind records and in page headers, one page flag.
fn unchecked(bytes: &[u8], built: &[BuiltRecord], i: usize, bit: u8) -> bool {
    let lsn = start().add(i as u64);
    let header = page::header_len(lsn.page_start(), seg());
    let in_page = lsn.page_offset();
    if in_page < header {
        return (20..24).contains(&in_page) || (in_page == 2 && bit == page::BKP_REMOVABLE as u8);
    }
    let owner = built.iter().find(|b| b.start <= lsn && lsn < b.end);
    let Some(b) = owner else { return true }; // part of an unfinished record: covered by no checksum
    let len = u64::from(RecordHeader::parse(&assemble(bytes, b.start)).expect("a header").total_len);
    let padding = (8 - len % 8) % 8;
    b.end.bytes_since(lsn) <= padding && b.end.segment_offset(seg()) != 0
}

/// The record header at `at`, without a page header in its middle.
fn assemble(bytes: &[u8], at: Lsn) -> Vec<u8> {
    let (mut out, mut lsn) = (Vec::new(), at);
    while out.len() < 24 {
        if lsn.page_offset() == 0 {
            lsn = next_record_start(lsn, seg());
        }
        out.push(bytes[usize::try_from(lsn.bytes_since(start())).expect("small")]);
        lsn = lsn.add(1);
    }
    out
}

#[test]
fn every_flipped_byte_is_noticed() {
    let (bytes, built) = varied();
    let mut noticed = 0;
    // Every byte near something interesting, and a sample of the rest.
    for i in 0..bytes.len() {
        let lsn = start().add(i as u64);
        let near = built.iter().any(|b| b.start.bytes_since(lsn) < 8 && lsn.bytes_since(b.start) < 50);
        let first_page = lsn.page_offset() < 48 && i < 400_000;
        if !((near || first_page) && i < 200_000 || i % 9973 == 0) {
            continue;
        }
        let bit = 1u8 << (i % 8);
        // Starts at the last boundary before the page that holds the byte, so that each trial is short.
        let from = built.iter().rev().find(|b| b.end <= lsn.page_start() && b.end.segment_offset(seg()) != 0);
        let (from, prev) = from.map_or((start(), self::prev()), |b| (b.end, Some(b.start)));
        let skip = usize::try_from(from.bytes_since(start())).expect("small");
        let stop = (i + 100_000).min(bytes.len());
        let mut damaged = bytes[skip..stop].to_vec();
        damaged[i - skip] ^= bit;
        let mut d = WalDecoder::new(cfg(), from, prev);
        let result = d.feed(from, &damaged);
        let mut sound = WalDecoder::new(cfg(), from, prev);
        assert_eq!(sound.feed(from, &bytes[skip..stop]), Ok(()));
        if sound.boundary() <= lsn && built.iter().any(|b| b.start <= lsn && lsn < b.end) {
            continue; // the record is longer than the trial
        }
        // With a length that grew, the decoder may still wait for the record's end: nothing beyond the damage counts.
        let held = d.boundary() <= lsn && sound.boundary() > lsn;
        if result.is_ok() && !held {
            assert!(unchecked(&bytes, &built, i, bit), "flipping bit {bit} of {lsn} went unnoticed");
        } else {
            noticed += 1;
        }
        assert!(d.boundary() <= sound.boundary());
    }
    assert!(noticed > 1000, "{noticed}");
}

#[test]
fn the_end_of_a_log_is_found_and_named() {
    let (bytes, built) = varied();
    let last = built.last().expect("some");
    let scan = |bytes: &[u8]| {
        let read = |at: Lsn| -> Result<Bytes, ()> {
            let from = usize::try_from(at.bytes_since(start())).map_err(|_| ())?;
            let to = (from + 100_000).min(bytes.len());
            Ok(Bytes::copy_from_slice(&bytes[from.min(to)..to]))
        };
        find_end_of_wal(cfg(), start(), prev(), read).expect("the reader does not fail")
    };
    let end = scan(&bytes);
    let reason = EndReason::NoMoreBytes(start().add(bytes.len() as u64));
    assert_eq!(end, ScanEnd { boundary: last.end, last_record_start: Some(last.start), reason });

    let mut zeros = bytes.clone();
    zeros.resize(bytes.len() + 50_000, 0);
    let end = scan(&zeros);
    assert_eq!((end.boundary, end.reason), (last.end, EndReason::Invalid(WalError::ZeroLength { at: last.end })));

    // Cut at every interesting length and followed by zeros, the log ends at a boundary and the reason is a normal end.
    for cut in (0..bytes.len()).step_by(1999).chain(built.iter().map(|b| b.end.bytes_since(start()) as usize)) {
        let mut torn = bytes[..cut.min(bytes.len())].to_vec();
        torn.resize(bytes.len() + 20_000, 0);
        let end = scan(&torn);
        let whole = built.iter().take_while(|b| b.end.bytes_since(start()) as usize <= cut).last();
        assert!(end.boundary >= whole.map_or(start(), |b| b.end), "cut at {cut}");
        match end.reason {
            EndReason::Invalid(e) => assert!(e.is_end_of_log(), "cut at {cut}: {e}"),
            EndReason::NoMoreBytes(at) => panic!("cut at {cut}: ran through to {at}"),
        }
    }
}

#[test]
fn prehistory_is_made_and_checked() {
    let page = start().add(3 * WAL_PAGE_SIZE);
    for at in [start(), start().add(40), start().add(4000), page, page.add(24), page.add(800), start().add(MIB - 8)] {
        let bytes = synthetic_prehistory(&cfg(), at).expect("a boundary");
        assert_eq!(bytes.len() as u64, at.segment_offset(seg()));
        check_prehistory(&cfg(), at, &bytes).expect("our own headers");
        if at.segment_offset(seg()) > LONG_HEADER_LEN {
            // Each page but the last leaves what the later ones hold.
            let first = PageHeader::parse(&bytes).expect("a header");
            assert!(first.info & FIRST_IS_CONTRECORD != 0 && first.rem_len > 0);
            let mut wrong = bytes.clone();
            wrong[24] ^= 1;
            assert!(matches!(check_prehistory(&cfg(), at, &wrong), Err(WalError::SystemId { .. })));
            let short = check_prehistory(&cfg(), at, &bytes[8..]);
            assert_eq!(short, Err(WalError::NotContiguous { at: Lsn::new(at.get() - 8), expected: at }));
        }
    }
    let far = Lsn::new(u64::MAX - 7);
    assert_eq!(synthetic_prehistory(&cfg(), far), Err(WalError::TooFar { at: far }));
    assert!(synthetic_prehistory(&cfg(), page.add(8)).is_err());
    assert!(synthetic_prehistory(&cfg(), page.add(100)).is_err());
}

#[test]
fn every_major_and_segment_size_is_read() {
    for version in PgMajor::ALL {
        for mib in [1, 2, 16, 64, 1024] {
            let cfg = StreamConfig { version, seg_size: SegSize::new(mib << 20).expect("valid"), ..cfg() };
            let size = cfg.seg_size.bytes();
            let from = Lsn::new(7 * size - 4096);
            let mut b = WalBuilder::new(cfg.clone(), from, Some(Lsn::new(64)));
            let built = [b.noop(3000), b.noop(9000), b.noop_until_page_end()];
            let mut d = WalDecoder::new(cfg.clone(), from, None);
            d.feed(from, b.bytes()).expect("valid WAL");
            assert_eq!(d.boundary(), built[2].end);
            let custom = WalBuilder::new(cfg.clone(), from, None).record(200, 0, 0, b"x");
            let mut b = WalBuilder::new(cfg.clone(), from, None);
            b.record(200, 0, 0, b"x");
            let result = WalDecoder::new(cfg, from, None).feed(from, b.bytes());
            if version.get() == 14 {
                assert_eq!(result, Err(WalError::Rmgr { at: custom.start, found: 200 }));
            } else {
                assert_eq!(result, Ok(()));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// How the bytes are cut changes nothing: neither boundaries nor records nor errors.
    #[test]
    fn cuts_change_nothing(sizes in prop::collection::vec(prop_oneof![1usize..64, 1usize..20_000], 1..20),
                           flip in prop::option::of((0usize..400_000, 0u8..8))) {
        let (mut bytes, _) = varied();
        bytes.truncate(1_200_000);
        if let Some((at, bit)) = flip {
            bytes[at] ^= 1 << bit;
        }
        let (whole, _, expected) = decode(&bytes, &[usize::MAX]);
        let (d, _, result) = decode(&bytes, &sizes);
        prop_assert_eq!(result, expected);
        prop_assert_eq!(d.boundary(), whole.boundary());
        prop_assert_eq!(d.last_record_start(), whole.last_record_start());
        let (a, e) = records(&bytes, &sizes);
        let (b, _) = records(&bytes, &[usize::MAX]);
        prop_assert_eq!(e, expected);
        prop_assert!(a == b);
        prop_assert_eq!(a.last().map(|r| r.end), (whole.last_record_start() != prev()).then_some(whole.boundary()));
    }

    /// From every boundary of any log, with or without knowing the record before, the rest decodes alike; from no other
    /// aligned position does a decoder that knows the record before accept a record.
    #[test]
    fn any_boundary_is_a_place_to_go_on(
        ops in prop::collection::vec((0u8..9, 26u32..20_000), 1..25),
        off in 0u64..131_000,
    ) {
        let first = start().add(off * 8);
        let first = if cfg().check_start(first).is_ok() { first } else { first.page_start() };
        let mut b = WalBuilder::new(cfg(), first, prev());
        let mut built = Vec::new();
        for (op, len) in ops {
            built.push(match op {
                0 => b.noop_until_page_end(),
                1 => b.noop_until_segment_end(),
                2 => b.switch(),
                3 | 4 => {
                    let pages = 1 + len / 8000;
                    b.abort_record_at_page(pages * 8200 + 50, pages);
                    b.overwrite_contrecord()
                }
                5 => b.noop(len % 200 + 26),
                _ => b.noop(len),
            });
        }
        let (bytes, end) = (b.bytes(), b.position());
        let places = std::iter::once((first, prev())).chain(built.iter().map(|b| (b.end, Some(b.start))));
        for (at, known) in places {
            let rest = &bytes[usize::try_from(at.bytes_since(first)).expect("small")..];
            for prev in [known, None] {
                let mut d = WalDecoder::new(cfg(), at, prev);
                prop_assert_eq!(d.feed(at, rest), Ok(()));
                prop_assert_eq!((d.boundary(), d.position()), (end, end));
            }
            let beside = at.add(8);
            if beside < end && next_record_start(at, seg()) != beside && built.iter().all(|b| b.end != beside) {
                let mut d = WalDecoder::new(cfg(), beside, known);
                let _ = d.feed(beside, &rest[8..]);
                prop_assert_eq!(d.boundary(), beside);
            }
        }
    }

    /// Garbage is refused or waited for, never accepted, and nothing panics.
    #[test]
    fn garbage_is_refused(bytes in prop::collection::vec(any::<u8>(), 1..20_000), off in 0u64..2000) {
        let at = start().add(off * 8);
        let mut d = WalDecoder::new(cfg(), at, None);
        if d.feed(at, &bytes).is_ok() {
            prop_assert!(d.boundary() == at);
        }
    }
}
