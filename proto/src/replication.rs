//! Messages inside CopyData of replication and push streams, both directions, big-endian.

use bytes::{BufMut, Bytes, BytesMut};
use pgformat::Lsn;

use crate::codec::{DecodeError, Reader};
use crate::feedback::PageserverFeedback;

/// From the side that has the WAL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SenderMessage {
    /// `w`: WAL, and where it lies.
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
    /// `k`: a keepalive, which may ask for an answer.
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

/// Bytes of a `w` message before its WAL.
pub const XLOG_DATA_HEAD: usize = 25;

impl SenderMessage {
    /// Reads one message; WAL is a slice of `bytes`.
    ///
    /// # Errors
    /// When the bytes are not exactly one `w` or `k` message, or the WAL would end beyond 2^64.
    pub fn decode(bytes: Bytes) -> Result<SenderMessage, DecodeError> {
        let mut r = Reader::new("message of a WAL sender", bytes);
        let message = match r.u8("tag")? {
            b'w' => {
                let start = Lsn::new(r.u64("start")?);
                let wal_end = Lsn::from_wire(r.u64("wal_end")?);
                let ts = r.i64("ts")?;
                let wal = r.rest();
                if start.checked_add(wal.len() as u64).is_none() {
                    return Err(r.error(format!("{} bytes from {start} go beyond the last position", wal.len())));
                }
                SenderMessage::XLogData { start, wal_end, ts, wal }
            }
            b'k' => SenderMessage::Keepalive {
                wal_end: Lsn::from_wire(r.u64("wal_end")?),
                ts: r.i64("ts")?,
                reply_requested: r.u8("reply_requested")? != 0,
            },
            b'0' => return Err(r.error("interpreted records are not spoken here")),
            tag => return Err(r.error(format!("unknown tag 0x{tag:02x}"))),
        };
        r.finish()?;
        Ok(message)
    }

    /// Appends the message without its WAL; [`SenderMessage::wal`] must follow.
    pub fn encode_head(&self, out: &mut BytesMut) {
        match self {
            SenderMessage::XLogData { start, wal_end, ts, .. } => {
                out.put_u8(b'w');
                out.put_u64(start.get());
                out.put_u64(Lsn::to_wire(*wal_end));
                out.put_i64(*ts);
            }
            SenderMessage::Keepalive { wal_end, ts, reply_requested } => {
                out.put_u8(b'k');
                out.put_u64(Lsn::to_wire(*wal_end));
                out.put_i64(*ts);
                out.put_u8(u8::from(*reply_requested));
            }
        }
    }

    /// The WAL, empty for a keepalive.
    pub fn wal(&self) -> Bytes {
        match self {
            SenderMessage::XLogData { wal, .. } => wal.clone(),
            SenderMessage::Keepalive { .. } => Bytes::new(),
        }
    }

    /// The whole message. Copies WAL: senders use [`SenderMessage::encode_head`].
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode_head(&mut out);
        out.extend_from_slice(&self.wal());
        out.freeze()
    }
}

impl ReceiverMessage {
    /// Reads one message.
    ///
    /// # Errors
    /// When the bytes are not exactly one `r`, `h`, `z` or `i` message.
    pub fn decode(bytes: Bytes) -> Result<ReceiverMessage, DecodeError> {
        let mut r = Reader::new("message of a WAL receiver", bytes);
        let message = match r.u8("tag")? {
            b'r' => ReceiverMessage::StatusUpdate(StatusUpdate {
                write: Lsn::from_wire(r.u64("write")?),
                flush: Lsn::from_wire(r.u64("flush")?),
                apply: Lsn::from_wire(r.u64("apply")?),
                ts: r.i64("ts")?,
                reply_requested: r.u8("reply_requested")? != 0,
            }),
            b'h' => ReceiverMessage::HotStandby {
                ts: r.i64("ts")?,
                xmin: read_full_xid(&mut r, "xmin")?,
                catalog_xmin: read_full_xid(&mut r, "catalog_xmin")?,
            },
            b'z' => {
                let len = r.u64("feedback length")?;
                if len != r.remaining() as u64 {
                    return Err(r.error(format!("feedback length says {len}, {} bytes follow", r.remaining())));
                }
                ReceiverMessage::Feedback(PageserverFeedback::read(&mut r)?)
            }
            b'i' => {
                let version = r.u8("version")?;
                let start_lsn = Lsn::new(r.u64("start_lsn")?);
                let recv_window = r.u32("recv_window")?;
                let keepalive_s = r.u8("keepalive_s")?;
                skip_keys(&mut r)?;
                ReceiverMessage::PushStart(PushStart { version, start_lsn, recv_window, keepalive_s })
            }
            tag => return Err(r.error(format!("unknown tag 0x{tag:02x}"))),
        };
        r.finish()?;
        Ok(message)
    }

    /// Appends the message.
    pub fn encode_head(&self, out: &mut BytesMut) {
        match self {
            ReceiverMessage::StatusUpdate(m) => {
                out.put_u8(b'r');
                for lsn in [m.write, m.flush, m.apply] {
                    out.put_u64(Lsn::to_wire(lsn));
                }
                out.put_i64(m.ts);
                out.put_u8(u8::from(m.reply_requested));
            }
            ReceiverMessage::HotStandby { ts, xmin, catalog_xmin } => {
                out.put_u8(b'h');
                out.put_i64(*ts);
                for full in [xmin, catalog_xmin] {
                    // xid first, then epoch: the halves of the full id swapped.
                    out.put_u64(full.rotate_left(32));
                }
            }
            ReceiverMessage::Feedback(feedback) => {
                out.put_u8(b'z');
                let at = out.len();
                out.put_u64(0);
                feedback.write(out);
                let len = (out.len() - at - 8) as u64;
                out[at..at + 8].copy_from_slice(&len.to_be_bytes());
            }
            ReceiverMessage::PushStart(m) => {
                out.put_u8(b'i');
                out.put_u8(m.version);
                out.put_u64(m.start_lsn.get());
                out.put_u32(m.recv_window);
                out.put_u8(m.keepalive_s);
                // No keys yet; readers skip unknown keys.
                out.put_u8(0);
            }
        }
    }

    /// The whole message.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode_head(&mut out);
        out.freeze()
    }
}

/// u32 xid, u32 epoch.
fn read_full_xid(r: &mut Reader, field: &'static str) -> Result<u64, DecodeError> {
    Ok(r.u64(field)?.rotate_left(32))
}

/// The extension point of `i`: a key-value blob as in feedback, or nothing.
fn skip_keys(r: &mut Reader) -> Result<(), DecodeError> {
    if r.remaining() == 0 {
        return Ok(());
    }
    for _ in 0..r.u8("number of keys")? {
        r.cstr(64, "key")?;
        let len = r.u32("value's length")?;
        r.take(usize::try_from(len).unwrap_or(usize::MAX), "value")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::consensus::tests::arbitrary::{feedback, lsn, payload};

    fn both_ways_s(message: &SenderMessage, want: &[u8]) {
        assert_eq!(message.encode()[..], *want, "{message:?}");
        assert_eq!(SenderMessage::decode(Bytes::copy_from_slice(want)).as_ref(), Ok(message));
    }

    fn both_ways_r(message: &ReceiverMessage, want: &[u8]) {
        assert_eq!(message.encode()[..], *want, "{message:?}");
        assert_eq!(ReceiverMessage::decode(Bytes::copy_from_slice(want)).as_ref(), Ok(message));
    }

    #[test]
    fn golden() {
        let wal = Bytes::from_static(b"WAL");
        let data = SenderMessage::XLogData { start: Lsn::new(0x10), wal_end: Some(Lsn::new(0x13)), ts: 9, wal };
        both_ways_s(&data, b"w\0\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\x13\0\0\0\0\0\0\0\x09WAL");
        let mut head = BytesMut::new();
        data.encode_head(&mut head);
        assert_eq!(head.len(), XLOG_DATA_HEAD);
        let keepalive = SenderMessage::Keepalive { wal_end: None, ts: -1, reply_requested: true };
        both_ways_s(&keepalive, b"k\0\0\0\0\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\x01");
        let status = StatusUpdate {
            write: Some(Lsn::new(3)),
            flush: Some(Lsn::new(2)),
            apply: None,
            ts: 1,
            reply_requested: false,
        };
        let want = b"r\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0";
        both_ways_r(&ReceiverMessage::StatusUpdate(status), want);
        let hot = ReceiverMessage::HotStandby { ts: 1, xmin: 0x0000_0002_0000_0007, catalog_xmin: 5 };
        both_ways_r(&hot, b"h\0\0\0\0\0\0\0\x01\0\0\0\x07\0\0\0\x02\0\0\0\x05\0\0\0\0");
        let feedback = PageserverFeedback { last_received_lsn: Some(Lsn::new(0x30)), ..PageserverFeedback::default() };
        let want = b"z\0\0\0\0\0\0\0\x19\x01ps_writelsn\0\0\0\0\x08\0\0\0\0\0\0\0\x30";
        both_ways_r(&ReceiverMessage::Feedback(feedback), want);
        let start = PushStart { version: 1, start_lsn: Lsn::new(0x28), recv_window: 4 << 20, keepalive_s: 5 };
        both_ways_r(&ReceiverMessage::PushStart(start.clone()), b"i\x01\0\0\0\0\0\0\0\x28\0\x40\0\0\x05\0");
        let extended = Bytes::from_static(b"i\x01\0\0\0\0\0\0\0\x28\0\x40\0\0\x05\x01k\0\0\0\0\x02ab");
        assert_eq!(ReceiverMessage::decode(extended), Ok(ReceiverMessage::PushStart(start)));
    }

    #[test]
    fn malformed_messages_are_refused() {
        for bad in [&b""[..], b"w", b"k\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", b"0\0", b"?"] {
            assert!(SenderMessage::decode(Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
        let beyond = b"w\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0xy";
        assert!(SenderMessage::decode(Bytes::copy_from_slice(beyond)).is_err());
        for bad in [&b""[..], b"z\xff\0\0\0\0\0\0\x01\0", b"i\x01", b"r", b"h", b"w"] {
            assert!(ReceiverMessage::decode(Bytes::copy_from_slice(bad)).is_err(), "{bad:?}");
        }
    }

    fn sender() -> impl Strategy<Value = SenderMessage> {
        let data = (0..u64::MAX / 2, lsn(), any::<i64>(), payload(300))
            .prop_map(|(start, wal_end, ts, wal)| SenderMessage::XLogData { start: Lsn::new(start), wal_end, ts, wal });
        let keepalive = (lsn(), any::<i64>(), any::<bool>())
            .prop_map(|(wal_end, ts, reply_requested)| SenderMessage::Keepalive { wal_end, ts, reply_requested });
        prop_oneof![data, keepalive]
    }

    fn receiver() -> impl Strategy<Value = ReceiverMessage> {
        let status = (lsn(), lsn(), lsn(), any::<i64>(), any::<bool>()).prop_map(
            |(write, flush, apply, ts, reply_requested)| {
                ReceiverMessage::StatusUpdate(StatusUpdate { write, flush, apply, ts, reply_requested })
            },
        );
        let hot = any::<(i64, u64, u64)>().prop_map(|(ts, xmin, catalog_xmin)| ReceiverMessage::HotStandby {
            ts,
            xmin,
            catalog_xmin,
        });
        let start = any::<(u8, u64, u32, u8)>().prop_map(|(version, start, recv_window, keepalive_s)| {
            ReceiverMessage::PushStart(PushStart { version, start_lsn: Lsn::new(start), recv_window, keepalive_s })
        });
        prop_oneof![status, hot, start, feedback().prop_map(ReceiverMessage::Feedback)]
    }

    proptest! {
        #[test]
        fn messages_survive(s in sender(), r in receiver()) {
            prop_assert_eq!(SenderMessage::decode(s.encode()), Ok(s));
            prop_assert_eq!(ReceiverMessage::decode(r.encode()), Ok(r));
        }

        #[test]
        fn arbitrary_bytes_never_panic(tag in "[wk0rhzi?]", bytes in payload(200)) {
            let _ = SenderMessage::decode(bytes.clone());
            let _ = ReceiverMessage::decode(bytes.clone());
            let tagged = Bytes::from([tag.as_bytes(), &bytes[..]].concat());
            let _ = SenderMessage::decode(tagged.clone());
            let _ = ReceiverMessage::decode(tagged);
        }
    }
}
