//! A range of a file of a backup.

use std::ops::Range;

use bytes::Bytes;
use pgformat::page::PAGE_SIZE;

use super::plan::FileContent;
use crate::read::{Problem, ReadView};

/// Gives ranges of files as of an LSN: what a writer of data directories needs of a timeline, and nothing else.
pub(crate) trait FileRanges {
    /// Bytes `[range.start, range.end)` of a file, both multiples of the page size or its length.
    ///
    /// # Errors
    /// What the store says.
    fn range(&self, content: &FileContent, range: Range<u64>) -> Result<Bytes, Problem>;
}

/// Ranges out of a view, with page checksums where the cluster has them.
pub(crate) struct ViewRanges<'a> {
    /// The LSN and its versions.
    pub(crate) view: ReadView<'a>,
    /// Whether the cluster has page checksums.
    pub(crate) checksums: bool,
}

impl FileRanges for ViewRanges<'_> {
    fn range(&self, content: &FileContent, range: Range<u64>) -> Result<Bytes, Problem> {
        match content {
            FileContent::Blocks { fork, first, .. } => {
                let (from, count) = (page_number(range.start), page_number(range.end - range.start));
                self.view.pages(*fork, (first.saturating_add(from), count), self.checksums).map(Bytes::from)
            }
            FileContent::Segment(slru, segno, _) => {
                let pages = Bytes::from(self.view.slru_segment(*slru, *segno)?);
                Ok(slice(&pages, &range))
            }
            FileContent::Bytes(bytes, _) => {
                let mut out = slice(bytes, &range).to_vec();
                out.resize(usize::try_from(range.end - range.start).unwrap_or(0), 0);
                Ok(out.into())
            }
        }
    }
}

/// Pages in so many bytes; files of relations have fewer than 2^17.
fn page_number(bytes: u64) -> u32 {
    u32::try_from(bytes / PAGE_SIZE as u64).unwrap_or(u32::MAX)
}

/// The part of `bytes` that lies in `range`.
fn slice(bytes: &Bytes, range: &Range<u64>) -> Bytes {
    let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(bytes.len());
    bytes.slice(at(range.start)..at(range.end))
}
