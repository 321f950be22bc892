//! The outgoing streams that exist now, for status pages: readers, recovery clients and pushes alike.
//!
//! Owner: the registry. A stream registers itself and leaves with its guard, however it ends. Numbers here are for
//! display and metrics only; nothing is decided by them.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pgformat::Lsn;
use proto::api::{PushStatus, StreamState};
use proto::feedback::PageserverFeedback;
use proto::id::{NodeId, TenantTimelineId};
use proto::replication::StatusUpdate;

/// Who is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum StreamKind {
    /// A reader that pulls committed WAL.
    Reader,
    /// A proposer that recovers.
    Recovery,
    /// A pageserver that is pushed to.
    Push,
}

impl StreamKind {
    /// Word for labels and rows.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            StreamKind::Reader => "reader",
            StreamKind::Recovery => "recovery",
            StreamKind::Push => "push",
        }
    }
}

/// One outgoing stream.
#[derive(Debug)]
pub(crate) struct OutgoingStream {
    /// What it carries.
    pub(crate) ttid: TenantTimelineId,
    /// Whom it serves.
    pub(crate) kind: StreamKind,
    /// The other end: application name or address.
    pub(crate) peer: String,
    /// The pageserver, when it is one.
    pub(crate) pageserver: Option<NodeId>,
    state: AtomicU8,
    token: AtomicI64,
    // Positions; 0 = unknown.
    sent: AtomicU64,
    received: AtomicU64,
    disk_consistent: AtomicU64,
    remote_consistent: AtomicU64,
}

impl OutgoingStream {
    /// A stream that begins.
    pub(crate) fn new(
        ttid: TenantTimelineId,
        kind: StreamKind,
        peer: String,
        pageserver: Option<NodeId>,
    ) -> OutgoingStream {
        OutgoingStream {
            ttid,
            kind,
            peer,
            pageserver,
            state: AtomicU8::new(StreamState::Connecting as u8),
            token: AtomicI64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            disk_consistent: AtomicU64::new(0),
            remote_consistent: AtomicU64::new(0),
        }
    }

    pub(crate) fn set_state(&self, state: StreamState) {
        self.state.store(state as u8, Relaxed);
    }

    pub(crate) fn state(&self) -> StreamState {
        let now = self.state.load(Relaxed);
        StreamState::ALL.iter().copied().find(|s| *s as u8 == now).unwrap_or(StreamState::Connecting)
    }

    /// Whether WAL flows.
    pub(crate) fn is_streaming(&self) -> bool {
        self.state() == StreamState::Streaming
    }

    pub(crate) fn set_token(&self, token: i64) {
        self.token.store(token, Relaxed);
    }

    pub(crate) fn token(&self) -> i64 {
        self.token.load(Relaxed)
    }

    pub(crate) fn set_sent(&self, lsn: Lsn) {
        self.sent.store(lsn.get(), Relaxed);
    }

    /// Takes a pageserver's report.
    pub(crate) fn note_feedback(&self, f: &PageserverFeedback) {
        let note = |cell: &AtomicU64, lsn: Option<Lsn>| {
            if let Some(lsn) = lsn {
                cell.store(lsn.get(), Relaxed);
            }
        };
        note(&self.received, f.last_received_lsn);
        note(&self.disk_consistent, f.disk_consistent_lsn);
        note(&self.remote_consistent, f.remote_consistent_lsn);
    }

    /// Takes a standby's report. What a standby flushed is no pageserver's durable position, so only `write` is kept.
    pub(crate) fn note_status(&self, s: &StatusUpdate) {
        if let Some(write) = s.write {
            self.received.store(write.get(), Relaxed);
        }
    }

    /// Sent up to here, when anything was.
    pub(crate) fn sent(&self) -> Option<Lsn> {
        Lsn::from_wire(self.sent.load(Relaxed))
    }

    /// Received by the other end, as it told.
    pub(crate) fn received(&self) -> Option<Lsn> {
        Lsn::from_wire(self.received.load(Relaxed))
    }

    /// Durable on the pageserver's disk, as it told.
    pub(crate) fn disk_consistent(&self) -> Option<Lsn> {
        Lsn::from_wire(self.disk_consistent.load(Relaxed))
    }

    /// For status pages, when this is a push.
    pub(crate) fn push_status(&self) -> Option<PushStatus> {
        if self.kind != StreamKind::Push {
            return None;
        }
        Some(PushStatus {
            pageserver_id: self.pageserver?,
            state: self.state(),
            sent_lsn: self.sent(),
            last_record_lsn: self.received(),
            disk_consistent_lsn: self.disk_consistent(),
            token: u64::try_from(self.token()).unwrap_or(0),
        })
    }
}

/// All outgoing streams.
#[derive(Debug, Default)]
pub(crate) struct OutgoingStreams {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<OutgoingStream>>>,
}

impl OutgoingStreams {
    /// Registers a stream until the guard is dropped.
    pub(crate) fn register(self: &Arc<Self>, stream: OutgoingStream) -> OutgoingStreamGuard {
        let number = self.next.fetch_add(1, Relaxed);
        let stream = Arc::new(stream);
        self.lock().insert(number, Arc::clone(&stream));
        OutgoingStreamGuard { streams: Arc::clone(self), number, stream }
    }

    /// Every stream, oldest first.
    pub(crate) fn all(&self) -> Vec<Arc<OutgoingStream>> {
        self.lock().values().cloned().collect()
    }

    /// The pushes of one timeline.
    pub(crate) fn pushes_of(&self, ttid: TenantTimelineId) -> Vec<PushStatus> {
        self.lock().values().filter(|s| s.ttid == ttid).filter_map(|s| s.push_status()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<OutgoingStream>>> {
        // Only insert, remove and read happen under it: a panic elsewhere leaves it whole.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a stream registered.
#[derive(Debug)]
pub(crate) struct OutgoingStreamGuard {
    streams: Arc<OutgoingStreams>,
    number: u64,
    stream: Arc<OutgoingStream>,
}

impl Deref for OutgoingStreamGuard {
    type Target = OutgoingStream;

    fn deref(&self) -> &OutgoingStream {
        &self.stream
    }
}

impl Drop for OutgoingStreamGuard {
    fn drop(&mut self) {
        self.streams.lock().remove(&self.number);
    }
}
