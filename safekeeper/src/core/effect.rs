//! What goes into an acceptor and what comes out: inputs, effects, and why a connection is closed.

use bytes::Bytes;
use pgformat::Lsn;
use proto::admission::{AdmissionAnswer, Statement};
use proto::consensus::{AcceptorMessage, ProposerMessage, ProtoVersion};
use proto::id::{Generation, NodeId, PrimaryEpoch, SystemId, TenantTimelineId, Term};
use proto::pg::sqlstate;

use super::state::{ControlState, LogEnd};

/// A proposer's connection; the driver numbers them and never uses a number twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId(pub u64);

/// Names an I/O effect that reports back; strictly rising, in the order of emission.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WriteId(pub u64);

/// Names a question of another member; the driver numbers them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct AskId(pub u64);

/// What the driver tells the acceptor: a proposer's word, a completed write, the time.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// START_WAL_PUSH was accepted on a connection.
    Connected {
        /// Number of the new connection, used once.
        conn: ConnId,
        /// Version of the messages.
        version: ProtoVersion,
        /// Option `primary_epoch`, when given.
        primary_epoch: Option<PrimaryEpoch>,
    },
    /// A message arrived.
    Message {
        /// On this connection.
        conn: ConnId,
        /// What the proposer said, decoded.
        message: ProposerMessage,
    },
    /// The connection is gone (also after [`Effect::Close`]; then it changes nothing).
    Disconnected {
        /// Number of the connection that ended.
        conn: ConnId,
    },
    /// The driver's input queue ran empty, or the hold limit or the end of a segment was reached: make it durable,
    /// answer.
    FlushNow,
    /// Time passed; see [`Acceptor::next_timeout`](super::Acceptor::next_timeout).
    Tick,
    /// The [`DiskOp::Flush`] or [`DiskOp::Persist`] of this name is durable, and so is everything emitted before it.
    Done(WriteId),
    /// The [`DiskOp::Truncate`] of this name is durable; the log now ends so.
    Truncated {
        /// The truncation that is done.
        write: WriteId,
        /// The end found: `flush_lsn` equals the position asked for.
        end: LogEnd,
    },
    /// Another member says where it stands; answered by [`Effect::Answer`], or refused by [`Effect::Doubted`].
    Told {
        /// Names the question.
        ask: AskId,
        /// What it says.
        statement: Box<Statement>,
    },
    /// Another member answered what this one stated.
    Answered(Box<AdmissionAnswer>),
    /// An operator decides that this member takes part again.
    Vouched,
    /// What is on disk is less than this member promised.
    Forgot {
        /// In words, with positions.
        what: String,
    },
    /// An I/O effect failed. Nothing later than the last good sync counts; the timeline stops until it is opened anew.
    Failed {
        /// What failed, for messages.
        reason: String,
    },
}

/// What is to be done to the disk.
#[derive(Clone, PartialEq, Debug)]
pub enum DiskOp {
    /// Write WAL into the log. Not durable yet; no completion is reported.
    Write {
        /// Position of the first byte.
        begin: Lsn,
        /// The bytes, as they came.
        wal: Bytes,
    },
    /// Make every byte written so far durable; completion: [`Input::Done`].
    Flush(WriteId),
    /// Cut the log at `to` and make that durable; completion: [`Input::Truncated`].
    ///
    /// On an empty log: begin it at `to`. `to` may lie ahead of the bytes written only behind a switch record; the
    /// bytes between are its fill, zeros.
    Truncate {
        /// Name for the completion.
        write: WriteId,
        /// New end, a record boundary.
        to: Lsn,
    },
    /// Write the control file durably; completion: [`Input::Done`].
    Persist {
        /// Name for the completion.
        write: WriteId,
        /// The whole state.
        state: Box<ControlState>,
    },
}

impl DiskOp {
    /// Bytes of WAL that it carries.
    pub fn wal_len(&self) -> usize {
        if let DiskOp::Write { wal, .. } = self { wal.len() } else { 0 }
    }
}

/// What is to be done.
///
/// # Order
/// [`Effect::Disk`] fills one queue: each operation starts when those before it are finished, except that a
/// [`DiskOp::Write`] may run beside an unfinished [`DiskOp::Flush`]. After a failure nothing later is started. A
/// `Reply` is sent when the effect named in `after` is done; for one connection `after` never falls, so that replies
/// keep their order. Replies that still wait when an effect fails are dropped.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Do something to the disk.
    Disk(DiskOp),
    /// Send a message to a proposer.
    Reply {
        /// On this connection.
        conn: ConnId,
        /// The message. The session adds hot-standby and pageserver feedback to an append response.
        message: AcceptorMessage,
        /// Not before this is done.
        after: Option<WriteId>,
    },
    /// Answer another member.
    Answer {
        /// The question that it answers.
        ask: AskId,
        /// What this member remembers and promises.
        answer: Box<AdmissionAnswer>,
        /// Not before this is done.
        after: Option<WriteId>,
    },
    /// What another member said is refused, and changed nothing: answer its question so, or tell an operator.
    Doubted {
        /// Its question; `None` when it answered one.
        ask: Option<AskId>,
        /// What is wrong.
        refusal: Refusal,
    },
    /// Close the connection, after an error message that states the reason. Replies that wait for it are dropped.
    Close {
        /// The connection that ends.
        conn: ConnId,
        /// Why, for the error message and its SQLSTATE.
        refusal: Refusal,
    },
}

/// What the other side should do about a refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NextAction {
    /// Connect again: it may pass.
    Retry,
    /// Start over with a higher term.
    Reelect,
    /// Learn the configuration anew.
    Reconfigure,
    /// Give up: an operator must act. Exit code 6 of a proposer.
    Fenced,
    /// Give up: the request contradicts itself or the log.
    Broken,
    /// The log here is damaged or out of room; an operator must act on this safekeeper.
    Damaged,
}

/// Why a connection is closed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The first message must be a greeting, and only the first.
    #[error("{0}")]
    OutOfOrder(&'static str),
    /// The greeting names another timeline.
    #[error("this is timeline {here}, the greeting names {asked}")]
    WrongTimeline {
        /// The timeline held here.
        here: TenantTimelineId,
        /// The timeline that the greeting names.
        asked: TenantTimelineId,
    },
    /// WAL of another cluster.
    #[error("system identifier {asked} differs from this timeline's {here}")]
    WrongSystem {
        /// The cluster whose WAL is held here.
        here: SystemId,
        /// The cluster that the proposer reads from.
        asked: SystemId,
    },
    /// Another PostgreSQL major, or an unsupported one.
    #[error("PostgreSQL version {asked} does not fit this timeline, which is of version {here}")]
    WrongVersion {
        /// PG_VERSION_NUM held here.
        here: u32,
        /// PG_VERSION_NUM of the proposer's cluster.
        asked: u32,
    },
    /// Another segment size.
    #[error("wal_segment_size {asked} differs from this timeline's {here}")]
    WrongSegSize {
        /// Bytes, held here.
        here: u64,
        /// Bytes, asked for.
        asked: u64,
    },
    /// A vanilla timeline is fed only by proposers that name the epoch of their primary.
    #[error("START_WAL_PUSH on a vanilla timeline needs the option primary_epoch")]
    EpochMissing,
    /// Another primary was designated since.
    #[error("primary_epoch {asked} is older than {here}: another primary was designated since")]
    EpochStale {
        /// The newest epoch that was stored here.
        here: PrimaryEpoch,
        /// The epoch of the proposer's primary.
        asked: PrimaryEpoch,
    },
    /// A number that is absurdly far above the one known: taking it would end the timeline's room for more.
    #[error("{what} {asked} lies more than {max} above {here}, the one known here")]
    TooFar {
        /// Name of the number, as messages have it.
        what: &'static str,
        /// The value known here.
        here: u64,
        /// The value that was sent.
        asked: u64,
        /// The most that it may lie above it.
        max: u64,
    },
    /// The proposer's configuration is not the one here.
    #[error("configuration generation {asked} differs from {here}")]
    WrongGeneration {
        /// Generation of the set held here.
        here: Generation,
        /// Generation that the proposer named.
        asked: Generation,
    },
    /// The proposer's newer configuration does not contain this node.
    #[error("node {node} is not a member of configuration generation {generation}")]
    NotAMember {
        /// The safekeeper that refuses.
        node: NodeId,
        /// Generation of the proposer's set.
        generation: Generation,
    },
    /// An append of a term that was never announced here.
    #[error("append of term {asked}, but this acceptor is at term {here} and has not seen that election")]
    NotElected {
        /// The acceptor's own term.
        here: Term,
        /// The message's term.
        asked: Term,
    },
    /// Another connection of the same term took over.
    #[error("another connection pushes in term {0}")]
    Superseded(Term),
    /// The election message contradicts the log here.
    #[error("election of term {term}: {problem}")]
    BadElection {
        /// The term won.
        term: Term,
        /// What is wrong.
        problem: String,
    },
    /// The election would cut committed WAL: I5.
    #[error("election of term {term} would truncate to {to}, below the committed {commit}")]
    BelowCommit {
        /// The term won.
        term: Term,
        /// Cut asked for.
        to: Lsn,
        /// The position known to be committed here.
        commit: Lsn,
    },
    /// WAL that leaves a gap behind the end of the log.
    #[error("append at {begin} leaves a gap: the log ends at {end}")]
    Gap {
        /// First byte of the message.
        begin: Lsn,
        /// End of the bytes held.
        end: Lsn,
    },
    /// WAL that would be written over what is held.
    #[error("append at {begin} would rewrite the log, which ends at {end}")]
    Rewrite {
        /// First byte of the message.
        begin: Lsn,
        /// End of the bytes held.
        end: Lsn,
    },
    /// An append whose positions contradict its length, or that is too long.
    #[error("append of {begin}..{end} with {len} bytes of WAL is malformed")]
    Malformed {
        /// Position of the first byte, as the message says.
        begin: Lsn,
        /// Position behind the last byte, as it says.
        end: Lsn,
        /// Bytes of WAL that it carried.
        len: usize,
    },
    /// WAL that PostgreSQL would not read back: checksum, link, page header.
    #[error("invalid WAL: {0}")]
    BadWal(String),
    /// The term history is full: no further election is possible on this timeline.
    #[error("the term history holds {0} entries and is full: no vote is given any more")]
    HistoryFull(usize),
    /// This member may have forgotten what it promised.
    #[error("safekeeper {node} takes no part in this timeline: {why}")]
    NotAdmitted {
        /// The safekeeper that takes no part.
        node: NodeId,
        /// What it forgot, and what it waits for.
        why: String,
    },
    /// What another member says about itself cannot be.
    #[error("statement of safekeeper {node}: {problem}")]
    BadStatement {
        /// Who is said to have said it.
        node: NodeId,
        /// Which number, and its bound.
        problem: String,
    },
    /// The timeline stopped after a failed write.
    #[error("the timeline is stopped: {0}")]
    Stopped(String),
}

impl Refusal {
    /// SQLSTATE of the error message; the table stands in `docs/protocol.md`.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            Refusal::OutOfOrder(_)
            | Refusal::NotElected { .. }
            | Refusal::BadElection { .. }
            | Refusal::Malformed { .. } => sqlstate::PROTOCOL_VIOLATION,
            Refusal::Gap { .. } | Refusal::Rewrite { .. } => sqlstate::WAL_NOT_CONTIGUOUS,
            Refusal::WrongTimeline { .. }
            | Refusal::WrongSystem { .. }
            | Refusal::WrongVersion { .. }
            | Refusal::WrongSegSize { .. } => sqlstate::FOREIGN_CLUSTER,
            Refusal::EpochMissing | Refusal::EpochStale { .. } => sqlstate::STALE_PRIMARY_EPOCH,
            Refusal::TooFar { .. } | Refusal::BadStatement { .. } => sqlstate::INVALID_PARAMETER_VALUE,
            Refusal::WrongGeneration { .. } | Refusal::NotAMember { .. } => sqlstate::GENERATION_MISMATCH,
            Refusal::Superseded(_) => sqlstate::PREEMPTED,
            Refusal::BelowCommit { .. } | Refusal::BadWal(_) => sqlstate::DATA_CORRUPTED,
            Refusal::HistoryFull(_) => sqlstate::HISTORY_FULL,
            Refusal::NotAdmitted { .. } => sqlstate::NOT_ADMITTED,
            Refusal::Stopped(_) => sqlstate::IO_ERROR,
        }
    }

    /// What a person should do, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Refusal::WrongGeneration { .. } | Refusal::NotAMember { .. } => {
                Some("Read the member set anew (SHOW TIMELINE, or the broker's conf key) and connect with it.")
            }
            Refusal::WrongTimeline { .. }
            | Refusal::WrongSystem { .. }
            | Refusal::WrongVersion { .. }
            | Refusal::WrongSegSize { .. } => Some(
                "Check tenant_id and timeline_id: they belong to another cluster. A new cluster gets a timeline of \
                 its own.",
            ),
            Refusal::HistoryFull(_) => Some(
                "Stop what causes elections without end, and go on with a new timeline: see 'A term history that \
                 fills up' in docs/operations.md.",
            ),
            Refusal::BelowCommit { .. } => Some(
                "Committed WAL here is not in the log that was elected: one of the two is damaged. Stop what writes to \
                 the timeline and see 'A member that refuses' in docs/operations.md.",
            ),
            Refusal::TooFar { .. } => {
                Some("Nothing was changed. Find out who sent it: no proposer that works sends such a number.")
            }
            Refusal::BadStatement { .. } => {
                Some("Nothing was changed. Find out who sent it: no safekeeper that works says this of itself.")
            }
            _ => None,
        }
    }

    /// What the proposer should do.
    pub fn action(&self) -> NextAction {
        match self {
            Refusal::Superseded(_) | Refusal::Gap { .. } | Refusal::Rewrite { .. } | Refusal::NotAdmitted { .. } => {
                NextAction::Retry
            }
            Refusal::NotElected { .. } | Refusal::BadElection { .. } => NextAction::Reelect,
            Refusal::WrongGeneration { .. } | Refusal::NotAMember { .. } => NextAction::Reconfigure,
            Refusal::EpochMissing
            | Refusal::EpochStale { .. }
            | Refusal::WrongTimeline { .. }
            | Refusal::WrongSystem { .. }
            | Refusal::WrongVersion { .. }
            | Refusal::WrongSegSize { .. } => NextAction::Fenced,
            Refusal::OutOfOrder(_)
            | Refusal::Malformed { .. }
            | Refusal::BadWal(_)
            | Refusal::TooFar { .. }
            | Refusal::BadStatement { .. } => NextAction::Broken,
            Refusal::BelowCommit { .. } | Refusal::HistoryFull(_) | Refusal::Stopped(_) => NextAction::Damaged,
        }
    }
}

/// A control state and a log that do not belong together: the timeline must not be served.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// The log ends below what was committed here: WAL was lost or damaged (I5).
    #[error("the log ends at {end:?}, below the committed {commit}: WAL was lost or damaged")]
    BelowCommit {
        /// End found; `None` = no log.
        end: Option<Lsn>,
        /// Committed, as persisted.
        commit: Lsn,
    },
    /// The log and the history do not go together.
    #[error("{0}")]
    Inconsistent(String),
    /// This node is not in the member set.
    #[error("node {node} is not a member of configuration generation {generation}")]
    NotAMember {
        /// The safekeeper that was started.
        node: NodeId,
        /// Generation of the persisted set.
        generation: Generation,
    },
}
