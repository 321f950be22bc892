//! The one replication connection to the primary: questions, proof reading, then the stream.
//!
//! Owner of the connection until [`Upstream::stream`] hands its halves to the driver. While it asks and proves, its
//! application_name matches no standby name, so that PostgreSQL never waits for it; the name is changed on the same
//! connection right before the stream. A new connection is a new proof: nothing is carried over.

use std::time::Duration;

use libpq::{ClientConnection, ConnectOptions, CopyReader, CopyWriter, NetError, QueryResult};
use pgformat::{Lsn, SegSize, Tli};
use proto::id::SystemId;
use proto::pg::sqlstate;
use tokio::time::timeout;

use crate::attach::proof::plan::{PrimaryView, WalPart, parse_history};
use crate::config::ShimConfig;
use crate::dial::wal_reader::{StretchError, WalReader};
use crate::names;
use crate::stop::{AttachRefusal, StopCause};

/// Limit for one question to a server that is up.
const QUESTION: Duration = Duration::from_secs(10);

/// Settings, as one row; NULL where the role may not look.
const SETTINGS: &str = "SELECT pg_is_in_recovery(), current_setting('fsync'), current_setting('full_page_writes'), \
     current_setting('wal_level'), current_setting('server_version_num'), \
     (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'), \
     (SELECT setting FROM pg_settings WHERE name = 'wal_sender_timeout'), pg_backend_pid()";

/// First segment held. The tli is cut off: a segment of an older tli counts too.
const OLDEST: &str = "SELECT min(substr(name, 9)) FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' AND size > 0";

/// The connection, between commands.
pub(crate) struct Upstream {
    connection: ClientConnection,
    /// What the primary said.
    pub(crate) primary: PrimaryView,
    /// wal_sender_timeout; zero: none.
    pub(crate) wal_sender_timeout: Duration,
    /// Process id of the walsender.
    pub(crate) pid: i32,
}

/// Which server a session streams from: enough to know it again on another connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PrimaryIdentity {
    /// The system identifier, which every cluster gets at initdb.
    pub(crate) system_id: SystemId,
    /// PostgreSQL's own timeline number.
    pub(crate) tli: Tli,
    /// Process id of the session's walsender.
    pub(crate) pid: i32,
}

/// The streaming halves.
pub(crate) struct PrimaryStream {
    pub(crate) reader: CopyReader,
    pub(crate) writer: CopyWriter,
    /// First byte that comes.
    pub(crate) start: Lsn,
}

impl Upstream {
    /// The server, to be known again by.
    pub(crate) fn identity(&self) -> PrimaryIdentity {
        PrimaryIdentity { system_id: self.primary.system_id, tli: self.primary.tli, pid: self.pid }
    }

    /// Dials and asks who is there. Refuses a server that cannot be a primary of any timeline.
    pub(crate) async fn connect(config: &ShimConfig) -> Result<Upstream, StopCause> {
        let dialled = ClientConnection::dial(&config.replication).await;
        let mut connection = dialled.map_err(|e| away(e, &config.replication))?;
        let row = one_row(ask(&mut connection, SETTINGS).await?)?;
        let text = |i: usize| row.get(i).and_then(Option::as_deref).unwrap_or_default();
        if text(0) == "t" {
            return Err(AttachRefusal::Standby.into());
        }
        check_settings(config, text(1), text(2), text(3))?;
        let number = |i: usize| text(i).parse::<u32>().map_err(|_| unexpected("settings", text(i)));
        let seg_size = SegSize::new(number(5)?).ok_or_else(|| unexpected("wal_segment_size", text(5)))?;
        let (version_num, timeout_ms) = (number(4)?, number(6)?);
        let pid = text(7).parse().map_err(|_| unexpected("pg_backend_pid", text(7)))?;
        let (system_id, tli, end) = identify(&mut connection).await?;
        let history = history(&mut connection, tli).await?;
        let oldest = oldest(&mut connection, config, seg_size).await?;
        let primary = PrimaryView { system_id, tli, end, history, version_num, seg_size, oldest };
        Ok(Upstream { connection, primary, wal_sender_timeout: Duration::from_millis(timeout_ms.into()), pid })
    }

    /// Asks for the end of WAL again: it moves while the primary works.
    pub(crate) async fn refresh_end(&mut self) -> Result<(), StopCause> {
        let (system_id, tli, end) = identify(&mut self.connection).await?;
        if (system_id, tli) != (self.primary.system_id, self.primary.tli) {
            return Err(StopCause::Retry("the primary changed its identity on an open connection".to_owned()));
        }
        self.primary.end = end;
        Ok(())
    }

    /// Whether the slot `name` can be streamed from; creates nothing.
    pub(crate) async fn slot(&mut self, name: &str) -> Result<SlotState, StopCause> {
        let query = format!(
            "SELECT coalesce(wal_status, 'lost'), active, coalesce(active_pid, 0), coalesce(restart_lsn::text, '') \
             FROM pg_replication_slots WHERE slot_name = '{name}' AND slot_type = 'physical'"
        );
        let results = ask(&mut self.connection, &query).await?;
        let Some(row) = results.first().and_then(|r| r.rows.first()) else { return Ok(SlotState::Missing) };
        let text = |i: usize| row.get(i).and_then(Option::as_deref).unwrap_or_default();
        if text(1) == "t" {
            return Ok(SlotState::Active(text(2).to_owned()));
        }
        let never_used = text(3).is_empty();
        Ok(if text(0) == "lost" && !never_used { SlotState::Lost } else { SlotState::Ready })
    }

    /// Creates the slot anew, with WAL reserved from the last checkpoint on.
    pub(crate) async fn recreate_slot(&mut self, name: &str, drop_first: bool) -> Result<(), StopCause> {
        if drop_first {
            ask(&mut self.connection, &format!("SELECT pg_drop_replication_slot('{name}')")).await?;
        }
        ask(&mut self.connection, &format!("SELECT pg_create_physical_replication_slot('{name}', true)")).await?;
        Ok(())
    }

    /// Starts to read a part of the WAL, without a slot and without counting as a standby.
    pub(crate) async fn read(self, part: WalPart) -> Result<Reading, StretchError> {
        let WalPart { tli, from, to } = part;
        let command = format!("START_REPLICATION PHYSICAL {from} TIMELINE {tli}");
        let Upstream { connection, primary, wal_sender_timeout, pid } = self;
        let wal = WalReader::start(connection, &command, from, to).await?;
        Ok(Reading { wal, primary, wal_sender_timeout, pid })
    }

    /// Becomes the standby that commits wait for: takes its name and streams from `start` through the slot.
    pub(crate) async fn stream(mut self, config: &ShimConfig, start: Lsn) -> Result<PrimaryStream, StopCause> {
        let name = names::standby_name(config.ttid.timeline_id);
        ask(&mut self.connection, &format!("SET application_name = '{name}'")).await?;
        let command = format!("START_REPLICATION SLOT {} PHYSICAL {start} TIMELINE {}", config.slot, self.primary.tli);
        let started = timeout(QUESTION, self.connection.copy_both(&command)).await;
        match started.map_err(|_| StopCause::Retry("the primary did not start to stream in time".to_owned()))? {
            Ok((reader, writer)) => Ok(PrimaryStream { reader, writer, start }),
            Err(e) if e.server_error().is_some_and(|e| e.code == sqlstate::UNDEFINED_FILE) => {
                Err(AttachRefusal::WalRemoved(start).into())
            }
            Err(e) => Err(e.into()),
        }
    }
}

/// Starts to read `[from, end)` once more, beside the stream of the session: WAL that was sent in this session and that
/// the server keeps, since it was not reported to be safe.
///
/// The address may lead elsewhere by now, to a promoted or restored copy. The server is the session's own only while
/// the session's walsender holds the slot there.
pub(crate) async fn reread(
    config: &ShimConfig,
    origin: PrimaryIdentity,
    from: Lsn,
    end: Lsn,
) -> Result<WalReader, StretchError> {
    let mut connection = ClientConnection::dial(&config.replication).await?;
    let query = format!("SELECT coalesce(active_pid, 0) FROM pg_replication_slots WHERE slot_name = '{}'", config.slot);
    let asked = timeout(QUESTION, async {
        let slot = connection.simple_query(&query).await?;
        Ok::<_, NetError>((slot, connection.simple_query("IDENTIFY_SYSTEM").await?))
    });
    let late = |_| NetError::Timeout { peer: "the primary".to_owned(), what: "who it is", limit: QUESTION };
    let (slot, system) = asked.await.map_err(late)??;
    let cell = |results: &[QueryResult], i: usize| results.first()?.rows.first()?.get(i).cloned().flatten();
    let (held_by, system_id, tli) = (cell(&slot, 0), cell(&system, 0), cell(&system, 1));
    let expected = (origin.pid.to_string(), origin.system_id.to_string(), origin.tli.to_string());
    if (held_by.as_ref(), system_id.as_ref(), tli.as_ref()) != (Some(&expected.0), Some(&expected.1), Some(&expected.2))
    {
        return Err(StretchError::Protocol {
            from: "the primary's address".to_owned(),
            problem: format!(
                "another server answers than the one that streams: slot {} is held by process {held_by:?} of system \
                 {system_id:?} on tli {tli:?}, expected {expected:?}",
                config.slot
            ),
        });
    }
    let command = format!("START_REPLICATION PHYSICAL {from} TIMELINE {}", origin.tli);
    WalReader::start(connection, &command, from, end).await
}

/// A connection that reads WAL for the proof.
pub(crate) struct Reading {
    /// The WAL of the stretch, in order.
    pub(crate) wal: WalReader,
    primary: PrimaryView,
    wal_sender_timeout: Duration,
    pid: i32,
}

impl Reading {
    /// Back to commands.
    pub(crate) async fn finish(self) -> Result<Upstream, NetError> {
        let Reading { wal, primary, wal_sender_timeout, pid } = self;
        Ok(Upstream { connection: wal.finish().await?, primary, wal_sender_timeout, pid })
    }
}

/// A replication slot, before it is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum SlotState {
    /// Exists and is free.
    Ready,
    /// In use by another walsender, named by its process id.
    Active(String),
    /// Does not exist.
    Missing,
    /// WAL that it needs was removed.
    Lost,
}

/// A server that is down or starting comes back by itself, and clients wait for it: no growing pause then.
fn away(e: NetError, options: &ConnectOptions) -> StopCause {
    let text = format!("the shim cannot connect to the primary at {}: {e}", options.target());
    let starting = e.server_error().is_some_and(|e| e.code == sqlstate::CANNOT_CONNECT_NOW);
    match e {
        NetError::Io { .. } => StopCause::PrimaryAway(text),
        _ if starting => StopCause::PrimaryAway(text),
        _ => StopCause::Retry(text),
    }
}

fn check_settings(
    config: &ShimConfig,
    fsync: &str,
    full_page_writes: &str,
    wal_level: &str,
) -> Result<(), AttachRefusal> {
    if fsync != "on" && !config.allow_fsync_off {
        return Err(AttachRefusal::SettingOff("fsync"));
    }
    if full_page_writes != "on" {
        return Err(AttachRefusal::SettingOff("full_page_writes"));
    }
    if wal_level == "minimal" {
        return Err(AttachRefusal::WalLevel(wal_level.to_owned()));
    }
    Ok(())
}

async fn ask(connection: &mut ClientConnection, query: &str) -> Result<Vec<QueryResult>, StopCause> {
    let answer = timeout(QUESTION, connection.simple_query(query)).await;
    let answer = answer.map_err(|_| StopCause::Retry(format!("the primary did not answer within {QUESTION:?}")))?;
    Ok(answer?)
}

fn one_row(results: Vec<QueryResult>) -> Result<Vec<Option<String>>, StopCause> {
    let row = results.into_iter().next().and_then(|r| r.rows.into_iter().next());
    row.ok_or_else(|| StopCause::Retry("the primary answered without a row".to_owned()))
}

fn unexpected(what: &str, text: &str) -> StopCause {
    StopCause::Retry(format!("the primary's {what} is {text:?}, which cannot be read"))
}

async fn identify(connection: &mut ClientConnection) -> Result<(SystemId, Tli, Lsn), StopCause> {
    let row = one_row(ask(connection, "IDENTIFY_SYSTEM").await?)?;
    let text = |i: usize| row.get(i).and_then(Option::as_deref).unwrap_or_default();
    let parsed = (text(0).parse().ok(), text(1).parse().ok(), text(2).parse().ok());
    match parsed {
        (Some(system_id), Some(tli), Some(end)) => Ok((SystemId(system_id), Tli(tli), end)),
        _ => Err(unexpected("IDENTIFY_SYSTEM", &row.iter().flatten().cloned().collect::<Vec<_>>().join(" "))),
    }
}

async fn history(connection: &mut ClientConnection, tli: Tli) -> Result<Vec<(Tli, Lsn)>, StopCause> {
    // The first tli has no history file, and asking for it is an error.
    if tli == Tli(1) {
        return Ok(vec![(tli, Lsn::new(0))]);
    }
    let row = one_row(ask(connection, &format!("TIMELINE_HISTORY {tli}")).await?)?;
    let content = row.get(1).and_then(Option::as_deref).unwrap_or_default();
    parse_history(content, tli).ok_or_else(|| unexpected("timeline history", content))
}

/// First byte of WAL that the server holds: from its directory, or, where the role may not look there, from the slots.
async fn oldest(connection: &mut ClientConnection, config: &ShimConfig, seg: SegSize) -> Result<Lsn, StopCause> {
    let listed = match ask(connection, OLDEST).await {
        Ok(results) => one_row(results)?.into_iter().next().flatten(),
        Err(StopCause::Retry(why)) => {
            tracing::debug!(%why, "pg_ls_waldir is not allowed: the slots tell what is held");
            None
        }
        Err(other) => return Err(other),
    };
    if let Some((_, segno)) = listed.and_then(|name| seg.parse_file_name(&format!("00000001{name}"))) {
        return Ok(seg.start_of(segno));
    }
    let query = format!(
        "SELECT min(restart_lsn)::text FROM pg_replication_slots WHERE slot_name IN ('{}', '{}') \
         AND wal_status IN ('reserved', 'extended')",
        config.slot, config.pin_slot
    );
    let row = one_row(ask(connection, &query).await?)?;
    let held = row.first().and_then(Option::as_deref).and_then(|text| text.parse::<Lsn>().ok());
    Ok(held.map_or(Lsn::MAX, |l| l.segment_start(seg)))
}

#[cfg(test)]
mod tests {
    use proto::pg::SqlError;

    use super::*;

    /// Only this pause does not grow: PostgreSQL that recovers is attached to within 0.2 s of accepting connections.
    #[test]
    fn a_server_that_starts_or_is_down_is_away_and_one_that_refuses_is_not() {
        let options = ConnectOptions::to_address("db:5432", "x").expect("an address");
        let said = |code: &str| NetError::Server {
            peer: "db".to_owned(),
            error: Box::new(SqlError::fatal(code, "the database system is starting up")),
        };
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let down = NetError::Io { peer: "db".to_owned(), source: refused };
        for e in [said(sqlstate::CANNOT_CONNECT_NOW), down] {
            assert!(matches!(away(e, &options), StopCause::PrimaryAway(_)));
        }
        assert!(matches!(away(said("28P01"), &options), StopCause::Retry(_)));
    }
}
