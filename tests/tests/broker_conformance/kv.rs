//! Keys, transactions and leases, by direct requests to the broker.

use std::time::Duration;

use broker::BrokerError;
use etcd_client::{
    Compare, CompareOp, DeleteOptions, Error, GetOptions, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions,
    SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse,
};
use tests::wait;

use crate::server::{Kind, PATIENCE, Server};

/// gRPC codes that matter here.
pub(crate) const INVALID_ARGUMENT: i32 = 3;
const NOT_FOUND: i32 = 5;
const FAILED_PRECONDITION: i32 = 9;
const OUT_OF_RANGE: i32 = 11;

pub(crate) fn code(error: &Error) -> i32 {
    match error {
        Error::GRpcStatus(status) => status.code() as i32,
        other => panic!("not an answer of the broker: {other}"),
    }
}

pub(crate) async fn keys_are_put_read_and_deleted(kind: Kind) {
    let server = Server::start(kind).await;
    let mut client = server.client().await;
    let empty = client.get("a", None).await.expect("get").header().expect("header").revision();
    assert_eq!(empty, 1, "an empty store is at revision 1");
    let put = client.put("a", "1", None).await.expect("put");
    assert_eq!(put.header().expect("header").revision(), 2);
    let put = client.put("a", "2", Some(PutOptions::new().with_prev_key())).await.expect("put");
    assert_eq!(put.prev_key().expect("previous").value(), b"1");
    let got = client.get("a", None).await.expect("get");
    let kv = &got.kvs()[0];
    assert_eq!((kv.value(), kv.create_revision(), kv.mod_revision(), kv.version()), (&b"2"[..], 2, 3, 2));
    for key in ["p/1", "p/2", "p/3", "p0", "q"] {
        client.put(key, key, None).await.expect("put");
    }
    let prefix = client.get("p/", Some(GetOptions::new().with_prefix())).await.expect("get");
    assert_eq!(prefix.kvs().iter().map(|kv| kv.key()).collect::<Vec<_>>(), [b"p/1", b"p/2", b"p/3"]);
    let limited = client.get("p/", Some(GetOptions::new().with_prefix().with_limit(2).with_serializable())).await;
    let limited = limited.expect("get");
    assert_eq!((limited.kvs().len(), limited.more(), limited.count()), (2, true, 3));
    let counted = client.get("p/", Some(GetOptions::new().with_prefix().with_count_only())).await.expect("get");
    assert_eq!((counted.kvs().len(), counted.count()), (0, 3));
    let last = GetOptions::new().with_all_keys().with_keys_only().with_sort(SortTarget::Mod, SortOrder::Descend);
    let last = client.get("", Some(last.with_limit(1))).await.expect("get");
    assert_eq!((last.kvs()[0].key(), last.kvs()[0].value()), (&b"q"[..], &b""[..]));
    let deleted = client.delete("p/", Some(DeleteOptions::new().with_prefix().with_prev_key())).await.expect("delete");
    assert_eq!((deleted.deleted(), deleted.prev_kvs().len()), (3, 3));
    let before = deleted.header().expect("header").revision();
    let nothing = client.delete("p/", Some(DeleteOptions::new().with_prefix())).await.expect("delete");
    assert_eq!((nothing.deleted(), nothing.header().expect("header").revision()), (0, before));
    client.put("a", "3", None).await.expect("put");
    client.delete("a", None).await.expect("delete");
    client.put("a", "4", None).await.expect("put");
    let kv = client.get("a", None).await.expect("get").take_kvs().remove(0);
    assert_eq!((kv.version(), kv.create_revision()), (1, kv.mod_revision()), "a new life starts at version 1");
    let empty_key = client.put("", "x", None).await.expect_err("an empty key");
    assert_eq!(code(&empty_key), INVALID_ARGUMENT);
}

pub(crate) async fn compare_and_swap(kind: Kind) {
    let server = Server::start(kind).await;
    let broker = server.broker();
    let created = broker.create("k", b"1".to_vec()).await.expect("create").expect("it was not there");
    let there = broker.create("k", b"2".to_vec()).await.expect("create").expect_err("it is there");
    assert_eq!((there.value.as_slice(), there.mod_revision), (&b"1"[..], created));
    let swapped =
        broker.compare_and_put("k", Some(created), b"3".to_vec()).await.expect("swap").expect("right revision");
    let stale = broker.compare_and_put("k", Some(created), b"4".to_vec()).await.expect("swap").expect_err("stale");
    assert_eq!(stale.expect("entry").mod_revision, swapped);
    let missing = broker.compare_and_put("m", Some(7), b"4".to_vec()).await.expect("swap").expect_err("not there");
    assert_eq!(missing, None);
    let rivals = (0..8).map(|rival| {
        let broker = broker.clone();
        async move { broker.create("rivals", vec![rival]).await.expect("create").is_ok() }
    });
    let won = futures::future::join_all(rivals).await.into_iter().filter(|won| *won).count();
    assert_eq!(won, 1);

    let mut client = server.client().await;
    let compares = [
        Compare::value("k", CompareOp::Equal, "3"),
        Compare::version("k", CompareOp::Greater, 1),
        Compare::create_revision("k", CompareOp::Less, swapped),
        Compare::mod_revision("k", CompareOp::NotEqual, created),
        Compare::lease("k", CompareOp::Equal, 0),
        Compare::create_revision("nobody", CompareOp::Equal, 0),
        Compare::version("k", CompareOp::Greater, 0).with_prefix(),
    ];
    for compare in compares {
        let answer = client.txn(Txn::new().when([compare.clone()])).await.expect("txn");
        assert!(answer.succeeded(), "{compare:?}");
    }
    let no_value =
        client.txn(Txn::new().when([Compare::value("nobody", CompareOp::NotEqual, "x")])).await.expect("txn");
    assert!(!no_value.succeeded(), "a key that is not there has no value to compare");
    let inner = Txn::new().when([Compare::version("k", CompareOp::Equal, 0)]).or_else([TxnOp::put("inner", "1", None)]);
    let outer = Txn::new().and_then([TxnOp::put("outer", "1", None), TxnOp::txn(inner), TxnOp::get("outer", None)]);
    let answer = client.txn(outer).await.expect("txn");
    let TxnOpResponse::Get(seen) = answer.op_responses().remove(2) else { panic!("the third answer is a read") };
    assert_eq!(seen.kvs()[0].mod_revision(), answer.header().expect("header").revision(), "it sees its own write");
    let inner = broker.get("inner").await.expect("get").expect("the inner transaction ran");
    assert_eq!(inner.mod_revision, seen.kvs()[0].mod_revision(), "one revision for all");
}

pub(crate) async fn a_key_is_written_once_per_transaction(kind: Kind) {
    let server = Server::start(kind).await;
    let mut client = server.client().await;
    client.put("k", "old", None).await.expect("put");
    let prefix = || Some(DeleteOptions::new().with_prefix());
    let inner = Txn::new().and_then([TxnOp::put("k", "2", None)]);
    let twice = [
        vec![TxnOp::put("k", "1", None), TxnOp::put("k", "2", None)],
        vec![TxnOp::delete("k", None), TxnOp::put("k", "2", None)],
        vec![TxnOp::put("k", "2", None), TxnOp::delete("k", None)],
        vec![TxnOp::delete("ot", prefix()), TxnOp::put("other", "2", None)],
        vec![TxnOp::put("k", "1", None), TxnOp::txn(inner)],
    ];
    for ops in twice {
        let refused = client.txn(Txn::new().and_then(ops.clone())).await;
        let error = refused.expect_err("a key twice in one transaction");
        assert_eq!(code(&error), INVALID_ARGUMENT, "{ops:?}");
    }
    let got = client.get("k", None).await.expect("get");
    assert_eq!((got.kvs()[0].value(), got.header().expect("header").revision()), (&b"old"[..], 2), "nothing was done");
    let branches = Txn::new()
        .when([Compare::version("k", CompareOp::Equal, 1)])
        .and_then([TxnOp::put("k", "yes", None)])
        .or_else([TxnOp::delete("k", None)]);
    assert!(client.txn(branches).await.expect("each branch alone is fine").succeeded());
    let many: Vec<TxnOp> = (0..129).map(|n| TxnOp::put(format!("many/{n}"), "x", None)).collect();
    let error = client.txn(Txn::new().and_then(many)).await.expect_err("too many operations");
    assert_eq!(code(&error), INVALID_ARGUMENT);
}

pub(crate) async fn only_present_revisions_are_read(kind: Kind) {
    let server = Server::start(kind).await;
    let mut client = server.client().await;
    client.put("k", "1", None).await.expect("put");
    let now = client.get("k", Some(GetOptions::new().with_revision(2))).await.expect("the current revision");
    assert_eq!(now.kvs()[0].value(), b"1");
    let future = client.get("k", Some(GetOptions::new().with_revision(9))).await.expect_err("a future revision");
    assert_eq!(code(&future), OUT_OF_RANGE);
    client.put("k", "2", None).await.expect("put");
    client.compact(3, None).await.expect("compact");
    let past = client.get("k", Some(GetOptions::new().with_revision(2))).await.expect_err("a compacted revision");
    assert_eq!(code(&past), OUT_OF_RANGE);
    assert_eq!(code(&client.compact(3, None).await.expect_err("again")), OUT_OF_RANGE);
    assert_eq!(code(&client.compact(99, None).await.expect_err("future")), OUT_OF_RANGE);
}

pub(crate) async fn an_ended_lease_takes_its_keys_along(kind: Kind) {
    let server = Server::start(kind).await;
    let mut client = server.client().await;
    let lease = client.lease_grant(2, None).await.expect("grant").id();
    let options = || Some(PutOptions::new().with_lease(lease));
    client.put("l/1", "x", options()).await.expect("put");
    client.put("l/2", "x", options()).await.expect("put");
    client.put("l/free", "x", None).await.expect("put");
    let before = client.get("l/", Some(GetOptions::new().with_prefix())).await.expect("get");
    assert_eq!((before.kvs().len(), before.kvs()[0].lease()), (3, lease));
    let revision = before.header().expect("header").revision();
    let left = wait::until("the lease's end", PATIENCE, async || {
        let now = client.get("l/", Some(GetOptions::new().with_prefix())).await.expect("get");
        (now.kvs().len() < 3).then_some(now)
    });
    let left = left.await;
    assert_eq!(left.kvs().len(), 1, "all keys of a lease go at once");
    assert_eq!((left.kvs()[0].key(), left.header().expect("header").revision()), (&b"l/free"[..], revision + 1));
    let gone = client.lease_time_to_live(lease, None).await.expect("time to live");
    assert_eq!(gone.ttl(), -1);
    let put = client.put("l/1", "x", options()).await.expect_err("a put under an ended lease");
    assert_eq!(code(&put), NOT_FOUND);
    assert_eq!(code(&client.lease_revoke(lease).await.expect_err("revoke")), NOT_FOUND);
    assert!(client.lease_keep_alive(lease).await.is_err(), "an ended lease is not kept alive");
}

pub(crate) async fn a_lease_moves_on_re_put(kind: Kind) {
    let server = Server::start(kind).await;
    let mut client = server.client().await;
    let first = client.lease_grant(600, None).await.expect("grant").id();
    let second = client.lease_grant(600, None).await.expect("grant").id();
    client.put("k", "1", Some(PutOptions::new().with_lease(first))).await.expect("put");
    client.put("k", "2", Some(PutOptions::new().with_lease(second))).await.expect("put");
    client.put("free", "1", Some(PutOptions::new().with_lease(second))).await.expect("put");
    client.put("free", "2", None).await.expect("put");
    let keys = client.lease_time_to_live(second, Some(LeaseTimeToLiveOptions::new().with_keys())).await.expect("ttl");
    assert_eq!(keys.keys(), [b"k".to_vec()]);
    client.lease_revoke(first).await.expect("revoke");
    assert_eq!(client.get("k", None).await.expect("get").kvs().len(), 1, "it moved to the second lease");
    client.lease_revoke(second).await.expect("revoke");
    assert_eq!(client.get("k", None).await.expect("get").kvs().len(), 0);
    assert_eq!(client.get("free", None).await.expect("get").kvs().len(), 1, "it has no lease any more");
}

pub(crate) async fn a_kept_lease_has_its_full_time(kind: Kind) {
    let server = Server::start(kind).await;
    let mut client = server.client().await;
    let granted = client.lease_grant(30, Some(LeaseGrantOptions::new().with_id(77))).await.expect("grant");
    assert_eq!((granted.id(), granted.ttl()), (77, 30));
    let again = client.lease_grant(30, Some(LeaseGrantOptions::new().with_id(77))).await.expect_err("twice");
    assert_eq!(code(&again), FAILED_PRECONDITION);
    wait::until("some of the lease's time", PATIENCE, async || {
        let left = client.lease_time_to_live(77, None).await.expect("time to live");
        (left.ttl() <= 28).then_some(())
    })
    .await;
    let (mut keeper, mut stream) = client.lease_keep_alive(77).await.expect("keep alive");
    keeper.keep_alive().await.expect("keep alive");
    let kept = stream.message().await.expect("answer").expect("answer");
    assert_eq!((kept.ttl(), kept.id()), (30, 77));
    let left = client.lease_time_to_live(77, None).await.expect("time to live");
    assert!(left.ttl() >= 29 && left.granted_ttl() == 30, "{left:?}");
    let listed = client.leases().await.expect("leases");
    assert_eq!(listed.leases().iter().map(|lease| lease.id()).collect::<Vec<_>>(), [77]);
}

pub(crate) async fn a_killed_broker_forgets_nothing(kind: Kind) {
    let mut server = Server::start(kind).await;
    let (broker, mut client) = (server.broker(), server.client().await);
    let lease = client.lease_grant(600, None).await.expect("grant").id();
    client.put("leased", "x", Some(PutOptions::new().with_lease(lease))).await.expect("put");
    for n in 0..50 {
        broker.put(&format!("n/{n:02}"), vec![n]).await.expect("put");
    }
    broker.delete("n/49").await.expect("delete");
    let (before, revision) = broker.get_prefix("n/").await.expect("list");
    for _ in 0..2 {
        server.kill();
        let away = broker.get("n/00").await.expect_err("nobody is there");
        assert!(matches!(away, BrokerError::Unreachable { .. }), "{away}");
        server.restart().await;
        let back = wait::until("the client's recovery", PATIENCE, async || broker.get_prefix("n/").await.ok());
        assert_eq!(back.await, (before.clone(), revision));
    }
    let leased = client.get("leased", None).await.expect("get").take_kvs().remove(0);
    assert_eq!(leased.lease(), lease);
    assert!(client.lease_time_to_live(lease, None).await.expect("time to live").ttl() > 500);
    assert_eq!(broker.put("n/00", vec![0]).await.expect("put"), revision + 1);
}

pub(crate) async fn the_next_endpoint_is_used_when_one_is_away(kind: Kind) {
    let server = Server::start(kind).await;
    let urls = format!("http://127.0.0.1:{},{}", tests::process::free_port(), server.url());
    let broker = broker::Broker::new(&urls, "/conformance").expect("two endpoints");
    broker.put("k", b"1".to_vec()).await.expect("a put is sent to the endpoint that is there");
    assert!(broker.create("k", Vec::new()).await.expect("create").is_err());
    let nobody = broker::Broker::new("http://127.0.0.1:1", "/conformance").expect("one endpoint");
    let asked = std::time::Instant::now();
    let error = nobody.get("k").await.expect_err("nobody is there");
    assert!(matches!(&error, BrokerError::Unreachable { .. }) && error.to_string().contains("refused"), "{error}");
    assert!(asked.elapsed() < Duration::from_secs(3));
}
