//! I6: the shim never reports to PostgreSQL a position beyond min(commit, received or proved in this session), and
//! what it reports is that server's own WAL.

use pgformat::Lsn;

use super::{Violation, first_difference};

/// A shim reports `reported` to a server. `commit`: committed by its proposer; `received`: received or proved in this
/// session; `server`: that server's WAL up to `reported`; `committed`: the committed log.
///
/// # Errors
/// When the report goes beyond either, or the server's WAL is not what was committed.
pub fn reported(
    reported: Lsn,
    commit: Option<Lsn>,
    received: Option<Lsn>,
    server: &[u8],
    committed: &[u8],
) -> Result<(), Violation> {
    if commit < Some(reported) || received < Some(reported) {
        return Violation::of("I6", format!("reported {reported}, committed {commit:?}, received {received:?}"));
    }
    if committed.len() < server.len() || first_difference(server, committed).is_some() {
        return Violation::of(
            "I6",
            format!("reported {reported}, but the server's WAL up to there is not what was committed"),
        );
    }
    Ok(())
}

/// A shim reports `now` behind `before`, each a flush and an apply position.
///
/// # Errors
/// When one of them falls, or something is applied that is not flushed.
pub fn in_order(before: (Option<Lsn>, Option<Lsn>), now: (Option<Lsn>, Option<Lsn>)) -> Result<(), Violation> {
    let (flush, apply) = now;
    if flush < before.0 || apply < before.1 || apply > flush {
        return Violation::of("I6", format!("reported flush and apply {now:?} after {before:?}"));
    }
    Ok(())
}
