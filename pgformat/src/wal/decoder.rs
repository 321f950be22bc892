//! Follows a stream of WAL byte by byte: checks it, and finds its record boundaries.
//!
//! A [`WalDecoder`] owns a few words of state and never the bytes it is fed. The exception is
//! [`WalDecoder::feed_records`], which copies the pieces of the one incomplete record. That can be 1 GiB.
//! [`WalDecoder::unfinished`] reports it in time, and nothing is kept of records that the owner leaves out
//! ([`WalDecoder::leaving_out`]). Without an incomplete record, a decoder is cheap to clone.
//!
//! The decoder checks page headers, the link from page to page (`xlp_rem_len`), record lengths, resource managers, prev
//! links, checksums, overwritten records and fill. Like PostgreSQL, it does not check the up to seven padding bytes
//! between records, four padding bytes in a page header, and the page flag
//! [`BKP_REMOVABLE`](super::page::BKP_REMOVABLE).
//!
//! Invariants: `boundary` only grows; after an error nothing changes; positions, records and errors do not depend on
//! how the bytes are split into feeds.
//!
//! Source: PostgreSQL 15, `XLogReadRecord` and `ValidXLogRecord*` in `src/backend/access/transam/xlogreader.c`,
//! `VerifyOverwriteContrecord` in `xlogrecovery.c`, `CopyXLogRecordToWAL` (fill after a SWITCH record) in `xlog.c`.

use std::sync::Arc;

use crc32c::{crc32c, crc32c_append};

use super::page::{self, FIRST_IS_CONTRECORD, FIRST_IS_OVERWRITE, LONG_HEADER_LEN, PageHeader};
use super::record::{
    RECORD_CRC_OFFSET, RECORD_HEADER_LEN, RECORD_LEN_MAX, RecordHeader, RecordRef, record_crc, rmgr_exists,
};
use super::{StreamConfig, WalError};
use crate::{Lsn, WAL_PAGE_SIZE};

/// Length of an OVERWRITE_CONTRECORD record: header, `{255, 16}`, overwritten LSN, time.
pub(super) const OVERWRITE_LEN: usize = RECORD_HEADER_LEN + 2 + 16;
const OVERWRITE_BODY_LEN: usize = OVERWRITE_LEN - RECORD_HEADER_LEN;
/// Memory that is kept from one record in pieces to the next.
const KEPT_BYTES: usize = 1 << 20;
/// Half of the number space: no sum of a position and a length overflows below it.
const START_MAX: u64 = u64::MAX / 2;

/// Streaming decoder of record boundaries.
#[derive(Clone, Debug)]
pub struct WalDecoder {
    cfg: Arc<StreamConfig>,
    pos: Lsn,
    boundary: Lsn,
    last_start: Option<Lsn>,
    state: DecoderState,
    /// What the next record must overwrite.
    overwrite: Overwrite,
    /// Whether no page header and no record has been seen yet.
    fresh: bool,
    /// The part of a page header that has arrived.
    page_buf: [u8; LONG_HEADER_LEN as usize],
    /// What has arrived of the unfinished record, kept for [`WalDecoder::feed_records`] only.
    partial: Vec<u8>,
    /// Of which records only the header is kept and shown.
    leaves_out: fn(&RecordHeader) -> bool,
    failed: Option<WalError>,
}

/// A record that has begun and is kept until it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Where it began.
    pub start: Lsn,
    /// Bytes that will be held when it is whole.
    pub len: u32,
}

#[derive(Clone, Copy, Debug)]
enum DecoderState {
    /// Before a record; below the boundary there is padding.
    Between,
    /// Inside a record's header, of which `have` bytes have arrived.
    Header { start: Lsn, head: [u8; RECORD_HEADER_LEN], have: usize },
    /// Behind the header of a longer record.
    Body(PendingRecord),
    /// In the fill that ends at the boundary.
    Fill,
}

#[derive(Clone, Copy, Debug)]
struct PendingRecord {
    start: Lsn,
    head: [u8; RECORD_HEADER_LEN],
    header: RecordHeader,
    crc: u32,
    left: u32,
    /// Whether it is kept for [`WalDecoder::feed_records`], header and all.
    kept: bool,
    /// The body's first bytes, filled for OVERWRITE_CONTRECORD only.
    lead: [u8; OVERWRITE_BODY_LEN],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overwrite {
    /// Nothing: such a record is out of place.
    Nothing,
    /// The unfinished record that began here.
    Record(Lsn),
    /// Some record before the stream's own start.
    Unknown,
}

/// Where whole records go.
type Output<'a> = &'a mut dyn FnMut(RecordRef<'_>);

impl WalDecoder {
    /// A decoder at record boundary `start`: 8-aligned, maybe the start of a page or segment, or just behind a page
    /// header.
    ///
    /// `prev` is the start of the record before it. When it is not known, the first record may name any earlier one.
    /// A `start` that can be no boundary makes every feed fail with [`WalError::BadStart`].
    pub fn new(cfg: StreamConfig, start: Lsn, prev: Option<Lsn>) -> WalDecoder {
        let failed =
            if start.get() > START_MAX { Some(WalError::BadStart { at: start }) } else { cfg.check_start(start).err() };
        WalDecoder {
            cfg: Arc::new(cfg),
            pos: start,
            boundary: start,
            last_start: prev,
            state: DecoderState::Between,
            overwrite: Overwrite::Nothing,
            fresh: true,
            page_buf: [0; LONG_HEADER_LEN as usize],
            partial: Vec::new(),
            leaves_out: |_| false,
            failed,
        }
    }

    /// Keeps no more than the header of records for which `which` says so; they are checked like all others, and shown
    /// with their header alone ([`RecordRef::is_left_out`]).
    #[must_use]
    pub fn leaving_out(mut self, which: fn(&RecordHeader) -> bool) -> WalDecoder {
        self.leaves_out = which;
        self
    }

    /// The record that [`WalDecoder::feed_records`] keeps until it is whole, once its header has come.
    pub fn unfinished(&self) -> Option<Unfinished> {
        match &self.state {
            DecoderState::Body(body) if body.kept => Some(Unfinished { start: body.start, len: body.header.total_len }),
            _ => None,
        }
    }

    /// Position of the byte that comes next.
    pub fn position(&self) -> Lsn {
        self.pos
    }

    /// End of the last whole record: 8-aligned, before any page header that follows. After a SWITCH record the start of
    /// the next segment, which may lie beyond [`WalDecoder::position`]. Before the first record, where the stream
    /// began.
    pub fn boundary(&self) -> Lsn {
        self.boundary
    }

    /// Start of the last whole record; before the first, the `prev` that [`WalDecoder::new`] was given.
    pub fn last_record_start(&self) -> Option<Lsn> {
        self.last_start
    }

    /// What the stream must look like.
    pub fn config(&self) -> &StreamConfig {
        &self.cfg
    }

    /// While the position is in the fill after a SWITCH record: where the fill ends.
    ///
    /// A primary that crashed while it filled a recycled segment leaves old bytes there. They mean nothing, and this
    /// decoder refuses them ([`WalError::SwitchFill`]); who feeds it from a primary may put zeros in their place.
    pub fn fill_end(&self) -> Option<Lsn> {
        matches!(self.state, DecoderState::Fill).then_some(self.boundary)
    }

    /// Feeds the bytes at `at`, which is [`WalDecoder::position`], or inside fill also [`WalDecoder::boundary`]: the
    /// rest of the fill is zeros by definition and need not be sent.
    ///
    /// # Errors
    /// The first thing that is wrong. Then the decoder is spent: the boundary stays at the last good record, and every
    /// further feed returns the same error. [`WalError::NotContiguous`] alone changes nothing.
    pub fn feed(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), WalError> {
        self.begin_feed(at, bytes)?;
        let result = self.run(bytes, None);
        self.keep_failure(result)
    }

    /// As [`WalDecoder::feed`], and shows every whole record to `on`: its place in `bytes` when it lies inside one page
    /// of this feed, else put together once.
    ///
    /// A record that began under [`WalDecoder::feed`] is not shown.
    ///
    /// # Errors
    /// As [`WalDecoder::feed`]; the records before the error have been shown.
    pub fn feed_records(&mut self, at: Lsn, bytes: &[u8], on: &mut dyn FnMut(RecordRef<'_>)) -> Result<(), WalError> {
        self.begin_feed(at, bytes)?;
        let result = self.run(bytes, Some(on));
        self.keep_failure(result)
    }

    fn begin_feed(&mut self, at: Lsn, bytes: &[u8]) -> Result<(), WalError> {
        if let Some(e) = self.failed {
            return Err(e);
        }
        if at != self.pos && self.fill_end() == Some(at) {
            self.pos = at;
            self.state = DecoderState::Between;
        }
        let fits = at.get() <= START_MAX && u64::try_from(bytes.len()).is_ok_and(|n| n < START_MAX);
        if at == self.pos && fits { Ok(()) } else { Err(WalError::NotContiguous { at, expected: self.pos }) }
    }

    fn keep_failure(&mut self, result: Result<(), WalError>) -> Result<(), WalError> {
        if let Err(e) = result {
            self.failed = Some(e);
            self.partial = Vec::new();
        }
        result
    }

    fn run(&mut self, bytes: &[u8], mut out: Option<Output<'_>>) -> Result<(), WalError> {
        let mut done = 0;
        while done < bytes.len() {
            done += self.step(&bytes[done..], &mut out)?;
        }
        Ok(())
    }

    /// Takes at least one of `bytes`; returns how many.
    fn step(&mut self, bytes: &[u8], out: &mut Option<Output<'_>>) -> Result<usize, WalError> {
        if matches!(self.state, DecoderState::Fill) {
            return self.take_fill(bytes);
        }
        let in_page = self.pos.page_offset();
        if in_page < LONG_HEADER_LEN {
            let header_len = page::header_len(self.pos.page_start(), self.cfg.seg_size);
            if in_page < header_len {
                return self.take_page_header(bytes, small(in_page), small(header_len));
            }
        }
        let bytes = &bytes[..bytes.len().min(small(WAL_PAGE_SIZE - in_page))];
        match self.state {
            DecoderState::Between if self.pos < self.boundary => {
                let n = bytes.len().min(small(self.boundary.bytes_since(self.pos)));
                self.advance(n);
                Ok(n)
            }
            DecoderState::Between => self.take_record(bytes, out),
            DecoderState::Header { start, head, have } => self.take_record_header(bytes, out, start, head, have),
            DecoderState::Body(body) => self.take_body(bytes, out, body),
            DecoderState::Fill => self.take_fill(bytes),
        }
    }

    fn advance(&mut self, n: usize) {
        self.pos = self.pos.add(n as u64);
    }

    fn take_fill(&mut self, bytes: &[u8]) -> Result<usize, WalError> {
        let left = usize::try_from(self.boundary.bytes_since(self.pos)).unwrap_or(usize::MAX);
        let fill = &bytes[..bytes.len().min(left)];
        if let Some(i) = first_non_zero(fill) {
            return Err(WalError::SwitchFill { at: self.pos.add(i as u64) });
        }
        self.advance(fill.len());
        if self.pos == self.boundary {
            self.state = DecoderState::Between;
        }
        Ok(fill.len())
    }

    fn take_page_header(&mut self, bytes: &[u8], have: usize, len: usize) -> Result<usize, WalError> {
        let n = bytes.len().min(len - have);
        self.page_buf[have..have + n].copy_from_slice(&bytes[..n]);
        if have + n == len {
            let at = self.pos.page_start();
            let header = PageHeader::check(&self.page_buf[..len], at, &self.cfg)?;
            self.check_continuation(at, &header)?;
            self.fresh = false;
        }
        self.advance(n);
        Ok(n)
    }

    /// The link between the page at `at` and the record that was open at its start.
    fn check_continuation(&mut self, at: Lsn, page: &PageHeader) -> Result<(), WalError> {
        let continues = page.info & FIRST_IS_CONTRECORD != 0;
        let overwrites = page.info & FIRST_IS_OVERWRITE != 0;
        let open = match self.state {
            // A record's first eight bytes are on its first page, so its length is known here.
            DecoderState::Header { start, head, have } => {
                Some((start, page::u32_at(&head, 0).unwrap_or(0) - have as u32))
            }
            DecoderState::Body(body) => Some((body.start, body.left)),
            DecoderState::Between | DecoderState::Fill => None,
        };
        match open {
            Some((start, _)) if overwrites => {
                self.overwrite = Overwrite::Record(start);
                self.state = DecoderState::Between;
                self.partial = Vec::new();
            }
            Some((record, _)) if !continues => return Err(WalError::ContrecordMissing { at, record }),
            Some((_, left)) if left != page.rem_len => {
                return Err(WalError::RemLen { at, expected: left, found: page.rem_len });
            }
            Some(_) => return Ok(()),
            // The first page of a stream may overwrite a record lost before it; on a later page that record would have
            // been seen.
            None if overwrites && self.fresh => self.overwrite = Overwrite::Unknown,
            None if overwrites => return Err(WalError::OverwriteUnexpected { at }),
            None => {}
        }
        if continues {
            return Err(WalError::ContrecordUnexpected { at });
        }
        if page.rem_len != 0 {
            return Err(WalError::RemLen { at, expected: 0, found: page.rem_len });
        }
        Ok(())
    }

    /// At the start of a record, `bytes` being the rest of the page as far as it has arrived.
    fn take_record(&mut self, bytes: &[u8], out: &mut Option<Output<'_>>) -> Result<usize, WalError> {
        let start = self.pos;
        let whole =
            RecordHeader::parse(bytes).and_then(|h| Some((h, bytes.get(..usize::try_from(h.total_len).ok()?)?)));
        let Some((header, record)) = whole else {
            return self.take_record_header(bytes, out, start, [0; RECORD_HEADER_LEN], 0);
        };
        self.check_length(start, header.total_len)?;
        self.check_header(start, &header)?;
        let crc = record_crc(record);
        let n = record.len();
        self.finish(start, &header, crc, &record[RECORD_HEADER_LEN..], n)?;
        if let Some(on) = out {
            let shown = if (self.leaves_out)(&header) { RECORD_HEADER_LEN } else { n };
            on(RecordRef { start, end: self.boundary, header, data: &record[..shown] });
        }
        Ok(n)
    }

    fn take_record_header(
        &mut self,
        bytes: &[u8],
        out: &mut Option<Output<'_>>,
        start: Lsn,
        mut head: [u8; RECORD_HEADER_LEN],
        have: usize,
    ) -> Result<usize, WalError> {
        let n = bytes.len().min(RECORD_HEADER_LEN - have);
        head[have..have + n].copy_from_slice(&bytes[..n]);
        let now = have + n;
        if have < 4 && now >= 4 {
            self.check_length(start, page::u32_at(&head, 0).unwrap_or(0))?;
        }
        if now < RECORD_HEADER_LEN {
            self.state = DecoderState::Header { start, head, have: now };
            self.keep_piece(&bytes[..n], out, RECORD_HEADER_LEN);
            self.advance(n);
            return Ok(n);
        }
        let Some(header) = RecordHeader::parse(&head) else { return Err(WalError::ZeroLength { at: start }) };
        self.check_header(start, &header)?;
        let left = header.total_len - RECORD_HEADER_LEN as u32;
        self.keep_piece(&bytes[..n], out, RECORD_HEADER_LEN);
        if left == 0 {
            self.finish(start, &header, crc32c(&head[..RECORD_CRC_OFFSET]), &[], n)?;
            self.hand_out(start, header, out);
        } else {
            // A record that began under `feed` is incomplete and stays so.
            let kept = self.partial.len() == RECORD_HEADER_LEN && !(self.leaves_out)(&header);
            let lead = [0; OVERWRITE_BODY_LEN];
            self.state = DecoderState::Body(PendingRecord { start, head, header, crc: 0, left, kept, lead });
            self.advance(n);
        }
        Ok(n)
    }

    fn take_body(
        &mut self,
        bytes: &[u8],
        out: &mut Option<Output<'_>>,
        mut body: PendingRecord,
    ) -> Result<usize, WalError> {
        let take = usize::try_from(body.left).unwrap_or(usize::MAX).min(bytes.len());
        let part = &bytes[..take];
        body.crc = crc32c_append(body.crc, part);
        if self.overwrite != Overwrite::Nothing {
            let at = OVERWRITE_BODY_LEN.saturating_sub(usize::try_from(body.left).unwrap_or(usize::MAX));
            let n = take.min(OVERWRITE_BODY_LEN - at);
            body.lead[at..at + n].copy_from_slice(&part[..n]);
        }
        body.left -= u32::try_from(take).unwrap_or(body.left);
        if body.kept {
            self.keep_piece(part, out, usize::try_from(body.header.total_len).unwrap_or(usize::MAX));
        }
        if body.left > 0 {
            self.state = DecoderState::Body(body);
            self.advance(take);
        } else {
            let crc = crc32c_append(body.crc, &body.head[..RECORD_CRC_OFFSET]);
            self.finish(body.start, &body.header, crc, &body.lead, take)?;
            self.hand_out(body.start, body.header, out);
        }
        Ok(take)
    }

    fn check_length(&self, at: Lsn, found: u32) -> Result<(), WalError> {
        match found {
            0 => Err(WalError::ZeroLength { at }),
            n if n < RECORD_HEADER_LEN as u32 || n > RECORD_LEN_MAX => Err(WalError::RecordLength { at, found }),
            _ => Ok(()),
        }
    }

    fn check_header(&self, at: Lsn, header: &RecordHeader) -> Result<(), WalError> {
        if !rmgr_exists(self.cfg.version, header.rmid) {
            return Err(WalError::Rmgr { at, found: header.rmid });
        }
        let linked = match self.last_start {
            Some(prev) => header.prev == prev,
            None => header.prev < at,
        };
        if !linked {
            return Err(WalError::PrevLink { at, expected: self.last_start, found: header.prev });
        }
        match (self.overwrite, header.is_overwrite_contrecord()) {
            (Overwrite::Nothing, true) => Err(WalError::OverwriteUnexpected { at }),
            (Overwrite::Record(_) | Overwrite::Unknown, false) => Err(WalError::OverwriteMissing { at }),
            (_, true) if header.total_len != OVERWRITE_LEN as u32 => {
                Err(WalError::RecordLength { at, found: header.total_len })
            }
            _ => Ok(()),
        }
    }

    /// The record's last `n` bytes have arrived; `body` is looked at for OVERWRITE_CONTRECORD only.
    fn finish(&mut self, start: Lsn, header: &RecordHeader, crc: u32, body: &[u8], n: usize) -> Result<(), WalError> {
        if crc != header.crc {
            return Err(WalError::Crc { at: start, expected: crc, found: header.crc });
        }
        if self.overwrite != Overwrite::Nothing {
            self.check_overwritten(start, body)?;
        }
        self.advance(n);
        self.last_start = Some(start);
        self.fresh = false;
        self.overwrite = Overwrite::Nothing;
        self.boundary = self.pos.align8();
        self.state = DecoderState::Between;
        if header.is_switch() && self.boundary.segment_offset(self.cfg.seg_size) != 0 {
            self.boundary = self.pos.segment_start(self.cfg.seg_size).add(self.cfg.seg_size.bytes());
            self.state = DecoderState::Fill;
        }
        Ok(())
    }

    fn check_overwritten(&self, at: Lsn, body: &[u8]) -> Result<(), WalError> {
        // Main data in its short form: id 255, length 16, overwritten LSN, time.
        let found = match body {
            [255, 16, payload @ ..] => page::u64_at(payload, 0).map(Lsn::new),
            _ => None,
        };
        match (self.overwrite, found) {
            (_, None) => Err(WalError::OverwriteMissing { at }),
            (Overwrite::Record(expected), Some(found)) if found != expected => {
                Err(WalError::OverwrittenLsn { at, expected, found })
            }
            _ => Ok(()),
        }
    }

    /// Keeps a part of a record of which `whole` bytes are kept at most: room grows with what has come, and never
    /// beyond that.
    fn keep_piece(&mut self, piece: &[u8], out: &Option<Output<'_>>, whole: usize) {
        if out.is_none() {
            return;
        }
        let (len, room) = (self.partial.len(), self.partial.capacity());
        if room - len < piece.len() {
            // The last step starts at half of the record at most: both buffers exist during the copy.
            let target = if 4 * room >= whole { whole } else { 2 * room };
            let target = target.max(len + piece.len());
            self.partial.reserve_exact(target - len);
        }
        self.partial.extend_from_slice(piece);
    }

    /// Shows the record that has just ended in pieces.
    fn hand_out(&mut self, start: Lsn, header: RecordHeader, out: &mut Option<Output<'_>>) {
        let len = self.partial.len();
        let whole = len as u64 == u64::from(header.total_len);
        let left_out = len == RECORD_HEADER_LEN && (self.leaves_out)(&header);
        if let Some(on) = out
            && (whole || left_out)
        {
            on(RecordRef { start, end: self.boundary, header, data: &self.partial });
        }
        self.partial.clear();
        self.partial.shrink_to(KEPT_BYTES);
    }
}

/// A number below a page's length.
fn small(n: u64) -> usize {
    usize::try_from(n).expect("at most a page")
}

fn first_non_zero(bytes: &[u8]) -> Option<usize> {
    // In blocks first: the fill can be a gigabyte, and a byte-by-byte search is not vectorised.
    let clean = bytes.chunks(4096).take_while(|c| c.iter().fold(0, |a, b| a | b) == 0).count() * 4096;
    bytes.get(clean..)?.iter().position(|b| *b != 0).map(|i| clean + i)
}
