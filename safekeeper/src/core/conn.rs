//! What the acceptor keeps of one proposer's connection.

use proto::consensus::ProtoVersion;
use proto::id::PrimaryEpoch;

use super::effect::WriteId;

/// One proposer's connection.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) version: ProtoVersion,
    /// Zero when none was given.
    pub(super) epoch: PrimaryEpoch,
    pub(super) greeted: bool,
    /// An append waits for its answer.
    pub(super) ack_due: bool,
    /// What the last reply waits for: replies keep their order.
    pub(super) last_after: Option<WriteId>,
}
