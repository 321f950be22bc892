//! One accepted connection: start-up, then commands, of which two turn into streams.
//!
//! Every refusal is an ErrorResponse with SQLSTATE and, where there is something to do, a hint; it is logged once,
//! here.

use std::sync::Arc;
use std::time::Duration;

use libpq::{Auth, CopyReader, CopyWriter, ServerConnection};
use node::SessionPlace;
use proto::api::StreamState;
use proto::command::{Command, StartReplication, StartWalPush};
use proto::id::TenantTimelineId;
use proto::pg::{SqlError, StartupParams, sqlstate};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::{Instrument, Span, debug, info, info_span, warn};

use super::receive::{self, IDLE_MAX, ProposerEnded};
use super::send::{self, Outlet, SendEnd};
use super::streams::{OutgoingStream, StreamKind};
use super::{answers, identity};
use crate::context::SafekeeperContext;
use crate::metrics::Code;
use crate::timeline::ReadMode;

/// Limit for start-up and authentication.
const STARTUP_MAX: Duration = Duration::from_secs(10);

/// Limit for the last words on a connection that is closed.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// Serves one connection to its end.
pub(crate) async fn serve(stream: TcpStream, place: SessionPlace, ctx: Arc<SafekeeperContext>) {
    let peer = stream.peer_addr().map_or_else(|_| "unknown".to_owned(), |a| a.to_string());
    let span = info_span!("session", peer, ttid = tracing::field::Empty, application = tracing::field::Empty);
    run(stream, place, ctx).instrument(span).await;
}

async fn run(stream: TcpStream, mut place: SessionPlace, ctx: Arc<SafekeeperContext>) {
    let accepting = ServerConnection::accept(stream, &Auth::Trust, STARTUP_MAX, |s| parameter_status(&ctx, s));
    let mut connection = match accepting.await {
        Ok(connection) => connection,
        Err(e) => return debug!(error = %e, "no session came about"),
    };
    Span::current().record("application", connection.startup().application_name());
    loop {
        let query = tokio::select! {
            () = ctx.cancel.cancelled() => {
                let _ = timeout(FAREWELL_MAX, connection.send_error(&stopping())).await;
                return;
            }
            query = timeout(idle_max(&place), connection.next_query()) => query,
        };
        let text = match query {
            Ok(Ok(Some(text))) => text,
            Ok(Ok(None)) => return,
            Ok(Err(e)) => return debug!(error = %e, "the session broke off"),
            Err(_) => return debug!("the session was idle for too long and is closed"),
        };
        match use_of(&text) {
            Use::Stream => place.keep(),
            Use::Question => {}
            Use::Other => {
                if let Err(e) = place.ordinary() {
                    note_refusal(&ctx, &e);
                    let _ = timeout(FAREWELL_MAX, connection.close_with(&e)).await;
                    return;
                }
            }
        }
        match command(&ctx, connection, &text).await {
            Some(next) => connection = next,
            None => return,
        }
    }
}

/// What a command means for the place of its session.
enum Use {
    /// A proposer's stream, or the recovery that one directs: places are kept for it.
    Stream,
    /// What a proposer asks before: answered in a kept place too.
    Question,
    /// Any other command, or none that can be parsed.
    Other,
}

fn use_of(text: &str) -> Use {
    match Command::parse(text) {
        Ok(Command::StartWalPush(_)) => Use::Stream,
        Ok(Command::StartReplication(c)) if c.term.is_some() => Use::Stream,
        Ok(Command::IdentifySystem | Command::TimelineStatus) => Use::Question,
        Ok(Command::Show(name)) if name == "timeline" || name == "config" => Use::Question,
        _ => Use::Other,
    }
}

/// How long the session may say nothing; in a kept place it has to start its stream at once.
fn idle_max(place: &SessionPlace) -> Duration {
    if place.is_kept() { STARTUP_MAX } else { IDLE_MAX }
}

/// Obeys one command; gives the connection back when it can take another one.
async fn command(ctx: &SafekeeperContext, mut connection: ServerConnection, text: &str) -> Option<ServerConnection> {
    let outcome = match Command::parse(text) {
        Ok(Command::StartWalPush(c)) => return start_wal_push(ctx, connection, c).await,
        Ok(Command::StartReplication(c)) => return start_replication(ctx, connection, c).await,
        Ok(other) => answers::answer(ctx, connection.startup(), other).await,
        Err(e) => Err(e),
    };
    let sent = match outcome {
        Ok(answer) => connection.send_rows(&answer.columns, &answer.rows, &answer.tag).await,
        Err(e) => {
            note_refusal(ctx, &e);
            connection.send_error(&e).await
        }
    };
    match sent {
        Ok(()) => Some(connection),
        Err(e) => {
            debug!(error = %e, "the session broke off");
            None
        }
    }
}

/// Sends an error and keeps the session.
async fn refuse(ctx: &SafekeeperContext, mut connection: ServerConnection, e: &SqlError) -> Option<ServerConnection> {
    note_refusal(ctx, e);
    connection.send_error(e).await.ok().map(|()| connection)
}

fn note_refusal(ctx: &SafekeeperContext, e: &SqlError) {
    ctx.metrics.refused.get_or_create(&Code { sqlstate: e.code.clone() }).inc();
    // Who repeats it without end shall not fill the log; the metric counts each one.
    if !ctx.refusals.warn(&e.code, &e.message) {
        debug!(sqlstate = e.code, error = e.message, "refused");
    }
}

fn stopping() -> SqlError {
    SqlError::fatal(sqlstate::ADMIN_SHUTDOWN, "the safekeeper is shutting down")
}

async fn start_wal_push(
    ctx: &SafekeeperContext,
    connection: ServerConnection,
    c: StartWalPush,
) -> Option<ServerConnection> {
    let ttid = match identity::timeline_of(connection.startup()) {
        Ok(ttid) => ttid,
        Err(e) => return refuse(ctx, connection, &e).await,
    };
    Span::current().record("ttid", tracing::field::display(ttid));
    let port = match ctx.timelines.get(ttid) {
        Some(handle) => match handle.connect_proposer(&c) {
            Ok(port) => Some(port),
            Err(refused) => return refuse(ctx, connection, &refused.0).await,
        },
        None if ctx.config.allow_implicit_timelines && c.allow_timeline_creation => None,
        None => return refuse(ctx, connection, &receive::missing(ttid)).await,
    };
    let (mut reader, mut writer) = match connection.copy_both().await {
        Ok(halves) => halves,
        Err(e) => {
            debug!(error = %e, "the session broke off");
            return None;
        }
    };
    info!(version = ?c.version, primary_epoch = ?c.primary_epoch, "a proposer connected");
    let open = ctx.metrics.open("proposer");
    let pushing = async {
        let (port, first) = match port {
            Some(port) => (port, None),
            None => {
                let first = receive::next_message(c.version, &mut reader).await?;
                let port = receive::create_implicitly(ctx, ttid, &c, &first).await.map_err(ProposerEnded::Refused)?;
                (port, Some(first))
            }
        };
        Err(receive::run(ctx, port, first, c.version, &mut reader, &mut writer).await)
    };
    let ended: Result<std::convert::Infallible, ProposerEnded> = tokio::select! {
        ended = pushing => ended,
        () = ctx.cancel.cancelled() => Err(ProposerEnded::Refused(stopping())),
    };
    drop(open);
    match ended {
        Ok(never) => match never {},
        Err(ProposerEnded::Gone(reason)) => info!(reason, "the proposer is gone"),
        Err(ProposerEnded::Refused(e)) => {
            note_refusal(ctx, &e);
            farewell(reader, writer, &e).await;
        }
    }
    None
}

async fn start_replication(
    ctx: &SafekeeperContext,
    connection: ServerConnection,
    c: StartReplication,
) -> Option<ServerConnection> {
    let prepared = answers::timeline(ctx, connection.startup()).and_then(|handle| {
        identity::check_raw(connection.startup())?;
        let mode = c.term.map_or(ReadMode::Committed, |term| ReadMode::Recovery { term });
        answers::check_replication(&handle, &c)?;
        let wal = handle.wal_reader(mode, c.start_lsn).map_err(|e| send::read_error(&e))?;
        Ok((handle, wal))
    });
    let (handle, wal) = match prepared {
        Ok(prepared) => prepared,
        Err(e) => return refuse(ctx, connection, &e).await,
    };
    let kind = if c.term.is_some() { StreamKind::Recovery } else { StreamKind::Reader };
    let application = match connection.startup().application_name() {
        "" => connection.peer().to_owned(),
        name => name.to_owned(),
    };
    let pageserver = identity::pageserver_of(connection.startup());
    let ttid = handle.ttid();
    Span::current().record("ttid", tracing::field::display(ttid));
    let (reader, writer) = match connection.copy_both().await {
        Ok(halves) => halves,
        Err(e) => {
            debug!(error = %e, "the session broke off");
            return None;
        }
    };
    let stream = ctx.streams.register(OutgoingStream::new(ttid, kind, application, pageserver));
    stream.set_state(StreamState::Streaming);
    let open = ctx.metrics.open(kind.name());
    info!(start_lsn = %c.start_lsn, term = ?c.term, "a reader connected");
    let outlet = Outlet { handle, stream: &stream, metrics: &ctx.metrics, window: 0, keepalive: send::KEEPALIVE };
    let (end, reader, writer) = send::run(outlet, wal, reader, writer, ctx.cancel.cancelled()).await;
    drop(open);
    finish_replication(ctx, ttid, end, reader, writer).await
}

async fn finish_replication(
    ctx: &SafekeeperContext,
    ttid: TenantTimelineId,
    end: SendEnd<()>,
    reader: CopyReader,
    mut writer: CopyWriter,
) -> Option<ServerConnection> {
    match end {
        SendEnd::PeerDone => {
            info!("the reader ended the stream");
            writer.queue_done();
            let back = ServerConnection::after_copy(reader, writer, "START_REPLICATION");
            return timeout(IDLE_MAX, back).await.ok()?.ok();
        }
        SendEnd::Asked(()) => farewell(reader, writer, &stopping()).await,
        SendEnd::PeerError(e) => info!(error = %e, "the reader gave up"),
        SendEnd::Gone(reason) => info!(reason, "the reader is gone"),
        SendEnd::Failed(e) => {
            if e.code == sqlstate::IO_ERROR {
                warn!(%ttid, error = %e, "WAL cannot be read");
            }
            note_refusal(ctx, &e);
            farewell(reader, writer, &e).await;
        }
    }
    None
}

/// The last words, as far as the client takes them.
async fn farewell(reader: CopyReader, writer: CopyWriter, error: &SqlError) {
    // The client may be gone, or go on sending: either way this is the end.
    let _ = timeout(FAREWELL_MAX, writer.close_with(reader, error)).await;
}

/// What stock clients check after start-up; server_version is the timeline's.
fn parameter_status(ctx: &SafekeeperContext, startup: &StartupParams) -> Vec<(String, String)> {
    let version = identity::timeline_of(startup).ok().and_then(|ttid| ctx.timelines.get(ttid));
    let version = version.map_or(0, |handle| handle.control().pg_version_num);
    [
        ("server_version", identity::server_version(version).as_str()),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
        ("DateStyle", "ISO, MDY"),
        ("TimeZone", "UTC"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}
