//! Member sets and the one quorum function, plain and joint.
//!
//! A quorum is a majority of the members and, while the set changes (joint), also a majority of the new members. Nodes
//! count by id, never by address: a proposer's address list only says where to dial.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::id::{Generation, NodeId};

/// One member with the address that the configuration gives for it (a hint; may be empty).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Node id of the safekeeper.
    pub id: NodeId,
    /// Host of its libpq port.
    pub host: String,
    /// Its libpq port.
    pub pg_port: u16,
}

/// Membership configuration ("mconf").
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MemberConf {
    /// 0 = none, then both sets are empty.
    pub generation: Generation,
    /// The members; while the set changes, those of before.
    pub members: Vec<Member>,
    /// The members to be, while the set changes; empty otherwise.
    pub new_members: Vec<Member>,
}

/// A configuration that contradicts itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MemberConfError {
    /// One node twice in one set.
    #[error("node {0} stands twice in one member set")]
    Duplicate(NodeId),
    /// Node id zero.
    #[error("node id 0 is not valid")]
    ZeroNode,
    /// Members without a generation, or a generation without members.
    #[error("a member set needs a generation of 1 or more, and a generation needs members")]
    GenerationMismatch,
}

impl MemberConf {
    /// The empty configuration of generation 0.
    pub fn none() -> MemberConf {
        MemberConf { generation: Generation::NONE, members: Vec::new(), new_members: Vec::new() }
    }

    /// Checks and builds a configuration.
    ///
    /// # Errors
    /// When a node stands twice in a set, a node id is zero, or generation and members do not go together.
    pub fn new(
        generation: Generation,
        members: Vec<Member>,
        new_members: Vec<Member>,
    ) -> Result<Self, MemberConfError> {
        for set in [&members, &new_members] {
            let mut seen = BTreeSet::new();
            for m in set {
                if m.id.0 == 0 {
                    return Err(MemberConfError::ZeroNode);
                }
                if !seen.insert(m.id) {
                    return Err(MemberConfError::Duplicate(m.id));
                }
            }
        }
        if (generation == Generation::NONE) != members.is_empty() || (members.is_empty() && !new_members.is_empty()) {
            return Err(MemberConfError::GenerationMismatch);
        }
        Ok(MemberConf { generation, members, new_members })
    }

    /// Whether `node` belongs to either set.
    pub fn contains(&self, node: NodeId) -> bool {
        self.members.iter().chain(&self.new_members).any(|m| m.id == node)
    }

    /// Every node of either set, ascending, each once.
    pub fn nodes(&self) -> BTreeSet<NodeId> {
        self.members.iter().chain(&self.new_members).map(|m| m.id).collect()
    }

    /// Whether the nodes for which `yes` holds form a quorum (of both sets when joint). An empty set has no quorum.
    pub fn is_quorum(&self, mut yes: impl FnMut(NodeId) -> bool) -> bool {
        let mut majority = |set: &[Member]| set.iter().filter(|m| yes(m.id)).count() > set.len() / 2;
        !self.members.is_empty()
            && majority(&self.members)
            && (self.new_members.is_empty() || majority(&self.new_members))
    }

    /// The largest value that a quorum has reached, when `value` gives what each node reached (`None`: nothing).
    pub fn quorum_value<T: Ord + Copy>(&self, mut value: impl FnMut(NodeId) -> Option<T>) -> Option<T> {
        let mut of_set = |set: &[Member]| {
            let mut reached: Vec<Option<T>> = set.iter().map(|m| value(m.id)).collect();
            reached.sort_unstable();
            // The majority's weakest member: n - (n / 2 + 1) values lie below it.
            let below = set.len().checked_sub(set.len() / 2 + 1)?;
            *reached.get(below)?
        };
        let old = of_set(&self.members)?;
        if self.new_members.is_empty() { Some(old) } else { Some(old.min(of_set(&self.new_members)?)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ids: &[u64]) -> Vec<Member> {
        ids.iter().map(|id| Member { id: NodeId(*id), host: String::new(), pg_port: 0 }).collect()
    }

    fn conf(old: &[u64], new: &[u64]) -> MemberConf {
        MemberConf::new(Generation(1), set(old), set(new)).expect("a valid configuration")
    }

    /// Every subset of up to five plus five members: the quorum function against a count by hand.
    #[test]
    fn quorum_is_a_majority_of_each_set_for_every_subset() {
        for n in 1..=5u64 {
            for m in 0..=5u64 {
                let old: Vec<u64> = (1..=n).collect();
                let new: Vec<u64> = (4..4 + m).collect();
                let c = conf(&old, &new);
                for mask in 0..1u32 << 9 {
                    let yes = |id: u64| mask >> id & 1 == 1;
                    let by_hand = old.iter().filter(|i| yes(**i)).count() * 2 > old.len()
                        && (new.is_empty() || new.iter().filter(|i| yes(**i)).count() * 2 > new.len());
                    assert_eq!(c.is_quorum(|id| yes(id.0)), by_hand, "old {old:?} new {new:?} mask {mask:b}");
                    let value = c.quorum_value(|id| yes(id.0).then_some(7));
                    assert_eq!(value.is_some(), by_hand);
                }
            }
        }
    }

    #[test]
    fn quorum_value_is_what_a_majority_reached() {
        let c = conf(&[1, 2, 3], &[]);
        let at = |v: [Option<u64>; 3]| c.quorum_value(|id| v.get(id.0 as usize - 1).copied().flatten());
        assert_eq!(at([Some(10), Some(20), Some(30)]), Some(20));
        assert_eq!(at([Some(10), None, Some(30)]), Some(10));
        assert_eq!(at([None, None, Some(30)]), None);
        let joint = conf(&[1, 2, 3], &[3, 4]);
        let v = joint.quorum_value(|id| Some([50, 40, 30, 20][id.0 as usize - 1]));
        assert_eq!(v, Some(20), "both of {{3, 4}} are needed");
        assert_eq!(MemberConf::none().quorum_value(|_| Some(1)), None);
    }

    #[test]
    fn contradictions_are_refused() {
        assert_eq!(MemberConf::new(Generation(1), set(&[1, 1]), vec![]), Err(MemberConfError::Duplicate(NodeId(1))));
        assert_eq!(MemberConf::new(Generation(1), set(&[0]), vec![]), Err(MemberConfError::ZeroNode));
        assert_eq!(MemberConf::new(Generation(0), set(&[1]), vec![]), Err(MemberConfError::GenerationMismatch));
        assert_eq!(MemberConf::new(Generation(1), vec![], vec![]), Err(MemberConfError::GenerationMismatch));
    }
}
