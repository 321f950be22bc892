//! Dialled sessions: start-up, simple queries, entering and leaving a copy stream.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::auth::{self, AuthStep};
use super::conninfo::ConnectOptions;
use super::copy::{CopyEvent, CopyReader, CopyWriter, Role};
use super::error::NetError;
use super::link::{Incoming, Outgoing};
use super::socket;
use proto::pg::frame::{
    FROM_SERVER, Frame, put_cstr, put_frame, read_data_row, read_error, read_row_description, take_cstr,
};
use proto::pg::startup;

/// Result of one statement of a simple query.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct QueryResult {
    /// Names of the columns; empty for a statement without rows.
    pub columns: Vec<String>,
    /// Rows; a NULL is `None`.
    pub rows: Vec<Vec<Option<String>>>,
    /// Command tag, as `SELECT 1`.
    pub tag: String,
}

/// A step of the answer to a command that copies out ([`ClientConnection::start_query`]).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum QueryEvent {
    /// One statement's rows and tag; the tag alone behind a copy.
    Result(QueryResult),
    /// A copy to us begins.
    CopyOut,
    /// One CopyData payload of it.
    Data(Bytes),
    /// It is over.
    CopyDone,
}

/// A dialled session, ready for queries.
pub struct ClientConnection {
    incoming: Incoming,
    outgoing: Outgoing,
    parameters: HashMap<String, String>,
    /// A query was sent and its ReadyForQuery did not come yet.
    busy: bool,
}

impl ClientConnection {
    /// Dials, starts up, authenticates.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn dial(options: &ConnectOptions) -> Result<ClientConnection, NetError> {
        let peer = options.peer();
        let limit = options.effective_timeout();
        let dialled = tokio::time::timeout(limit, Self::dial_unlimited(options, &peer)).await;
        dialled.unwrap_or(Err(NetError::Timeout { peer, what: "connecting", limit }))
    }

    async fn dial_unlimited(options: &ConnectOptions, peer: &str) -> Result<ClientConnection, NetError> {
        let (read, write) = socket::dial(&options.host, options.port, peer).await?;
        let peer: Arc<str> = Arc::from(peer);
        let mut connection = ClientConnection {
            incoming: Incoming::new(read, Arc::clone(&peer)),
            outgoing: Outgoing::new(write, peer),
            parameters: HashMap::new(),
            busy: true,
        };
        let pairs = options.startup_parameters();
        connection.outgoing.put(|out| {
            startup::put_startup(out, pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())));
        });
        connection.outgoing.flush().await?;
        connection.authenticate(options).await?;
        connection.ready().await?;
        Ok(connection)
    }

    async fn authenticate(&mut self, options: &ConnectOptions) -> Result<(), NetError> {
        let mut exchange = auth::Exchange::new(&options.user, options.password.as_deref());
        let peer = self.incoming.peer().to_owned();
        let problem =
            |e: String| NetError::protocol(&peer, if e == auth::NO_PASSWORD { options.no_password() } else { e });
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'R' => match exchange.step(frame.body).map_err(problem)? {
                    AuthStep::Done => return Ok(()),
                    AuthStep::Wait => {}
                    AuthStep::Answer(body) => {
                        self.outgoing.put(|out| put_frame(out, b'p', |out| out.extend_from_slice(&body)));
                        self.outgoing.flush().await?;
                    }
                },
                b'E' => return Err(NetError::server(self.incoming.peer(), read_error(frame.body))),
                // NegotiateProtocolVersion: the server does not know an option. Harmless.
                b'v' => {}
                tag => return Err(self.unexpected(tag, "during authentication")),
            }
        }
    }

    /// Reads up to the first ReadyForQuery.
    async fn ready(&mut self) -> Result<(), NetError> {
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'Z' => {
                    self.busy = false;
                    return Ok(());
                }
                b'K' | b'v' => {}
                b'E' => return Err(NetError::server(self.incoming.peer(), read_error(frame.body))),
                tag => return Err(self.unexpected(tag, "before the session is ready")),
            }
        }
    }

    /// A ParameterStatus that the server sent.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The other end, for logs.
    pub fn peer(&self) -> &str {
        self.incoming.peer()
    }

    /// Runs a simple query and collects its results.
    ///
    /// Not cancel safe: a session whose query was abandoned answers every further call with an error.
    ///
    /// # Errors
    /// See [`NetError`]; after [`NetError::Server`] the session is usable again.
    pub async fn simple_query(&mut self, sql: &str) -> Result<Vec<QueryResult>, NetError> {
        self.send_query(sql).await?;
        self.results().await
    }

    /// Sends a command whose answer is read with [`ClientConnection::next_event`]: one that copies out.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn start_query(&mut self, sql: &str) -> Result<(), NetError> {
        self.send_query(sql).await
    }

    /// The next step of the answer; `None` when the session is ready again. Cancel safe but for a statement whose rows
    /// have begun to come.
    ///
    /// # Errors
    /// See [`NetError`]. After an error the session is of no use.
    pub async fn next_event(&mut self) -> Result<Option<QueryEvent>, NetError> {
        let mut current = QueryResult::default();
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'T' => {
                    current.columns =
                        read_row_description(frame.body).ok_or_else(|| self.malformed("RowDescription"))?;
                }
                b'D' => current.rows.push(read_data_row(frame.body).ok_or_else(|| self.malformed("DataRow"))?),
                b'C' => {
                    let mut body = frame.body;
                    current.tag = take_cstr(&mut body).unwrap_or_default();
                    return Ok(Some(QueryEvent::Result(current)));
                }
                b'H' => return Ok(Some(QueryEvent::CopyOut)),
                b'd' => return Ok(Some(QueryEvent::Data(frame.body))),
                b'c' => return Ok(Some(QueryEvent::CopyDone)),
                b'E' => return Err(NetError::server(self.incoming.peer(), read_error(frame.body))),
                b'Z' => {
                    self.busy = false;
                    return Ok(None);
                }
                tag => return Err(self.unexpected(tag, "in the answer to a command")),
            }
        }
    }

    /// Sends a command that must answer with CopyBothResponse.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn copy_both(mut self, command: &str) -> Result<(CopyReader, CopyWriter), NetError> {
        self.send_query(command).await?;
        let frame = self.frame().await?;
        match frame.tag {
            b'W' => {
                let reader = CopyReader::new(self.incoming, Role::Client { parameters: self.parameters });
                Ok((reader, CopyWriter::new(self.outgoing, true)))
            }
            b'E' => Err(NetError::server(self.incoming.peer(), read_error(frame.body))),
            tag => Err(self.unexpected(tag, "where CopyBothResponse should come")),
        }
    }

    /// Back to commands after a stream: sends CopyDone if that was not done, drops what the server still streams, and
    /// returns the results that follow (PostgreSQL tells the next tli there, when it has one).
    ///
    /// # Errors
    /// See [`NetError`]; [`NetError::Server`] when the stream had ended with an error.
    pub async fn after_copy(
        mut reader: CopyReader,
        mut writer: CopyWriter,
    ) -> Result<(ClientConnection, Vec<QueryResult>), NetError> {
        writer.queue_done();
        writer.flush().await?;
        while !reader.done {
            match reader.next().await? {
                CopyEvent::Data(_) | CopyEvent::Done | CopyEvent::Fail(_) => {}
                CopyEvent::Error(error) => return Err(NetError::server(reader.peer(), *error)),
                CopyEvent::Closed => return Err(NetError::closed(reader.peer())),
            }
        }
        let CopyReader { incoming, role, .. } = reader;
        let Role::Client { parameters } = role else {
            return Err(NetError::protocol(incoming.peer(), "an accepted stream cannot become a dialled session"));
        };
        let mut connection = ClientConnection { incoming, outgoing: writer.outgoing, parameters, busy: true };
        let results = connection.results().await?;
        Ok((connection, results))
    }

    /// Says goodbye.
    ///
    /// # Errors
    /// See [`NetError`].
    pub async fn close(mut self) -> Result<(), NetError> {
        self.outgoing.put_frame(b'X', &[], Bytes::new());
        self.outgoing.shutdown().await
    }

    async fn send_query(&mut self, sql: &str) -> Result<(), NetError> {
        if self.busy {
            return Err(NetError::protocol(self.incoming.peer(), "a query that was abandoned is still being answered"));
        }
        self.busy = true;
        self.outgoing.put(|out| put_frame(out, b'Q', |out| put_cstr(out, sql)));
        self.outgoing.flush().await
    }

    async fn results(&mut self) -> Result<Vec<QueryResult>, NetError> {
        let mut results = Vec::new();
        let mut current = QueryResult::default();
        let mut failed = None;
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'T' => {
                    current.columns =
                        read_row_description(frame.body).ok_or_else(|| self.malformed("RowDescription"))?;
                }
                b'D' => current.rows.push(read_data_row(frame.body).ok_or_else(|| self.malformed("DataRow"))?),
                b'C' => {
                    let mut body = frame.body;
                    current.tag = take_cstr(&mut body).unwrap_or_default();
                    results.push(std::mem::take(&mut current));
                }
                b'I' => results.push(QueryResult::default()),
                b'E' => failed = failed.or(Some(read_error(frame.body))),
                b'Z' => {
                    self.busy = false;
                    return match failed {
                        Some(error) => Err(NetError::server(self.incoming.peer(), error)),
                        None => Ok(results),
                    };
                }
                tag => return Err(self.unexpected(tag, "in the answer to a query")),
            }
            // After a fatal error the server closes the connection instead of becoming ready.
            if let Some(error) = failed.take_if(|e| e.severity != "ERROR") {
                return Err(NetError::server(self.incoming.peer(), error));
            }
        }
    }

    /// The next frame that says something; ParameterStatus is noted, notices are logged.
    async fn frame(&mut self) -> Result<Frame, NetError> {
        loop {
            let frame = self.incoming.frame(FROM_SERVER).await.map_err(|e| e.at(self.incoming.peer()))?;
            let Some(frame) = frame else { return Err(NetError::closed(self.incoming.peer())) };
            match frame.tag {
                b'S' => {
                    let mut body = frame.body;
                    if let (Some(name), Some(value)) = (take_cstr(&mut body), take_cstr(&mut body)) {
                        self.parameters.insert(name, value);
                    }
                }
                b'N' => {
                    let notice = read_error(frame.body);
                    tracing::debug!(peer = self.incoming.peer(), severity = notice.severity, "{}", notice.message);
                }
                b'A' => {}
                _ => return Ok(frame),
            }
        }
    }

    fn unexpected(&self, tag: u8, place: &str) -> NetError {
        NetError::protocol(self.incoming.peer(), format!("unexpected message {:?} {place}", char::from(tag)))
    }

    fn malformed(&self, what: &str) -> NetError {
        NetError::protocol(self.incoming.peer(), format!("malformed {what}"))
    }
}
