//! Who may push: token, nonce, takeover; and what is said to everybody else.

use libpq::NetError;
use proto::api::PageserverTimelineState;
use proto::id::NodeId;
use proto::pg::sqlstate;

use super::fabric::*;

fn code(e: NetError) -> String {
    e.server_error().unwrap_or_else(|| panic!("no SQLSTATE in {e}")).code.clone()
}

#[tokio::test]
async fn only_the_pusher_of_the_last_choice_is_let_in() {
    let f = Fabric::start().await;
    let sk = f.safekeeper(1, START);
    let (choice, token) = sk.choice_after(0).await;
    assert_eq!(choice.reason, "no_existing_connection");
    assert_eq!(choice.start_lsn_hint, Some(START));
    let pg = choice.pageserver_pg.clone();
    let refused = async |sk, token, nonce: &str| {
        code(Pusher::open_as(&pg, NodeId(sk), token, nonce).await.err().expect("refused"))
    };
    let zeros = "0".repeat(32);
    assert_eq!(refused(1, token, &zeros).await, sqlstate::STALE_CHOICE);
    assert_eq!(refused(1, token, "").await, sqlstate::STALE_CHOICE);
    assert_eq!(refused(2, token, &choice.nonce).await, sqlstate::STALE_CHOICE);
    // Neither older nor newer ones: tokens have no order.
    assert_eq!(refused(1, token - 1, &choice.nonce).await, sqlstate::STALE_CHOICE);
    assert_eq!(refused(1, token + 1, &choice.nonce).await, sqlstate::STALE_CHOICE);
    assert_eq!(refused(1, u64::MAX, &choice.nonce).await, sqlstate::STALE_CHOICE);
    // Those took their time; the choice may have been made anew meanwhile.
    let (_pusher, _) = eventually("the pusher is let in", || async {
        let (choice, token) = sk.choice_after(0).await;
        Pusher::open(&choice, token).await.ok().map(|p| (p, choice))
    })
    .await;
    assert_eq!(f.ps.until("pushed", |s| s.state == PageserverTimelineState::Pushed).await.last_record_lsn, Some(START));
    let (_, metrics) = f.ps.get("/metrics").await;
    let metrics = String::from_utf8(metrics.to_vec()).expect("text");
    let stale =
        metrics.lines().find_map(|l| l.strip_prefix(r#"walfabric_pageserver_push_handshakes_total{outcome="stale"} "#));
    assert!(stale.and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n >= 6), "{metrics}");
    f.ps.stop().await;
}

#[tokio::test]
async fn every_other_request_gets_a_clear_error() {
    let f = Fabric::start().await;
    let pg = f.ps.pg.to_string();
    let unknown = vec![("tenant_id".into(), "0".repeat(32)), ("timeline_id".into(), "0".repeat(32))];
    let bad_id = vec![("tenant_id".into(), "xyz".to_owned()), ("timeline_id".into(), "0".repeat(32))];
    let push = command(NodeId(1), 1, "00");
    let version = push.replace("proto_version '1'", "proto_version '9'");
    let cases = [
        (options(), "BASE_BACKUP", sqlstate::FEATURE_NOT_SUPPORTED),
        (options(), "IDENTIFY_SYSTEM", sqlstate::CANNOT_CONNECT_NOW),
        (options(), "START_REPLICATION PHYSICAL 0/0", sqlstate::FEATURE_NOT_SUPPORTED),
        (options(), "START_WAL_PUSH (proto_version '3')", sqlstate::FEATURE_NOT_SUPPORTED),
        (options(), "SHOW nonsense", sqlstate::UNDEFINED_OBJECT),
        (options(), "START_PUSH_REPLICATION nonsense", sqlstate::SYNTAX_ERROR),
        (options(), version.as_str(), sqlstate::FEATURE_NOT_SUPPORTED),
        (unknown, push.as_str(), sqlstate::TIMELINE_NOT_FOUND),
        (bad_id, push.as_str(), sqlstate::INVALID_PARAMETER_VALUE),
        (Vec::new(), push.as_str(), sqlstate::INVALID_PARAMETER_VALUE),
    ];
    for (options, query, expected) in cases {
        let mut session = dial(&pg, options).await;
        let error = session.simple_query(query).await.expect_err(query);
        assert_eq!(code(error), expected, "{query}");
        let version = session.simple_query("SHOW VERSION").await.expect("the session is usable again");
        assert!(version[0].rows[0][0].as_deref().is_some_and(|v| v.contains("pageserver")));
    }
    f.ps.stop().await;
}

#[tokio::test]
async fn the_same_choice_dialled_again_takes_over() {
    let f = Fabric::start().await;
    let sk = f.safekeeper(1, START);
    let (choice, token) = sk.choice_after(0).await;
    let mut first = Pusher::open(&choice, token).await.expect("accepted");
    let mut b = builder();
    b.noop(5000);
    let (at, wal) = b.take();
    first.wal(at, wal).await;
    // Its answer is not read: a stuck socket of the same safekeeper.
    let mut second = Pusher::open(&choice, token).await.expect("takes over");
    assert_eq!(first.end().await.expect("told why").code, sqlstate::PREEMPTED);
    let end = b.position();
    assert!(second.start == START || second.start == end, "{}", second.start);
    if second.start == START {
        let mut again = builder();
        again.noop(5000);
        let (at, wal) = again.take();
        second.wal(at, wal).await;
    }
    b.noop(100);
    let (at, wal) = b.take();
    second.wal(at, wal).await;
    second.until_durable(b.position()).await;
    let status = f.ps.status().await;
    assert_eq!((status.state, status.last_record_lsn), (PageserverTimelineState::Pushed, Some(b.position())));
    assert_eq!(status.choice.expect("a choice").choice_seq, choice.choice_seq, "no new choice was needed");
    f.ps.stop().await;
}

#[tokio::test]
async fn a_new_choice_ends_the_stream_before_and_makes_its_token_stale() {
    let f = Fabric::start().await;
    let one = f.safekeeper(1, START);
    let (choice, token) = one.choice_after(0).await;
    let first = Pusher::open(&choice, token).await.expect("accepted");
    let two = f.safekeeper(2, START);
    let path = format!("{}/choose", timeline_path());
    assert_eq!(f.ps.post(&path, &serde_json::json!({"safekeeper_id": 3})).await.0, 409, "no such candidate");
    eventually("two is a candidate", || async {
        (f.ps.post(&path, &serde_json::json!({"safekeeper_id": 2})).await.0 == 202).then_some(())
    })
    .await;
    let (second, new) = two.push_after(choice.choice_seq).await;
    assert_eq!((new.reason.as_str(), new.safekeeper_id), ("operator", NodeId(2)));
    assert_eq!(first.end().await.expect("told why").code, sqlstate::PREEMPTED);
    assert_eq!(code(Pusher::open(&choice, token).await.err().expect("refused")), sqlstate::STALE_CHOICE);
    let old_key = one.broker.keys().choice(NodeId(1), ttid(), NodeId(1));
    assert!(one.broker.get(&old_key).await.expect("answers").is_none(), "one choice at a time");
    assert_eq!(second.start, START);
    f.ps.stop().await;
}

#[tokio::test]
async fn what_an_earlier_life_left_on_the_broker_goes_with_the_first_choice() {
    let f = Fabric::start().await;
    let broker = f.broker.client();
    let left = broker.keys().choice(NodeId(2), ttid(), NodeId(1));
    broker.put(&left, b"{}".to_vec()).await.expect("put");
    // Two lives but holds no committed WAL yet: it would go on dialling for the old choice.
    let _two = f.safekeeper(2, pgformat::Lsn::new(0));
    eventually("two is seen", || async {
        let (_, rows) = f.ps.get("/v1/show/safekeepers").await;
        String::from_utf8_lossy(&rows).contains(r#""id":"2""#).then_some(())
    })
    .await;
    let one = f.safekeeper(1, START);
    one.choice_after(0).await;
    assert!(broker.get(&left).await.expect("answers").is_none());
    f.ps.stop().await;
}
