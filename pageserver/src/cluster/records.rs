//! Where records are: chunks of [`KeyKind::RecordIndex`], one for about 64 KiB of the log.
//!
//! A chunk lists the lengths of its records, from one boundary to the next, a byte or two each: about one per cent of
//! the log. So the last record at or below any LSN is found, with its start, which the next record names as its
//! predecessor. A chunk's key is the boundary before its first record.
//!
//! `format u8 = 1 | start of the record before u64 (0 for none) | lengths in units of eight bytes, LEB128 each`.

use pgformat::read::{Short, Take};
use pgformat::wal::next_record_start;
use pgformat::{Lsn, SegSize};

use super::error::LookError;
use super::key::{Key, KeyKind};
use super::leb;
use super::look::Look;

const FORMAT: u8 = 1;
/// Log that a chunk covers at least, in bytes, unless a batch ends before.
const CHUNK_WAL_BYTES: u64 = 64 << 10;

/// Where a record lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RecordSpan {
    /// Position of its first byte, the predecessor that the next record names; `None` before the first record.
    pub(crate) start: Option<Lsn>,
    /// The boundary behind it.
    pub(crate) end: Lsn,
}

/// The chunk that is being filled.
#[derive(Debug)]
pub(crate) struct RecordChunkWriter {
    /// The record before the chunk.
    before: RecordSpan,
    last: RecordSpan,
    lengths: Vec<u8>,
}

impl RecordChunkWriter {
    /// After record `last`.
    pub(crate) const fn new(last: RecordSpan) -> RecordChunkWriter {
        RecordChunkWriter { before: last, last, lengths: Vec::new() }
    }

    /// The last record.
    pub(crate) const fn last(&self) -> RecordSpan {
        self.last
    }

    /// A record; whether the chunk is long enough now.
    pub(crate) fn push(&mut self, start: Lsn, end: Lsn) -> bool {
        leb::put(&mut self.lengths, end.bytes_since(self.last.end) / 8);
        self.last = RecordSpan { start: Some(start), end };
        end.bytes_since(self.before.end) >= CHUNK_WAL_BYTES
    }

    /// The chunk with its key, if there is anything in it; the next one begins.
    pub(crate) fn finish(&mut self) -> Option<(Key, Vec<u8>)> {
        if self.lengths.is_empty() {
            return None;
        }
        let mut chunk = vec![FORMAT];
        chunk.extend(self.before.start.map_or(0, Lsn::get).to_le_bytes());
        chunk.append(&mut self.lengths);
        let key = Key::at(KeyKind::RecordIndex, self.before.end.get());
        self.before = self.last;
        Some((key, chunk))
    }
}

/// The last record of a chunk that ends at or below `lsn`: of the chunk with that key, at or below `lsn` too.
///
/// # Errors
/// [`Short`] when the chunk is damaged or of another format.
fn floor_in(key: Lsn, chunk: &[u8], lsn: Lsn, seg: SegSize) -> Result<RecordSpan, Short> {
    let mut take = Take::new(chunk);
    if take.u8()? != FORMAT {
        return Err(Short);
    }
    let before = take.u64()?;
    let mut floor = RecordSpan { start: (before != 0).then_some(Lsn::new(before)), end: key };
    while take.left() > 0 {
        let end = floor.end.checked_add(leb::take(&mut take)?.saturating_mul(8)).ok_or(Short)?;
        if end > lsn {
            break;
        }
        floor = RecordSpan { start: Some(next_record_start(floor.end, seg)), end };
    }
    Ok(floor)
}

/// The last record that ends at or below `lsn`; `None` when that is before the first one that is known.
///
/// # Errors
/// When the store cannot be read, or the chunk is damaged.
pub(crate) fn floor_record(look: &dyn Look, lsn: Lsn, seg: SegSize) -> Result<Option<RecordSpan>, LookError> {
    let at = |n: u64| Key::at(KeyKind::RecordIndex, n);
    let end = at(lsn.get().saturating_add(1));
    // Most chunks begin close by; a long record can push them far away.
    let mut reach = CHUNK_WAL_BYTES * 2;
    loop {
        let first = lsn.get().saturating_sub(reach);
        if let Some((key, chunk)) = look.scan(at(first)..end)?.pop() {
            let first = Lsn::new(u64::from(key.spc) << 32 | u64::from(key.db));
            return floor_in(first, &chunk, lsn, seg).map(Some).map_err(|Short| LookError::Damaged(key));
        }
        if first == 0 {
            return Ok(None);
        }
        reach = reach.saturating_mul(8);
    }
}
