//! [`SqlError`]: an error with SQLSTATE.
//!
//! Standard codes keep PostgreSQL's meaning. Class `WF` is this project's own: each code names one refusal to which a
//! program may react. `docs/protocol.md` lists the reaction to each code.

/// SQLSTATEs that the servers send.
pub mod sqlstate {
    /// A stream ended by decision, not by failure; the text says `ending streaming`.
    pub const SUCCESSFUL_COMPLETION: &str = "00000";
    /// The peer broke the protocol: malformed, unknown or oversized message.
    pub const PROTOCOL_VIOLATION: &str = "08P01";
    /// Something that is not implemented was asked for.
    pub const FEATURE_NOT_SUPPORTED: &str = "0A000";
    /// A value is outside what the parameter allows.
    pub const INVALID_PARAMETER_VALUE: &str = "22023";
    /// Who connects may not do this.
    pub const INSUFFICIENT_PRIVILEGE: &str = "42501";
    /// Wrong password or token.
    pub const INVALID_PASSWORD: &str = "28P01";
    /// The session cannot be authenticated this way.
    pub const INVALID_AUTHORIZATION: &str = "28000";
    /// The command does not follow the grammar.
    pub const SYNTAX_ERROR: &str = "42601";
    /// The database does not exist at the LSN asked for.
    pub const UNDEFINED_DATABASE: &str = "3D000";
    /// The relation does not exist at the LSN asked for.
    pub const UNDEFINED_TABLE: &str = "42P01";
    /// A named thing does not exist (slot, setting).
    pub const UNDEFINED_OBJECT: &str = "42704";
    /// A named thing exists already, with other parameters.
    pub const DUPLICATE_OBJECT: &str = "42710";
    /// No space for WAL.
    pub const DISK_FULL: &str = "53100";
    /// Every place for a session is taken.
    pub const TOO_MANY_CONNECTIONS: &str = "53300";
    /// A stated limit (count, bytes) is reached.
    pub const CONFIGURATION_LIMIT_EXCEEDED: &str = "53400";
    /// Not possible in the present state.
    pub const NOT_IN_PREREQUISITE_STATE: &str = "55000";
    /// In use by somebody else.
    pub const OBJECT_IN_USE: &str = "55006";
    /// The server is being stopped.
    pub const ADMIN_SHUTDOWN: &str = "57P01";
    /// The server is not ready yet.
    pub const CANNOT_CONNECT_NOW: &str = "57P03";
    /// Reading or writing a file failed.
    pub const IO_ERROR: &str = "58030";
    /// The WAL asked for is not held here.
    pub const UNDEFINED_FILE: &str = "58P01";
    /// A bug, or a state that should not exist.
    pub const INTERNAL_ERROR: &str = "XX000";
    /// Stored or received bytes are damaged (CRC, prev link).
    pub const DATA_CORRUPTED: &str = "XX001";

    /// The timeline does not exist here.
    pub const TIMELINE_NOT_FOUND: &str = "WF001";
    /// A higher term is known here.
    pub const STALE_TERM: &str = "WF002";
    /// A higher primary epoch is known here, or the command brought none.
    pub const STALE_PRIMARY_EPOCH: &str = "WF003";
    /// Membership generations differ.
    pub const GENERATION_MISMATCH: &str = "WF004";
    /// System id, segment size, PostgreSQL version or ids are those of another cluster.
    pub const FOREIGN_CLUSTER: &str = "WF005";
    /// WAL that does not continue the log: gap, overlap, or a history without a common point.
    pub const WAL_NOT_CONTIGUOUS: &str = "WF006";
    /// The term history is at its stated capacity; no vote can be given.
    pub const HISTORY_FULL: &str = "WF007";
    /// The timeline accepts no WAL until what stopped it is repaired.
    pub const TIMELINE_STOPPED: &str = "WF008";
    /// The choice presented is not the one that the pageserver wrote last.
    pub const STALE_CHOICE: &str = "WF009";
    /// A newer choice took over this stream.
    pub const PREEMPTED: &str = "WF010";
    /// A stream bound to a term ended because the term changed.
    pub const TERM_CHANGED: &str = "WF011";
    /// An LSN lies before or after what exists.
    pub const LSN_OUT_OF_RANGE: &str = "WF012";
    /// A block lies beyond the end of its fork.
    pub const BEYOND_END: &str = "WF013";
    /// The relation was there and was dropped before the LSN asked for.
    pub const RELATION_DROPPED: &str = "WF014";
    /// Pages as of that LSN are not kept, or never were consistent.
    pub const LSN_TOO_OLD: &str = "WF015";
    /// The WAL up to the LSN asked for did not come in time.
    pub const LSN_NOT_REACHED: &str = "WF016";
    /// A record could not be redone, so the page is not known.
    pub const PAGE_NOT_REDONE: &str = "WF017";
    /// A member that may have forgotten what it promised neither votes nor counts.
    pub const NOT_ADMITTED: &str = "WF018";
}

/// An error with SQLSTATE as libpq carries it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message} (SQLSTATE {code})")]
pub struct SqlError {
    /// ERROR or FATAL.
    pub severity: &'static str,
    /// SQLSTATE, five characters.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do next.
    pub hint: Option<String>,
}

impl SqlError {
    /// An ERROR with one of the codes of [`sqlstate`].
    pub fn new(code: &str, message: impl Into<String>) -> SqlError {
        SqlError { severity: "ERROR", code: code.to_owned(), message: message.into(), detail: None, hint: None }
    }

    /// A FATAL: the session ends with it.
    pub fn fatal(code: &str, message: impl Into<String>) -> SqlError {
        SqlError { severity: "FATAL", ..SqlError::new(code, message) }
    }

    /// Error [`sqlstate::SYNTAX_ERROR`]: the command is none.
    pub fn syntax(message: impl Into<String>) -> SqlError {
        SqlError::new(sqlstate::SYNTAX_ERROR, message)
    }

    /// Error [`sqlstate::INVALID_PARAMETER_VALUE`]: a value cannot be.
    pub fn invalid_value(message: impl Into<String>) -> SqlError {
        SqlError::new(sqlstate::INVALID_PARAMETER_VALUE, message)
    }

    /// Error [`sqlstate::FEATURE_NOT_SUPPORTED`]: known, and not done here.
    pub fn unsupported(message: impl Into<String>) -> SqlError {
        SqlError::new(sqlstate::FEATURE_NOT_SUPPORTED, message)
    }

    /// [`sqlstate::PROTOCOL_VIOLATION`], fatal: nothing after it can be trusted.
    pub fn protocol_violation(message: impl Into<String>) -> SqlError {
        SqlError::fatal(sqlstate::PROTOCOL_VIOLATION, message)
    }

    /// Error [`sqlstate::INTERNAL_ERROR`]: the fault is ours.
    pub fn internal(message: impl Into<String>) -> SqlError {
        SqlError::new(sqlstate::INTERNAL_ERROR, message)
    }

    /// [`sqlstate::TIMELINE_NOT_FOUND`] for `ttid`.
    pub fn timeline_not_found(ttid: impl std::fmt::Display) -> SqlError {
        SqlError::new(sqlstate::TIMELINE_NOT_FOUND, format!("timeline {ttid} does not exist"))
    }

    /// Says more about it.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> SqlError {
        self.detail = Some(detail.into());
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> SqlError {
        self.hint = Some(hint.into());
        self
    }

    /// Whether this ends the session.
    pub fn is_fatal(&self) -> bool {
        self.severity == "FATAL"
    }

    /// The text of a CopyFail that carries this error: code, blank, message.
    pub fn to_copy_fail(&self) -> String {
        format!("{} {}", self.code, self.message)
    }

    /// The error that a CopyFail text carries; a text without code becomes a [`sqlstate::INTERNAL_ERROR`].
    pub fn from_copy_fail(text: &str) -> SqlError {
        match text.split_once(' ') {
            Some((code, message)) if is_sqlstate(code) => SqlError::new(code, message),
            _ => SqlError::internal(text),
        }
    }
}

fn is_sqlstate(code: &str) -> bool {
    code.len() == 5
        && code.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase())
        && code.bytes().any(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_fail_carries_code_and_message() {
        let e = SqlError::new(sqlstate::STALE_TERM, "term 5 is known here, 4 was offered");
        assert_eq!(SqlError::from_copy_fail(&e.to_copy_fail()), e);
        assert_eq!(SqlError::from_copy_fail("broken pipe").code, sqlstate::INTERNAL_ERROR);
        assert_eq!(SqlError::from_copy_fail("HELLO world").message, "HELLO world", "a word is no SQLSTATE");
    }
}
