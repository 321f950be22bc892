//! Redo of gist.

use super::{Change, Context, RedoError};
use crate::page::Page;

/// Applies one change.
///
/// # Errors
/// See [`RedoError`].
pub fn redo(_page: &mut Page, change: &Change<'_>, _ctx: &Context) -> Result<(), RedoError> {
    Err(change.unknown())
}

/// What a record does to a page that it has restored from an image.
///
/// # Errors
/// See [`RedoError`].
pub fn after_image(_page: &mut Page, _change: &Change<'_>, _ctx: &Context) -> Result<(), RedoError> {
    Ok(())
}

/// Whether [`after_image`] does something.
pub fn changes_after_image(_info: u8, _block: u8) -> bool {
    false
}
