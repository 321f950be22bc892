//! Redo of xlog.

use super::{Change, Context, RedoError};
use crate::page::Page;

/// Applies one change.
///
/// # Errors
/// See [`RedoError`].
pub fn redo(_page: &mut Page, change: &Change<'_>, _ctx: &Context) -> Result<(), RedoError> {
    Err(change.unknown())
}
