//! Redo of sequences: each record rewrites the whole page.
//!
//! Source: PostgreSQL 15, `src/backend/commands/sequence.c`, `seq_redo`.

use super::{Change, Context, RedoError};
use crate::page::Page;
use crate::read::Take;

const LOG: u8 = 0x00;
/// Length of the special space, and what it holds (`sequence_magic`).
const SPECIAL_LEN: usize = 4;
const MAGIC: u32 = 0x1717;
/// Length of the relation's name before the tuple (`xl_seq_rec`).
const LOCATOR_LEN: usize = 12;

/// Applies one change.
///
/// # Errors
/// See [`RedoError`].
pub fn redo(page: &mut Page, change: &Change<'_>, ctx: &Context) -> Result<(), RedoError> {
    if change.info != LOG {
        return Err(change.unknown());
    }
    if change.block != 0 || !change.init {
        return Err(RedoError::Block(change.block));
    }
    let mut main = Take::new(change.main);
    main.skip(LOCATOR_LEN)?;
    page.init(SPECIAL_LEN);
    page.put_u32(page.special(), MAGIC)?;
    page.add_item(main.rest())?;
    page.set_lsn(ctx.end);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{rmid, testing};
    use super::*;

    #[test]
    fn the_page_holds_the_tuple_and_nothing_of_before() {
        let mut main = vec![9; LOCATOR_LEN];
        main.extend(1..=41);
        let change = Change { init: true, main: &main, ..testing::change(rmid::SEQ, LOG) };
        let mut page = Page([0xEE; 8192]);
        redo(&mut page, &change, &testing::context(18)).expect("redone");
        assert_eq!((page.lower(), page.upper(), page.special()), (28, 8136, 8184));
        assert_eq!(page.item(1).expect("the tuple"), &main[LOCATOR_LEN..]);
        assert_eq!(page.u32_at(8184), Ok(MAGIC));
        assert_eq!(page.lsn(), testing::context(18).end);
        assert!(page.0[28..8136].iter().all(|b| *b == 0));
        assert_eq!(page.flags(), 0);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let ctx = testing::context(15);
        let mut page = Page::zeroed();
        let good = Change { init: true, main: &[0; 53], ..testing::change(rmid::SEQ, LOG) };
        assert_eq!(redo(&mut page, &Change { main: &[0; 11], ..good.clone() }, &ctx), Err(RedoError::Short));
        assert_eq!(redo(&mut page, &Change { block: 1, ..good.clone() }, &ctx), Err(RedoError::Block(1)));
        assert_eq!(redo(&mut page, &Change { init: false, ..good.clone() }, &ctx), Err(RedoError::Block(0)));
        assert!(redo(&mut page, &Change { info: 0x10, ..good.clone() }, &ctx).is_err());
        assert!(redo(&mut page, &Change { main: &[0; 9000], ..good }, &ctx).is_err());
    }
}
