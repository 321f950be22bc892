//! The first packet of a session and its options.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use proto::pg::startup::{FirstPacket, format_options, packet_len, parse_first, parse_options};

fuzz_target!(|data: &[u8]| {
    if let Some(head) = data.first_chunk::<4>() {
        let _ = packet_len(*head);
    }
    if let Ok(FirstPacket::Startup(params)) = parse_first(Bytes::copy_from_slice(data)) {
        // Keys with = inside cannot be written; nothing produces them.
        let pairs: Vec<(String, String)> = params.options.clone().into_iter().collect();
        if pairs.iter().all(|(k, _)| !k.is_empty() && !k.starts_with('-')) {
            assert_eq!(parse_options(&format_options(&pairs)), params.options);
        }
    }
});
