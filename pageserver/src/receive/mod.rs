//! WAL streams into this pageserver: pushed by a safekeeper that dialled us, or pulled from one that we dialled. Both
//! run the same receiver; only the handshake differs.
//!
//! | file | what |
//! |---|---|
//! | `push` | START_PUSH_REPLICATION: token, nonce, taking over from the stream before |
//! | `pull` | dialling a safekeeper, START_REPLICATION |
//! | `stream` | the receiver: ingest, feedback, liveness |
//! | `feedback` | what is reported to the sender, and when |

mod feedback;
pub(crate) mod pull;
pub(crate) mod push;
mod stream;

use std::time::Duration;

use proto::pg::{SqlError, sqlstate};

use crate::choose::Ended;

/// How long a stream may take to let go of the timeline: a disk that takes longer than this to sync is as good as
/// broken.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(10);

/// How a stream ended.
#[derive(Debug)]
pub(crate) enum StreamEnd {
    /// Another stream took over, or the choice was given up.
    Cancelled,
    /// This server stops.
    Shutdown,
    /// The sender finished, in its own words.
    Finished(String),
    /// The connection broke.
    Lost(String),
    /// Nothing came for too long.
    Silent(Duration),
    /// Something that is no message of this protocol.
    Malformed(String),
    /// WAL that leaves a gap or overlaps.
    NotContiguous(String),
    /// WAL that does not continue the log.
    BadWal(String),
    /// The timeline takes nothing in any more.
    Stopped(String),
    /// What was there before a record cannot be read now: its WAL is wanted again.
    ReadAgain(String),
}

impl StreamEnd {
    /// For the chooser.
    pub(crate) fn kind(&self, replaced: bool) -> Ended {
        match self {
            StreamEnd::Cancelled if replaced => Ended::Replaced,
            StreamEnd::Silent(_) => Ended::Silent,
            StreamEnd::BadWal(_) | StreamEnd::NotContiguous(_) | StreamEnd::Malformed(_) => Ended::BadWal,
            _ => Ended::Lost,
        }
    }

    /// What the peer is told; none when it is gone or has finished itself.
    pub(crate) fn error(&self) -> Option<SqlError> {
        match self {
            StreamEnd::Cancelled => {
                Some(SqlError::new(sqlstate::PREEMPTED, "another choice or a newer stream took over this timeline"))
            }
            StreamEnd::Shutdown => Some(SqlError::new(sqlstate::ADMIN_SHUTDOWN, "the pageserver is being stopped")),
            StreamEnd::Finished(_) | StreamEnd::Lost(_) => None,
            StreamEnd::Silent(limit) => {
                Some(SqlError::new("08006", format!("nothing was received for {} s", limit.as_secs())))
            }
            StreamEnd::Malformed(m) => Some(SqlError::protocol_violation(m.clone())),
            StreamEnd::NotContiguous(m) => Some(SqlError::new(sqlstate::WAL_NOT_CONTIGUOUS, m.clone())),
            StreamEnd::BadWal(m) => Some(SqlError::new(sqlstate::DATA_CORRUPTED, m.clone())),
            StreamEnd::Stopped(m) => Some(stopped_error(m)),
            StreamEnd::ReadAgain(m) => Some(SqlError::new(sqlstate::IO_ERROR, m.clone())),
        }
    }
}

impl std::fmt::Display for StreamEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StreamEnd::Cancelled => f.write_str("another choice or stream took over"),
            StreamEnd::Shutdown => f.write_str("this server stops"),
            StreamEnd::Silent(limit) => write!(f, "nothing was received for {} s", limit.as_secs()),
            StreamEnd::Finished(m)
            | StreamEnd::Lost(m)
            | StreamEnd::Malformed(m)
            | StreamEnd::NotContiguous(m)
            | StreamEnd::BadWal(m)
            | StreamEnd::ReadAgain(m)
            | StreamEnd::Stopped(m) => f.write_str(m),
        }
    }
}

fn stopped_error(why: &str) -> SqlError {
    SqlError::new(sqlstate::TIMELINE_STOPPED, format!("the pageserver takes no WAL of this timeline: {why}")).with_hint(
        "Repair what stopped it and restart the pageserver; it then receives again from its durable position.",
    )
}
