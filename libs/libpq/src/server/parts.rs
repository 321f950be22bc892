//! An answer of several parts: result sets and copies to the client, in any order, before the session is ready again.

use bytes::Bytes;
use proto::pg::SqlError;
use proto::pg::frame::put_frame;

use super::statements::{put_ready, put_rows, put_tag};
use super::{ColumnType, ServerConnection};
use crate::error::NetError;

/// The rest of an answer. What is queued is bounded by the caller, who flushes.
///
/// Dropping it closes the session: the client sees that the answer is not whole.
pub struct AnswerInParts {
    connection: ServerConnection,
}

impl ServerConnection {
    /// Answers the last query in parts. Only for simple queries, which all streaming clients use.
    pub fn answer_in_parts(self) -> AnswerInParts {
        AnswerInParts { connection: self }
    }
}

impl AnswerInParts {
    /// Queues a result set with its tag.
    pub fn result(&mut self, columns: &[(&str, ColumnType)], rows: &[Vec<Option<String>>], tag: &str) {
        self.connection.outgoing.put(|out| put_rows(out, columns, rows, tag));
    }

    /// Queues CopyOutResponse: bytes without columns follow.
    pub fn begin_copy(&mut self) {
        self.connection.outgoing.put(|out| put_frame(out, b'H', |out| out.extend_from_slice(&[0, 0, 0])));
    }

    /// Queues one CopyData frame whose payload is `head` followed by `body`; a long `body` is not copied.
    pub fn data(&mut self, head: &[u8], body: Bytes) {
        self.connection.outgoing.put_frame(b'd', head, body);
    }

    /// Queues CopyDone: the copy is whole.
    pub fn end_copy(&mut self) {
        self.connection.outgoing.put_frame(b'c', &[], Bytes::new());
    }

    /// Bytes queued and not yet handed to the socket.
    pub fn queued_bytes(&self) -> usize {
        self.connection.outgoing.queued_bytes()
    }

    /// Writes all that is queued. Cancel safe: what was not written stays queued.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn flush(&mut self) -> Result<(), NetError> {
        self.connection.outgoing.flush().await
    }

    /// Ends the answer with CommandComplete and ReadyForQuery.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn finish(mut self, tag: &str) -> Result<ServerConnection, NetError> {
        self.connection.state.answer_simply();
        self.connection.outgoing.put(|out| {
            put_tag(out, tag);
            put_ready(out);
        });
        self.connection.outgoing.flush().await?;
        Ok(self.connection)
    }

    /// Ends the answer with an error, also in the midst of a copy.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn fail(mut self, error: &SqlError) -> Result<ServerConnection, NetError> {
        self.connection.state.answer_simply();
        self.connection.send_error(error).await?;
        Ok(self.connection)
    }
}
