//! Compressed posting lists.
//!
//! A segment is its first item (6 bytes), the length of the rest (u16), then each further item as the difference to its
//! predecessor: 7 bits per byte, lowest first, with the top bit set when more bytes follow. A zero pads the segment to
//! an even length. An item counts as the number `block << 11 | offset`. Each list has exactly one encoding: redo of
//! "add these items" depends on equal items giving equal bytes.
//!
//! Source: PostgreSQL 14-18 (the same in all), `src/backend/access/gin/ginpostinglist.c`.

use super::super::RedoError;
use super::super::index::{TID_LEN, take_block_id, tid};
use crate::page::PAGE_SIZE;
use crate::read::Take;

/// How many of an item's bits its offset takes (`MaxHeapTuplesPerPageBits`).
const OFFSET_BITS: u32 = 11;
/// Bits of an item altogether.
const ITEM_BITS: u32 = 32 + OFFSET_BITS;
const SEGMENT_HEADER_LEN: usize = 8;

const BAD_SEGMENT: RedoError = RedoError::Precondition("a posting list cannot be decoded");

/// An item of a posting list; they compare as GIN sorts them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Item(u64);

impl Item {
    /// The next item pointer.
    pub(super) fn take(take: &mut Take<'_>) -> Result<Item, RedoError> {
        let (blk, off) = (take_block_id(take)?, take.u16()?);
        if off >> OFFSET_BITS != 0 {
            return Err(RedoError::Precondition("an item of a posting list has an impossible offset"));
        }
        Ok(Item(u64::from(blk) << OFFSET_BITS | u64::from(off)))
    }

    /// `count` item pointers.
    pub(super) fn take_all(take: &mut Take<'_>, count: usize) -> Result<Vec<Item>, RedoError> {
        let mut items = Take::new(take.bytes(count * TID_LEN)?);
        (0..count).map(|_| Item::take(&mut items)).collect()
    }

    fn tid(self) -> [u8; TID_LEN] {
        // Never more than 43 bits.
        tid((self.0 >> OFFSET_BITS) as u32, (self.0 & ((1 << OFFSET_BITS) - 1)) as u16)
    }
}

/// Takes the next segment, whole.
pub(super) fn take_segment<'a>(take: &mut Take<'a>) -> Result<&'a [u8], RedoError> {
    let mut header = *take;
    header.skip(TID_LEN)?;
    let len = usize::from(header.u16()?);
    Ok(take.bytes(SEGMENT_HEADER_LEN + len.next_multiple_of(2))?)
}

/// The items of a segment that [`take_segment`] gave (`ginPostingListDecode`).
pub(super) fn decode(segment: &[u8]) -> Result<Vec<Item>, RedoError> {
    let mut take = Take::new(segment);
    let first = Item::take(&mut take)?;
    let len = usize::from(take.u16()?);
    let mut deltas = Take::new(take.bytes(len)?);
    let mut items = vec![first];
    let mut last = first.0;
    while deltas.left() > 0 {
        last = last.checked_add(take_varbyte(&mut deltas)?).filter(|item| item >> ITEM_BITS == 0).ok_or(BAD_SEGMENT)?;
        items.push(Item(last));
    }
    Ok(items)
}

/// A segment with all these items, ascending (`ginCompressPostingList`).
pub(super) fn encode(items: &[Item]) -> Result<Vec<u8>, RedoError> {
    let first = items.first().ok_or(RedoError::Precondition("a posting list without items"))?;
    let mut segment = first.tid().to_vec();
    segment.extend_from_slice(&[0; 2]);
    for pair in items.windows(2) {
        let delta = pair[1].0.checked_sub(pair[0].0).filter(|delta| *delta > 0);
        put_varbyte(&mut segment, delta.ok_or(RedoError::Precondition("a posting list is not in order"))?);
    }
    let len = segment.len() - SEGMENT_HEADER_LEN;
    segment.resize(segment.len().next_multiple_of(2), 0);
    if segment.len() > PAGE_SIZE {
        return Err(RedoError::Precondition("a posting list is longer than a page"));
    }
    segment[TID_LEN..SEGMENT_HEADER_LEN].copy_from_slice(&(len as u16).to_le_bytes());
    Ok(segment)
}

/// Two ascending lists as one, without duplicates (`ginMergeItemPointers`).
pub(super) fn merge(mut a: Vec<Item>, b: &[Item]) -> Vec<Item> {
    a.extend_from_slice(b);
    a.sort_unstable();
    a.dedup();
    a
}

fn take_varbyte(take: &mut Take<'_>) -> Result<u64, RedoError> {
    let mut value = 0;
    // 43 bits are seven bytes at most, and the seventh is the last.
    for shift in (0..ITEM_BITS).step_by(7) {
        let byte = take.u8().map_err(|_| BAD_SEGMENT)?;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(BAD_SEGMENT)
}

fn put_varbyte(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7F {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(blk: u32, off: u16) -> Item {
        Item::take(&mut Take::new(&tid(blk, off))).expect("a valid item")
    }

    #[test]
    fn differences_take_seven_bits_a_byte() {
        let items = [item(0, 1), item(0, 2), item(0, 129), item(1, 129), item(u32::MAX - 1, 2047)];
        let segment = encode(&items).expect("in order");
        // 1; 127 = 0x7F; 1 << 11 = 0x800; the rest: 0xFFFF_FFFD << 11 | 2047 - 129 = 0x7FF_FFFF_EF7E.
        let deltas = [0x01, 0x7F, 0x80, 0x10, 0xFE, 0xDE, 0xFF, 0xFF, 0xFF, 0xFF, 0x01];
        assert_eq!(segment[..8], [0, 0, 0, 0, 1, 0, deltas.len() as u8, 0]);
        assert_eq!(segment[8..8 + deltas.len()], deltas);
        assert_eq!(segment[8 + deltas.len()..], [0], "padding to an even length");
        assert_eq!(decode(&segment), Ok(items.to_vec()));
    }

    #[test]
    fn a_damaged_list_is_an_error() {
        for (bytes, why) in [
            (&[0, 0, 0, 0, 1, 0, 1, 0, 0x80, 0][..], "the last number goes on beyond the list"),
            (&[0, 0, 0, 0, 1, 0, 8, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1], "more than seven bytes"),
            (&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 7, 1, 0, 1, 0], "beyond the last block"),
            (&[0, 0, 0, 0, 0, 8, 0, 0], "offset 2048"),
        ] {
            assert!(matches!(decode(bytes), Err(RedoError::Precondition(_))), "{why}");
        }
        assert_eq!(decode(&[0, 0, 0, 0, 1, 0, 2, 0, 1]), Err(RedoError::Short));
        assert_eq!(take_segment(&mut Take::new(&[0, 0, 0, 0, 1, 0, 1, 0, 1])), Err(RedoError::Short));
        assert!(encode(&[]).is_err());
        assert!(encode(&[item(1, 1), item(1, 1)]).is_err());
        let far_apart: Vec<Item> = (0..2000).map(|n| item(n << 20, 1)).collect();
        assert!(encode(&far_apart).is_err(), "longer than a page");
    }

    proptest! {
        #[test]
        fn a_list_reads_as_it_was_written(
            items in proptest::collection::btree_set((0_u32..=u32::MAX, 1_u16..2048), 1..900),
            more in proptest::collection::vec((0_u32..100, 1_u16..300), 0..100),
        ) {
            let items: Vec<Item> = items.into_iter().map(|(blk, off)| item(blk, off)).collect();
            let segment = encode(&items).expect("in order");
            prop_assert_eq!(segment.len() % 2, 0);
            let mut take = Take::new(&segment);
            prop_assert_eq!(take_segment(&mut take).map(<[u8]>::len), Ok(segment.len()));
            prop_assert_eq!(decode(&segment), Ok(items.clone()));
            let more: Vec<Item> = more.into_iter().map(|(blk, off)| item(blk, off)).collect();
            let merged = merge(items.clone(), &more);
            prop_assert!(merged.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(items.iter().chain(&more).all(|item| merged.binary_search(item).is_ok()));
        }

        #[test]
        fn no_bytes_upset_the_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(items) = decode(&bytes) {
                prop_assert!(!items.is_empty());
            }
        }
    }
}
