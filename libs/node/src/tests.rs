//! HTTP serving over a real socket.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::*;
use proto::api::Readiness;

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let mut socket = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.expect("it answers");
    answer
}

#[tokio::test]
async fn health_metrics_and_errors_on_a_free_port() {
    let readiness = || Readiness { ready: false, reasons: vec!["disk full".into()] };
    let router = health_router(readiness, || Ok("appends_total 1\n".to_owned()));
    let bound = bind_http("127.0.0.1:0".parse().expect("an address"), 8).expect("a free port");
    let address = bound.address();
    assert_ne!(address.port(), 0);
    let cancel = CancellationToken::new();
    let server = tokio::spawn(bound.serve(router, "/livez", cancel.clone()));
    assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));
    let ready = get(address, "/readyz?verbose").await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("disk full"), "{ready}");
    assert!(!get(address, "/readyz").await.contains("disk full"));
    assert!(get(address, "/metrics").await.contains("appends_total 1"));
    let unknown = get(address, "/nope").await;
    assert!(
        unknown.starts_with("HTTP/1.1 404")
            && unknown.contains(r#"{"error":"/nope is not known here","hint":"/livez"}"#)
    );
    cancel.cancel();
    let stopped = tokio::time::timeout(Duration::from_secs(10), server).await.expect("it stops");
    stopped.expect("no panic");
}

#[test]
fn a_bad_body_is_told_with_its_place() {
    let e = json_body::<Readiness>(b"{\"ready\": 7}").expect_err("7 is no truth value");
    assert_eq!(e.status, 400);
    assert!(e.body.error.contains("line 1"), "{}", e.body.error);
}

/// Goal: strangers who ask nothing do not keep probes from the reserve. Method: more half-open connections than there
/// are places of both kinds, and all of them stay.
#[tokio::test]
async fn half_open_connections_in_the_reserve_give_way_to_probes() {
    let bound = bind_http("127.0.0.1:0".parse().expect("an address"), 1).expect("a free port");
    let address = bound.address();
    let cancel = CancellationToken::new();
    let router = health_router(|| Readiness { ready: true, reasons: Vec::new() }, || Ok(String::new()));
    let server = tokio::spawn(bound.serve(router, "/livez", cancel.clone()));
    let mut half_open = Vec::new();
    for _ in 0..40 {
        let mut socket = tokio::net::TcpStream::connect(address).await.expect("it listens");
        socket.write_all(b"GET /livez HTTP/1.1\r\nX: ").await.expect("it reads");
        half_open.push(socket);
        assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"), "{} are half open", half_open.len());
    }
    cancel.cancel();
    tokio::time::timeout(Duration::from_secs(10), server).await.expect("it stops").expect("no panic");
}

/// Goal: half-open requests keep nobody else's descriptors, who is refused can read why, and a probe still learns that
/// the server lives. Method: all connections but none of them asks anything.
#[tokio::test]
async fn connections_are_bounded_and_the_refusal_can_be_read() {
    let bound = bind_http("127.0.0.1:0".parse().expect("an address"), 2).expect("a free port");
    let address = bound.address();
    let cancel = CancellationToken::new();
    let router = health_router(|| Readiness { ready: true, reasons: Vec::new() }, || Ok(String::new()));
    let server = tokio::spawn(bound.serve(router, "/livez", cancel.clone()));
    let mut half_open = Vec::new();
    for _ in 0..2 {
        let mut socket = tokio::net::TcpStream::connect(address).await.expect("it listens");
        socket.write_all(b"GET /livez HTTP/1.1\r\nX: ").await.expect("it reads");
        half_open.push(socket);
    }
    assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"), "the reserve answers probes");
    assert!(get(address, "/readyz?verbose").await.contains("\"ready\":true"));
    let refused = get(address, "/metrics").await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("--http-connections-max"), "{refused}");
    half_open.pop();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !get(address, "/nope").await.starts_with("HTTP/1.1 404") {
        assert!(tokio::time::Instant::now() < deadline, "a connection that is closed gives its place back");
    }
    cancel.cancel();
    tokio::time::timeout(Duration::from_secs(10), server).await.expect("it stops").expect("no panic");
}
