//! Command mode of an accepted session: simple queries and the extended protocol.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};

use super::options::ColumnType;
use crate::link::Outgoing;
use proto::pg::frame::{Frame, put_cstr, put_data_row, put_error, put_frame, put_row_description, take_cstr};
use proto::pg::startup::StartupParams;
use proto::pg::{SqlError, sqlstate};

/// Prepared statements that one session may hold; stock clients hold one.
const STATEMENTS_MAX: usize = 64;
/// Longest command, in bytes: ours are a line; what is longer would only be kept.
const QUERY_BYTES_MAX: usize = 64 << 10;
/// Names and texts of statements and portals that one session may hold, in bytes; a text that several portals share
/// counts once.
const HELD_BYTES_MAX: usize = 256 << 10;
/// How the commands begin that start a stream.
const STREAMS: [&str; 2] = ["START_", "PAGESTREAM_"];

/// What the client waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum AwaitedAnswer {
    /// Columns, rows, ReadyForQuery.
    Simple,
    /// Columns only, without rows: Describe.
    Describe,
    /// Rows only, without columns: Execute.
    Execute { binary: bool },
}

#[derive(Clone, Debug)]
struct Portal {
    query: Arc<str>,
    binary: bool,
}

#[derive(Clone, Debug)]
struct Described {
    query: Arc<str>,
    columns: Vec<ColumnType>,
    rows: Vec<Vec<Option<String>>>,
    tag: String,
}

/// What an accepted session knows beside its socket; survives a copy stream.
#[derive(Clone, Debug)]
pub(crate) struct ServerState {
    pub(super) startup: StartupParams,
    statements: HashMap<String, Arc<str>>,
    portals: HashMap<String, Portal>,
    answer: AwaitedAnswer,
    /// Query that the caller is answering now.
    pub(super) query: Arc<str>,
    described: Option<Described>,
    /// After an error of the extended protocol everything up to Sync is dropped.
    skip_to_sync: bool,
}

/// What a client frame led to.
pub(super) enum StatementStep {
    /// Answered here, or nothing to answer.
    Next,
    /// `query` is to be answered by the session's owner.
    Query,
    /// The client said goodbye.
    Gone,
}

impl ServerState {
    pub(super) fn new(startup: StartupParams) -> ServerState {
        ServerState {
            startup,
            statements: HashMap::new(),
            portals: HashMap::new(),
            answer: AwaitedAnswer::Simple,
            query: Arc::from(""),
            described: None,
            skip_to_sync: false,
        }
    }

    /// One client frame. An error returned ends the session; others were answered.
    pub(super) fn step(&mut self, frame: Frame, outgoing: &mut Outgoing) -> Result<StatementStep, SqlError> {
        if self.skip_to_sync && !matches!(frame.tag, b'S' | b'X') {
            return Ok(StatementStep::Next);
        }
        match self.dispatch(frame, outgoing) {
            Err(error) if !error.is_fatal() => {
                outgoing.put(|out| put_error(out, &error));
                self.skip_to_sync = true;
                Ok(StatementStep::Next)
            }
            other => other,
        }
    }

    /// The next answer is one to a simple query: the session came out of a stream.
    pub(super) fn answer_simply(&mut self) {
        self.answer = AwaitedAnswer::Simple;
    }

    fn dispatch(&mut self, frame: Frame, outgoing: &mut Outgoing) -> Result<StatementStep, SqlError> {
        let mut body = frame.body;
        match frame.tag {
            b'Q' => {
                let query = command(&mut body)?;
                if query.trim_matches([' ', '\t', '\r', '\n', ';']).is_empty() {
                    outgoing.put(|out| {
                        put_frame(out, b'I', |_| {});
                        put_ready(out);
                    });
                    return Ok(StatementStep::Next);
                }
                self.answer = AwaitedAnswer::Simple;
                self.query = query;
                Ok(StatementStep::Query)
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
                Ok(StatementStep::Next)
            }
            b'S' => {
                self.skip_to_sync = false;
                self.described = None;
                self.portals.clear();
                outgoing.put(put_ready);
                Ok(StatementStep::Next)
            }
            b'X' => Ok(StatementStep::Gone),
            // Flush: everything is flushed before the server waits for the next frame. Copy frames: late ones of a
            // stream that has ended.
            b'H' | b'd' | b'c' | b'f' => Ok(StatementStep::Next),
            tag => {
                Err(SqlError::protocol_violation(format!("message type {:?} is not expected here", char::from(tag))))
            }
        }
    }

    fn parse(&mut self, body: &mut Bytes, outgoing: &mut Outgoing) -> Result<StatementStep, SqlError> {
        let (name, query) = (string(body)?, command(body)?);
        if body.try_get_u16().map_err(|_| short())? != 0 {
            return Err(SqlError::unsupported("statements with parameters are not offered here"));
        }
        if self.statements.len() >= STATEMENTS_MAX && !self.statements.contains_key(&name) {
            let problem = format!("a session holds at most {STATEMENTS_MAX} prepared statements");
            return Err(SqlError::new(sqlstate::CONFIGURATION_LIMIT_EXCEEDED, problem));
        }
        self.make_room(name.len() + query.len())?;
        self.statements.insert(name, query);
        outgoing.put(|out| put_frame(out, b'1', |_| {}));
        Ok(StatementStep::Next)
    }

    /// Whether `more` bytes of names and texts may be held.
    fn make_room(&self, more: usize) -> Result<(), SqlError> {
        let statements: usize = self.statements.iter().map(|(name, query)| name.len() + query.len()).sum();
        let portals: usize = self.portals.keys().map(String::len).sum();
        if statements + portals + more > HELD_BYTES_MAX {
            let problem = format!("a session holds at most {HELD_BYTES_MAX} bytes of statements and portals");
            return Err(SqlError::new(sqlstate::CONFIGURATION_LIMIT_EXCEEDED, problem));
        }
        Ok(())
    }

    fn bind(&mut self, body: &mut Bytes, outgoing: &mut Outgoing) -> Result<StatementStep, SqlError> {
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
        self.make_room(portal.len())?;
        self.portals.insert(portal, Portal { query, binary });
        outgoing.put(|out| put_frame(out, b'2', |_| {}));
        Ok(StatementStep::Next)
    }

    fn describe(&mut self, body: &mut Bytes, outgoing: &mut Outgoing) -> Result<StatementStep, SqlError> {
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
        if blank || STREAMS.iter().any(|s| starts_with(&query, s)) {
            outgoing.put(|out| put_frame(out, b'n', |_| {}));
            return Ok(StatementStep::Next);
        }
        self.answer = AwaitedAnswer::Describe;
        self.query = query;
        Ok(StatementStep::Query)
    }

    fn execute(&mut self, body: &mut Bytes, outgoing: &mut Outgoing) -> Result<StatementStep, SqlError> {
        let name = string(body)?;
        let portal = self.portals.get(&name).cloned().ok_or_else(|| no_such("portal", &name))?;
        if portal.query.trim_matches([' ', '\t', '\r', '\n', ';']).is_empty() {
            outgoing.put(|out| put_frame(out, b'I', |_| {}));
            return Ok(StatementStep::Next);
        }
        match self.described.take() {
            Some(d) if d.query == portal.query => {
                outgoing.put(|out| put_executed(out, &d.columns, &d.rows, &d.tag, portal.binary));
                Ok(StatementStep::Next)
            }
            _ => {
                self.answer = AwaitedAnswer::Execute { binary: portal.binary };
                self.query = portal.query;
                Ok(StatementStep::Query)
            }
        }
    }

    pub(super) fn put_answer(
        &mut self,
        outgoing: &mut Outgoing,
        columns: &[(&str, ColumnType)],
        rows: &[Vec<Option<String>>],
        tag: &str,
    ) {
        let types: Vec<ColumnType> = columns.iter().map(|(_, ty)| *ty).collect();
        outgoing.put(|out| match self.answer {
            AwaitedAnswer::Simple => {
                if columns.is_empty() {
                    put_tag(out, tag);
                } else {
                    put_rows(out, columns, rows, tag);
                }
                put_ready(out);
            }
            AwaitedAnswer::Describe => {
                if columns.is_empty() {
                    put_frame(out, b'n', |_| {});
                } else {
                    put_columns(out, columns);
                }
                let query = Arc::clone(&self.query);
                self.described = Some(Described { query, columns: types, rows: rows.to_vec(), tag: tag.to_owned() });
            }
            AwaitedAnswer::Execute { binary } => put_executed(out, &types, rows, tag, binary),
        });
    }

    pub(super) fn put_error(&mut self, outgoing: &mut Outgoing, error: &SqlError) {
        outgoing.put(|out| put_error(out, error));
        if error.is_fatal() {
            return;
        }
        match self.answer {
            AwaitedAnswer::Simple => outgoing.put(put_ready),
            AwaitedAnswer::Describe | AwaitedAnswer::Execute { .. } => self.skip_to_sync = true,
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

fn starts_with(query: &str, word: &str) -> bool {
    query.trim_start().get(..word.len()).is_some_and(|w| w.eq_ignore_ascii_case(word))
}

/// The text of a command.
fn command(body: &mut Bytes) -> Result<Arc<str>, SqlError> {
    let text = string(body)?;
    if text.len() > QUERY_BYTES_MAX {
        let problem = format!("the command has {} bytes, the longest one taken has {QUERY_BYTES_MAX}", text.len());
        // Fatal: a simple query has no Sync to skip to, and no client of ours sends this.
        return Err(SqlError::fatal(sqlstate::CONFIGURATION_LIMIT_EXCEEDED, problem));
    }
    Ok(Arc::from(text))
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
pub(super) fn put_ready(out: &mut BytesMut) {
    put_frame(out, b'Z', |out| out.extend_from_slice(b"I"));
}

pub(super) fn put_tag(out: &mut BytesMut, tag: &str) {
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

pub(super) fn put_rows(out: &mut BytesMut, columns: &[(&str, ColumnType)], rows: &[Vec<Option<String>>], tag: &str) {
    put_columns(out, columns);
    rows.iter().for_each(|row| put_data_row(out, row));
    put_tag(out, tag);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(tag: u8, parts: &[&[u8]]) -> Frame {
        Frame { tag, body: Bytes::from(parts.concat()) }
    }

    fn refusal(state: &mut ServerState, tag: u8, parts: &[&[u8]]) -> Option<String> {
        let mut outgoing = Outgoing::new(Box::new(tokio::io::sink()), Arc::from("test"));
        match state.step(frame(tag, parts), &mut outgoing) {
            Err(fatal) => Some(fatal.message),
            Ok(_) => state.skip_to_sync.then(|| "refused".to_owned()),
        }
    }

    /// Goal: what one session holds is bounded in bytes, however many and however long its statements and their names.
    #[test]
    fn statements_and_portals_are_bounded_in_bytes_and_share_their_text() {
        let long = vec![b'x'; QUERY_BYTES_MAX - 1];
        let mut state = ServerState::new(StartupParams::default());
        assert_eq!(refusal(&mut state, b'P', &[b"a\0", &long, b"\0\0\0"]), None);
        for portal in 0..STATEMENTS_MAX {
            let name = format!("p{portal}\0");
            assert_eq!(refusal(&mut state, b'B', &[name.as_bytes(), b"a\0\0\0\0\0\0\0"]), None);
        }
        let text = &state.statements["a"];
        assert!(state.portals.values().all(|p| Arc::ptr_eq(&p.query, text)), "one copy");
        assert_eq!(refusal(&mut state, b'P', &[b"b\0", &long, b"\0\0\0"]), None);
        assert_eq!(refusal(&mut state, b'P', &[b"c\0", &long, b"\0\0\0"]), None);
        assert!(refusal(&mut state, b'P', &[b"d\0", &long, b"\0\0\0"]).is_some(), "the sum is bounded");
        let mut state = ServerState::new(StartupParams::default());
        assert!(refusal(&mut state, b'P', &[&vec![b'n'; HELD_BYTES_MAX], b"\0SHOW\0\0\0"]).is_some(), "a name");
        let told = refusal(&mut state, b'S', &[]);
        assert_eq!(told, None);
        for tag in [b'Q', b'P'] {
            let text: [&[u8]; 3] = [b"\0", &long, b"xx\0\0\0"];
            let text = if tag == b'Q' { &text[1..] } else { &text[..] };
            assert!(refusal(&mut state, tag, text).is_some_and(|m| m.contains("the longest one taken")));
        }
    }
}
