//! Whether a timeline follows the quorum: pure bookkeeping, time is an argument.
//!
//! The commit position is the highest that anybody told lately: the stream, or the records of all safekeepers on the
//! broker. It has an age; an old one is unknown, and so is the lag. A pageserver follows when a stream brings WAL that
//! it can take, and when it moves while it is behind.

use std::time::{Duration, Instant};

use node::Aged;
use pgformat::Lsn;

/// A commit position that nobody told for so long is unknown.
const COMMIT_AGE_MAX: Duration = Duration::from_secs(5);
/// Without a stream for so long: a change of safekeepers takes less.
const NO_STREAM_MAX: Duration = Duration::from_secs(5);
/// Behind, and not a record further for so long.
const STILL_MAX: Duration = Duration::from_secs(5);
/// One sender with bad WAL is left for another; this many in a row mean that there is no good one.
const REFUSALS: u32 = 2;

/// What is known of a timeline at one time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FollowInput {
    /// A stream runs.
    pub(crate) stream: bool,
    /// End of the last record ingested.
    pub(crate) at: Lsn,
    /// Highest commit position that somebody tells now.
    pub(crate) commit: Option<Lsn>,
}

/// See the module's words.
#[derive(Debug)]
pub(crate) struct Follow {
    commit: Option<Aged<Lsn>>,
    stream_at: Instant,
    at: Lsn,
    moved_at: Instant,
    refusals: u32,
    last_end: Option<String>,
}

impl Follow {
    /// A timeline that begins to follow.
    pub(crate) fn new(now: Instant) -> Follow {
        Follow { commit: None, stream_at: now, at: Lsn::new(0), moved_at: now, refusals: 0, last_end: None }
    }

    /// Somebody tells a commit position.
    pub(crate) fn heard(&mut self, now: Instant, commit: Option<Lsn>) {
        if let Some(told) = commit {
            let known = self.commit.map_or(told, |c| told.max(*c.value()));
            self.commit = Some(Aged::at(known, now));
        }
    }

    /// Takes in what is known at `now`.
    pub(crate) fn observe(&mut self, now: Instant, seen: FollowInput) {
        self.heard(now, seen.commit);
        if seen.stream {
            self.stream_at = now;
        }
        let behind = self.commit.is_some_and(|c| *c.value() > seen.at);
        if seen.at != self.at || !behind {
            (self.at, self.moved_at) = (seen.at, now);
        }
    }

    /// A stream ended; `refused`: for WAL that cannot be taken.
    pub(crate) fn ended(&mut self, refused: bool, text: String) {
        self.refusals = if refused { self.refusals.saturating_add(1) } else { self.refusals };
        self.last_end = Some(text);
    }

    /// Records were taken in.
    pub(crate) fn took(&mut self) {
        if self.refusals > 0 || self.last_end.is_some() {
            (self.refusals, self.last_end) = (0, None);
        }
    }

    /// The commit position, and since when nobody confirmed it.
    pub(crate) fn commit(&self, now: Instant) -> Option<(Lsn, Duration)> {
        self.commit.map(|c| (*c.value(), now.saturating_duration_since(c.known_at())))
    }

    /// Bytes of WAL between `at` and the commit position; none when that is unknown.
    pub(crate) fn lag(&self, now: Instant, at: Lsn) -> Option<u64> {
        self.commit(now).filter(|(_, age)| *age <= COMMIT_AGE_MAX).map(|(commit, _)| commit.bytes_since(at))
    }

    /// Why it does not follow, each to be read behind "timeline X"; `chosen` says whom it waits for.
    pub(crate) fn reasons(&self, now: Instant, at: Lsn, chosen: &str) -> Vec<String> {
        let mut reasons = Vec::new();
        let since = |then| now.saturating_duration_since(then);
        let last = self.last_end.as_deref().map(|end| format!("; the last stream ended: {end}")).unwrap_or_default();
        let alone = since(self.stream_at);
        if self.refusals >= REFUSALS {
            reasons.push(format!("was offered WAL that it cannot take, {} times in a row{last}", self.refusals));
        } else if alone > NO_STREAM_MAX {
            reasons.push(format!("{chosen}, and had no stream for {} s{last}", alone.as_secs()));
        }
        let still = since(self.moved_at);
        if let Some(lag) = self.lag(now, at).filter(|lag| *lag > 0 && still > STILL_MAX) {
            let s = still.as_secs();
            reasons.push(format!("stands still at {at} for {s} s, {lag} bytes behind the commit position"));
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHOSEN: &str = "waits for safekeeper 2 to dial";

    fn lsn(at: u64) -> Lsn {
        Lsn::new(at)
    }

    fn seen(stream: bool, at: u64, commit: Option<u64>) -> FollowInput {
        FollowInput { stream, at: lsn(at), commit: commit.map(lsn) }
    }

    #[test]
    fn the_lag_is_zero_when_idle_and_unknown_when_nobody_tells() {
        let now = Instant::now();
        let after = |s| now + Duration::from_secs(s);
        let mut f = Follow::new(now);
        assert_eq!(f.lag(now, lsn(8)), None, "nobody told yet");
        for s in 0..60 {
            f.observe(after(s), seen(true, 8, Some(8)));
        }
        assert_eq!((f.lag(after(59), lsn(8)), f.reasons(after(59), lsn(8), CHOSEN)), (Some(0), vec![]));
        f.observe(after(60), seen(true, 8, Some(24)));
        assert_eq!(f.lag(after(60), lsn(8)), Some(16));
        // Lower ones come late.
        f.observe(after(61), seen(true, 8, Some(16)));
        assert_eq!(f.lag(after(61), lsn(8)), Some(16));
        f.observe(after(67), seen(true, 24, None));
        assert_eq!(f.lag(after(67), lsn(24)), None, "not 0: nobody says so any more");
        assert_eq!(f.commit(after(67)), Some((lsn(24), Duration::from_secs(6))));
    }

    #[test]
    fn one_that_waits_for_a_stream_says_for_whom() {
        let now = Instant::now();
        let after = |s| now + Duration::from_secs(s);
        let mut f = Follow::new(now);
        f.observe(after(1), seen(true, 8, Some(8)));
        f.ended(false, "the connection broke".to_owned());
        f.observe(after(5), seen(false, 8, Some(8)));
        assert_eq!(f.reasons(after(5), lsn(8), CHOSEN), Vec::<String>::new(), "a change of safekeepers");
        f.observe(after(8), seen(false, 8, Some(8)));
        let text =
            "waits for safekeeper 2 to dial, and had no stream for 7 s; the last stream ended: the connection broke";
        assert_eq!(f.reasons(after(8), lsn(8), CHOSEN), [text]);
        f.observe(after(9), seen(true, 8, Some(8)));
        assert_eq!(f.reasons(after(9), lsn(8), CHOSEN), Vec::<String>::new());
    }

    #[test]
    fn bad_wal_from_everybody_shows_although_streams_come_and_go() {
        let now = Instant::now();
        let mut f = Follow::new(now);
        f.observe(now, seen(true, 8, Some(64)));
        f.ended(true, "bad prev link".to_owned());
        assert_eq!(f.reasons(now, lsn(8), CHOSEN), Vec::<String>::new(), "the next one may be good");
        f.ended(true, "bad prev link".to_owned());
        let reasons = f.reasons(now, lsn(8), CHOSEN);
        assert!(
            reasons.len() == 1 && reasons[0].contains("2 times in a row; the last stream ended: bad"),
            "{reasons:?}"
        );
        f.took();
        assert_eq!(f.reasons(now, lsn(8), CHOSEN), Vec::<String>::new());
    }

    #[test]
    fn one_that_is_behind_and_does_not_move_stands_still() {
        let now = Instant::now();
        let after = |s| now + Duration::from_secs(s);
        let mut f = Follow::new(now);
        for s in 0..20 {
            f.observe(after(s), seen(true, 8 * s, Some(1000 * s)));
            assert_eq!(f.reasons(after(s), lsn(8 * s), CHOSEN), Vec::<String>::new(), "far behind, but it moves");
        }
        for s in 20..=25 {
            f.observe(after(s), seen(true, 152, Some(1000 * s)));
        }
        let text = "stands still at 0/98 for 6 s, 24848 bytes behind the commit position";
        assert_eq!(f.reasons(after(25), lsn(152), CHOSEN), [text]);
        f.observe(after(26), seen(true, 25_000, Some(25_000)));
        assert_eq!(f.reasons(after(26), lsn(25_000), CHOSEN), Vec::<String>::new());
    }
}
