//! Bad input: each case gets a clear error with SQLSTATE, changes nothing on disk, and leaves the process alive.

use crate::common::{Log, NODE, Node, PUSH, Proposer, Refused, SYSTEM, mconf, soon, ttid, until};
use bytes::{BufMut, Bytes, BytesMut};
use libpq::NetError;
use pgformat::wal::synthetic_prehistory;
use pgformat::{Lsn, SegSize};
use proto::api::CreateTimelineRequest;
use proto::consensus::{AppendRequest, ProposerElected, ProposerMessage, TermHistory, TermLsn, VoteRequest};
use proto::id::{Generation, PrimaryEpoch, SystemId, TenantId, Term, TimelineId};
use proto::pg::{SqlError, sqlstate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn server_error(e: NetError) -> SqlError {
    match e {
        NetError::Server { error, .. } => *error,
        other => panic!("expected an error from the server: {other}"),
    }
}

/// Goal: commands that cannot be obeyed are answered in words, and the session stays usable.
#[tokio::test]
async fn commands_that_cannot_be_obeyed() {
    let (node, log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    // The count of starts becomes durable a moment after the timeline can be asked.
    let started = async || Some(node.status(ttid(1)).await).filter(|s| s.starts > 0);
    let before = until("the start is counted", started).await;
    let mut here = node.dial(ttid(1), "test").await;
    let ahead = Lsn::new(log.start.get() + (1 << 30));
    let cases = [
        ("SELECT 1", sqlstate::SYNTAX_ERROR, "unknown command"),
        ("CREATE_REPLICATION_SLOT \"s\" PHYSICAL", sqlstate::FEATURE_NOT_SUPPORTED, "slots"),
        ("START_REPLICATION SLOT \"s\" 0/302100", sqlstate::FEATURE_NOT_SUPPORTED, "slots"),
        ("START_REPLICATION nonsense", sqlstate::INVALID_PARAMETER_VALUE, "LSN"),
        ("START_REPLICATION 0/302100 TIMELINE 7", sqlstate::INVALID_PARAMETER_VALUE, "tli 7"),
        ("START_REPLICATION 0/100000", sqlstate::UNDEFINED_FILE, "0/100000"),
        (&format!("START_REPLICATION {ahead}"), sqlstate::LSN_OUT_OF_RANGE, "ahead"),
        ("START_WAL_PUSH (proto_version '9')", sqlstate::INVALID_PARAMETER_VALUE, "proto_version"),
        ("START_WAL_PUSH (proto_version '3'", sqlstate::SYNTAX_ERROR, ""),
        (
            "START_PUSH_REPLICATION (proto_version '1', sk_id '1', choice '1', nonce '00')",
            sqlstate::FEATURE_NOT_SUPPORTED,
            "",
        ),
        ("TIMELINE_HISTORY 1", sqlstate::UNDEFINED_FILE, "00000001.history"),
        ("SHOW nonsense", sqlstate::UNDEFINED_OBJECT, "nonsense"),
    ];
    for (command, code, text) in cases {
        let e = soon(command, here.simple_query(command)).await.expect_err(command);
        let e = server_error(e);
        assert_eq!(e.code, code, "{command}: {e}");
        assert!(e.message.contains(text), "{command}: {e}");
    }
    let rows = here.simple_query("SHOW TIMELINES").await.expect("the session is usable");
    assert_eq!(rows[0].rows.len(), 1);
    assert_eq!(node.status(ttid(1)).await, before, "nothing changed");
}

/// Goal: without the ids, or with ids of something that is not here, everything says so.
#[tokio::test]
async fn missing_and_wrong_ids() {
    let (node, log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    let id = "0123456789abcdef0123456789abcdef";
    let cases = [
        (vec![], "tenant_id"),
        (vec![pair("tenant_id", id)], "timeline_id"),
        (vec![pair("tenant_id", "xyz"), pair("timeline_id", id)], "tenant_id"),
        (vec![pair("tenant_id", id), pair("timeline_id", "0123")], "timeline_id"),
    ];
    for (options, named) in cases {
        let mut c = node.dial_with(options, "test").await;
        for command in ["IDENTIFY_SYSTEM", "TIMELINE_STATUS", "START_REPLICATION 0/0", PUSH, "SHOW wal_segment_size"] {
            let e = server_error(c.simple_query(command).await.expect_err(command));
            assert_eq!(e.code, sqlstate::INVALID_PARAMETER_VALUE, "{command}: {e}");
            assert!(
                e.message.contains(named) && (e.hint.is_some() || e.message.contains("digits")),
                "{command}: {e:?}"
            );
        }
        c.simple_query("SHOW VERSION").await.expect("what needs no timeline works");
    }
    let mut c = node.dial(ttid(9), "test").await;
    for command in ["IDENTIFY_SYSTEM", "START_REPLICATION 0/0", PUSH, "START_WAL_PUSH", "SHOW wal_segment_size"] {
        let e = server_error(c.simple_query(command).await.expect_err(command));
        assert_eq!(e.code, sqlstate::TIMELINE_NOT_FOUND, "{command}: {e}");
        assert!(e.message.contains("does not exist") && e.hint.is_some(), "{command}: {e:?}");
    }
    let rows = c.simple_query("TIMELINE_STATUS").await.expect("no rows, as the existing protocol has it");
    assert!(rows[0].rows.is_empty());
    assert_eq!(node.get("/v1/tenant/timeline").await.1.matches("timeline_id").count(), 1, "nothing was created");
}

/// What a hostile or broken proposer may do in the greeting.
#[tokio::test]
async fn greetings_of_somebody_else() {
    let (node, log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    let before = node.status(ttid(1)).await;
    type Change = fn(&mut proto::consensus::ProposerGreeting);
    let cases: [(&str, Change); 5] = [
        ("system id", |g| g.system_id = SystemId(SYSTEM.0 + 1)),
        ("segment size", |g| g.seg_size = SegSize::DEFAULT),
        ("version", |g| g.pg_version_num = 160_001),
        ("timeline", |g| g.ttid = ttid(2)),
        ("generation", |g| g.mconf.generation = Generation(2)),
    ];
    for (what, change) in cases {
        let mut p = Proposer::connect(&node, ttid(1), PUSH).await.expect("a stream");
        let mut greeting = p.greeting(&log);
        change(&mut greeting);
        p.send(ProposerMessage::Greeting(greeting)).await;
        if what == "generation" {
            // A newer set that contains this node is learned from the greeting, but it must still be answered in words.
            continue;
        }
        let e = p.refusal().await;
        assert_eq!(e.code.len(), 5, "{what}: {e}");
        assert_ne!(e.code, sqlstate::INTERNAL_ERROR, "{what}: {e}");
    }
    let now = node.status(ttid(1)).await;
    assert_eq!((now.flush_lsn, now.term, now.system_id), (before.flush_lsn, before.term, before.system_id));
}

/// Goal: on a vanilla timeline nobody votes for a proposer that does not name its primary's epoch, or an old one.
#[tokio::test]
async fn proposers_without_an_epoch() {
    let (node, log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    for command in [
        "START_WAL_PUSH",
        "START_WAL_PUSH (proto_version '3')",
        "START_WAL_PUSH (proto_version '3', primary_epoch '0')",
    ] {
        let refused = match Proposer::connect(&node, ttid(1), command).await {
            Err(e) => server_error(e),
            Ok(mut p) => {
                p.send(ProposerMessage::Greeting(p.greeting(&log))).await;
                p.send(ProposerMessage::VoteRequest(VoteRequest { generation: Generation::FIRST, term: Term(9) }))
                    .await;
                p.refusal().await
            }
        };
        assert!(refused.message.contains("primary_epoch"), "{command}: {refused}");
    }
    assert_eq!(node.status(ttid(1)).await.term, Term::ZERO, "nobody voted");
}

/// Goal: appends that do not continue the log, or are no WAL, are refused before anything of them counts.
#[tokio::test]
async fn appends_that_do_not_fit() {
    let (node, mut log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    let end = log.grow(100_000);
    let mut term = 1;
    Proposer::elected(&node, ttid(1), term, &log).await.push(&log, log.start, None).await;
    let good = node.status(ttid(1)).await;
    log.grow(20_000);
    let next = log.slice(end, log.end());
    let mut flipped = next.to_vec();
    flipped[40] ^= 1;
    // A record that is whole in itself and links to another place.
    let mut other = Log::new();
    other.grow(64);
    let stranger = other.slice(other.start, other.end());
    type Make = Box<dyn Fn(&Proposer) -> AppendRequest>;
    let wal = |at: Lsn, bytes: Bytes| -> Make { Box::new(move |p| p.append_request(at, bytes.clone(), None)) };
    let cases: Vec<(&str, Make)> = vec![
        ("gap", wal(end.add(8192), next.clone())),
        ("rewrite", wal(log.start, log.slice(log.start, end.min(log.start.add(8192))))),
        ("broken CRC", wal(end, Bytes::from(flipped))),
        ("broken prev link", wal(end, stranger)),
        ("zeros", wal(end, Bytes::from(vec![0x55; 8192]))),
        (
            "positions",
            Box::new(move |p| AppendRequest { end_lsn: end.add(100_000), ..p.append_request(end, Bytes::new(), None) }),
        ),
    ];
    for (what, make) in cases {
        term += 1;
        let mut p = Proposer::elected(&node, ttid(1), term, &log).await;
        let request = make(&p);
        p.send(ProposerMessage::Append(request)).await;
        let e = p.refusal().await;
        assert_ne!(e.code, sqlstate::INTERNAL_ERROR, "{what}: {e}");
        let now = node.status(ttid(1)).await;
        assert_eq!((now.flush_lsn, now.stopped), (good.flush_lsn, None), "{what}: nothing of it counts");
    }
    // The log goes on where it was.
    let mut p = Proposer::elected(&node, ttid(1), term + 1, &log).await;
    p.push(&log, end, None).await;
}

/// Goal: messages out of order, of an old term, or of an election that never was.
#[tokio::test]
async fn wrong_terms_and_orders() {
    let (node, mut log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    let mut p = Proposer::elected(&node, ttid(1), 5, &log).await;
    let end = log.grow(10_000);
    p.push(&log, log.start, None).await;

    let mut old = Proposer::connect(&node, ttid(1), PUSH).await.expect("a stream");
    old.greet(&log).await;
    let vote = old.vote(4).await;
    assert!(!vote.vote_given && vote.term == Term(5), "a refusal is an answer: {vote:?}");
    old.term = Term(4);
    old.send(ProposerMessage::Append(old.append_request(end, Bytes::new(), None))).await;
    let deposed = old.response().await;
    assert_eq!((deposed.term, deposed.flush_lsn), (Term(5), None), "deposed, told by the term");

    let mut early = Proposer::connect(&node, ttid(1), PUSH).await.expect("a stream");
    early.send(ProposerMessage::VoteRequest(VoteRequest { generation: Generation::FIRST, term: Term(9) })).await;
    assert_eq!(early.refusal().await.code, sqlstate::PROTOCOL_VIOLATION);

    let mut never = Proposer::connect(&node, ttid(1), PUSH).await.expect("a stream");
    never.greet(&log).await;
    never.term = Term(8);
    never.send(ProposerMessage::Append(never.append_request(end, Bytes::new(), None))).await;
    never.refusal().await;

    let mut foreign = Proposer::connect(&node, ttid(1), PUSH).await.expect("a stream");
    foreign.greet(&log).await;
    assert!(foreign.vote(10).await.vote_given);
    let history = TermHistory::new(vec![
        TermLsn { term: Term(3), lsn: Lsn::new(0x30_0028) },
        TermLsn { term: Term(10), lsn: end },
    ]);
    let history = history.expect("ascending");
    foreign
        .send(ProposerMessage::Elected(ProposerElected {
            generation: Generation::FIRST,
            term: Term(10),
            start_streaming_at: end,
            history,
        }))
        .await;
    foreign.refusal().await;
    let now = node.status(ttid(1)).await;
    assert_eq!((now.flush_lsn, now.last_log_term), (Some(end), Term(5)));
}

/// Goal: bytes that are no message, frames that are too long, and sockets full of noise.
#[tokio::test]
async fn garbage() {
    let (node, log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    for noise in [&b""[..], b"x", b"g\0", &[0xFF; 64], b"a\0\0\0\0"] {
        let mut p = Proposer::connect(&node, ttid(1), PUSH).await.expect("a stream");
        p.send_raw(Bytes::copy_from_slice(noise)).await;
        assert_eq!(p.refusal().await.code, sqlstate::PROTOCOL_VIOLATION, "{noise:?}");
    }
    let (mut reader, mut writer) =
        node.dial(ttid(1), "reader").await.copy_both("START_REPLICATION 0/302100").await.expect("a stream");
    writer.queue(b"nonsense", Bytes::new());
    writer.flush().await.expect("sent");
    loop {
        match soon("an error", reader.next()).await.expect("told before it is closed") {
            libpq::CopyEvent::Data(_) => {}
            libpq::CopyEvent::Error(e) => {
                assert_eq!(e.code, sqlstate::PROTOCOL_VIOLATION, "{e}");
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    for first in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 8], &[0xFF; 100], b"\0\0\0\x08\0\x02\0\0"] {
        let mut socket = TcpStream::connect(node.pg).await.expect("a connection");
        socket.write_all(first).await.expect("sent");
        let mut answer = Vec::new();
        // An ErrorResponse or nothing, then the end; never a hang.
        let _ = soon("the end", socket.read_to_end(&mut answer)).await;
        assert!(answer.is_empty() || answer[0] == b'E', "{answer:?}");
    }
    assert_eq!(node.get("/livez").await.0, 200);
    assert_eq!(node.get("/readyz").await.0, 200);
}

/// Goal: a frame that announces more than the limit is refused, not waited for.
#[tokio::test]
async fn oversized_frames() {
    let (node, log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    let mut socket = TcpStream::connect(node.pg).await.expect("a connection");
    let mut startup = BytesMut::new();
    let options = format!("-c tenant_id={} -c timeline_id={}", ttid(1).tenant_id, ttid(1).timeline_id);
    for text in ["user", "test", "options", options.as_str(), ""] {
        startup.put_slice(text.as_bytes());
        startup.put_u8(0);
    }
    socket.write_i32(i32::try_from(startup.len() + 8).expect("short")).await.expect("sent");
    socket.write_i32(3 << 16).await.expect("sent");
    socket.write_all(&startup).await.expect("sent");
    socket.write_all(b"Q").await.expect("sent");
    socket.write_i32(i32::try_from(PUSH.len() + 5).expect("short")).await.expect("sent");
    socket.write_all(PUSH.as_bytes()).await.expect("sent");
    socket.write_all(b"\0d\x7F\xFF\xFF\xFF").await.expect("sent");
    let mut answer = Vec::new();
    soon("the end", socket.read_to_end(&mut answer)).await.expect("closed in order");
    let text = String::from_utf8_lossy(&answer);
    assert!(text.contains("C08P01"), "{text:?}");
}

/// Goal: of two proposers of one term only one writes, and it is said to the other.
#[tokio::test]
async fn a_second_proposer() {
    let (node, mut log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    let first = Proposer::elected(&node, ttid(1), 1, &log).await;
    let mut second = Proposer::elected(&node, ttid(1), 2, &log).await;
    let end = log.grow(10_000);
    second.push(&log, log.start, None).await;
    let mut first = first;
    let wal = log.slice(log.start, end);
    first.send(ProposerMessage::Append(first.append_request(log.start, wal, None))).await;
    match first.recv().await {
        Ok(proto::consensus::AcceptorMessage::Append(a)) => assert_eq!(a.term, Term(2), "deposed"),
        Err(Refused::Error(_)) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(node.status(ttid(1)).await.flush_lsn, Some(end));
}

/// Goal: nobody becomes a member of a set that this node is not in, over HTTP either.
#[tokio::test]
async fn creations_that_contradict_themselves() {
    let (node, log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    let (code, _) = node.post(log.creation(ttid(1))).await;
    assert_eq!(code, 200, "repeated, unchanged");
    let mut stranger = Log::new();
    stranger.cfg.system_id = Some(1);
    let foreign = synthetic_prehistory(&stranger.cfg, stranger.start).expect("a boundary");
    let asked = CreateTimelineRequest { system_id: SystemId(1), ..log.request(ttid(1)) };
    let same = &log.prehistory[..];
    for (field, body) in [
        ("system", crate::common::body(&asked, &foreign)),
        (
            "epoch",
            crate::common::body(
                &CreateTimelineRequest { primary_epoch: PrimaryEpoch(2), ..log.request(ttid(1)) },
                same,
            ),
        ),
    ] {
        let (code, text) = node.post(body).await;
        assert!(code == 409 && text.contains("hint"), "{field}: {code} {text}");
    }
    let new = |change: &dyn Fn(&mut CreateTimelineRequest)| {
        let mut request = log.request(ttid(2));
        change(&mut request);
        crate::common::body(&request, &log.prehistory)
    };
    let mut broken = log.prehistory.to_vec();
    broken[0] ^= 1;
    let not_a_member = |r: &mut CreateTimelineRequest| r.mconf.members[0].id.0 = NODE.0 + 1;
    let cases = [
        ("garbage", b"garbage".to_vec()),
        ("tenant_id", new(&|r| r.tenant_id = TenantId::new([0; 16]))),
        ("timeline_id", new(&|r| r.timeline_id = TimelineId::new([0; 16]))),
        ("host", new(&|r| r.mconf.members[0].host.clear())),
        ("host", new(&|r| r.mconf.members[0].host = "a\0b".to_owned())),
        ("pg_port", new(&|r| r.mconf.members[0].pg_port = 0)),
        ("not a member", new(&not_a_member)),
        ("start_lsn", new(&|r| r.start_lsn = Lsn::new(0x30_2101))),
        ("prehistory_len", new(&|r| r.prehistory_len -= 8)),
        ("pg_history", new(&|r| r.pg_history.clear())),
        ("version", new(&|r| r.pg_version_num = 90_000)),
        ("generation", new(&|r| r.mconf.generation = Generation::NONE)),
        ("prehistory", crate::common::body(&log.request(ttid(2)), &broken)),
    ];
    for (what, body) in cases {
        let (code, text) = node.post(body).await;
        assert_eq!(code, 400, "{what}: {text}");
        assert!(text.contains("\"error\""), "{what}: {text}");
    }
    assert_eq!(node.get("/v1/tenant/timeline").await.1.matches("\"tenant_id\"").count(), 1, "nothing was created");
    assert_eq!(mconf().members.len(), 1);
}
