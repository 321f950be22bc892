//! Entry points of the message codecs. Layouts: `docs/protocol.md`.
//!
//! There are two ways to encode: `encode` gives a whole message; `encode_head` leaves out the WAL of an append request,
//! so that a sender queues head and WAL one after the other and copies nothing.

use bytes::{Bytes, BytesMut};

use super::{AcceptorMessage, ProposerMessage, ProtoVersion, v2, v3};
use crate::codec::{DecodeError, Reader};

impl ProposerMessage {
    /// Reads one message; WAL is a slice of `bytes`.
    ///
    /// # Errors
    /// When the bytes are not exactly one message of that version.
    pub fn decode(version: ProtoVersion, bytes: Bytes) -> Result<ProposerMessage, DecodeError> {
        let mut reader = Reader::new("proposer message", bytes);
        let message = match version {
            ProtoVersion::V2 => v2::read_proposer(&mut reader)?,
            ProtoVersion::V3 => v3::read_proposer(&mut reader)?,
        };
        reader.finish()?;
        Ok(message)
    }

    /// Appends the message without the WAL of an append request; [`ProposerMessage::wal`] must follow.
    pub fn encode_head(&self, version: ProtoVersion, out: &mut BytesMut) {
        match version {
            ProtoVersion::V2 => v2::write_proposer(self, out),
            ProtoVersion::V3 => v3::write_proposer(self, out),
        }
    }

    /// What follows the head: the WAL of an append request, nothing for other messages.
    pub fn wal(&self) -> Bytes {
        match self {
            ProposerMessage::Append(append) => append.wal.clone(),
            _ => Bytes::new(),
        }
    }

    /// The whole message. Copies WAL: senders use [`ProposerMessage::encode_head`].
    pub fn encode(&self, version: ProtoVersion) -> Bytes {
        let mut out = BytesMut::new();
        self.encode_head(version, &mut out);
        out.extend_from_slice(&self.wal());
        out.freeze()
    }
}

impl AcceptorMessage {
    /// Reads one message.
    ///
    /// # Errors
    /// When the bytes are not exactly one message of that version.
    pub fn decode(version: ProtoVersion, bytes: Bytes) -> Result<AcceptorMessage, DecodeError> {
        let mut reader = Reader::new("acceptor message", bytes);
        let message = match version {
            ProtoVersion::V2 => v2::read_acceptor(&mut reader)?,
            ProtoVersion::V3 => v3::read_acceptor(&mut reader)?,
        };
        reader.finish()?;
        Ok(message)
    }

    /// Appends the message.
    pub fn encode_head(&self, version: ProtoVersion, out: &mut BytesMut) {
        match version {
            ProtoVersion::V2 => v2::write_acceptor(self, out),
            ProtoVersion::V3 => v3::write_acceptor(self, out),
        }
    }

    /// The whole message.
    pub fn encode(&self, version: ProtoVersion) -> Bytes {
        let mut out = BytesMut::new();
        self.encode_head(version, &mut out);
        out.freeze()
    }
}
