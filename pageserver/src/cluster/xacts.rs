//! What became of transactions, and when: chunks of [`KeyKind::XactIndex`], one for about 64 KiB of the log.
//!
//! A chunk lists every commit, abort, prepare, commit and abort of a prepared transaction, and where the next
//! transaction's number rose. With it a time or a transaction becomes an LSN, and the next transaction's number is
//! exact at every LSN. Each entry is written as its difference to the one before. A chunk's key is the boundary before
//! its first record.
//!
//! `format u8 = 1 | next transaction before u64 | entries`. An entry: `kind u8 | LSN, as the distance to the entry
//! before, in units of eight bytes`, then for a number that rose `by how much`, else `length of the record (boundary
//! to boundary), units of eight | time, difference | transaction, difference | how many subtransactions | each,
//! difference`; LEB128, differences zigzag.

use pgformat::Lsn;
use pgformat::read::{Short, Take};
use smallvec::SmallVec;

use super::error::LookError;
use super::key::{Key, KeyKind};
use super::leb;
use super::look::Look;

const FORMAT: u8 = 1;
/// Log that a chunk covers at most, in bytes: what chunks are made for, and one record of the longest kind.
const CHUNK_WAL_BYTES_MAX: u64 = 2 << 30;
/// Log whose chunks are looked at in one go.
const PIECE_WAL_BYTES: u64 = 64 << 20;
/// An entry's kind: the next transaction's number rose.
const ROSE: u8 = 0;

/// How a transaction ended, or that it was prepared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum EndKind {
    /// It committed, and had not been prepared.
    Commit = 1,
    /// It aborted, and had not been prepared.
    Abort = 2,
    /// It was prepared.
    Prepare = 3,
    /// It committed after it had been prepared.
    CommitPrepared = 4,
    /// It aborted after it had been prepared.
    AbortPrepared = 5,
}

impl EndKind {
    const ALL: [EndKind; 5] =
        [EndKind::Commit, EndKind::Abort, EndKind::Prepare, EndKind::CommitPrepared, EndKind::AbortPrepared];

    /// The word that HTTP has for it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            EndKind::Commit => "commit",
            EndKind::Abort => "abort",
            EndKind::Prepare => "prepare",
            EndKind::CommitPrepared => "commit prepared",
            EndKind::AbortPrepared => "abort prepared",
        }
    }
}

/// One end of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct XactEntry {
    /// What became of the transaction.
    pub(crate) kind: EndKind,
    /// Boundary before its record.
    pub(crate) start: Lsn,
    /// Boundary behind its record: from here on it counts.
    pub(crate) end: Lsn,
    /// When, in microseconds since 2000.
    pub(crate) time: i64,
    /// The top transaction.
    pub(crate) xid: u32,
    /// Subtransactions that ended with it.
    pub(crate) subxids: SmallVec<[u32; 4]>,
}

/// What the next entry is a difference to.
#[derive(Clone, Copy, Debug)]
struct Last {
    lsn: Lsn,
    next_xid: u64,
    time: i64,
    xid: u32,
}

impl Last {
    const fn new(lsn: Lsn, next_xid: u64) -> Last {
        Last { lsn, next_xid, time: 0, xid: 0 }
    }
}

/// The chunk that is being filled.
#[derive(Debug)]
pub(crate) struct XactChunkWriter {
    first: Lsn,
    next_xid: u64,
    last: Last,
    entries: Vec<u8>,
}

impl XactChunkWriter {
    /// A chunk for the records behind boundary `first`, when the next transaction is `next_xid`.
    pub(crate) const fn new(first: Lsn, next_xid: u64) -> XactChunkWriter {
        XactChunkWriter { first, next_xid, last: Last::new(first, next_xid), entries: Vec::new() }
    }

    fn begin(&mut self, kind: u8, lsn: Lsn) {
        self.entries.push(kind);
        leb::put(&mut self.entries, lsn.bytes_since(self.last.lsn) / 8);
        self.last.lsn = lsn;
    }

    /// From the record behind boundary `end` on the next transaction is `next_xid`.
    pub(crate) fn rose(&mut self, end: Lsn, next_xid: u64) {
        self.begin(ROSE, end);
        leb::put_signed(&mut self.entries, next_xid.wrapping_sub(self.last.next_xid) as i64);
        self.last.next_xid = next_xid;
    }

    /// A transaction ended, or was prepared.
    pub(crate) fn push(&mut self, entry: &XactEntry) {
        self.begin(entry.kind as u8, entry.end);
        let (last, out) = (&mut self.last, &mut self.entries);
        leb::put(out, entry.end.bytes_since(entry.start) / 8);
        leb::put_signed(out, entry.time.wrapping_sub(last.time));
        leb::put_signed(out, i64::from(entry.xid) - i64::from(last.xid));
        leb::put(out, entry.subxids.len() as u64);
        (last.time, last.xid) = (entry.time, entry.xid);
        for sub in &entry.subxids {
            leb::put_signed(out, i64::from(*sub) - i64::from(last.xid));
            last.xid = *sub;
        }
    }

    /// The chunk with its key, if there is anything in it; the next one begins behind boundary `end`.
    pub(crate) fn finish(&mut self, end: Lsn) -> Option<(Key, Vec<u8>)> {
        let done = std::mem::replace(self, XactChunkWriter::new(end, self.last.next_xid));
        (!done.entries.is_empty()).then(|| {
            let mut chunk = vec![FORMAT];
            chunk.extend(done.next_xid.to_le_bytes());
            chunk.extend(done.entries);
            (Key::at(KeyKind::XactIndex, done.first.get()), chunk)
        })
    }
}

/// What a chunk says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct XactChunk {
    /// The next transaction's number, by the boundary from which on it holds, ascending. The first is the chunk's own.
    pub(crate) next_xid: Vec<(Lsn, u64)>,
    /// Ends of transactions, in the order of their records.
    pub(crate) ends: Vec<XactEntry>,
}

impl XactChunk {
    /// Reads the chunk with that key.
    ///
    /// # Errors
    /// [`Short`] when it is damaged or of another format.
    pub(crate) fn decode(key: Key, chunk: &[u8]) -> Result<XactChunk, Short> {
        let mut take = Take::new(chunk);
        if take.u8()? != FORMAT {
            return Err(Short);
        }
        let first = Lsn::new(u64::from(key.spc) << 32 | u64::from(key.db));
        let mut last = Last::new(first, take.u64()?);
        let mut read = XactChunk { next_xid: vec![(first, last.next_xid)], ends: Vec::new() };
        let bytes = |take: &mut Take<'_>| Ok::<u64, Short>(leb::take(take)?.saturating_mul(8).min(u64::MAX / 4));
        while take.left() > 0 {
            let kind = take.u8()?;
            last.lsn = last.lsn.checked_add(bytes(&mut take)?).ok_or(Short)?;
            if kind == ROSE {
                last.next_xid = last.next_xid.wrapping_add(leb::take_signed(&mut take)? as u64);
                read.next_xid.push((last.lsn, last.next_xid));
                continue;
            }
            let kind = EndKind::ALL.into_iter().find(|k| *k as u8 == kind).ok_or(Short)?;
            let start = Lsn::new(last.lsn.get().saturating_sub(bytes(&mut take)?));
            last.time = last.time.wrapping_add(leb::take_signed(&mut take)?);
            let mut xid = || {
                last.xid = last.xid.wrapping_add(leb::take_signed(&mut take)? as u32);
                Ok::<u32, Short>(last.xid)
            };
            let top = xid()?;
            let n = leb::take(&mut take)?;
            let mut subxids = SmallVec::new();
            for _ in 0..n {
                last.xid = last.xid.wrapping_add(leb::take_signed(&mut take)? as u32);
                subxids.push(last.xid);
            }
            read.ends.push(XactEntry { kind, start, end: last.lsn, time: last.time, xid: top, subxids });
        }
        Ok(read)
    }
}

/// The next transaction's number at `lsn`, if it rose in `(since, lsn]`: what rose before is in the control state of
/// `since`. The chunk that says so may have been written after `lsn`, so `tip` is the newest state.
///
/// # Errors
/// When the store cannot be read, or a chunk is damaged.
pub(crate) fn next_xid_at(tip: &dyn Look, since: Lsn, lsn: Lsn) -> Result<Option<u64>, LookError> {
    let at = |n: u64| Key::at(KeyKind::XactIndex, n);
    let lowest = since.get().saturating_sub(CHUNK_WAL_BYTES_MAX);
    let mut reach = 1 << 20;
    loop {
        let first = lsn.get().saturating_sub(reach).max(lowest);
        for (key, bytes) in tip.scan(at(first)..at(lsn.get()))?.into_iter().rev() {
            let chunk = XactChunk::decode(key, &bytes).map_err(|Short| LookError::Damaged(key))?;
            if let Some((rose, next)) = chunk.next_xid.iter().skip(1).rev().find(|(rose, _)| *rose <= lsn) {
                return Ok((*rose > since).then_some(*next));
            }
        }
        if first == lowest {
            return Ok(None);
        }
        reach = reach.saturating_mul(8);
    }
}

/// The first end of a transaction whose record ends in `(from, to]` and is `wanted`, in `tip`, the newest state.
///
/// # Errors
/// As [`next_xid_at`].
pub(crate) fn first_end(
    tip: &dyn Look,
    from: Lsn,
    to: Lsn,
    mut wanted: impl FnMut(&XactEntry) -> bool,
) -> Result<Option<XactEntry>, LookError> {
    let mut found = None;
    walk_ends(tip, from, to, &mut |entry| {
        if wanted(&entry) {
            found = Some(entry);
        }
        found.is_none()
    })?;
    Ok(found)
}

/// The ends of transactions whose records end in `(from, to]`, in their order, in `tip`, the newest state: at most the
/// first `max` of them. Memory grows with `max` and not with the range.
///
/// # Errors
/// As [`next_xid_at`].
pub(crate) fn ends_between(tip: &dyn Look, from: Lsn, to: Lsn, max: usize) -> Result<Vec<XactEntry>, LookError> {
    let mut found = Vec::new();
    if max > 0 {
        walk_ends(tip, from, to, &mut |entry| {
            found.push(entry);
            found.len() < max
        })?;
    }
    Ok(found)
}

/// Tells the ends of transactions whose records end in `(from, to]`, in their order, as long as `tell` wants more.
fn walk_ends(tip: &dyn Look, from: Lsn, to: Lsn, tell: &mut dyn FnMut(XactEntry) -> bool) -> Result<(), LookError> {
    let at = |n: u64| Key::at(KeyKind::XactIndex, n);
    let (mut next, mut reach) = (from.get().saturating_sub(CHUNK_WAL_BYTES_MAX), PIECE_WAL_BYTES);
    while next < to.get() {
        let end = next.saturating_add(reach).min(to.get());
        let chunks = tip.scan(at(next)..at(end))?;
        // A stretch without any is passed over in larger and larger steps.
        reach = if chunks.is_empty() { reach.saturating_mul(8) } else { PIECE_WAL_BYTES };
        for (key, bytes) in chunks {
            let chunk = XactChunk::decode(key, &bytes).map_err(|Short| LookError::Damaged(key))?;
            for entry in chunk.ends.into_iter().filter(|e| from < e.end && e.end <= to) {
                if !tell(entry) {
                    return Ok(());
                }
            }
        }
        next = end;
    }
    Ok(())
}
