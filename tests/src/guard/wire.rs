//! Paths of the wire: the messages that every commit and its WAL take, and the libpq frames around them.

use std::hint::black_box;

use bytes::{BufMut, Bytes, BytesMut};
use proto::consensus::{
    AcceptorMessage, AppendRequest, AppendResponse, HotStandbyFeedback, ProposerMessage, ProtoVersion,
};
use proto::id::{Generation, Term};
use proto::pg::frame::{FROM_CLIENT_COPY, put_frame, take_frame};
use proto::replication::SenderMessage;

use super::{Load, wal};

const V3: ProtoVersion = ProtoVersion::V3;
/// What a frame carries.
const PAYLOAD: [u8; 100] = [7; 100];

fn request() -> ProposerMessage {
    let (begin_lsn, wal) = wal::records(1).remove(0);
    let end_lsn = begin_lsn.add(wal.len() as u64);
    ProposerMessage::Append(AppendRequest {
        generation: Generation(1),
        term: Term(1),
        begin_lsn,
        end_lsn,
        commit_lsn: Some(begin_lsn),
        truncate_lsn: Some(begin_lsn),
        wal,
    })
}

fn response() -> AcceptorMessage {
    AcceptorMessage::Append(AppendResponse {
        generation: Generation(1),
        term: Term(1),
        flush_lsn: Some(wal::start()),
        commit_lsn: Some(wal::start()),
        hs_feedback: HotStandbyFeedback::default(),
        pageserver_feedback: None,
    })
}

pub(super) fn encode_request(_: usize) -> Load {
    let (message, mut out) = (request(), BytesMut::with_capacity(1 << 10));
    Box::new(move || {
        out.clear();
        black_box(&message).encode_head(V3, &mut out);
        assert!(!black_box(&out).is_empty());
    })
}

pub(super) fn decode_request(_: usize) -> Load {
    let bytes = request().encode(V3);
    Box::new(move || {
        let message = ProposerMessage::decode(V3, black_box(bytes.clone())).expect("a valid message");
        assert!(matches!(black_box(message), ProposerMessage::Append(_)));
    })
}

pub(super) fn encode_response(_: usize) -> Load {
    let (message, mut out) = (response(), BytesMut::with_capacity(1 << 10));
    Box::new(move || {
        out.clear();
        black_box(&message).encode_head(V3, &mut out);
        assert!(!black_box(&out).is_empty());
    })
}

pub(super) fn decode_response(_: usize) -> Load {
    let bytes: Bytes = response().encode(V3);
    Box::new(move || {
        let message = AcceptorMessage::decode(V3, black_box(bytes.clone())).expect("a valid message");
        assert!(matches!(black_box(message), AcceptorMessage::Append(_)));
    })
}

fn xlog_data() -> SenderMessage {
    let (start, wal) = wal::records(1).remove(0);
    SenderMessage::XLogData { start, wal_end: Some(start.add(wal.len() as u64)), ts: 0, wal }
}

pub(super) fn encode_xlog_data(_: usize) -> Load {
    let (message, mut out) = (xlog_data(), BytesMut::with_capacity(1 << 10));
    Box::new(move || {
        out.clear();
        black_box(&message).encode_head(&mut out);
        assert!(!black_box(&out).is_empty());
    })
}

pub(super) fn decode_xlog_data(_: usize) -> Load {
    let bytes = xlog_data().encode();
    Box::new(move || {
        let message = SenderMessage::decode(black_box(bytes.clone())).expect("a valid message");
        assert!(matches!(black_box(message), SenderMessage::XLogData { .. }));
    })
}

pub(super) fn put(_: usize) -> Load {
    let mut out = BytesMut::with_capacity(1 << 10);
    Box::new(move || {
        out.clear();
        put_frame(&mut out, b'd', |b| b.put_slice(black_box(&PAYLOAD)));
        assert!(!black_box(&out).is_empty());
    })
}

/// The frame is gone before the next one comes, as in a session that keeps up: the buffer is used again.
pub(super) fn take(_: usize) -> Load {
    let mut received = BytesMut::new();
    put_frame(&mut received, b'd', |b| b.put_slice(&PAYLOAD));
    let mut buffer = BytesMut::with_capacity(8 << 10);
    Box::new(move || {
        buffer.extend_from_slice(black_box(&received));
        let frame = take_frame(&mut buffer, FROM_CLIENT_COPY).expect("a valid frame").expect("a whole frame");
        assert!(black_box(frame).body.len() == PAYLOAD.len());
    })
}
