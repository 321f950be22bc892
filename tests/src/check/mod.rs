//! Checkers of the simulator: one invariant per file, each shown to fail on a planted bug (`tests/tests/sim.rs`).
//!
//! They look at what the simulated world did (messages, bytes on the medium), never at what a core claims about itself.
//! Numbers: `docs/protocol.md`, "Consensus: numbered invariants".

pub mod acked;
pub mod health;
pub mod i1_one_leader;
pub mod i2_history;
pub mod i3_prefix;
pub mod i4_durable;
pub mod i5_truncate;
pub mod i6_report;
pub mod promises;

/// An invariant that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The checker.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
}

impl Violation {
    /// A violation of `invariant`.
    pub fn of<T>(invariant: &'static str, what: impl Into<String>) -> Result<T, Violation> {
        Err(Violation { invariant, what: what.into() })
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// The first position at which two logs with the same beginning differ, counted from it; `None` when one is a prefix
/// of the other.
pub(crate) fn first_difference(a: &[u8], b: &[u8]) -> Option<usize> {
    let n = a.len().min(b.len());
    if a[..n] == b[..n] { None } else { a.iter().zip(b).position(|(x, y)| x != y) }
}
