//! Redo of one change, from its stored form.

use pgformat::Lsn;
use pgformat::page::Page;
use pgformat::redo::{Change, Context, Ref, redo, rmid};
use pgformat::rel::Fork;
use smallvec::smallvec;

use super::Load;

/// `XLOG_HEAP_INSERT` that makes its page anew, so that every operation is the same.
const INSERT_INIT: u8 = 0x80;

pub(super) fn insert(_: usize) -> Load {
    // Tuple header (3 columns, flags, data at 24), padding, row.
    let data = [&[3, 0, 2, 9, 24, 0][..], &[b'x'; 40]].concat();
    let change = Change {
        rmid: rmid::HEAP,
        info: INSERT_INIT,
        xid: 1000,
        block: 0,
        fork: Fork::Main,
        blk: 7,
        init: true,
        hint_lsn: false,
        refs: smallvec![Ref { id: 0, fork: Fork::Main, blk: 7 }],
        data: &data,
        // Line pointer 1, no flags.
        main: &[1, 0, 0],
    };
    let mut stored = Vec::new();
    change.encode(&mut stored);
    let context = Context { version: super::wal::stream().version, end: Lsn::new(0x100_0028) };
    let mut page = Page::zeroed();
    Box::new(move || {
        let change = Change::decode(&stored, Fork::Main, 7).expect("as it was encoded");
        redo(&mut page, &change, &context).expect("it fits an empty page");
        assert!(page.max_offset() == 1, "the row is not there");
    })
}
