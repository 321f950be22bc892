//! Accepted sessions: start-up, queries, answers, entering and leaving a copy stream.
//!
//! The extended protocol is supported for statements without parameters. Describe runs a statement, since only the
//! answer tells the columns; the answer is kept for the Execute that follows.

mod handshake;
mod options;
mod parts;
mod statements;

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::copy::{CopyEvent, CopyReader, CopyWriter, Role};
use super::error::NetError;
use super::link::{Incoming, Outgoing};
use super::socket::{self, linger};
use handshake::{SessionRefusal, authenticate, first_packets, welcome};
pub use options::{Auth, ColumnType};
pub use parts::AnswerInParts;
use proto::pg::SqlError;
use proto::pg::frame::{FROM_CLIENT, put_error, put_frame};
use proto::pg::startup::StartupParams;
pub(crate) use statements::ServerState;
use statements::{StatementStep, put_ready, put_rows, put_tag};

/// An accepted session.
pub struct ServerConnection {
    incoming: Incoming,
    outgoing: Outgoing,
    state: ServerState,
}

impl ServerConnection {
    /// Start-up as a server: refuses SSL and GSS encryption with `N`, cancels, bad versions and oversized packets with
    /// an error.
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
        let peer = stream.peer_addr().map_or_else(|_| "unknown peer".to_owned(), |a| a.to_string());
        socket::tune(&stream);
        let (read, write) = stream.into_split();
        Self::accept_on(Box::new(read), Box::new(write), &peer, auth, timeout, parameter_status).await
    }

    /// [`ServerConnection::accept`] on any byte stream; `peer` names the other end in logs and errors.
    ///
    /// # Errors
    /// See [`NetError`]; the client was told where it could be.
    pub async fn accept_on(
        read: Box<dyn AsyncRead + Send + Unpin>,
        write: Box<dyn AsyncWrite + Send + Unpin>,
        peer: &str,
        auth: &Auth,
        timeout: Duration,
        parameter_status: impl FnOnce(&StartupParams) -> Vec<(String, String)>,
    ) -> Result<ServerConnection, NetError> {
        let peer: Arc<str> = Arc::from(peer);
        let mut incoming = Incoming::new(read, Arc::clone(&peer));
        let mut outgoing = Outgoing::new(write, Arc::clone(&peer));
        let handshake = async {
            let startup = first_packets(&mut incoming, &mut outgoing).await?;
            authenticate(&mut incoming, &mut outgoing, auth).await?;
            Ok::<_, SessionRefusal>(startup)
        };
        let startup = match tokio::time::timeout(timeout, handshake).await {
            Ok(Ok(startup)) => startup,
            Ok(Err(refusal)) => return Err(refusal.tell(&mut incoming, outgoing).await),
            Err(_) => return Err(NetError::Timeout { peer: peer.to_string(), what: "start-up", limit: timeout }),
        };
        let state = ServerState::new(startup);
        welcome(&mut outgoing, parameter_status(&state.startup));
        let mut connection = ServerConnection { incoming, outgoing, state };
        connection.outgoing.flush().await?;
        Ok(connection)
    }

    /// Refuses a client: reads what it says first, tells it `error`, and closes, so that it surely reads the error.
    ///
    /// # Errors
    /// See [`NetError`]; `error` was not told then.
    pub async fn refuse(stream: TcpStream, error: &SqlError) -> Result<(), NetError> {
        let peer: Arc<str> =
            Arc::from(stream.peer_addr().map_or_else(|_| "unknown peer".to_owned(), |a| a.to_string()));
        let (read, write) = stream.into_split();
        let mut incoming = Incoming::new(Box::new(read), Arc::clone(&peer));
        let mut outgoing = Outgoing::new(Box::new(write), peer);
        if let Err(refusal) = first_packets(&mut incoming, &mut outgoing).await {
            return Err(refusal.tell(&mut incoming, outgoing).await);
        }
        outgoing.put(|out| put_error(out, error));
        linger(&mut incoming, outgoing).await
    }

    /// What the client said at start-up.
    pub fn startup(&self) -> &StartupParams {
        &self.state.startup
    }

    /// The other end, for logs.
    pub fn peer(&self) -> &str {
        self.incoming.peer()
    }

    /// The text of the next simple query (or of an extended-protocol statement without parameters); `None` when the
    /// client is gone. Cancel safe.
    ///
    /// # Errors
    /// See [`NetError`]; the client was told where it could be.
    pub async fn next_query(&mut self) -> Result<Option<String>, NetError> {
        loop {
            self.outgoing.flush().await?;
            let step = match self.incoming.frame(FROM_CLIENT).await {
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => {
                    self.state.step(frame, &mut self.outgoing).map_err(|e| SessionRefusal::new(self.incoming.peer(), e))
                }
                Err(e) => Err(SessionRefusal::from_recv(e, self.incoming.peer())),
            };
            match step {
                Ok(StatementStep::Next) => {}
                Ok(StatementStep::Query) => return Ok(Some(self.state.query.to_string())),
                Ok(StatementStep::Gone) => return Ok(None),
                Err(refusal) => {
                    let peer = self.incoming.peer();
                    let dead = Outgoing::new(Box::new(tokio::io::sink()), Arc::from(peer));
                    let outgoing = std::mem::replace(&mut self.outgoing, dead);
                    return Err(refusal.tell(&mut self.incoming, outgoing).await);
                }
            }
        }
    }

    /// Answers with one result set and ReadyForQuery. Without columns, with the tag alone.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn send_rows(
        &mut self,
        columns: &[(&str, ColumnType)],
        rows: &[Vec<Option<String>>],
        tag: &str,
    ) -> Result<(), NetError> {
        self.state.put_answer(&mut self.outgoing, columns, rows, tag);
        self.outgoing.flush().await
    }

    /// Answers with an error and ReadyForQuery. A fatal one leaves ReadyForQuery out: the caller closes the session
    /// next.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn send_error(&mut self, error: &SqlError) -> Result<(), NetError> {
        self.state.put_error(&mut self.outgoing, error);
        self.outgoing.flush().await
    }

    /// Sends a fatal error and closes the session, so that the client surely reads the error.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn close_with(mut self, error: &SqlError) -> Result<(), NetError> {
        self.outgoing.put(|out| put_error(out, error));
        linger(&mut self.incoming, self.outgoing).await
    }

    /// Answers with CopyBothResponse and turns into a stream.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn copy_both(mut self) -> Result<(CopyReader, CopyWriter), NetError> {
        self.outgoing.put(|out| put_frame(out, b'W', |out| out.extend_from_slice(&[0, 0, 0])));
        self.outgoing.flush().await?;
        let reader = CopyReader::new(self.incoming, Role::Server(Box::new(self.state)));
        Ok((reader, CopyWriter::new(self.outgoing, false)))
    }

    /// Back to commands after both sides sent CopyDone: sends CommandComplete with `tag` and ReadyForQuery.
    ///
    /// Sends CopyDone if that was not done, and drops what the client still sends before its own.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn after_copy(reader: CopyReader, writer: CopyWriter, tag: &str) -> Result<ServerConnection, NetError> {
        Self::after_copy_rows(reader, writer, &[], &[], tag).await
    }

    /// [`ServerConnection::after_copy`] with a result set before CommandComplete: the end of a historic tli is told
    /// this way.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn after_copy_rows(
        mut reader: CopyReader,
        mut writer: CopyWriter,
        columns: &[(&str, ColumnType)],
        rows: &[Vec<Option<String>>],
        tag: &str,
    ) -> Result<ServerConnection, NetError> {
        writer.queue_done();
        writer.flush().await?;
        while !reader.done {
            match reader.next().await? {
                CopyEvent::Data(_) | CopyEvent::Done => {}
                CopyEvent::Fail(_) => break,
                CopyEvent::Error(_) | CopyEvent::Closed => return Err(NetError::closed(reader.peer())),
            }
        }
        let CopyReader { incoming, role, .. } = reader;
        let Role::Server(mut state) = role else {
            return Err(NetError::protocol(incoming.peer(), "a dialled stream cannot become an accepted session"));
        };
        let mut outgoing = writer.outgoing;
        state.answer_simply();
        if !columns.is_empty() {
            outgoing.put(|out| put_rows(out, columns, rows, tag));
        }
        // A second CommandComplete closes the command after its result set, as PostgreSQL's walsender does.
        outgoing.put(|out| put_tag(out, tag));
        outgoing.put(put_ready);
        outgoing.flush().await?;
        Ok(ServerConnection { incoming, outgoing, state: *state })
    }
}
