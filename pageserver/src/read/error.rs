//! Why a read has no answer.

use std::fmt;
use std::time::Duration;

use axum::http::StatusCode;
use pgformat::Lsn;
use pgformat::rel::{BlockNumber, BlockTag, RelFork};
use pgformat::slru::Slru;
use proto::pg::{SqlError, sqlstate};

use super::Fault;

/// The LSNs that can be read, both included. Nothing is readable while `to` is below `from`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Readable {
    /// First; none while it is not known, early in an import.
    pub(crate) from: Option<Lsn>,
    /// Last: the end of the last record.
    pub(crate) to: Lsn,
}

impl fmt::Display for Readable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.from {
            None => write!(f, "nothing is readable yet, ingested is up to {}", self.to),
            Some(from) if self.to < from => {
                write!(f, "nothing is readable below {from}, ingested is up to {}", self.to)
            }
            Some(from) => write!(f, "readable are LSNs {from} to {}", self.to),
        }
    }
}

/// What is wrong. Each has an SQLSTATE of its own.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Problem {
    /// The request's LSNs contradict each other.
    #[error("LSN {lsn} with not-modified-since {since} cannot be asked for: the first must not be 0/0 nor the smaller")]
    Lsns {
        /// The LSN that was asked for.
        lsn: Lsn,
        /// Since when nothing changed, as promised.
        since: Lsn,
    },
    /// The import has not come so far that its end is known.
    #[error("the timeline has no pages yet: its cluster is not imported")]
    NotImported,
    /// Below what is readable.
    #[error("LSN {lsn} is below what is readable")]
    TooOld {
        /// The LSN that was asked for.
        lsn: Lsn,
    },
    /// The WAL did not come in time.
    #[error("WAL up to {lsn} did not come within {} ms{}", waited.as_millis(), because(why))]
    NotReached {
        /// The LSN that was waited for.
        lsn: Lsn,
        /// For so long.
        waited: Duration,
        /// Why it will not come, if that is known.
        why: Option<String>,
    },
    /// The relation never existed up to there.
    #[error("relation {fork} does not exist at {lsn}{}", since_when(created))]
    NoRelation {
        /// The fork that was asked for.
        fork: RelFork,
        /// The LSN that was asked for.
        lsn: Lsn,
        /// It exists at this later LSN.
        created: Option<Lsn>,
    },
    /// The relation was dropped before.
    #[error("relation {fork} was dropped at {dropped}, before {lsn}; it can be read below {dropped}")]
    Dropped {
        /// The fork that was asked for.
        fork: RelFork,
        /// The LSN that was asked for.
        lsn: Lsn,
        /// End of the record that dropped it.
        dropped: Lsn,
    },
    /// The relation is shorter.
    #[error("{tag} is beyond the end: the relation has {blocks} blocks at {lsn}")]
    BeyondEnd {
        /// The block that was asked for.
        tag: BlockTag,
        /// The LSN that was asked for.
        lsn: Lsn,
        /// Its size there.
        blocks: BlockNumber,
    },
    /// No such database.
    #[error("database {db} has no relations at {lsn}")]
    NoDatabase {
        /// Oid of the database.
        db: u32,
        /// The LSN that was asked for.
        lsn: Lsn,
    },
    /// No such segment.
    #[error("segment {segno:04X} of {slru} does not exist at {lsn}")]
    NoSegment {
        /// The SLRU that was asked for.
        slru: Slru,
        /// Number of the segment that was asked for.
        segno: u32,
        /// The LSN that was asked for.
        lsn: Lsn,
    },
    /// A record could not be redone.
    #[error(
        "{what} is not known at {lsn}: the record that ends at {record} cannot be redone ({cause}); it can be read \
         below that record, and again once a later image replaces it"
    )]
    NotRedone {
        /// The page, or the metadata, in words.
        what: String,
        /// The LSN that was asked for.
        lsn: Lsn,
        /// End of the record.
        record: Lsn,
        /// What is wrong with the record.
        cause: String,
    },
    /// Stored bytes are wrong, or missing where they must be.
    #[error("{what} cannot be read at {lsn}: {cause}")]
    Damaged {
        /// Page or metadata.
        what: String,
        /// The LSN that was asked for.
        lsn: Lsn,
        /// File, offset, keys.
        cause: String,
    },
    /// A file could not be read; may go away.
    #[error("{what} cannot be read at {lsn}: {cause}")]
    Io {
        /// Page or metadata.
        what: String,
        /// The LSN that was asked for.
        lsn: Lsn,
        /// What the operating system said.
        cause: String,
    },
    /// It lies in a file, and files were not to be touched. Never leaves this module tree.
    #[error("not in memory")]
    NotInMemory,
    /// A bug: a reading thread ended.
    #[error("{0}")]
    Internal(String),
}

fn because(why: &Option<String>) -> String {
    why.as_ref().map_or_else(String::new, |w| format!(": {w}"))
}

fn since_when(created: &Option<Lsn>) -> String {
    created.map_or_else(String::new, |lsn| format!("; it does at {lsn}"))
}

impl Problem {
    /// What a fault of the store means for `what` at `lsn`.
    pub(crate) fn of_fault(fault: Fault, what: impl fmt::Display, lsn: Lsn) -> Problem {
        let what = what.to_string();
        match fault {
            Fault::NotInMemory => Problem::NotInMemory,
            Fault::NotRedone { record, cause } => Problem::NotRedone { what, lsn, record, cause },
            Fault::Damaged(cause) => Problem::Damaged { what, lsn, cause },
            Fault::Io(cause) => Problem::Io { what, lsn, cause },
        }
    }

    /// Its SQLSTATE, five characters.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Problem::Lsns { .. } => sqlstate::INVALID_PARAMETER_VALUE,
            Problem::NotImported => sqlstate::CANNOT_CONNECT_NOW,
            Problem::TooOld { .. } => sqlstate::LSN_TOO_OLD,
            Problem::NotReached { .. } => sqlstate::LSN_NOT_REACHED,
            Problem::NoRelation { .. } => sqlstate::UNDEFINED_TABLE,
            Problem::Dropped { .. } => sqlstate::RELATION_DROPPED,
            Problem::BeyondEnd { .. } => sqlstate::BEYOND_END,
            Problem::NoDatabase { .. } => sqlstate::UNDEFINED_DATABASE,
            Problem::NoSegment { .. } => sqlstate::UNDEFINED_OBJECT,
            Problem::NotRedone { .. } => sqlstate::PAGE_NOT_REDONE,
            Problem::Damaged { .. } => sqlstate::DATA_CORRUPTED,
            Problem::Io { .. } => sqlstate::IO_ERROR,
            Problem::NotInMemory | Problem::Internal(_) => sqlstate::INTERNAL_ERROR,
        }
    }

    /// Its HTTP status code.
    pub(crate) const fn status(&self) -> StatusCode {
        match self {
            Problem::Lsns { .. } => StatusCode::BAD_REQUEST,
            Problem::NotImported => StatusCode::SERVICE_UNAVAILABLE,
            Problem::TooOld { .. } => StatusCode::GONE,
            Problem::NotReached { .. } => StatusCode::GATEWAY_TIMEOUT,
            Problem::BeyondEnd { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Problem::NoRelation { .. }
            | Problem::Dropped { .. }
            | Problem::NoDatabase { .. }
            | Problem::NoSegment { .. } => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A problem, and what could have been read instead.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{problem} ({readable})")]
pub(crate) struct ReadError {
    /// What is wrong.
    pub(crate) problem: Problem,
    /// What was readable then.
    pub(crate) readable: Readable,
}

impl ReadError {
    /// As libpq carries it.
    pub(crate) fn to_sql(&self) -> SqlError {
        SqlError::new(self.problem.code(), self.to_string())
    }
}
