//! Messages of a WAL push acceptor, version 2: no input panics, and a decoded message survives a round trip.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use proto::consensus::{ProtoVersion::V2, AcceptorMessage};

fuzz_target!(|data: &[u8]| {
    if let Ok(message) = AcceptorMessage::decode(V2, Bytes::copy_from_slice(data)) {
        let again = AcceptorMessage::decode(V2, message.encode(V2));
        assert_eq!(again.as_ref(), Ok(&message));
    }
});
