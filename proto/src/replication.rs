//! Messages inside CopyData of replication and push streams, both directions, big-endian.

use bytes::Bytes;
use pgformat::Lsn;

use crate::feedback::PageserverFeedback;

/// From the side that has the WAL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SenderMessage {
    /// `w`: WAL.
    XLogData {
        /// Position of the first byte.
        start: Lsn,
        /// The freshest end that the sender knows; `None` on the wire is 0.
        wal_end: Option<Lsn>,
        /// Microseconds since 2000-01-01 00:00 UTC.
        ts: i64,
        /// The WAL itself.
        wal: Bytes,
    },
    /// `k`: keepalive.
    Keepalive {
        /// The freshest end that the sender knows.
        wal_end: Option<Lsn>,
        /// Microseconds since 2000-01-01 00:00 UTC.
        ts: i64,
        /// Whether an answer is wanted now.
        reply_requested: bool,
    },
}

/// From the side that receives WAL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReceiverMessage {
    /// `r`: standby status update.
    StatusUpdate(StatusUpdate),
    /// `h`: hot-standby feedback.
    HotStandby {
        /// Microseconds since 2000-01-01 00:00 UTC.
        ts: i64,
        /// Full transaction id, epoch in the upper half.
        xmin: u64,
        /// Full transaction id, epoch in the upper half.
        catalog_xmin: u64,
    },
    /// `z`: pageserver feedback.
    Feedback(PageserverFeedback),
    /// `i`: first frame of a push stream, from the pageserver.
    PushStart(PushStart),
}

/// `r`: what a receiver has written, flushed and applied. `None` on the wire is 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusUpdate {
    /// In the receiver's operating system.
    pub write: Option<Lsn>,
    /// Durable at the receiver.
    pub flush: Option<Lsn>,
    /// Applied by the receiver.
    pub apply: Option<Lsn>,
    /// Microseconds since 2000-01-01 00:00 UTC.
    pub ts: i64,
    /// Whether an answer is wanted now.
    pub reply_requested: bool,
}

/// `i`: the pageserver tells the pusher where to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PushStart {
    /// Version of this message, 1.
    pub version: u8,
    /// First byte wanted.
    pub start_lsn: Lsn,
    /// Bytes that may be in flight unacknowledged; 0 = no limit besides TCP's.
    pub recv_window: u32,
    /// Seconds of silence after which a keepalive is wanted.
    pub keepalive_s: u8,
}
