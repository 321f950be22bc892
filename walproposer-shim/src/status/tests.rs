//! What a status page, a probe and the broker are told, state by state.

use std::time::{Duration, Instant};

use node::Aged;
use pgformat::Tli;
use proto::api::ShimPhase;
use proto::id::SystemId;

use super::*;
use crate::testing::config;

#[test]
fn protected_needs_a_stream_and_a_clean_verdict() {
    let config = config(&[]);
    let shared = StatusBoard::new(&config);
    assert!(!shared.readiness().ready);
    shared.set_verdict(GuardVerdict::default());
    shared.stopped("the primary is away".to_owned(), false);
    assert!(shared.readiness().reasons[0].contains("away"));
    let at = Some(Lsn::new(9));
    shared.progress(at, false, stream(10, at), std::iter::empty());
    let status = shared.status(&config);
    assert!(!status.protected && status.state == ShimPhase::NoQuorum, "WAL flows, and nobody acknowledges it");
    assert!(status.reasons[0].contains("no quorum"), "{:?}", status.reasons);
    shared.progress(at, true, stream(10, at), std::iter::empty());
    let status = shared.status(&config);
    assert!(status.protected && status.reasons.is_empty());
    assert_eq!((status.state, status.reported_lsn), (ShimPhase::Streaming, Some(Lsn::new(9))));
    shared.session_over();
    let status = shared.status(&config);
    assert_eq!((status.reported_lsn, status.commit_lsn), (None, Some(Lsn::new(9))));
    assert!(!status.protected);
}

/// A stream that has received up to `received` and reported `at`.
fn stream(received: u64, at: Option<Lsn>) -> Option<StreamPositions> {
    Some(StreamPositions { received: Lsn::new(received), ring_bytes: 0, reported: at, reported_apply: at })
}

fn before(seconds: u64) -> Instant {
    Instant::now().checked_sub(Duration::from_secs(seconds)).expect("up for a minute")
}

fn streaming() -> StatusBoard {
    let shared = StatusBoard::new(&config(&[]));
    shared.set_verdict(GuardVerdict::default());
    let at = Some(Lsn::new(16));
    shared.progress(at, true, stream(16, at), std::iter::empty());
    assert!(shared.readiness().ready && shared.writable().ready);
    shared
}

#[test]
fn an_old_verdict_counts_as_none() {
    let shared = streaming();
    shared.lock().verdict = Aged::at(GuardVerdict::default(), before(5));
    assert!(shared.readiness().ready, "younger than two periods");
    shared.lock().verdict = Aged::at(GuardVerdict::default(), before(8));
    assert_eq!(shared.readiness().reasons, ["not checked for 8 s"]);
    assert!(!shared.status(&config(&[])).protected);
    assert!(shared.writable().ready, "commits reach the quorum all the same");
    assert!(!shared.set_verdict(GuardVerdict::default()), "nothing new");
    assert!(shared.readiness().ready, "but new enough");
}

#[test]
fn a_proposer_that_is_silent_is_not_believed() {
    let shared = streaming();
    shared.lock().seen = before(9);
    assert_eq!(shared.writable().reasons, ["the proposer has said nothing for 9 s"]);
    assert!(!shared.readiness().ready);
}

#[test]
fn wal_that_waits_while_the_commit_position_stands_still_is_a_reason() {
    let shared = streaming();
    let one = |flush| PeerStatus {
        peer: PeerId(0),
        node: Some(NodeId(1)),
        connected: true,
        streaming: true,
        term: Term(1),
        flush_lsn: Some(Lsn::new(flush)),
        commit_lsn: None,
    };
    // One member has it all.
    let more = |end, commit| {
        let (at, ahead) = (Some(Lsn::new(commit)), one(end));
        shared.progress(at, true, stream(end, at), std::iter::once((&ahead, None)));
    };
    more(32, 16);
    assert!(shared.readiness().ready, "it has only just come");
    shared.lock().waiting_since = Some(before(4));
    more(40, 16);
    let now = shared.readiness();
    assert!(now.reasons[0].contains("up to 0/28") && now.reasons[0].contains("stood at 0/10 for 4 s"), "{now:?}");
    assert!(!shared.writable().ready);
    more(48, 24);
    assert!(shared.readiness().ready, "slow, but it moves");
    shared.lock().waiting_since = Some(before(4));
    more(48, 48);
    assert!(shared.readiness().ready && shared.lock().waiting_since.is_none(), "nothing waits");
    let (at, same) = (Some(Lsn::new(48)), one(48));
    let half = |end| shared.progress(at, true, stream(end, at), std::iter::once((&same, None)));
    half(1000);
    assert!(shared.lock().waiting_since.is_none(), "the beginning of a record");
    half(300 << 10);
    assert!(shared.lock().waiting_since.is_some(), "too much for that");
}

#[test]
fn a_safekeeper_that_refuses_for_good_is_a_reason_until_it_follows() {
    let shared = streaming();
    shared.apart(PeerId(0), "primary_epoch 1 is older than 2");
    assert!(shared.readiness().reasons[0].contains("gets no WAL: primary_epoch 1 is older"));
    assert!(shared.writable().ready, "commits reach the quorum all the same");
    let (at, mut peer) = (
        Some(Lsn::new(16)),
        PeerStatus {
            peer: PeerId(0),
            node: Some(NodeId(1)),
            connected: false,
            streaming: false,
            term: Term(1),
            flush_lsn: None,
            commit_lsn: None,
        },
    );
    for (streaming, ready) in [(false, false), (true, true)] {
        (peer.connected, peer.streaming) = (streaming, streaming);
        shared.progress(at, true, stream(16, at), std::iter::once((&peer, None)));
        assert_eq!(shared.readiness().ready, ready);
    }
}

#[test]
fn the_broker_hears_of_a_primary_only_when_there_is_one() {
    let config = config(&[]);
    let shared = StatusBoard::new(&config);
    assert!(shared.record(&config, "x").is_none());
    shared.set_identity(PrimaryIdentity { system_id: SystemId(7), tli: Tli(1), pid: 3 });
    assert!(shared.record(&config, "x").is_none(), "another shim may have the slot");
    shared.set_at_work(true);
    let record = shared.record(&config, "127.0.0.1:9").expect("a primary is known");
    assert_eq!((record.term, record.protected), (None, false));
    shared.set_verdict(GuardVerdict::default());
    shared.progress(None, true, stream(10, None), std::iter::empty());
    assert!(shared.record(&config, "x").is_some_and(|r| r.protected));
    shared.session_over();
    let record = shared.record(&config, "x").expect("the primary is still known");
    assert!(!record.protected, "a session that is over must not leave a good record behind");
    shared.set_identity(PrimaryIdentity { system_id: SystemId(7), tli: Tli(1), pid: 4 });
    shared.set_at_work(false);
    assert!(shared.record(&config, "x").is_none(), "the record belongs to the shim that has the slot");
}
