//! Reads over both ports, byte by byte.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use libpq::{ClientConnection, CopyEvent, CopyReader, CopyWriter};
use pgformat::Lsn;
use pgformat::page::Page;
use proto::api::{ErrorBody, RelationSize, Relations};
use proto::pagestream::{Ask, PagestreamVersion, Reply, Request};
use proto::pg::sqlstate;

use super::fabric::*;
use crate::cluster::key::Key;
use crate::read::model::{ModelReads, ModelVersions};
use crate::read::tests::{LATE, REL, VM, cleared, model, position, tag};

/// A pageserver whose timeline shows `model`: readable from 100, ingested up to 600.
async fn serving(mut model: ModelVersions) -> Fabric {
    // One page comes from a file, so that both ways are taken.
    model.cool(Key::block(tag(REL, 0)));
    let f = Fabric::start_with(Arc::new(disk::FsDisk), |c| c.lsn_wait = Duration::from_millis(50)).await;
    let timeline = f.ps.node.timeline(ttid()).expect("attached");
    let reads = ModelReads { from: Some(Lsn::new(100)), checksums: true, model: Mutex::new(model) };
    timeline.set_reads(Arc::new(reads));
    timeline.set_position(position(600));
    f
}

struct Stream {
    reader: CopyReader,
    writer: CopyWriter,
}

impl Stream {
    async fn open(f: &Fabric, version: &str) -> Stream {
        let session = dial(&f.ps.pg.to_string(), Vec::new()).await;
        let command = format!("pagestream_{version} {} {}", ttid().tenant_id, ttid().timeline_id);
        let (reader, writer) = session.copy_both(&command).await.expect("a stream");
        Stream { reader, writer }
    }

    fn queue(&mut self, message: Bytes) {
        self.writer.queue(&[], message);
    }

    async fn next(&mut self) -> Bytes {
        self.writer.flush().await.expect("sent");
        let event = tokio::time::timeout(Duration::from_secs(10), self.reader.next()).await.expect("an answer in time");
        match event.expect("an event") {
            CopyEvent::Data(bytes) => bytes,
            other => panic!("expected a reply, got {other:?}"),
        }
    }
}

fn exactly(id: u64, lsn: u64, ask: Ask) -> Request {
    Request { id, lsn: Lsn::new(lsn), not_modified_since: Lsn::new(lsn), ask }
}

#[tokio::test]
async fn a_session_of_version_3_byte_by_byte() {
    let f = serving(model()).await;
    let mut stream = Stream::open(&f, "v3").await;
    let be = |n: u64| n.to_be_bytes();
    let rel = [1663u32, 5, 16384].map(u32::to_be_bytes).concat();
    let head = |tag: u8, id: u64| [&[tag][..], &be(id), &be(150), &be(150)].concat();
    let page = |tag, id| [head(tag, id), rel.clone(), vec![0], 0u32.to_be_bytes().to_vec()].concat();
    stream.queue(page(2, 9).into());
    let want = [page(102, 9), cleared(2).0.to_vec()].concat();
    assert!(stream.next().await == want, "the page as of 150, echo first");
    // The second block came later: an error, and the stream goes on.
    let beyond = [head(2, 10), rel.clone(), vec![0], 1u32.to_be_bytes().to_vec()].concat();
    stream.queue(beyond.into());
    let text = "WF013 block 1 of 1663/5/16384 is beyond the end: the relation has 1 blocks at 0/96 \
                (readable are LSNs 0/64 to 0/258)";
    assert_eq!(stream.next().await, [head(103, 10), text.as_bytes().to_vec(), vec![0]].concat());
    let size = [head(1, 11), rel.clone(), vec![0]].concat();
    stream.queue(size.into());
    assert_eq!(stream.next().await, [head(101, 11), rel.clone(), vec![0, 0, 0, 0, 1]].concat());
    stream.queue([head(0, 12), rel.clone(), vec![2]].concat().into());
    assert_eq!(stream.next().await, [head(100, 12), rel, vec![2, 1]].concat());
    let (mut session, _) = ClientConnection::after_copy(stream.reader, stream.writer).await.expect("back to commands");
    assert!(session.simple_query("SHOW VERSION").await.is_ok());
    f.ps.stop().await;
}

#[tokio::test]
async fn many_requests_at_once_are_answered_in_order() {
    let f = serving(model()).await;
    for (name, version) in [("v3", PagestreamVersion::V3), ("v2", PagestreamVersion::V2)] {
        let mut stream = Stream::open(&f, name).await;
        let asks = [
            Ask::Page(tag(REL, 0)),
            Ask::Page(tag(REL, 1)),
            Ask::Nblocks(REL),
            Ask::Exists(LATE),
            Ask::Page(tag(VM, 0)),
        ];
        let requests: Vec<Request> = (0..200)
            .map(|n| {
                let request = exactly(n, 100 + n % 12 * 25, asks[n as usize % asks.len()]);
                if version == PagestreamVersion::V2 { Request { id: 0, ..request } } else { request }
            })
            .collect();
        requests.iter().for_each(|r| stream.queue(r.encode(version)));
        let model = model();
        for request in &requests {
            let reply = Reply::decode(version, stream.next().await, request).expect("the reply to this request");
            let view = crate::read::ReadView {
                versions: &model,
                lsn: request.lsn,
                latest: Lsn::new(600),
                io: crate::read::Io::Files,
            };
            match (request.ask, reply) {
                (Ask::Page(tag), Reply::Page(page)) => assert!(view.page(tag).expect("a page").0[..] == page[..]),
                (Ask::Nblocks(rel), Reply::Nblocks(n)) => assert_eq!(view.rel_size(rel), Ok(n)),
                (Ask::Exists(rel), Reply::Exists(exists)) => assert_eq!(view.exists(rel), Ok(exists)),
                (Ask::Page(tag), Reply::Error(text)) => {
                    let problem = view.page(tag).expect_err("refused here, so refused by the model");
                    assert!(text.starts_with(problem.code()) && text.contains(&problem.to_string()), "{text}");
                }
                (Ask::Nblocks(rel), Reply::Error(_)) => assert!(view.rel_size(rel).is_err()),
                (ask, reply) => panic!("{ask:?} was answered with {reply:?}"),
            }
        }
    }
    f.ps.stop().await;
}

#[tokio::test]
async fn the_lsns_of_a_request_decide_what_is_read() {
    let f = serving(model()).await;
    let mut stream = Stream::open(&f, "v3").await;
    let mut ask = async |lsn, since, ask| {
        let request = Request { id: 1, lsn: Lsn::new(lsn), not_modified_since: Lsn::new(since), ask };
        stream.queue(request.encode(PagestreamVersion::V3));
        Reply::decode(PagestreamVersion::V3, stream.next().await, &request).expect("a reply")
    };
    let code = |reply: Reply| match reply {
        Reply::Error(text) => text.split(' ').next().expect("a code").to_owned(),
        other => panic!("expected an error, got {other:?}"),
    };
    let late = Ask::Page(tag(LATE, 0));
    assert!(matches!(ask(u64::MAX, 550, late).await, Reply::Page(_)), "the latest");
    assert!(matches!(ask(9000, 600, late).await, Reply::Page(_)), "unchanged since what is here");
    assert_eq!(code(ask(9000, 601, late).await), sqlstate::LSN_NOT_REACHED);
    assert_eq!(code(ask(601, 601, late).await), sqlstate::LSN_NOT_REACHED);
    assert_eq!(code(ask(99, 99, late).await), sqlstate::LSN_TOO_OLD);
    assert_eq!(code(ask(0, 0, late).await), sqlstate::INVALID_PARAMETER_VALUE);
    assert_eq!(code(ask(500, 501, late).await), sqlstate::INVALID_PARAMETER_VALUE);
    assert_eq!(code(ask(600, 600, Ask::Page(tag(REL, 0))).await), sqlstate::RELATION_DROPPED);
    assert_eq!(code(ask(499, 499, late).await), sqlstate::UNDEFINED_TABLE);
    assert_eq!(code(ask(600, 600, Ask::Page(tag(LATE, 1))).await), sqlstate::PAGE_NOT_REDONE);
    assert_eq!(code(ask(600, 600, Ask::Page(tag(LATE, 2))).await), sqlstate::DATA_CORRUPTED);
    let (_, metrics) = f.ps.get("/metrics").await;
    let metrics = String::from_utf8(metrics.to_vec()).expect("text");
    for (code, count) in [("WF016", 2), ("22023", 2), ("WF017", 1), ("XX001", 1)] {
        let line = format!("walfabric_pageserver_reads_refused_total{{sqlstate=\"{code}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
    f.ps.stop().await;
}

#[tokio::test]
async fn wal_that_comes_in_time_is_waited_for() {
    let f = Fabric::start_with(Arc::new(disk::FsDisk), |_| {}).await;
    let timeline = f.ps.node.timeline(ttid()).expect("attached");
    let reads = ModelReads { from: Some(Lsn::new(100)), checksums: true, model: Mutex::new(model()) };
    timeline.set_reads(Arc::new(reads));
    timeline.set_position(position(200));
    let mut stream = Stream::open(&f, "v3").await;
    let (now, later) = (exactly(1, 150, Ask::Nblocks(REL)), exactly(2, 300, Ask::Nblocks(REL)));
    for request in [now, later, now] {
        stream.queue(request.encode(PagestreamVersion::V3));
    }
    let first = Reply::decode(PagestreamVersion::V3, stream.next().await, &now);
    assert_eq!(first, Ok(Reply::Nblocks(1)), "what needs no waiting is not held back by what does");
    timeline.set_position(position(310));
    assert_eq!(Reply::decode(PagestreamVersion::V3, stream.next().await, &later), Ok(Reply::Nblocks(1)));
    assert_eq!(Reply::decode(PagestreamVersion::V3, stream.next().await, &now), Ok(Reply::Nblocks(1)));
    f.ps.stop().await;
}

#[tokio::test]
async fn what_is_no_request_ends_the_stream() {
    let f = serving(model()).await;
    for bad in [&[][..], &[99], &[2, 0, 0], &[7; 42]] {
        let mut stream = Stream::open(&f, "v3").await;
        let good = exactly(1, 150, Ask::Nblocks(REL));
        stream.queue(good.encode(PagestreamVersion::V3));
        stream.queue(Bytes::copy_from_slice(bad));
        assert_eq!(
            Reply::decode(PagestreamVersion::V3, stream.next().await, &good),
            Ok(Reply::Nblocks(1)),
            "before {bad:?}"
        );
        match stream.reader.next().await.expect("an event") {
            CopyEvent::Error(e) => assert_eq!(e.code, sqlstate::PROTOCOL_VIOLATION, "{bad:?}"),
            other => panic!("{bad:?} was answered with {other:?}"),
        }
    }
    let mut session = dial(&f.ps.pg.to_string(), Vec::new()).await;
    let unknown = format!("pagestream_v3 {} {}", ttid().tenant_id, "0".repeat(32));
    let error = session.simple_query(&unknown).await.expect_err("no such timeline");
    assert_eq!(error.server_error().map(|e| e.code.as_str()), Some(sqlstate::TIMELINE_NOT_FOUND));
    f.ps.stop().await;
}

#[tokio::test]
async fn http_reads_exactly_at_an_lsn_with_checksums() {
    let f = serving(model()).await;
    let get = async |rest: &str| f.ps.get(&format!("{}/{rest}", timeline_path())).await;
    let (status, body) = get("page?rel=1663/5/16384&block=0&lsn=0/96").await;
    let page = Page::from_slice(&body).expect("8192 bytes");
    assert_eq!((status, page.stored_checksum()), (200, page.checksum(0)));
    let mut bare = page;
    bare.set_checksum(0);
    assert!(*bare == cleared(2));
    let (status, body) = get("page?rel=1663/5/16384_vm&block=0&lsn=0/96").await;
    assert!(status == 200 && body.iter().all(|b| *b == 0), "a page of zeros has no checksum");

    let refused = async |rest: &str| {
        let (status, body) = get(rest).await;
        let body: ErrorBody = serde_json::from_slice(&body).expect("an error");
        (status, body.error.split(' ').next().unwrap_or_default().to_owned())
    };
    let code = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(refused("page?rel=1663/5/16384&block=1&lsn=0/96").await, code(416, sqlstate::BEYOND_END));
    assert_eq!(refused("page?rel=1663/5/16384&block=0").await, code(404, sqlstate::RELATION_DROPPED));
    assert_eq!(refused("page?rel=1663/5/1&block=0").await, code(404, sqlstate::UNDEFINED_TABLE));
    assert_eq!(refused("page?rel=1663/5/16384&block=0&lsn=0/1").await, code(410, sqlstate::LSN_TOO_OLD));
    let future = "page?rel=1663/5/16384&block=0&lsn=0/FFFF&wait_ms=1";
    assert_eq!(refused(future).await, code(504, sqlstate::LSN_NOT_REACHED));
    assert_eq!(refused("page?rel=1663/5/16390&block=2").await, code(500, sqlstate::DATA_CORRUPTED));
    for bad in ["page", "page?rel=x&block=0", "page?rel=1/2/3&block=-1", "page?rel=1/2/3&block=0&lsn=7", "slru?kind=x"]
    {
        assert_eq!(get(bad).await.0, 400, "{bad}");
    }

    let (_, body) = get("relation?rel=1663/5/16384&lsn=0/FA").await;
    let size: RelationSize = serde_json::from_slice(&body).expect("a size");
    assert_eq!((size.lsn, size.blocks), (Some(Lsn::new(0xFA)), Some(2)));
    let (_, body) = get("relation?rel=1663/5/16384").await;
    let size: RelationSize = serde_json::from_slice(&body).expect("a size");
    assert_eq!((size.lsn, size.blocks), (Some(Lsn::new(600)), None), "gone, at the latest LSN");
    let (_, body) = get("relations?db=5&lsn=0/FA").await;
    let all: Relations = serde_json::from_slice(&body).expect("relations");
    let names: Vec<&str> = all.relations.iter().map(|r| r.rel.as_str()).collect();
    assert_eq!((all.bytes, names), (3 * 8192, vec!["1663/5/16384", "1663/5/16384_vm"]));
    let (_, body) = f.ps.get("/v1/show/layers").await;
    let layers: serde_json::Value = serde_json::from_slice(&body).expect("rows");
    assert_eq!((layers[0]["kind"].as_str(), layers[0]["versions"].as_str()), (Some("open"), Some("3")));
    let mut session = dial(&f.ps.pg.to_string(), Vec::new()).await;
    let rows = session.simple_query("SHOW LAYERS").await.expect("rows");
    assert_eq!(rows[0].rows.len(), 1);
    let config = session.simple_query("SHOW CONFIG").await.expect("rows");
    let value = |name: &str| config[0].rows.iter().find(|r| r[0].as_deref() == Some(name)).and_then(|r| r[1].clone());
    assert_eq!(value("advertise_http"), Some(f.ps.http.to_string()), "one port tells the other");
    f.ps.stop().await;
}

#[tokio::test]
async fn a_timeline_without_pages_says_so() {
    let f = Fabric::start().await;
    let (status, body) = f.ps.get(&format!("{}/page?rel=1663/5/1&block=0", timeline_path())).await;
    let body: ErrorBody = serde_json::from_slice(&body).expect("an error");
    assert!(status == 503 && body.error.contains("not imported"), "{}", body.error);
    let mut stream = Stream::open(&f, "v3").await;
    let request = exactly(1, 150, Ask::Nblocks(REL));
    stream.queue(request.encode(PagestreamVersion::V3));
    let reply = Reply::decode(PagestreamVersion::V3, stream.next().await, &request).expect("a reply");
    assert!(matches!(&reply, Reply::Error(text) if text.starts_with(sqlstate::CANNOT_CONNECT_NOW)), "{reply:?}");
    f.ps.stop().await;
}
