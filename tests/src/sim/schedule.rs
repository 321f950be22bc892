//! Time and chance: the event queue, and the decisions that a seed makes once for its whole run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fastrand::Rng;

use super::bug::Bug;

/// Microseconds of simulated time.
pub(crate) type Micros = u64;

/// What a seed decides for its run.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    /// Node ids of the member set.
    pub(crate) members: Vec<u64>,
    /// Node ids of the set to be, for a joint configuration.
    pub(crate) new_members: Vec<u64>,
    /// Shims that compete.
    pub(crate) shims: usize,
    /// Every elected proposer writes WAL of its own behind the elected log, as a compute with a built-in walproposer
    /// does. Otherwise one server with a durable WAL is the source of all shims.
    pub(crate) compute: bool,
    /// The timeline is a foreign walproposer's: created by its greeting, generation 0, no epochs.
    pub(crate) foreign: bool,
    /// How long faults are injected.
    pub(crate) chaos: Micros,
    /// Mean time between two faults.
    pub(crate) fault_every: Micros,
    /// Every second fault takes the power from all nodes.
    pub(crate) blackouts: bool,
    /// Every third fault takes a member's memory.
    pub(crate) forgetful: bool,
    /// Mean delay of a message.
    pub(crate) net: Micros,
    /// Mean duration of a disk operation.
    pub(crate) io: Micros,
    /// The longest time that written WAL waits for its flush.
    pub(crate) hold: Micros,
    /// Mean time between two batches of WAL.
    pub(crate) produce_every: Micros,
    /// Nearly all records have one length.
    pub(crate) uniform: bool,
    /// Where the log starts inside its segment: 0 the segment's start, 1 behind its page header, 2 behind some records.
    pub(crate) start: u8,
    /// Milliseconds between two attempts to connect.
    pub(crate) reconnect_ms: u64,
    /// Bytes on their way to one socket.
    pub(crate) window: u64,
}

impl Profile {
    pub(crate) fn draw(rng: &mut Rng) -> Profile {
        let (members, new_members) = match rng.u8(0..10) {
            0..7 => (vec![1, 2, 3], vec![]),
            7..9 => (vec![1, 2, 3, 4, 5], vec![]),
            _ => (vec![1, 2, 3], vec![3, 4, 5]),
        };
        let foreign = new_members.is_empty() && rng.u8(0..8) == 0;
        Profile {
            members,
            new_members,
            foreign,
            shims: rng.usize(1..=3),
            compute: foreign || rng.u8(0..5) < 3,
            chaos: rng.u64(500_000..2_000_000),
            fault_every: *pick(rng, &[15_000, 40_000, 120_000]),
            blackouts: rng.u8(0..8) == 0,
            forgetful: rng.u8(0..4) == 0,
            net: *pick(rng, &[100, 500, 3_000]),
            io: *pick(rng, &[100, 1_000, 8_000]),
            hold: *pick(rng, &[1_000, 15_000]),
            produce_every: *pick(rng, &[4_000, 10_000, 25_000]),
            uniform: rng.u8(0..3) == 0,
            start: rng.u8(0..3),
            reconnect_ms: rng.u64(5..60),
            window: *pick(rng, &[140_000, 1 << 20]),
        }
    }

    /// Makes the circumstances likely in which a planted bug shows.
    pub(crate) fn focus(&mut self, bug: Option<Bug>) {
        match bug {
            // Another server's WAL must have been there, of records that could continue this one's.
            Some(Bug::NoTruncateAtOpen) => {
                self.compute = true;
                self.uniform = true;
                self.shims = 3;
                self.chaos = 5_000_000;
                self.fault_every = 150_000;
                self.blackouts = true;
                self.produce_every = 20_000;
                self.net = 100;
                self.io = 100;
                self.hold = 15_000;
            }
            Some(Bug::AmnesiacVotes) => {
                self.foreign = false;
                self.forgetful = true;
                (self.members, self.new_members) = (vec![1, 2, 3], Vec::new());
                self.fault_every = 40_000;
                self.blackouts = false;
                self.shims = 2;
            }
            Some(Bug::KeepUncommitted) => self.window = 140_000,
            Some(Bug::NoProof) => {
                self.compute = false;
                self.foreign = false;
                self.shims = self.shims.max(2);
            }
            _ => {}
        }
    }

    /// How much WAL a shim keeps: little more than is on its way, so that long records do not fit.
    pub(crate) fn ring_bytes(&self) -> usize {
        usize::try_from(self.window + self.window / 8).unwrap_or(usize::MAX)
    }

    /// Whether shims report as applied what the first node's pageserver has ingested.
    pub(crate) fn by_pageserver(&self) -> bool {
        !self.foreign
    }

    /// Node ids of either set, ascending.
    pub(crate) fn nodes(&self) -> Vec<u64> {
        let mut all: Vec<u64> = self.members.iter().chain(&self.new_members).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

pub(crate) fn pick<'a, T>(rng: &mut Rng, from: &'a [T]) -> &'a T {
    &from[rng.usize(0..from.len())]
}

/// A duration around `mean`; one in fifty is twenty times as long.
pub(crate) fn spread(rng: &mut Rng, mean: Micros) -> Micros {
    let usual = rng.u64(mean / 2..=mean * 2);
    if rng.u8(0..50) == 0 { usual * 20 } else { usual }
}

/// Events in the order of their time, then of their insertion.
#[derive(Debug)]
pub(crate) struct Queue<E> {
    heap: BinaryHeap<Reverse<(Micros, u64, Slot<E>)>>,
    inserted: u64,
}

/// Keeps the payload out of the order.
#[derive(Debug)]
struct Slot<E>(E);

impl<E> PartialEq for Slot<E> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<E> Eq for Slot<E> {}
impl<E> PartialOrd for Slot<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<E> Ord for Slot<E> {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

impl<E> Queue<E> {
    pub(crate) fn new() -> Queue<E> {
        Queue { heap: BinaryHeap::new(), inserted: 0 }
    }

    pub(crate) fn at(&mut self, time: Micros, event: E) {
        self.inserted += 1;
        self.heap.push(Reverse((time, self.inserted, Slot(event))));
    }

    pub(crate) fn next(&mut self) -> Option<(Micros, E)> {
        self.heap.pop().map(|Reverse((time, _, Slot(event)))| (time, event))
    }
}
