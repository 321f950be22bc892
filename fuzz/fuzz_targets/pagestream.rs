//! Page requests and replies, both versions.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use proto::pagestream::{Reply, Request, PagestreamVersion};

fuzz_target!(|data: &[u8]| {
    let Some((first, rest)) = data.split_first() else { return };
    let version = if first & 1 == 0 { PagestreamVersion::V2 } else { PagestreamVersion::V3 };
    let (head, tail) = rest.split_at(rest.len().min(usize::from(first >> 1)));
    let Ok(request) = Request::decode(version, Bytes::copy_from_slice(head)) else { return };
    assert_eq!(Request::decode(version, request.encode(version)), Ok(request));
    if let Ok(reply) = Reply::decode(version, Bytes::copy_from_slice(tail), &request) {
        let (head, pages) = reply.encode(version, &request);
        assert_eq!(Reply::decode(version, [head, pages].concat().into(), &request), Ok(reply));
    }
});
