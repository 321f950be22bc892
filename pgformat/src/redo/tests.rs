//! What tests of redo share: changes, index tuples, and pages that are almost right.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::page::{PAGE_SIZE, maxalign};
use crate::rel::Fork;

/// End of the record in all of these tests.
pub(super) const END: Lsn = Lsn::new(0x12_3456_7890);

pub(super) fn context(major: u32) -> Context {
    Context { version: PgMajor::new(major).expect("a supported major"), end: END }
}

/// A change of `block`, of a record that has references 0 to 4 to blocks 100 to 104.
pub(super) fn change<'a>(rmid: u8, info: u8, block: u8, main: &'a [u8], data: &'a [u8]) -> Change<'a> {
    let refs = (0..5).map(|id| Ref { id, fork: Fork::Main, blk: 100 + u32::from(id) }).collect();
    let (fork, blk) = (Fork::Main, 100 + u32::from(block));
    Change { rmid, info, xid: 7, block, fork, blk, init: false, hint_lsn: false, refs, data, main }
}

/// Bytes of a tid.
pub(super) fn tid(blk: u32, off: u16) -> [u8; 6] {
    let ([b0, b1, b2, b3], [o0, o1]) = (blk.to_le_bytes(), off.to_le_bytes());
    [b2, b3, b0, b1, o0, o1]
}

/// A plain index tuple whose key is `key`, padded.
pub(super) fn tuple(tid: [u8; 6], key: &[u8]) -> Vec<u8> {
    let len = maxalign(8 + key.len());
    let mut tuple = tid.to_vec();
    tuple.extend_from_slice(&(len as u16).to_le_bytes());
    tuple.extend_from_slice(key);
    tuple.resize(len, 0);
    tuple
}

/// All items of a page, in the order of the line pointers.
pub(super) fn items(page: &Page) -> Vec<Vec<u8>> {
    (1..=page.max_offset()).map(|off| page.item(off).expect("an item").to_vec()).collect()
}

/// Little-endian bytes of 16-bit numbers.
pub(super) fn halves(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

/// Little-endian bytes of 32-bit numbers.
pub(super) fn words(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

/// Bytes that look like a record's at times: small numbers, then tuples.
fn numbers_and_tuples() -> impl Strategy<Value = Vec<u8>> {
    (vec(0_u16..4, 8), 0..=8_usize, 0..3_usize, vec(wild_tuple(), 0..3)).prop_map(|(numbers, len, few, tuples)| {
        // Records begin with very few numbers, or with as many as they have fields.
        let len = if few > 0 { few - 1 } else { len };
        let mut bytes = halves(&numbers[..len]);
        bytes.extend(tuples.concat());
        bytes
    })
}

/// The same without order, and noise.
fn soup() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => (0_u16..8).prop_map(|n| n.to_le_bytes().to_vec()),
        1 => any::<u8>().prop_map(|b| vec![b]),
        1 => wild_tuple(),
    ];
    vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

fn wild_tuple() -> impl Strategy<Value = Vec<u8>> {
    let plain = (any::<u16>(), 0..40_usize).prop_map(|(off, len)| tuple(tid(1, off), &vec![0xAA; len]));
    // The key part ends at 16, then come the tids.
    let posting = (2..9_u16).prop_map(|n| {
        let mut posting = tuple(tid(16, n | 0x2000), &vec![0xBB; 8 + usize::from(n) * 6]);
        posting[7] |= 0x20;
        posting
    });
    prop_oneof![plain, posting]
}

/// Pages with 16 bytes of special space and some index tuples, of which a few bytes are then overwritten.
fn wild_page() -> impl Strategy<Value = Box<Page>> {
    let damage = prop_oneof![4 => Just(Vec::new()), 1 => vec((0..PAGE_SIZE, any::<u8>()), 1..4),
        1 => vec((8..48_usize, any::<u8>()), 1..4)];
    (prop_oneof![vec(wild_tuple(), 0..8), vec(wild_tuple(), 0..60)], vec(0_u16..4, 8), damage).prop_map(
        |(tuples, special, damage)| {
            let mut page = Page::zeroed();
            page.init(16);
            page.put(PAGE_SIZE - 16, &halves(&special)).expect("within the page");
            for tuple in tuples {
                // A full page is wild enough.
                let _ = page.add_item(&tuple);
            }
            for (at, byte) in damage {
                page.0[at] = byte;
            }
            page
        },
    )
}

/// Everything that can be thrown at redo of `rmid`: page, opcode, block, main data, data, major.
pub(super) fn wild() -> impl Strategy<Value = (Box<Page>, u8, u8, Vec<u8>, Vec<u8>, u32)> {
    let bytes = || prop_oneof![3 => numbers_and_tuples(), 1 => soup()];
    (wild_page(), 0..16_u8, prop_oneof![Just(0), 0..8_u8], bytes(), bytes(), 14..=18_u32)
        .prop_map(|(page, op, block, main, data, major)| (page, op << 4, block, main, data, major))
}
