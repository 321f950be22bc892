//! Redo of generic records, which extensions write: runs of bytes at offsets of the page.
//!
//! Source: PostgreSQL 15, `src/backend/access/transam/generic_xlog.c`, `generic_redo`, `applyPageRedo`.

use super::{Change, Context, RedoError};
use crate::page::Page;
use crate::read::Take;

/// Applies one change.
///
/// # Errors
/// See [`RedoError`].
pub fn redo(page: &mut Page, change: &Change<'_>, ctx: &Context) -> Result<(), RedoError> {
    if change.info != 0 {
        return Err(change.unknown());
    }
    let mut data = Take::new(change.data);
    while data.left() > 0 {
        let (at, len) = (usize::from(data.u16()?), usize::from(data.u16()?));
        page.put(at, data.bytes(len)?)?;
    }
    // The record omits the space between line pointers and items; the writer has zeroed it.
    let hole = page.upper().checked_sub(page.lower());
    let hole = hole.ok_or(RedoError::Precondition("the page's line pointers reach into its items"))?;
    page.bytes_mut(page.lower(), hole)?.fill(0);
    page.set_lsn(ctx.end);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{rmid, testing};
    use super::*;
    use crate::page::PageError;

    fn piece(at: u16, bytes: &[u8]) -> Vec<u8> {
        let mut piece = at.to_le_bytes().to_vec();
        piece.extend((bytes.len() as u16).to_le_bytes());
        piece.extend(bytes);
        piece
    }

    #[test]
    fn pieces_land_and_the_hole_is_zeroed_as_the_new_header_says() {
        let mut page = Page([0xEE; 8192]);
        page.init(8);
        page.0[24..8184].fill(0xEE);
        // pd_lower becomes 32, pd_upper 8000.
        let data = [piece(12, &[32, 0, 0x40, 0x1F]), piece(24, &[1, 2, 3]), piece(8190, &[7, 8])].concat();
        let change = Change { data: &data, ..testing::change(rmid::GENERIC, 0) };
        redo(&mut page, &change, &testing::context(15)).expect("redone");
        assert_eq!(page.0[24..32], [1, 2, 3, 0xEE, 0xEE, 0xEE, 0xEE, 0xEE]);
        assert!(page.0[32..8000].iter().all(|b| *b == 0));
        assert!(page.0[8000..8184].iter().all(|b| *b == 0xEE));
        assert_eq!(page.0[8190..], [7, 8]);
        assert_eq!(page.lsn(), testing::context(15).end);
    }

    #[test]
    fn pieces_that_do_not_fit_are_refused() {
        let mut page = Page::zeroed();
        page.init(0);
        let fails = |data: &[u8]| {
            let change = Change { data, ..testing::change(rmid::GENERIC, 0) };
            redo(&mut page.clone(), &change, &testing::context(15)).expect_err("refused")
        };
        assert_eq!(fails(&piece(8190, &[1, 2, 3])), PageError::OutOfPage { at: 8190, end: 8193 }.into());
        assert_eq!(fails(&piece(30, &[1, 2, 3])[..6]), RedoError::Short);
        assert_eq!(fails(&[1, 0, 1]), RedoError::Short);
        assert!(matches!(fails(&piece(12, &[0, 0x20, 0, 1])), RedoError::Precondition(_)));
        assert_eq!(fails(&piece(14, &[1, 0x20])), PageError::OutOfPage { at: 24, end: 8193 }.into());
    }
}
