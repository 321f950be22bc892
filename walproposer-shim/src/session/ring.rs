//! The newest WAL of the session, in memory, bounded.
//!
//! Pure. Owner: the driver. Chunks are kept as they came from the primary; handing WAL out clones reference counts,
//! never bytes.
//!
//! Invariants: chunks are contiguous; `bytes <= capacity` after every [`Ring::push`] that [`Ring::has_room`] allowed,
//! plus at most one chunk; only released WAL is dropped: what is committed, or was given to a quorum's sockets. The
//! commit position alone would not do, since it moves from record to record, and a record can be longer than any ring.
//! A safekeeper that needs what is not here any more is fed from a donor, or the primary is asked for it once more: it
//! keeps what was not reported to it.

use std::collections::VecDeque;

use bytes::Bytes;
use pgformat::Lsn;

/// WAL taken from the primary in one go, bytes.
const BATCH: u64 = 1 << 20;

/// Bounded, contiguous WAL. Its size comes from --ring-mib: a few seconds of a busy primary by default, so that a
/// safekeeper that restarts catches up from memory.
#[derive(Debug)]
pub struct Ring {
    chunks: VecDeque<(Lsn, Bytes)>,
    end: Lsn,
    bytes: usize,
    capacity: usize,
    released: Lsn,
}

/// Bytes that do not follow what the ring holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("PostgreSQL sent WAL at {at} while {expected} comes next")]
pub struct RingGap {
    /// Where the bytes are.
    pub at: Lsn,
    /// Where they should be.
    pub expected: Lsn,
}

impl Ring {
    /// An empty ring for a session that begins at `start`: everything below is proved and committed or a donor has it.
    pub fn new(start: Lsn, capacity: usize) -> Ring {
        Ring { chunks: VecDeque::new(), end: start, bytes: 0, capacity, released: start }
    }

    /// First byte held.
    pub fn start(&self) -> Lsn {
        self.chunks.front().map_or(self.end, |(at, _)| *at)
    }

    /// Position after the last byte.
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// Length of the WAL held, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it holds all that it may: only then it matters what is released.
    pub fn is_full(&self) -> bool {
        self.bytes >= self.capacity
    }

    /// Whether more may be read from the primary: there is room, or something that may be dropped for it.
    pub fn has_room(&self) -> bool {
        !self.is_full() || self.droppable().is_some()
    }

    /// Whether a batch that began at `before` takes more before the core hears of it: small messages are merged, and
    /// acknowledgements stay prompt.
    pub fn batch_goes_on(&self, before: Lsn) -> bool {
        self.end.bytes_since(before) < BATCH && self.has_room()
    }

    /// Appends WAL of the primary.
    ///
    /// # Errors
    /// When it does not start where the ring ends.
    pub fn push(&mut self, at: Lsn, wal: Bytes) -> Result<(), RingGap> {
        if at != self.end {
            return Err(RingGap { at, expected: self.end });
        }
        if wal.is_empty() {
            return Ok(());
        }
        self.bytes += wal.len();
        self.end = at.add(wal.len() as u64);
        self.chunks.push_back((at, wal));
        while self.bytes > self.capacity
            && let Some(len) = self.droppable()
        {
            self.chunks.pop_front();
            self.bytes -= len;
        }
        Ok(())
    }

    /// Length of the oldest chunk when all of it is released.
    fn droppable(&self) -> Option<usize> {
        let (at, wal) = self.chunks.front()?;
        (at.add(wal.len() as u64) <= self.released).then_some(wal.len())
    }

    /// Everything up to `end` may be dropped when there is no room.
    pub fn release(&mut self, end: Lsn) {
        self.released = self.released.max(end);
    }

    /// The bytes `[begin, end)` as slices of the chunks; `None` when some of them are not here.
    pub fn slices(&self, begin: Lsn, end: Lsn) -> Option<Vec<Bytes>> {
        if begin < self.start() || end > self.end {
            return None;
        }
        let mut out = Vec::with_capacity(4);
        let mut at = begin;
        // The chunk that holds `begin` is the one before the first that starts behind it.
        let mut i = self.chunks.partition_point(|(start, _)| *start <= begin).saturating_sub(1);
        while at < end {
            let (start, wal) = self.chunks.get(i)?;
            let from = usize::try_from(at.bytes_since(*start)).ok()?;
            let to = usize::try_from(end.bytes_since(*start)).ok()?.min(wal.len());
            out.push(wal.slice(from..to));
            at = start.add(to as u64);
            i += 1;
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte(at: u64) -> u8 {
        (at * 31 % 251) as u8
    }

    fn chunk(at: u64, len: u64) -> (Lsn, Bytes) {
        (Lsn::new(at), (at..at + len).map(byte).collect())
    }

    fn ring_with(chunks: &[(u64, u64)], capacity: usize) -> Ring {
        let mut ring = Ring::new(Lsn::new(chunks[0].0), capacity);
        for (at, len) in chunks {
            let (at, wal) = chunk(*at, *len);
            ring.push(at, wal).expect("contiguous");
        }
        ring
    }

    #[test]
    fn every_range_comes_back_as_it_went_in() {
        let ring = ring_with(&[(100, 10), (110, 1), (111, 30), (141, 9)], 1000);
        for begin in 100..150u64 {
            for end in begin..=150 {
                let got: Vec<u8> =
                    ring.slices(Lsn::new(begin), Lsn::new(end)).expect("held").iter().flatten().copied().collect();
                assert_eq!(got, (begin..end).map(byte).collect::<Vec<u8>>(), "[{begin}, {end})");
            }
        }
        assert!(ring.slices(Lsn::new(99), Lsn::new(120)).is_none());
        assert!(ring.slices(Lsn::new(120), Lsn::new(151)).is_none());
    }

    #[test]
    fn a_gap_and_a_rewrite_are_refused() {
        let mut ring = ring_with(&[(100, 10)], 1000);
        for at in [109, 111] {
            let (at, wal) = chunk(at, 5);
            assert_eq!(ring.push(at, wal), Err(RingGap { at, expected: Lsn::new(110) }));
        }
        assert_eq!(ring.end(), Lsn::new(110));
    }

    #[test]
    fn wal_that_is_not_released_is_never_dropped_and_stops_the_reading() {
        let mut ring = ring_with(&[(100, 40), (140, 40), (180, 40)], 100);
        assert_eq!(ring.start(), Lsn::new(100), "nothing is released beyond the start");
        assert!(!ring.has_room());
        ring.release(Lsn::new(150));
        assert!(ring.has_room(), "the first chunk may go");
        let (at, wal) = chunk(220, 10);
        ring.push(at, wal).expect("contiguous");
        assert_eq!(ring.start(), Lsn::new(140), "the second chunk ends behind what is released");
        assert_eq!(ring.bytes(), 90);
        ring.release(Lsn::new(120));
        assert!(ring.has_room(), "what is released never falls");
    }

    #[test]
    fn a_full_ring_of_released_wal_keeps_its_bound() {
        let mut ring = Ring::new(Lsn::new(0), 1000);
        for i in 0..1000u64 {
            assert!(ring.has_room());
            let (at, wal) = chunk(i * 64, 64);
            ring.push(at, wal).expect("contiguous");
            ring.release(ring.end());
            assert!(ring.bytes() <= 1000, "{} bytes", ring.bytes());
        }
    }
}
