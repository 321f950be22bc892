//! Refusals of a broker: the quota and its alarm, large requests, and, for the embedded one, requests of strangers.

use etcd_client::{
    AlarmAction, AlarmOptions, AlarmType, Client, CompactionOptions, DeleteOptions, Error, GetOptions, PutOptions, Txn,
    TxnOp, WatchOptions,
};
use tests::wait;

use crate::kv::{INVALID_ARGUMENT, code};
use crate::server::{Kind, PATIENCE, Server};

/// A gRPC code.
const RESOURCE_EXHAUSTED: i32 = 8;

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

const MIB: usize = 1 << 20;

fn is_full(error: &Error) -> bool {
    code(error) == RESOURCE_EXHAUSTED && error.to_string().contains(NO_SPACE)
}

/// The members that raised an alarm.
async fn alarms(client: &mut Client) -> Vec<u64> {
    let answer = client.alarm(AlarmAction::Get, AlarmType::None, None).await.expect("alarms");
    answer.alarms().iter().map(|alarm| alarm.member_id()).collect()
}

/// Goal: a broker that is full says so in etcd's words, goes on with everything that takes no space, and takes writes
/// again once space was made and the alarm disarmed. Method: values of 1 MiB until the quota of 8 MiB is reached; etcd
/// notices that some writes later.
pub(crate) async fn a_full_broker_takes_no_writes_until_it_is_disarmed(kind: Kind) {
    let server = Server::with_quota(kind, 8 << 20).await;
    let mut client = server.client().await;
    let lease = client.lease_grant(600, None).await.expect("grant").id();
    client.put("kept", "x", Some(PutOptions::new().with_lease(lease))).await.expect("put");
    let session = server.session(30);
    session.publish("node".to_owned(), b"1".to_vec());
    wait::until("a publication", PATIENCE, async || session.revision_of("node")).await;
    let mut refused = None;
    for n in 0..100 {
        if let Err(error) = client.put(format!("large/{n}"), vec![b'x'; MIB], None).await {
            refused = Some(error);
            break;
        }
    }
    let refused = refused.expect("100 values of 1 MiB do not fit into 8 MiB");
    assert!(is_full(&refused), "{refused}");
    let small = client.put("small", "x", None).await.expect_err("no write at all");
    assert!(is_full(&small), "{small}");
    let txn = Txn::new().and_then([TxnOp::put("small", "x", None)]);
    let txn = client.txn(txn).await.expect_err("no transaction that writes");
    assert!(is_full(&txn), "{txn}");
    let grant = client.lease_grant(600, None).await.expect_err("no lease");
    assert!(is_full(&grant), "{grant}");
    let raised = alarms(&mut client).await;
    assert_eq!(raised.len(), 1);
    assert!(server.broker().is_full().await.expect("an answer"));

    session.publish("node".to_owned(), b"2".to_vec());
    let told = wait::until("a node that cannot publish", PATIENCE, async || session.refusal()).await;
    assert!(told.contains(NO_SPACE) && session.is_connected(), "{told}");
    assert_eq!(client.get("kept", None).await.expect("get").kvs().len(), 1);
    let (mut keeper, mut kept) = client.lease_keep_alive(lease).await.expect("keep alive");
    keeper.keep_alive().await.expect("keep alive");
    assert_eq!(kept.message().await.expect("answer").expect("answer").ttl(), 600);
    let reading = Txn::new().and_then([TxnOp::get("kept", None)]);
    client.txn(reading).await.expect("a transaction that writes nothing");
    let deleted = client.delete("large/", Some(DeleteOptions::new().with_prefix())).await.expect("delete");
    let revision = deleted.header().expect("header").revision();
    client.compact(revision, Some(CompactionOptions::new().with_physical())).await.expect("compact");
    if kind == Kind::Etcd {
        client.defragment().await.expect("etcd gives space back so");
    }
    let still = client.put("small", "x", None).await.expect_err("the alarm stands");
    assert!(is_full(&still), "{still}");
    let nobody = client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, None).await.expect("nobody's alarm");
    assert_eq!((nobody.alarms().len(), alarms(&mut client).await), (0, raised.clone()));
    let mut member = AlarmOptions::new();
    member.with_member(raised[0]);
    let disarmed = client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(member)).await.expect("disarm");
    assert_eq!((disarmed.alarms().len(), alarms(&mut client).await), (1, Vec::new()));
    assert!(!server.broker().is_full().await.expect("an answer"));
    client.put("small", "x", None).await.expect("writes are taken again");
    wait::until("the publication that waited", PATIENCE, async || session.refusal().is_none().then_some(())).await;
}

/// A request beyond 1.5 MiB is refused; the connection goes on.
pub(crate) async fn a_large_request_is_refused(kind: Kind) {
    let server = Server::start(kind).await;
    let mut client = server.client().await;
    client.put("k", vec![b'x'; MIB], None).await.expect("1 MiB");
    let large = client.put("k", vec![b'x'; MIB * 8 / 5], None).await.expect_err("1.6 MiB");
    assert_eq!(code(&large), INVALID_ARGUMENT, "{large}");
    let ops: Vec<TxnOp> = (0..4).map(|n| TxnOp::put(format!("k/{n}"), vec![b'x'; MIB * 2 / 5], None)).collect();
    let large = client.txn(Txn::new().and_then(ops)).await.expect_err("1.6 MiB in four pieces");
    assert_eq!(code(&large), INVALID_ARGUMENT, "{large}");
    assert!(client.put("k", vec![b'x'; 5 * MIB], None).await.is_err(), "5 MiB");
    client.put("k", "x", None).await.expect("a small one");
}

/// Goal: no request makes the embedded broker hold much more than what is stored. Method: 40 MiB are stored, then
/// answers that would have that many times over are asked for, and watches without end.
pub(crate) async fn what_strangers_ask_does_not_fill_the_memory() {
    let server = Server::start(Kind::Embedded).await;
    let mut client = server.client().await;
    for n in 0..40 {
        client.put(format!("large/{n:02}"), vec![b'x'; MIB], None).await.expect("put");
    }
    let before = rss_bytes(&server);
    let all = || Some(GetOptions::new().with_all_keys());
    let whole = client.get("", all()).await.expect_err("40 MiB are no answer");
    assert!(code(&whole) == RESOURCE_EXHAUSTED && whole.to_string().contains("in pieces"), "{whole}");
    let some = client.get("large/", Some(GetOptions::new().with_prefix().with_limit(3))).await.expect("a piece");
    assert_eq!((some.kvs().len(), some.count(), some.more()), (3, 40, true));
    assert_eq!(
        client.get("", Some(GetOptions::new().with_all_keys().with_keys_only())).await.expect("keys").count(),
        40
    );
    let pieces = || TxnOp::get("large/", Some(GetOptions::new().with_prefix().with_limit(2)));
    let many = Txn::new().and_then((0..100).map(|_| pieces()).collect::<Vec<_>>());
    let many = client.txn(many).await.expect_err("200 MiB in one transaction");
    assert_eq!(code(&many), RESOURCE_EXHAUSTED, "{many}");
    let own = TxnOp::put("large/00", vec![b'y'; MIB], None);
    let own: Vec<TxnOp> = std::iter::once(own).chain((0..100).map(|_| TxnOp::get("large/00", None))).collect();
    let own = client.txn(Txn::new().and_then(own)).await.expect_err("what it put itself counts too");
    assert_eq!(code(&own), RESOURCE_EXHAUSTED, "{own}");
    let deeper = |inner: Txn| Txn::new().and_then((0..120).map(|_| TxnOp::txn(inner.clone())).collect::<Vec<_>>());
    let nested = deeper(Txn::new().and_then((0..20).map(|_| pieces()).collect::<Vec<_>>()));
    assert_eq!(code(&client.txn(nested).await.expect_err("2400 operations")), INVALID_ARGUMENT);
    let delete = DeleteOptions::new().with_prefix().with_prev_key();
    let delete = client.delete("large/", Some(delete)).await.expect_err("an answer of 40 MiB");
    assert_eq!(code(&delete), RESOURCE_EXHAUSTED, "{delete}");
    watch_without_end(&server).await;
    let grown = rss_bytes(&server).saturating_sub(before);
    assert!(grown < 64 << 20, "it grew by {grown} bytes");
    client.delete("large/", Some(DeleteOptions::new().with_prefix())).await.expect("without them it is a deletion");
    client.put("k", "x", None).await.expect("put");
}

/// Watches with keys of 64 KiB until one is refused: 32 MiB of keys are there then.
async fn watch_without_end(server: &Server) {
    let mut client = server.client().await;
    let key = |n: usize| {
        let mut key = vec![b'w'; 64 << 10];
        key.extend_from_slice(n.to_string().as_bytes());
        key
    };
    let mut stream = client.watch(key(0), None).await.expect("watch");
    let mut refused = None;
    for n in 1..600 {
        stream.watch(key(n), Some(WatchOptions::new())).await.expect("asked");
        let answer = wait::until("an answer", PATIENCE, async || stream.message().await.expect("answer")).await;
        if answer.canceled() {
            refused = Some((n, answer.cancel_reason().to_owned()));
            break;
        }
    }
    let (n, reason) = refused.expect("they end somewhere");
    assert!(n > 500 && reason.contains("keys of all watches"), "{n}: {reason}");
}

fn rss_bytes(server: &Server) -> u64 {
    let status = format!("/proc/{}/status", server.process().id());
    let status = std::fs::read_to_string(status).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}
