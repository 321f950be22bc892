//! The header of a heap tuple: changed in place on its page, or built from a record.
//!
//! Redo always sets the command id to zero, as PostgreSQL's redo does: nobody reads it after the transaction.
//!
//! Source: PostgreSQL 15, `src/include/access/htup_details.h`, `heapam_xlog.h`, `fix_infomask_from_infobits` in
//! `heapam.c`.

use super::RedoError;
use crate::page::Page;
use crate::page::items::ItemState;
use crate::read::{Short, Take};
use crate::rel::BlockNumber;

/// Length of the fixed header; the null bitmap follows (`SizeofHeapTupleHeader`).
pub(super) const HEADER_LEN: usize = 23;

const XMIN: usize = 0;
const XMAX: usize = 4;
/// Command id, or the transaction of an ancient `VACUUM FULL`.
const FIELD3: usize = 8;
const CTID: usize = 12;
const INFOMASK2: usize = 18;
const INFOMASK: usize = 20;
const HOFF: usize = 22;

// `t_infomask`.
const XMAX_KEYSHR_LOCK: u16 = 0x0010;
const COMBO_CID: u16 = 0x0020;
const XMAX_EXCL_LOCK: u16 = 0x0040;
const XMAX_LOCK_ONLY: u16 = 0x0080;
const XMAX_COMMITTED: u16 = 0x0400;
const XMAX_INVALID: u16 = 0x0800;
const XMAX_IS_MULTI: u16 = 0x1000;
const MOVED: u16 = 0xC000;
const LOCK_MASK: u16 = XMAX_KEYSHR_LOCK | XMAX_EXCL_LOCK;
const XMAX_BITS: u16 = XMAX_COMMITTED | XMAX_INVALID | XMAX_IS_MULTI | LOCK_MASK | XMAX_LOCK_ONLY;

// `t_infomask2`.
const KEYS_UPDATED: u16 = 0x2000;
const HOT_UPDATED: u16 = 0x4000;

/// What a bit of a record's `infobits` sets in `t_infomask` (`XLHL_*`).
const INFOBITS: [(u8, u16); 4] =
    [(0x01, XMAX_IS_MULTI), (0x02, XMAX_LOCK_ONLY), (0x04, XMAX_EXCL_LOCK), (0x08, XMAX_KEYSHR_LOCK)];
const INFOBIT_KEYS_UPDATED: u8 = 0x10;

/// Where a tuple lies (`ItemPointerData`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Tid {
    pub(super) blk: BlockNumber,
    pub(super) off: u16,
}

impl Tid {
    /// What `t_ctid` says of a row that went to another partition (`ItemPointerSetMovedPartitions`).
    pub(super) const MOVED_PARTITIONS: Tid = Tid { blk: u32::MAX, off: 0xFFFD };

    const fn to_bytes(self) -> [u8; 6] {
        let (high, low, off) = ((self.blk >> 16).to_le_bytes(), self.blk.to_le_bytes(), self.off.to_le_bytes());
        [high[0], high[1], low[0], low[1], off[0], off[1]]
    }
}

/// The part of a new tuple's header that a record carries (`xl_heap_header`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Logged {
    infomask2: u16,
    infomask: u16,
    hoff: u8,
}

impl Logged {
    pub(super) fn read(take: &mut Take<'_>) -> Result<Logged, Short> {
        Ok(Logged { infomask2: take.u16()?, infomask: take.u16()?, hoff: take.u8()? })
    }

    /// Length of the null bitmap with its padding, which the record's data start with.
    pub(super) fn bitmap_len(self) -> Result<usize, RedoError> {
        let len = usize::from(self.hoff).checked_sub(HEADER_LEN);
        len.ok_or(RedoError::Precondition("a tuple's data begin inside of its header"))
    }

    /// The whole tuple; `parts` are the bytes behind its fixed header.
    pub(super) fn build(self, xmin: u32, xmax: u32, ctid: Tid, parts: &[&[u8]]) -> Vec<u8> {
        let mut fixed = [0; HEADER_LEN];
        let mut header = TupleHeader(&mut fixed);
        header.set_infomask(self.infomask & !COMBO_CID);
        header.set_infomask2(self.infomask2);
        header.set_xmin(xmin);
        header.set_xmax(xmax);
        header.set_ctid(ctid);
        header.0[HOFF] = self.hoff;
        let mut tuple = Vec::with_capacity(HEADER_LEN + parts.iter().map(|p| p.len()).sum::<usize>());
        tuple.extend_from_slice(&fixed);
        parts.iter().for_each(|part| tuple.extend_from_slice(part));
        tuple
    }
}

/// Header and body of the tuple at line pointer `off`.
pub(super) fn tuple_mut(page: &mut Page, off: u16) -> Result<(TupleHeader<'_>, &mut [u8]), RedoError> {
    if page.item_id(off)?.state != ItemState::Normal {
        return Err(RedoError::Precondition("the line pointer leads to no tuple"));
    }
    let (header, body) = page
        .item_mut(off)?
        .split_first_chunk_mut()
        .ok_or(RedoError::Precondition("a tuple is shorter than its header"))?;
    Ok((TupleHeader(header), body))
}

/// A tuple's fixed header.
pub(super) struct TupleHeader<'p>(&'p mut [u8; HEADER_LEN]);

impl TupleHeader<'_> {
    pub(super) fn infomask(&self) -> u16 {
        self.half(INFOMASK)
    }

    pub(super) fn set_infomask(&mut self, bits: u16) {
        self.put(INFOMASK, bits.to_le_bytes());
    }

    fn infomask2(&self) -> u16 {
        self.half(INFOMASK2)
    }

    pub(super) fn set_infomask2(&mut self, bits: u16) {
        self.put(INFOMASK2, bits.to_le_bytes());
    }

    /// Where the tuple's data begin, from its start.
    pub(super) fn hoff(&self) -> usize {
        usize::from(self.0[HOFF])
    }

    pub(super) fn set_xmin(&mut self, xid: u32) {
        self.put(XMIN, xid.to_le_bytes());
    }

    pub(super) fn set_xmax(&mut self, xid: u32) {
        self.put(XMAX, xid.to_le_bytes());
    }

    /// Sets `t_xvac`, which shares its place with the command id.
    pub(super) fn set_xvac(&mut self, xid: u32) {
        self.put(FIELD3, xid.to_le_bytes());
    }

    /// Command id 0, not a combined one.
    pub(super) fn clear_cid(&mut self) {
        self.put(FIELD3, [0; 4]);
        self.set_infomask(self.infomask() & !COMBO_CID);
    }

    pub(super) fn set_ctid(&mut self, tid: Tid) {
        self.put(CTID, tid.to_bytes());
    }

    pub(super) fn set_hot_updated(&mut self, hot: bool) {
        self.set_infomask2(self.infomask2() & !HOT_UPDATED | if hot { HOT_UPDATED } else { 0 });
    }

    /// Forgets what is known of the tuple's `xmax` and says what the record's `infobits` say of it.
    pub(super) fn set_infobits(&mut self, infobits: u8) {
        let set = INFOBITS.iter().filter(|(bit, _)| infobits & bit != 0).fold(0, |all, (_, mask)| all | mask);
        self.set_infomask(self.infomask() & !(XMAX_BITS | MOVED) | set);
        let keys = if infobits & INFOBIT_KEYS_UPDATED != 0 { KEYS_UPDATED } else { 0 };
        self.set_infomask2(self.infomask2() & !KEYS_UPDATED | keys);
    }

    /// Whether `xmax` locks the tuple but does not change it (`HEAP_XMAX_IS_LOCKED_ONLY`).
    pub(super) fn is_locked_only(&self) -> bool {
        let bits = self.infomask();
        bits & XMAX_LOCK_ONLY != 0 || bits & (XMAX_IS_MULTI | LOCK_MASK) == XMAX_EXCL_LOCK
    }

    fn half(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.0[at..at + N].copy_from_slice(&bytes);
    }
}
