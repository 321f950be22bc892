//! What an acceptor must not forget: [`ControlState`], written by [`DiskOp::Persist`](super::DiskOp) and given back to
//! [`Acceptor::open`](super::Acceptor::open). Owner of the live value: the acceptor; the driver only stores bytes.

use std::collections::BTreeMap;

use pgformat::{Lsn, SegSize, Tli};
use proto::admission::MemberMemory;
use proto::api::{PgHistoryEntry, TimelineSource};
use proto::consensus::{MemberConf, TermHistory};
use proto::id::{Incarnation, NodeId, PrimaryEpoch, SystemId, TenantTimelineId, Term};

/// The most entries that a term history may have. When it is reached the acceptor refuses the vote; it never drops
/// entries.
///
/// Shape: entries of 16 bytes; the control file reserves room for all of them.
pub const HISTORY_ENTRIES_MAX: usize = 10_240;

/// The most entries of PostgreSQL's own timeline history: one per promotion.
pub const PG_HISTORY_ENTRIES_MAX: usize = 1_024;

/// Everything persisted about a timeline, apart from the WAL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlState {
    /// The timeline that this state belongs to.
    pub ttid: TenantTimelineId,
    /// Who feeds it; fixed at creation.
    pub source: TimelineSource,
    /// The cluster; 0 until it is known, then fixed.
    pub system_id: SystemId,
    /// PG_VERSION_NUM; 0 until it is known, then the major is fixed.
    pub pg_version_num: u32,
    /// Size of a WAL segment; fixed at creation.
    pub seg_size: SegSize,
    /// Member set; generation 0 only for [`TimelineSource::Walproposer`].
    pub mconf: MemberConf,
    /// The highest term voted for or seen.
    pub term: Term,
    /// Highest epoch of a primary that was voted for; 1 or more on a vanilla timeline, 0 otherwise.
    pub primary_epoch: PrimaryEpoch,
    /// Term history; may run ahead of the WAL held. Invariant I2.
    pub history: TermHistory,
    /// Start of the log; `None` on an implicitly created timeline until its first election.
    pub timeline_start_lsn: Option<Lsn>,
    /// First byte held here; `None` as above.
    pub local_start_lsn: Option<Lsn>,
    /// Committed; never above the durable end of the log here.
    pub commit_lsn: Option<Lsn>,
    /// Below it no peer needs WAL for recovery.
    pub peer_horizon_lsn: Option<Lsn>,
    /// PostgreSQL's timeline history, ascending; empty until the first WAL of an implicitly created timeline.
    pub pg_history: Vec<PgHistoryEntry>,
    /// What this member was before, and what it remembers of the others.
    pub standing: Standing,
}

/// The longest text in [`Bar::why`], in bytes.
pub const BAR_REASON_MAX: usize = 512;

/// Which life of its directory this member lives, whether it takes part, and what it remembers of the other members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Standing {
    /// Drawn when the directory was made.
    pub incarnation: Incarnation,
    /// Openings of the directory so far.
    pub starts: u64,
    /// Why this member takes no part; `None`: it does.
    pub barred: Option<Bar>,
    /// The fence of the last re-admission; 0 when there was none.
    pub readmitted: Term,
    /// The log was durable up to here when this was written, and was not cut below it since.
    pub acked_lsn: Option<Lsn>,
    /// The most that each other member ever stated.
    pub peers: BTreeMap<NodeId, MemberMemory>,
}

/// A member that may have forgotten what it promised.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bar {
    /// What it forgot and who says so; at most [`BAR_REASON_MAX`] bytes.
    pub why: String,
    /// Behind this term it may follow an elected proposer, and be admitted again.
    pub fence: Option<Term>,
}

impl Default for Standing {
    /// Of a directory whose incarnation is not drawn yet.
    fn default() -> Standing {
        Standing {
            incarnation: Incarnation::new([0; 16]),
            starts: 0,
            barred: None,
            readmitted: Term::ZERO,
            acked_lsn: None,
            peers: BTreeMap::new(),
        }
    }
}

impl ControlState {
    /// The state of an explicitly created timeline: history `[(0, start_lsn)]`, everything else at `start_lsn`.
    #[expect(clippy::too_many_arguments, reason = "the fixed facts of a timeline, each given once, at creation")]
    pub fn created(
        ttid: TenantTimelineId,
        source: TimelineSource,
        system_id: SystemId,
        pg_version_num: u32,
        seg_size: SegSize,
        mconf: MemberConf,
        primary_epoch: PrimaryEpoch,
        pg_history: Vec<PgHistoryEntry>,
        start_lsn: Lsn,
    ) -> ControlState {
        ControlState {
            ttid,
            source,
            system_id,
            pg_version_num,
            seg_size,
            mconf,
            term: Term::ZERO,
            primary_epoch,
            history: TermHistory::created_at(start_lsn),
            timeline_start_lsn: Some(start_lsn),
            local_start_lsn: Some(start_lsn),
            commit_lsn: Some(start_lsn),
            peer_horizon_lsn: Some(start_lsn),
            pg_history,
            standing: Standing::default(),
        }
    }

    /// The state of a timeline that a foreign walproposer's greeting creates: no log yet, generation 0.
    pub fn implicit(
        ttid: TenantTimelineId,
        system_id: SystemId,
        pg_version_num: u32,
        seg_size: SegSize,
    ) -> ControlState {
        ControlState {
            ttid,
            source: TimelineSource::Walproposer,
            system_id,
            pg_version_num,
            seg_size,
            mconf: MemberConf::none(),
            term: Term::ZERO,
            primary_epoch: PrimaryEpoch(0),
            history: TermHistory::empty(),
            timeline_start_lsn: None,
            local_start_lsn: None,
            commit_lsn: None,
            peer_horizon_lsn: None,
            pg_history: Vec::new(),
            standing: Standing::default(),
        }
    }

    /// PostgreSQL's tli at the byte at `at`: the last entry that starts at or below it, else the first.
    pub fn tli_at(&self, at: Lsn) -> Option<Tli> {
        let held = self.pg_history.iter().rev().find(|e| e.start_lsn <= at);
        held.or(self.pg_history.first()).map(|e| e.tli)
    }
}

/// Where the log held on disk ends: what the driver found at opening, or after a truncation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogEnd {
    /// End of the last whole record, durable; nothing but zeros behind it. After a switch record the next segment's
    /// start.
    pub flush_lsn: Lsn,
    /// Start of the last whole record; `None` when the log starts at `flush_lsn`, or the record lies before what is
    /// held.
    pub last_record_start: Option<Lsn>,
}

/// Positions of an acceptor, for status, readers and announcements. All of them are what outsiders may rely on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Positions {
    /// The highest term promised here.
    pub term: Term,
    /// Term that wrote the end of the log.
    pub last_log_term: Term,
    /// End of the bytes given to storage; may end inside a record.
    pub write_lsn: Option<Lsn>,
    /// Durable end, a record boundary.
    pub flush_lsn: Option<Lsn>,
    /// Committed, in memory.
    pub commit_lsn: Option<Lsn>,
    /// Committed, as the control file holds it.
    pub persisted_commit_lsn: Option<Lsn>,
    /// Below it no peer needs WAL.
    pub peer_horizon_lsn: Option<Lsn>,
    /// Start of the log.
    pub timeline_start_lsn: Option<Lsn>,
    /// First byte held here.
    pub local_start_lsn: Option<Lsn>,
    /// Start of the last whole record below `flush_lsn`, when known.
    pub last_record_start: Option<Lsn>,
    /// Whether an elected proposer is connected.
    pub streaming: bool,
    /// Entries of the term history that count towards [`HISTORY_ENTRIES_MAX`].
    pub history_entries: usize,
}
