//! Waiting for the next request of a client that asks for one page after the other.
//!
//! To fall asleep and be woken takes several times as long as to answer from memory. So a client that asked again
//! quickly is waited for awake for a moment, as long as there is a processor for it: with more such clients than
//! processors, to stay awake would take the time of those that are waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use proto::net::{CopyEvent, CopyReader, NetError};

/// What all page sessions of the process share.
pub(crate) struct Awake {
    /// How long a client is waited for awake; zero: never.
    limit: Duration,
    /// Clients that asked again within the limit, the last time.
    quick: AtomicUsize,
    processors: usize,
}

impl Awake {
    /// Nobody asks yet.
    pub(crate) fn new(limit: Duration) -> Arc<Awake> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Awake { limit, quick: AtomicUsize::new(0), processors })
    }

    /// Whether each quick client and this thread have a processor.
    fn has_room(&self) -> bool {
        self.quick.load(Ordering::Relaxed) < self.processors
    }
}

/// How quickly one client asks again.
pub(super) struct Pace {
    shared: Arc<Awake>,
    /// When its last requests were answered.
    answered: Option<Instant>,
    quick: bool,
}

impl Pace {
    /// Of a client that has not asked yet.
    pub(super) fn new(shared: Arc<Awake>) -> Pace {
        Pace { shared, answered: None, quick: false }
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
        while self.quick && self.is_within() && self.shared.has_room() {
            if let Poll::Ready(event) = futures::poll!(next.as_mut()) {
                return event;
            }
            tokio::task::yield_now().await;
        }
        let event = next.await;
        self.set_quick(self.is_within());
        event
    }

    fn is_within(&self) -> bool {
        self.answered.is_some_and(|at| at.elapsed() < self.shared.limit)
    }

    fn set_quick(&mut self, quick: bool) {
        match (self.quick, quick) {
            (false, true) => _ = self.shared.quick.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.shared.quick.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
        self.quick = quick;
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.set_quick(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: sessions that end or slow down make room again.
    #[test]
    fn quick_clients_are_counted_while_they_are_quick() {
        let shared = Arc::new(Awake { limit: Duration::from_secs(60), quick: AtomicUsize::new(0), processors: 2 });
        let mut paces: Vec<Pace> = (0..2).map(|_| Pace::new(shared.clone())).collect();
        assert!(!paces[0].is_within(), "nothing was answered yet");
        for pace in &mut paces {
            pace.answered();
            assert!(pace.is_within() && shared.has_room());
            pace.set_quick(pace.is_within());
        }
        assert!(!shared.has_room());
        paces[0].set_quick(false);
        assert!(shared.has_room());
        paces[0].set_quick(true);
        paces.pop();
        assert!(shared.has_room());
        let never = Awake::new(Duration::ZERO);
        let mut pace = Pace::new(never);
        pace.answered();
        assert!(!pace.is_within());
    }
}
