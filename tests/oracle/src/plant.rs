//! Planted bugs: what a resource manager's redo could do wrong, so that a judge can be shown to notice.

use anyhow::{Result, bail};
use pgformat::page::{PAGE_HEADER_LEN, Page};
use pgformat::redo::{self, Change, Context, RedoError};
use pgformat::rel::{BlockTag, Fork};

use crate::mask::{Kind, mask};

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// One bit of the page is wrong after redo.
    Flip,
    /// One change is not applied.
    Skip,
}

/// A bug that happens once.
#[derive(Clone, Debug)]
pub struct Plant {
    rmid: u8,
    bug: Bug,
    /// How many changes are left to redo rightly.
    spare: u32,
    done: bool,
}

impl Plant {
    /// In resource manager `rmid`, after `spare` changes that go well.
    pub fn new(rmid: u8, bug: Bug, spare: u32) -> Plant {
        Plant { rmid, bug, spare, done: false }
    }

    /// Whether it has happened.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Redoes a change, rightly or not.
    ///
    /// # Errors
    /// Those of [`redo::redo`].
    pub fn redo(
        &mut self,
        page: &mut Page,
        change: &Change<'_>,
        ctx: &Context,
        tag: BlockTag,
    ) -> Result<(), RedoError> {
        let before = page.clone();
        redo::redo(page, change, ctx)?;
        if self.done || change.rmid != self.rmid {
            return Ok(());
        }
        if self.spare > 0 {
            self.spare -= 1;
            return Ok(());
        }
        let wrong = match self.bug {
            Bug::Skip => before,
            Bug::Flip => flipped(page, tag),
        };
        // It must be one that counts: some changes touch nothing but what is masked.
        if let Some(kind) = Kind::of_record(self.rmid, tag)
            && let (Ok(wrong_masked), Ok(right_masked)) = (masked(&wrong, kind, tag), masked(page, kind, tag))
            && wrong_masked != right_masked
        {
            *page = wrong;
            self.done = true;
        }
        Ok(())
    }
}

fn masked(page: &Page, kind: Kind, tag: BlockTag) -> Result<Page> {
    let mut page = page.clone();
    if mask(&mut page, kind, tag).is_err() {
        bail!("a page that cannot be masked");
    }
    page.set_lsn(pgformat::Lsn::new(0));
    Ok(page)
}

/// The page with one bit flipped: in its lowest item, or else behind the header.
fn flipped(page: &Page, tag: BlockTag) -> Page {
    let mut page = page.clone();
    let at = if page.upper() < page.special() && tag.fork.fork == Fork::Main { page.upper() } else { PAGE_HEADER_LEN };
    page.0[at] ^= 1;
    page
}
