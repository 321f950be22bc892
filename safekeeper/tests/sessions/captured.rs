//! Recorded conversations of an existing walproposer, both versions: what it said is said again, and the answers must
//! be those that it got. Skipped where the recordings are not there.
//!
//! The recordings hold only the beginning of long frames, so the WAL is built here, with records that end where the
//! recorded ones ended. Greetings and votes are compared byte by byte, append responses by what they report.

use std::path::PathBuf;

use bytes::Bytes;
use pgformat::wal::{StreamConfig, WalBuilder};
use pgformat::{Lsn, PgMajor, Tli};
use proto::consensus::{AcceptorMessage, ProposerMessage, ProtoVersion};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Node, soon};

#[derive(Deserialize)]
struct Recorded {
    conn: u32,
    safekeeper: u32,
    dir: String,
    frame: String,
    len: usize,
    hex: String,
}

/// Header of a CopyData frame.
const FRAME: usize = 5;

/// Record ends in the recorded WAL, and a position behind its end.
const ENDS: [u64; 3] = [0x103_FF98, 0x105_E858, 0x106_1000];
const START: Lsn = Lsn::new(0x100_0028);

fn recorded(name: &str) -> Option<Vec<Recorded>> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/testdata").join(name);
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    };
    let lines = text.lines().map(|l| serde_json::from_str::<Recorded>(l).expect("a recorded frame"));
    Some(lines.filter(|r| r.safekeeper == 1).collect())
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |i| u8::from_str_radix(&text[i..i + 2], 16).expect("hexadecimal digits");
    (0..text.len() / 2).map(|i| digit(2 * i)).collect()
}

/// WAL of the recorded cluster, from [`START`] on.
fn wal(version: ProtoVersion, frames: &[Recorded]) -> Vec<u8> {
    let greeting = frames.iter().find(|r| r.dir == ">" && r.frame == "d").expect("a greeting");
    let message = ProposerMessage::decode(version, Bytes::from(unhex(&greeting.hex)[FRAME..].to_vec()));
    let Ok(ProposerMessage::Greeting(g)) = message else { panic!("{message:?}") };
    let cfg = StreamConfig {
        version: PgMajor::from_version_num(g.pg_version_num).expect("a supported version"),
        seg_size: g.seg_size,
        system_id: Some(g.system_id.0),
        tlis: vec![(Tli(1), Lsn::new(0))],
    };
    let mut builder = WalBuilder::new(cfg, START, None);
    for end in ENDS {
        builder.noop_until(Lsn::new(end));
    }
    builder.bytes().to_vec()
}

/// The frame that is to be sent: the recorded one, with WAL where the recording was cut.
fn outgoing(version: ProtoVersion, r: &Recorded, wal: &[u8]) -> Vec<u8> {
    let mut bytes = unhex(&r.hex);
    // Tag, term and positions of an append request; begin and end lie at a fixed place.
    let (head, begin_at) = match version {
        ProtoVersion::V3 => (FRAME + 45, FRAME + 13),
        ProtoVersion::V2 => (FRAME + 72, FRAME + 24),
    };
    if r.frame != "d" || bytes[FRAME] != b'a' || r.len == head {
        assert_eq!(bytes.len(), r.len, "only WAL is cut");
        return bytes;
    }
    let raw: [u8; 8] = bytes[begin_at..begin_at + 8].try_into().expect("eight bytes");
    let begin = if version == ProtoVersion::V3 { u64::from_be_bytes(raw) } else { u64::from_le_bytes(raw) };
    let from = usize::try_from(begin - START.get()).expect("small");
    bytes.truncate(head);
    bytes.extend_from_slice(&wal[from..from + r.len - head]);
    bytes
}

async fn frame(socket: &mut TcpStream) -> (u8, Bytes) {
    let reading = async {
        let tag = socket.read_u8().await?;
        let mut body = vec![0; socket.read_u32().await? as usize - 4];
        socket.read_exact(&mut body).await?;
        std::io::Result::Ok((tag, Bytes::from(body)))
    };
    soon("a frame", reading).await.expect("the connection stays open")
}

/// Reads what the recording got at this point.
async fn expect(version: ProtoVersion, r: &Recorded, socket: &mut TcpStream) {
    if r.frame == "ssl" {
        assert_eq!(soon("an answer", socket.read_u8()).await.expect("a byte"), b'N');
        return;
    }
    let want = Bytes::from(unhex(&r.hex)[FRAME..].to_vec());
    match r.frame.as_str() {
        // Parameters may differ; what follows them may not.
        "S" => {}
        "Z" => while frame(socket).await.0 != b'Z' {},
        "d" => {
            let decode = |b: Bytes| AcceptorMessage::decode(version, b).expect("an acceptor's message");
            let AcceptorMessage::Append(want) = decode(want.clone()) else {
                let (tag, got) = frame(socket).await;
                assert_eq!((tag, decode(got.clone())), (b'd', decode(want.clone())));
                assert_eq!(got, want, "byte by byte");
                return;
            };
            loop {
                let (tag, got) = frame(socket).await;
                assert_eq!(tag, b'd', "{:?}", String::from_utf8_lossy(&got));
                let AcceptorMessage::Append(got) = decode(got) else { panic!("an append response was expected") };
                assert_eq!((got.generation, got.term), (want.generation, want.term));
                if got.flush_lsn == want.flush_lsn {
                    break;
                }
            }
        }
        other => {
            let (tag, got) = frame(socket).await;
            assert_eq!((char::from(tag).to_string().as_str(), got), (other, want));
        }
    }
}

async fn replay(name: &str, version: ProtoVersion) {
    let Some(frames) = recorded(name) else { return };
    let wal = wal(version, &frames);
    let node = Node::start_with(|c| c.allow_implicit_timelines = true).await;
    let mut open: Option<(u32, TcpStream)> = None;
    for (i, r) in frames.iter().enumerate() {
        let mut socket = match open.take() {
            Some((conn, socket)) if conn == r.conn => socket,
            _ => TcpStream::connect(node.pg).await.expect("a connection"),
        };
        // Shown only when the test fails.
        println!("{i} conn {} {} {} {} bytes", r.conn, r.dir, r.frame, r.len);
        // An answer to a repeated request that the recording leaves out.
        if i.checked_sub(1).and_then(|i| frames.get(i)).is_some_and(|b| b.dir == "<" && r.dir == "<" && b.hex == r.hex)
        {
            continue;
        }
        if r.dir == ">" {
            socket.write_all(&outgoing(version, r, &wal)).await.expect("sent");
        } else {
            expect(version, r, &mut socket).await;
        }
        open = Some((r.conn, socket));
    }
    let (_, text) = node.get("/v1/tenant/timeline").await;
    assert!(text.contains("\"flush_lsn\":\"0/105E858\"") && text.contains("\"walproposer\""), "{text}");
}

#[tokio::test]
async fn version_3() {
    replay("walproposer-v3.jsonl", ProtoVersion::V3).await;
}

#[tokio::test]
async fn version_2() {
    replay("walproposer-v2.jsonl", ProtoVersion::V2).await;
}
