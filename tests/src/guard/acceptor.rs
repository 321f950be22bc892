//! The acceptor's path: an elected proposer appends record after record, each is flushed and acknowledged.

use bytes::Bytes;
use pgformat::{Lsn, Tli};
use proto::api::{PgHistoryEntry, TimelineSource};
use proto::consensus::{
    AcceptorMessage, AppendRequest, Member, MemberConf, ProposerElected, ProposerGreeting, ProposerMessage,
    ProtoVersion, TermHistory, TermLsn, VoteRequest,
};
use proto::id::{Generation, NodeId, PrimaryEpoch, SystemId, TenantId, TenantTimelineId, Term, TimelineId};
use safekeeper::core::{Acceptor, AcceptorConfig, ConnId, ControlState, DiskOp, Effect, Input, LogEnd, WriteId};

use super::{Load, wal};

const SYSTEM: SystemId = SystemId(7_000_000_001);
const VERSION: u32 = 150_004;
const CONN: ConnId = ConnId(1);
/// Time stands still: nothing here waits for it.
const NOW: u64 = 0;

pub(super) fn ttid() -> TenantTimelineId {
    TenantTimelineId::new(TenantId::new([1; 16]), TimelineId::new([2; 16]))
}

/// Three members.
pub(super) fn member_conf() -> MemberConf {
    let member = |id| Member { id: NodeId(id), host: String::new(), pg_port: 0 };
    MemberConf::new(Generation(1), (1..=3).map(member).collect(), Vec::new()).expect("valid")
}

/// A log that begins at `start` with term `term`, on an empty one.
pub(super) fn history(term: Term, start: Lsn) -> TermHistory {
    let entry = |term| TermLsn { term, lsn: start };
    TermHistory::new(vec![entry(Term::ZERO), entry(term)]).expect("valid")
}

/// A driver in miniature, whose disk is done at once.
struct Rig {
    acceptor: Acceptor,
    effects: Vec<Effect>,
    /// Unfinished I/O that reports back.
    io: Vec<Input>,
    /// Durable position of the last acknowledgement.
    acknowledged: Option<Lsn>,
}

impl Rig {
    /// A safekeeper that a proposer of term 1 pushes to, at the start of an empty log.
    fn elected() -> Rig {
        let start = wal::start();
        let pg_history = vec![PgHistoryEntry { tli: Tli(1), start_lsn: Lsn::new(1 << 24) }];
        let control = ControlState::created(
            ttid(),
            TimelineSource::Vanilla,
            SYSTEM,
            VERSION,
            wal::seg_size(),
            member_conf(),
            PrimaryEpoch::FIRST,
            pg_history,
            start,
        );
        let end = LogEnd { flush_lsn: start, last_record_start: None };
        let acceptor = Acceptor::open(AcceptorConfig::new(NodeId(1)), control, Some(end)).expect("a consistent state");
        let mut rig = Rig { acceptor, effects: Vec::new(), io: Vec::new(), acknowledged: None };
        let primary_epoch = Some(PrimaryEpoch::FIRST);
        rig.settle(Input::Connected { conn: CONN, version: ProtoVersion::V3, primary_epoch });
        rig.say(ProposerMessage::Greeting(ProposerGreeting {
            ttid: ttid(),
            mconf: member_conf(),
            pg_version_num: VERSION,
            system_id: SYSTEM,
            seg_size: wal::seg_size(),
            tli: None,
        }));
        let (generation, term) = (Generation(1), Term(1));
        rig.say(ProposerMessage::VoteRequest(VoteRequest { generation, term }));
        let history = history(term, start);
        rig.say(ProposerMessage::Elected(ProposerElected { generation, term, start_streaming_at: start, history }));
        rig
    }

    fn say(&mut self, message: ProposerMessage) {
        self.settle(Input::Message { conn: CONN, message });
    }

    /// Steps until no effect is left that reports back.
    fn settle(&mut self, input: Input) {
        self.step(input);
        while let Some(done) = self.io.pop() {
            self.step(done);
        }
    }

    fn step(&mut self, input: Input) {
        self.acceptor.step(NOW, input, &mut self.effects);
        let mut acknowledged = self.acknowledged;
        let mut finished = |write: WriteId| self.io.insert(0, Input::Done(write));
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Disk(DiskOp::Flush(write)) => finished(write),
                Effect::Disk(DiskOp::Persist { write, .. }) => finished(write),
                Effect::Reply { message: AcceptorMessage::Append(reply), .. } => acknowledged = reply.flush_lsn,
                Effect::Disk(DiskOp::Write { .. }) | Effect::Reply { .. } | Effect::Answer { .. } => {}
                Effect::Disk(DiskOp::Truncate { .. }) | Effect::Close { .. } | Effect::Doubted { .. } => {
                    panic!("not part of this path: {effect:?}")
                }
            }
        }
        self.acknowledged = acknowledged;
    }

    fn append(&mut self, begin: Lsn, wal: Bytes) {
        let end_lsn = begin.add(wal.len() as u64);
        // What came before is committed meanwhile.
        let commit_lsn = Some(begin);
        let (generation, term) = (Generation(1), Term(1));
        let truncate_lsn = commit_lsn;
        let append = AppendRequest { generation, term, begin_lsn: begin, end_lsn, commit_lsn, truncate_lsn, wal };
        self.say(ProposerMessage::Append(append));
        self.settle(Input::FlushNow);
        assert!(self.acknowledged == Some(end_lsn), "the append was not acknowledged");
    }
}

pub(super) fn append(operations: usize) -> Load {
    let mut rig = Rig::elected();
    let records = wal::records(operations);
    let mut next = 0;
    Box::new(move || {
        let (begin, wal) = &records[next];
        rig.append(*begin, wal.clone());
        next += 1;
    })
}
