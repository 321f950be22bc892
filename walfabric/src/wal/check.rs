//! Whether bytes are a timeline's WAL: page headers, record checksums and chain. Pure.
//!
//! Every byte of a record is checked when the record is decoded from its start, which may be segments away
//! ([`first_start`] helps to find it). Only at the beginning of a timeline nobody has that start: there the bytes up to
//! [`Checker::checked_from`] have checked page headers and nothing else.

use anyhow::{Result, ensure};
use pgformat::wal::page::{LONG_HEADER_LEN, PageHeader, SHORT_HEADER_LEN, header_len};
use pgformat::wal::{StreamConfig, WalDecoder, WalError, next_record_start};
use pgformat::{Lsn, SegSize, WAL_PAGE_SIZE};

const PAGE: usize = WAL_PAGE_SIZE as usize;

/// Where the first record starts in the segment at `segment`, whose first page says that `rem_len` bytes of an earlier
/// one come first. `None`: in none of its pages.
pub(super) fn first_start(segment: Lsn, rem_len: u32, seg: SegSize) -> Option<Lsn> {
    let rem = u64::from(rem_len);
    let first = WAL_PAGE_SIZE - LONG_HEADER_LEN;
    let end = if rem <= first {
        segment.add(LONG_HEADER_LEN + rem)
    } else {
        let room = WAL_PAGE_SIZE - SHORT_HEADER_LEN;
        let full = (rem - first - 1) / room;
        segment.add(WAL_PAGE_SIZE * (1 + full) + SHORT_HEADER_LEN + rem - first - full * room)
    };
    Some(end.align8()).filter(|end| end.bytes_since(segment) < seg.bytes())
}

/// Checks real bytes of `[segment start, start)`, up to the timeline's `start`: gives where its first record starts.
/// What comes before that one has checked page headers only.
pub(crate) fn check_prehistory(cfg: &StreamConfig, start: Lsn, bytes: &[u8]) -> Result<Lsn> {
    let mut checker = Checker::at_segment(cfg.clone(), start.segment_start(cfg.seg_size));
    checker.feed(bytes)?;
    checker.finish()?;
    let (Some(from), Some(end)) = (checker.checked_from(), checker.boundary()) else { return Ok(start) };
    let ends = next_record_start(end, cfg.seg_size) == next_record_start(start, cfg.seg_size);
    ensure!(ends, "its last record ends at {end}, not where the timeline starts");
    Ok(from)
}

/// Follows WAL from a record's or a segment's start.
pub(super) struct Checker {
    cfg: StreamConfig,
    /// Position of the first byte of `carry`.
    at: Lsn,
    /// A part of a page, while no record has started.
    carry: Vec<u8>,
    /// From the first record on, with its start.
    records: Option<(Lsn, Box<WalDecoder>)>,
}

impl Checker {
    /// For WAL from the boundary `start` on.
    pub(super) fn at_record(cfg: StreamConfig, start: Lsn) -> Checker {
        let decoder = WalDecoder::new(cfg.clone(), start, None);
        Checker { cfg, at: start, carry: Vec::new(), records: Some((start, Box::new(decoder))) }
    }

    /// For the segment that starts at `start`, maybe inside of a record.
    pub(super) fn at_segment(cfg: StreamConfig, start: Lsn) -> Checker {
        Checker { cfg, at: start, carry: Vec::new(), records: None }
    }

    /// Where the first record starts that was decoded; what comes before is not checked.
    pub(super) fn checked_from(&self) -> Option<Lsn> {
        self.records.as_ref().map(|(start, _)| *start)
    }

    /// End of the last whole record; `None` before the first one.
    pub(super) fn boundary(&self) -> Option<Lsn> {
        self.records.as_ref().map(|(_, decoder)| decoder.boundary())
    }

    /// The next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), WalError> {
        if let Some((_, decoder)) = &mut self.records {
            return decoder.feed(decoder.position(), bytes);
        }
        self.carry.extend_from_slice(bytes);
        while self.records.is_none() && self.carry.len() >= PAGE {
            let rest = self.carry.split_off(PAGE);
            let page = std::mem::replace(&mut self.carry, rest);
            self.page(&page)?;
        }
        if self.records.is_none() {
            return Ok(());
        }
        let rest = std::mem::take(&mut self.carry);
        self.feed(&rest)
    }

    /// The end: what came of the last page.
    pub(super) fn finish(&mut self) -> Result<(), WalError> {
        let last = std::mem::take(&mut self.carry);
        if last.is_empty() { Ok(()) } else { self.page(&last) }
    }

    /// A page before the first record, or the one with its start.
    fn page(&mut self, page: &[u8]) -> Result<(), WalError> {
        let at = self.at;
        self.at = at.add(page.len() as u64);
        let header = PageHeader::check(page, at, &self.cfg)?;
        let left = u64::from(header.rem_len).next_multiple_of(8);
        // The decoder looks at a header that says nothing of an earlier record; it knows of overwritten ones.
        let first = if left == 0 { 0 } else { header_len(at, self.cfg.seg_size) + left };
        let rest = usize::try_from(first).ok().and_then(|first| page.get(first..)).filter(|rest| !rest.is_empty());
        let Some(rest) = rest else { return Ok(()) };
        let start = at.add(first);
        let mut decoder = WalDecoder::new(self.cfg.clone(), start, None);
        let fed = decoder.feed(start, rest);
        self.records = Some((start, Box::new(decoder)));
        fed
    }
}

#[cfg(test)]
mod tests {
    use pgformat::wal::WalBuilder;
    use pgformat::{PgMajor, SegSize, Tli};

    use super::*;

    /// Two segments of 1 MiB with records that cross their border.
    fn wal() -> (StreamConfig, Lsn, Vec<u8>) {
        let cfg = StreamConfig {
            version: PgMajor::from_version_num(150_004).expect("a version"),
            seg_size: SegSize::new(1 << 20).expect("a size"),
            system_id: Some(7),
            tlis: vec![(Tli(1), Lsn::new(0))],
        };
        let start = Lsn::new(1 << 20);
        let mut builder = WalBuilder::new(cfg.clone(), start, None);
        while builder.bytes().len() < 2 << 20 {
            builder.noop(100_000);
        }
        let bytes = builder.bytes().to_vec();
        (cfg, start, bytes)
    }

    fn check(mut checker: Checker, bytes: &[u8]) -> Result<Checker, WalError> {
        for piece in bytes.chunks(10_000) {
            checker.feed(piece)?;
        }
        checker.finish()?;
        Ok(checker)
    }

    #[test]
    fn from_a_segments_start_it_finds_the_first_record() {
        let (cfg, start, bytes) = wal();
        let second = start.add(1 << 20);
        for part in [&bytes[1 << 20..2 << 20], &bytes[1 << 20..(1 << 20) + 500_000]] {
            let checker = check(Checker::at_segment(cfg.clone(), second), part).expect("good WAL");
            let header = PageHeader::check(part, second, &cfg).expect("a header");
            assert!(header.rem_len > 0, "it starts inside of a record");
            assert_eq!(checker.checked_from(), first_start(second, header.rem_len, cfg.seg_size));
        }
        let checker = check(Checker::at_segment(cfg, start), &bytes[..1 << 20]).expect("good WAL");
        assert_eq!(checker.checked_from(), Some(start));
    }

    #[test]
    fn a_first_record_is_found_behind_any_remainder() {
        let (cfg, _, _) = wal();
        let at = Lsn::new(1 << 20);
        for len in [100_u32, 8_000, 8_192, 9_000, 16_320, 16_328, 50_000, 1_000_000, 1_100_000] {
            let mut builder = WalBuilder::new(cfg.clone(), at, None);
            builder.noop_until(Lsn::new((2 << 20) - 64));
            let end = builder.noop(len).end;
            let rest = builder.bytes().get(1 << 20..).filter(|rest| !rest.is_empty()).expect("it crosses");
            let rem = PageHeader::check(rest, Lsn::new(2 << 20), &cfg).expect("a header").rem_len;
            let inside = Some(end).filter(|end| *end < Lsn::new(3 << 20));
            assert_eq!(first_start(Lsn::new(2 << 20), rem, cfg.seg_size), inside, "{len}");
        }
    }

    #[test]
    fn from_a_records_start_no_flipped_bit_is_missed() {
        let (cfg, start, bytes) = wal();
        let good = check(Checker::at_record(cfg.clone(), start), &bytes).expect("good WAL");
        assert_eq!(good.boundary(), Some(start.add(bytes.len() as u64).align8()));
        // The second segment's head, its headers, its middle, its tail.
        for at in [0, 8, 25, 100, 5_000, PAGE + 9, 300_000, 700_001, (1 << 20) - 100] {
            let mut bad = bytes.clone();
            bad[(1 << 20) + at] ^= 4;
            assert!(check(Checker::at_record(cfg.clone(), start), &bad).is_err(), "byte {at}");
        }
        let other = StreamConfig { system_id: Some(8), ..cfg };
        assert!(check(Checker::at_record(other, start), &bytes).is_err(), "another cluster's");
    }
}
