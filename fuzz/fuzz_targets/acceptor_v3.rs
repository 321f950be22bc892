//! Messages of a WAL push acceptor, version 3: no input panics, and a decoded message survives a round trip.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use proto::consensus::{ProtoVersion::V3, AcceptorMessage};

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = AcceptorMessage::decode(V3, Bytes::copy_from_slice(data)) {
        let again = AcceptorMessage::decode(V3, message.encode(V3));
        assert_eq!(again.as_ref(), Ok(&message));
    }
});
