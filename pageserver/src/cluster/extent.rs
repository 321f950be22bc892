//! How long a fork or an SLRU segment is, and where nothing needs to be stored for a page of zeros.
//!
//! A record can name a block far behind the end. The blocks before it then exist as zeros, however many there are. They
//! cost nothing: a *step* says that of the pages from a number on, versions before an LSN do not count, and that one
//! without versions is zeros. What was stored before the file was cut stays hidden that way too (I9): a step is set
//! when the file grows over a gap, at the end that it had then, so every page behind it began at that LSN or later.
//!
//! A file that was never cut needs one step for all of its gaps. After a cut the next gap needs another one, but for a
//! short gap, which is filled: the steps of a file stay few. Pure.

use std::ops::Range;

use pgformat::Lsn;
use pgformat::read::{Short, Take};

/// Gaps of so many blocks of a relation are filled: most forks then have no steps, and a version of each page.
pub(crate) const FILL_BLOCKS: u32 = 64;
/// Steps of a file: for one more it must be cut, and grow over a long gap behind everything that it had before.
const STEPS_MAX: usize = 256;
/// With so many steps, longer gaps than this are refused.
const FILL_BLOCKS_MAX: u32 = 4096;
/// Bytes of a stored step.
const STEP_LEN: usize = 12;

/// From page `first` on, versions before `since` do not count, and pages without versions are zeros.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ExtentStep {
    first: u32,
    since: Lsn,
}

/// A file's length in pages, and its steps.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Extent {
    /// Pages from its beginning to its end.
    pub(crate) blocks: u32,
    /// Both numbers ascend.
    steps: Vec<ExtentStep>,
    /// The file was not cut since the last step: what it grows by lies behind that.
    is_open: bool,
}

/// What happens to pages when a file must reach a page.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    /// Nothing: it does.
    Inside,
    /// The file grew; zeros must be stored for these pages.
    Grown(Range<u32>),
    /// It has grown over too many gaps between cuts.
    Refused,
}

impl Extent {
    /// So many pages, each of which is stored.
    pub(crate) const fn dense(blocks: u32) -> Extent {
        Extent { blocks, steps: Vec::new(), is_open: false }
    }

    /// So many pages that begin at `since`: what was stored before does not count.
    pub(crate) fn sparse(blocks: u32, since: Lsn) -> Extent {
        Extent { blocks, steps: vec![ExtentStep { first: 0, since }], is_open: true }
    }

    /// Whether pages need not be stored.
    pub(crate) fn is_sparse(&self) -> bool {
        !self.steps.is_empty()
    }

    /// Since when the versions of a page count, and that it is zeros without one; `None`: all count, and one must be
    /// there.
    pub(crate) fn since(&self, blk: u32) -> Option<Lsn> {
        let behind = self.steps.partition_point(|step| step.first <= blk);
        Some(self.steps[behind.checked_sub(1)?].since)
    }

    /// Makes sure that page `blk` exists, by a record that ends at `lsn`. Gaps of up to `fill` pages are filled.
    pub(crate) fn reach(&mut self, blk: u32, lsn: Lsn, fill: u32) -> Reach {
        if blk < self.blocks {
            return Reach::Inside;
        }
        let mut gap = self.blocks..blk;
        if self.is_open {
            gap = blk..blk;
        } else if gap.len() > fill as usize {
            if self.steps.len() < STEPS_MAX {
                self.steps.push(ExtentStep { first: self.blocks, since: lsn });
                self.is_open = true;
                gap = blk..blk;
            } else if gap.len() > FILL_BLOCKS_MAX as usize {
                return Reach::Refused;
            }
        }
        self.blocks = blk.saturating_add(1);
        Reach::Grown(gap)
    }

    /// Cuts the file; whether it was longer.
    pub(crate) fn cut(&mut self, blocks: u32) -> bool {
        let is_longer = self.blocks > blocks;
        if is_longer {
            self.blocks = blocks;
            self.steps.retain(|step| step.first < blocks);
            self.is_open = false;
        }
        is_longer
    }

    /// The stored form: `pages u32`, and with steps: `not cut since the last step u8, (first page u32, since u64) ...`.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.blocks.to_le_bytes().to_vec();
        if self.is_sparse() {
            out.push(u8::from(self.is_open));
        }
        for step in &self.steps {
            out.extend(step.first.to_le_bytes());
            out.extend(step.since.get().to_le_bytes());
        }
        out
    }

    /// Reads [`Extent::encode`]'s form.
    ///
    /// # Errors
    /// When it is not one.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Extent, Short> {
        let mut take = Take::new(bytes);
        let mut extent = Extent::dense(take.u32()?);
        if take.left() > 0 {
            extent.is_open = take.bool()?;
            if take.left() == 0 || !take.left().is_multiple_of(STEP_LEN) {
                return Err(Short);
            }
        }
        while take.left() > 0 {
            extent.steps.push(ExtentStep { first: take.u32()?, since: Lsn::new(take.u64()?) });
        }
        let ascend = extent.steps.is_sorted_by(|a, b| a.first < b.first && a.since <= b.since);
        let inside = extent.steps.last().is_none_or(|step| step.first < extent.blocks);
        if ascend && inside { Ok(extent) } else { Err(Short) }
    }

    /// Whether a stored form has steps, which earlier versions of this program do not know.
    pub(crate) const fn has_steps(stored_len: u32) -> bool {
        stored_len > 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn lsn(n: u64) -> Lsn {
        Lsn::new(n)
    }

    /// Goal: for every page, whatever happens to the file: versions of earlier lives are hidden, those of this life are
    /// not, and none is missing where one is needed. Method: random growth and cuts against a plain list of when each
    /// page began and what is stored of it.
    #[test]
    fn what_a_page_was_before_a_cut_is_hidden() {
        for seed in 0..300 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut extent, mut begun) = (Extent::default(), Vec::<u64>::new());
            // Versions of each page that were ever stored.
            let mut stored: Vec<Vec<u64>> = vec![Vec::new(); 2000];
            for now in 1..120_u64 {
                if rng.u8(..4) == 0 {
                    let to = rng.u32(..=extent.blocks);
                    extent.cut(to);
                    begun.truncate(to as usize);
                } else {
                    let far = if rng.bool() { 3 } else { 300 };
                    let blk = (extent.blocks + rng.u32(..far)).min(1999);
                    match extent.reach(blk, lsn(now), 16) {
                        Reach::Refused => panic!("there is room for steps"),
                        Reach::Inside => {}
                        Reach::Grown(fill) => {
                            assert!(fill.len() <= 16, "a gap costs little");
                            begun.resize(blk as usize + 1, now);
                            fill.for_each(|blk| stored[blk as usize].push(now));
                        }
                    }
                    stored[blk as usize].push(now);
                }
                let read = Extent::decode(&extent.encode()).expect("its own form");
                assert_eq!(read, extent);
                assert_eq!(extent.blocks as usize, begun.len());
                for (blk, begun) in begun.iter().enumerate() {
                    let since = extent.since(blk as u32).map_or(0, Lsn::get);
                    let (mine, others): (Vec<u64>, Vec<u64>) = stored[blk].iter().partition(|v| **v >= *begun);
                    assert!(mine.iter().all(|v| *v >= since), "seed {seed}: a version of page {blk} is hidden");
                    let shows = others.iter().any(|v| *v >= since);
                    assert!(!shows || !mine.is_empty(), "seed {seed}: an old version of page {blk} shows");
                    assert!(since > 0 || !mine.is_empty(), "seed {seed}: page {blk} is missing");
                }
            }
        }
    }

    #[test]
    fn steps_are_few_and_a_file_that_needs_more_is_refused() {
        let mut extent = Extent::default();
        let far = |extent: &mut Extent, n: u64| {
            let blk = extent.blocks + 10_000;
            extent.reach(blk, lsn(n), FILL_BLOCKS)
        };
        for n in 0..1000 {
            assert!(matches!(far(&mut extent, n), Reach::Grown(fill) if fill.is_empty()));
        }
        assert_eq!(extent.steps.len(), 1, "without cuts one step does for all gaps");
        let mut n = 1000;
        while extent.steps.len() < STEPS_MAX {
            extent.cut(extent.blocks - 1);
            assert!(matches!(far(&mut extent, n), Reach::Grown(fill) if fill.is_empty()));
            n += 1;
        }
        extent.cut(extent.blocks - 1);
        let before = extent.clone();
        assert_eq!(far(&mut extent, n), Reach::Refused);
        assert_eq!(extent, before);
        let (first, blk) = (extent.blocks, extent.blocks + FILL_BLOCKS_MAX);
        assert_eq!(extent.reach(blk, lsn(n), FILL_BLOCKS), Reach::Grown(first..blk), "what is not so long is filled");
        assert!(extent.encode().len() <= 5 + STEPS_MAX * STEP_LEN);
    }

    #[test]
    fn what_is_not_a_stored_form_is_refused() {
        let sparse = Extent::sparse(9, lsn(5));
        assert_eq!(Extent::decode(&sparse.encode()), Ok(sparse.clone()));
        assert_eq!(Extent::decode(&7_u32.to_le_bytes()), Ok(Extent::dense(7)));
        assert_eq!((sparse.since(0), sparse.since(8), Extent::dense(7).since(0)), (Some(lsn(5)), Some(lsn(5)), None));
        let bytes = sparse.encode();
        for cut in [0, 3, 5, 7, bytes.len() - 1] {
            assert!(Extent::decode(&bytes[..cut]).is_err(), "{cut} bytes");
        }
        let twice = [&bytes[..], &bytes[5..]].concat();
        assert!(Extent::decode(&twice).is_err(), "steps ascend");
        let behind = [&9_u32.to_le_bytes()[..], &[1], &9_u32.to_le_bytes(), &5_u64.to_le_bytes()].concat();
        assert!(Extent::decode(&behind).is_err(), "a step lies within the file");
    }
}
