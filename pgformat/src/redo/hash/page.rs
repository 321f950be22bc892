//! Pages of a hash index: the special space, bitmaps of overflow pages.
//!
//! Invariant: nothing here touches a page whose special space is not at a hash index's place.
//!
//! Source: PostgreSQL 15, `src/include/access/hash.h`, `_hash_initbitmapbuffer` in `hashovfl.c`.

use crate::page::{PAGE_HEADER_LEN, PAGE_SIZE, Page};
use crate::read::Take;
use crate::redo::RedoError;
use crate::redo::index::expect_special;
use crate::rel::BlockNumber;

/// `hasho_flag`: an overflow page.
pub(super) const OVERFLOW: u16 = 1;
/// `hasho_flag`: a bitmap page.
pub(super) const BITMAP: u16 = 4;
/// `hasho_flag`: the metadata page.
pub(super) const META: u16 = 8;
/// `hasho_flag`: tuples that a split has moved away are still here.
pub(super) const NEEDS_SPLIT_CLEANUP: u16 = 0x40;
/// `hasho_flag`: has dead line pointers, a hint.
pub(super) const HAS_DEAD_TUPLES: u16 = 0x80;

/// No block (`InvalidBlockNumber`), and no bucket (`InvalidBucket`).
pub(super) const NONE: BlockNumber = u32::MAX;

const SPECIAL_LEN: usize = 16;
const SPECIAL_AT: usize = PAGE_SIZE - SPECIAL_LEN;
/// `hasho_page_id`, by which tools know the page.
const PAGE_ID: u16 = 0xFF80;

/// The special space (`HashPageOpaqueData`) but for its constant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct HashSpecial {
    /// The page before it in its bucket; of a bucket's first page: the highest bucket there was when it was last split.
    pub(super) prev: u32,
    /// The page behind it in its bucket.
    pub(super) next: BlockNumber,
    /// Number of the bucket that it belongs to.
    pub(super) bucket: u32,
    /// `hasho_flag`: the type of page and the state of its bucket (`LH_*` of `hash.h`).
    pub(super) flags: u16,
}

impl HashSpecial {
    /// That of a page that belongs to no bucket.
    pub(super) const fn outside_of_buckets(flags: u16) -> HashSpecial {
        HashSpecial { prev: NONE, next: NONE, bucket: NONE, flags }
    }

    /// Reads that of `page`.
    ///
    /// # Errors
    /// When it cannot be a hash index's page.
    pub(super) fn of(page: &Page) -> Result<HashSpecial, RedoError> {
        expect_special(page, SPECIAL_LEN)?;
        let mut take = Take::new(page.bytes(SPECIAL_AT, SPECIAL_LEN)?);
        Ok(HashSpecial { prev: take.u32()?, next: take.u32()?, bucket: take.u32()?, flags: take.u16()? })
    }

    /// Writes it to a page that has one.
    ///
    /// # Errors
    /// None in practice: the place lies within every page.
    fn put(self, page: &mut Page) -> Result<(), RedoError> {
        page.put_u32(SPECIAL_AT, self.prev)?;
        page.put_u32(SPECIAL_AT + 4, self.next)?;
        page.put_u32(SPECIAL_AT + 8, self.bucket)?;
        Ok(page.put_u16(SPECIAL_AT + 12, self.flags)?)
    }

    /// Makes `page` an empty one with this special space.
    ///
    /// # Errors
    /// As [`HashSpecial::put`].
    pub(super) fn init(self, page: &mut Page) -> Result<(), RedoError> {
        page.init(SPECIAL_LEN);
        self.put(page)?;
        Ok(page.put_u16(SPECIAL_AT + 14, PAGE_ID)?)
    }

    /// Changes that of `page`.
    ///
    /// # Errors
    /// As [`HashSpecial::of`].
    pub(super) fn update(page: &mut Page, change: impl FnOnce(&mut HashSpecial)) -> Result<(), RedoError> {
        let mut special = HashSpecial::of(page)?;
        change(&mut special);
        special.put(page)
    }
}

/// A new bitmap page, all of its bits set. Main begins with its length in bytes.
pub(super) fn init_bitmap(page: &mut Page, main: &[u8]) -> Result<(), RedoError> {
    let len = usize::from(Take::new(main).u16()?);
    HashSpecial::outside_of_buckets(BITMAP).init(page)?;
    if PAGE_HEADER_LEN + len > SPECIAL_AT {
        return Err(RedoError::Precondition("a bitmap that is longer than a page"));
    }
    page.bytes_mut(PAGE_HEADER_LEN, len)?.fill(0xFF);
    page.set_lower(PAGE_HEADER_LEN + len);
    Ok(())
}

/// Sets a bit of a bitmap page for a page in use, or clears it. Data is its number.
pub(super) fn set_bit(page: &mut Page, data: &[u8], used: bool) -> Result<(), RedoError> {
    HashSpecial::of(page)?;
    let bit = Take::new(data).u32()?;
    // Words are little-endian, so bits count through the bytes.
    let at = PAGE_HEADER_LEN + (bit / 8) as usize;
    if at >= page.lower().min(SPECIAL_AT) {
        return Err(RedoError::Precondition("a bit that the bitmap page does not have"));
    }
    let (byte, mask) = (&mut page.bytes_mut(at, 1)?[0], 1_u8 << (bit % 8));
    *byte = if used { *byte | mask } else { *byte & !mask };
    Ok(())
}
