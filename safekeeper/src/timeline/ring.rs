//! The newest WAL of an active timeline in memory, as the slices in which it came: caught-up readers take it from here
//! without a copy and without touching a file.
//!
//! Owner: `RecentWal`, which the driver fills and cuts and readers take slices from.
//! Invariant: the slices are contiguous. What is in here need not be durable: readers stay below the published
//! positions, which move only after the bytes are in.

use std::collections::VecDeque;

use bytes::Bytes;
use pgformat::Lsn;

/// Contiguous slices of WAL, bounded in bytes.
#[derive(Debug)]
pub struct WalRing {
    slices: VecDeque<(Lsn, Bytes)>,
    bytes: usize,
    bytes_max: usize,
}

impl WalRing {
    /// An empty ring that holds so many bytes at most.
    pub fn new(bytes_max: usize) -> WalRing {
        WalRing { slices: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Appends; what does not continue the content replaces it.
    pub fn push(&mut self, begin: Lsn, wal: Bytes) {
        if self.end().is_some_and(|end| end != begin) {
            self.clear();
        }
        self.bytes += wal.len();
        self.slices.push_back((begin, wal));
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.slices.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }

    /// Forgets everything from `to` on.
    pub fn cut(&mut self, to: Lsn) {
        while let Some((begin, wal)) = self.slices.back_mut() {
            let keep = usize::try_from(to.bytes_since(*begin)).unwrap_or(usize::MAX);
            if keep >= wal.len() {
                break;
            }
            self.bytes -= wal.len() - keep;
            wal.truncate(keep);
            if keep == 0 {
                self.slices.pop_back();
            }
        }
    }

    /// Forgets everything and gives the memory back.
    pub fn clear(&mut self) {
        self.slices = VecDeque::new();
        self.bytes = 0;
    }

    /// Slices of `[from, to)`, or of its beginning when the rest is not in here; `None` when `from` is not.
    pub fn read(&self, from: Lsn, to: Lsn) -> Option<Vec<Bytes>> {
        let after = self.slices.partition_point(|(begin, _)| *begin <= from);
        let first = after.checked_sub(1)?;
        let mut out = Vec::new();
        let mut at = from;
        for (begin, wal) in self.slices.range(first..) {
            if at >= to {
                break;
            }
            let skip = usize::try_from(at.bytes_since(*begin)).unwrap_or(usize::MAX);
            let stop = wal.len().min(usize::try_from(to.bytes_since(*begin)).unwrap_or(usize::MAX));
            if skip < stop {
                out.push(wal.slice(skip..stop));
                at = at.add((stop - skip) as u64);
            }
        }
        (!out.is_empty()).then_some(out)
    }

    /// Bytes that the ring holds now.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn end(&self) -> Option<Lsn> {
        self.slices.back().map(|(begin, wal)| begin.add(wal.len() as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(n: u64) -> Lsn {
        Lsn::new(n)
    }

    /// A ring whose byte at position p is p.
    fn filled(max: usize, pieces: &[std::ops::Range<u64>]) -> WalRing {
        let mut ring = WalRing::new(max);
        for p in pieces {
            ring.push(lsn(p.start), p.clone().map(|b| b as u8).collect());
        }
        ring
    }

    #[test]
    fn every_range_gives_its_own_bytes_or_their_beginning() {
        let ring = filled(100, &[10..13, 13..14, 14..20]);
        for from in 0..25u64 {
            for to in from..25 {
                let got: Option<Vec<u8>> = ring.read(lsn(from), lsn(to)).map(|s| s.concat());
                let want: Vec<u8> = (from..to.min(20)).map(|b| b as u8).collect();
                let held = (10..20).contains(&from) && !want.is_empty();
                assert_eq!(got, held.then_some(want), "{from}..{to}");
            }
        }
    }

    #[test]
    fn it_forgets_the_oldest_what_is_cut_and_what_is_not_continued() {
        let mut ring = filled(5, &[0..3, 3..6]);
        assert_eq!(ring.read(lsn(0), lsn(6)), None, "evicted");
        assert_eq!(ring.read(lsn(3), lsn(6)).map(|s| s.concat()), Some(vec![3, 4, 5]));
        ring.cut(lsn(4));
        assert_eq!(ring.read(lsn(3), lsn(6)).map(|s| s.concat()), Some(vec![3]));
        ring.push(lsn(9), Bytes::from_static(&[9]));
        assert_eq!(ring.read(lsn(3), lsn(6)), None, "a jump starts anew");
        assert_eq!(ring.bytes, 1);
        ring.cut(lsn(9));
        assert!(ring.slices.is_empty() && ring.bytes == 0);
    }
}
