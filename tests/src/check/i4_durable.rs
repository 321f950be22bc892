//! I4: commit_lsn = c implies that c is on the medium of a majority of each member set, with the same bytes.

use std::collections::BTreeSet;

use pgformat::Lsn;
use proto::consensus::MemberConf;
use proto::id::NodeId;

use super::Violation;

/// A proposer says that `commit` is committed; `holds` tells whether a node's medium has the log's bytes up to there.
///
/// # Errors
/// When no quorum has them.
pub fn committed(conf: &MemberConf, commit: Lsn, mut holds: impl FnMut(NodeId) -> bool) -> Result<(), Violation> {
    let durable: BTreeSet<NodeId> = conf.nodes().into_iter().filter(|n| holds(*n)).collect();
    // Counted here once more, not by the quorum function under test.
    let majority = |set: &[proto::consensus::Member]| {
        2 * set.iter().filter(|m| durable.contains(&m.id)).count() > set.len() || set.is_empty()
    };
    if majority(&conf.members) && majority(&conf.new_members) {
        return Ok(());
    }
    Violation::of("I4", format!("{commit} is committed, but on the medium of {durable:?} only"))
}
