//! SLRU pages: what the ends of transactions and multixacts write, and which segments there are.
//!
//! Owner of the segments' sizes. A page at the end of its segment or beyond begins as zeros, as a hole in a file reads;
//! for those before it nothing is stored. Removing a segment does not touch its pages: who makes it again begins with
//! zeros.
//!
//! Source: PostgreSQL 14-18, `slru.c`, `clog.c`, `commit_ts.c`, `multixact.c` in `src/backend/access/transam`.

use std::collections::hash_map::Entry;

use pgformat::effect::MultiXactMember;
use pgformat::redo::slru::SlruChange;
use pgformat::slru::{SEGMENT_PAGES, Slru, XidStatus, next_multi, previous_multi};
use rustc_hash::FxHashMap;

use super::out::RecordOut;
use crate::cluster::error::LookError;
use crate::cluster::extent::{Extent, Reach};
use crate::cluster::key::{Key, KeyKind};

/// Pages of segments, as far as they were asked for or changed; `None` is a segment that does not exist.
#[derive(Default, Debug)]
pub(super) struct SegmentExtents {
    segments: FxHashMap<(Slru, u32), Option<Extent>>,
}

/// No gap is filled: a list of transactions names a page with four bytes.
const FILL_PAGES: u32 = 0;

fn page_key(slru: Slru, page: u32) -> Key {
    Key::numbered(KeyKind::SlruPage, slru as u32, page)
}

fn segment_key(slru: Slru, segment: u32) -> Key {
    Key::numbered(KeyKind::SlruSegment, slru as u32, segment)
}

impl SegmentExtents {
    fn segment(&mut self, slru: Slru, segment: u32, out: &RecordOut<'_>) -> Result<&mut Option<Extent>, LookError> {
        match self.segments.entry((slru, segment)) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(unknown) => {
                let key = segment_key(slru, segment);
                let stored = out.look.blob(key)?.map(|bytes| Extent::decode(&bytes)).transpose();
                Ok(unknown.insert(stored.map_err(|_| LookError::Damaged(key))?))
            }
        }
    }

    /// Whether a page exists.
    fn has(&mut self, slru: Slru, page: u32, out: &RecordOut<'_>) -> Result<bool, LookError> {
        let segment = self.segment(slru, page / SEGMENT_PAGES, out)?;
        Ok(segment.as_ref().is_some_and(|extent| page % SEGMENT_PAGES < extent.blocks))
    }

    /// Makes sure that a page exists, those before it in its segment too; whether it is new.
    fn reach(&mut self, slru: Slru, page: u32, out: &mut RecordOut<'_>) -> Result<bool, LookError> {
        let (segment, index) = (page / SEGMENT_PAGES, page % SEGMENT_PAGES);
        let extent = self.segment(slru, segment, out)?.get_or_insert_default();
        let Reach::Grown(fill) = extent.reach(index, out.lsn, FILL_PAGES) else { return Ok(false) };
        out.blob(segment_key(slru, segment), &extent.encode());
        fill.for_each(|gap| out.zeros(page_key(slru, segment * SEGMENT_PAGES + gap)));
        Ok(true)
    }

    fn change(&mut self, slru: Slru, page: u32, change: &SlruChange, out: &mut RecordOut<'_>) -> Result<(), LookError> {
        let new = self.reach(slru, page, out)?;
        out.change(page_key(slru, page), &change.change(), new);
        Ok(())
    }

    /// A page of zeros (`ZEROPAGE` records).
    pub(super) fn zero(&mut self, slru: Slru, page: u32, out: &mut RecordOut<'_>) -> Result<(), LookError> {
        self.reach(slru, page, out)?;
        out.zeros(page_key(slru, page));
        Ok(())
    }

    /// Makes sure that a page exists, as zeros if it did not.
    pub(super) fn ensure(&mut self, slru: Slru, page: u32, out: &mut RecordOut<'_>) -> Result<(), LookError> {
        if self.reach(slru, page, out)? {
            out.zeros(page_key(slru, page));
        }
        Ok(())
    }

    /// What became of transactions, which ascend.
    pub(super) fn set_status(
        &mut self,
        xids: &[u32],
        status: XidStatus,
        out: &mut RecordOut<'_>,
    ) -> Result<(), LookError> {
        by_page(Slru::Xact, xids).try_for_each(|(page, xids)| {
            let change = SlruChange::clog(page, status, xids.iter().copied());
            self.change(Slru::Xact, page, &change, out)
        })
    }

    /// When transactions, which ascend, committed, in microseconds since 2000, and where.
    pub(super) fn set_commit_ts(
        &mut self,
        xids: &[u32],
        time: i64,
        origin: u16,
        out: &mut RecordOut<'_>,
    ) -> Result<(), LookError> {
        by_page(Slru::CommitTs, xids).try_for_each(|(page, xids)| {
            let change = SlruChange::commit_ts(page, time, origin, xids.iter().copied());
            self.change(Slru::CommitTs, page, &change, out)
        })
    }

    /// Where a multixact's members begin, and where those of the next one will.
    ///
    /// Minors since the end of 2025 set the second number here and log the next page's beginning before; in a log of
    /// an older one that page comes later. It is made here then, and returned: its record must not erase it.
    pub(super) fn set_offsets(
        &mut self,
        multi: u32,
        offset: u32,
        members: u32,
        out: &mut RecordOut<'_>,
    ) -> Result<Option<u32>, LookError> {
        const SLRU: Slru = Slru::MultixactOffsets;
        let next = next_multi(multi);
        // Offset 0 means that none is set, so it is left out.
        let next_offset = offset.wrapping_add(members).max(1);
        let (page, next_page) = (SLRU.page_of(multi), SLRU.page_of(next));
        if page == next_page {
            let both = [(multi, offset), (next, next_offset)];
            self.change(SLRU, page, &SlruChange::offsets(page, both.into_iter()), out)?;
            return Ok(None);
        }
        self.change(SLRU, page, &SlruChange::offsets(page, [(multi, offset)].into_iter()), out)?;
        let missing = !self.has(SLRU, next_page, out)?;
        self.change(SLRU, next_page, &SlruChange::offsets(next_page, [(next, next_offset)].into_iter()), out)?;
        Ok(missing.then_some(next_page))
    }

    /// Members of a multixact, whose numbers may pass the end of their space.
    pub(super) fn set_members(
        &mut self,
        offset: u32,
        members: impl Iterator<Item = MultiXactMember>,
        out: &mut RecordOut<'_>,
    ) -> Result<(), LookError> {
        const SLRU: Slru = Slru::MultixactMembers;
        let mut members = (0_u32..).zip(members).map(|(i, m)| (offset.wrapping_add(i), m.xid, m.status)).peekable();
        let mut here = Vec::new();
        while let Some((first, ..)) = members.peek() {
            let page = SLRU.page_of(*first);
            here.clear();
            while let Some(member) = members.next_if(|(at, ..)| SLRU.page_of(*at) == page) {
                here.push(member);
            }
            let change = SlruChange::members(page, here.iter().copied());
            self.change(SLRU, page, &change, out)?;
        }
        Ok(())
    }

    /// Removes the segments of an SLRU that `is_gone` picks.
    fn remove(&mut self, slru: Slru, is_gone: impl Fn(u32) -> bool, out: &mut RecordOut<'_>) -> Result<(), LookError> {
        for (key, value) in out.look.scan(Key::all_of_space(KeyKind::SlruSegment, slru as u32))? {
            let extent = Extent::decode(&value).map_err(|_| LookError::Damaged(key))?;
            self.segments.entry((slru, key.blk)).or_insert(Some(extent));
        }
        let mut gone: Vec<u32> = self
            .segments
            .iter()
            .filter(|((of, segment), pages)| *of == slru && pages.is_some() && is_gone(*segment))
            .map(|((_, segment), _)| *segment)
            .collect();
        gone.sort_unstable();
        for segment in gone {
            self.segments.insert((slru, segment), None);
            out.tombstone(segment_key(slru, segment));
        }
        Ok(())
    }

    /// Removes the segments that are older than page `cutoff` as a whole (`SimpleLruTruncate`).
    pub(super) fn truncate(&mut self, slru: Slru, cutoff: u32, out: &mut RecordOut<'_>) -> Result<(), LookError> {
        self.remove(slru, |segment| slru.segment_precedes(segment, cutoff), out)
    }

    /// Removes all segments.
    pub(super) fn clear(&mut self, slru: Slru, out: &mut RecordOut<'_>) -> Result<(), LookError> {
        self.remove(slru, |_| true, out)
    }

    /// Removes multixacts before `end`, and members from `start` on to before `members_end`, in whole segments. The
    /// last of either stays, because it may be in use.
    pub(super) fn truncate_multixacts(
        &mut self,
        end: u32,
        members: std::ops::Range<u32>,
        out: &mut RecordOut<'_>,
    ) -> Result<(), LookError> {
        let segment_of = |offset: u32| Slru::MultixactMembers.page_of(offset) / SEGMENT_PAGES;
        let (first, last) = (segment_of(members.start), segment_of(members.end));
        let is_gone = |segment: u32| {
            if first <= last { first <= segment && segment < last } else { segment >= first || segment < last }
        };
        self.remove(Slru::MultixactMembers, is_gone, out)?;
        let cutoff = Slru::MultixactOffsets.page_of(previous_multi(end));
        self.truncate(Slru::MultixactOffsets, cutoff, out)
    }
}

/// Transactions that ascend, page by page, because one page gets one change.
fn by_page(slru: Slru, xids: &[u32]) -> impl Iterator<Item = (u32, &[u32])> {
    let pages = xids.chunk_by(move |a, b| slru.page_of(*a) == slru.page_of(*b));
    pages.filter_map(move |here| Some((slru.page_of(*here.first()?), here)))
}
