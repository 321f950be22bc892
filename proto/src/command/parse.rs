//! Tokens and grammar of [`Command`].

use std::str::FromStr;

use pgformat::{Lsn, Tli};

use super::{Command, StartPush, StartReplication, StartWalPush};
use crate::backup::BaseBackup;
use crate::consensus::ProtoVersion;
use crate::id::{NodeId, PrimaryEpoch, TenantTimelineId, Term};
use crate::pagestream::PagestreamVersion;
use crate::pg::SqlError;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    /// Keyword, number, LSN.
    Word(String),
    /// `"quoted"`, never a keyword.
    Quoted(String),
    /// `'literal'`, with its doubled quotes made single.
    Literal(String),
    /// A mark between words: one of `( ) , =`.
    Mark(char),
}

impl Command {
    /// Reads one command.
    ///
    /// # Errors
    /// SQLSTATE 42601 when a known command does not follow its grammar, 22023 when a value is not allowed.
    pub fn parse(text: &str) -> Result<Command, SqlError> {
        command(text)
    }
}

fn command(text: &str) -> Result<Command, SqlError> {
    let text = text.trim().trim_end_matches([';', ' ', '\t', '\r', '\n']);
    let (first, rest) = text.split_at(text.find(|c: char| c.is_whitespace() || c == '(').unwrap_or(text.len()));
    match first.to_ascii_uppercase().as_str() {
        "START_WAL_PUSH" => Tokens::of(first, rest)?.start_wal_push(),
        "START_REPLICATION" => Tokens::of(first, rest)?.start_replication(),
        "START_PUSH_REPLICATION" => Tokens::of(first, rest)?.start_push(),
        "PAGESTREAM_V3" => Tokens::of(first, rest)?.pagestream(PagestreamVersion::V3),
        "PAGESTREAM_V2" => Tokens::of(first, rest)?.pagestream(PagestreamVersion::V2),
        "BASE_BACKUP" => Tokens::of(first, rest)?.base_backup(),
        "IDENTIFY_SYSTEM" => Tokens::of(first, rest)?.end().map(|()| Command::IdentifySystem),
        "TIMELINE_STATUS" => Tokens::of(first, rest)?.end().map(|()| Command::TimelineStatus),
        "TIMELINE_HISTORY" => {
            let mut tokens = Tokens::of(first, rest)?;
            let tli = tokens.number("tli")?;
            tokens.end()?;
            Ok(Command::TimelineHistory(Tli(tli)))
        }
        "MEMBER_STATEMENT" => {
            let mut tokens = Tokens::of(first, rest)?;
            if tokens.left.is_empty() {
                return Ok(Command::MemberStatement(None));
            }
            let json = tokens.literal("a statement in single quotes")?;
            tokens.end()?;
            let statement = serde_json::from_str(&json);
            let bad = |e| SqlError::invalid_value(format!("{first}: {e}"));
            Ok(Command::MemberStatement(Some(Box::new(statement.map_err(bad)?))))
        }
        "CHECK_WAL" => {
            let mut tokens = Tokens::of(first, rest)?;
            let (from, to) = (tokens.number("first LSN")?, tokens.number("second LSN")?);
            tokens.end()?;
            Ok(Command::CheckWal { from, to })
        }
        "SHOW" => {
            let mut tokens = Tokens::of(first, rest)?;
            let name = tokens.name("a setting's name")?;
            tokens.end()?;
            Ok(Command::Show(name.to_ascii_lowercase()))
        }
        "SET" => set(rest),
        _ => Ok(Command::Unknown(text.to_owned())),
    }
}

/// The value keeps its spelling: nothing reads it.
fn set(rest: &str) -> Result<Command, SqlError> {
    let rest = rest.trim_start();
    let (name, after) = rest.split_at(rest.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(rest.len()));
    let after = after.trim_start();
    let keyword = after.get(..2).filter(|w| w.eq_ignore_ascii_case("to")).and_then(|_| after.get(2..));
    let value = after.strip_prefix('=').or(keyword.filter(|v| v.starts_with(char::is_whitespace)));
    match value.map(str::trim) {
        Some(value) if !name.is_empty() && !value.is_empty() => {
            Ok(Command::Set { name: name.to_ascii_lowercase(), value: value.to_owned() })
        }
        _ => Err(SqlError::syntax("SET needs a name, TO or =, and a value")),
    }
}

struct Tokens<'a> {
    command: &'a str,
    /// In reverse, so that taking the next one is a pop.
    left: Vec<Token>,
}

impl<'a> Tokens<'a> {
    fn of(command: &'a str, rest: &str) -> Result<Tokens<'a>, SqlError> {
        let mut left = tokenize(rest).map_err(|problem| SqlError::syntax(format!("{command}: {problem}")))?;
        left.reverse();
        Ok(Tokens { command, left })
    }

    fn error(&self, problem: impl std::fmt::Display) -> SqlError {
        SqlError::syntax(format!("{}: {problem}", self.command))
    }

    fn expected(&self, what: &str, found: Option<Token>) -> SqlError {
        match found {
            None => self.error(format_args!("{what} is missing")),
            Some(token) => self.error(format_args!("{what} expected, found {}", shown(&token))),
        }
    }

    fn end(mut self) -> Result<(), SqlError> {
        match self.left.pop() {
            None => Ok(()),
            Some(token) => Err(self.error(format_args!("unexpected {}", shown(&token)))),
        }
    }

    fn eat_mark(&mut self, mark: char) -> bool {
        let hit = self.left.last() == Some(&Token::Mark(mark));
        if hit {
            self.left.pop();
        }
        hit
    }

    fn eat_keyword(&mut self, keyword: &str) -> bool {
        let hit = matches!(self.left.last(), Some(Token::Word(w)) if w.eq_ignore_ascii_case(keyword));
        if hit {
            self.left.pop();
        }
        hit
    }

    fn name(&mut self, what: &str) -> Result<String, SqlError> {
        match self.left.pop() {
            Some(Token::Word(name) | Token::Quoted(name)) => Ok(name),
            other => Err(self.expected(what, other)),
        }
    }

    fn literal(&mut self, what: &str) -> Result<String, SqlError> {
        match self.left.pop() {
            Some(Token::Literal(text)) => Ok(text),
            other => Err(self.expected(what, other)),
        }
    }

    fn number<T: FromStr>(&mut self, what: &'static str) -> Result<T, SqlError> {
        let word = self.name(what)?;
        value(self.command, what, &word)
    }

    /// `(name 'value', ...)` or nothing. A `=` between name and value is accepted.
    fn options(&mut self) -> Result<Vec<(String, String)>, SqlError> {
        let mut options: Vec<(String, String)> = Vec::new();
        if !self.eat_mark('(') || self.eat_mark(')') {
            return Ok(options);
        }
        loop {
            let name = self.name("an option's name")?.to_ascii_lowercase();
            self.eat_mark('=');
            let value = self.literal("the option's value in single quotes")?;
            if options.iter().any(|(n, _)| *n == name) {
                return Err(self.error(format_args!("option {name} is given twice")));
            }
            options.push((name, value));
            if self.eat_mark(')') {
                return Ok(options);
            }
            if !self.eat_mark(',') {
                let found = self.left.pop();
                return Err(self.expected(", or )", found));
            }
        }
    }

    fn pagestream(mut self, version: PagestreamVersion) -> Result<Command, SqlError> {
        let ttid = TenantTimelineId::new(self.number("a tenant id")?, self.number("a timeline id")?);
        self.end()?;
        Ok(Command::Pagestream { version, ttid })
    }

    /// `( NAME [value], ... )` of 15 and later; `NAME [value] ...` of 14.
    fn base_backup(mut self) -> Result<Command, SqlError> {
        let listed = self.eat_mark('(');
        let mut options: Vec<(String, Option<String>)> = Vec::new();
        loop {
            match self.left.pop() {
                None if listed => return Err(self.expected(")", None)),
                None => break,
                Some(Token::Mark(')')) if listed => break,
                Some(Token::Mark(',')) if listed => {}
                Some(Token::Word(name)) => options.push((name.to_ascii_lowercase(), self.backup_value(listed))),
                other => return Err(self.expected("an option's name", other)),
            }
        }
        self.end()?;
        BaseBackup::from_options(&options).map(Command::BaseBackup)
    }

    /// The value behind an option's name; in the grammar of 14 only literals and numbers are values.
    fn backup_value(&mut self, listed: bool) -> Option<String> {
        match self.left.pop()? {
            Token::Literal(text) => Some(text),
            Token::Word(text) if listed || text.bytes().all(|b| b.is_ascii_digit()) => Some(text),
            other => {
                self.left.push(other);
                None
            }
        }
    }

    fn start_wal_push(mut self) -> Result<Command, SqlError> {
        let mut push = StartWalPush {
            version: ProtoVersion::V2,
            allow_timeline_creation: true,
            primary_epoch: None,
            lazy_feedback: false,
        };
        let command = self.command;
        for (name, text) in self.options()? {
            match name.as_str() {
                "proto_version" => {
                    push.version = match text.as_str() {
                        "2" => ProtoVersion::V2,
                        "3" => ProtoVersion::V3,
                        _ => {
                            let problem = format!("{command}: proto_version {text:?} is not spoken here");
                            return Err(SqlError::invalid_value(problem).with_hint("Versions 2 and 3 are."));
                        }
                    }
                }
                "allow_timeline_creation" => push.allow_timeline_creation = value(command, "a truth value", &text)?,
                "primary_epoch" => push.primary_epoch = Some(PrimaryEpoch(value(command, "primary_epoch", &text)?)),
                "feedback" => {
                    push.lazy_feedback = match text.as_str() {
                        "prompt" => false,
                        "lazy" => true,
                        _ => {
                            let problem = format!("{command}: feedback {text:?} is not known");
                            return Err(SqlError::invalid_value(problem).with_hint("It is 'prompt' or 'lazy'."));
                        }
                    }
                }
                _ => {}
            }
        }
        self.end()?;
        Ok(Command::StartWalPush(push))
    }

    fn start_replication(mut self) -> Result<Command, SqlError> {
        let slot = if self.eat_keyword("SLOT") { Some(self.name("a slot's name")?) } else { None };
        self.eat_keyword("PHYSICAL");
        if self.eat_keyword("LOGICAL") {
            return Err(SqlError::unsupported("logical replication is not offered here"));
        }
        let start_lsn = self.number("an LSN")?;
        let tli = if self.eat_keyword("TIMELINE") { Some(Tli(self.number("a tli")?)) } else { None };
        let command = self.command;
        let mut term = None;
        for (name, text) in self.options()? {
            match name.as_str() {
                "term" => term = Some(Term(value(command, "term", &text)?)),
                _ => return Err(self.error(format_args!("option {name} is not known"))),
            }
        }
        self.end()?;
        Ok(Command::StartReplication(StartReplication { slot, start_lsn, tli, term }))
    }

    fn start_push(mut self) -> Result<Command, SqlError> {
        let options = self.options()?;
        let command = self.command;
        self.end()?;
        let get = |name: &str| options.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let need =
            |name: &str| get(name).ok_or_else(|| SqlError::syntax(format!("{command}: option {name} is missing")));
        let id: u64 = value(command, "sk_id", need("sk_id")?)?;
        if id == 0 {
            return Err(SqlError::invalid_value(format!("{command}: sk_id 0 is not a node")));
        }
        Ok(Command::StartPush(StartPush {
            version: value(command, "proto_version", need("proto_version")?)?,
            safekeeper_id: NodeId(id),
            choice: value(command, "choice", need("choice")?)?,
            nonce: need("nonce")?.to_owned(),
            term: get("term").map(|t| value(command, "term", t)).transpose()?.map(Term),
            commit_lsn: get("commit_lsn")
                .map(|t| value::<Lsn>(command, "commit_lsn", t))
                .transpose()?
                .filter(|l| l.get() != 0),
            features: get("features").map_or_else(Vec::new, |f| {
                f.split(',').map(str::trim).filter(|f| !f.is_empty()).map(str::to_owned).collect()
            }),
        }))
    }
}

fn value<T: FromStr>(command: &str, what: &str, text: &str) -> Result<T, SqlError> {
    // Rust accepts a leading plus sign, the grammar does not.
    let parsed = if text.starts_with('+') { None } else { text.parse().ok() };
    parsed.ok_or_else(|| {
        let text: String = text.chars().take(60).collect();
        SqlError::invalid_value(format!("{command}: {text:?} is not a valid value for {what}"))
    })
}

fn shown(token: &Token) -> String {
    let (text, quote) = match token {
        Token::Word(w) => (w.clone(), ""),
        Token::Quoted(w) => (w.clone(), "\""),
        Token::Literal(w) => (w.clone(), "'"),
        Token::Mark(c) => (c.to_string(), "\""),
    };
    let text: String = text.chars().take(60).collect();
    format!("{quote}{text}{quote}")
}

fn tokenize(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '(' | ')' | ',' | '=' => tokens.push(Token::Mark(c)),
            '\'' | '"' => {
                let mut inner = String::new();
                loop {
                    match chars.next() {
                        None => return Err(format!("{c} is not closed")),
                        // A doubled quote stands for itself.
                        Some(q) if q == c => {
                            if chars.next_if_eq(&c).is_none() {
                                break;
                            }
                            inner.push(c);
                        }
                        Some(other) => inner.push(other),
                    }
                }
                tokens.push(if c == '"' { Token::Quoted(inner) } else { Token::Literal(inner) });
            }
            c => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| !c.is_whitespace() && !"(),='\";".contains(*c)) {
                    word.push(c);
                }
                tokens.push(Token::Word(word));
            }
        }
    }
    Ok(tokens)
}
