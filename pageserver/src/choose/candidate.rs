//! Who could be chosen, and who is best.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use pgformat::Lsn;
use proto::id::NodeId;

use super::{Chooser, Mode};

/// A safekeeper that holds the timeline and whose node's lease key exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Candidate {
    /// Commit position as it published it; `None`: unknown, and then it is not eligible.
    pub(crate) commit_lsn: Option<Lsn>,
    /// Its availability zone.
    pub(crate) zone: Option<String>,
    /// Choices that fall on it already, as known here.
    pub(crate) pushes: u32,
}

/// What the broker shows, or showed when it was seen last.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct View {
    /// Whether the broker answers.
    pub(crate) broker: bool,
    /// Nodes with a lease key that published the timeline.
    pub(crate) candidates: BTreeMap<NodeId, Candidate>,
}

impl Chooser {
    /// The best candidate that may be tried in `mode` now: highest commit position, then our zone, then fewest
    /// pushes, then the highest rendezvous hash.
    pub(super) fn best(&self, now: Duration, mode: Mode, not: Option<NodeId>) -> Option<(NodeId, &Candidate)> {
        let open = self.view.candidates.iter().filter(|(id, c)| {
            c.commit_lsn.is_some() && Some(**id) != not && !self.penalties.is_barred(now, **id, mode)
        });
        let best = open.max_by_key(|(id, c)| {
            let here = self.settings.zone.is_some() && c.zone == self.settings.zone;
            (c.commit_lsn, here, Reverse(c.pushes), rendezvous(self.hash_seed, **id))
        });
        best.map(|(id, c)| (*id, c))
    }

    /// Whether every eligible safekeeper was asked to push lately and did not dial.
    pub(super) fn nobody_dials(&self, now: Duration) -> bool {
        let mut eligible = self.view.candidates.iter().filter(|(_, c)| c.commit_lsn.is_some()).peekable();
        eligible.peek().is_some() && eligible.all(|(id, _)| self.penalties.is_barred_undialled(now, *id))
    }
}

/// Rendezvous hash: every (pageserver, timeline) ranks the safekeepers in its own order.
fn rendezvous(seed: u64, id: NodeId) -> u64 {
    // splitmix64: any good mixer does, it only has to stay the same.
    let mut x = seed ^ id.0.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
