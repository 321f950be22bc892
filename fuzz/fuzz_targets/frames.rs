//! libpq frames: however the input is split into reads, it gives the same frames or the same error.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use proto::pg::frame::{Expect, FROM_CLIENT, FROM_CLIENT_COPY, FROM_SERVER, Frame, read_error, take_frame};

fn frames(parts: &[&[u8]], expect: Expect) -> (Vec<Frame>, bool) {
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for part in parts {
        buffer.extend_from_slice(part);
        loop {
            match take_frame(&mut buffer, expect) {
                Ok(Ok(frame)) => frames.push(frame),
                Ok(Err(needed)) => {
                    assert!(needed > 0);
                    break;
                }
                Err(_) => return (frames, true),
            }
        }
    }
    (frames, false)
}

fuzz_target!(|data: &[u8]| {
    let Some((cut, data)) = data.split_first() else { return };
    let (a, b) = data.split_at(usize::from(*cut).min(data.len()));
    for expect in [FROM_CLIENT, FROM_CLIENT_COPY, FROM_SERVER] {
        let whole = frames(&[data], expect);
        assert_eq!(frames(&[a, b], expect), whole);
        for frame in whole.0.into_iter().filter(|f| f.tag == b'E') {
            read_error(frame.body);
        }
    }
});
