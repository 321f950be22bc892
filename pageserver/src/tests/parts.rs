//! Panics planted into every part of the server and of a timeline.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use disk::FsDisk;
use node::exit;
use node::parts::Part;
use proto::api::AttachRequest;
use proto::api::PageserverTimelineState;
use proto::id::{TenantTimelineId, TimelineId};
use tokio_util::sync::CancellationToken;

use super::fabric::*;
use crate::planted;
use crate::server::start_parts;

#[tokio::test]
async fn a_panic_in_any_part_ends_the_process_with_an_error() {
    for planted in 0..5 {
        let dir = tempfile::tempdir().expect("a directory");
        let plant = |mut parts: Vec<Part>| {
            assert_eq!(parts.len(), 5, "each part gets its panic");
            parts[planted] = Part::new(parts[planted].name(), async { panic!("planted") });
            parts
        };
        let nowhere = "127.0.0.1:1".parse().expect("an address");
        let (config, cancel) = (config(nowhere, dir.path().join("ps")), CancellationToken::new());
        let (server, _) = start_parts(config, cancel, Arc::new(FsDisk), plant).await.expect("it starts");
        let code = tokio::time::timeout(Duration::from_secs(20), server.stopped()).await.expect("it ends");
        assert_eq!(code, exit::ERROR, "part {planted}");
    }
}

#[tokio::test]
async fn a_panic_in_a_part_of_a_timeline_stops_that_one_and_readiness_says_why() {
    let f = Fabric::start().await;
    let node = f.ps.node.clone();
    for (last, part) in [(1, "chooser"), (2, "choosing"), (3, "upkeep"), (4, "import")] {
        let ttid = TenantTimelineId::new(ttid().tenant_id, TimelineId::new([last; 16]));
        planted::plant(ttid, part);
        let request: AttachRequest = attach_request();
        if part == "import" {
            crate::attach::import(&node, ttid, request, "host=127.0.0.1 port=1".to_owned()).await.expect("it begins");
        } else {
            crate::attach::attach(&node, ttid, request).await.expect("attached");
        }
        let timeline = node.timeline(ttid).expect("listed");
        let why = timeline.troubles().wait_for(|t| t.stopped.is_some()).await.expect("told").stopped.clone();
        let shown = if part == "choosing" { "chooser" } else { part };
        assert_eq!(why, Some(format!("its {shown} panicked: planted in the {part}")));
        assert_eq!(timeline.status(node.config.node.id).state, PageserverTimelineState::Stopped);
        let reason = format!("timeline {ttid} is stopped: its {shown} panicked: planted in the {part}");
        assert!(node.readiness().reasons.contains(&reason), "{:?}", node.readiness());
    }
    // The neighbour goes on.
    let sk = f.safekeeper(1, START);
    let (mut pusher, _) = sk.push_after(0).await;
    let mut b = builder();
    b.noop(1000);
    let (at, wal) = b.take();
    pusher.wal(at, wal).await;
    pusher.until_durable(b.position()).await;
    f.ps.stop().await;
}

#[tokio::test]
async fn a_panic_in_a_stream_stops_the_timeline() {
    let f = Fabric::start().await;
    let timeline = f.ps.node.timeline(ttid()).expect("listed");
    timeline.stream_panics.store(true, Ordering::Relaxed);
    let sk = f.safekeeper(1, START);
    let (_pusher, _) = sk.push_after(0).await;
    let why = timeline.troubles().wait_for(|t| t.stopped.is_some()).await.expect("told").stopped.clone();
    assert_eq!(why.as_deref(), Some("its push stream panicked: planted"));
    f.ps.stop().await;
}
