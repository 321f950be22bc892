//! Planted bugs in the redo of a resource manager, to show that the judges find them.

use pgformat::Lsn;
use pgformat::page::{PAGE_HEADER_LEN, Page, PageError};
use pgformat::redo::{self, Change, Context, RedoError, rmid};
use pgformat::rel::{BlockTag, Fork};

use crate::mask::{Against, Kind, mask};

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bug {
    /// One bit of the page is wrong after redo.
    Flip,
    /// One change is not applied.
    Skip,
}

/// A bug that happens once, at a change that an image checks.
#[derive(Clone, Debug)]
struct Plant {
    rmid: u8,
    bug: Bug,
    /// How many changes are left to redo rightly.
    spare: u32,
    done: bool,
}

/// Bugs in several resource managers.
#[derive(Clone, Debug, Default)]
pub struct Plants {
    list: Vec<Plant>,
    /// One bit of the images that the record at this position restores is wrong.
    image_at: Option<Lsn>,
    images: u64,
}

/// The resource managers whose redo changes pages, images alone left out.
pub const PAGE_RMGRS: [u8; 10] = [
    rmid::HEAP2,
    rmid::HEAP,
    rmid::BTREE,
    rmid::HASH,
    rmid::GIN,
    rmid::GIST,
    rmid::SEQ,
    rmid::SPGIST,
    rmid::BRIN,
    rmid::GENERIC,
];

/// Changes of a resource manager that go well before the first bug, and between bugs.
const SPARE: u32 = 5;

impl Plants {
    /// One bug in one resource manager.
    pub fn one(rmid: u8, bug: Bug) -> Plants {
        Plants { list: vec![Plant { rmid, bug, spare: SPARE, done: false }], ..Plants::default() }
    }

    /// Both bugs in every resource manager, and a wrong image in the record at `image_at`.
    pub fn everywhere(image_at: Option<Lsn>) -> Plants {
        let plant = |rmid, bug| Plant { rmid, bug, spare: SPARE, done: false };
        let list = PAGE_RMGRS.iter().flat_map(|rmid| [plant(*rmid, Bug::Flip), plant(*rmid, Bug::Skip)]).collect();
        Plants { list, image_at, images: 0 }
    }

    /// How many there are to be.
    pub fn planned(&self) -> u64 {
        self.list.len() as u64 + u64::from(self.image_at.is_some())
    }

    /// How many have happened, in this resource manager or (`None`) in all.
    pub fn done(&self, rmid: Option<u8>) -> u64 {
        let of = |p: &&Plant| p.done && rmid.is_none_or(|rmid| rmid == p.rmid);
        let images = if rmid.is_none_or(|rmid| rmid == rmid::XLOG) { self.images } else { 0 };
        self.list.iter().filter(of).count() as u64 + images
    }

    /// Redoes a change, rightly or not. `is_checked`: an image of the page follows.
    ///
    /// # Errors
    /// Those of [`redo::redo`].
    pub fn redo(
        &mut self,
        page: &mut Page,
        change: &Change<'_>,
        ctx: &Context,
        tag: BlockTag,
        is_checked: bool,
    ) -> Result<(), RedoError> {
        let Some(plant) = self.list.iter_mut().find(|p| is_checked && !p.done && p.rmid == change.rmid) else {
            return redo::redo(page, change, ctx);
        };
        let before = page.clone();
        redo::redo(page, change, ctx)?;
        if plant.spare > 0 {
            plant.spare -= 1;
            return Ok(());
        }
        let wrong = match plant.bug {
            Bug::Skip => before,
            Bug::Flip => flipped(page, tag),
        };
        // It must be one that counts: some changes touch nothing but what is masked.
        let Some(kind) = Kind::of_record(plant.rmid, tag) else { return Ok(()) };
        if let (Ok(wrong_masked), Ok(masked)) = (masked(&wrong, kind, tag), masked(page, kind, tag))
            && wrong_masked != masked
        {
            *page = wrong;
            plant.done = true;
        }
        Ok(())
    }

    /// Damages a page that the record at `at` has restored from an image, if that is to be the one.
    pub fn restored(&mut self, page: &mut Page, at: Lsn, tag: BlockTag) {
        if self.image_at == Some(at) && self.images == 0 {
            *page = flipped(page, tag);
            self.images = 1;
        }
    }
}

fn masked(page: &Page, kind: Kind, tag: BlockTag) -> Result<Page, PageError> {
    let mut page = page.clone();
    mask(&mut page, kind, tag, Against::Image)?;
    page.set_lsn(Lsn::new(0));
    Ok(page)
}

/// The page with one bit flipped: in its lowest item, or else behind the header.
fn flipped(page: &Page, tag: BlockTag) -> Page {
    let mut page = page.clone();
    let at = if page.upper() < page.special() && tag.fork.fork == Fork::Main { page.upper() } else { PAGE_HEADER_LEN };
    page.0[at] ^= 1;
    page
}
