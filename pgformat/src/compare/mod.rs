//! Compares a page that redo made with PostgreSQL's page.
//!
//! Both pages are masked as in PostgreSQL's own check ([`mask`]). Then the differences that its own replay would show
//! are removed, a closed list ([`allowed`]). What remains is a mismatch. The judges of redo in the tests and
//! `walfabric page verify` call the same function.

pub mod allowed;
pub mod mask;

pub use allowed::{ALLOWED, Allowed, Case, INIT_FORK_LSN, SPGIST_UNUSED, Verdict};
pub use allowed::{is_init_before_log, is_unused_spgist};
pub use mask::{Against, Kind};

use crate::page::{Page, PageError};

/// Pages that cannot be compared: a header contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompareError {
    /// It is the page that PostgreSQL wrote.
    #[error("the primary's page: {0}")]
    Theirs(PageError),
    /// Made by redo.
    #[error("our page: {0}")]
    Ours(PageError),
}

/// Compares our page with PostgreSQL's; with its page LSN when that one is a file's.
///
/// # Errors
/// See [`CompareError`].
pub fn verdict(ours: &Page, theirs: &Page, case: &Case) -> Result<Verdict, CompareError> {
    let (mut ours, mut theirs) = (ours.clone(), theirs.clone());
    mask::mask(&mut theirs, case.kind, case.tag, case.against).map_err(CompareError::Theirs)?;
    mask::mask(&mut ours, case.kind, case.tag, case.against).map_err(CompareError::Ours)?;
    Ok(allowed::judge(&mut ours, &mut theirs, case))
}
