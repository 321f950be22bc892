//! Whether bytes are a segment's WAL: page headers, record checksums and chain. Pure.
//!
//! A segment usually starts inside of a record whose beginning is elsewhere: up to its end only the page headers can be
//! checked, from there on everything is.

use pgformat::wal::page::{PageHeader, header_len};
use pgformat::wal::{StreamConfig, WalDecoder, WalError};
use pgformat::{Lsn, WAL_PAGE_SIZE};

const PAGE: usize = WAL_PAGE_SIZE as usize;

/// Follows the bytes of one segment from its start.
pub(super) struct Checker {
    cfg: StreamConfig,
    /// Position of the first byte of `carry`, a page's start.
    at: Lsn,
    carry: Vec<u8>,
    state: State,
}

enum State {
    /// Inside of the record that began in an earlier segment.
    Before,
    Records(Box<WalDecoder>),
    /// Behind a switch record that ended in this segment and began in an earlier one: zeros.
    Fill,
}

impl Checker {
    /// For the segment that starts at `start`.
    pub(super) fn new(cfg: StreamConfig, start: Lsn) -> Checker {
        Checker { cfg, at: start, carry: Vec::new(), state: State::Before }
    }

    /// The next bytes.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), WalError> {
        self.carry.extend_from_slice(bytes);
        let whole = self.carry.len() / PAGE * PAGE;
        let rest = self.carry.split_off(whole);
        let pages = std::mem::replace(&mut self.carry, rest);
        pages.chunks(PAGE).try_for_each(|page| self.page(page))
    }

    /// The end: what came of the last page.
    pub(super) fn finish(mut self) -> Result<(), WalError> {
        let last = std::mem::take(&mut self.carry);
        if last.is_empty() { Ok(()) } else { self.page(&last) }
    }

    fn page(&mut self, page: &[u8]) -> Result<(), WalError> {
        let at = self.at;
        self.at = at.add(page.len() as u64);
        match &mut self.state {
            State::Records(decoder) => decoder.feed(at, page),
            State::Fill if page.iter().all(|b| *b == 0) => Ok(()),
            State::Before | State::Fill => self.first_record(at, page),
        }
    }

    /// Looks for the first record that starts on this page.
    fn first_record(&mut self, at: Lsn, page: &[u8]) -> Result<(), WalError> {
        let header = PageHeader::check(page, at, &self.cfg)?;
        let left = u64::from(header.rem_len).next_multiple_of(8);
        let first = header_len(at, self.cfg.seg_size) + left;
        let Some(rest) = usize::try_from(first).ok().and_then(|first| page.get(first..)).filter(|r| !r.is_empty())
        else {
            return Ok(());
        };
        if header.rem_len > 0 && rest.iter().all(|b| *b == 0) {
            self.state = State::Fill;
            return Ok(());
        }
        let start = at.add(first);
        let mut decoder = WalDecoder::new(self.cfg.clone(), start, None);
        decoder.feed(start, rest)?;
        self.state = State::Records(Box::new(decoder));
        Ok(())
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

    fn check(cfg: &StreamConfig, start: Lsn, bytes: &[u8]) -> Result<(), WalError> {
        let mut checker = Checker::new(cfg.clone(), start);
        for piece in bytes.chunks(10_000) {
            checker.feed(piece)?;
        }
        checker.finish()
    }

    #[test]
    fn good_segments_pass_whole_and_in_part() {
        let (cfg, start, bytes) = wal();
        let (first, second) = bytes.split_at(1 << 20);
        check(&cfg, start, first).expect("the first");
        check(&cfg, start.add(1 << 20), &second[..1 << 20]).expect("the second, which starts inside of a record");
        check(&cfg, start.add(1 << 20), &second[..500_000]).expect("a part");
    }

    #[test]
    fn a_flipped_bit_is_seen_behind_the_first_record_and_in_every_header() {
        let (cfg, start, bytes) = wal();
        let second = &bytes[1 << 20..2 << 20];
        for at in [0, 8, 25, PAGE + 9, 300_000, 700_001] {
            let mut bad = second.to_vec();
            bad[at] ^= 4;
            assert!(check(&cfg, start.add(1 << 20), &bad).is_err(), "byte {at}");
        }
        let other = StreamConfig { system_id: Some(8), ..cfg };
        assert!(check(&other, start.add(1 << 20), second).is_err(), "another cluster's");
    }
}
