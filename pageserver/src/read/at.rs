//! From the two LSNs of a request to the one that is read. Pure.

use pgformat::Lsn;

use super::error::{Problem, Readable};

/// When a page is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ReadPoint {
    /// As of here; [`Lsn::MAX`] is the latest.
    pub(crate) lsn: Lsn,
    /// What is asked for did not change in (this, `lsn`]: whoever asks promises so.
    pub(crate) not_modified_since: Lsn,
}

/// What to do about a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ReadPlan {
    /// Read at this LSN.
    Read(Lsn),
    /// Wait until this LSN is ingested, then read there.
    Wait(Lsn),
}

impl ReadPoint {
    /// Exactly there, without any promise.
    pub(crate) const fn exactly(lsn: Lsn) -> ReadPoint {
        ReadPoint { lsn, not_modified_since: lsn }
    }

    /// Whatever is the latest here.
    pub(crate) const fn latest() -> ReadPoint {
        ReadPoint { lsn: Lsn::MAX, not_modified_since: Lsn::new(0) }
    }

    /// What to do, given what is readable now.
    ///
    /// By the promise every LSN from `not_modified_since` to `lsn` shows the same: the largest that is here is taken,
    /// so that nobody waits for WAL that does not matter to him.
    ///
    /// # Errors
    /// [`Problem::Lsns`], [`Problem::NotImported`] and [`Problem::TooOld`].
    pub(crate) fn plan(self, readable: &Readable) -> Result<ReadPlan, Problem> {
        let ReadPoint { lsn, not_modified_since: since } = self;
        if lsn.get() == 0 || since > lsn {
            return Err(Problem::Lsns { lsn, since });
        }
        let from = readable.from.ok_or(Problem::NotImported)?;
        if lsn < from {
            return Err(Problem::TooOld { lsn });
        }
        let needed = since.max(from);
        if needed > readable.to { Ok(ReadPlan::Wait(needed)) } else { Ok(ReadPlan::Read(lsn.min(readable.to))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_lsn_that_shows_the_same_is_read() {
        let readable = Readable { from: Some(Lsn::new(100)), to: Lsn::new(200) };
        let plan = |lsn, since| ReadPoint { lsn: Lsn::new(lsn), not_modified_since: Lsn::new(since) }.plan(&readable);
        let (read, wait) = (|n| Ok(ReadPlan::Read(Lsn::new(n))), |n| Ok(ReadPlan::Wait(Lsn::new(n))));
        // R, M, and what comes of them.
        assert_eq!(plan(150, 150), read(150), "exactly there");
        assert_eq!(plan(150, 50), read(150), "a promise from before the readable range holds");
        assert_eq!(plan(300, 150), read(200), "unchanged since 150: no need to wait for 300");
        assert_eq!(plan(300, 200), read(200));
        assert_eq!(plan(300, 201), wait(201), "only the last change is waited for");
        assert_eq!(plan(300, 300), wait(300));
        assert_eq!(plan(u64::MAX, 150), read(200), "the latest");
        assert_eq!(plan(u64::MAX, 250), wait(250), "the latest, after a change that is not here yet");
        assert_eq!(plan(u64::MAX, u64::MAX), wait(u64::MAX));
        assert_eq!(plan(100, 0), read(100));
        assert_eq!(plan(99, 0), Err(Problem::TooOld { lsn: Lsn::new(99) }));
        let bad = |lsn, since| Err(Problem::Lsns { lsn: Lsn::new(lsn), since: Lsn::new(since) });
        assert_eq!(plan(150, 151), bad(150, 151), "a promise about the future");
        assert_eq!(plan(0, 0), bad(0, 0));
        assert_eq!(ReadPoint::latest().plan(&readable), read(200));
        assert_eq!(ReadPoint::exactly(Lsn::new(120)).plan(&readable), read(120));
    }

    #[test]
    fn nothing_is_read_before_an_import_is_consistent() {
        let readable = Readable { from: Some(Lsn::new(100)), to: Lsn::new(60) };
        assert_eq!(ReadPoint::latest().plan(&readable), Ok(ReadPlan::Wait(Lsn::new(100))));
        assert_eq!(ReadPoint::exactly(Lsn::new(100)).plan(&readable), Ok(ReadPlan::Wait(Lsn::new(100))));
        assert_eq!(ReadPoint::exactly(Lsn::new(60)).plan(&readable), Err(Problem::TooOld { lsn: Lsn::new(60) }));
        assert_eq!(ReadPoint::latest().plan(&Readable { from: None, ..readable }), Err(Problem::NotImported));
    }
}
