//! Commands that answer with rows: identification, positions, settings, and the same tables that HTTP shows.

use std::sync::Arc;
use std::time::Duration;

use libpq::ColumnType;
use pgformat::{Lsn, SegSize, Tli};
use proto::admission::Statement;
use proto::api::shown;
use proto::broker::records::NodeRecord;
use proto::command::{Command, StartReplication};
use proto::pg::{SqlError, StartupParams, sqlstate};

use super::streams::OutgoingStream;
use super::{identity, receive, send};
use crate::admission;
use crate::context::{SafekeeperContext, VERSION};
use crate::push::board::ChoiceRow;
use crate::timeline::TimelineHandle;

use ColumnType::{Int4, Int8, Text};

/// How long a row that needs the broker may wait for it.
const BROKER_MAX: Duration = Duration::from_millis(300);

/// A result set.
pub(super) struct AnswerRows {
    pub(super) columns: Vec<(&'static str, ColumnType)>,
    pub(super) rows: Vec<Vec<Option<String>>>,
    pub(super) tag: String,
}

impl AnswerRows {
    fn new(tag: &str, columns: &[(&'static str, ColumnType)], rows: Vec<Vec<Option<String>>>) -> AnswerRows {
        AnswerRows { columns: columns.to_vec(), rows, tag: tag.to_owned() }
    }
}

fn some(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

/// Answers every command that is no stream.
pub(super) async fn answer(
    ctx: &SafekeeperContext,
    startup: &StartupParams,
    command: Command,
) -> Result<AnswerRows, SqlError> {
    match command {
        Command::IdentifySystem => identify_system(ctx, startup),
        Command::TimelineStatus => timeline_status(ctx, startup),
        Command::TimelineHistory(tli) => timeline_history(ctx, startup, tli),
        Command::Show(name) => show(ctx, startup, &name).await,
        Command::MemberStatement(Some(claim)) => member_statement(ctx, startup, &claim).await,
        Command::MemberStatement(None) => own_statement(ctx, startup).await,
        Command::CheckWal { from, to } => check_wal(ctx, startup, from, to).await,
        // Clients set what they like at start-up; nothing here depends on a setting.
        Command::Set { .. } => Ok(AnswerRows::new("SET", &[], Vec::new())),
        Command::StartPush(_) => Err(SqlError::unsupported("START_PUSH_REPLICATION goes to a pageserver")
            .with_hint("A safekeeper is read with START_REPLICATION.")),
        Command::BaseBackup(_) => Err(SqlError::unsupported("a safekeeper has no base backups")
            .with_hint("A pageserver makes them of its pages.")),
        Command::Pagestream { .. } => {
            Err(SqlError::unsupported("a safekeeper has no pages").with_hint("Pages are read from a pageserver."))
        }
        Command::StartWalPush(_) | Command::StartReplication(_) => {
            Err(SqlError::internal("a stream was asked for as if it were rows"))
        }
        Command::Unknown(text) if text.to_ascii_uppercase().contains("REPLICATION_SLOT") => Err(no_slots()),
        Command::Unknown(text) => {
            let shown: String = text.chars().take(60).collect();
            Err(SqlError::syntax(format!("unknown command: {shown:?}")).with_hint(
                "Commands: START_WAL_PUSH, START_REPLICATION, IDENTIFY_SYSTEM, TIMELINE_STATUS, TIMELINE_HISTORY, SHOW \
                 TIMELINES|SAFEKEEPERS|CHOICES|LAG|CONFIG|VERSION, SET. There are no replication slots.",
            ))
        }
    }
}

/// The timeline that the session means.
pub(super) fn timeline(ctx: &SafekeeperContext, startup: &StartupParams) -> Result<TimelineHandle, SqlError> {
    let ttid = identity::timeline_of(startup)?;
    ctx.timelines.get(ttid).ok_or_else(|| receive::missing(ttid))
}

fn no_slots() -> SqlError {
    SqlError::unsupported("replication slots are not kept here: no WAL would be held for one")
        .with_hint("Connect without a slot; a safekeeper removes no WAL by itself in this version.")
}

/// What can be refused before a stream begins.
pub(super) fn check_replication(handle: &TimelineHandle, c: &StartReplication) -> Result<(), SqlError> {
    if c.slot.is_some() {
        return Err(no_slots());
    }
    let control = handle.control();
    if let Some(tli) = c.tli
        && let Some(here) = control.pg_history.last()
        && here.tli != tli
    {
        let text = format!("tli {tli} is not the one that is streamed here, which is {}", here.tli);
        return Err(SqlError::invalid_value(text).with_hint("Ask IDENTIFY_SYSTEM for the tli."));
    }
    let end = handle.positions().borrow().flush_lsn;
    if let Some(end) = end
        && c.start_lsn > end
    {
        let text =
            format!("requested starting point {} is ahead of the WAL held here, which ends at {end}", c.start_lsn);
        return Err(SqlError::new(sqlstate::LSN_OUT_OF_RANGE, text)
            .with_hint("The receiver is ahead of this safekeeper, or its WAL is of another history."));
    }
    Ok(())
}

fn identify_system(ctx: &SafekeeperContext, startup: &StartupParams) -> Result<AnswerRows, SqlError> {
    let handle = timeline(ctx, startup)?;
    let control = handle.control();
    let at = {
        let positions = handle.positions();
        let p = positions.borrow();
        shown(if identity::is_recovery(startup) { p.flush_lsn } else { p.commit_lsn })
    };
    let tli = control.tli_at(at).unwrap_or(Tli(1));
    let columns = [("systemid", Text), ("timeline", Int4), ("xlogpos", Text), ("dbname", Text)];
    Ok(AnswerRows::new("IDENTIFY_SYSTEM", &columns, vec![vec![some(control.system_id), some(tli), some(at), None]]))
}

fn timeline_status(ctx: &SafekeeperContext, startup: &StartupParams) -> Result<AnswerRows, SqlError> {
    let handle = ctx.timelines.get(identity::timeline_of(startup)?);
    let rows = handle.into_iter().map(|handle| {
        let positions = handle.positions();
        let p = positions.borrow();
        vec![some(shown(p.flush_lsn)), some(shown(p.commit_lsn))]
    });
    Ok(AnswerRows::new("TIMELINE_STATUS", &[("flush_lsn", Text), ("commit_lsn", Text)], rows.collect()))
}

/// PostgreSQL's history file of `tli`, from what the timeline was created with. As with PostgreSQL, tli 1 has none.
fn timeline_history(ctx: &SafekeeperContext, startup: &StartupParams, tli: Tli) -> Result<AnswerRows, SqlError> {
    let control = timeline(ctx, startup)?.control();
    let name = format!("{:08X}.history", tli.0);
    if tli == Tli(1) || !control.pg_history.iter().any(|e| e.tli == tli) {
        let text = format!("could not open file \"pg_wal/{name}\": No such file or directory");
        return Err(SqlError::new(sqlstate::UNDEFINED_FILE, text));
    }
    let pairs = control.pg_history.iter().zip(control.pg_history.iter().skip(1));
    let lines = pairs.filter(|(_, next)| next.tli <= tli);
    let content: String =
        lines.map(|(e, next)| format!("{}\t{}\tno recovery target specified\n", e.tli, next.start_lsn)).collect();
    Ok(AnswerRows::new(
        "TIMELINE_HISTORY",
        &[("filename", Text), ("content", Text)],
        vec![vec![some(name), some(content)]],
    ))
}

async fn show(ctx: &SafekeeperContext, startup: &StartupParams, name: &str) -> Result<AnswerRows, SqlError> {
    match name {
        "timelines" => Ok(timelines(ctx)),
        "timeline" => timeline_json(ctx, startup),
        "safekeepers" => Ok(safekeepers(ctx).await),
        "choices" => Ok(choices(ctx)),
        "lag" => Ok(lag(ctx)),
        "config" => {
            let rows = ctx.config.rows().into_iter().map(|(n, v)| vec![some(n), some(v)]).collect();
            Ok(AnswerRows::new("SHOW", &[("name", Text), ("value", Text)], rows))
        }
        "version" => Ok(AnswerRows::new("SHOW", &[("version", Text)], vec![vec![some(VERSION)]])),
        setting => setting_value(ctx, startup, setting),
    }
}

/// Settings that stock clients ask for.
fn setting_value(ctx: &SafekeeperContext, startup: &StartupParams, name: &str) -> Result<AnswerRows, SqlError> {
    let version = || timeline(ctx, startup).map(|handle| handle.control().pg_version_num);
    let (name, value) = match name {
        "wal_segment_size" => ("wal_segment_size", segment_size_text(timeline(ctx, startup)?.control().seg_size)),
        "data_directory_mode" => ("data_directory_mode", "0700".to_owned()),
        "server_version" => ("server_version", identity::server_version(version()?)),
        "server_version_num" => ("server_version_num", version()?.to_string()),
        "server_encoding" => ("server_encoding", "UTF8".to_owned()),
        "client_encoding" => ("client_encoding", "UTF8".to_owned()),
        "integer_datetimes" => ("integer_datetimes", "on".to_owned()),
        "standard_conforming_strings" => ("standard_conforming_strings", "on".to_owned()),
        other => {
            let other: String = other.chars().take(60).collect();
            return Err(SqlError::new(sqlstate::UNDEFINED_OBJECT, format!("nothing to show under the name {other:?}"))
                .with_hint("SHOW TIMELINE, TIMELINES, SAFEKEEPERS, CHOICES, LAG, CONFIG or VERSION."));
        }
    };
    Ok(AnswerRows::new("SHOW", &[(name, Text)], vec![vec![some(value)]]))
}

/// As PostgreSQL prints a size: in its largest whole unit.
fn segment_size_text(size: SegSize) -> String {
    let mib = size.bytes() >> 20;
    if mib.is_multiple_of(1024) { format!("{}GB", mib / 1024) } else { format!("{mib}MB") }
}

/// The session's timeline as one JSON object: a proposer reads it before it asks for votes. What HTTP gives, in the
/// schema before.
fn timeline_json(ctx: &SafekeeperContext, startup: &StartupParams) -> Result<AnswerRows, SqlError> {
    let status = ctx.timeline_status(&timeline(ctx, startup)?);
    let status = status.to_schema_1().map_err(|e| SqlError::internal(format!("status as JSON: {e}")))?;
    Ok(AnswerRows::new("SHOW", &[("timeline", Text)], vec![vec![some(status)]]))
}

/// Another member says where it stands: one row, what is said and remembered here, as JSON.
async fn member_statement(
    ctx: &SafekeeperContext,
    startup: &StartupParams,
    claim: &Statement,
) -> Result<AnswerRows, SqlError> {
    let answer = admission::told(ctx.config.node.id, &timeline(ctx, startup)?, claim).await?;
    let text = serde_json::to_string(&answer).map_err(|e| SqlError::internal(format!("an answer as JSON: {e}")))?;
    Ok(AnswerRows::new("MEMBER_STATEMENT", &[("answer", Text)], vec![vec![some(text)]]))
}

/// Another member was told where this one stands, and asks: one row, JSON.
async fn own_statement(ctx: &SafekeeperContext, startup: &StartupParams) -> Result<AnswerRows, SqlError> {
    let statement = admission::own_statement(&timeline(ctx, startup)?).await?;
    let text = serde_json::to_string(&statement).map_err(|e| SqlError::internal(format!("a statement: {e}")))?;
    Ok(AnswerRows::new("MEMBER_STATEMENT", &[("statement", Text)], vec![vec![some(text)]]))
}

/// Reads WAL back that somebody could not use: one row, with what is damaged, or null.
async fn check_wal(
    ctx: &SafekeeperContext,
    startup: &StartupParams,
    from: Lsn,
    to: Lsn,
) -> Result<AnswerRows, SqlError> {
    let handle = timeline(ctx, startup)?;
    let found = handle.check_wal(from, to).await.map_err(|e| send::read_error(&e))?;
    let row = vec![found.as_ref().map(|d| d.at.to_string()), found.map(|d| d.problem)];
    Ok(AnswerRows::new("CHECK_WAL", &[("damaged_at", Text), ("problem", Text)], vec![row]))
}

fn timelines(ctx: &SafekeeperContext) -> AnswerRows {
    let columns = [
        ("tenant_id", Text),
        ("timeline_id", Text),
        ("source", Text),
        ("term", Int8),
        ("last_log_term", Int8),
        ("flush_lsn", Text),
        ("commit_lsn", Text),
        ("remote_consistent_lsn", Text),
        ("streaming", Text),
        ("wal_bytes", Int8),
        ("stopped", Text),
    ];
    let row = |handle: TimelineHandle| {
        let s = handle.status();
        vec![
            some(s.tenant_id),
            some(s.timeline_id),
            some(format!("{:?}", s.source).to_lowercase()),
            some(s.term),
            some(s.last_log_term),
            some(shown(s.flush_lsn)),
            some(shown(s.commit_lsn)),
            some(shown(s.remote_consistent_lsn)),
            some(s.streaming),
            some(s.wal_bytes),
            s.stopped,
        ]
    };
    AnswerRows::new("SHOW", &columns, ctx.timelines.list().into_iter().map(row).collect())
}

/// The nodes that the broker knows; while it is away, this one.
async fn safekeepers(ctx: &SafekeeperContext) -> AnswerRows {
    let prefix = ctx.broker.keys().safekeepers();
    let asked = tokio::time::timeout(BROKER_MAX, ctx.broker.get_prefix(&prefix)).await;
    let mut nodes: Vec<NodeRecord> = match asked {
        Ok(Ok((entries, _))) => entries.iter().filter_map(|e| serde_json::from_slice(&e.value).ok()).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    if !nodes.iter().any(|n| n.id == ctx.config.node.id) {
        nodes.push(ctx.node_record());
    }
    nodes.sort_by_key(|n| n.id);
    let columns = [("id", Int8), ("pg", Text), ("http", Text), ("availability_zone", Text), ("version", Text)];
    let row = |n: NodeRecord| vec![some(n.id), some(n.pg), some(n.http), n.availability_zone, some(n.version)];
    AnswerRows::new("SHOW", &columns, nodes.into_iter().map(row).collect())
}

fn choices(ctx: &SafekeeperContext) -> AnswerRows {
    let columns = [
        ("tenant_id", Text),
        ("timeline_id", Text),
        ("pageserver_id", Int8),
        ("safekeeper_id", Int8),
        ("mode", Text),
        ("reason", Text),
        ("choice_seq", Int8),
        ("chosen_at", Text),
        ("token", Int8),
        ("state", Text),
    ];
    let row = |c: ChoiceRow| {
        vec![
            some(c.tenant_id),
            some(c.timeline_id),
            some(c.pageserver_id),
            some(c.safekeeper_id),
            some(c.mode),
            some(c.reason),
            some(c.choice_seq),
            some(c.chosen_at),
            some(c.token),
            c.state.map(|state| state.to_string()),
        ]
    };
    AnswerRows::new("SHOW", &columns, ctx.pushes.rows(&ctx.streams).into_iter().map(row).collect())
}

fn lag(ctx: &SafekeeperContext) -> AnswerRows {
    let columns = [
        ("tenant_id", Text),
        ("timeline_id", Text),
        ("receiver", Text),
        ("kind", Text),
        ("state", Text),
        ("commit_lsn", Text),
        ("sent_lsn", Text),
        ("last_record_lsn", Text),
        ("disk_consistent_lsn", Text),
        ("lag_bytes", Int8),
    ];
    let row = |s: Arc<OutgoingStream>| {
        let handle = ctx.timelines.get(s.ttid)?;
        let commit: Option<Lsn> = handle.positions().borrow().commit_lsn;
        // Unknown until the receiver reports.
        let lag = commit.zip(s.received()).map(|(c, r)| c.bytes_since(r).to_string());
        Some(vec![
            some(s.ttid.tenant_id),
            some(s.ttid.timeline_id),
            some(&s.peer),
            some(s.kind.name()),
            some(s.state()),
            some(shown(commit)),
            some(shown(s.sent())),
            some(shown(s.received())),
            some(shown(s.disk_consistent())),
            lag,
        ])
    };
    AnswerRows::new("SHOW", &columns, ctx.streams.all().into_iter().filter_map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segment_sizes_as_postgres_prints_them() {
        let text = |mib: u32| segment_size_text(SegSize::new(mib << 20).expect("a power of two"));
        assert_eq!([text(1), text(16), text(64), text(1024)], ["1MB", "16MB", "64MB", "1GB"]);
    }
}
