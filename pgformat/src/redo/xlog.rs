//! Redo of the log's own records that carry only page images.
//!
//! Source: PostgreSQL 15, `src/backend/access/transam/xlog.c`, `xlog_redo`.

use super::{Change, Context, RedoError};
use crate::page::Page;

/// The log's way to write a page because a hint on it changed (`XLOG_FPI_FOR_HINT`).
const FPI_FOR_HINT: u8 = 0xA0;
/// Whole pages (`XLOG_FPI`).
const FPI: u8 = 0xB0;

/// Applies one change, of a block whose image was not restored. A hint's record has no image under
/// `full_page_writes = off`, and then does nothing; any other must have one.
///
/// # Errors
/// See [`RedoError`].
pub fn redo(_page: &mut Page, change: &Change<'_>, _ctx: &Context) -> Result<(), RedoError> {
    match change.info {
        FPI_FOR_HINT => Ok(()),
        FPI => Err(RedoError::Precondition("a record of whole pages has no image of this one")),
        _ => Err(change.unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{redo, rmid, testing};
    use super::*;

    #[test]
    fn a_hint_without_image_changes_nothing_and_an_image_must_be_there() {
        let mut page = Page::zeroed();
        assert_eq!(redo(&mut page, &testing::change(rmid::XLOG, FPI_FOR_HINT), &testing::context(15)), Ok(()));
        assert!(page.is_zero());
        for info in [FPI, 0x40] {
            assert!(redo(&mut page, &testing::change(rmid::XLOG, info), &testing::context(15)).is_err());
        }
    }
}
