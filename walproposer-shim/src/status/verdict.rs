//! What the guard found last, and how long it holds.

use std::time::Duration;

/// Between two checks of the guard.
pub(crate) const CHECK_PERIOD: Duration = Duration::from_secs(3);

/// A verdict of the guard that is older counts as none: two of its periods.
pub(super) const VERDICT_AGE_MAX: Duration = Duration::from_secs(2 * CHECK_PERIOD.as_secs());

/// The guard's last verdict.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct GuardVerdict {
    /// Why commits are not protected; empty: they are.
    pub(crate) reasons: Vec<String>,
    /// What does no harm today and may tomorrow.
    pub(crate) warnings: Vec<String>,
}

impl GuardVerdict {
    /// Not protected, for one reason.
    pub(crate) fn because(reason: String) -> GuardVerdict {
        GuardVerdict { reasons: vec![reason], warnings: Vec::new() }
    }
}
