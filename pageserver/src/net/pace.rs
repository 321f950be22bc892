//! Waiting for the next request of a client that asks for one page after the other.
//!
//! Sleeping and waking up takes longer than an answer from memory. So when a client has asked again quickly, its
//! session stays awake for a moment. It does so only while a processor is free: with more such clients than
//! processors, staying awake would take time from the very clients that it waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use libpq::{CopyEvent, CopyReader, NetError};

/// A client that was waited for awake in vain is not, for so many of its requests.
const REST: u32 = 16;
/// A client that asks within so many limits is busy: it wants a processor.
const BUSY: u32 = 10;

/// What all page sessions of the process share.
pub(crate) struct Awake {
    /// How long a client is waited for awake; zero: never.
    limit: Duration,
    /// Clients that are busy.
    busy: AtomicUsize,
    processors: usize,
}

impl Awake {
    /// Nobody asks yet.
    pub(crate) fn new(limit: Duration) -> Arc<Awake> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Awake { limit, busy: AtomicUsize::new(0), processors })
    }

    /// Whether each busy client and this thread have a processor.
    fn has_room(&self) -> bool {
        self.busy.load(Ordering::Relaxed) < self.processors
    }
}

/// How quickly one client asks again.
pub(super) struct Pace {
    shared: Arc<Awake>,
    /// When its last requests were answered.
    answered: Option<Instant>,
    /// Whether it is counted as busy.
    busy: bool,
    /// Whether it asked quickly, the last time.
    quick: bool,
    /// Requests for which it is left alone.
    rest: u32,
}

impl Pace {
    /// Of a client that has not asked yet.
    pub(super) fn new(shared: Arc<Awake>) -> Pace {
        Pace { shared, answered: None, busy: false, quick: false, rest: 0 }
    }

    /// Its requests were answered now.
    pub(super) fn answered(&mut self) {
        self.answered = Some(Instant::now());
    }

    /// The next event. Other tasks of this thread get their turns while it is waited for awake.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(super) async fn next(&mut self, incoming: &mut CopyReader) -> Result<CopyEvent, NetError> {
        let mut next = std::pin::pin!(incoming.next());
        let mut in_vain = false;
        while self.stays_awake() {
            if let Poll::Ready(event) = futures::poll!(next.as_mut()) {
                return event;
            }
            in_vain = true;
            tokio::task::yield_now().await;
        }
        let event = next.await;
        self.woken(in_vain);
        event
    }

    fn stays_awake(&self) -> bool {
        self.quick && self.rest == 0 && self.is_within(1) && self.shared.has_room()
    }

    /// It asked while nobody was awake for it, or not any more.
    fn woken(&mut self, in_vain: bool) {
        self.rest = if in_vain { REST } else { self.rest.saturating_sub(1) };
        // The time that it took to be woken is in it.
        self.quick = self.is_within(2);
        self.set_busy(self.is_within(BUSY));
    }

    /// Whether the last answer is at most so many limits ago.
    fn is_within(&self, limits: u32) -> bool {
        self.answered.is_some_and(|at| at.elapsed() < self.shared.limit * limits)
    }

    fn set_busy(&mut self, busy: bool) {
        match (self.busy, busy) {
            (false, true) => _ = self.shared.busy.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.shared.busy.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
        self.busy = busy;
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.set_busy(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(limit: Duration, processors: usize) -> Arc<Awake> {
        Arc::new(Awake { limit, busy: AtomicUsize::new(0), processors })
    }

    /// Goal: nobody stays awake when there are more busy clients than processors; sessions that end make room again.
    #[test]
    fn busy_clients_are_counted_as_long_as_they_are_there() {
        let shared = shared(Duration::from_secs(60), 2);
        let mut paces: Vec<Pace> = (0..2).map(|_| Pace::new(shared.clone())).collect();
        paces[0].woken(false);
        assert!(!paces[0].stays_awake(), "nothing was answered yet");
        for pace in &mut paces {
            assert!(shared.has_room());
            pace.answered();
            pace.woken(false);
        }
        assert!(!paces[0].stays_awake());
        paces.pop();
        assert!(paces[0].stays_awake());
    }

    /// Goal: a client that is not as quick as it seemed costs little. Method: it is waited for in vain.
    #[test]
    fn a_client_that_was_waited_for_in_vain_is_left_alone_for_a_while() {
        let mut pace = Pace::new(shared(Duration::from_secs(60), 2));
        pace.answered();
        pace.woken(true);
        let mut left_alone = 0;
        while !pace.stays_awake() {
            left_alone += 1;
            pace.woken(false);
        }
        assert_eq!(left_alone, REST);
        let mut never = Pace::new(shared(Duration::ZERO, 2));
        never.answered();
        never.woken(false);
        assert!(!never.stays_awake());
    }
}
