//! Why there is no answer about a cluster's state.

use pgformat::Lsn;
use pgformat::control::ControlError;
use pgformat::read::Short;
use pgformat::redo::RedoError;
use pgformat::rel::{BlockNumber, RelFork};

use super::key::Key;

/// Version of the stored forms of the control state.
pub(super) const STATE_FORMAT: u8 = 1;

/// Why a question to a [`Look`](super::look::Look) has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    /// Something cannot be read now; it may be later. In the words of the one who holds it.
    #[error("{0}")]
    Away(String),
    /// Something can never be read. In the words of the one who holds it.
    #[error("{0}")]
    Lost(String),
    /// A page cannot be rebuilt.
    #[error(transparent)]
    Redo(#[from] RedoFailure),
    /// What is stored makes no sense.
    #[error("{0} is damaged")]
    Damaged(Key),
    /// A fork has been cut, and has grown over long gaps, more often than is kept track of.
    #[error(
        "{fork} was cut, and grew over gaps of thousands of blocks behind all that it had, hundreds of times; its \
         block {blk} is behind one more"
    )]
    Gaps {
        /// The fork that is to reach a block.
        fork: RelFork,
        /// The block that is to be reached.
        blk: BlockNumber,
    },
    /// The control state is damaged, of another version, or not there.
    #[error("the control state: {0}")]
    Control(#[from] StateError),
}

/// Why a page cannot be rebuilt: the version at `lsn` does not apply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key} cannot be rebuilt at {lsn}: {cause}")]
pub(crate) struct RedoFailure {
    /// Key of the page.
    pub(crate) key: Key,
    /// End of the record that does not apply.
    pub(crate) lsn: Lsn,
    /// What redo says about the record.
    pub(crate) cause: RedoError,
}

/// A stored control state that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    /// Too short or too long.
    #[error("the stored control state is cut off")]
    Short,
    /// Written by another version.
    #[error("the stored control state has format {0}, this program knows {STATE_FORMAT}")]
    Format(u8),
    /// No state is stored at or below the position.
    #[error("there is no control state at this position")]
    Missing,
    /// The control file in it does not parse.
    #[error(transparent)]
    Control(#[from] ControlError),
}

impl From<Short> for StateError {
    fn from(_: Short) -> StateError {
        StateError::Short
    }
}
