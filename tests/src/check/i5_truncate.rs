//! I5: an acceptor never truncates below its known commit_lsn.

use std::collections::BTreeMap;

use pgformat::Lsn;

use super::Violation;

/// What each node knew to be committed in its present life.
#[derive(Debug, Default)]
pub struct Truncate(BTreeMap<u64, Lsn>);

impl Truncate {
    /// A node starts with what its control file holds.
    pub fn opened(&mut self, node: u64, commit: Option<Lsn>) {
        self.0.remove(&node);
        self.knows(node, commit);
    }

    /// A node learnt of a commit position.
    pub fn knows(&mut self, node: u64, commit: Option<Lsn>) {
        if let Some(commit) = commit {
            let known = self.0.entry(node).or_insert(commit);
            *known = (*known).max(commit);
        }
    }

    /// A node cuts its log.
    ///
    /// # Errors
    /// When that is below what it knows to be committed.
    pub fn cut(&self, node: u64, to: Lsn) -> Result<(), Violation> {
        match self.0.get(&node) {
            Some(known) if to < *known => {
                Violation::of("I5", format!("node {node} cuts its log at {to}, it knows {known} to be committed"))
            }
            _ => Ok(()),
        }
    }
}
