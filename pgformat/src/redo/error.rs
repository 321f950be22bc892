//! The context of redo beside a change, and its errors.

use crate::page::PageError;
use crate::read::Short;
use crate::wal::image::ImageError;
use crate::{Lsn, PgMajor};

/// What redo must know beside the change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Context {
    /// The major that wrote the record.
    pub version: PgMajor,
    /// End of the record: what `pd_lsn` becomes.
    pub end: Lsn,
}

/// Why a page cannot be redone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedoError {
    /// A record type that this version does not know.
    #[error("record type {rmid}/{info:#04x} is not known")]
    Unknown {
        /// Number of the resource manager ([`super::rmid`]).
        rmid: u8,
        /// The opcode: `xl_info` without the flags of the log itself.
        info: u8,
    },
    /// The record has no such block, or the block cannot be in this role.
    #[error("block reference {0} does not belong to this type of record")]
    Block(u8),
    /// A block reference that this type always has is missing.
    #[error("block reference {0} is missing")]
    NoRef(u8),
    /// The page was never initialised, and the change needs what was on it.
    #[error("the page has no content to apply a change to")]
    NewPage,
    /// The record's data end too early.
    #[error("the record's data is shorter than its type needs")]
    Short,
    /// The page does not allow the change.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The image cannot be restored.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Anything else that does not fit together.
    #[error("{0}")]
    Precondition(&'static str),
}

impl From<Short> for RedoError {
    fn from(_: Short) -> RedoError {
        RedoError::Short
    }
}
