//! One segment from one of the members that have it, with every byte checked.
//!
//! The record that crosses into the segment is decoded from its start, which is looked for segment by segment, and the
//! one that crosses its end up to its own end: damage anywhere in a segment fails a checksum. What comes before the
//! first record of a timeline can only be compared with another member's copy.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use bytes::BytesMut;
use pgformat::Lsn;
use pgformat::wal::StreamConfig;
use pgformat::wal::page::{LONG_HEADER_LEN, PageHeader};
use proto::api::shown;
use proto::id::{TenantTimelineId, Term};

use super::check::{Checker, first_start};
use super::feed::Feed;
use super::members::{EndOfWal, MemberAccount, way_to};
use super::outcome::{Outcome, not_there};
use super::write::Target;

/// What is wanted: `[start, upto)` of a segment, zeros behind it.
pub(super) struct Wanted<'a> {
    pub(super) ttid: TenantTimelineId,
    pub(super) cfg: &'a StreamConfig,
    /// The segment's start.
    pub(super) start: Lsn,
    pub(super) upto: Lsn,
    /// Where all of the WAL ends.
    pub(super) end: EndOfWal,
    pub(super) path: &'a Path,
}

impl Wanted<'_> {
    /// Takes it from the first member that has it and whose copy is good. One that is known to be damaged is asked
    /// last.
    pub(super) async fn take(&self, members: &[MemberAccount]) -> Result<Outcome> {
        let mut order: Vec<&MemberAccount> = members.iter().collect();
        order.sort_by_key(|m| m.status.damaged.is_some());
        let mut problems = Vec::new();
        let mut older = 0;
        for member in &order {
            if !self.reaches_back(member) {
                older += 1;
                continue;
            }
            let Some(term) = way_to(member, self.upto, self.end) else { continue };
            match self.take_from(member, term, &order).await {
                Ok(()) => return Ok(Outcome::Written { from: member.address.clone(), upto: Some(self.upto) }),
                Err(e) => {
                    eprintln!("walfabric: {}: {e:#}", member.address);
                    problems.push(format!("{}: {e:#}", member.address));
                }
            }
        }
        let (start, upto) = (self.start, self.upto);
        if problems.is_empty() && older > 0 {
            return Ok(not_there(format!("the members that answer hold WAL from behind {start} on")));
        }
        ensure!(!problems.is_empty(), "no member that answers holds [{start}, {upto})");
        bail!("no member gives a good copy of [{start}, {upto}): {}", problems.join("; "))
    }

    fn reaches_back(&self, member: &MemberAccount) -> bool {
        shown(member.status.local_start_lsn).segment_start(self.cfg.seg_size) <= self.start
    }

    async fn take_from(&self, member: &MemberAccount, term: Option<Term>, members: &[&MemberAccount]) -> Result<()> {
        let (start, cfg) = (self.start, self.cfg);
        let mut target = Target::create(self.path)?;
        let (from, mut checker) = match self.record_before(member, term).await? {
            Some(record) => (record, Checker::at_record(cfg.clone(), record)),
            None => (start, Checker::at_segment(cfg.clone(), start)),
        };
        let mut feed = Feed::open(self.ttid, member, from, term).await?;
        let mut done = from;
        while !self.is_whole(done, &checker) {
            let (at, wal) = feed.next().await?;
            done = at.add(wal.len() as u64);
            let place = |lsn: Lsn| usize::try_from(lsn.max(at).bytes_since(at)).unwrap_or(usize::MAX).min(wal.len());
            let (first, behind) = (place(start), place(self.upto));
            checker.feed(&wal[..behind]).context("its WAL is damaged")?;
            target.write(&wal[first..behind])?;
            if let Err(e) = checker.feed(&wal[behind..])
                && checker.boundary() < Some(self.upto)
            {
                return Err(e).context("its WAL is damaged in the record that crosses the segment's end");
            }
        }
        checker.finish().context("its WAL is damaged")?;
        let checked_from = checker.checked_from().unwrap_or(self.upto);
        if checked_from > start {
            let begins = shown(member.status.local_start_lsn);
            ensure!(
                checked_from <= begins,
                "its WAL is damaged: no record starts before {checked_from}, not at {begins}"
            );
            self.compare(member, members, checked_from, &target).await?;
        }
        target.finish(cfg.seg_size.bytes())
    }

    /// Whether WAL up to `done` is enough: the segment's, and the rest of the record that crosses its end. The end of
    /// all WAL may be inside of a record that was never acknowledged.
    fn is_whole(&self, done: Lsn, checker: &Checker) -> bool {
        let (EndOfWal::Committed(end) | EndOfWal::Elected { end, .. } | EndOfWal::Unknown(end)) = self.end;
        done >= self.upto && (checker.boundary() >= Some(self.upto) || done >= end)
    }

    /// A record's start from which all of the segment can be decoded; `None` when the segment's own start is before the
    /// first one that the member has.
    async fn record_before(&self, member: &MemberAccount, term: Option<Term>) -> Result<Option<Lsn>> {
        let (seg, begins) = (self.cfg.seg_size, shown(member.status.local_start_lsn));
        let mut at = self.start;
        while at > begins {
            let rem_len = self.first_page(member, at, term).await?.rem_len;
            if rem_len == 0 {
                return Ok(Some(at));
            }
            if at < self.start
                && let Some(first) = first_start(at, rem_len, seg)
            {
                return Ok(Some(first));
            }
            at = Lsn::new(at.get() - seg.bytes());
        }
        Ok(Some(begins).filter(|begins| *begins <= self.start))
    }

    async fn first_page(&self, member: &MemberAccount, at: Lsn, term: Option<Term>) -> Result<PageHeader> {
        let mut feed = Feed::open(self.ttid, member, at, term).await?;
        let mut bytes = BytesMut::new();
        while (bytes.len() as u64) < LONG_HEADER_LEN {
            bytes.extend_from_slice(&feed.next().await?.1);
        }
        PageHeader::check(&bytes, at, self.cfg).context("its WAL is damaged")
    }

    /// Compares what no record covers, from the segment's start to `upto`, with the other members' copies: one that is
    /// equal is enough. When nobody else has it, it is taken with a warning.
    async fn compare(
        &self,
        member: &MemberAccount,
        members: &[&MemberAccount],
        upto: Lsn,
        target: &Target,
    ) -> Result<()> {
        let mut differs = Vec::new();
        for other in members.iter().filter(|m| m.address != member.address && self.reaches_back(m)) {
            let Some(term) = way_to(other, upto, self.end) else { continue };
            match self.first_difference(other, term, upto, target).await {
                Ok(None) => return Ok(()),
                Ok(Some(at)) => differs.push(format!("{} at {at}", other.address)),
                Err(e) => eprintln!("walfabric: {} cannot be compared with: {e:#}", other.address),
            }
        }
        let start = self.start;
        ensure!(
            differs.is_empty(),
            "its WAL or another's is damaged: [{start}, {upto}), before the timeline's first record, differs from that \
             of {}",
            differs.join(", ")
        );
        eprintln!(
            "walfabric: {}: [{start}, {upto}) is the end of a record from before the timeline; no other member has it, \
             so it is taken unchecked",
            member.address
        );
        Ok(())
    }

    async fn first_difference(
        &self,
        other: &MemberAccount,
        term: Option<Term>,
        upto: Lsn,
        target: &Target,
    ) -> Result<Option<Lsn>> {
        let mut feed = Feed::open(self.ttid, other, self.start, term).await?;
        let mut done = self.start;
        while done < upto {
            let (at, wal) = feed.next().await?;
            let n = usize::try_from(upto.bytes_since(at)).unwrap_or(usize::MAX).min(wal.len());
            let mine = target.read(at.bytes_since(self.start), n)?;
            if let Some(i) = mine.iter().zip(&wal[..n]).position(|(a, b)| a != b) {
                return Ok(Some(at.add(i as u64)));
            }
            done = at.add(wal.len() as u64);
        }
        Ok(None)
    }
}
