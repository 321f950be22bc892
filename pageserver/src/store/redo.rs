//! From a history to a page.

use pgformat::PgMajor;
use pgformat::page::Page;
use pgformat::redo::{Change, Context, RedoError, redo};
use pgformat::rel::Fork;

use super::history::{History, Version};
use crate::cluster::error::RedoFailure;
use crate::cluster::value::{ValueKind, decode_image};

/// Rebuilds a page, of a relation or of an SLRU, from its history. Without a base it starts as zeros, which few types
/// of change accept. A history that ends with a tombstone gives zeros.
///
/// # Errors
/// The version that does not apply, and why.
pub(crate) fn materialise(history: &History, version: PgMajor) -> Result<Box<Page>, RedoFailure> {
    let mut page = Page::zeroed();
    materialise_into(history, version, &mut page)?;
    Ok(page)
}

/// [`materialise`] into a page that the caller has; its content does not matter, and after an error it is spoilt.
///
/// # Errors
/// As [`materialise`].
pub(crate) fn materialise_into(history: &History, version: PgMajor, page: &mut Page) -> Result<(), RedoFailure> {
    page.0.fill(0);
    redo_onto(history, version, page)
}

/// Applies a history to the page as it was before.
///
/// # Errors
/// As [`materialise`]; the page is spoilt then.
pub(crate) fn redo_onto(history: &History, version: PgMajor, page: &mut Page) -> Result<(), RedoFailure> {
    let fork = Fork::new(history.key.fork).unwrap_or(Fork::Main);
    history.versions.iter().try_for_each(|v| {
        apply(v, fork, history.key.blk, version, page).map_err(|cause| RedoFailure {
            key: history.key,
            lsn: v.lsn,
            cause,
        })
    })
}

fn apply(v: &Version, fork: Fork, blk: u32, version: PgMajor, page: &mut Page) -> Result<(), RedoError> {
    match v.kind {
        ValueKind::Image => Ok(decode_image(&v.value, v.lsn, page)?),
        ValueKind::Init | ValueKind::Change => {
            let change = Change::decode(&v.value, fork, blk)?;
            redo(page, &change, &Context { version, end: v.lsn })
        }
        ValueKind::Tombstone => {
            page.0.fill(0);
            Ok(())
        }
        ValueKind::Blob => Err(RedoError::Precondition("metadata is not a page")),
    }
}
