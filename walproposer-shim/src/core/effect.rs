//! What goes into a proposer and what comes out: inputs, effects, and why a run ends.

use pgformat::Lsn;
use proto::consensus::{AcceptorMessage, AppendRequest, ProposerMessage, TermHistory};
use proto::feedback::PageserverFeedback;
use proto::id::{Generation, NodeId, Term};

/// An entry of the address list, from 0: where to dial. Which node answers there is learnt from its greeting.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerId(pub usize);

/// What the driver tells the proposer.
#[derive(Clone, PartialEq, Debug)]
pub enum Input {
    /// The session asked for by [`Effect::Dial`] is established: START_WAL_PUSH was accepted.
    Connected {
        /// The address that it is about.
        peer: PeerId,
    },
    /// A message arrived.
    Message {
        /// The address that it came from.
        peer: PeerId,
        /// The message as it was decoded.
        message: AcceptorMessage,
    },
    /// Dialling failed, or the session is gone (also after [`Effect::Close`]).
    Disconnected {
        /// The address that it is about.
        peer: PeerId,
    },
    /// It refused the session because it knows a newer epoch of the primary (WF003); the session is gone.
    Fenced {
        /// The address that it is about.
        peer: PeerId,
        /// What it said.
        said: String,
    },
    /// Everything up to and including the append that ends at `end` was given to the socket: makes room in the window.
    Written {
        /// The address that it is about.
        peer: PeerId,
        /// `end_lsn` of the last append written.
        end: Lsn,
    },
    /// The attach proof passed: ask for votes. Answers [`Effect::ReadyToCampaign`].
    Campaign,
    /// The proof was repeated up to the chosen end: announce the election. Answers [`Effect::WonElection`].
    SendElected,
    /// The primary's WAL is at hand up to `end` in this session.
    WalAvailable {
        /// End of the bytes received; need not be a record boundary.
        end: Lsn,
    },
    /// Time passed; see [`Proposer::next_timeout`](super::Proposer::next_timeout).
    Tick,
}

/// What is to be done.
///
/// `Send` and `Append` to one peer keep their order; they are dropped when the session they were meant for is gone.
#[derive(Clone, PartialEq, Debug)]
pub enum Effect {
    /// Open a session to this address; answer with [`Input::Connected`] or [`Input::Disconnected`].
    Dial {
        /// The address that it is about.
        peer: PeerId,
    },
    /// Close the session; no [`Input::Disconnected`] is needed for it.
    Close {
        /// The address that it is about.
        peer: PeerId,
        /// Why, for the log.
        reason: CloseReason,
    },
    /// Send a message that carries no WAL.
    Send {
        /// The address that it goes to.
        peer: PeerId,
        /// The message as it was decoded.
        message: ProposerMessage,
    },
    /// Send WAL: the driver takes bytes `[head.begin_lsn, head.end_lsn)` from the ring, or from a donor, fills
    /// `head.wal` and sends it; then [`Input::Written`].
    Append {
        /// The address that it goes to.
        peer: PeerId,
        /// The message with an empty `wal`.
        head: AppendRequest,
    },
    /// A quorum has greeted. The driver runs the attach proof and answers [`Input::Campaign`].
    ReadyToCampaign {
        /// The nodes that have greeted, with their terms.
        greeted: Vec<(NodeId, Term)>,
    },
    /// The election is won but not announced. The driver proves `[what was proved, end)` against the donor with this
    /// term, and answers [`Input::SendElected`].
    WonElection {
        /// The term won.
        term: Term,
        /// Address of the voter with the most advanced log.
        donor: PeerId,
        /// The donor's node id.
        donor_node: NodeId,
        /// End of the donor's log: the new log starts its own term here (E).
        end: Lsn,
        /// The new history, last entry = (term, end).
        history: TermHistory,
    },
    /// The quorum's durable end moved.
    Committed {
        /// C, a record boundary, durable on a quorum in this term.
        commit_lsn: Lsn,
    },
    /// A safekeeper passed on a pageserver's positions.
    Feedback {
        /// The address that it came from.
        peer: PeerId,
        /// What it said.
        feedback: PageserverFeedback,
    },
    /// Somebody else has a higher term: this proposer is over. The driver starts over, with a term above it.
    Deposed {
        /// The term seen.
        term: Term,
    },
    /// This proposer is over, and trying again with the same parameters would not help.
    Fatal(Fatal),
}

/// Why a session is closed by the proposer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CloseReason {
    /// Nothing came for too long although an answer was due.
    #[error("no answer for {0} ms")]
    Silent(u64),
    /// A message that does not belong here.
    #[error("unexpected message: {0}")]
    OutOfOrder(&'static str),
    /// The acceptor is at another configuration generation.
    #[error("the safekeeper is at configuration generation {theirs}, this proposer at {ours}")]
    WrongGeneration {
        /// The acceptor's configuration generation.
        theirs: Generation,
        /// This proposer's configuration generation.
        ours: Generation,
    },
    /// A term that no election led to: believing it would end the timeline's room for more.
    #[error("it claims term {theirs}, absurdly far above {ours}")]
    AbsurdTerm {
        /// The acceptor's claim.
        theirs: Term,
        /// The term that this proposer knows.
        ours: Term,
    },
    /// An acknowledgement that contradicts what was sent.
    #[error("acknowledged {flush}, but only {sent} was sent")]
    AheadOfSent {
        /// The acceptor's claim.
        flush: Lsn,
        /// End of what it was sent.
        sent: Lsn,
    },
    /// The session's node is not the one that answered at this address before.
    #[error("node {now} answered where node {before} did")]
    NodeChanged {
        /// The node that answered there before.
        before: NodeId,
        /// The node that answers there now.
        now: NodeId,
    },
}

/// Refusals that end the shim.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fatal {
    /// So many members know a newer epoch of the primary that no quorum is left: another primary was designated.
    #[error("another primary was designated: without the {} that refused this one no quorum is left ({said})",
        if *.refused == 1 { "safekeeper".to_owned() } else { format!("{refused} safekeepers") })]
    Fenced {
        /// How many refused.
        refused: usize,
        /// What the last of them said.
        said: String,
    },
    /// The address list names a node that is not a member.
    #[error("safekeeper {node} at address {} is not a member of the timeline: correct --safekeepers", .peer.0 + 1)]
    UnknownNode {
        /// The address that leads to it.
        peer: PeerId,
        /// The node that answered there.
        node: NodeId,
    },
    /// Two addresses lead to one node.
    #[error(
        "addresses {} and {} both lead to safekeeper {node}: correct --safekeepers",
        .first.0 + 1,
        .second.0 + 1
    )]
    DuplicateNode {
        /// One of the two addresses.
        first: PeerId,
        /// The other of the two addresses.
        second: PeerId,
        /// The node behind both.
        node: NodeId,
    },
    /// The address list could never reach a quorum.
    #[error("{given} safekeeper addresses cannot form a quorum of {members} members: correct --safekeepers")]
    TooFew {
        /// Length of the address list.
        given: usize,
        /// Members of the timeline.
        members: usize,
    },
    /// The timeline's configuration is newer than the one this proposer was given.
    #[error("safekeeper {node} is at configuration generation {theirs}, this proposer knows {ours}")]
    GenerationMismatch {
        /// The node that it is about.
        node: NodeId,
        /// That node's configuration generation.
        theirs: Generation,
        /// This proposer's configuration generation.
        ours: Generation,
    },
    /// An acceptor's log has nothing in common with the elected one.
    #[error("the log of safekeeper {node} has no common point with the log elected in term {term}")]
    NoCommonPoint {
        /// The node that it is about.
        node: NodeId,
        /// The term that this proposer won.
        term: Term,
    },
    /// Two voters tell the same term in different places, or a history breaks its own rules.
    #[error("safekeeper {node} reports an impossible log: {problem}")]
    ImpossibleLog {
        /// The node that it is about.
        node: NodeId,
        /// What is wrong.
        problem: String,
    },
}

impl Fatal {
    /// The shim's exit code for it: 6 refused, 5 corruption. A newer configuration is not final: `None`, the driver
    /// learns it and starts over.
    pub fn exit_code(&self) -> Option<u8> {
        match self {
            Fatal::Fenced { .. } | Fatal::UnknownNode { .. } | Fatal::DuplicateNode { .. } | Fatal::TooFew { .. } => {
                Some(6)
            }
            Fatal::NoCommonPoint { .. } | Fatal::ImpossibleLog { .. } => Some(5),
            Fatal::GenerationMismatch { .. } => None,
        }
    }

    /// What to do next, for those that have an answer of their own.
    pub fn advice(&self) -> Option<&'static str> {
        match self {
            Fatal::Fenced { .. } => Some(
                "leave this primary stopped; if it is the right one after all, start the shim with the newer \
                 --primary-epoch, or a higher one",
            ),
            _ => None,
        }
    }
}
