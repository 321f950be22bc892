//! Timelines end to end, through the handles that sessions use: the real core and storage over the disk that forgets,
//! and once over the real one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use disk::{Disk, FsDisk};
use harness::{Bounded as _, PATIENCE};
use pgformat::wal::build::WalBuilder;
use pgformat::{Lsn, SegSize, Tli};
use proto::api::{CreateTimelineRequest, TimelineSource};
use proto::command::StartWalPush;
use proto::consensus::{
    AcceptorMessage, AppendRequest, AppendResponse, ProposerElected, ProposerGreeting, ProposerMessage, ProtoVersion,
    TermLsn, VoteRequest,
};
use proto::feedback::PageserverFeedback;
use proto::id::{NodeId, PrimaryEpoch, SystemId, TenantTimelineId, Term};
use tokio::time::timeout;

use super::*;
use crate::core::ControlState;
use crate::storage::scan::stream_config;
use crate::storage::tests::{prehistory, state};
use disk::{FakeDisk, IoFault, Lie};

const DEADLINE: Duration = Duration::from_secs(20);

fn push(version: ProtoVersion, primary_epoch: Option<PrimaryEpoch>) -> StartWalPush {
    StartWalPush { version, allow_timeline_creation: false, primary_epoch, lazy_feedback: false }
}

fn request(state: &ControlState) -> CreateTimelineRequest {
    CreateTimelineRequest {
        tenant_id: state.ttid.tenant_id,
        timeline_id: state.ttid.timeline_id,
        mconf: state.mconf.clone(),
        pg_version_num: state.pg_version_num,
        system_id: state.system_id,
        wal_seg_size: state.seg_size,
        start_lsn: state.timeline_start_lsn.expect("a start"),
        source: state.source,
        primary_epoch: state.primary_epoch,
        pg_history: state.pg_history.clone(),
        prehistory_len: prehistory(state).len() as u64,
    }
}

fn config() -> TimelinesConfig {
    TimelinesConfig::new(PathBuf::from("/data"), NodeId(1), false)
}

fn open(disk: &FakeDisk, config: TimelinesConfig) -> Timelines {
    Timelines::open(Arc::new(disk.clone()), config).expect("opened")
}

async fn created(disk: &FakeDisk, config: TimelinesConfig) -> (Timelines, TimelineHandle) {
    let timelines = open(disk, config);
    let state = state();
    let made = timelines.create(request(&state), prehistory(&state)).await.expect("created");
    assert_eq!(made, Creation::Created);
    let handle = timelines.get(state.ttid).expect("it is there");
    (timelines, handle)
}

async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(DEADLINE, work).await.unwrap_or_else(|_| panic!("{what}: not within {DEADLINE:?}"))
}

/// Waits until positions are as asked.
async fn until(
    handle: &TimelineHandle,
    what: &str,
    as_asked: impl FnMut(&TimelinePositions) -> bool,
) -> TimelinePositions {
    let mut positions = handle.positions();
    let found = within(what, positions.wait_for(as_asked)).await;
    found.unwrap_or_else(|_| panic!("{what}: the timeline ended")).clone()
}

/// An elected proposer with its WAL.
struct Proposer {
    sender: PortSender,
    receiver: PortReceiver,
    term: Term,
    wal: WalBuilder,
    /// All WAL since the timeline's start.
    all: Vec<u8>,
    sent: Lsn,
}

impl Proposer {
    async fn greeted(handle: &TimelineHandle, command: StartWalPush) -> (PortSender, PortReceiver) {
        let port = handle.connect_proposer(&command).expect("connected");
        let (mut sender, mut receiver) = port.split();
        let state = state();
        let greeting = ProposerGreeting {
            ttid: handle.ttid(),
            mconf: state.mconf.clone(),
            pg_version_num: state.pg_version_num,
            system_id: state.system_id,
            seg_size: state.seg_size,
            tli: None,
        };
        sender.send(ProposerMessage::Greeting(greeting)).await.expect("sent");
        let answer = within("greeting", receiver.recv()).await;
        assert!(matches!(answer, Some(PortEvent::Message(AcceptorMessage::Greeting(_)))), "{answer:?}");
        (sender, receiver)
    }

    /// Elected at the end of what the safekeeper has, which must be a prefix of `all`.
    async fn elect(handle: &TimelineHandle, term: u64, all: Vec<u8>) -> Proposer {
        Proposer::elect_by(handle, push(ProtoVersion::V3, Some(PrimaryEpoch(1))), term, all).await
    }

    async fn elect_by(handle: &TimelineHandle, command: StartWalPush, term: u64, mut all: Vec<u8>) -> Proposer {
        let (mut sender, mut receiver) = Proposer::greeted(handle, command).await;
        let state = state();
        let generation = state.mconf.generation;
        let term = Term(term);
        sender.send(ProposerMessage::VoteRequest(VoteRequest { generation, term })).await.expect("sent");
        let Some(PortEvent::Message(AcceptorMessage::VoteResponse(vote))) = within("vote", receiver.recv()).await
        else {
            panic!("no vote");
        };
        assert!(vote.vote_given);
        let at = vote.flush_lsn.expect("a log");
        let history = vote.history.with(TermLsn { term, lsn: at }).expect("rising");
        let elected = ProposerElected { generation, term, start_streaming_at: at, history };
        sender.send(ProposerMessage::Elected(elected)).await.expect("sent");
        let start = state.timeline_start_lsn.expect("a start");
        all.truncate(usize::try_from(at.bytes_since(start)).expect("small"));
        let prev = handle.status().last_record_start_lsn;
        let wal = WalBuilder::new(stream_config(&state).expect("known"), at, prev);
        Proposer { sender, receiver, term, wal, all, sent: at }
    }

    /// Sends what was built, in messages of at most the wire's size.
    async fn send(&mut self) {
        let (mut at, mut wal) = self.wal.take();
        assert_eq!(at, self.sent);
        self.all.extend_from_slice(&wal);
        while !wal.is_empty() {
            let part = wal.split_to(wal.len().min(proto::consensus::MAX_SEND_SIZE));
            let end = at.add(part.len() as u64);
            self.append(at, part, None).await;
            at = end;
        }
        self.sent = at;
    }

    async fn append(&mut self, begin: Lsn, wal: Bytes, commit: Option<Lsn>) {
        let append = AppendRequest {
            generation: state().mconf.generation,
            term: self.term,
            begin_lsn: begin,
            end_lsn: begin.add(wal.len() as u64),
            commit_lsn: commit,
            truncate_lsn: None,
            wal,
        };
        self.sender.send(ProposerMessage::Append(append)).await.expect("sent");
    }

    async fn answer(&mut self) -> AppendResponse {
        match within("an answer", self.receiver.recv()).await {
            Some(PortEvent::Message(AcceptorMessage::Append(response))) => response,
            other => panic!("instead of an answer: {other:?}"),
        }
    }

    async fn flushed(&mut self, end: Lsn) -> AppendResponse {
        loop {
            let response = self.answer().await;
            if response.flush_lsn >= Some(end) {
                return response;
            }
        }
    }

    /// Builds records of `bytes` altogether, sends them, and waits until they are durable and committed.
    async fn write(&mut self, handle: &TimelineHandle, bytes: u64) -> Lsn {
        let stop = self.wal.position().add(bytes);
        while self.wal.position() < stop {
            self.wal.noop(3000);
        }
        let end = self.wal.position();
        self.send().await;
        self.flushed(end).await;
        self.append(end, Bytes::new(), Some(end)).await;
        until(handle, "commit", |p| p.commit_lsn == Some(end)).await;
        end
    }
}

async fn read_to(reader: &mut TimelineWalReader, end: Lsn) -> Vec<u8> {
    let mut out = Vec::new();
    while reader.position() < end {
        within("WAL", reader.wait()).await.expect("readable");
        let before = reader.position();
        if let Some(chunk) = reader.read(100_000).await.expect("readable") {
            assert_eq!((chunk.start, chunk.end), (before, reader.position()), "no gap, no overlap");
            assert!(chunk.end == chunk.available || chunk.end.page_offset() == 0, "cut inside a page");
            chunk.bytes.iter().for_each(|b| out.extend_from_slice(b));
        }
    }
    out
}

#[tokio::test]
async fn wal_is_written_acknowledged_committed_read_and_there_after_a_restart() {
    let disk = FakeDisk::new(1);
    let (timelines, handle) = created(&disk, config()).await;
    let start = state().timeline_start_lsn.expect("a start");
    let mut p = Proposer::elect(&handle, 1, Vec::new()).await;
    // A reader that waits before there is anything, and one that comes late and begins with the prehistory.
    let mut early = handle.wal_reader(ReadMode::Committed, start).expect("a reader");
    let end = p.write(&handle, 3 << 20).await;
    assert_eq!(read_to(&mut early, end).await, p.all);
    let first = start.segment_start(SegSize::new(1 << 20).expect("1 MiB"));
    let mut late = handle.wal_reader(ReadMode::Committed, first).expect("a reader");
    let mut expected = prehistory(&state()).to_vec();
    expected.extend_from_slice(&p.all);
    assert_eq!(read_to(&mut late, end).await, expected);
    let below = handle.wal_reader(ReadMode::Committed, Lsn::new(first.get() - 8));
    assert!(matches!(below, Err(WalReadError::BelowStart { .. })));
    // A switch: the log ends at the next segment, its fill reads as zeros whether it came or not.
    p.wal.switch();
    let end = p.write(&handle, 100_000).await;
    assert_eq!(read_to(&mut late, end).await, p.all[expected.len() - prehistory(&state()).len()..]);
    let status = handle.status();
    assert_eq!((status.flush_lsn, status.commit_lsn, status.term), (Some(end), Some(end), Term(1)));
    assert!(status.streaming && status.stopped.is_none() && status.wal_bytes >= 4 << 20);
    timelines.shutdown().await;
    assert!(handle.connect_proposer(&push(ProtoVersion::V3, Some(PrimaryEpoch(1)))).is_err());
    assert!(matches!(within("the end", late.wait()).await, Err(WalReadError::Closed)));

    let timelines = open(&disk.after_power_loss(&mut fastrand::Rng::with_seed(3)), config());
    let handle = timelines.get(state().ttid).expect("loaded");
    let again = handle.status();
    assert_eq!((again.flush_lsn, again.commit_lsn, again.term), (Some(end), Some(end), Term(1)));
    assert_eq!(again.last_record_start_lsn, status.last_record_start_lsn);
    let mut p = Proposer::elect(&handle, 2, p.all).await;
    let end = p.write(&handle, 500_000).await;
    let mut reader = handle.wal_reader(ReadMode::Committed, start).expect("a reader");
    assert_eq!(read_to(&mut reader, end).await, p.all);
}

#[tokio::test]
async fn a_recovery_reader_sees_uncommitted_wal_and_ends_with_the_term() {
    let disk = FakeDisk::new(1);
    let (_timelines, handle) = created(&disk, config()).await;
    let start = state().timeline_start_lsn.expect("a start");
    let mut p = Proposer::elect(&handle, 1, Vec::new()).await;
    let wrong = handle.wal_reader(ReadMode::Recovery { term: Term(7) }, start);
    assert!(matches!(wrong, Err(WalReadError::TermChanged { .. })));
    let mut reader = handle.wal_reader(ReadMode::Recovery { term: Term(1) }, start).expect("a reader");
    let end = p.wal.noop(50_000).end;
    p.send().await;
    assert_eq!(read_to(&mut reader, end).await, p.all);
    assert!(handle.positions().borrow().commit_lsn < Some(end));
    let other = Proposer::elect(&handle, 2, p.all.clone()).await;
    assert!(matches!(within("the end", reader.wait()).await, Err(WalReadError::TermChanged { .. })));
    // The deposed one is told the new term.
    p.append(end, Bytes::new(), None).await;
    let told = loop {
        let told = p.answer().await;
        if told.term != Term(1) {
            break told;
        }
    };
    assert_eq!((told.term, told.flush_lsn), (Term(2), None));
    drop(other);
}

#[tokio::test]
async fn feedback_reaches_the_proposer_at_once_and_a_new_one_with_its_first_answer() {
    let disk = FakeDisk::new(1);
    let (_timelines, handle) = created(&disk, config()).await;
    let mut p = Proposer::elect(&handle, 1, Vec::new()).await;
    let end = p.write(&handle, 10_000).await;
    let feedback = |lsn| PageserverFeedback { last_received_lsn: Some(lsn), ..PageserverFeedback::default() };
    handle.record_feedback(NodeId(5), feedback(end));
    let told = loop {
        if let Some(told) = p.answer().await.pageserver_feedback {
            break told;
        }
    };
    assert_eq!(told, feedback(end));
    let all = std::mem::take(&mut p.all);
    drop(p);
    until(&handle, "disconnect", |now| !now.streaming).await;
    let mut p = Proposer::elect(&handle, 2, all).await;
    p.append(p.sent, Bytes::new(), None).await;
    assert_eq!(p.answer().await.pageserver_feedback, Some(feedback(end)));
}

#[tokio::test]
async fn a_lazy_proposer_gets_feedback_with_the_next_answer_and_no_answer_that_says_nothing_new() {
    let disk = FakeDisk::new(1);
    let (_timelines, handle) = created(&disk, config()).await;
    let lazy = StartWalPush { lazy_feedback: true, ..push(ProtoVersion::V3, Some(PrimaryEpoch(1))) };
    let mut p = Proposer::elect_by(&handle, lazy, 1, Vec::new()).await;
    let began = std::time::Instant::now();
    let end = p.write(&handle, 10_000).await;
    let feedback = PageserverFeedback { last_received_lsn: Some(end), ..PageserverFeedback::default() };
    handle.record_feedback(NodeId(5), feedback.clone());
    // The commit position that `write` told last is not answered: what comes next belongs to new WAL.
    p.wal.noop(100);
    let next = p.wal.position();
    p.send().await;
    let mut answer = p.answer().await;
    // On a machine that stood still for long, what was told last counts as a heartbeat.
    let held_up = began.elapsed() > Duration::from_millis(400);
    assert!(held_up || answer.flush_lsn == Some(next), "{answer:?}");
    let mut told = answer.pageserver_feedback.take();
    while answer.flush_lsn < Some(next) {
        answer = p.answer().await;
        told = told.or(answer.pageserver_feedback.take());
    }
    assert_eq!(told, Some(feedback));
    // A heartbeat, which comes after a pause, is answered.
    within("an answer to a heartbeat", async {
        loop {
            p.append(next, Bytes::new(), Some(next)).await;
            tokio::select! {
                answer = p.answer() => break assert_eq!(answer.flush_lsn, Some(next)),
                () = tokio::time::sleep(Duration::from_millis(20)) => {} // between two looks
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_full_disk_stops_acknowledgements_and_heals_without_loss() {
    let disk = FakeDisk::new(1);
    let small = TimelinesConfig { queue_bytes: 256 << 10, ..config() };
    let (_timelines, handle) = created(&disk, small).await;
    let mut p = Proposer::elect(&handle, 1, Vec::new()).await;
    let before = p.write(&handle, 1000).await;
    disk.limit(Some(0));
    while p.wal.position() < before.add(3 << 20) {
        p.wal.noop(3000);
    }
    let end = p.wal.position();
    let refused = async {
        let now = until(&handle, "stopped", |now| now.stopped.is_some()).await;
        assert_eq!(now.stopped.expect("stopped").code, "53100");
        assert!(handle.status().stopped.is_some_and(|why| why.contains("disk full")));
        assert!(handle.connect_proposer(&push(ProtoVersion::V3, Some(PrimaryEpoch(1)))).is_err(), "says so at once");
        let stuck = handle.positions().borrow().flush_lsn;
        disk.limit(None);
        stuck
    };
    // The sender waits: its queue is bounded in bytes. Then it goes on by itself.
    let (stuck, ()) = tokio::join!(refused, p.send());
    assert!(stuck < Some(end));
    p.flushed(end).await;
    let now = until(&handle, "healed", |now| now.stopped.is_none()).await;
    assert_eq!(now.flush_lsn, Some(end));
    p.append(end, Bytes::new(), Some(end)).await;
    let mut reader = handle.wal_reader(ReadMode::Committed, state().timeline_start_lsn.expect("a start")).expect("one");
    assert_eq!(read_to(&mut reader, end).await, p.all);
}

#[tokio::test]
async fn a_failed_fdatasync_stops_the_timeline_until_everything_was_written_anew() {
    let disk = FakeDisk::new(1);
    let (_timelines, handle) = created(&disk, config()).await;
    let mut p = Proposer::elect(&handle, 1, Vec::new()).await;
    let good = p.write(&handle, 200_000).await;
    disk.fail_times(IoFault::Sync, 1);
    let end = p.wal.noop(5000).end;
    p.send().await;
    let closed = loop {
        match within("the end", p.receiver.recv()).await {
            Some(PortEvent::Close(error)) => break error,
            Some(PortEvent::Message(AcceptorMessage::Append(a))) => assert!(a.flush_lsn <= Some(good), "not synced"),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(closed.code, "58030");
    assert!(
        p.sender
            .send(ProposerMessage::VoteRequest(VoteRequest { generation: state().mconf.generation, term: Term(9) }))
            .await
            .is_err()
    );
    until(&handle, "healed", |now| now.stopped.is_none()).await;
    // It was opened anew: what was written is there, was written again and synced, and may be reported.
    let reported = handle.status().flush_lsn;
    assert_eq!(reported, Some(end));
    let lost_power = open(&disk.after_power_loss(&mut fastrand::Rng::with_seed(1)), config());
    assert_eq!(lost_power.get(state().ttid).expect("loaded").status().flush_lsn, Some(end));
    let mut p = Proposer::elect(&handle, 2, p.all).await;
    let end = p.write(&handle, 300_000).await;
    let mut reader = handle.wal_reader(ReadMode::Committed, state().timeline_start_lsn.expect("a start")).expect("one");
    assert_eq!(read_to(&mut reader, end).await, p.all);
}

#[tokio::test]
async fn few_questions_about_wal_wait_at_a_time() {
    let disk = FakeDisk::new(1);
    let (_timelines, handle) = created(&disk, config()).await;
    let mut p = Proposer::elect(&handle, 1, Vec::new()).await;
    let end = p.write(&handle, 10_000).await;
    let from = state().timeline_start_lsn.expect("a start");
    // Whoever reads would give its place back while others still ask: nobody reads before all have asked.
    let turn = handle.shared().doubts.turn.lock().await;
    let mut all = std::pin::pin!(futures::future::join_all((0..8).map(|_| handle.check_wal(from, end))));
    assert!(futures::poll!(&mut all).is_pending(), "five wait for the turn");
    drop(turn);
    let asked = all.await;
    let outcomes: Vec<bool> = asked.iter().map(|a| matches!(a, Ok(None))).collect();
    assert_eq!(outcomes, [true, true, true, true, true, false, false, false], "{asked:?}");
    assert!(asked[5..].iter().all(|a| matches!(a, Err(reader::WalReadError::Busy))), "{asked:?}");
    assert!(handle.check_wal(from, end).await.is_ok(), "places come back");
}

#[tokio::test]
async fn an_idle_timeline_gives_back_its_prepared_segment() {
    let disk = FakeDisk::new(1);
    let quick = TimelinesConfig { idle_after: Duration::from_millis(50), ..config() };
    let (_timelines, handle) = created(&disk, quick).await;
    let mut p = Proposer::elect(&handle, 1, Vec::new()).await;
    p.write(&handle, 10_000).await;
    within("rest", async {
        while handle.wal_bytes() != 1 << 20 {
            tokio::time::sleep(Duration::from_millis(5)).await; // between two looks
        }
    })
    .await;
    let end = p.write(&handle, 2 << 20).await;
    let mut reader = handle.wal_reader(ReadMode::Committed, state().timeline_start_lsn.expect("a start")).expect("one");
    assert_eq!(read_to(&mut reader, end).await, p.all);
}

#[tokio::test]
async fn recent_wal_stays_within_the_nodes_budget_and_is_given_back_when_idle() {
    let disk = FakeDisk::new(1);
    let small = TimelinesConfig { rings_bytes: 1 << 20, recent_for: Duration::from_millis(50), ..config() };
    let (timelines, handle) = created(&disk, small).await;
    let mut p = Proposer::elect(&handle, 1, Vec::new()).await;
    let mut most = 0;
    for _ in 0..20 {
        p.write(&handle, 200_000).await;
        most = most.max(timelines.recent_bytes());
    }
    assert!((1..=1 << 20).contains(&most), "{most} bytes held");
    within("giving back", async {
        while timelines.recent_bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await; // between two looks
        }
    })
    .await;
    let mut reader = handle.wal_reader(ReadMode::Committed, state().timeline_start_lsn.expect("a start")).expect("one");
    assert_eq!(read_to(&mut reader, p.sent).await, p.all, "from the files");
}

#[tokio::test]
async fn a_creation_leaves_a_reserve_of_the_disk_and_makes_up_little() {
    let disk = FakeDisk::new(1);
    let timelines = open(&disk, config());
    let (state, bytes) = (state(), prehistory(&state()));
    let wanted = (64 << 20) + 2 * state.seg_size.bytes();
    disk.limit(Some(wanted - 1));
    match timelines.create(request(&state), bytes.clone()).await {
        Err(e @ CreateError::NoRoom { .. }) => assert!(e.to_string().contains("65 MiB free, and 66 MiB"), "{e}"),
        other => panic!("{other:?}"),
    }
    disk.limit(Some(wanted));
    assert_eq!(timelines.create(request(&state), bytes).await.expect("room"), Creation::Created);
    // A whole segment of made-up bytes for a request of three hundred.
    let far = CreateTimelineRequest {
        source: TimelineSource::Walproposer,
        wal_seg_size: SegSize::new(1 << 30).expect("1 GiB"),
        start_lsn: Lsn::new((17 << 20) + 40),
        prehistory_len: 0,
        pg_history: vec![proto::api::PgHistoryEntry { tli: pgformat::Tli(1), start_lsn: Lsn::new(0) }],
        timeline_id: proto::id::TimelineId::new([9; 16]),
        ..request(&state)
    };
    match timelines.create(far, Bytes::new()).await {
        Err(CreateError::Invalid(text)) => assert!(text.contains("send them as prehistory"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn repeated_creation_changes_nothing_and_a_different_one_is_a_conflict() {
    let disk = FakeDisk::new(1);
    let (timelines, handle) = created(&disk, config()).await;
    let (state, bytes) = (state(), prehistory(&state()));
    let mut p = Proposer::elect(&handle, 1, Vec::new()).await;
    p.write(&handle, 5000).await;
    assert_eq!(timelines.create(request(&state), bytes.clone()).await.expect("equal"), Creation::Unchanged);
    let mut other = bytes.to_vec();
    other[9000] ^= 1;
    let conflicts: [(CreateTimelineRequest, Bytes, &str); 3] = [
        (CreateTimelineRequest { system_id: SystemId(78), ..request(&state) }, bytes.clone(), "system_id"),
        (CreateTimelineRequest { primary_epoch: PrimaryEpoch(2), ..request(&state) }, bytes.clone(), "primary_epoch"),
        (request(&state), Bytes::from(other), "prehistory"),
    ];
    for (asked, bytes, name) in conflicts {
        // The headers inside the made-up bytes name the cluster; they are checked before anything is compared.
        let bytes = if name == "system_id" {
            prehistory(&ControlState { system_id: SystemId(78), ..state.clone() })
        } else {
            bytes
        };
        match timelines.create(asked, bytes).await {
            Err(CreateError::Conflict { field, .. }) => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    let ttid = TenantTimelineId::new(state.ttid.tenant_id, proto::id::TimelineId::new([9; 16]));
    let fresh = CreateTimelineRequest { timeline_id: ttid.timeline_id, ..request(&state) };
    let mut foreign = fresh.clone();
    foreign.mconf.members[0].id = NodeId(4);
    let invalid = [
        CreateTimelineRequest { prehistory_len: 3, ..fresh.clone() },
        CreateTimelineRequest { pg_version_num: 90_000, ..fresh.clone() },
        CreateTimelineRequest { start_lsn: Lsn::new(0), ..fresh.clone() },
        CreateTimelineRequest { pg_history: Vec::new(), ..fresh.clone() },
        foreign,
    ];
    for asked in invalid {
        let refused = timelines.create(asked.clone(), bytes.clone()).await;
        assert!(matches!(refused, Err(CreateError::Invalid(_))), "{asked:?}: {refused:?}");
    }
    // No room: nothing half-made stays, and the same request works later.
    disk.limit(Some(0));
    assert!(matches!(timelines.create(fresh.clone(), bytes.clone()).await, Err(CreateError::NoRoom { .. })));
    assert!(timelines.get(ttid).is_none());
    disk.limit(None);
    assert_eq!(timelines.create(fresh, bytes).await.expect("created"), Creation::Created);
    assert_eq!(timelines.list().len(), 2);
}

/// Two timelines of one tenant at the same time, the disk dying at operation `cut`; then power loss and restart.
async fn creation_cut(cut: u64, seed: u64, lies: &[Lie]) -> Result<bool, String> {
    let disk = FakeDisk::lying(seed, lies);
    let timelines = open(&disk, config());
    disk.die_at(disk.operations() + cut);
    let states = [[2; 16], [3; 16]].map(|id| {
        let ttid = TenantTimelineId::new(state().ttid.tenant_id, proto::id::TimelineId::new(id));
        ControlState { ttid, ..state() }
    });
    let create = |state: &ControlState| timelines.create(request(state), prehistory(state));
    let told = tokio::join!(create(&states[0]), create(&states[1]));
    let told = [told.0.is_ok(), told.1.is_ok()];
    let after = disk.after_power_loss(&mut fastrand::Rng::with_seed(seed));
    let again = Timelines::open(Arc::new(after.clone()), config()).map_err(|e| format!("no start: {e}"))?;
    for (state, told) in states.iter().zip(told) {
        if !told && again.get(state.ttid).is_none() {
            // Nothing is left that stands in the way.
            let made = again.create(request(state), prehistory(state)).await;
            made.map_err(|e| format!("not created again: {e}"))?;
        }
        // Whole: equal in every parameter and every byte of the prehistory.
        match again.create(request(state), prehistory(state)).await {
            Ok(Creation::Unchanged) => {}
            other => return Err(format!("told {told}, {}: {other:?}", state.ttid)),
        }
    }
    // And what was served is durable.
    let kept = Timelines::open(Arc::new(after.after_power_loss(&mut fastrand::Rng::with_seed(seed + 1))), config());
    let kept = kept.map_err(|e| format!("no second start: {e}"))?;
    if states.iter().any(|state| kept.get(state.ttid).is_none()) {
        return Err("served and lost".to_owned());
    }
    Ok(told == [true, true])
}

#[tokio::test]
async fn a_creation_is_whole_or_not_there_wherever_power_is_cut() {
    let mut cut = 0;
    let mut completed = 0;
    while completed < 10 {
        for seed in 0..12 {
            let told = creation_cut(cut, seed, &[]).await;
            completed += u32::from(told.unwrap_or_else(|e| panic!("cut at {cut}, seed {seed}: {e}")));
        }
        cut += 1;
        assert!(cut < 200, "both are created at some time");
    }
    for lies in [[Lie::NoFsync], [Lie::NoDirSync]] {
        let mut noticed = false;
        for seed in 0..12 {
            noticed |= creation_cut(cut, seed, &lies).await.is_err();
        }
        assert!(noticed, "{lies:?} was not noticed");
    }
}

#[tokio::test]
async fn equal_creations_at_the_same_time_make_one_timeline() {
    let disk = FakeDisk::new(1);
    let timelines = open(&disk, config());
    let (state, bytes) = (state(), prehistory(&state()));
    let other = CreateTimelineRequest { primary_epoch: PrimaryEpoch(2), ..request(&state) };
    let create = || timelines.create(request(&state), bytes.clone());
    let (a, b, c) = tokio::join!(create(), create(), create());
    let made = [a, b, c].map(|made| made.expect("created"));
    assert_eq!(made.iter().filter(|made| **made == Creation::Created).count(), 1, "{made:?}");
    assert!(matches!(timelines.create(other, bytes).await, Err(CreateError::Conflict { .. })));
    // A caller that goes away does not end its turn.
    let fresh = ControlState {
        ttid: TenantTimelineId::new(state.ttid.tenant_id, proto::id::TimelineId::new([7; 16])),
        ..state
    };
    let gone = timelines.create(request(&fresh), prehistory(&fresh));
    assert!(futures::FutureExt::now_or_never(gone).is_none());
    timelines.create(request(&fresh), prehistory(&fresh)).await.expect("created or there");
    timelines.shutdown().await;
    assert_eq!(open(&disk.after_kill(), config()).list().len(), 2);
}

#[tokio::test]
async fn a_walproposer_timeline_begins_with_its_first_election_only_when_allowed() {
    let disk = FakeDisk::new(1);
    let greeting = ProposerGreeting {
        ttid: state().ttid,
        mconf: proto::consensus::MemberConf::none(),
        pg_version_num: 150_004,
        system_id: SystemId(77),
        seg_size: SegSize::new(1 << 20).expect("1 MiB"),
        tli: Some(Tli(1)),
    };
    assert!(open(&disk, config()).for_greeting(&greeting).await.expect("asked").is_none());
    let timelines = open(&disk, TimelinesConfig { allow_implicit: true, ..config() });
    let handle = timelines.for_greeting(&greeting).await.expect("made").expect("allowed");
    let start = Lsn::new(5 * (1 << 20) + 3 * 8192 + 1000);
    assert!(matches!(handle.wal_reader(ReadMode::Committed, start), Err(WalReadError::Empty)));
    let (mut sender, mut receiver) = handle.connect_proposer(&push(ProtoVersion::V2, None)).expect("connected").split();
    let generation = proto::id::Generation::NONE;
    sender.send(ProposerMessage::Greeting(greeting)).await.expect("sent");
    within("greeting", receiver.recv()).await.expect("greeted");
    sender.send(ProposerMessage::VoteRequest(VoteRequest { generation, term: Term(1) })).await.expect("sent");
    within("vote", receiver.recv()).await.expect("a vote");
    let history = proto::consensus::TermHistory::new(vec![TermLsn { term: Term(1), lsn: start }]).expect("one entry");
    let elected = ProposerElected { generation, term: Term(1), start_streaming_at: start, history };
    sender.send(ProposerMessage::Elected(elected)).await.expect("sent");
    let cfg = stream_config(&ControlState { pg_history: Vec::new(), ..state() }).expect("known");
    let mut wal = WalBuilder::new(cfg, start, None);
    let end = wal.noop(9000).end;
    let (begin_lsn, bytes) = wal.take();
    let append = AppendRequest {
        generation,
        term: Term(1),
        begin_lsn,
        end_lsn: end,
        commit_lsn: Some(end),
        truncate_lsn: None,
        wal: bytes.clone(),
    };
    sender.send(ProposerMessage::Append(append)).await.expect("sent");
    until(&handle, "commit", |p| p.commit_lsn == Some(end)).await;
    let mut reader = handle.wal_reader(ReadMode::Committed, start).expect("a reader");
    assert_eq!(read_to(&mut reader, end).await, bytes);
    drop((sender, receiver));
    timelines.shutdown().await;
    let again = open(&disk.after_kill(), config());
    assert_eq!(again.get(state().ttid).expect("loaded").status().flush_lsn, Some(end));
}

/// The real disk, and PostgreSQL's own tool as the judge of the files.
#[tokio::test]
async fn pg_waldump_reads_the_segment_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = TimelinesConfig { dir: dir.path().to_owned(), ..config() };
    let disk: Arc<dyn Disk> = Arc::new(FsDisk);
    let timelines = Timelines::open(Arc::clone(&disk), settings.clone()).expect("opened");
    let state = state();
    timelines.create(request(&state), prehistory(&state)).await.expect("created");
    let handle = timelines.get(state.ttid).expect("it is there");
    let mut p = Proposer::elect(&handle, 1, Vec::new()).await;
    p.write(&handle, 1 << 20).await;
    p.wal.switch();
    let end = p.write(&handle, 200_000).await;
    timelines.shutdown().await;
    let path = dir.path().join(state.ttid.tenant_id.to_string()).join(state.ttid.timeline_id.to_string());
    let files: Vec<String> = {
        let mut names: Vec<String> = disk.list(&path).expect("listed").into_iter().map(|e| e.name).collect();
        names.sort();
        names
    };
    assert_eq!(files, ["000000030000000000000005", "000000030000000000000006", "000000030000000000000007", "control"]);
    let Some(waldump) = pg_waldump() else {
        panic!("pg_waldump is not installed: run make setup");
    };
    let last = handle.status().last_record_start_lsn.expect("records");
    let out = std::process::Command::new(waldump)
        .args([
            "-p",
            path.to_str().expect("UTF-8"),
            "-t",
            "3",
            "-s",
            &state.timeline_start_lsn.expect("a start").to_string(),
        ])
        .output_within(PATIENCE)
        .expect("it runs");
    let text = String::from_utf8_lossy(&out.stdout);
    let lines = text.lines().filter(|l| l.starts_with("rmgr:")).count();
    assert!(lines > 300, "{lines} records: {}", String::from_utf8_lossy(&out.stderr));
    let shown = format!("lsn: {:X}/{:08X}", last.get() >> 32, last.get() & 0xFFFF_FFFF);
    assert!(text.lines().next_back().is_some_and(|l| l.contains(&shown)), "the last record is at {last}, end {end}");
    // Opened again from the real disk.
    let again = Timelines::open(disk, settings).expect("opened");
    assert_eq!(again.get(state.ttid).expect("loaded").status().flush_lsn, Some(end));
}

fn pg_waldump() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions
        .flatten()
        .map(|v| v.path().join("bin/pg_waldump"))
        .filter(|p| p.ends_with("15/bin/pg_waldump"))
        .collect();
    found.pop().filter(|p| p.exists())
}
