//! Errors of a session.

use std::time::Duration;

use proto::pg::SqlError;

/// What can go wrong on a session.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Socket trouble, or the peer closed in the middle of something.
    #[error("connection to {peer}: {source}")]
    Io {
        /// The other end.
        peer: String,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The peer broke the protocol.
    #[error("connection to {peer}: {problem}")]
    Protocol {
        /// The other end.
        peer: String,
        /// What was wrong.
        problem: String,
    },
    /// The peer sent an ErrorResponse.
    #[error("{peer} says: {error}")]
    Server {
        /// The other end.
        peer: String,
        /// What the peer reported: SQLSTATE, severity and text.
        error: Box<SqlError>,
    },
    /// Nothing came in time.
    #[error("connection to {peer}: {what} took longer than {limit:?}")]
    Timeout {
        /// The other end.
        peer: String,
        /// What was awaited.
        what: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
}

impl NetError {
    /// The peer's error, when it sent one.
    pub fn server_error(&self) -> Option<&SqlError> {
        match self {
            NetError::Server { error, .. } => Some(error),
            _ => None,
        }
    }

    pub(crate) fn io(peer: &str, source: std::io::Error) -> NetError {
        NetError::Io { peer: peer.to_owned(), source }
    }

    pub(crate) fn closed(peer: &str) -> NetError {
        NetError::io(peer, std::io::ErrorKind::UnexpectedEof.into())
    }

    pub(crate) fn protocol(peer: &str, problem: impl Into<String>) -> NetError {
        NetError::Protocol { peer: peer.to_owned(), problem: problem.into() }
    }

    pub(crate) fn server(peer: &str, error: SqlError) -> NetError {
        NetError::Server { peer: peer.to_owned(), error: Box::new(error) }
    }
}
