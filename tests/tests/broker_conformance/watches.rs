//! Watches: directly on the broker, and through the client's own `Watch`.

use std::time::Duration;

use broker::{Watch, WatchEvent};
use etcd_client::{EventType, PutOptions, WatchFilterType, WatchOptions, WatchResponse, WatchStream};
use rustix::process::Signal;

use crate::server::{Kind, PATIENCE, Server};

async fn message(stream: &mut WatchStream) -> WatchResponse {
    let next = tokio::time::timeout(PATIENCE, stream.message()).await;
    next.expect("a message in time").expect("a message").expect("the stream goes on")
}

/// The next event, as text: `put KEY=VALUE @REVISION` or `delete KEY @REVISION`.
async fn events(stream: &mut WatchStream) -> Vec<String> {
    let message = message(stream).await;
    let show = |event: &etcd_client::Event| {
        let kv = event.kv().expect("every event has a key");
        let (key, value) = (String::from_utf8_lossy(kv.key()), String::from_utf8_lossy(kv.value()));
        match event.event_type() {
            EventType::Put => format!("put {key}={value} @{}", kv.mod_revision()),
            EventType::Delete => format!("delete {key} @{}", kv.mod_revision()),
        }
    };
    message.events().iter().map(show).collect()
}

async fn next(watch: &mut Watch) -> WatchEvent {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("an event in time")
}

/// Reads events until one is `wanted`.
async fn until(watch: &mut Watch, wanted: impl Fn(&WatchEvent) -> bool) {
    while !wanted(&next(watch).await) {}
}

/// Whether `event` tells that `key` is there.
fn there(event: &WatchEvent, key: &str) -> bool {
    match event {
        WatchEvent::Put(entry) => entry.key == key,
        WatchEvent::Snapshot(entries) => entries.iter().any(|entry| entry.key == key),
        WatchEvent::Delete(_) | WatchEvent::Away => false,
    }
}

/// Whether `event` tells that `key` is gone: by itself, or by a snapshot without it.
fn gone(event: &WatchEvent, key: &str) -> bool {
    match event {
        WatchEvent::Delete(deleted) => deleted == key,
        WatchEvent::Snapshot(entries) => entries.iter().all(|entry| entry.key != key),
        WatchEvent::Put(_) | WatchEvent::Away => false,
    }
}

fn keys(event: &WatchEvent) -> Vec<String> {
    match event {
        WatchEvent::Snapshot(entries) => entries.iter().map(|entry| entry.key.clone()).collect(),
        other => panic!("not a snapshot: {other:?}"),
    }
}

pub(crate) async fn a_prefix_watch_does_not_see_longer_names(kind: Kind) {
    let server = Server::start(kind).await;
    let broker = server.broker();
    broker.put("/t/1/a", b"there".to_vec()).await.expect("put");
    broker.put("/t/10/a", b"longer".to_vec()).await.expect("put");
    let mut watch = Watch::start(broker.clone(), "/t/1/".to_owned());
    assert_eq!(keys(&next(&mut watch).await), ["/t/1/a"]);
    broker.put("/t/10/b", b"longer".to_vec()).await.expect("put");
    broker.put("/t/1", b"shorter".to_vec()).await.expect("put");
    let revision = broker.put("/t/1/b", b"seen".to_vec()).await.expect("put");
    let WatchEvent::Put(entry) = next(&mut watch).await else { panic!("a put") };
    assert_eq!((entry.key.as_str(), entry.value.as_slice(), entry.mod_revision), ("/t/1/b", &b"seen"[..], revision));
    broker.delete("/t/10/a").await.expect("delete");
    broker.delete("/t/1/a").await.expect("delete");
    assert_eq!(next(&mut watch).await, WatchEvent::Delete("/t/1/a".to_owned()));
}

pub(crate) async fn a_watch_resumes_from_a_revision(kind: Kind) {
    let server = Server::start(kind).await;
    let mut client = server.client().await;
    client.put("w/1", "a", None).await.expect("put");
    client.put("w/2", "b", None).await.expect("put");
    client.put("x", "-", None).await.expect("put");
    client.delete("w/1", None).await.expect("delete");
    let options = WatchOptions::new().with_prefix().with_start_revision(3).with_prev_key();
    let mut stream = client.watch("w/", Some(options)).await.expect("watch");
    assert!(message(&mut stream).await.created());
    let mut seen = events(&mut stream).await;
    if seen.len() < 2 {
        seen.extend(events(&mut stream).await);
    }
    assert_eq!(seen, ["put w/2=b @3", "delete w/1 @5"]);
    client.put("w/2", "c", None).await.expect("put");
    let message = message(&mut stream).await;
    assert_eq!(message.events()[0].prev_kv().expect("previous").value(), b"b");
}

pub(crate) async fn one_stream_carries_several_watches(kind: Kind) {
    let server = Server::start(kind).await;
    let mut client = server.client().await;
    let no_put = WatchOptions::new().with_watch_id(1).with_filters([WatchFilterType::NoPut]);
    let mut stream = client.watch("k", Some(no_put)).await.expect("watch");
    assert!(message(&mut stream).await.created());
    let all = WatchOptions::new().with_watch_id(2).with_prefix();
    stream.watch("p/", Some(all)).await.expect("second watch");
    assert_eq!(message(&mut stream).await.watch_id(), 2);
    client.put("k", "not told", None).await.expect("put");
    client.put("p/1", "told", None).await.expect("put");
    let told = message(&mut stream).await;
    assert_eq!((told.watch_id(), told.events().len()), (2, 1));
    client.delete("k", None).await.expect("delete");
    assert_eq!(message(&mut stream).await.watch_id(), 1);
    stream.cancel(1).await.expect("cancel");
    let cancelled = message(&mut stream).await;
    assert!(cancelled.canceled() && cancelled.watch_id() == 1);
    stream.request_progress().await.expect("progress");
    let progress = message(&mut stream).await;
    assert_eq!((progress.events().len(), progress.header().expect("header").revision()), (0, 4));
    client.put("k", "x", None).await.expect("put");
    client.put("p/2", "y", None).await.expect("put");
    assert_eq!(events(&mut stream).await, ["put p/2=y @6"]);
}

pub(crate) async fn a_watch_of_compacted_revisions_is_told_so(kind: Kind) {
    let server = Server::start(kind).await;
    let mut client = server.client().await;
    for value in 0..10 {
        client.put("c/1", value.to_string(), None).await.expect("put");
    }
    client.compact(8, None).await.expect("compact");
    let old = WatchOptions::new().with_prefix().with_start_revision(3);
    let mut stream = client.watch("c/", Some(old)).await.expect("watch");
    let mut answer = message(&mut stream).await;
    if !answer.canceled() {
        assert!(answer.created());
        answer = message(&mut stream).await;
    }
    assert!(answer.canceled() && answer.compact_revision() == 8, "{answer:?}");
    let kept = WatchOptions::new().with_prefix().with_start_revision(9);
    let mut stream = client.watch("c/", Some(kept)).await.expect("watch");
    assert!(message(&mut stream).await.created());
    assert_eq!(events(&mut stream).await[0], "put c/1=7 @9");
    // The client's own watch lists first, so that it starts above any compaction.
    let mut watch = Watch::start(server.broker(), "c/".to_owned());
    assert_eq!(keys(&next(&mut watch).await), ["c/1"]);
}

pub(crate) async fn a_watch_tells_of_ended_leases_in_one_revision(kind: Kind) {
    let server = Server::start(kind).await;
    let mut client = server.client().await;
    let lease = client.lease_grant(600, None).await.expect("grant").id();
    for key in ["e/1", "e/2"] {
        client.put(key, "x", Some(PutOptions::new().with_lease(lease))).await.expect("put");
    }
    let mut stream = client.watch("e/", Some(WatchOptions::new().with_prefix())).await.expect("watch");
    assert!(message(&mut stream).await.created());
    client.lease_revoke(lease).await.expect("revoke");
    assert_eq!(events(&mut stream).await, ["delete e/1 @4", "delete e/2 @4"]);
}

pub(crate) async fn a_watch_survives_the_brokers_death(kind: Kind) {
    let mut server = Server::start(kind).await;
    let broker = server.broker();
    broker.put("/s/1", b"x".to_vec()).await.expect("put");
    let mut watch = Watch::start(broker.clone(), "/s/".to_owned());
    assert_eq!(keys(&next(&mut watch).await), ["/s/1"]);
    server.kill();
    assert_eq!(next(&mut watch).await, WatchEvent::Away);
    server.restart().await;
    assert_eq!(keys(&next(&mut watch).await), ["/s/1"], "a snapshot after the gap");
    broker.put("/s/2", b"x".to_vec()).await.expect("put");
    until(&mut watch, |event| there(event, "/s/2")).await;
    // Back with nothing: nothing is gone at once, what is put again is told, and what stays missing goes.
    server.kill();
    server.wipe();
    assert_eq!(next(&mut watch).await, WatchEvent::Away);
    server.restart().await;
    assert_eq!(keys(&next(&mut watch).await), ["/s/1", "/s/2"]);
    // On a busy machine the stream may break again meanwhile; its snapshot then tells the same as the event would.
    broker.put("/s/2", b"again".to_vec()).await.expect("put");
    let put_again = |event: &WatchEvent| match event {
        WatchEvent::Put(entry) => entry.key == "/s/2" && entry.mod_revision == 2,
        WatchEvent::Snapshot(entries) => {
            assert_eq!(keys(event), ["/s/1", "/s/2"], "the missing one stays until it settles");
            entries[1].mod_revision == 2
        }
        WatchEvent::Away => false,
        WatchEvent::Delete(key) => panic!("{key} is gone too soon"),
    };
    until(&mut watch, put_again).await;
    until(&mut watch, |event| gone(event, "/s/1")).await;
    broker.delete("/s/2").await.expect("delete");
    until(&mut watch, |event| gone(event, "/s/2")).await;
}

pub(crate) async fn a_watch_starts_without_a_broker(kind: Kind) {
    let mut server = Server::start(kind).await;
    server.kill();
    let mut watch = Watch::start(server.broker(), "/a/".to_owned());
    assert_eq!(next(&mut watch).await, WatchEvent::Away);
    server.restart().await;
    assert_eq!(keys(&next(&mut watch).await), Vec::<String>::new());
}

pub(crate) async fn a_hung_broker_is_noticed(kind: Kind) {
    let server = Server::start(kind).await;
    let broker = server.broker();
    let mut watch = Watch::start(broker.clone(), "/h/".to_owned());
    assert_eq!(keys(&next(&mut watch).await), Vec::<String>::new());
    server.process().signal(Signal::STOP);
    let stopped = std::time::Instant::now();
    assert_eq!(next(&mut watch).await, WatchEvent::Away);
    assert!(stopped.elapsed() < Duration::from_secs(9), "noticed after {:?}", stopped.elapsed());
    server.process().signal(Signal::CONT);
    assert_eq!(keys(&next(&mut watch).await), Vec::<String>::new());
    broker.put("/h/1", b"x".to_vec()).await.expect("put");
    until(&mut watch, |event| there(event, "/h/1")).await;
}
