//! Pageserver feedback: no input panics, and decoded feedback survives a round trip.
#![no_main]

use bytes::{Bytes, BytesMut};
use libfuzzer_sys::fuzz_target;
use proto::codec::Reader;
use proto::feedback::PageserverFeedback;

fuzz_target!(|data: &[u8]| {
    let mut reader = Reader::new("feedback", Bytes::copy_from_slice(data));
    if let Ok(feedback) = PageserverFeedback::read(&mut reader) {
        let mut out = BytesMut::new();
        feedback.write(&mut out);
        let again = PageserverFeedback::read(&mut Reader::new("feedback", out.freeze()));
        assert_eq!(again, Ok(feedback));
    }
});
