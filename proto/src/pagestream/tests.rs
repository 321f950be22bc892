//! Golden vectors, written out from the tables of `docs/protocol.md`, every message in both versions; and properties.

use bytes::{Bytes, BytesMut};
use pgformat::Lsn;
use pgformat::rel::{BlockTag, Fork, RelFileLocator, RelFork};
use pgformat::slru::Slru;
use proptest::prelude::*;

use super::PagestreamVersion::{V2, V3};
use super::*;

/// Hexadecimal digits with blanks between them, to bytes.
fn hex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn whole(reply: &Reply, version: PagestreamVersion, request: &Request) -> Bytes {
    let (head, pages) = reply.encode(version, request);
    [head, pages].concat().into()
}

const FORK: RelFork = RelFork { rel: RelFileLocator { spc: 1663, db: 5, rel: 16384 }, fork: Fork::Vm };
/// [`FORK`] on the wire.
const FORK_HEX: &str = "0000067F 00000005 00004000 02";

fn request(ask: Ask) -> Request {
    Request { id: 7, lsn: Lsn::MAX, not_modified_since: Lsn::new(0x0000_0016_B374_D848), ask }
}

/// A request and a reply to it, with what stands behind the head of each, and between tag and head.
fn golden(ask: Ask, tag: &str, ask_hex: &str, reply: &Reply, reply_hex: &str) {
    let lsns = "FFFFFFFFFFFFFFFF 00000016B374D848";
    let v3 = request(ask);
    let v2 = Request { id: 0, ..v3 };
    let want3 = hex(&format!("{tag} 0000000000000007 {lsns} {ask_hex}"));
    let want2 = hex(&format!("{tag} {lsns} {ask_hex}"));
    assert_eq!((v3.encode(V3), v2.encode(V2)), (want3.clone(), want2.clone()), "{ask:?}");
    assert_eq!((Request::decode(V3, want3), Request::decode(V2, want2)), (Ok(v3), Ok(v2)), "{ask:?}");

    let (reply_tag, after) = reply_hex.split_once(' ').expect("a tag and the rest");
    let echo = if matches!(reply, Reply::Error(_)) { "" } else { ask_hex };
    let want3 = hex(&format!("{reply_tag} 0000000000000007 {lsns} {echo} {after}"));
    let want2 = hex(&format!("{reply_tag} {after}"));
    assert_eq!((whole(reply, V3, &v3), whole(reply, V2, &v2)), (want3.clone(), want2.clone()), "{reply:?}");
    assert_eq!(Reply::decode(V3, want3, &v3).as_ref(), Ok(reply));
    assert_eq!(Reply::decode(V2, want2, &v2).as_ref(), Ok(reply));
}

#[test]
fn every_message_has_the_bytes_of_the_tables() {
    golden(Ask::Exists(FORK), "00", FORK_HEX, &Reply::Exists(true), "64 01");
    golden(Ask::Nblocks(FORK), "01", FORK_HEX, &Reply::Nblocks(0x0102_0304), "65 01020304");
    golden(Ask::DbSize { db: 5 }, "03", "00000005", &Reply::DbSize(8192), "68 0000000000002000");
    let page = Bytes::from(vec![0xAB; 8192]);
    let block = Ask::Page(BlockTag { fork: FORK, blk: 258 });
    let pages = "AB".repeat(8192);
    golden(block, "02", &format!("{FORK_HEX} 00000102"), &Reply::Page(page.clone()), &format!("66 {pages}"));
    let segment = Ask::SlruSegment { slru: Slru::MultixactOffsets, segno: 3 };
    golden(segment, "04", "02 00000003", &Reply::SlruSegment(page), &format!("69 00000001 {pages}"));
    golden(segment, "04", "02 00000003", &Reply::SlruSegment(Bytes::new()), "69 00000000");
    golden(block, "02", &format!("{FORK_HEX} 00000102"), &Reply::Error("no".into()), "67 6E6F00");
}

#[test]
fn lengths_are_those_of_the_tables() {
    let page = request(Ask::Page(BlockTag { fork: FORK, blk: 0 }));
    assert_eq!((page.encode(V3).len(), page.encode(V2).len()), (42, 34));
    assert_eq!(whole(&Reply::Page(Bytes::from(vec![0; 8192])), V3, &page).len(), 42 + 8192);
    let exists = request(Ask::Exists(FORK));
    assert_eq!((exists.encode(V3).len(), whole(&Reply::Exists(false), V3, &exists).len()), (38, 39));
    assert_eq!(request(Ask::DbSize { db: 1 }).encode(V3).len(), 29);
    assert_eq!(request(Ask::SlruSegment { slru: Slru::Xact, segno: 1 }).encode(V3).len(), 30);
}

#[test]
fn malformed_requests_are_refused() {
    let head = "0000000000000007 FFFFFFFFFFFFFFFF 00000016B374D848";
    for (bad, problem) in [
        (String::new(), "tag"),
        ("63".into(), "unknown tag 99"),
        ("05".into(), "unknown tag 5"),
        ("02 00".into(), "request id"),
        (format!("02 {head} {FORK_HEX}"), "block"),
        (format!("00 {head} 0000067F 00000005 00004000 04"), "unknown fork 4"),
        (format!("04 {head} 04 00000000"), "unknown kind of SLRU 4"),
        (format!("00 {head} {FORK_HEX} 00"), "left over"),
    ] {
        let error = Request::decode(V3, hex(&bad)).expect_err(&bad).to_string();
        assert!(error.contains(problem), "{bad}: {error}");
    }
}

#[test]
fn replies_to_other_requests_are_refused() {
    let asked = request(Ask::Exists(FORK));
    let reply = whole(&Reply::Exists(true), V3, &asked);
    let others = [
        Request { id: 8, ..asked },
        Request { lsn: Lsn::new(1), ..asked },
        Request { ask: Ask::Exists(RelFork { fork: Fork::Main, ..FORK }), ..asked },
        Request { ask: Ask::Nblocks(FORK), ..asked },
    ];
    for other in others {
        assert!(Reply::decode(V3, reply.clone(), &other).is_err(), "{other:?}");
    }
    let segment = Request { ask: Ask::SlruSegment { slru: Slru::Xact, segno: 0 }, ..asked };
    for count in ["00000021", "00000001", "FFFFFFFF"] {
        assert!(Reply::decode(V2, hex(&format!("69 {count}")), &segment).is_err(), "{count} pages without their bytes");
    }
    assert!(Reply::decode(V2, hex("67 6E6F"), &segment).is_err(), "a text without its end");
}

fn arbitrary_request() -> impl Strategy<Value = Request> {
    let fork = any::<(u32, u32, u32)>().prop_flat_map(|(spc, db, rel)| {
        let rel = RelFileLocator { spc, db, rel };
        prop::sample::select(&Fork::ALL[..]).prop_map(move |fork| RelFork { rel, fork })
    });
    let ask = prop_oneof![
        fork.clone().prop_map(Ask::Exists),
        fork.clone().prop_map(Ask::Nblocks),
        (fork, any::<u32>()).prop_map(|(fork, blk)| Ask::Page(BlockTag { fork, blk })),
        any::<u32>().prop_map(|db| Ask::DbSize { db }),
        (prop::sample::select(&Slru::ALL[..]), any::<u32>()).prop_map(|(slru, segno)| Ask::SlruSegment { slru, segno }),
    ];
    (any::<(u64, u64, u64)>(), ask).prop_map(|((id, lsn, since), ask)| Request {
        id,
        lsn: Lsn::new(lsn),
        not_modified_since: Lsn::new(since),
        ask,
    })
}

fn answer(request: &Request, seed: u8, text: String, number: u32) -> [Reply; 2] {
    let pages = |n: usize| Bytes::from(vec![seed; n * 8192]);
    let reply = match request.ask {
        Ask::Exists(_) => Reply::Exists(seed & 1 == 1),
        Ask::Nblocks(_) => Reply::Nblocks(number),
        Ask::Page(_) => Reply::Page(pages(1)),
        Ask::DbSize { .. } => Reply::DbSize(i64::from(number) * 8192),
        Ask::SlruSegment { .. } => Reply::SlruSegment(pages(usize::from(seed) % 33)),
    };
    [reply, Reply::Error(text)]
}

proptest! {
    #[test]
    fn messages_survive(r in arbitrary_request(), seed: u8, text in "[^\0]{0,80}", number: u32) {
        prop_assert_eq!(Request::decode(V3, r.encode(V3)), Ok(r));
        let v2 = Request { id: 0, ..r };
        prop_assert_eq!(Request::decode(V2, r.encode(V2)), Ok(v2));
        for reply in answer(&r, seed, text.clone(), number) {
            prop_assert_eq!(Reply::decode(V3, whole(&reply, V3, &r), &r), Ok(reply.clone()));
            prop_assert_eq!(Reply::decode(V2, whole(&reply, V2, &v2), &v2), Ok(reply));
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        r in arbitrary_request(),
        tag in 0u8..110,
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut tagged = BytesMut::from(&[tag][..]);
        tagged.extend_from_slice(&bytes);
        for bytes in [Bytes::from(bytes), tagged.freeze()] {
            for version in [V2, V3] {
                let _ = Request::decode(version, bytes.clone());
                let _ = Reply::decode(version, bytes.clone(), &r);
            }
        }
    }
}
