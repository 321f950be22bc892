//! One block's part of a record: everything that its redo needs, and the stored form.

use smallvec::SmallVec;

use super::{RedoError, rmid};
use crate::read::Take;
use crate::rel::{BlockNumber, Fork};
use crate::wal::RecordHeader;
use crate::wal::body::{BlockRef, RecordBody};

/// Another block of the same record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ref {
    /// Its id in the record.
    pub id: u8,
    /// The fork that has the block.
    pub fork: Fork,
    /// Number of the block in that fork.
    pub blk: BlockNumber,
}

/// What a record does to one block.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change<'a> {
    /// Resource manager ([`rmid`]).
    pub rmid: u8,
    /// The resource manager's part of `xl_info`, `info & 0xF0`.
    pub info: u8,
    /// The record's transaction.
    pub xid: u32,
    /// Which of the record's references this block is.
    pub block: u8,
    /// This block's fork.
    pub fork: Fork,
    /// This block's number.
    pub blk: BlockNumber,
    /// Whether the page is made from nothing.
    pub init: bool,
    /// Whether hint bits are logged (checksums or `wal_log_hints`), which decides about one page LSN
    /// (`heap_xlog_visible`).
    pub hint_lsn: bool,
    /// The record's references, this one included, ids ascending.
    pub refs: SmallVec<[Ref; 4]>,
    /// This block's data.
    pub data: &'a [u8],
    /// The record's main data, as far as this block needs it.
    pub main: &'a [u8],
}

const INIT: u8 = 1;
const HINT_LSN: u8 = 2;
const HAS_XID: u8 = 4;
const HAS_REFS: u8 = 8;
/// Bits of the first flag byte that say which reference this is: ids beyond 7 take a byte of their own.
const BLOCK_SHIFT: u32 = 4;
const BLOCK_ELSEWHERE: u8 = 15;

impl<'a> Change<'a> {
    /// The part of a record that concerns `block`.
    pub fn of(header: &RecordHeader, body: &RecordBody<'a>, block: &BlockRef<'a>, hint_lsn: bool) -> Change<'a> {
        let info = header.info & 0xF0;
        Change {
            rmid: header.rmid,
            info,
            xid: header.xid,
            block: block.id,
            fork: block.tag.fork.fork,
            blk: block.tag.blk,
            init: block.will_init,
            hint_lsn,
            refs: body.blocks.iter().map(|b| Ref { id: b.id, fork: b.tag.fork.fork, blk: b.tag.blk }).collect(),
            data: block.data,
            main: needed_main(header.rmid, info, block, body.main),
        }
    }

    /// Reference `id` of the record.
    pub fn reference(&self, id: u8) -> Option<BlockNumber> {
        self.refs.iter().find(|r| r.id == id).map(|r| r.blk)
    }

    /// Reference `id`, which this type of record always has.
    ///
    /// # Errors
    /// [`RedoError::NoRef`].
    pub fn required(&self, id: u8) -> Result<BlockNumber, RedoError> {
        self.reference(id).ok_or(RedoError::NoRef(id))
    }

    /// The error for an opcode that is not known.
    pub const fn unknown(&self) -> RedoError {
        RedoError::Unknown { rmid: self.rmid, info: self.info }
    }

    /// Appends the stored form: everything but the block's own fork and number, which are its key.
    ///
    /// `rmid u8 | info u8 | flags u8 | [block u8] | [xid u32] | [n u8, n × (id | fork << 6 u8, blk u32)] |
    /// data length (LEB128) | data | main`, numbers little-endian.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let only_itself = self.refs.len() <= 1;
        let mut flags = if self.init { INIT } else { 0 };
        flags |= if self.hint_lsn { HINT_LSN } else { 0 };
        flags |= if self.xid != 0 { HAS_XID } else { 0 };
        flags |= if only_itself { 0 } else { HAS_REFS };
        flags |= self.block.min(BLOCK_ELSEWHERE) << BLOCK_SHIFT;
        out.extend_from_slice(&[self.rmid, self.info, flags]);
        if self.block >= BLOCK_ELSEWHERE {
            out.push(self.block);
        }
        if self.xid != 0 {
            out.extend_from_slice(&self.xid.to_le_bytes());
        }
        if !only_itself {
            // At most 33.
            out.push(self.refs.len() as u8);
            for r in &self.refs {
                out.push(r.id | (r.fork as u8) << 6);
                out.extend_from_slice(&r.blk.to_le_bytes());
            }
        }
        let mut len = self.data.len();
        while len >= 0x80 {
            out.push(len as u8 | 0x80);
            len >>= 7;
        }
        out.push(len as u8);
        out.extend_from_slice(self.data);
        out.extend_from_slice(self.main);
    }

    /// Reads what [`Change::encode`] wrote for block `blk` of `fork`.
    ///
    /// # Errors
    /// [`RedoError::Short`] when it is cut off or damaged.
    pub fn decode(bytes: &'a [u8], fork: Fork, blk: BlockNumber) -> Result<Change<'a>, RedoError> {
        let mut take = Take::new(bytes);
        let (rmid, info, flags) = (take.u8()?, take.u8()?, take.u8()?);
        let block = match flags >> BLOCK_SHIFT {
            BLOCK_ELSEWHERE => take.u8()?,
            block => block,
        };
        let xid = if flags & HAS_XID != 0 { take.u32()? } else { 0 };
        let mut refs = SmallVec::new();
        if flags & HAS_REFS != 0 {
            for _ in 0..take.u8()? {
                let id = take.u8()?;
                let fork = Fork::new(id >> 6).ok_or(RedoError::Short)?;
                refs.push(Ref { id: id & 0x3F, fork, blk: take.u32()? });
            }
        } else {
            refs.push(Ref { id: block, fork, blk });
        }
        let (mut data_len, mut shift) = (0_usize, 0);
        loop {
            let byte = take.u8()?;
            data_len |= usize::from(byte & 0x7F) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 28 {
                return Err(RedoError::Short);
            }
        }
        let data = take.bytes(data_len)?;
        let (init, hint_lsn) = (flags & INIT != 0, flags & HINT_LSN != 0);
        Ok(Change { rmid, info, xid, block, fork, blk, init, hint_lsn, refs, data, main: take.rest() })
    }
}

/// How much of the main data redo of this block reads. The rest is for logical decoding, or for other blocks.
fn needed_main<'a>(rmid: u8, info: u8, block: &BlockRef<'_>, main: &'a [u8]) -> &'a [u8] {
    const DELETE: u8 = 0x10;
    const UPDATE: u8 = 0x20;
    const HOT_UPDATE: u8 = 0x40;
    const INPLACE: u8 = 0x70;
    let len = match (rmid, info & 0x70) {
        (rmid::HEAP, DELETE) => 8,
        // Old tuples and keys follow the fixed part.
        (rmid::HEAP, UPDATE | HOT_UPDATE) => 14,
        // Invalidations follow the tuple's number.
        (rmid::HEAP, INPLACE) => 2,
        // Only the leaf, block 0, and its metadata page need the tuples of a pending list; all have data of their own.
        (rmid::HEAP2, _) if block.tag.fork.fork == Fork::Vm => main.len().min(8),
        _ => main.len(),
    };
    &main[..len.min(main.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_reads_as_it_was_written() {
        for block in [0, 1, 14, 15, 32] {
            for refs in [1_u8, 2, 33] {
                let refs: SmallVec<[Ref; 4]> = if refs == 1 {
                    smallvec::smallvec![Ref { id: block, fork: Fork::Vm, blk: 7 }]
                } else {
                    (0..refs).map(|id| Ref { id, fork: Fork::Main, blk: u32::from(id) * 1000 }).collect()
                };
                for (init, xid, data_len) in [(false, 0, 0), (true, 5, 1), (false, u32::MAX, 127), (true, 1, 8000)] {
                    let data = vec![7; data_len];
                    let change = Change {
                        rmid: rmid::HEAP,
                        info: 0xF0,
                        xid,
                        block,
                        fork: Fork::Vm,
                        blk: 7,
                        init,
                        hint_lsn: !init,
                        refs: refs.clone(),
                        data: &data,
                        main: b"main",
                    };
                    let mut bytes = Vec::new();
                    change.encode(&mut bytes);
                    assert_eq!(Change::decode(&bytes, Fork::Vm, 7), Ok(change));
                    let cut = bytes.len() - 5;
                    let _ = Change::decode(&bytes[..cut], Fork::Vm, 7);
                }
            }
        }
    }
}
