//! Merged histories against a model: three nodes whose bytes are the terms that wrote them.
//!
//! For every announcement of a random run, both ends must compute where the bytes part, whatever either has merged. A
//! foreign proposer, which compares entry by entry, must compute the same from what the acceptor reports.

use pgformat::Lsn;

use crate::consensus::{LogPosition, TermHistory, TermLsn, divergence_point};
use crate::id::Term;

const START: u64 = 100;

#[derive(Clone)]
struct Node {
    term: u64,
    /// As announced last.
    history: TermHistory,
    /// Term of each byte from `START` on.
    bytes: Vec<u64>,
}

impl Node {
    fn end(&self) -> Lsn {
        Lsn::new(START + self.bytes.len() as u64)
    }

    /// As the acceptor tells it to who asks for `term`.
    fn told(&self, term: u64) -> TermHistory {
        let held = self.history.up_to(self.end());
        if self.history.last().is_some_and(|e| e.term == Term(term)) { held } else { held.merged() }
    }
}

/// Entry by entry, as existing proposers do.
fn foreign(leader: &TermHistory, told: &TermHistory, flush: Lsn) -> Lsn {
    let (l, a) = (leader.entries(), told.entries());
    let common = l.iter().zip(a).take_while(|(x, y)| x.term == y.term).count();
    assert!(l.iter().zip(a).take(common).all(|(x, y)| x.lsn == y.lsn), "a term begins everywhere at one point");
    if common == 0 {
        return l[0].lsn;
    }
    if common == l.len() {
        return flush;
    }
    l[common].lsn.min(a.get(common).map_or(flush, |e| e.lsn))
}

/// Where the bytes part; a leader's own term wrote nothing yet, and wins behind its end.
fn parted(leader: &[u64], node: &[u64]) -> u64 {
    START + leader.iter().zip(node).take_while(|(a, b)| a == b).count() as u64
}

fn run(seed: u64) -> usize {
    let mut dice = fastrand::Rng::with_seed(seed);
    let fresh = Node { term: 0, history: TermHistory::created_at(Lsn::new(START)), bytes: Vec::new() };
    let mut nodes = [fresh.clone(), fresh.clone(), fresh];
    let mut longest = 0;
    for term in 1..40_u64 {
        let absent = dice.usize(0..3);
        let voters: Vec<usize> = (0..3).filter(|i| *i != absent).collect();
        let position = |i: &usize| LogPosition::of(&nodes[*i].told(term), Some(nodes[*i].end()));
        let donor = *voters.iter().max_by_key(|i| position(i)).expect("two");
        let told = nodes[donor].told(term);
        for i in &voters {
            nodes[*i].term = term;
        }
        let start = TermLsn { term: Term(term), lsn: nodes[donor].end() };
        let announced = told.with(start).expect("a higher term at the end");
        longest = longest.max(announced.entries().len());
        let mut log = nodes[donor].bytes.clone();
        log.extend(std::iter::repeat_n(term, if dice.bool() { 0 } else { dice.usize(1..4) }));
        // Some nodes get it, some twice (a new connection in the same term), and take part of the log each time.
        for _ in 0..dice.usize(0..5) {
            let node = &mut nodes[dice.usize(0..3)];
            node.term = term;
            let (told, end) = (node.told(term), node.end());
            let ours = divergence_point(&announced, &told, end).expect("one start");
            assert_eq!(divergence_point(&announced, &node.history.up_to(end), end), Some(ours), "merged or not");
            assert_eq!(foreign(&announced, &told, end), ours, "seed {seed}: {announced:?} and {told:?} to {end}");
            assert_eq!(ours.get(), parted(&log, &node.bytes), "seed {seed}: where the bytes part");
            node.bytes.truncate(usize::try_from(ours.get() - START).expect("small"));
            node.history = announced.clone();
            let have = node.bytes.len();
            let take = dice.usize(have..=log.len());
            node.bytes.extend_from_slice(&log[have..take]);
        }
    }
    longest
}

#[test]
fn merged_histories_part_where_the_bytes_part() {
    let longest = (0..2_000).map(run).max().unwrap_or(0);
    assert!(longest > 5 && longest < 40, "terms wrote, and those that did not were merged: {longest}");
}
