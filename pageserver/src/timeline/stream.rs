//! The place that one stream of a timeline has at a time, and what that stream has seen.
//!
//! Whoever announces a stream cancels the one before it; the guard that it gets gives the place back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgformat::Lsn;
use tokio_util::sync::CancellationToken;

use crate::choose::Choice;

/// A running stream, or one that is about to take over.
#[derive(Clone, Debug)]
pub(crate) struct StreamEntry {
    /// Distinguishes streams of one choice.
    number: u64,
    /// The choice it belongs to.
    pub(crate) choice: Choice,
    /// Whether WAL may flow: the handshake is over.
    pub(crate) live: bool,
    cancel: CancellationToken,
}

/// What the present stream has seen; times are milliseconds since the node started.
#[derive(Debug, Default)]
pub(crate) struct StreamGauge {
    last_message_ms: AtomicU64,
    last_wal_ms: AtomicU64,
    commit_lsn: AtomicU64,
    has_records: AtomicBool,
}

impl StreamGauge {
    fn reset(&self, now: Duration) {
        let now = millis(now);
        self.last_message_ms.store(now, Ordering::Relaxed);
        self.last_wal_ms.store(now, Ordering::Relaxed);
        self.has_records.store(false, Ordering::Relaxed);
    }

    /// A message came, with the sender's commit position.
    pub(crate) fn message(&self, now: Duration, commit: Option<Lsn>) {
        self.last_message_ms.store(millis(now), Ordering::Relaxed);
        self.commit_lsn.fetch_max(Lsn::to_wire(commit), Ordering::Relaxed);
    }

    /// WAL came, with so many whole records.
    pub(crate) fn wal(&self, now: Duration, records: u64) {
        self.last_wal_ms.store(millis(now), Ordering::Relaxed);
        if records > 0 {
            self.has_records.store(true, Ordering::Relaxed);
        }
    }

    /// When the last message and the last WAL came, since the process started.
    pub(super) fn heard_at(&self) -> (Duration, Duration) {
        let ms = |v: &AtomicU64| Duration::from_millis(v.load(Ordering::Relaxed));
        (ms(&self.last_message_ms), ms(&self.last_wal_ms))
    }

    /// Whether whole records came with it.
    pub(super) fn has_records(&self) -> bool {
        self.has_records.load(Ordering::Relaxed)
    }

    /// What the source said last.
    pub(crate) fn commit_lsn(&self) -> Option<Lsn> {
        Lsn::from_wire(self.commit_lsn.load(Ordering::Relaxed))
    }
}

/// A time in whole milliseconds.
pub(super) fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// The place of a timeline's stream.
#[derive(Debug, Default)]
pub(crate) struct StreamPlace {
    /// What the present stream has seen.
    pub(crate) gauge: StreamGauge,
    /// The number of the last stream that was announced, and the one that has the place.
    held: Mutex<(u64, Option<StreamEntry>)>,
}

impl StreamPlace {
    /// Announces a stream: whoever ran or waited before is cancelled. The guard takes the announcement back.
    pub(crate) fn announce(self: &Arc<StreamPlace>, choice: Choice) -> StreamGuard {
        let cancel = CancellationToken::new();
        let mut stream = self.lock();
        let number = stream.0 + 1;
        let entry = StreamEntry { number, choice, live: false, cancel: cancel.clone() };
        if let Some(before) = std::mem::replace(&mut *stream, (number, Some(entry))).1 {
            before.cancel.cancel();
        }
        StreamGuard { place: self.clone(), number, cancel }
    }

    /// Cancels the stream of choice `seq`.
    pub(crate) fn close(&self, seq: u64) {
        if let (_, Some(entry)) = &*self.lock()
            && entry.choice.seq == seq
        {
            entry.cancel.cancel();
        }
    }

    /// Cancels whatever stream runs or waits.
    pub(crate) fn end(&self) {
        if let (_, Some(entry)) = &*self.lock() {
            entry.cancel.cancel();
        }
    }

    /// The running stream.
    pub(crate) fn running(&self) -> Option<StreamEntry> {
        self.lock().1.clone().filter(|s| s.live)
    }

    fn lock(&self) -> MutexGuard<'_, (u64, Option<StreamEntry>)> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream's place in the timeline; dropping it gives the place up.
pub(crate) struct StreamGuard {
    place: Arc<StreamPlace>,
    number: u64,
    cancel: CancellationToken,
}

impl StreamGuard {
    /// Cancelled when another stream takes over, or the choice is given up.
    pub(crate) fn cancelled(&self) -> &CancellationToken {
        &self.cancel
    }

    /// The handshake is over; whether the place is still this stream's.
    pub(crate) fn go_live(&self, now: Duration) -> bool {
        let mut stream = self.place.lock();
        match &mut stream.1 {
            Some(entry) if entry.number == self.number => {
                entry.live = true;
                self.place.gauge.reset(now);
                true
            }
            _ => false,
        }
    }

    /// Whether somebody else took the place.
    pub(crate) fn is_replaced(&self) -> bool {
        self.place.lock().1.as_ref().is_none_or(|e| e.number != self.number)
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let mut stream = self.place.lock();
        if stream.1.as_ref().is_some_and(|e| e.number == self.number) {
            stream.1 = None;
        }
    }
}
