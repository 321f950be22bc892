//! One libpq session: commands until a stream begins or the client leaves.

use std::sync::Arc;
use std::time::Duration;

use libpq::{Auth, ColumnType, NetError, ServerConnection};
use node::SessionPlace;
use proto::command::Command;
use proto::id::TenantTimelineId;
use proto::pagestream::PagestreamVersion;
use proto::pg::{SqlError, StartupParams};
use tokio::net::TcpStream;

use super::pages::PageSession;
use crate::backup;
use crate::process::Pageserver;
use crate::read::PageReader;
use crate::receive::push;
use crate::rows::ShowTable;

/// Start-up and authentication together.
const STARTUP_LIMIT: Duration = Duration::from_secs(10);
/// A client that asks nothing for so long is gone: half-open sockets would stay for ever otherwise.
const IDLE_LIMIT: Duration = Duration::from_secs(600);
/// What clients that look at `server_version` are told.
const SERVER_VERSION: &str = "15.0";

pub(crate) async fn serve(stream: TcpStream, place: SessionPlace, pageserver: Arc<Pageserver>) {
    let parameters = |startup: &StartupParams| server_parameters(startup, &pageserver);
    let (shutdown, refusals) = (pageserver.shutdown.clone(), pageserver.refusals.clone());
    let result = match ServerConnection::accept(stream, &Auth::Trust, STARTUP_LIMIT, parameters).await {
        Ok(connection) => commands(connection, place, pageserver).await,
        Err(e) => Err(e),
    };
    match result {
        Ok(()) => {}
        Err(e) if shutdown.is_cancelled() => tracing::debug!("session ended: {e}"),
        // A port scan or a client that hung up: no work of ours was lost.
        Err(NetError::Io { .. }) => tracing::debug!("session ended abnormally"),
        Err(e) => drop(refusals.warn("session", e)),
    }
}

async fn commands(
    mut connection: ServerConnection,
    mut place: SessionPlace,
    pageserver: Arc<Pageserver>,
) -> Result<(), NetError> {
    loop {
        let query = tokio::select! {
            query = tokio::time::timeout(idle_limit(&place), connection.next_query()) => match query {
                Ok(query) => query?,
                Err(_) => return Ok(()),
            },
            () = pageserver.shutdown.cancelled() => return Ok(()),
        };
        let Some(query) = query else { return Ok(()) };
        let command = Command::parse(&query);
        if matches!(command, Ok(Command::StartPush(_))) {
            place.keep();
        } else if let Err(error) = place.ordinary() {
            return connection.close_with(&error).await;
        }
        match command {
            Ok(Command::StartPush(request)) => match timeline_of(connection.startup()) {
                Ok(ttid) => match push::serve(pageserver.clone(), connection, ttid, request).await? {
                    Some(refused) => connection = refused,
                    None => return Ok(()),
                },
                Err(error) => refuse(&mut connection, &pageserver, &error).await?,
            },
            Ok(Command::Pagestream { version, ttid }) => match page_session(&pageserver, ttid, version) {
                Ok(session) => match session.serve(connection).await? {
                    Some(done) => connection = done,
                    None => return Ok(()),
                },
                Err(error) => refuse(&mut connection, &pageserver, &error).await?,
            },
            Ok(Command::BaseBackup(request)) => match timeline_of(connection.startup()) {
                Ok(ttid) => match backup::serve::backup(&pageserver, ttid, connection, request).await? {
                    Some(done) => connection = done,
                    None => return Ok(()),
                },
                Err(error) => refuse(&mut connection, &pageserver, &error).await?,
            },
            Ok(Command::IdentifySystem) => match timeline_of(connection.startup()) {
                Ok(ttid) => connection = backup::serve::identify(&pageserver, ttid, connection).await?,
                Err(error) => refuse(&mut connection, &pageserver, &error).await?,
            },
            Ok(Command::Show(name)) => show(&mut connection, &pageserver, &name).await?,
            // Clients set what they like at start-up; nothing here depends on a setting.
            Ok(Command::Set { .. }) => connection.send_rows(&[], &[], "SET").await?,
            Ok(other) => refuse(&mut connection, &pageserver, &unsupported(&other)).await?,
            Err(error) => refuse(&mut connection, &pageserver, &error).await?,
        }
    }
}

/// What a client is told about the server: the version of the cluster whose timeline it names, which decides how its
/// tools speak.
fn server_parameters(startup: &StartupParams, pageserver: &Pageserver) -> Vec<(String, String)> {
    let timeline = timeline_of(startup).ok().and_then(|ttid| pageserver.timeline(ttid));
    let attach = timeline.as_ref().and_then(|t| t.attach.as_ref());
    let version = attach.map_or_else(
        || SERVER_VERSION.to_owned(),
        |a| format!("{}.{}", a.pg_version_num / 10_000, a.pg_version_num % 10_000),
    );
    [
        ("server_version", version.as_str()),
        ("server_encoding", "UTF8"),
        ("client_encoding", "UTF8"),
        ("integer_datetimes", "on"),
        ("standard_conforming_strings", "on"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// How long a session may say nothing between commands; in a kept place it has to start its stream at once.
fn idle_limit(place: &SessionPlace) -> Duration {
    if place.is_kept() { STARTUP_LIMIT } else { IDLE_LIMIT }
}

fn page_session(
    pageserver: &Pageserver,
    ttid: TenantTimelineId,
    version: PagestreamVersion,
) -> Result<PageSession, SqlError> {
    let timeline = pageserver.timeline(ttid).ok_or_else(|| SqlError::timeline_not_found(ttid))?;
    Ok(PageSession {
        reader: PageReader::of(&timeline)?,
        version,
        wait_limit: pageserver.config.lsn_wait,
        awake: pageserver.awake.clone(),
        metrics: pageserver.metrics.clone(),
        shutdown: pageserver.shutdown.clone(),
    })
}

/// A table of ours, or a setting that replication clients ask for.
async fn show(connection: &mut ServerConnection, pageserver: &Pageserver, name: &str) -> Result<(), NetError> {
    if let Some(table) = pageserver.table(name) {
        return send(connection, &table).await;
    }
    let ttid = timeline_of(connection.startup()).ok();
    match ttid.and_then(|ttid| backup::serve::setting(name, pageserver, ttid)) {
        Some(value) => connection.send_rows(&[(name, ColumnType::Text)], &[vec![Some(value)]], "SHOW").await,
        None => refuse(connection, pageserver, &unknown_show(name)).await,
    }
}

async fn send(connection: &mut ServerConnection, table: &ShowTable) -> Result<(), NetError> {
    let columns: Vec<(&str, ColumnType)> = table.columns.iter().map(|c| (*c, ColumnType::Text)).collect();
    connection.send_rows(&columns, &table.rows, "SHOW").await
}

async fn refuse(connection: &mut ServerConnection, pageserver: &Pageserver, error: &SqlError) -> Result<(), NetError> {
    // Who repeats it without end shall not fill the log.
    pageserver.refusals.warn(&error.code, format!("{}: {error}", connection.peer()));
    connection.send_error(error).await
}

/// The timeline named by the startup options.
fn timeline_of(startup: &StartupParams) -> Result<TenantTimelineId, SqlError> {
    let option = |name: &str| {
        startup.option(name).ok_or_else(|| {
            SqlError::invalid_value(format!("the startup option {name} is missing"))
                .with_hint("Connect with options='-c tenant_id=<32 hex digits> -c timeline_id=<32 hex digits>'.")
        })
    };
    let bad = |name: &str, e: &dyn std::fmt::Display| SqlError::invalid_value(format!("startup option {name}: {e}"));
    let tenant = option("tenant_id")?.parse().map_err(|e| bad("tenant_id", &e))?;
    let timeline = option("timeline_id")?.parse().map_err(|e| bad("timeline_id", &e))?;
    Ok(TenantTimelineId::new(tenant, timeline))
}

fn unknown_show(name: &str) -> SqlError {
    let shown: String = name.chars().take(60).collect();
    SqlError::new(proto::pg::sqlstate::UNDEFINED_OBJECT, format!("SHOW {shown:?} is not known"))
        .with_hint("SHOW TIMELINES|LAYERS|SAFEKEEPERS|CHOICES|LAG|CONFIG|VERSION.")
}

fn unsupported(command: &Command) -> SqlError {
    match command {
        Command::StartReplication(_) | Command::TimelineHistory(_) | Command::MemberStatement(_) => {
            SqlError::unsupported("a pageserver does not send WAL")
                .with_hint("Replication clients connect to a safekeeper.")
        }
        Command::StartWalPush(_) => {
            SqlError::unsupported("START_WAL_PUSH goes to a safekeeper").with_hint("A pageserver takes no votes.")
        }
        Command::Unknown(text) => {
            let shown: String = text.chars().take(60).collect();
            SqlError::syntax(format!("unknown command: {shown:?}")).with_hint(
                "Commands: START_PUSH_REPLICATION, pagestream_v3, pagestream_v2, SHOW \
                 TIMELINES|LAYERS|SAFEKEEPERS|CHOICES|LAG|CONFIG|VERSION, SET.",
            )
        }
        _ => SqlError::unsupported("this command is not served by a pageserver"),
    }
}
