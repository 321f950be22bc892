//! The store alone: rules that need no server, and replay.

use etcd_client::proto::{PbDeleteRequest, PbPutRequest, PbRangeRequest, PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp};
use proptest::prelude::*;

use super::super::limits::LEASES_MAX;
use super::*;

const WHO: Identity = Identity { cluster: 7, boots: 1 };

fn put(store: &mut KeyStore, key: &str, lease: i64) -> Result<i64, RequestRefusal> {
    let request = PbPutRequest { key: key.into(), value: b"v".to_vec(), lease, ..PbPutRequest::default() };
    store.put(&request, 0).map(|response| response.header.expect("header").revision)
}

fn keys(store: &KeyStore) -> Vec<&str> {
    store.keys().map(|kv| std::str::from_utf8(&kv.key).expect("text")).collect()
}

#[test]
fn leases_end_in_order_of_their_time_with_their_keys_in_one_revision() {
    let mut store = KeyStore::new(WHO);
    store.grant(1, 10, 0).expect("grant");
    store.grant(2, 5, 0).expect("grant");
    put(&mut store, "a", 1).expect("put");
    put(&mut store, "b", 1).expect("put");
    put(&mut store, "c", 2).expect("put");
    assert_eq!(store.next_end(), Some(5_000));
    assert_eq!(store.keep_alive(2, 4_000), Some(5));
    assert_eq!((store.expire(8_999), store.next_end()), (0, Some(9_000)));
    assert_eq!((store.expire(9_000), keys(&store)), (1, vec!["a", "b"]));
    store.take_changes();
    assert_eq!((store.expire(60_000), keys(&store), store.next_end()), (1, vec![], None));
    let changes = store.take_changes();
    assert_eq!((changes.len(), changes[0].events.len(), changes[0].revision), (1, 2, 6));
    assert_eq!(store.keep_alive(1, 60_000), None);
}

#[test]
fn after_a_stall_every_lease_has_its_full_time() {
    let mut store = KeyStore::new(WHO);
    store.grant(1, 10, 0).expect("grant");
    store.grant(2, 50, 0).expect("grant");
    store.renew_all(30_000);
    assert_eq!((store.expire(39_999), store.next_end()), (0, Some(40_000)));
    assert_eq!(store.time_to_live(2, false, 30_000).expect("small").ttl, 50);
}

/// Goal: leases that a stranger takes and never uses lock nobody out. Method: as many as there may be, for ever; then a
/// node that has one, and nodes that come.
#[test]
fn unused_leases_make_room_for_new_ones() {
    let mut store = KeyStore::new(WHO);
    store.grant(1, 10, 0).expect("grant");
    put(&mut store, "node", 1).expect("put");
    let count = |n: usize| i64::try_from(n).expect("small");
    for lease in 2..=count(LEASES_MAX) {
        assert_eq!(store.crowd().is_some(), lease > count(LEASES_MAX / 2) + 1, "{lease}");
        store.grant(lease, 9_000_000_000, 1).expect("grant");
    }
    assert_eq!(store.keep_alive(2, 2), Some(9_000_000_000));
    for node in 1..3000 {
        let lease = count(LEASES_MAX) + node;
        store.grant(lease, 10, 3).expect("a node gets a lease");
        put(&mut store, &format!("node {node}"), lease).expect("and may use it");
    }
    assert!(store.has_lease(1) && !store.has_lease(3), "those without keys go");
    assert!(store.has_lease(2), "the oldest first");
    assert_eq!(keys(&store).len(), 3000);
    assert!(store.lease_count() <= LEASES_MAX);
}

#[test]
fn a_refused_request_changes_nothing() {
    let mut store = KeyStore::new(WHO);
    put(&mut store, "a", 0).expect("put");
    let before = store.clone();
    assert_eq!(put(&mut store, "a", 9), Err(RequestRefusal::LeaseNotFound));
    assert_eq!(put(&mut store, "", 0), Err(RequestRefusal::EmptyKey));
    let op = |key: &str, lease| PbTxnRequestOp {
        request: Some(PbTxnOpRequest::RequestPut(PbPutRequest { key: key.into(), lease, ..PbPutRequest::default() })),
    };
    let txn = |ops: Vec<PbTxnRequestOp>| PbTxnRequest { compare: vec![], success: ops, failure: vec![] };
    assert_eq!(store.txn(&txn(vec![op("b", 0), op("c", 9)]), 0).expect_err("refused"), RequestRefusal::LeaseNotFound);
    assert_eq!(store.txn(&txn(vec![op("b", 0), op("b", 0)]), 0).expect_err("refused"), RequestRefusal::DuplicateKey);
    assert_eq!(
        store.txn(&txn(vec![PbTxnRequestOp { request: None }]), 0).expect_err("refused"),
        RequestRefusal::MalformedOp
    );
    assert_eq!(store.grant(1, i64::MAX, 0).expect_err("refused"), RequestRefusal::TtlTooLarge);
    assert_eq!(store.compact(99, 0), Err(RequestRefusal::FutureRevision));
    assert_eq!(store, before);
}

#[test]
fn a_replay_that_does_not_fit_is_refused() {
    let mut store = KeyStore::new(WHO);
    let op = |lease| StoreOp::Put { lease, key: b"a".to_vec(), value: vec![] };
    assert!(matches!(store.clone().replay(3, &[op(0)], 0), Err(ReplayError::Revision { revision: 1, found: 3 })));
    assert!(matches!(store.clone().replay(1, &[op(0)], 0), Err(ReplayError::Revision { .. })));
    assert_eq!(store.clone().replay(2, &[op(5)], 0), Err(ReplayError::NoSuchLease(5)));
    assert_eq!(store.clone().replay(2, &[StoreOp::Delete { key: b"a".to_vec() }], 0), Err(ReplayError::NoSuchKey));
    assert_eq!(store.clone().replay(1, &[StoreOp::Revoke { lease: 5 }], 0), Err(ReplayError::NoSuchLease(5)));
    store.grant(5, 10, 0).expect("grant");
    put(&mut store, "a", 5).expect("put");
    assert_eq!(store.clone().replay(2, &[StoreOp::Revoke { lease: 5 }], 0), Err(ReplayError::StrayKey(5)));
    assert_eq!(store.clone().replay(2, &[StoreOp::Grant { lease: 5, ttl_s: 1 }], 0), Err(ReplayError::LeaseTwice(5)));
}

/// Any request, over few keys and leases so that they meet.
#[derive(Clone, Debug)]
enum Step {
    Put { key: u8, lease: i64 },
    Delete { from: u8, to: u8 },
    Move { delete: u8, put: u8, lease: i64 },
    Grant { lease: i64, ttl_s: i64 },
    Revoke { lease: i64 },
    KeepAlive { lease: i64 },
    Compact { revision: i64 },
    Wait { seconds: u64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (key, lease) = (0_u8..6, 0_i64..4);
    let step = prop_oneof![
        6 => (key.clone(), lease.clone()).prop_map(|(key, lease)| Step::Put { key, lease }),
        2 => (key.clone(), key.clone()).prop_map(|(from, to)| Step::Delete { from, to }),
        2 => (key.clone(), key, lease.clone()).prop_map(|(delete, put, lease)| Step::Move { delete, put, lease }),
        3 => (lease.clone(), 1_i64..9).prop_map(|(lease, ttl_s)| Step::Grant { lease, ttl_s }),
        1 => lease.clone().prop_map(|lease| Step::Revoke { lease }),
        1 => lease.prop_map(|lease| Step::KeepAlive { lease }),
        1 => (0_i64..40).prop_map(|revision| Step::Compact { revision }),
        2 => (0_u64..5).prop_map(|seconds| Step::Wait { seconds }),
    ];
    proptest::collection::vec(step, 1..60)
}

/// Does a step; refusals are fine, the invariants are checked afterwards.
fn take(store: &mut KeyStore, step: &Step, now: &mut Millis) {
    let key = |number: u8| vec![b'k', number];
    match *step {
        Step::Put { key: number, lease } => {
            let _ = store.put(&PbPutRequest { key: key(number), lease, ..PbPutRequest::default() }, *now);
        }
        Step::Delete { from, to } => {
            let range = PbDeleteRequest { key: key(from), range_end: key(to), prev_kv: true };
            let _ = store.delete_range(&range, *now);
        }
        Step::Move { delete, put, lease } => {
            let delete = PbDeleteRequest { key: key(delete), ..PbDeleteRequest::default() };
            let put = PbPutRequest { key: key(put), lease, ..PbPutRequest::default() };
            let ops = [PbTxnOpRequest::RequestDeleteRange(delete), PbTxnOpRequest::RequestPut(put)];
            let success = ops.into_iter().map(|op| PbTxnRequestOp { request: Some(op) }).collect();
            let _ = store.txn(&PbTxnRequest { compare: vec![], success, failure: vec![] }, *now);
        }
        Step::Grant { lease, ttl_s } => drop(store.grant(lease, ttl_s, *now)),
        Step::Revoke { lease } => {
            let _ = store.revoke(lease, *now);
        }
        Step::KeepAlive { lease } => {
            let _ = store.keep_alive(lease, *now);
        }
        Step::Compact { revision } => {
            let _ = store.compact(revision, *now);
        }
        Step::Wait { seconds } => *now += seconds * 1000,
    }
    store.expire(*now);
}

/// The invariants at the head of the module.
fn check(store: &KeyStore) {
    for kv in store.keys() {
        assert!(kv.mod_revision <= store.revision && kv.create_revision <= kv.mod_revision && kv.version >= 1);
        let holders = store.leases.iter().filter(|(_, lease)| lease.keys.contains(&kv.key)).map(|(id, _)| *id);
        let expected: Vec<i64> = (kv.lease != 0).then_some(kv.lease).into_iter().collect();
        assert_eq!(holders.collect::<Vec<_>>(), expected, "a key stands in its lease's set and in no other");
    }
    let held: usize = store.leases.values().map(|lease| lease.keys.len()).sum();
    assert_eq!(held, store.keys().filter(|kv| kv.lease != 0).count());
    let ends: BTreeSet<_> = store.leases.iter().map(|(id, lease)| (lease.ends_at, *id)).collect();
    assert_eq!(store.ends, ends);
    let mut usage = Usage::default();
    store.keys().for_each(|kv| usage.add_key(&kv.key, &kv.value));
    store.leases().for_each(|_| usage.add_lease());
    assert_eq!(store.usage, usage, "what the quota counts is what is there");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Goal: replaying the changes gives the store again, and events describe exactly what changed. Method: random
    /// steps; a second store replays, a plain map follows the events.
    #[test]
    fn replay_and_events_tell_the_whole_story(steps in steps()) {
        let (mut store, mut again, mut now) = (KeyStore::new(WHO), KeyStore::new(WHO), 0);
        let mut followed: BTreeMap<Vec<u8>, PbKeyValue> = BTreeMap::new();
        for step in &steps {
            let revision = store.revision();
            take(&mut store, step, &mut now);
            check(&store);
            let mut last = revision;
            for change in store.take_changes() {
                prop_assert_eq!(change.revision, last + i64::from(!change.events.is_empty()));
                last = change.revision;
                let events = again.replay(change.revision, &change.ops, now).expect("a logged change fits");
                prop_assert_eq!(&events, &change.events);
                for event in events {
                    let kv = event.kv.expect("every event has a key");
                    prop_assert_eq!(kv.mod_revision, change.revision);
                    let before = match event.r#type {
                        PUT => followed.insert(kv.key.clone(), kv),
                        _ => followed.remove(&kv.key),
                    };
                    prop_assert_eq!(event.prev_kv, before);
                }
            }
            prop_assert_eq!(last, store.revision());
        }
        prop_assert_eq!(&followed, &store.keys);
        prop_assert_eq!(&again.keys, &store.keys);
        prop_assert_eq!(again.revision, store.revision);
        let leases = |store: &KeyStore| -> Vec<_> {
            store.leases().map(|(id, lease)| (id, lease.ttl_s, lease.keys.clone())).collect()
        };
        prop_assert_eq!(leases(&again), leases(&store));
    }

    /// Ranges read what the map holds.
    #[test]
    fn a_range_is_what_lies_within(
        keys in proptest::collection::btree_set(0_u8..20, 0..12),
        from in 0_u8..20,
        to in 0_u8..20,
    ) {
        let mut store = KeyStore::new(WHO);
        for key in &keys {
            store.put(&PbPutRequest { key: vec![*key + 1], ..PbPutRequest::default() }, 0).expect("put");
        }
        let request = PbRangeRequest { key: vec![from + 1], range_end: vec![to + 1], ..PbRangeRequest::default() };
        let found: Vec<u8> = store.range(&request).expect("range").kvs.iter().map(|kv| kv.key[0] - 1).collect();
        let expected: Vec<u8> = keys.iter().copied().filter(|key| (from..to).contains(key)).collect();
        prop_assert_eq!(found, expected);
    }
}
