//! Redo never panics, whatever the bytes: records have checksums, but pages come from disks.

use proptest::prelude::*;
use smallvec::smallvec;

use super::{Change, Context, Ref, redo, rmid};
use crate::page::Page;
use crate::rel::Fork;
use crate::{Lsn, PgMajor};

const RMIDS: [u8; 6] = [rmid::XLOG, rmid::HEAP2, rmid::HEAP, rmid::SEQ, rmid::GENERIC, rmid::OUR_VM];

/// A page with items, then with some of its bytes overwritten: mostly those of the header and the line pointers.
fn any_page() -> impl Strategy<Value = Box<Page>> {
    let items = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..20);
    let header = prop::collection::vec((10_usize..100, any::<u8>()), 0..4);
    let anywhere = prop::collection::vec((0_usize..8192, any::<u8>()), 0..4);
    (items, header, anywhere, any::<bool>()).prop_map(|(items, header, anywhere, zeroed)| {
        let mut page = Page::zeroed();
        if !zeroed {
            page.init(0);
        }
        for item in items {
            let _ = page.add_item(&item);
        }
        for (at, byte) in header.into_iter().chain(anywhere) {
            page.0[at] = byte;
        }
        page
    })
}

/// Bytes in which small numbers are likely, as counts and line pointers are.
fn any_bytes(len_max: usize) -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => 0_u8..12, 1 => any::<u8>(), 1 => Just(0xFF)];
    prop::collection::vec(byte, 0..len_max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn redo_never_panics(
        page in any_page(),
        rmid in prop::sample::select(&RMIDS[..]),
        info in any::<u8>(),
        (block, refs, vm) in (0_u8..5, 1_u8..5, any::<bool>()),
        (init, hint_lsn) in any::<(bool, bool)>(),
        data in any_bytes(120),
        main in any_bytes(40),
        version in prop::sample::select(&PgMajor::ALL[..]),
    ) {
        let fork = if vm { Fork::Vm } else { Fork::Main };
        let mut all = smallvec![];
        all.extend((0..refs).map(|id| Ref { id, fork, blk: u32::from(id) }));
        let change = Change {
            rmid, info: info & 0xF0, xid: 9, block, fork, blk: 0, init, hint_lsn, refs: all, data: &data, main: &main,
        };
        let mut page = page;
        let _ = redo(&mut page, &change, &Context { version, end: Lsn::new(8) });
    }
}
