//! Memory for recent WAL, of all timelines of the node together.
//!
//! Each timeline has a [`RecentWal`]: its ring, and its share of the node's budget. When all of them together pass the
//! budget, the timeline that has written nothing for longest gives back all that it holds; its readers go on from the
//! files. Invariant: between two calls the rings hold no more than the budget.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use pgformat::Lsn;

use super::ring::WalRing;

/// The node's budget and who uses it.
#[derive(Debug)]
pub(super) struct WalRings {
    bytes_max: usize,
    used: Mutex<RingsInUse>,
}

#[derive(Debug, Default)]
struct RingsInUse {
    bytes: usize,
    /// Numbers the writes.
    last: u64,
    /// Rings that hold something, by the number of their last write.
    by_write: BTreeMap<u64, RingShare>,
}

#[derive(Debug)]
struct RingShare {
    ring: Weak<Mutex<WalRing>>,
    bytes: usize,
}

/// The newest WAL of one timeline.
#[derive(Debug)]
pub(super) struct RecentWal {
    rings: Arc<WalRings>,
    ring: Arc<Mutex<WalRing>>,
    /// Number of the last write; 0: none.
    written: Mutex<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change below leaves a whole state behind, also when a thread panics elsewhere.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WalRings {
    /// A budget of so many bytes.
    pub(super) fn new(bytes_max: usize) -> Arc<WalRings> {
        Arc::new(WalRings { bytes_max, used: Mutex::default() })
    }

    /// Bytes that all timelines hold now.
    pub(super) fn bytes(&self) -> usize {
        lock(&self.used).bytes
    }

    /// The ring of one more timeline, of at most `bytes_max`.
    pub(super) fn timeline(self: &Arc<WalRings>, bytes_max: usize) -> RecentWal {
        let ring = Arc::new(Mutex::new(WalRing::new(bytes_max.min(self.bytes_max))));
        RecentWal { rings: Arc::clone(self), ring, written: Mutex::new(0) }
    }
}

impl RingsInUse {
    fn take(&mut self, write: u64) {
        self.bytes -= self.by_write.remove(&write).map_or(0, |share| share.bytes);
    }
}

impl RecentWal {
    /// Appends; what does not continue the content replaces it.
    pub(super) fn push(&self, begin: Lsn, wal: Bytes) {
        self.change(|ring| ring.push(begin, wal));
    }

    /// Forgets everything from `to` on.
    pub(super) fn cut(&self, to: Lsn) {
        self.change(|ring| ring.cut(to));
    }

    /// Forgets everything and gives the memory back.
    pub(super) fn clear(&self) {
        self.change(WalRing::clear);
    }

    /// What the ring has of `[from, to)`; see [`WalRing::read`].
    pub(super) fn read(&self, from: Lsn, to: Lsn) -> Option<Vec<Bytes>> {
        lock(&self.ring).read(from, to)
    }

    fn change(&self, how: impl FnOnce(&mut WalRing)) {
        let mut written = lock(&self.written);
        let bytes = {
            let mut ring = lock(&self.ring);
            how(&mut ring);
            ring.bytes()
        };
        let mut given_up = Vec::new();
        let mut used = lock(&self.rings.used);
        used.take(*written);
        *written = 0;
        if bytes > 0 {
            used.last += 1;
            *written = used.last;
            used.bytes += bytes;
            used.by_write.insert(*written, RingShare { ring: Arc::downgrade(&self.ring), bytes });
        }
        // The own one came last and fits the budget alone.
        while used.bytes > self.rings.bytes_max
            && let Some((_, oldest)) = used.by_write.pop_first()
        {
            used.bytes -= oldest.bytes;
            given_up.extend(oldest.ring.upgrade());
        }
        drop(used);
        given_up.iter().for_each(|ring| lock(ring).clear());
    }
}

impl Drop for RecentWal {
    fn drop(&mut self) {
        let written = *lock(&self.written);
        lock(&self.rings.used).take(written);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lsn(n: u64) -> Lsn {
        Lsn::new(n)
    }

    fn chunk() -> Bytes {
        Bytes::from_static(&[1; 1000])
    }

    #[test]
    fn thirty_timelines_one_after_the_other_hold_no_more_than_the_budget() {
        let rings = WalRings::new(10_000);
        let timelines: Vec<RecentWal> = (0..30).map(|_| rings.timeline(8_000)).collect();
        for wal in &timelines {
            for i in 0..20 {
                wal.push(lsn(i * 1000), chunk());
                let held: usize = timelines.iter().map(|t| lock(&t.ring).bytes()).sum();
                assert!(held <= 10_000 && held == rings.bytes(), "{held} bytes held, {} counted", rings.bytes());
            }
            assert!(wal.read(lsn(12_000), lsn(20_000)).is_some(), "who writes has its whole ring");
        }
        timelines.iter().for_each(RecentWal::clear);
        assert_eq!(rings.bytes(), 0, "given back when idle");
    }

    #[test]
    fn who_wrote_nothing_for_longest_gives_back() {
        let rings = WalRings::new(5_000);
        let [a, b, c] = [(); 3].map(|()| rings.timeline(3_000));
        let held = |t: &RecentWal| t.read(lsn(0), lsn(1)).is_some();
        a.push(lsn(0), chunk());
        b.push(lsn(0), chunk());
        b.push(lsn(1000), chunk());
        a.push(lsn(1000), chunk());
        assert!(held(&a) && held(&b));
        c.push(lsn(0), chunk());
        assert!(held(&a) && held(&b) && held(&c), "exactly the budget");
        c.push(lsn(1000), chunk());
        assert!(held(&a) && !held(&b) && held(&c), "b was longest without a write");
        assert_eq!(rings.bytes(), 4_000);
        b.cut(lsn(0));
        c.cut(lsn(500));
        assert_eq!(rings.bytes(), 2_500);
        drop((a, c));
        assert_eq!(rings.bytes(), 0, "a timeline that is gone holds nothing");
    }

    #[test]
    fn a_budget_below_a_ring_bounds_the_ring() {
        let rings = WalRings::new(2_500);
        let wal = rings.timeline(8_000);
        (0..5).for_each(|i| wal.push(lsn(i * 1000), chunk()));
        assert_eq!(rings.bytes(), 2_000);
        assert!(wal.read(lsn(3000), lsn(5000)).is_some());
    }
}
