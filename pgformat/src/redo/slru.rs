//! Pages of clog, multixact and commit timestamps: changes that transaction records imply.

use super::{Change, RedoError};
use crate::page::Page;

/// Applies one of our own changes.
///
/// # Errors
/// See [`RedoError`].
pub fn redo(_page: &mut Page, change: &Change<'_>) -> Result<(), RedoError> {
    Err(change.unknown())
}
