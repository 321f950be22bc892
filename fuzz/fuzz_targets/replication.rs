//! Messages of replication and push streams, both directions.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use proto::replication::{ReceiverMessage, SenderMessage};

fuzz_target!(|data: &[u8]| {
    let data = Bytes::copy_from_slice(data);
    if let Ok(message) = SenderMessage::decode(data.clone()) {
        assert_eq!(SenderMessage::decode(message.encode()).as_ref(), Ok(&message));
    }
    if let Ok(message) = ReceiverMessage::decode(data) {
        assert_eq!(ReceiverMessage::decode(message.encode()).as_ref(), Ok(&message));
    }
});
