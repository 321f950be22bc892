//! Shared by redo of several index access methods: item pointers, sequences of tuples, checks of the page to change.
//!
//! Source: PostgreSQL 15, `src/include/storage/itemptr.h`, `XLogReadBufferForRedoExtended` in `xlogutils.c`.

use super::itup::tuple_len;
use super::{Change, RedoError};
use crate::page::{PAGE_SIZE, Page};
use crate::read::Take;
use crate::rel::{BlockNumber, NO_BLOCK};

/// Length of an item pointer (`ItemPointerData`).
pub(super) const TID_LEN: usize = 6;
/// The item pointer that leads nowhere (`ItemPointerSetInvalid`).
pub(super) const NO_TID: [u8; TID_LEN] = tid(NO_BLOCK, 0);
/// An item pointer's bytes (`ItemPointerSet`).
pub(super) const fn tid(blk: BlockNumber, off: u16) -> [u8; TID_LEN] {
    let ([b0, b1, b2, b3], [o0, o1]) = (blk.to_le_bytes(), off.to_le_bytes());
    // The block's upper half comes first.
    [b2, b3, b0, b1, o0, o1]
}

/// A block number in the form that item pointers have (`BlockIdGetBlockNumber`).
pub(super) fn take_block_id(take: &mut Take<'_>) -> Result<BlockNumber, RedoError> {
    let (high, low) = (take.u16()?, take.u16()?);
    Ok(u32::from(high) << 16 | u32::from(low))
}

/// The next index tuple of a row of them without padding.
pub(super) fn take_packed_tuple<'a>(take: &mut Take<'a>) -> Result<&'a [u8], RedoError> {
    let len = tuple_len(take.rest())?;
    Ok(take.bytes(len)?)
}

/// Appends all index tuples of `take` to the page; how many they were.
pub(super) fn append_tuples(page: &mut Page, take: &mut Take<'_>) -> Result<usize, RedoError> {
    let mut count = 0;
    while take.left() > 0 {
        page.add_item(take_packed_tuple(take)?)?;
        count += 1;
    }
    Ok(count)
}

/// Checks that the page has the special space of its access method, whose fields then have fixed positions.
pub(super) fn expect_special(page: &Page, len: usize) -> Result<(), RedoError> {
    if page.special() == PAGE_SIZE - len {
        return Ok(());
    }
    Err(RedoError::Precondition("the page's special space is not that of its index type"))
}

/// Checks that the block is announced as made from nothing exactly when the record's own fields say so. PostgreSQL's
/// redo stops at a difference as well (`XLogReadBufferForRedoExtended`).
pub(super) fn expect_init(change: &Change<'_>, init: bool) -> Result<(), RedoError> {
    if change.init == init {
        return Ok(());
    }
    Err(RedoError::Precondition("record and block reference disagree about whether the page is made from nothing"))
}

/// What tests of indexes share.
#[cfg(test)]
pub(super) mod testing {
    use proptest::prelude::*;

    use super::*;
    use crate::page::maxalign;
    use crate::redo::{Context, Ref, rmid};
    use crate::rel::Fork;
    use crate::{Lsn, PgMajor};

    /// Where the records of the tests end.
    pub(crate) const END: Lsn = Lsn::new(0x1_2345_6788);

    /// A change to reference `block`; `blks` are the numbers of references 0, 1, and so on.
    pub(crate) fn change<'a>(rmid: u8, info: u8, block: u8, blks: &[BlockNumber]) -> Change<'a> {
        let refs = (0..).zip(blks).map(|(id, blk)| Ref { id, fork: Fork::Main, blk: *blk }).collect();
        let blk = blks[usize::from(block)];
        let (data, main) = (&[][..], &[][..]);
        Change { rmid, info, xid: 3, block, fork: Fork::Main, blk, init: false, hint_lsn: false, refs, data, main }
    }

    /// Applies `change`, as `major` writes it; checks the page's LSN, and that damage does not make redo panic.
    pub(crate) fn apply(page: &mut Page, change: &Change<'_>, major: u32) -> Result<(), RedoError> {
        let ctx = Context { version: PgMajor::new(major).expect("a supported major"), end: END };
        survive_damage(page, change, &ctx);
        crate::redo::redo(page, change, &ctx)?;
        assert_eq!(page.lsn(), END);
        Ok(())
    }

    /// Redo of the change with every single byte of it, and of the page's header, line pointers and special space,
    /// replaced by several others; with everything cut off; with references missing. It may fail but not panic.
    fn survive_damage(page: &Page, change: &Change<'_>, ctx: &Context) {
        let attempt = |page: &Page, change: &Change<'_>| {
            let _ = crate::redo::redo(&mut page.clone(), change, ctx);
            let _ = crate::redo::after_image(&mut page.clone(), change, ctx);
        };
        let others = |byte: u8| [0, 1, 2, byte.wrapping_add(1), byte.wrapping_sub(1), byte ^ 0x80, 255];
        let damaged = |bytes: &[u8], attempt: &dyn Fn(&[u8])| {
            (0..bytes.len()).for_each(|len| attempt(&bytes[..len]));
            // Bytes of long tuples are alike.
            for at in 0..bytes.len().min(200) {
                for other in others(bytes[at]) {
                    let mut bytes = bytes.to_vec();
                    bytes[at] = other;
                    attempt(&bytes);
                }
            }
        };
        damaged(&change.main[..change.main.len().min(300)], &|main| attempt(page, &Change { main, ..change.clone() }));
        damaged(&change.data[..change.data.len().min(300)], &|data| attempt(page, &Change { data, ..change.clone() }));
        let newest = page.upper().min(PAGE_SIZE - 80);
        for at in (10..90).chain(newest..newest + 80).chain(PAGE_SIZE - 20..PAGE_SIZE) {
            for other in others(page.0[at]) {
                let mut page = page.clone();
                page.0[at] = other;
                attempt(&page, change);
            }
        }
        for missing in 0..change.refs.len() {
            let mut change = change.clone();
            change.refs.remove(missing);
            attempt(page, &change);
        }
        attempt(page, &Change { init: !change.init, ..change.clone() });
    }

    /// Bytes of little-endian fields one after the other.
    macro_rules! bytes {
        ($($field:expr),* $(,)?) => {{
            let mut bytes: Vec<u8> = Vec::new();
            $(bytes.extend_from_slice(&$field.to_le_bytes());)*
            bytes
        }};
    }
    pub(crate) use bytes;

    /// An index tuple of `len` bytes, filled with `fill` behind its header.
    pub(crate) fn tuple(len: u16, fill: u8) -> Vec<u8> {
        let mut tuple = vec![fill; usize::from(len)];
        tuple[..TID_LEN].copy_from_slice(&tid(u32::from(fill), 1));
        tuple[TID_LEN..TID_LEN + 2].copy_from_slice(&len.to_le_bytes());
        tuple
    }

    /// A plain index tuple that leads to `tid`, padded behind its key.
    pub(crate) fn keyed_tuple(tid: [u8; TID_LEN], key: &[u8]) -> Vec<u8> {
        let len = maxalign(TID_LEN + 2 + key.len());
        let mut tuple = [tid.as_slice(), &(len as u16).to_le_bytes(), key].concat();
        tuple.resize(len, 0);
        tuple
    }

    /// Bytes of 16-bit numbers.
    pub(crate) fn halves(numbers: &[u16]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
    }

    /// Bytes of 32-bit numbers.
    pub(crate) fn words(numbers: &[u32]) -> Vec<u8> {
        numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
    }

    /// The items of a page, in order.
    pub(crate) fn items(page: &Page) -> Vec<Vec<u8>> {
        (1..=page.max_offset()).map(|off| page.item(off).expect("an item").to_vec()).collect()
    }

    /// Numbers that mostly mean something: counts, offsets, flags.
    fn small() -> impl Strategy<Value = u16> {
        prop_oneof![8 => 0_u16..5, 1 => 5_u16..60, 1 => any::<u16>()]
    }

    fn fields(count: usize) -> impl Strategy<Value = Vec<u8>> {
        let fields = proptest::collection::vec(small(), 0..count);
        (fields, any::<bool>()).prop_map(|(fields, odd)| {
            let bytes: Vec<u8> = fields.into_iter().flat_map(u16::to_le_bytes).collect();
            bytes[..bytes.len().saturating_sub(odd.into())].to_vec()
        })
    }

    /// A page with items, some bytes of it damaged.
    fn damaged_page() -> impl Strategy<Value = Box<Page>> {
        let items = proptest::collection::vec((8_u16..60, any::<u8>()), 0..20);
        let place = prop_oneof![0_usize..120, 0_usize..PAGE_SIZE, 8170_usize..PAGE_SIZE];
        let damage = proptest::collection::vec((place, any::<u8>()), 0..6);
        // Length of the special space and its last two bytes: BRIN, SP-GiST, GIN, GiST, hash, B-tree.
        let special = proptest::sample::select(vec![
            (8, 0xF091),
            (8, 0xF092),
            (8, 0xF093),
            (8, 0xFF82),
            (8, 0x0083),
            (8, 0x0000),
            (16, 0xFF81),
            (16, 0xFF80),
            (16, 0x0003),
        ]);
        (items, damage, special).prop_map(|(items, damage, (special, last))| {
            let mut page = Page::zeroed();
            page.init(special);
            page.put_u16(PAGE_SIZE - 2, last).expect("inside");
            for (len, fill) in items {
                page.add_item(&tuple(len, fill)).expect("fits");
            }
            for (at, byte) in damage {
                page.0[at] = byte;
            }
            page
        })
    }

    const INDEX_RMIDS: [u8; 6] = [rmid::BTREE, rmid::HASH, rmid::GIN, rmid::GIST, rmid::SPGIST, rmid::BRIN];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn nothing_makes_redo_panic(
            mut page in damaged_page(),
            rmid in proptest::sample::select(INDEX_RMIDS.to_vec()),
            (op, block, init) in (0_u8..16, prop_oneof![8 => 0_u8..7, 1 => any::<u8>()], any::<bool>()),
            blks in proptest::collection::vec(small(), 0..5),
            (main, data) in (fields(60), fields(60)),
            version in proptest::sample::select(PgMajor::ALL.to_vec()),
        ) {
            let refs = (0..).zip(blks).map(|(id, blk)| Ref { id, fork: Fork::Main, blk: blk.into() }).collect();
            let change = Change {
                rmid,
                info: op << 4,
                xid: 0,
                block,
                fork: Fork::Main,
                blk: 0,
                init,
                hint_lsn: false,
                refs,
                data: &data,
                main: &main,
            };
            let ctx = Context { version, end: END };
            let locks = rmid == rmid::HASH && crate::redo::hash::is_lock_only(change.info, block, &main, version);
            if crate::redo::redo(&mut page, &change, &ctx).is_ok() && !locks {
                prop_assert_eq!(page.lsn(), END);
            }
            let _ = crate::redo::after_image(&mut page, &change, &ctx);
        }
    }
}
