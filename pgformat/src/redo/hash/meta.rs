//! The metadata page of a hash index.
//!
//! Source: PostgreSQL 15, `HashMetaPageData` in `src/include/access/hash.h`; `_hash_init_metabuffer` in `hashpage.c`;
//! `_hash_spareindex` and `_hash_get_totalbuckets` in `hashutil.c`.

use super::bucket::VacuumOnePage;
use super::page::{HashSpecial, META};
use crate::PgMajor;
use crate::page::{PAGE_HEADER_LEN, PAGE_SIZE, Page};
use crate::read::Take;
use crate::redo::{Change, RedoError};

/// Where the fields lie, from the page's start.
mod at {
    pub(super) const MAGIC: usize = 24;
    pub(super) const VERSION: usize = 28;
    pub(super) const TUPLES: usize = 32;
    pub(super) const FILL_FACTOR: usize = 40;
    pub(super) const PAGE_LEN: usize = 42;
    pub(super) const BITMAP_LEN: usize = 44;
    pub(super) const BITMAP_SHIFT: usize = 46;
    pub(super) const MAX_BUCKET: usize = 48;
    pub(super) const HIGH_MASK: usize = 52;
    pub(super) const LOW_MASK: usize = 56;
    pub(super) const SPLIT_POINT: usize = 60;
    pub(super) const FIRST_FREE: usize = 64;
    pub(super) const BITMAPS: usize = 68;
    pub(super) const PROC: usize = 72;
    pub(super) const SPARES: usize = 76;
    pub(super) const BITMAP_BLOCKS: usize = 468;
    pub(super) const END: usize = 4568;
}

/// `HASH_MAGIC` of `hash.h`, the first field of the metapage.
const MAGIC: u32 = 0x0644_0640;
/// `HASH_VERSION` of `hash.h`, the same in every supported major.
const VERSION: u32 = 4;
/// Entries of `hashm_spares` (`HASH_MAX_SPLITPOINTS`).
const SPLIT_POINTS: u32 = 98;
/// Entries of `hashm_mapp` (`HASH_MAX_BITMAPS`).
const BITMAPS_MAX: u32 = 1024;
/// The most buckets that a new index begins with.
const BUCKETS_MAX: u32 = 0x4000_0000;
/// Split points below this one double the buckets at once, the others in four steps
/// (`HASH_SPLITPOINT_GROUPS_WITH_ONE_PHASE`, `HASH_SPLITPOINT_PHASE_BITS`).
const SINGLE_PHASE_GROUPS: u32 = 10;
const PHASE_BITS: u32 = 2;
const PHASE_MASK: u32 = 3;

/// `SPLIT_ALLOCATE_PAGE`: the record has new masks.
const NEW_MASKS: u8 = 1;
/// `SPLIT_ALLOCATE_PAGE`: the record has a new split point.
const NEW_SPLIT_POINT: u8 = 2;

/// The split point that `buckets` buckets belong to (`_hash_spareindex`). At least 1, at most [`BUCKETS_MAX`].
fn split_point(buckets: u32) -> u32 {
    let group = buckets.next_power_of_two().ilog2();
    if group < SINGLE_PHASE_GROUPS {
        return group;
    }
    let phase = (buckets - 1) >> (group - (PHASE_BITS + 1)) & PHASE_MASK;
    SINGLE_PHASE_GROUPS + ((group - SINGLE_PHASE_GROUPS) << PHASE_BITS) + phase
}

/// How many buckets there are up to the end of a split point (`_hash_get_totalbuckets`).
fn buckets_until(split_point: u32) -> u32 {
    if split_point < SINGLE_PHASE_GROUPS {
        return 1 << split_point;
    }
    let beyond = split_point - SINGLE_PHASE_GROUPS;
    let before = 1 << (SINGLE_PHASE_GROUPS + (beyond >> PHASE_BITS) - 1);
    before + (before >> PHASE_BITS) * ((beyond & PHASE_MASK) + 1)
}

/// INIT_META_PAGE: a new index for an estimated number of tuples.
pub(super) fn init(page: &mut Page, main: &[u8]) -> Result<(), RedoError> {
    let mut take = Take::new(main);
    let (tuples, proc, fill_factor) = (take.f64()?, take.u32()?, take.u16()?);
    let wanted = tuples / f64::from(fill_factor);
    if wanted.is_nan() {
        return Err(RedoError::Precondition("a new hash index without a number of tuples for each bucket"));
    }
    let buckets = if wanted <= 2.0 {
        2
    } else if wanted >= f64::from(BUCKETS_MAX) {
        BUCKETS_MAX
    } else {
        // The fraction is cut off, as in C.
        buckets_until(split_point(wanted as u32))
    };
    let point = split_point(buckets);
    let high_mask = (buckets + 1).next_power_of_two() - 1;

    HashSpecial::outside_of_buckets(META).init(page)?;
    let page_len = PAGE_SIZE - PAGE_HEADER_LEN - 16;
    let bitmap_shift = page_len.ilog2();
    page.put_u32(at::MAGIC, MAGIC)?;
    page.put_u32(at::VERSION, VERSION)?;
    page.put_u16(at::FILL_FACTOR, fill_factor)?;
    // All three are below a page's length.
    page.put_u16(at::PAGE_LEN, page_len as u16)?;
    page.put_u16(at::BITMAP_LEN, 1 << bitmap_shift)?;
    page.put_u16(at::BITMAP_SHIFT, bitmap_shift as u16 + 3)?;
    page.put_u32(at::MAX_BUCKET, buckets - 1)?;
    page.put_u32(at::HIGH_MASK, high_mask)?;
    page.put_u32(at::LOW_MASK, high_mask >> 1)?;
    page.put_u32(at::SPLIT_POINT, point)?;
    page.put_u32(at::PROC, proc)?;
    put_spares(page, point, 1)?;
    page.set_lower(at::END);
    Ok(())
}

/// INIT_BITMAP_PAGE: the first bitmap page lies behind the buckets.
pub(super) fn first_bitmap(page: &mut Page) -> Result<(), RedoError> {
    HashSpecial::of(page)?;
    let blk = page.u32_at(at::MAX_BUCKET)?.wrapping_add(2);
    add_bitmap(page, blk)
}

/// INSERT: one more tuple.
pub(super) fn inserted(page: &mut Page) -> Result<(), RedoError> {
    add_tuples(page, 1.0)
}

/// VACUUM_ONE_PAGE: some tuples fewer.
pub(super) fn vacuumed(page: &mut Page, main: &[u8], version: PgMajor) -> Result<(), RedoError> {
    let gone = VacuumOnePage::read(main, version)?.count;
    add_tuples(page, -f64::from(gone))
}

/// UPDATE_META_PAGE: as many tuples as vacuum has counted.
pub(super) fn set_tuples(page: &mut Page, main: &[u8]) -> Result<(), RedoError> {
    HashSpecial::of(page)?;
    Ok(page.put(at::TUPLES, &Take::new(main).array::<8>()?)?)
}

/// SQUEEZE_PAGE: an overflow page is free again. Data is the lowest one that is.
pub(super) fn first_free(page: &mut Page, data: &[u8]) -> Result<(), RedoError> {
    HashSpecial::of(page)?;
    Ok(page.put_u32(at::FIRST_FREE, Take::new(data).u32()?)?)
}

/// ADD_OVFL_PAGE: an overflow page more. Main is a bitmap's length and whether a free page was found; if none was,
/// the page is a new one, and so may be a bitmap page, block 3.
pub(super) fn overflow_added(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    let mut main = Take::new(change.main);
    main.skip(2)?;
    let found = main.bool()?;
    first_free(page, change.data)?;
    if found {
        return Ok(());
    }
    let bitmap = change.reference(3);
    let point = page.u32_at(at::SPLIT_POINT)?;
    let spares = page.u32_at(spares_at(point)?)?;
    put_spares(page, point, spares.wrapping_add(if bitmap.is_some() { 2 } else { 1 }))?;
    bitmap.map_or(Ok(()), |blk| add_bitmap(page, blk))
}

/// SPLIT_ALLOCATE_PAGE: a bucket more. Data are masks, if they change, then the split point and its spare pages.
pub(super) fn bucket_added(page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    HashSpecial::of(page)?;
    let mut main = Take::new(change.main);
    let bucket = main.u32()?;
    main.skip(4)?;
    let (flags, mut data) = (main.u8()?, Take::new(change.data));
    page.put_u32(at::MAX_BUCKET, bucket)?;
    if flags & NEW_MASKS != 0 {
        page.put_u32(at::LOW_MASK, data.u32()?)?;
        page.put_u32(at::HIGH_MASK, data.u32()?)?;
    }
    if flags & NEW_SPLIT_POINT != 0 {
        let (point, spares) = (data.u32()?, data.u32()?);
        put_spares(page, point, spares)?;
        page.put_u32(at::SPLIT_POINT, point)?;
    }
    Ok(())
}

fn add_tuples(page: &mut Page, more: f64) -> Result<(), RedoError> {
    HashSpecial::of(page)?;
    let tuples = Take::new(page.bytes(at::TUPLES, 8)?).f64()?;
    Ok(page.put(at::TUPLES, &(tuples + more).to_le_bytes())?)
}

fn spares_at(point: u32) -> Result<usize, RedoError> {
    if point >= SPLIT_POINTS {
        return Err(RedoError::Precondition("a split point that no hash index has"));
    }
    Ok(at::SPARES + point as usize * 4)
}

fn put_spares(page: &mut Page, point: u32, spares: u32) -> Result<(), RedoError> {
    Ok(page.put_u32(spares_at(point)?, spares)?)
}

fn add_bitmap(page: &mut Page, blk: u32) -> Result<(), RedoError> {
    let count = page.u32_at(at::BITMAPS)?;
    if count >= BITMAPS_MAX {
        return Err(RedoError::Precondition("more bitmap pages than a hash index has"));
    }
    page.put_u32(at::BITMAP_BLOCKS + count as usize * 4, blk)?;
    Ok(page.put_u32(at::BITMAPS, count + 1)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_points_and_buckets_fit_together() {
        // The last bucket of each split point, and the first of the next.
        for point in 1..SPLIT_POINTS - 4 {
            let buckets = buckets_until(point);
            assert_eq!(split_point(buckets), point);
            if buckets < BUCKETS_MAX {
                assert_eq!(split_point(buckets + 1), point + 1);
            }
        }
        // `_hash_get_totalbuckets` worked out by hand: 512, then four steps of 128 up to 1024, then of 256.
        assert_eq!([9, 10, 11, 12, 13, 14].map(buckets_until), [512, 640, 768, 896, 1024, 1280]);
        assert_eq!(buckets_until(93), BUCKETS_MAX);
        assert_eq!(split_point(BUCKETS_MAX), 93);
    }
}
