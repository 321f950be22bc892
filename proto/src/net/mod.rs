//! libpq sessions, protocol 3.0: one connection type for dialled and for accepted sockets, and the CopyBoth stream that
//! splits into independently owned halves. WAL payloads travel as [`bytes::Bytes`].

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;

mod error;

pub use error::{NetError, SqlError, sqlstate};

/// Where and how to dial.
#[derive(Clone, Debug, Default)]
pub struct ConnectOptions {
    /// `host:port`, or a directory that holds PostgreSQL's unix socket together with `port`.
    pub host: String,
    /// TCP port, also of the unix socket's name.
    pub port: u16,
    /// User name.
    pub user: String,
    /// Database; `None`: none sent.
    pub database: Option<String>,
    /// Password for clear text, MD5 and SCRAM-SHA-256.
    pub password: Option<String>,
    /// application_name.
    pub application_name: String,
    /// `-c key=value` options, sent in the startup parameter `options`.
    pub options: Vec<(String, String)>,
    /// Further startup parameters, as ("replication", "true").
    pub parameters: Vec<(String, String)>,
    /// Limit for connect, startup and authentication together.
    pub timeout: Duration,
}

/// Result of one statement of a simple query.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct QueryResult {
    /// Column names.
    pub columns: Vec<String>,
    /// Rows; a NULL is `None`.
    pub rows: Vec<Vec<Option<String>>>,
    /// Command tag.
    pub tag: String,
}

/// A dialled session, ready for queries.
pub struct ClientConnection {}

impl ClientConnection {
    /// Dials, starts up, authenticates.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn dial(options: &ConnectOptions) -> Result<ClientConnection, NetError> {
        let _ = options;
        todo!()
    }

    /// A ParameterStatus that the server sent.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let _ = name;
        todo!()
    }

    /// Runs a simple query and collects its results.
    ///
    /// # Errors
    /// See [`NetError`]; after [`NetError::Server`] the session is usable again.
    pub async fn simple_query(&mut self, sql: &str) -> Result<Vec<QueryResult>, NetError> {
        let _ = sql;
        todo!()
    }

    /// Sends a command that must answer with CopyBothResponse.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn copy_both(self, command: &str) -> Result<(CopyReader, CopyWriter), NetError> {
        let _ = command;
        todo!()
    }
}

/// What an accepted session said at start-up.
#[derive(Clone, Debug, Default)]
pub struct StartupParams {
    /// All startup parameters, `options` included.
    pub parameters: HashMap<String, String>,
    /// The parsed `options`: key to value, later ones win. See `docs/protocol.md` for the grammar.
    pub options: HashMap<String, String>,
}

/// A column of a result set; everything is sent as text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ColumnType {
    /// text, oid 25.
    Text,
    /// int4, oid 23.
    Int4,
    /// int8, oid 20.
    Int8,
}

/// How a client must identify itself. Clear-text password is a hook for tokens; trust is for loopback.
#[derive(Clone, Debug)]
pub enum Auth {
    /// No password is asked for.
    Trust,
    /// A clear-text password, compared with this one.
    Password(String),
}

/// An accepted session.
pub struct ServerConnection {}

impl ServerConnection {
    /// Start-up as a server: refuses SSL and GSS encryption with `N`, cancels, bad versions and oversized packets with an error.
    /// `parameter_status` is sent to the client (server_version and so on), computed from what it asked for.
    ///
    /// # Errors
    /// See [`NetError`]; the client was told where it could be.
    pub async fn accept(
        stream: TcpStream,
        auth: &Auth,
        timeout: Duration,
        parameter_status: impl FnOnce(&StartupParams) -> Vec<(String, String)>,
    ) -> Result<ServerConnection, NetError> {
        let _ = (stream, auth, timeout, parameter_status);
        todo!()
    }

    /// What the client said at start-up.
    pub fn startup(&self) -> &StartupParams {
        todo!()
    }

    /// The other end, for logs.
    pub fn peer(&self) -> &str {
        todo!()
    }

    /// The text of the next simple query (or of an extended-protocol statement without parameters); `None` when the client is gone.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn next_query(&mut self) -> Result<Option<String>, NetError> {
        todo!()
    }

    /// Answers with one result set and ReadyForQuery.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn send_rows(
        &mut self,
        columns: &[(&str, ColumnType)],
        rows: &[Vec<Option<String>>],
        tag: &str,
    ) -> Result<(), NetError> {
        let _ = (columns, rows, tag);
        todo!()
    }

    /// Answers with an error and ReadyForQuery.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn send_error(&mut self, error: &SqlError) -> Result<(), NetError> {
        let _ = error;
        todo!()
    }

    /// Answers with CopyBothResponse and turns into a stream.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn copy_both(self) -> Result<(CopyReader, CopyWriter), NetError> {
        todo!()
    }

    /// Back to commands after both sides sent CopyDone: sends CommandComplete with `tag` and ReadyForQuery.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn after_copy(reader: CopyReader, writer: CopyWriter, tag: &str) -> Result<ServerConnection, NetError> {
        let _ = (reader, writer, tag);
        todo!()
    }
}

/// What came in on a CopyBoth stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CopyEvent {
    /// One CopyData payload.
    Data(Bytes),
    /// CopyDone: the peer's direction is finished.
    Done,
    /// CopyFail with its text (from a client).
    Fail(String),
    /// ErrorResponse (from a server).
    Error(Box<SqlError>),
    /// The socket ended (or Terminate).
    Closed,
}

/// Reading half of a CopyBoth stream. Owned independently of the writing half.
pub struct CopyReader {}

impl CopyReader {
    /// The next event. Cancel safe.
    ///
    /// # Errors
    /// See [`NetError`]; a frame above 16 MiB is [`NetError::Protocol`].
    pub async fn next(&mut self) -> Result<CopyEvent, NetError> {
        todo!()
    }

    /// The next event, if a whole one was received already; never waits.
    ///
    /// # Errors
    /// See [`NetError`].
    pub fn try_next(&mut self) -> Result<Option<CopyEvent>, NetError> {
        todo!()
    }

    /// The other end, for logs.
    pub fn peer(&self) -> &str {
        todo!()
    }
}

/// Writing half of a CopyBoth stream. Frames are queued, then flushed with as few system calls as possible (gather writes).
pub struct CopyWriter {}

impl CopyWriter {
    /// Queues one CopyData frame whose payload is `head` followed by `body`; `body` is not copied.
    pub fn queue(&mut self, head: &[u8], body: Bytes) {
        let _ = (head, body);
    }

    /// Bytes queued and not yet handed to the socket.
    pub fn queued_bytes(&self) -> usize {
        todo!()
    }

    /// Writes all that is queued. Cancel safe: what was not written stays queued.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn flush(&mut self) -> Result<(), NetError> {
        todo!()
    }

    /// Queues CopyDone.
    pub fn queue_done(&mut self) {}

    /// Queues CopyFail (client side) or ErrorResponse (server side).
    pub fn queue_error(&mut self, error: &SqlError) {
        let _ = error;
    }

    /// Flushes and closes the sending direction of the socket.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn shutdown(self) -> Result<(), NetError> {
        todo!()
    }
}
