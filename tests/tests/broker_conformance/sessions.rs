//! Sessions: how others see a node's publications, whatever happens to the broker.

use std::time::{Duration, Instant};

use broker::{Broker, KeyEntry, Session, Watch, WatchEvent};
use etcd_client::{GetOptions, LeaseTimeToLiveOptions};
use rustix::process::Signal;
use tests::wait;

use crate::server::{Kind, PATIENCE, Server};

const SOON: Duration = Duration::from_secs(10);

async fn entry(broker: &Broker, key: &str) -> Option<KeyEntry> {
    broker.get(key).await.ok().flatten()
}

/// Waits until the broker has this value.
async fn published(broker: &Broker, key: &str, value: &str) -> KeyEntry {
    wait::until(&format!("{key}={value}"), PATIENCE, async || {
        entry(broker, key).await.filter(|entry| entry.value == value.as_bytes())
    })
    .await
}

/// Waits until the session knows the revision that the broker has.
async fn confirmed(session: &Session, broker: &Broker, key: &str) -> i64 {
    wait::until(&format!("the session's revision of {key}"), PATIENCE, async || {
        let there = entry(broker, key).await?.mod_revision;
        (session.revision_of(key) == Some(there)).then_some(there)
    })
    .await
}

async fn revision(broker: &Broker) -> i64 {
    wait::until("the store's revision", PATIENCE, async || broker.get_prefix("/none/").await.ok()).await.1
}

async fn lease_of(server: &Server, key: &str) -> i64 {
    server.client().await.get(key, None).await.expect("get").kvs()[0].lease()
}

/// Waits for `count` keep-alives of a lease, seen by its time going up.
async fn keep_alives(server: &Server, lease: i64, count: usize) {
    let mut client = server.client().await;
    let (mut seen, mut last) = (0, i64::MAX);
    wait::until("keep-alives", PATIENCE, async || {
        let left = client.lease_time_to_live(lease, None).await.expect("time to live").ttl();
        assert!(left >= 0, "the lease ended");
        seen += usize::from(left > last);
        last = left;
        (seen >= count).then_some(())
    })
    .await;
}

pub(crate) async fn a_session_publishes_under_one_lease_and_then_is_silent(kind: Kind) {
    let server = Server::start(kind).await;
    let (broker, session) = (server.broker(), server.session(4));
    assert!(!session.is_connected(), "not before the broker answered");
    session.publish("/n/1".to_owned(), b"a".to_vec());
    session.publish("/n/2".to_owned(), b"b".to_vec());
    published(&broker, "/n/1", "a").await;
    published(&broker, "/n/2", "b").await;
    confirmed(&session, &broker, "/n/2").await;
    assert!(session.is_connected());
    let lease = lease_of(&server, "/n/1").await;
    let mut client = server.client().await;
    let keys = client.lease_time_to_live(lease, Some(LeaseTimeToLiveOptions::new().with_keys())).await.expect("ttl");
    assert_eq!(keys.keys().len(), 2);
    let before = revision(&broker).await;
    session.publish("/n/1".to_owned(), b"a".to_vec());
    keep_alives(&server, lease, 3).await;
    assert_eq!(revision(&broker).await, before, "an idle session writes nothing");
    session.withdraw("/n/2");
    wait::until("the withdrawal", PATIENCE, async || {
        let listed = broker.get_prefix("/n/").await.expect("list").0;
        (listed.len() == 1).then_some(())
    })
    .await;
    session.close(SOON).await;
    assert_eq!(broker.get_prefix("/n/").await.expect("list").0, [], "an orderly stop leaves nothing");
    assert!(session.replace(vec![], "/n/1".to_owned(), vec![], SOON).await.is_err(), "it is closed");
}

pub(crate) async fn publications_are_coalesced(kind: Kind) {
    let server = Server::start(kind).await;
    let (broker, session) = (server.broker(), server.session(10));
    session.publish("/c/1".to_owned(), b"0".to_vec());
    published(&broker, "/c/1", "0").await;
    let (before, started) = (revision(&broker).await, Instant::now());
    let mut value = 0;
    wait::until("two seconds of changes", PATIENCE, async || {
        value += 1;
        session.publish("/c/1".to_owned(), value.to_string().into_bytes());
        (started.elapsed() > Duration::from_secs(2)).then_some(())
    })
    .await;
    published(&broker, "/c/1", &value.to_string()).await;
    let puts = revision(&broker).await - before;
    let seconds = i64::try_from(started.elapsed().as_secs()).expect("a short time");
    assert!((1..=seconds + 1).contains(&puts), "{puts} puts in {seconds} s for {value} changes");
}

pub(crate) async fn a_replacement_is_one_revision(kind: Kind) {
    let server = Server::start(kind).await;
    let (broker, session) = (server.broker(), server.session(10));
    let replace = |delete: &[&str], key: &str, value: &str| {
        let delete = delete.iter().map(|key| (*key).to_owned()).collect();
        session.replace(delete, key.to_owned(), value.as_bytes().to_vec(), SOON)
    };
    let first = replace(&[], "/push/1/t", "one").await.expect("first choice");
    assert_eq!(session.revision_of("/push/1/t"), Some(first));
    let second = replace(&["/push/1/t"], "/push/2/t", "two").await.expect("second choice");
    assert_eq!(second, first + 1, "delete and put in one transaction");
    let (listed, _) = broker.get_prefix("/push/").await.expect("list");
    assert_eq!(listed.iter().map(|e| (e.key.as_str(), e.mod_revision)).collect::<Vec<_>>(), [("/push/2/t", second)]);
    assert_eq!(session.revision_of("/push/1/t"), None);
    let again = replace(&["/push/1/t", "/push/2/t"], "/push/2/t", "two again").await.expect("the same one again");
    assert_eq!((again, entry(&broker, "/push/2/t").await.expect("entry").mod_revision), (second + 1, second + 1));
    let silent = revision(&broker).await;
    keep_alives(&server, lease_of(&server, "/push/2/t").await, 1).await;
    assert_eq!(revision(&broker).await, silent, "what was replaced is not published once more");
}

pub(crate) async fn a_replacement_without_a_broker_is_no_replacement(kind: Kind) {
    let mut server = Server::start(kind).await;
    let (broker, session) = (server.broker(), server.session(600));
    session.replace(vec![], "/p/1".to_owned(), b"1".to_vec(), SOON).await.expect("first choice");
    server.kill();
    let outcome = session.replace(vec!["/p/1".to_owned()], "/p/2".to_owned(), b"2".to_vec(), Duration::from_secs(1));
    outcome.await.expect_err("nobody is there");
    wait::until("the session's notice", PATIENCE, async || (!session.is_connected()).then_some(())).await;
    server.restart().await;
    wait::until("the session's return", PATIENCE, async || session.is_connected().then_some(())).await;
    published(&broker, "/p/1", "1").await;
    confirmed(&session, &broker, "/p/1").await;
    assert_eq!(entry(&broker, "/p/2").await, None);
}

pub(crate) async fn a_broker_that_kept_everything_sees_no_put(kind: Kind) {
    let mut server = Server::start(kind).await;
    let (broker, session) = (server.broker(), server.session(600));
    let token = session.replace(vec![], "/k/choice".to_owned(), b"1".to_vec(), SOON).await.expect("choice");
    session.publish("/k/node".to_owned(), b"2".to_vec());
    published(&broker, "/k/node", "2").await;
    confirmed(&session, &broker, "/k/node").await;
    let before = revision(&broker).await;
    let mut connected = session.connected();
    server.kill();
    session.publish("/k/poke".to_owned(), b"3".to_vec());
    tokio::time::timeout(PATIENCE, connected.wait_for(|connected| !connected)).await.expect("noticed").expect("alive");
    session.withdraw("/k/poke");
    assert_eq!(session.revision_of("/k/choice"), Some(token), "the token stands while the broker is away");
    server.restart().await;
    tokio::time::timeout(PATIENCE, connected.wait_for(|connected| *connected)).await.expect("back").expect("alive");
    session.publish("/k/last".to_owned(), b"4".to_vec());
    published(&broker, "/k/last", "4").await;
    assert_eq!(entry(&broker, "/k/choice").await.expect("entry").mod_revision, token);
    assert_eq!(session.revision_of("/k/choice"), Some(token));
    assert!(revision(&broker).await <= before + 2, "only what changed was written");
}

pub(crate) async fn a_lost_lease_is_replaced(kind: Kind) {
    let server = Server::start(kind).await;
    let (broker, session) = (server.broker(), server.session(3));
    let renewals = session.renewals();
    let token = session.replace(vec![], "/l/1".to_owned(), b"x".to_vec(), SOON).await.expect("choice");
    let lease = lease_of(&server, "/l/1").await;
    server.client().await.lease_revoke(lease).await.expect("revoke");
    published(&broker, "/l/1", "x").await;
    let renewed = confirmed(&session, &broker, "/l/1").await;
    assert!(renewed > token);
    assert!(renewals.has_changed().expect("alive"), "watchers of tokens hear of it");
    assert_ne!(lease_of(&server, "/l/1").await, lease);
    // An urgent write that meets the lost lease gets a new one on its way.
    server.client().await.lease_revoke(lease_of(&server, "/l/1").await).await.expect("revoke");
    session.replace(vec!["/l/1".to_owned()], "/l/2".to_owned(), b"y".to_vec(), SOON).await.expect("second choice");
    published(&broker, "/l/2", "y").await;
}

pub(crate) async fn an_emptied_broker_is_filled_anew(kind: Kind) {
    let mut server = Server::start(kind).await;
    let (broker, session) = (server.broker(), server.session(3));
    let mut watch = Watch::start(broker.clone(), "/e/".to_owned());
    for _ in 0..20 {
        broker.put("/other", b"so that revisions of this life are higher".to_vec()).await.expect("put");
    }
    // More keys than one transaction takes.
    let count = 300;
    for n in 0..count {
        session.publish(format!("/e/{n:03}"), b"x".to_vec());
    }
    let all = async || {
        let (listed, _) = broker.get_prefix("/e/").await.ok()?;
        (listed.len() == count).then_some(())
    };
    wait::until("all keys", PATIENCE, all).await;
    confirmed(&session, &broker, "/e/299").await;
    let last = confirmed(&session, &broker, "/e/000").await;
    let mut seen = std::collections::BTreeMap::new();
    while seen.len() < count {
        follow(&mut watch, &mut seen).await;
    }
    server.kill();
    server.wipe();
    server.restart().await;
    wait::until("all keys again", PATIENCE, all).await;
    let renewed = confirmed(&session, &broker, "/e/000").await;
    assert!(renewed < last, "another life counts from the start");
    // A watcher sees new revisions, and never that a key is gone: nothing is torn down because the broker forgot.
    while seen.values().any(|revision| *revision > renewed + 10) {
        follow(&mut watch, &mut seen).await;
        assert_eq!(seen.len(), count);
    }
}

/// Takes the next event of a watch.
async fn follow(watch: &mut Watch, seen: &mut std::collections::BTreeMap<String, i64>) {
    match tokio::time::timeout(PATIENCE, watch.next()).await.expect("an event in time") {
        WatchEvent::Snapshot(entries) => *seen = entries.into_iter().map(|e| (e.key, e.mod_revision)).collect(),
        WatchEvent::Put(entry) => drop(seen.insert(entry.key, entry.mod_revision)),
        WatchEvent::Delete(key) => drop(seen.remove(&key)),
        WatchEvent::Away => {}
    }
}

pub(crate) async fn a_broker_that_came_back_lower_is_brought_up_to_date(kind: Kind) {
    let mut server = Server::start(kind).await;
    let (broker, session) = (server.broker(), server.session(9));
    session.publish("/b/old".to_owned(), b"1".to_vec());
    let old = published(&broker, "/b/old", "1").await.mod_revision;
    confirmed(&session, &broker, "/b/old").await;
    server.kill();
    let backup = server.backup();
    server.restart().await;
    session.publish("/b/new".to_owned(), b"2".to_vec());
    session.publish("/b/old".to_owned(), b"3".to_vec());
    published(&broker, "/b/new", "2").await;
    published(&broker, "/b/old", "3").await;
    confirmed(&session, &broker, "/b/old").await;
    let mut watch = Watch::start(broker.clone(), "/b/".to_owned());
    assert!(matches!(watch.next().await, WatchEvent::Snapshot(entries) if entries.len() == 2));
    server.kill();
    server.restore(&backup);
    server.restart().await;
    // The lease is in the copy and has its full time again, so only the keys tell that something is missing.
    published(&broker, "/b/new", "2").await;
    published(&broker, "/b/old", "3").await;
    assert!(confirmed(&session, &broker, "/b/old").await > old);
    let snapshot = wait::until("a snapshot of the new life", PATIENCE, async || match watch.next().await {
        WatchEvent::Snapshot(entries) => Some(entries),
        _ => None,
    });
    assert!(!snapshot.await.is_empty());
}

pub(crate) async fn a_hung_broker_does_not_hold_a_session_up(kind: Kind) {
    let server = Server::start(kind).await;
    let (broker, session) = (server.broker(), server.session(3));
    session.publish("/h/1".to_owned(), b"1".to_vec());
    published(&broker, "/h/1", "1").await;
    server.process().signal(Signal::STOP);
    let stopped = Instant::now();
    let outcome = session.replace(vec![], "/h/2".to_owned(), b"2".to_vec(), Duration::from_millis(300)).await;
    assert!(outcome.is_err() && stopped.elapsed() < Duration::from_secs(2), "{:?}", stopped.elapsed());
    let mut connected = session.connected();
    tokio::time::timeout(PATIENCE, connected.wait_for(|connected| !connected)).await.expect("noticed").expect("alive");
    server.process().signal(Signal::CONT);
    published(&broker, "/h/1", "1").await;
    confirmed(&session, &broker, "/h/1").await;
    // The replacement may have been in the hung broker's socket: it is undone.
    session.publish("/h/3".to_owned(), b"3".to_vec());
    published(&broker, "/h/3", "3").await;
    wait::until("the undone replacement", PATIENCE, async || {
        let listed = server.client().await.get("/h/2", Some(GetOptions::new().with_count_only())).await;
        listed.is_ok_and(|listed| listed.count() == 0).then_some(())
    })
    .await;
    session.replace(vec![], "/h/2".to_owned(), b"2".to_vec(), SOON).await.expect("and now it goes");
}

/// Goal: an operator's slip heals within seconds. Method: prefixes are deleted from a broker that lives, under a lease
/// whose keep-alive is far away, so that only the watch can tell; then keys are overwritten, which only the keep-alive
/// can tell.
pub(crate) async fn deleted_and_overwritten_keys_come_back(kind: Kind) {
    let server = Server::start(kind).await;
    let (broker, session) = (server.broker(), server.session(60));
    let renewals = session.renewals();
    let token = session.replace(vec![], "/conformance/push/1/t".to_owned(), b"c".to_vec(), SOON).await.expect("choice");
    for n in 0..130 {
        session.publish(format!("/conformance/tl/{n:03}"), b"x".to_vec());
    }
    published(&broker, "/conformance/tl/129", "x").await;
    confirmed(&session, &broker, "/conformance/tl/129").await;
    // By then the session watches: the first time, the keep-alive may have been what noticed.
    broker.delete("/conformance/tl/000").await.expect("delete");
    published(&broker, "/conformance/tl/000", "x").await;
    let deleted = Instant::now();
    assert!(broker.delete_prefix("/conformance/tl/").await.expect("delete") > 100);
    broker.delete_prefix("/conformance/push/").await.expect("delete");
    published(&broker, "/conformance/push/1/t", "c").await;
    wait::until("all keys again", PATIENCE, async || {
        (broker.get_prefix("/conformance/tl/").await.ok()?.0.len() == 130).then_some(())
    })
    .await;
    assert!(deleted.elapsed() < SOON, "{:?}", deleted.elapsed());
    assert!(confirmed(&session, &broker, "/conformance/push/1/t").await > token);
    assert!(renewals.has_changed().expect("alive"), "watchers of tokens hear of it");

    let session = server.session(3);
    session.publish("/conformance/sk/1".to_owned(), b"mine".to_vec());
    published(&broker, "/conformance/sk/1", "mine").await;
    confirmed(&session, &broker, "/conformance/sk/1").await;
    broker.put("/conformance/sk/1", b"a slip".to_vec()).await.expect("put");
    published(&broker, "/conformance/sk/1", "mine").await;
}

/// Goal: a second process with the same id may take a key, and the first puts it back when the second has gone; the two
/// do not put it in turn. Method: two sessions publish one key.
pub(crate) async fn a_key_that_another_process_took_comes_back_with_its_end(kind: Kind) {
    let server = Server::start(kind).await;
    let (broker, first, second) = (server.broker(), server.session(3), server.session(3));
    let key = "/conformance/sk/1";
    first.publish(key.to_owned(), b"first".to_vec());
    published(&broker, key, "first").await;
    second.publish(key.to_owned(), b"second".to_vec());
    let taken = published(&broker, key, "second").await.mod_revision;
    wait::until("the first one's notice", PATIENCE, async || first.taken_key()).await;
    first.publish(key.to_owned(), b"first again".to_vec());
    keep_alives(&server, lease_of(&server, key).await, 3).await;
    assert_eq!(entry(&broker, key).await.expect("entry").mod_revision, taken, "they do not put it in turn");
    second.close(SOON).await;
    published(&broker, key, "first again").await;
    wait::until("nobody else", PATIENCE, async || first.taken_key().is_none().then_some(())).await;
}
