//! Scenarios for the acceptor. [`Rig`] is a driver in miniature: it keeps unfinished effects until told to complete
//! them.

mod append;
mod birth;
mod elections;
mod failures;
mod limits;
mod sessions;
mod statements;

use bytes::Bytes;
use pgformat::wal::{StreamConfig, WalBuilder};
use pgformat::{Lsn, PgMajor, SegSize, Tli};
use proto::api::{PgHistoryEntry, TimelineSource};
use proto::consensus::{
    AcceptorMessage, AppendRequest, AppendResponse, Member, MemberConf, ProposerElected, ProposerGreeting,
    ProposerMessage, ProtoVersion, TermHistory, TermLsn, VoteRequest, VoteResponse,
};
use proto::id::{Generation, NodeId, PrimaryEpoch, SystemId, TenantId, TenantTimelineId, Term, TimelineId};

use super::*;

pub(super) const SYSTEM: SystemId = SystemId(7_000_000_001);
pub(super) const VERSION: u32 = 150_004;

pub(super) fn seg() -> SegSize {
    SegSize::new(1 << 20).expect("a valid size")
}

pub(super) fn start() -> Lsn {
    Lsn::new(3 << 20)
}

pub(super) fn ttid() -> TenantTimelineId {
    TenantTimelineId::new(TenantId::new([1; 16]), TimelineId::new([2; 16]))
}

pub(super) fn mconf(generation: u32) -> MemberConf {
    let member = |id| Member { id: NodeId(id), host: String::new(), pg_port: 0 };
    MemberConf::new(Generation(generation), (1..=3).map(member).collect(), Vec::new()).expect("valid")
}

pub(super) fn control() -> ControlState {
    let pg_history = vec![PgHistoryEntry { tli: Tli(1), start_lsn: Lsn::new(1 << 20) }];
    let epoch = PrimaryEpoch::FIRST;
    ControlState::created(ttid(), TimelineSource::Vanilla, SYSTEM, VERSION, seg(), mconf(1), epoch, pg_history, start())
}

pub(super) fn stream() -> StreamConfig {
    StreamConfig {
        version: PgMajor::new(15).expect("supported"),
        seg_size: seg(),
        system_id: Some(SYSTEM.0),
        tlis: vec![(Tli(1), Lsn::new(1 << 20))],
    }
}

pub(super) fn wal() -> WalBuilder {
    WalBuilder::new(stream(), start(), None)
}

pub(super) fn history(entries: &[(u64, Lsn)]) -> TermHistory {
    let entry = |(term, lsn): &(u64, Lsn)| TermLsn { term: Term(*term), lsn: *lsn };
    TermHistory::new(entries.iter().map(entry).collect()).expect("a valid history")
}

pub(super) fn greeting() -> ProposerGreeting {
    ProposerGreeting {
        ttid: ttid(),
        mconf: mconf(1),
        pg_version_num: VERSION,
        system_id: SYSTEM,
        seg_size: seg(),
        tli: None,
    }
}

pub(super) struct Rig {
    pub(super) acceptor: Acceptor,
    pub(super) now: u64,
    /// Unfinished I/O, oldest first.
    pub(super) io: VecDeque<Effect>,
    /// Replies that wait.
    pub(super) waiting: Vec<(ConnId, AcceptorMessage, WriteId)>,
    /// Replies that left.
    pub(super) sent: Vec<(ConnId, AcceptorMessage)>,
    pub(super) closed: Vec<(ConnId, Refusal)>,
    /// What the disk would hold after a power loss.
    pub(super) disk: ControlState,
    next_conn: u64,
}

impl Rig {
    pub(super) fn new() -> Rig {
        Rig::of(control(), Some(LogEnd { flush_lsn: start(), last_record_start: None }))
    }

    pub(super) fn of(control: ControlState, end: Option<LogEnd>) -> Rig {
        let config = AcceptorConfig::new(NodeId(1));
        Rig {
            disk: control.clone(),
            acceptor: Acceptor::open(config, control, end).expect("a consistent state"),
            now: 0,
            io: VecDeque::new(),
            waiting: Vec::new(),
            sent: Vec::new(),
            closed: Vec::new(),
            next_conn: 0,
        }
    }

    pub(super) fn step(&mut self, input: Input) {
        let mut effects = Vec::new();
        self.acceptor.step(self.now, input, &mut effects);
        for effect in effects {
            match effect {
                Effect::Reply { conn, message, after: Some(after) } => self.waiting.push((conn, message, after)),
                Effect::Reply { conn, message, after: None } => {
                    assert!(self.waiting.iter().all(|(c, ..)| *c != conn), "a reply overtook another");
                    self.sent.push((conn, message));
                }
                Effect::Close { conn, refusal } => {
                    self.waiting.retain(|(c, ..)| *c != conn);
                    self.closed.push((conn, refusal));
                }
                io => self.io.push_back(io),
            }
        }
    }

    pub(super) fn say(&mut self, conn: ConnId, message: ProposerMessage) {
        self.step(Input::Message { conn, message });
    }

    /// Completes the oldest unfinished effect that reports back.
    pub(super) fn complete_one(&mut self) {
        loop {
            let input = match self.io.pop_front().expect("something is unfinished") {
                Effect::Disk(DiskOp::Flush(write)) => Input::Done(write),
                Effect::Disk(DiskOp::Persist { write, state }) => {
                    self.disk = *state;
                    Input::Done(write)
                }
                Effect::Disk(DiskOp::Truncate { write, to }) => {
                    Input::Truncated { write, end: LogEnd { flush_lsn: to, last_record_start: None } }
                }
                _ => continue,
            };
            let (Input::Done(done) | Input::Truncated { write: done, .. }) = &input else { unreachable!() };
            let done = *done;
            self.step(input);
            let (go, stay) = std::mem::take(&mut self.waiting).into_iter().partition(|(.., after)| *after <= done);
            let go: Vec<_> = go;
            self.waiting = stay;
            self.sent.extend(go.into_iter().map(|(c, m, _)| (c, m)));
            return;
        }
    }

    pub(super) fn complete(&mut self) {
        while self.io.iter().any(|e| !matches!(e, Effect::Disk(DiskOp::Write { .. }))) {
            self.complete_one();
        }
        self.io.clear();
    }

    /// A connection that has greeted.
    pub(super) fn connect(&mut self) -> ConnId {
        let conn = self.open_conn(Some(PrimaryEpoch::FIRST));
        self.say(conn, ProposerMessage::Greeting(greeting()));
        self.complete();
        conn
    }

    pub(super) fn open_conn(&mut self, primary_epoch: Option<PrimaryEpoch>) -> ConnId {
        self.next_conn += 1;
        let conn = ConnId(self.next_conn);
        self.step(Input::Connected { conn, version: ProtoVersion::V3, primary_epoch });
        conn
    }

    pub(super) fn vote(&mut self, conn: ConnId, term: u64) -> Option<VoteResponse> {
        self.say(conn, ProposerMessage::VoteRequest(VoteRequest { generation: Generation(1), term: Term(term) }));
        self.complete();
        match self.sent.last() {
            Some((c, AcceptorMessage::VoteResponse(r))) if *c == conn => Some(r.clone()),
            _ => None,
        }
    }

    pub(super) fn elect(&mut self, conn: ConnId, at: Lsn, entries: &[(u64, Lsn)]) {
        let history = history(entries);
        let term = history.last().expect("not empty").term;
        let elected = ProposerElected { generation: Generation(1), term, start_streaming_at: at, history };
        self.say(conn, ProposerMessage::Elected(elected));
    }

    pub(super) fn append(&mut self, conn: ConnId, term: u64, at: Lsn, wal: Bytes, commit: Option<Lsn>) {
        let message = AppendRequest {
            generation: Generation(1),
            term: Term(term),
            begin_lsn: at,
            end_lsn: at.add(wal.len() as u64),
            commit_lsn: commit,
            truncate_lsn: None,
            wal,
        };
        self.say(conn, ProposerMessage::Append(message));
    }

    /// A proposer elected in term 1 at the start of the log.
    pub(super) fn leader(&mut self) -> ConnId {
        let conn = self.connect();
        assert!(self.vote(conn, 1).is_some_and(|v| v.vote_given));
        self.elect(conn, start(), &[(0, start()), (1, start())]);
        self.complete();
        conn
    }

    pub(super) fn last_ack(&self, conn: ConnId) -> Option<AppendResponse> {
        self.sent.iter().rev().find_map(|(c, m)| match m {
            AcceptorMessage::Append(r) if *c == conn => Some(r.clone()),
            _ => None,
        })
    }

    pub(super) fn last_refusal(&self) -> Option<&Refusal> {
        self.closed.last().map(|(_, r)| r)
    }
}
