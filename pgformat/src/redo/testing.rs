//! Builders that the tests of several resource managers share.

use smallvec::smallvec;

use super::{Change, Context, Ref};
use crate::page::Page;
use crate::page::items::Place;
use crate::rel::{BlockNumber, Fork};
use crate::{Lsn, PgMajor};

/// Number of the block that [`change`] is for.
pub(super) const BLK: BlockNumber = 0x0001_0002;

/// A context that stamps a position nothing else has.
pub(super) fn context(major: u32) -> Context {
    Context { version: PgMajor::new(major).expect("a supported major"), end: Lsn::new(0x0000_0007_1234_5678) }
}

/// A change without data to reference 0, [`BLK`] of the main fork, which is the record's only one; transaction 1000.
pub(super) fn change(rmid: u8, info: u8) -> Change<'static> {
    Change {
        rmid,
        info,
        xid: 1000,
        block: 0,
        fork: Fork::Main,
        blk: BLK,
        init: false,
        hint_lsn: false,
        refs: smallvec![Ref { id: 0, fork: Fork::Main, blk: BLK }],
        data: &[],
        main: &[],
    }
}

/// Bytes of a heap tuple with flags `infomask`, `infomask2`; all other fields of its header are 0x11 bytes but for
/// `t_hoff`, which is 24.
pub(super) fn tuple(infomask2: u16, infomask: u16, body: &[u8]) -> Vec<u8> {
    let mut tuple = vec![0x11; 18];
    tuple.extend(infomask2.to_le_bytes());
    tuple.extend(infomask.to_le_bytes());
    tuple.extend([24, 0]);
    tuple.extend(body);
    tuple
}

/// A heap page with these tuples.
pub(super) fn heap_page(tuples: &[Vec<u8>]) -> Box<Page> {
    let mut page = Page::zeroed();
    page.init(0);
    for (tuple, off) in tuples.iter().zip(1..) {
        page.add_item_at(tuple, off, Place::Heap).expect("space");
    }
    page
}
