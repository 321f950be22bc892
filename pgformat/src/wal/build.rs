//! Builds valid WAL by hand, for simulators and tests that need a stream without a server.
//!
//! A [`WalBuilder`] owns its bytes until the caller takes them. Page headers, prev links, checksums, padding and fill
//! are those that PostgreSQL would write, so `pg_waldump` reads the result. Pure and deterministic: equal calls give
//! equal bytes.
//!
//! Invariant: [`WalBuilder::position`] is a record boundary, except between [`WalBuilder::abort_record_at_page`] and
//! [`WalBuilder::overwrite_contrecord`].

use bytes::Bytes;

use super::decoder::OVERWRITE_LEN;
use super::page::{FIRST_IS_CONTRECORD, FIRST_IS_OVERWRITE, PageHeader};
use super::record::{
    RECORD_HEADER_LEN, RM_XLOG, RecordHeader, XLOG_NOOP, XLOG_OVERWRITE_CONTRECORD, XLOG_SWITCH, record_crc,
};
use super::{StreamConfig, next_record_start};
use crate::{Lsn, WAL_PAGE_SIZE};

/// Ids of the main data's header inside a record, and the longest data of the short form.
const MAIN_DATA_SHORT: u8 = 255;
const MAIN_DATA_LONG: u8 = 254;
const SHORT_MAX: usize = 255;

/// Where a built record lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuiltRecord {
    /// Position of its first byte.
    pub start: Lsn,
    /// Boundary after it.
    pub end: Lsn,
}

/// Writes a stream of WAL.
#[derive(Debug, Clone)]
pub struct WalBuilder {
    cfg: StreamConfig,
    /// Position of `out[0]`.
    taken: Lsn,
    pos: Lsn,
    prev: Option<Lsn>,
    out: Vec<u8>,
    /// The record left unfinished before this position.
    aborted: Option<Lsn>,
}

impl WalBuilder {
    /// A stream that goes on at record boundary `start`, behind the record at `prev` (none is written as zero).
    ///
    /// # Panics
    /// When `start` can be no boundary.
    pub fn new(cfg: StreamConfig, start: Lsn, prev: Option<Lsn>) -> WalBuilder {
        assert!(cfg.check_start(start).is_ok(), "{start} is not a record boundary");
        WalBuilder { cfg, taken: start, pos: start, prev, out: Vec::new(), aborted: None }
    }

    /// Position of the next byte: the end of what has been built.
    pub fn position(&self) -> Lsn {
        self.pos
    }

    /// Start of the last whole record.
    pub fn last_record_start(&self) -> Option<Lsn> {
        self.prev
    }

    /// Bytes built and not taken yet; they end at [`WalBuilder::position`].
    pub fn bytes(&self) -> &[u8] {
        &self.out
    }

    /// Takes the bytes built since the last call, with the position of the first.
    pub fn take(&mut self) -> (Lsn, Bytes) {
        let at = std::mem::replace(&mut self.taken, self.pos);
        (at, Bytes::from(std::mem::take(&mut self.out)))
    }

    /// A record with `main_data` as its payload and no block references.
    ///
    /// # Panics
    /// When a record was aborted and not overwritten, or the payload is longer than a record can be.
    pub fn record(&mut self, rmid: u8, info: u8, xid: u32, main_data: &[u8]) -> BuiltRecord {
        let mut body = Vec::with_capacity(main_data.len() + 5);
        match u8::try_from(main_data.len()) {
            Ok(0) => {}
            Ok(len) => body.extend_from_slice(&[MAIN_DATA_SHORT, len]),
            Err(_) => {
                body.push(MAIN_DATA_LONG);
                body.extend_from_slice(&u32::try_from(main_data.len()).expect("fits a record").to_le_bytes());
            }
        }
        body.extend_from_slice(main_data);
        self.record_with_body(rmid, info, xid, &body)
    }

    /// A record with `body` behind its header, block references and all.
    ///
    /// # Panics
    /// As [`WalBuilder::record`].
    pub fn record_with_body(&mut self, rmid: u8, info: u8, xid: u32, body: &[u8]) -> BuiltRecord {
        assert!(self.aborted.is_none(), "an aborted record must be overwritten first");
        let record = self.encode(rmid, info, xid, body);
        self.put_record(&record, 0)
    }

    /// A NOOP record of exactly `total_len` bytes, header included: 24, or 26 and more.
    ///
    /// # Panics
    /// For a length that no record has.
    pub fn noop(&mut self, total_len: u32) -> BuiltRecord {
        let body = noop_body(total_len as usize);
        self.record_with_body(RM_XLOG, XLOG_NOOP, 0, &body)
    }

    /// A NOOP record whose end is `end`.
    ///
    /// # Panics
    /// When no record fits there: `end` is no boundary, or less than a record header away.
    pub fn noop_until(&mut self, end: Lsn) -> BuiltRecord {
        assert!(self.cfg.check_start(end).is_ok(), "{end} is not a record boundary");
        let mut at = next_record_start(self.pos, self.cfg.seg_size);
        let mut len = 0;
        while at < end {
            let stop = at.page_start().add(WAL_PAGE_SIZE).min(end);
            len += stop.bytes_since(at);
            at = if stop < end { next_record_start(stop, self.cfg.seg_size) } else { stop };
        }
        let built = self.noop(u32::try_from(len).expect("fits a record"));
        assert_eq!(built.end, end, "a record ends where it was asked to");
        built
    }

    /// A NOOP record that ends exactly at the end of a page, at the next page when this one has no room for it.
    pub fn noop_until_page_end(&mut self) -> BuiltRecord {
        let first = next_record_start(self.pos, self.cfg.seg_size);
        let mut end = first.page_start().add(WAL_PAGE_SIZE);
        if end.bytes_since(first) < RECORD_HEADER_LEN as u64 {
            end = end.add(WAL_PAGE_SIZE);
        }
        self.noop_until(end)
    }

    /// A NOOP record that ends exactly at the end of the segment (of the next one when this one has no room for it).
    pub fn noop_until_segment_end(&mut self) -> BuiltRecord {
        let seg = self.cfg.seg_size;
        let first = next_record_start(self.pos, seg);
        let mut end = first.segment_start(seg).add(seg.bytes());
        if end.bytes_since(first) < RECORD_HEADER_LEN as u64 {
            end = end.add(seg.bytes());
        }
        self.noop_until(end)
    }

    /// A SWITCH record and the fill behind it; the position is the next segment's start.
    pub fn switch(&mut self) -> BuiltRecord {
        let built = self.record_with_body(RM_XLOG, XLOG_SWITCH, 0, &[]);
        let into = self.pos.segment_offset(self.cfg.seg_size);
        if into == 0 {
            return built;
        }
        let fill = self.cfg.seg_size.bytes() - into;
        self.out.resize(self.out.len() + usize::try_from(fill).expect("less than a segment"), 0);
        self.pos = self.pos.add(fill);
        BuiltRecord { end: self.pos, ..built }
    }

    /// The beginning of a record of `total_len` bytes, up to the end of the `pages`-th page that it touches: what a
    /// crash leaves when the rest was never written. Returns where the unfinished record begins.
    ///
    /// # Panics
    /// When the record would end before, or `pages` is zero.
    pub fn abort_record_at_page(&mut self, total_len: u32, pages: u32) -> Lsn {
        assert!(self.aborted.is_none() && pages > 0, "one record is aborted at a time, at the end of a page");
        let record = self.encode(RM_XLOG, XLOG_NOOP, 0, &noop_body(total_len as usize));
        let start = next_record_start(self.pos, self.cfg.seg_size);
        let stop = start.page_start().add(WAL_PAGE_SIZE * u64::from(pages));
        self.put(&record, 0, Some(stop));
        assert_eq!(self.pos, stop, "the record reaches beyond the page at which it is cut");
        self.aborted = Some(start);
        start
    }

    /// What a server writes when it restarts behind an unfinished record: a page that says so, and
    /// OVERWRITE_CONTRECORD.
    ///
    /// # Panics
    /// When no record was aborted.
    pub fn overwrite_contrecord(&mut self) -> BuiltRecord {
        let lost = self.aborted.take().expect("a record was aborted before");
        let mut body = vec![MAIN_DATA_SHORT, 16];
        body.extend_from_slice(&lost.get().to_le_bytes());
        body.extend_from_slice(&[0; 8]);
        let record = self.encode(RM_XLOG, XLOG_OVERWRITE_CONTRECORD, 0, &body);
        assert_eq!(record.len(), OVERWRITE_LEN);
        self.put_record(&record, FIRST_IS_OVERWRITE)
    }

    fn encode(&self, rmid: u8, info: u8, xid: u32, body: &[u8]) -> Vec<u8> {
        let total_len = u32::try_from(RECORD_HEADER_LEN + body.len()).expect("fits a record");
        let prev = self.prev.unwrap_or(Lsn::new(0));
        let mut header = RecordHeader { total_len, xid, prev, info, rmid, crc: 0 };
        let mut record = [&header.to_bytes()[..], body].concat();
        header.crc = record_crc(&record);
        record[..RECORD_HEADER_LEN].copy_from_slice(&header.to_bytes());
        record
    }

    fn put_record(&mut self, record: &[u8], first_page_flags: u16) -> BuiltRecord {
        let start = next_record_start(self.pos, self.cfg.seg_size);
        self.put(record, first_page_flags, None);
        let padding = self.pos.align8().bytes_since(self.pos);
        self.out.resize(self.out.len() + usize::try_from(padding).expect("less than eight"), 0);
        self.pos = self.pos.align8();
        self.prev = Some(start);
        BuiltRecord { start, end: self.pos }
    }

    /// Writes `record` with the page headers in its way, up to `stop`.
    fn put(&mut self, record: &[u8], first_page_flags: u16, stop: Option<Lsn>) {
        let mut left = record;
        while !left.is_empty() && stop.is_none_or(|s| self.pos < s) {
            if self.pos.page_offset() == 0 {
                let (flags, rem_len) = if left.len() == record.len() {
                    (first_page_flags, 0)
                } else {
                    (FIRST_IS_CONTRECORD, u32::try_from(left.len()).expect("fits a record"))
                };
                PageHeader::for_page(self.pos, &self.cfg, flags, rem_len).write(&mut self.out);
                self.pos = next_record_start(self.pos, self.cfg.seg_size);
            }
            let room = usize::try_from(WAL_PAGE_SIZE - self.pos.page_offset()).expect("at most a page");
            let (now, later) = left.split_at(room.min(left.len()));
            self.out.extend_from_slice(now);
            self.pos = self.pos.add(now.len() as u64);
            left = later;
        }
    }
}

/// The body of a record of `total_len` bytes without block references.
fn noop_body(total_len: usize) -> Vec<u8> {
    let body_len = total_len.checked_sub(RECORD_HEADER_LEN).expect("at least a record header");
    assert!(body_len != 1, "no record is 25 bytes long");
    let mut body = Vec::with_capacity(body_len);
    if body_len > SHORT_MAX + 2 {
        body.push(MAIN_DATA_LONG);
        body.extend_from_slice(&u32::try_from(body_len - 5).expect("fits a record").to_le_bytes());
    } else if body_len > 0 {
        body.extend_from_slice(&[MAIN_DATA_SHORT, u8::try_from(body_len - 2).expect("short form")]);
    }
    // Not constant, so that a misplaced byte shows.
    body.extend((body.len()..body_len).map(|i| (i % 251) as u8));
    body
}
