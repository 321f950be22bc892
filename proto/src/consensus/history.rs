//! Term history: the terms that wrote the log, with the start of each. Invariant I2: terms rise strictly, positions do
//! not fall.

use pgformat::Lsn;
use serde::{Deserialize, Serialize};

use crate::id::Term;

/// A term and the position from which on it wrote the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TermLsn {
    /// The term that wrote.
    pub term: Term,
    /// Where it starts.
    pub lsn: Lsn,
}

/// The history of a log, ascending. May run ahead of the WAL that is held.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Vec<TermLsn>", into = "Vec<TermLsn>")]
pub struct TermHistory(Vec<TermLsn>);

/// A history that breaks I2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("term history entry {index} does not follow the one before it: terms must rise, positions must not fall")]
pub struct TermHistoryError {
    /// The offending entry, from 0.
    pub index: usize,
}

impl TermHistory {
    /// The empty history: no log.
    pub const fn empty() -> TermHistory {
        TermHistory(Vec::new())
    }

    /// The history that a timeline is created with.
    pub fn created_at(start_lsn: Lsn) -> TermHistory {
        TermHistory(vec![TermLsn { term: Term::ZERO, lsn: start_lsn }])
    }

    /// Checks I2.
    ///
    /// # Errors
    /// Names the first entry that does not follow its predecessor.
    pub fn new(entries: Vec<TermLsn>) -> Result<TermHistory, TermHistoryError> {
        for (i, (a, b)) in entries.iter().zip(entries.iter().skip(1)).enumerate() {
            if b.term <= a.term || b.lsn < a.lsn {
                return Err(TermHistoryError { index: i + 1 });
            }
        }
        Ok(TermHistory(entries))
    }

    /// The entries, ascending.
    pub fn entries(&self) -> &[TermLsn] {
        &self.0
    }

    /// The last entry.
    pub fn last(&self) -> Option<TermLsn> {
        self.0.last().copied()
    }

    /// The first entry.
    pub fn first(&self) -> Option<TermLsn> {
        self.0.first().copied()
    }

    /// The entries that start at or below `end`: the history of a log that ends there.
    pub fn up_to(&self, end: Lsn) -> TermHistory {
        TermHistory(self.0.iter().copied().take_while(|e| e.lsn <= end).collect())
    }

    /// Without the terms that wrote nothing: of entries with one position only the last one stays, since every byte
    /// from there on is of that term or a later one. The first entry always stays: it says where the log starts.
    #[must_use]
    pub fn merged(&self) -> TermHistory {
        let next = self.0.iter().skip(1).map(|e| Some(e.lsn)).chain(std::iter::once(None));
        let kept = self.0.iter().zip(next).enumerate().filter(|(i, (e, next))| *i == 0 || *next != Some(e.lsn));
        TermHistory(kept.map(|(_, (e, _))| *e).collect())
    }

    /// The term that wrote the last of a log that ends at `end`; zero when the history is empty.
    pub fn last_log_term(&self, end: Lsn) -> Term {
        self.0.iter().rev().find(|e| e.lsn <= end).map_or(Term::ZERO, |e| e.term)
    }

    /// This history with one more entry.
    ///
    /// # Errors
    /// When the entry does not follow the last one.
    pub fn with(mut self, entry: TermLsn) -> Result<TermHistory, TermHistoryError> {
        self.0.push(entry);
        TermHistory::new(self.0)
    }
}

impl TryFrom<Vec<TermLsn>> for TermHistory {
    type Error = TermHistoryError;

    fn try_from(entries: Vec<TermLsn>) -> Result<TermHistory, TermHistoryError> {
        TermHistory::new(entries)
    }
}

impl From<TermHistory> for Vec<TermLsn> {
    fn from(h: TermHistory) -> Vec<TermLsn> {
        h.0
    }
}

/// How advanced a log is: the one comparison for "more up to date", used for donors, votes and synchronisation.
///
/// The term is the one that wrote the end of the log, never the current term of the node: comparing by the latter loses
/// data.
/// `flush_lsn` `None`: no log at all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LogPosition {
    /// Term that wrote the end of the log.
    pub last_log_term: Term,
    /// Durable end of the log.
    pub flush_lsn: Option<Lsn>,
}

impl LogPosition {
    /// Of a log that ends at `flush_lsn` under `history`.
    pub fn of(history: &TermHistory, flush_lsn: Option<Lsn>) -> LogPosition {
        let last_log_term = flush_lsn.map_or(Term::ZERO, |end| history.last_log_term(end));
        LogPosition { last_log_term, flush_lsn }
    }
}

/// Where an acceptor's log and the leader's part: the leader streams from there, the acceptor truncates to there.
///
/// Both ends compute it and compare. `None`: no common point, which on an explicitly created timeline is corruption.
///
/// # Shape
/// `leader` is the history of the elected proposer, its own term last; `acceptor` is cut at `acceptor_flush`. Both may
/// hold terms that wrote nothing, or not, independently of each other: they are compared without them
/// ([`TermHistory::merged`]), which is to compare what term wrote each byte.
pub fn divergence_point(leader: &TermHistory, acceptor: &TermHistory, acceptor_flush: Lsn) -> Option<Lsn> {
    let (leader, acceptor) = (leader.merged(), acceptor.merged());
    let common = leader.0.iter().zip(&acceptor.0).take_while(|(l, a)| l.term == a.term && l.lsn == a.lsn).count();
    if common == 0 {
        return None;
    }
    match leader.0.get(common) {
        // The acceptor already has the leader's own term: a reconnect.
        None => Some(acceptor_flush),
        Some(next) => {
            let own_end = acceptor.0.get(common).map_or(acceptor_flush, |e| e.lsn);
            Some(next.lsn.min(own_end))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn h(entries: &[(u64, u64)]) -> TermHistory {
        let entries = entries.iter().map(|(t, l)| TermLsn { term: Term(*t), lsn: Lsn::new(*l) }).collect();
        TermHistory::new(entries).expect("a valid history")
    }

    #[test]
    fn i2_is_checked() {
        let bad = |v: &[(u64, u64)]| {
            TermHistory::new(v.iter().map(|(t, l)| TermLsn { term: Term(*t), lsn: Lsn::new(*l) }).collect()).is_err()
        };
        assert!(bad(&[(1, 10), (1, 20)]) && bad(&[(2, 10), (1, 20)]) && bad(&[(1, 20), (2, 10)]));
        assert!(!bad(&[(1, 10), (2, 10)]), "an empty term interval is legal");
    }

    #[test]
    fn cut_and_last_log_term_agree() {
        let hist = h(&[(0, 100), (2, 200), (5, 200), (7, 300)]);
        assert_eq!(hist.up_to(Lsn::new(250)), h(&[(0, 100), (2, 200), (5, 200)]));
        assert_eq!(hist.last_log_term(Lsn::new(250)), Term(5));
        assert_eq!(hist.last_log_term(Lsn::new(199)), Term(0));
        assert_eq!(hist.last_log_term(Lsn::new(300)), Term(7));
    }

    #[test]
    fn the_later_log_term_wins_over_the_longer_log() {
        let of = |hist: &TermHistory, end: u64| LogPosition::of(hist, Some(Lsn::new(end)));
        let (old, new) = (h(&[(0, 100), (2, 200)]), h(&[(0, 100), (3, 150)]));
        assert!(of(&new, 160) > of(&old, 900), "a longer log of an older term is behind");
        assert!(of(&old, 300) > of(&old, 250));
        assert!(of(&new, 140) < of(&old, 200), "history beyond the held log does not count");
        assert!(LogPosition::of(&TermHistory::empty(), None) < of(&h(&[(0, 100)]), 100));
    }

    #[test]
    fn terms_that_wrote_nothing_are_merged_but_for_the_first() {
        let hist = h(&[(0, 100), (1, 100), (2, 200), (5, 200), (6, 200), (7, 300), (8, 300)]);
        assert_eq!(hist.merged(), h(&[(0, 100), (1, 100), (6, 200), (8, 300)]));
        assert_eq!(h(&[(0, 100), (1, 100), (2, 100)]).merged(), h(&[(0, 100), (2, 100)]));
        for end in 99..=301 {
            let end = Lsn::new(end);
            assert_eq!(hist.merged().up_to(end), hist.up_to(end).merged());
            assert_eq!(hist.merged().last_log_term(end), hist.last_log_term(end), "{end}");
        }
        assert_eq!(TermHistory::empty().merged(), TermHistory::empty());
    }

    #[test]
    fn divergence_points() {
        let at = |l: &TermHistory, a: &TermHistory, f: u64| divergence_point(l, a, Lsn::new(f)).map(Lsn::get);
        let leader = h(&[(0, 100), (2, 200), (4, 300)]);
        assert_eq!(at(&leader, &h(&[(0, 100)]), 150), Some(150), "behind: stream from its end");
        assert_eq!(
            at(&leader, &h(&[(0, 100)]), 250),
            Some(200),
            "ran on in an old term: cut where the leader's next began"
        );
        assert_eq!(at(&leader, &h(&[(0, 100), (3, 180)]), 400), Some(180), "another term: cut where that began");
        assert_eq!(at(&leader, &h(&[(0, 100), (2, 200), (4, 300)]), 350), Some(350), "reconnect");
        assert_eq!(at(&leader, &h(&[(1, 100)]), 150), None, "nothing in common");
    }
}
