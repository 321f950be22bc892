//! What people and stock clients ask: SHOW, IDENTIFY_SYSTEM, HTTP.

use crate::common::{Log, NODE, Node, PG_VERSION, Proposer, SYSTEM, ttid, until};
use proto::api::{Readiness, SafekeeperTimelineStatus};

/// Goal: what stock clients ask before they stream is answered as PostgreSQL answers it.
#[tokio::test]
async fn stock_questions() {
    let (node, mut log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    let mut p = Proposer::elected(&node, ttid(1), 1, &log).await;
    let end = log.grow(50_000);
    p.push(&log, log.start, None).await;
    p.commit(log.start, end).await;
    let cell = |r: &[libpq::QueryResult], i: usize| r[0].rows[0][i].clone().unwrap_or_default();
    let mut reader = node.dial(ttid(1), "reader").await;
    assert_eq!(reader.parameter("integer_datetimes"), Some("on"));
    for (command, want) in [
        ("SHOW wal_segment_size", "1MB"),
        ("SHOW data_directory_mode", "0700"),
        ("SHOW server_version", "15.4"),
        ("show Server_Version_Num;", "150004"),
    ] {
        let rows = reader.simple_query(command).await.expect(command);
        assert_eq!(cell(&rows, 0), want, "{command}");
    }
    reader.simple_query("SET datestyle TO ISO").await.expect("SET is accepted");
    let rows = reader.simple_query("IDENTIFY_SYSTEM").await.expect("rows");
    assert_eq!(rows[0].columns, ["systemid", "timeline", "xlogpos", "dbname"]);
    assert_eq!(
        (cell(&rows, 0), cell(&rows, 1), cell(&rows, 2)),
        (SYSTEM.to_string(), "1".into(), log.start.to_string())
    );
    let mut recovery = node.dial(ttid(1), "wal_proposer_recovery").await;
    let rows = recovery.simple_query("IDENTIFY_SYSTEM").await.expect("rows");
    assert_eq!(cell(&rows, 2), end.to_string(), "a recovery client is told the end of the log");
    // The proposer's connection is still ending, and a segment may be made ready, between two looks.
    until("libpq and HTTP show the same", async || {
        let rows = reader.simple_query("SHOW TIMELINE").await.expect("a row");
        let text = cell(&rows, 0);
        // An earlier shim reads no null.
        assert!(text.contains(r#""remote_consistent_lsn":"0/0""#) && !text.contains(r#"_lsn":null"#), "{text}");
        let status: SafekeeperTimelineStatus = serde_json::from_str(&text).expect("the fields of HTTP");
        (status == SafekeeperTimelineStatus { schema: 1, ..node.status(ttid(1)).await }).then_some(())
    })
    .await;
    let rows = reader.simple_query("TIMELINE_STATUS").await.expect("rows");
    assert_eq!((cell(&rows, 0), cell(&rows, 1)), (end.to_string(), log.start.to_string()));
}

/// Goal: every table of SHOW has the rows that HTTP has.
#[tokio::test]
async fn tables() {
    let (node, log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    node.create(ttid(2), &log).await;
    let mut c = node.dial_with(vec![], "psql").await;
    let mut count = async |what: &str| c.simple_query(what).await.expect(what)[0].rows.len();
    assert_eq!(count("SHOW TIMELINES").await, 2);
    assert_eq!(count("SHOW SAFEKEEPERS").await, 1, "this one, while the broker is away");
    assert_eq!(count("SHOW CHOICES").await, 0);
    assert_eq!(count("SHOW LAG").await, 0);
    assert!(count("SHOW CONFIG").await > 5);
    assert_eq!(count("show version").await, 1);
    let _reader = node.dial(ttid(1), "psql").await.copy_both(&format!("START_REPLICATION {}", log.start)).await;
    until("the reader shows", async || {
        let mut c = node.dial_with(vec![], "psql").await;
        (c.simple_query("SHOW LAG").await.expect("rows")[0].rows.len() == 1).then_some(())
    })
    .await;
}

/// Goal: HTTP shows the truth, in the shapes that clients read.
#[tokio::test]
async fn http() {
    let (node, mut log) = (Node::start().await, Log::new());
    assert_eq!(node.get("/livez").await.0, 200);
    assert_eq!(node.get("/readyz").await.0, 200, "no broker is no reason");
    let (_, text) = node.get("/readyz?verbose").await;
    let now: Readiness = serde_json::from_str(&text).expect("a readiness");
    assert!(now.ready && now.reasons.iter().any(|r| r.contains("broker")), "{text}");
    node.create(ttid(1), &log).await;
    let mut p = Proposer::elected(&node, ttid(1), 2, &log).await;
    let end = log.grow(50_000);
    p.push(&log, log.start, None).await;
    p.commit(end, end).await;

    let s = node.status(ttid(1)).await;
    assert_eq!((s.safekeeper_id, s.pg_version_num, s.system_id), (NODE, PG_VERSION, SYSTEM));
    assert_eq!((s.flush_lsn, s.commit_lsn, s.timeline_start_lsn), (Some(end), Some(end), Some(log.start)));
    assert_eq!((s.term.0, s.last_log_term.0, s.streaming), (2, 2, true));
    assert!(s.wal_bytes >= 1 << 20 && s.stopped.is_none());
    let list: Vec<SafekeeperTimelineStatus> =
        serde_json::from_str(&node.get("/v1/tenant/timeline").await.1).expect("a list");
    assert_eq!(list.len(), 1);
    let (code, text) = node.get("/v1/status").await;
    assert!(code == 200 && text.contains("\"id\":1") && text.contains("version"), "{text}");
    assert_eq!(node.get("/v1/tenant/xyz/timeline/1").await.0, 400);
    assert_eq!(node.get(&format!("/v1/tenant/{}/timeline/{}", ttid(9).tenant_id, ttid(9).timeline_id)).await.0, 404);
    let (code, text) = node.get("/nowhere").await;
    assert!(code == 404 && text.contains("hint"), "{text}");
    let (_, text) = node.get("/metrics").await;
    for name in [
        "walfabric_safekeeper_received_bytes_total",
        "walfabric_safekeeper_disk_sync_seconds_count",
        "walfabric_safekeeper_flush_lsn_sum",
        "walfabric_safekeeper_connections{kind=\"proposer\"} 1",
        "walfabric_safekeeper_timelines_streaming 1",
    ] {
        assert!(text.contains(name), "{name} is missing:\n{text}");
    }
    assert!(!text.contains(&ttid(1).tenant_id.to_string()), "no tenant label");
}

/// Goal: a deleted timeline is gone, also after a restart, with its files; one that is written is not deleted unasked;
/// the same ids can be used again.
#[tokio::test]
async fn a_timeline_is_deleted() {
    let (mut node, mut log) = (Node::start().await, Log::new());
    node.create(ttid(1), &log).await;
    node.create(ttid(2), &log).await;
    let mut p = Proposer::elected(&node, ttid(1), 1, &log).await;
    log.grow(50_000);
    p.push(&log, log.start, None).await;
    let path = |n: u8| format!("/v1/tenant/{}/timeline/{}", ttid(n).tenant_id, ttid(n).timeline_id);
    let dir = node.config.node.data_dir.join(ttid(1).tenant_id.to_string()).join(ttid(1).timeline_id.to_string());
    let (code, text) = node.delete(&path(1)).await;
    assert!(code == 409 && text.contains("proposer") && dir.exists(), "{code} {text}");
    assert_eq!(node.delete(&format!("{}?force=true", path(1))).await.0, 200);
    assert_eq!(node.get(&path(1)).await.0, 404);
    assert_eq!(node.delete(&path(1)).await.0, 404);
    assert!(!dir.exists(), "its files are gone");
    assert_eq!(node.get(&path(2)).await.0, 200, "its neighbour stays");
    node.restart().await;
    assert_eq!(node.get(&path(1)).await.0, 404);
    node.create(ttid(1), &Log::new()).await;
    assert_eq!(node.get(&path(1)).await.0, 200);
}

/// Goal: a directory belongs to one process and one node.
#[tokio::test]
async fn the_directory_is_ours() {
    let node = Node::start().await;
    let second = safekeeper::start(node.config.clone(), tokio_util::sync::CancellationToken::new()).await;
    assert!(second.is_err_and(|e| e.exit_code() == 1), "locked");
    let mut node = node;
    node.stop().await;
    let mut other = node.config.clone();
    other.node.id.0 += 1;
    let other = safekeeper::start(other, tokio_util::sync::CancellationToken::new()).await;
    assert!(other.is_err_and(|e| e.exit_code() == 2), "another node's");
}

/// Goal: people and readers cannot keep a proposer out, and who is refused can read why. Method: all places but the
/// kept ones are held; then somebody asks, and a proposer comes.
#[tokio::test]
async fn places_are_kept_for_proposers() {
    let (node, log) = (Node::start_with(|c| c.node.pg_connections_max = 8).await, Log::new());
    node.create(ttid(1), &log).await;
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(node.dial(ttid(1), "psql").await);
    }
    let mut late = node.dial(ttid(1), "psql").await;
    let refused = late.simple_query("SHOW TIMELINES").await.expect_err("its place is kept for proposers").to_string();
    assert!(refused.contains("too many connections") && refused.contains("53300"), "{refused}");
    let _proposer = Proposer::elected(&node, ttid(1), 1, &log).await;
    held[0].simple_query("SHOW TIMELINES").await.expect("the others are served as before");
}

/// Goal: the existing control plane and its walproposers find what they know. Method: its creation body, twice; then a
/// proposer that tells the system identifier with its greeting and pushes.
#[tokio::test]
async fn the_existing_control_plane_creates_a_timeline() {
    let (node, mut log) = (Node::start().await, Log::new());
    let (t, l) = (ttid(3).tenant_id, ttid(3).timeline_id);
    let body = format!(
        r#"{{"tenant_id":"{t}","timeline_id":"{l}","mconf":{{"generation":1,"members":[{{"id":{NODE},
        "host":"127.0.0.1","pg_port":1}}],"new_members":null}},"pg_version":{PG_VERSION},"system_id":null,
        "wal_seg_size":1048576,"start_lsn":"{}","commit_lsn":null}}"#,
        log.start
    );
    let body = body.replace('\n', " ").into_bytes();
    let (code, text) = node.post(body.clone()).await;
    assert_eq!(code, 201, "{text}");
    let mut p = Proposer::connect(&node, ttid(3), "START_WAL_PUSH (proto_version '3')").await.expect("a stream");
    p.greet(&log).await;
    let vote = p.vote(1).await;
    p.elect(&vote).await;
    let end = log.grow(50_000);
    p.push(&log, log.start, None).await;
    p.commit(end, end).await;
    let s = node.status(ttid(3)).await;
    assert_eq!((s.commit_lsn, s.system_id, s.timeline_start_lsn), (Some(end), SYSTEM, Some(log.start)));
    let (code, text) = node.post(body).await;
    assert_eq!(code, 200, "a repetition changes nothing: {text}");
}
