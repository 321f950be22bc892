//! Accepted sessions: start-up, queries, answers, and the way into and out of a copy stream.
//!
//! The extended protocol is spoken for statements without parameters. Describing a statement runs it: its answer is kept
//! and given out by the Execute that follows, since only the answer tells the columns.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::copy::{CopyEvent, CopyReader, CopyWriter, Role};
use super::error::{NetError, SqlError, sqlstate};
use super::frame::{FROM_CLIENT, Frame, put_cstr, put_data_row, put_error, put_frame, put_row_description, take_cstr};
use super::link::{Incoming, Outgoing, RecvError};
use super::socket::{self, linger};
use super::startup::{FirstPacket, StartupParams, packet_len, parse_first};

/// Prepared statements that one session may hold; stock clients hold one.
const STATEMENTS_MAX: usize = 64;
/// Encryption requests answered before a session must start (SSL and GSS, each once).
const NEGOTIATIONS_MAX: usize = 2;

/// A column of a result set; everything is sent as text unless a client of the extended protocol binds binary results.
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

/// What the client waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    /// Columns, rows, ReadyForQuery.
    Simple,
    /// Columns only.
    Describe,
    /// Rows only.
    Execute { binary: bool },
}

#[derive(Clone, Debug)]
struct Portal {
    query: String,
    binary: bool,
}

#[derive(Clone, Debug)]
struct Described {
    query: String,
    columns: Vec<ColumnType>,
    rows: Vec<Vec<Option<String>>>,
    tag: String,
}

/// What an accepted session knows beside its socket; survives a copy stream.
#[derive(Clone, Debug)]
pub(crate) struct ServerState {
    startup: StartupParams,
    statements: HashMap<String, String>,
    portals: HashMap<String, Portal>,
    answer: Answer,
    /// Query that the caller is answering now.
    query: String,
    described: Option<Described>,
    /// After an error of the extended protocol everything up to Sync is dropped.
    skip_to_sync: bool,
}

/// An accepted session.
pub struct ServerConnection {
    incoming: Incoming,
    outgoing: Outgoing,
    state: ServerState,
}

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
            Ok::<_, Refusal>(startup)
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

    /// What the client said at start-up.
    pub fn startup(&self) -> &StartupParams {
        &self.state.startup
    }

    /// The other end, for logs.
    pub fn peer(&self) -> &str {
        self.incoming.peer()
    }

    /// The text of the next simple query (or of an extended-protocol statement without parameters); `None` when the client is gone.
    /// Cancel safe.
    ///
    /// # Errors
    /// See [`NetError`]; the client was told where it could be.
    pub async fn next_query(&mut self) -> Result<Option<String>, NetError> {
        loop {
            self.outgoing.flush().await?;
            let step = match self.incoming.frame(FROM_CLIENT).await {
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => {
                    self.state.step(frame, &mut self.outgoing).map_err(|e| Refusal::new(self.incoming.peer(), e))
                }
                Err(e) => Err(Refusal::from_recv(e, self.incoming.peer())),
            };
            match step {
                Ok(Step::Next) => {}
                Ok(Step::Query) => return Ok(Some(self.state.query.clone())),
                Ok(Step::Gone) => return Ok(None),
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

    /// Answers with an error and ReadyForQuery. A fatal one leaves ReadyForQuery out: the caller closes the session next.
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
        let reader = CopyReader::new(self.incoming, Role::Server(self.state));
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

    /// [`ServerConnection::after_copy`] with a result set before CommandComplete: the end of a historic tli is told this way.
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
        state.answer = Answer::Simple;
        if !columns.is_empty() {
            outgoing.put(|out| put_rows(out, columns, rows, tag));
        }
        // A second CommandComplete closes the command after its result set, as PostgreSQL's walsender does.
        outgoing.put(|out| put_tag(out, tag));
        outgoing.put(put_ready);
        outgoing.flush().await?;
        Ok(ServerConnection { incoming, outgoing, state })
    }
}

/// Why a session is ended by us, and what the peer is told.
struct Refusal {
    /// `None`: nothing can or need be told.
    tell: Option<SqlError>,
    error: NetError,
}

impl Refusal {
    fn new(peer: &str, tell: SqlError) -> Refusal {
        Refusal { error: NetError::protocol(peer, tell.message.clone()), tell: Some(tell) }
    }

    fn from_recv(error: RecvError, peer: &str) -> Refusal {
        let tell = match &error {
            RecvError::Frame(e) => Some(SqlError::protocol_violation(e.to_string())),
            RecvError::Io(_) | RecvError::Torn => None,
        };
        Refusal { tell, error: error.at(peer) }
    }

    async fn tell(self, incoming: &mut Incoming, mut outgoing: Outgoing) -> NetError {
        if let Some(tell) = self.tell {
            outgoing.put(|out| put_error(out, &tell));
            // The session is over either way; the first trouble is the one to report.
            let _ = linger(incoming, outgoing).await;
        }
        self.error
    }
}

impl From<NetError> for Refusal {
    fn from(error: NetError) -> Refusal {
        Refusal { tell: None, error }
    }
}

async fn first_packets(incoming: &mut Incoming, outgoing: &mut Outgoing) -> Result<StartupParams, Refusal> {
    let peer: Arc<str> = Arc::from(incoming.peer());
    let violation = |problem: String| Refusal::new(&peer, SqlError::protocol_violation(problem));
    let read = |e: RecvError| Refusal::from_recv(e, &peer);
    let gone = || Refusal::from(NetError::closed(&peer));
    for _ in 0..=NEGOTIATIONS_MAX {
        let head = incoming.exactly(4).await.map_err(read)?.ok_or_else(gone)?;
        let len = packet_len([head[0], head[1], head[2], head[3]]).map_err(violation)?;
        let packet = incoming.exactly(len - 4).await.map_err(read)?.ok_or_else(gone)?;
        match parse_first(packet).map_err(violation)? {
            FirstPacket::Startup(startup) => return Ok(startup),
            FirstPacket::Ssl | FirstPacket::Gss => {
                outgoing.put(|out| out.extend_from_slice(b"N"));
                outgoing.flush().await?;
            }
            FirstPacket::Cancel => {
                let error = SqlError::unsupported("cancel requests are not served here; end the session instead");
                return Err(Refusal::new(&peer, SqlError { severity: "FATAL", ..error }));
            }
        }
    }
    Err(violation("a session must start after its encryption requests were refused".to_owned()))
}

async fn authenticate(incoming: &mut Incoming, outgoing: &mut Outgoing, auth: &Auth) -> Result<(), Refusal> {
    let Auth::Password(expected) = auth else { return Ok(()) };
    let peer: Arc<str> = Arc::from(incoming.peer());
    outgoing.put(|out| put_frame(out, b'R', |out| out.extend_from_slice(&3u32.to_be_bytes())));
    outgoing.flush().await?;
    let frame = incoming.frame(FROM_CLIENT).await.map_err(|e| Refusal::from_recv(e, &peer))?;
    match frame {
        Some(Frame { tag: b'p', mut body }) => {
            let given = take_cstr(&mut body).unwrap_or_default();
            if same_secret(given.as_bytes(), expected.as_bytes()) {
                return Ok(());
            }
            Err(Refusal::new(&peer, SqlError::fatal(sqlstate::INVALID_PASSWORD, "the password is wrong")))
        }
        Some(_) => Err(Refusal::new(&peer, SqlError::protocol_violation("a password was asked for"))),
        None => Err(NetError::closed(&peer).into()),
    }
}

/// Compares without an early end, so that the time taken tells nothing about the secret's bytes.
fn same_secret(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

/// AuthenticationOk, parameters, ReadyForQuery. What `extra` does not set and clients rely on has a default here.
fn welcome(outgoing: &mut Outgoing, extra: Vec<(String, String)>) {
    let defaults = [
        ("client_encoding", "UTF8"),
        ("server_encoding", "UTF8"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
        ("DateStyle", "ISO, MDY"),
        ("TimeZone", "UTC"),
    ];
    let unset = defaults.iter().filter(|(n, _)| !extra.iter().any(|(e, _)| e == n));
    outgoing.put(|out| {
        put_frame(out, b'R', |out| out.extend_from_slice(&0u32.to_be_bytes()));
        for (name, value) in unset.copied().chain(extra.iter().map(|(n, v)| (n.as_str(), v.as_str()))) {
            put_frame(out, b'S', |out| {
                put_cstr(out, name);
                put_cstr(out, value);
            });
        }
        put_ready(out);
    });
}

fn put_ready(out: &mut BytesMut) {
    put_frame(out, b'Z', |out| out.extend_from_slice(b"I"));
}

fn put_tag(out: &mut BytesMut, tag: &str) {
    put_frame(out, b'C', |out| put_cstr(out, tag));
}

fn put_columns(out: &mut BytesMut, columns: &[(&str, ColumnType)]) {
    put_row_description(
        out,
        columns.iter().map(|(name, ty)| match ty {
            ColumnType::Text => (*name, 25, -1),
            ColumnType::Int4 => (*name, 23, 4),
            ColumnType::Int8 => (*name, 20, 8),
        }),
    );
}

fn put_rows(out: &mut BytesMut, columns: &[(&str, ColumnType)], rows: &[Vec<Option<String>>], tag: &str) {
    put_columns(out, columns);
    rows.iter().for_each(|row| put_data_row(out, row));
    put_tag(out, tag);
}

/// What a client frame led to.
enum Step {
    /// Answered here, or nothing to answer.
    Next,
    /// `query` is to be answered by the session's owner.
    Query,
    /// The client said goodbye.
    Gone,
}

impl ServerState {
    fn new(startup: StartupParams) -> ServerState {
        ServerState {
            startup,
            statements: HashMap::new(),
            portals: HashMap::new(),
            answer: Answer::Simple,
            query: String::new(),
            described: None,
            skip_to_sync: false,
        }
    }

    /// One client frame. An error returned ends the session; others were answered.
    fn step(&mut self, frame: Frame, outgoing: &mut Outgoing) -> Result<Step, SqlError> {
        if self.skip_to_sync && !matches!(frame.tag, b'S' | b'X') {
            return Ok(Step::Next);
        }
        match self.dispatch(frame, outgoing) {
            Err(error) if !error.is_fatal() => {
                outgoing.put(|out| put_error(out, &error));
                self.skip_to_sync = true;
                Ok(Step::Next)
            }
            other => other,
        }
    }

    fn dispatch(&mut self, frame: Frame, outgoing: &mut Outgoing) -> Result<Step, SqlError> {
        let mut body = frame.body;
        match frame.tag {
            b'Q' => {
                let query = string(&mut body)?;
                if query.trim_matches([' ', '\t', '\r', '\n', ';']).is_empty() {
                    outgoing.put(|out| {
                        put_frame(out, b'I', |_| {});
                        put_ready(out);
                    });
                    return Ok(Step::Next);
                }
                self.answer = Answer::Simple;
                self.query = query;
                Ok(Step::Query)
            }
            b'P' => self.parse(&mut body, outgoing),
            b'B' => self.bind(&mut body, outgoing),
            b'D' => self.describe(&mut body, outgoing),
            b'E' => self.execute(&mut body, outgoing),
            b'C' => {
                let kind = body.try_get_u8().map_err(|_| short())?;
                let name = string(&mut body)?;
                if kind == b'S' {
                    self.statements.remove(&name).map(|_| ())
                } else {
                    self.portals.remove(&name).map(|_| ())
                };
                outgoing.put(|out| put_frame(out, b'3', |_| {}));
                Ok(Step::Next)
            }
            b'S' => {
                self.skip_to_sync = false;
                self.described = None;
                self.portals.clear();
                outgoing.put(put_ready);
                Ok(Step::Next)
            }
            b'X' => Ok(Step::Gone),
            // Flush: everything is flushed before the next frame is awaited. Copy frames: late ones of a stream that ended.
            b'H' | b'd' | b'c' | b'f' => Ok(Step::Next),
            tag => {
                Err(SqlError::protocol_violation(format!("message type {:?} is not expected here", char::from(tag))))
            }
        }
    }

    fn parse(&mut self, body: &mut Bytes, outgoing: &mut Outgoing) -> Result<Step, SqlError> {
        let (name, query) = (string(body)?, string(body)?);
        if body.try_get_u16().map_err(|_| short())? != 0 {
            return Err(SqlError::unsupported("statements with parameters are not offered here"));
        }
        if self.statements.len() >= STATEMENTS_MAX && !self.statements.contains_key(&name) {
            let problem = format!("a session holds at most {STATEMENTS_MAX} prepared statements");
            return Err(SqlError::new(sqlstate::CONFIGURATION_LIMIT_EXCEEDED, problem));
        }
        self.statements.insert(name, query);
        outgoing.put(|out| put_frame(out, b'1', |_| {}));
        Ok(Step::Next)
    }

    fn bind(&mut self, body: &mut Bytes, outgoing: &mut Outgoing) -> Result<Step, SqlError> {
        let (portal, statement) = (string(body)?, string(body)?);
        let query = self.statements.get(&statement).cloned();
        let query = query.ok_or_else(|| no_such("prepared statement", &statement))?;
        let formats = body.try_get_u16().map_err(|_| short())?;
        for _ in 0..formats {
            body.try_get_u16().map_err(|_| short())?;
        }
        if body.try_get_u16().map_err(|_| short())? != 0 {
            return Err(SqlError::unsupported("statements with parameters are not offered here"));
        }
        let results = body.try_get_u16().map_err(|_| short())?;
        let mut binary = false;
        for _ in 0..results {
            binary |= body.try_get_u16().map_err(|_| short())? == 1;
        }
        if self.portals.len() >= STATEMENTS_MAX && !self.portals.contains_key(&portal) {
            let problem = format!("a session holds at most {STATEMENTS_MAX} portals");
            return Err(SqlError::new(sqlstate::CONFIGURATION_LIMIT_EXCEEDED, problem));
        }
        self.portals.insert(portal, Portal { query, binary });
        outgoing.put(|out| put_frame(out, b'2', |_| {}));
        Ok(Step::Next)
    }

    fn describe(&mut self, body: &mut Bytes, outgoing: &mut Outgoing) -> Result<Step, SqlError> {
        let kind = body.try_get_u8().map_err(|_| short())?;
        let name = string(body)?;
        let query = if kind == b'S' {
            let query = self.statements.get(&name).cloned().ok_or_else(|| no_such("prepared statement", &name))?;
            outgoing.put(|out| put_frame(out, b't', |out| out.extend_from_slice(&[0, 0])));
            query
        } else {
            self.portals.get(&name).map(|p| p.query.clone()).ok_or_else(|| no_such("portal", &name))?
        };
        let blank = query.trim_matches([' ', '\t', '\r', '\n', ';']).is_empty();
        // A stream has no columns, and must not start before Execute.
        if blank || query.trim_start().get(..6).is_some_and(|w| w.eq_ignore_ascii_case("START_")) {
            outgoing.put(|out| put_frame(out, b'n', |_| {}));
            return Ok(Step::Next);
        }
        self.answer = Answer::Describe;
        self.query = query;
        Ok(Step::Query)
    }

    fn execute(&mut self, body: &mut Bytes, outgoing: &mut Outgoing) -> Result<Step, SqlError> {
        let name = string(body)?;
        let portal = self.portals.get(&name).cloned().ok_or_else(|| no_such("portal", &name))?;
        if portal.query.trim_matches([' ', '\t', '\r', '\n', ';']).is_empty() {
            outgoing.put(|out| put_frame(out, b'I', |_| {}));
            return Ok(Step::Next);
        }
        match self.described.take() {
            Some(d) if d.query == portal.query => {
                outgoing.put(|out| put_executed(out, &d.columns, &d.rows, &d.tag, portal.binary));
                Ok(Step::Next)
            }
            _ => {
                self.answer = Answer::Execute { binary: portal.binary };
                self.query = portal.query;
                Ok(Step::Query)
            }
        }
    }

    fn put_answer(
        &mut self,
        outgoing: &mut Outgoing,
        columns: &[(&str, ColumnType)],
        rows: &[Vec<Option<String>>],
        tag: &str,
    ) {
        let types: Vec<ColumnType> = columns.iter().map(|(_, ty)| *ty).collect();
        outgoing.put(|out| match self.answer {
            Answer::Simple => {
                if columns.is_empty() {
                    put_tag(out, tag);
                } else {
                    put_rows(out, columns, rows, tag);
                }
                put_ready(out);
            }
            Answer::Describe => {
                if columns.is_empty() {
                    put_frame(out, b'n', |_| {});
                } else {
                    put_columns(out, columns);
                }
                let query = std::mem::take(&mut self.query);
                self.described = Some(Described { query, columns: types, rows: rows.to_vec(), tag: tag.to_owned() });
            }
            Answer::Execute { binary } => put_executed(out, &types, rows, tag, binary),
        });
    }

    fn put_error(&mut self, outgoing: &mut Outgoing, error: &SqlError) {
        outgoing.put(|out| put_error(out, error));
        if error.is_fatal() {
            return;
        }
        match self.answer {
            Answer::Simple => outgoing.put(put_ready),
            Answer::Describe | Answer::Execute { .. } => self.skip_to_sync = true,
        }
    }
}

fn put_executed(out: &mut BytesMut, types: &[ColumnType], rows: &[Vec<Option<String>>], tag: &str, binary: bool) {
    for row in rows {
        if binary {
            put_binary_row(out, types, row);
        } else {
            put_data_row(out, row);
        }
    }
    put_tag(out, tag);
}

/// A row for clients that bind binary results: text is the same, integers are big-endian; what is no integer is NULL.
fn put_binary_row(out: &mut BytesMut, types: &[ColumnType], row: &[Option<String>]) {
    put_frame(out, b'D', |out| {
        out.extend_from_slice(&u16::try_from(row.len()).expect("result sets have few columns").to_be_bytes());
        for (value, ty) in row.iter().zip(types) {
            let bytes = value.as_ref().and_then(|text| match ty {
                ColumnType::Text => Some(text.as_bytes().to_vec()),
                ColumnType::Int4 => text.parse::<i32>().ok().map(|n| n.to_be_bytes().to_vec()),
                ColumnType::Int8 => text.parse::<i64>().ok().map(|n| n.to_be_bytes().to_vec()),
            });
            let len = bytes.as_ref().map_or(-1, |b| i32::try_from(b.len()).expect("values that we send are short"));
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(&bytes.unwrap_or_default());
        }
    });
}

fn string(body: &mut Bytes) -> Result<String, SqlError> {
    take_cstr(body).ok_or_else(short)
}

fn short() -> SqlError {
    SqlError::protocol_violation("the message is shorter than its fields")
}

fn no_such(what: &str, name: &str) -> SqlError {
    SqlError::new(sqlstate::UNDEFINED_OBJECT, format!("{what} {name:?} does not exist"))
}
