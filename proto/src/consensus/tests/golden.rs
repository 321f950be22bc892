//! Golden vectors, written out from the tables of `docs/protocol.md`, every message in both versions; and properties.

use bytes::{Bytes, BytesMut};
use pgformat::{Lsn, SegSize, Tli};
use proptest::prelude::*;

use super::arbitrary::{acceptor, payload, proposer};
use crate::consensus::ProtoVersion::{V2, V3};
use crate::consensus::*;

/// Hexadecimal digits with blanks between them, to bytes.
fn hex(text: &str) -> Bytes {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn p(version: ProtoVersion, message: &ProposerMessage, want: &str) {
    assert_eq!(message.encode(version), hex(want), "{version:?} {message:?}");
    assert_eq!(ProposerMessage::decode(version, hex(want)).as_ref(), Ok(message));
}

fn a(version: ProtoVersion, message: &AcceptorMessage, want: &str) {
    assert_eq!(message.encode(version), hex(want), "{version:?} {message:?}");
    assert_eq!(AcceptorMessage::decode(version, hex(want)).as_ref(), Ok(message));
}

fn history() -> TermHistory {
    let entry = |t, l| TermLsn { term: Term(t), lsn: Lsn::new(l) };
    TermHistory::new(vec![entry(0, 0x1000), entry(5, 0x2000)]).expect("it rises")
}

fn greeting(mconf: MemberConf, tli: Option<Tli>) -> ProposerMessage {
    let tenant_id = "000102030405060708090a0b0c0d0e0f".parse().expect("an id");
    let timeline_id = "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff".parse().expect("an id");
    ProposerMessage::Greeting(ProposerGreeting {
        ttid: TenantTimelineId::new(tenant_id, timeline_id),
        mconf,
        pg_version_num: 150_004,
        system_id: SystemId(0x0102_0304_0506_0708),
        seg_size: SegSize::DEFAULT,
        tli,
    })
}

fn members() -> MemberConf {
    let member = |id, host: &str, pg_port| Member { id: NodeId(id), host: host.into(), pg_port };
    MemberConf::new(Generation(1), vec![member(1, "a", 5454), member(2, "", 0)], vec![member(3, "b", 1)])
        .expect("a valid configuration")
}

fn append() -> ProposerMessage {
    ProposerMessage::Append(AppendRequest {
        generation: Generation(0),
        term: Term(5),
        begin_lsn: Lsn::new(0x2000),
        end_lsn: Lsn::new(0x2003),
        commit_lsn: Some(Lsn::new(0x1FF8)),
        truncate_lsn: None,
        wal: Bytes::from_static(b"\xAA\xBB\xCC"),
    })
}

fn append_response(feedback: Option<PageserverFeedback>) -> AcceptorMessage {
    AcceptorMessage::Append(AppendResponse {
        generation: Generation(0),
        term: Term(5),
        flush_lsn: Some(Lsn::new(0x2000)),
        commit_lsn: None,
        hs_feedback: HotStandbyFeedback { ts: -1, xmin: 2, catalog_xmin: 3 },
        pageserver_feedback: feedback,
    })
}

fn vote_response() -> AcceptorMessage {
    AcceptorMessage::VoteResponse(VoteResponse {
        generation: Generation(0),
        term: Term(6),
        vote_given: true,
        flush_lsn: Some(Lsn::new(0x2000)),
        truncate_lsn: Some(Lsn::new(0x1000)),
        history: history(),
    })
}

fn received(lsn: u64) -> Option<PageserverFeedback> {
    Some(PageserverFeedback { last_received_lsn: Some(Lsn::new(lsn)), ..PageserverFeedback::default() })
}

/// "000102...0f" as text and NUL, then "f0f1...ff" as text and NUL.
const IDS_TEXT: &str = "30303031303230333034303530363037 30383039306130623063306430653066 00
                        66306631663266336634663566366637 66386639666166626663666466656666 00";
/// One key, ps_writelsn, 0x30.
const FEEDBACK: &str = "01 70735f77726974656c736e 00 00000008 0000000000000030";

#[test]
fn v3_proposer() {
    let tail = "000249f4 0102030405060708 01000000";
    p(V3, &greeting(MemberConf::none(), None), &format!("67 {IDS_TEXT} 00000000 00000000 00000000 {tail}"));
    let mconf = "00000001
                 00000002 0000000000000001 61 00 154e 0000000000000002 00 0000
                 00000001 0000000000000003 62 00 0001";
    p(V3, &greeting(members(), None), &format!("67 {IDS_TEXT} {mconf} {tail}"));
    let vote = VoteRequest { generation: Generation(1), term: Term(6) };
    p(V3, &ProposerMessage::VoteRequest(vote), "76 00000001 0000000000000006");
    let elected = ProposerElected {
        generation: Generation(1),
        term: Term(5),
        start_streaming_at: Lsn::new(0x1800),
        history: history(),
    };
    p(
        V3,
        &ProposerMessage::Elected(elected),
        "65 00000001 0000000000000005 0000000000001800 00000002
         0000000000000000 0000000000001000 0000000000000005 0000000000002000",
    );
    p(
        V3,
        &append(),
        "61 00000000 0000000000000005 0000000000002000 0000000000002003 0000000000001ff8 0000000000000000 aabbcc",
    );
}

#[test]
fn v3_acceptor() {
    let mconf = MemberConf::none();
    let greeting = AcceptorGreeting { node_id: NodeId(7), mconf, term: Term(4) };
    let want = "67 0000000000000007 00000000 00000000 00000000 0000000000000004";
    a(V3, &AcceptorMessage::Greeting(greeting), want);
    a(
        V3,
        &vote_response(),
        "76 00000000 0000000000000006 01 0000000000002000 0000000000001000 00000002
         0000000000000000 0000000000001000 0000000000000005 0000000000002000",
    );
    let head = "61 00000000 0000000000000005 0000000000002000 0000000000000000
                ffffffffffffffff 0000000000000002 0000000000000003";
    a(V3, &append_response(None), head);
    a(V3, &append_response(received(0x30)), &format!("{head} {FEEDBACK}"));
}

#[test]
fn v2_proposer() {
    p(
        V2,
        &greeting(MemberConf::none(), Some(Tli(9))),
        "6700000000000000 02000000 f4490200 00000000000000000000000000000000 0807060504030201
         f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff 000102030405060708090a0b0c0d0e0f 09000000 00000001",
    );
    let vote = VoteRequest { generation: Generation(0), term: Term(6) };
    p(V2, &ProposerMessage::VoteRequest(vote), "7600000000000000 0600000000000000 00000000000000000000000000000000");
    let elected = ProposerElected {
        generation: Generation(0),
        term: Term(5),
        start_streaming_at: Lsn::new(0x1800),
        history: history(),
    };
    p(
        V2,
        &ProposerMessage::Elected(elected),
        "6500000000000000 0500000000000000 0018000000000000 02000000
         0000000000000000 0010000000000000 0500000000000000 0020000000000000 0010000000000000",
    );
    p(
        V2,
        &append(),
        "6100000000000000 0500000000000000 0000000000000000 0020000000000000 0320000000000000
         f81f000000000000 0000000000000000 00000000000000000000000000000000 aabbcc",
    );
}

#[test]
fn v2_acceptor() {
    let greeting = AcceptorGreeting { node_id: NodeId(7), mconf: MemberConf::none(), term: Term(4) };
    a(V2, &AcceptorMessage::Greeting(greeting), "6700000000000000 0400000000000000 0700000000000000");
    a(
        V2,
        &vote_response(),
        "7600000000000000 0600000000000000 0100000000000000 0020000000000000 0010000000000000 02000000
         0000000000000000 0010000000000000 0500000000000000 0020000000000000 0000000000000000",
    );
    let head = "6100000000000000 0500000000000000 0020000000000000 0000000000000000
                ffffffffffffffff 0200000000000000 0300000000000000";
    a(V2, &append_response(None), head);
    a(V2, &append_response(received(0x30)), &format!("{head} {FEEDBACK}"));
}

#[test]
fn a_head_and_its_wal_make_the_message() {
    for (version, len) in [(V2, 72), (V3, 45)] {
        let mut head = BytesMut::new();
        append().encode_head(version, &mut head);
        assert_eq!(head.len(), len);
        head.extend_from_slice(&append().wal());
        assert_eq!(head, append().encode(version));
    }
}

#[test]
fn empty_feedback_is_not_sent() {
    for version in [V2, V3] {
        let empty = append_response(Some(PageserverFeedback::default()));
        assert_eq!(empty.encode(version), append_response(None).encode(version));
    }
    let with_zero_keys = [&append_response(None).encode(V3)[..], &[0]].concat();
    assert_eq!(AcceptorMessage::decode(V3, Bytes::from(with_zero_keys)), Ok(append_response(None)));
}

fn refused(version: ProtoVersion, text: &str) -> String {
    match ProposerMessage::decode(version, hex(text)) {
        Ok(m) => panic!("{text} was read as {m:?}"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn limits_are_checked_before_anything_is_allocated() {
    let elected = refused(V3, "65 00000001 0000000000000005 0000000000001800 ffffffff 0000000000000000");
    assert!(elected.contains("more than the 8 bytes left"), "{elected}");
    let elected = refused(V2, "6500000000000000 0500000000000000 0018000000000000 ffffff7f 0000000000000000");
    assert!(elected.contains("more than the 8 bytes left"), "{elected}");
    let members = refused(V3, &format!("67 {IDS_TEXT} 00000001 00ffffff 0000000000000001"));
    assert!(members.contains("mconf.members"), "{members}");
    let head = |begin: &str, end: &str| {
        format!("61 00000000 0000000000000005 {begin} {end} 0000000000000000 0000000000000000")
    };
    let backwards = refused(V3, &head("0000000000002000", "0000000000001fff"));
    assert!(backwards.contains("before its begin"), "{backwards}");
    let large = refused(V3, &head("0000000000002000", "0000000000022001"));
    assert!(large.contains("more than 131072"), "{large}");
    let short = refused(V3, &(head("0000000000002000", "0000000000002003") + "aabb"));
    assert!(short.contains("WAL needs 3 bytes, 2 are left"), "{short}");
    let long = refused(V3, &(head("0000000000002000", "0000000000002001") + "aabb"));
    assert!(long.contains("1 bytes left over"), "{long}");
}

#[test]
fn contradictions_are_refused() {
    let tail = "000249f4 0102030405060708 01000000";
    let twice = "00000001 00000002 0000000000000001 00 0000 0000000000000001 00 0000 00000000";
    assert!(refused(V3, &format!("67 {IDS_TEXT} {twice} {tail}")).contains("twice"));
    let none = "00000000 00000000 00000000";
    let odd_size = "000249f4 0102030405060708 01000001";
    assert!(refused(V3, &format!("67 {IDS_TEXT} {none} {odd_size}")).contains("segment size"));
    let falling = "65 00000001 0000000000000005 0000000000001800 00000002
                   0000000000000005 0000000000001000 0000000000000005 0000000000002000";
    assert!(refused(V3, falling).contains("terms must rise"));
    assert!(refused(V3, "7a").contains("unknown tag"));
    assert!(refused(V2, "7600000000000001 00").contains("unknown tag"));
    assert!(refused(V3, "").contains("tag"));
    let third = "6700000000000000 03000000";
    assert!(refused(V2, third).contains("protocol_version is 3"));
    let vote = "76 00000000 0000000000000006 02 0000000000002000 0000000000001000 00000000";
    assert!(AcceptorMessage::decode(V3, hex(vote)).is_err(), "a vote is given or not");
}

proptest! {
    #[test]
    fn messages_survive(p2 in proposer(V2), p3 in proposer(V3), a2 in acceptor(V2), a3 in acceptor(V3)) {
        prop_assert_eq!(ProposerMessage::decode(V2, p2.encode(V2)), Ok(p2));
        prop_assert_eq!(ProposerMessage::decode(V3, p3.encode(V3)), Ok(p3));
        prop_assert_eq!(AcceptorMessage::decode(V2, a2.encode(V2)), Ok(a2));
        prop_assert_eq!(AcceptorMessage::decode(V3, a3.encode(V3)), Ok(a3));
    }

    /// Random bytes seldom get past the tag, so valid messages are damaged too.
    #[test]
    fn arbitrary_bytes_never_panic(
        bytes in payload(300), p2 in proposer(V2), p3 in proposer(V3), a3 in acceptor(V3),
        at in any::<usize>(), xor in 1u8..,
    ) {
        let damaged = [p2.encode(V2), p3.encode(V3), a3.encode(V3)].map(|m| {
            let mut m = m.to_vec();
            let at = at % m.len();
            m[at] ^= xor;
            Bytes::from(m)
        });
        for bytes in damaged.into_iter().chain([bytes]) {
            for version in [V2, V3] {
                let _ = ProposerMessage::decode(version, bytes.clone());
                let _ = AcceptorMessage::decode(version, bytes.clone());
            }
        }
    }

    /// A message that lost its end is an error, never another message.
    #[test]
    fn cut_messages_are_refused(p3 in proposer(V3), p2 in proposer(V2), by in 1usize..9) {
        for (version, bytes) in [(V3, p3.encode(V3)), (V2, p2.encode(V2))] {
            let cut = bytes.slice(..bytes.len().saturating_sub(by));
            prop_assert!(ProposerMessage::decode(version, cut).is_err());
        }
    }
}
