//! START_WAL_PUSH: the messages between a proposer and its acceptors, in both versions of the wire format.
//!
//! One definition serves both ends and both versions. Fields that a version cannot carry have a documented substitute
//! (`v2.rs`).
//! Layouts: `docs/protocol.md`. Invariants of the protocol: `docs/protocol.md`, I1 to I6.
//!
//! | message | from | to | purpose |
//! |---|---|---|---|
//! | [`ProposerGreeting`] | proposer | acceptor | identifies the proposer, the log, its format |
//! | [`AcceptorGreeting`] | acceptor | proposer | the acceptor's id, member set, term |
//! | [`VoteRequest`] / [`VoteResponse`] | both | both | ask for a term / grant or refuse, show log's end, history |
//! | [`ProposerElected`] | proposer | acceptor | adopt this history, truncate to here; no reply |
//! | [`AppendRequest`] / [`AppendResponse`] | both | both | WAL and commit position / durable position and feedback |

mod codec;
mod history;
mod member;
mod standby;
#[cfg(test)]
pub(crate) mod tests;
mod v2;
mod v3;
mod wire;

pub use history::{LogPosition, TermHistory, TermHistoryError, TermLsn, divergence_point};
pub use member::{Member, MemberConf, MemberConfError};

use bytes::Bytes;
use pgformat::{Lsn, SegSize};

use crate::feedback::PageserverFeedback;
use crate::id::{Generation, NodeId, SystemId, TenantTimelineId, Term};

/// The most WAL that one [`AppendRequest`] carries, in bytes (a limit of the wire protocol).
pub const MAX_SEND_SIZE: usize = 16 * 8192;

/// Version of the START_WAL_PUSH messages. A bare `START_WAL_PUSH` means [`ProtoVersion::V2`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum ProtoVersion {
    /// Little-endian C structs; exists at generation 0 only.
    V2,
    /// Big-endian, one-byte tags.
    V3,
}

/// Anything a proposer sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ProposerMessage {
    /// First message of a connection.
    Greeting(ProposerGreeting),
    /// Asks for a vote.
    VoteRequest(VoteRequest),
    /// Announces a won election.
    Elected(ProposerElected),
    /// WAL, or a heartbeat without WAL.
    Append(AppendRequest),
}

/// Anything an acceptor sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AcceptorMessage {
    /// Answer to the greeting.
    Greeting(AcceptorGreeting),
    /// Answer to a vote request.
    VoteResponse(VoteResponse),
    /// Answer to WAL, or to none: what is durable.
    Append(AppendResponse),
}

/// Proposer's first message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProposerGreeting {
    /// The log that is meant.
    pub ttid: TenantTimelineId,
    /// Configuration known to the proposer; generation 0 when none (always so in v2).
    pub mconf: MemberConf,
    /// PG_VERSION_NUM, as 150004.
    pub pg_version_num: u32,
    /// System identifier; 0 = unknown.
    pub system_id: SystemId,
    /// Size of a WAL segment.
    pub seg_size: SegSize,
    /// PostgreSQL's tli: in v2 only, `None` in v3.
    pub tli: Option<pgformat::Tli>,
}

/// Acceptor's answer to the greeting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AcceptorGreeting {
    /// The safekeeper that answers.
    pub node_id: NodeId,
    /// Its current configuration (not in v2).
    pub mconf: MemberConf,
    /// Its current term.
    pub term: Term,
}

/// Asks for a vote.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VoteRequest {
    /// Configuration of the proposer (0 in v2).
    pub generation: Generation,
    /// Term asked for.
    pub term: Term,
}

/// Answer to a vote request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VoteResponse {
    /// Configuration of the acceptor.
    pub generation: Generation,
    /// Acceptor's term after processing.
    pub term: Term,
    /// Whether the vote was given.
    pub vote_given: bool,
    /// End of the acceptor's log, a record boundary; `None` = no log yet.
    pub flush_lsn: Option<Lsn>,
    /// Acceptor's peer horizon: nobody needs WAL below it for recovery.
    pub truncate_lsn: Option<Lsn>,
    /// Term history, cut at `flush_lsn`.
    pub history: TermHistory,
}

/// Announces a won election. No reply.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProposerElected {
    /// Configuration of the proposer.
    pub generation: Generation,
    /// The term that the proposer won.
    pub term: Term,
    /// First byte that will be sent to this acceptor; it truncates its log here.
    pub start_streaming_at: Lsn,
    /// The whole history, last entry = (term won, end of log chosen).
    pub history: TermHistory,
}

/// WAL for the log; without WAL, a heartbeat that carries the commit position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppendRequest {
    /// Configuration of the proposer.
    pub generation: Generation,
    /// The term that the proposer won.
    pub term: Term,
    /// Position of the first byte.
    pub begin_lsn: Lsn,
    /// Position after the last byte.
    pub end_lsn: Lsn,
    /// Committed, as the proposer knows; `None` = unknown.
    pub commit_lsn: Option<Lsn>,
    /// Below it no peer needs WAL for recovery.
    pub truncate_lsn: Option<Lsn>,
    /// Raw WAL, `end_lsn - begin_lsn` bytes, page headers included, at most [`MAX_SEND_SIZE`].
    pub wal: Bytes,
}

/// What hot standbys behind an acceptor need kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct HotStandbyFeedback {
    /// Microseconds since 2000-01-01 00:00 UTC; 0 = none.
    pub ts: i64,
    /// Full transaction id; 0 = none.
    pub xmin: u64,
    /// Full transaction id; 0 = none.
    pub catalog_xmin: u64,
}

/// Acceptor's durable position.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AppendResponse {
    /// Configuration of the acceptor.
    pub generation: Generation,
    /// Acceptor's term; larger than the proposer's means deposed, and then every other field is empty.
    pub term: Term,
    /// fdatasync'ed here, a record boundary.
    pub flush_lsn: Option<Lsn>,
    /// Commit position as persisted in the control file.
    pub commit_lsn: Option<Lsn>,
    /// Aggregate over hot standbys.
    pub hs_feedback: HotStandbyFeedback,
    /// Latest pageserver feedback; absent, never empty.
    pub pageserver_feedback: Option<PageserverFeedback>,
}
