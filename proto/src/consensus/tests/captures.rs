//! Recorded conversations of an existing walproposer with existing safekeepers, decoded and encoded again.
//!
//! The recordings are kept beside the project (`../shared/testdata`); without them the test says so and is skipped.
//! Frames there are cut at 600 bytes. The missing part is WAL, which is padded; only the recorded prefix is compared.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;

use crate::command::Command;
use crate::consensus::*;
use crate::pg::startup::{FirstPacket, parse_first};

struct Recorded {
    conn: u64,
    from_proposer: bool,
    frame: String,
    len: usize,
    bytes: Vec<u8>,
}

fn recording(name: &str) -> Option<Vec<Recorded>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/testdata").join(name);
    let text = std::fs::read_to_string(&path).ok()?;
    let digit = |c: u8| char::from(c).to_digit(16).expect("hexadecimal") as u8;
    let recorded = text.lines().map(|line| {
        let v: serde_json::Value = serde_json::from_str(line).expect("one JSON object a line");
        let hex = v["hex"].as_str().expect("hex").as_bytes();
        Recorded {
            conn: v["conn"].as_u64().expect("conn"),
            from_proposer: v["dir"] == ">",
            frame: v["frame"].as_str().expect("frame").to_owned(),
            len: usize::try_from(v["len"].as_u64().expect("len")).expect("a length"),
            bytes: hex.chunks(2).map(|p| digit(p[0]) << 4 | digit(p[1])).collect(),
        }
    });
    Some(recorded.collect())
}

/// The message of a CopyData frame, padded to its full length, and how much of it was recorded.
fn message(frame: &Recorded) -> (Bytes, usize) {
    let mut payload = frame.bytes[5..].to_vec();
    let recorded = payload.len();
    payload.resize(frame.len - 5, 0);
    (Bytes::from(payload), recorded)
}

/// What v2 leaves unset in our encoding and an existing peer fills with something: cleared on both sides before
/// comparing.
fn masked(version: ProtoVersion, from_proposer: bool, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    if version == ProtoVersion::V2 && from_proposer {
        let unread = match bytes[0] {
            b'g' => 16..32,
            b'v' => 16..32,
            b'a' => 56..72,
            _ => 0..0,
        };
        bytes[unread].fill(0);
    }
    bytes
}

fn check(version: ProtoVersion, name: &str) {
    let Some(frames) = recording(name) else {
        println!("skipped: ../shared/testdata/{name} is not here");
        return;
    };
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for frame in &frames {
        match frame.frame.as_str() {
            "startup" => {
                let first = parse_first(Bytes::copy_from_slice(&frame.bytes[4..])).expect("a first packet");
                if let FirstPacket::Startup(params) = first {
                    let tenant = params.option("tenant_id").expect("a tenant");
                    assert!(tenant.parse::<crate::id::TenantId>().is_ok(), "{tenant}");
                    *seen.entry("startup".into()).or_default() += 1;
                }
            }
            "Q" => {
                let text = String::from_utf8_lossy(&frame.bytes[5..frame.len - 1]).into_owned();
                match Command::parse(&text).expect("a known command") {
                    Command::StartWalPush(push) => assert_eq!(push.version, version, "{text}"),
                    other => panic!("{other:?}"),
                }
                *seen.entry("query".into()).or_default() += 1;
            }
            "d" => {
                let (bytes, recorded) = message(frame);
                let side = if frame.from_proposer { "proposer" } else { "acceptor" };
                let again = if frame.from_proposer {
                    ProposerMessage::decode(version, bytes.clone()).map(|m| m.encode(version))
                } else {
                    AcceptorMessage::decode(version, bytes.clone()).map(|m| m.encode(version))
                };
                let again = again.unwrap_or_else(|e| panic!("{name} conn {} {side}: {e}: {bytes:02x?}", frame.conn));
                assert_eq!(again.len(), bytes.len());
                let (again, bytes) =
                    (masked(version, frame.from_proposer, &again), masked(version, frame.from_proposer, &bytes));
                assert_eq!(again[..recorded], bytes[..recorded], "{name} conn {} {side}", frame.conn);
                *seen.entry(format!("{side} {}", char::from(bytes[0]))).or_default() += 1;
            }
            _ => {}
        }
    }
    println!("{name}: {seen:?}");
    for kind in ["startup", "query", "proposer g", "proposer v", "proposer e", "proposer a"] {
        assert!(seen.contains_key(kind), "{kind} does not occur in {name}");
    }
    for kind in ["acceptor g", "acceptor v", "acceptor a"] {
        assert!(seen.contains_key(kind), "{kind} does not occur in {name}");
    }
}

#[test]
fn v3_conversation() {
    check(ProtoVersion::V3, "walproposer-v3.jsonl");
}

#[test]
fn v2_conversation() {
    check(ProtoVersion::V2, "walproposer-v2.jsonl");
}
