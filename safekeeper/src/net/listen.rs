//! Accepts libpq connections: one task per connection, a bound on their number, an orderly end.

use std::sync::Arc;
use std::time::Duration;

use proto::net::{Auth, ServerConnection, SqlError, sqlstate};
use proto::runtime::RepeatLog;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tracing::{error, warn};

use super::session;
use crate::server::Context;

/// The most connections at once. Each may hold 4 MiB of unwritten WAL or 1 MiB of outgoing WAL, so that all of them
/// stay within a few GiB; PostgreSQL fleets of this size have one proposer and a handful of readers per timeline.
const CONNECTIONS_MAX: usize = 1024;

/// How long open sessions get to end by themselves at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause after a failed accept (no file descriptors left): trying again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the server stops, then waits for the sessions.
pub(crate) async fn run(listener: TcpListener, ctx: Arc<Context>) {
    let mut sessions = JoinSet::new();
    let trouble = RepeatLog::events("a connection could not be accepted");
    loop {
        tokio::select! {
            () = ctx.cancel.cancelled() => break,
            Some(ended) = sessions.join_next(), if !sessions.is_empty() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if sessions.len() >= CONNECTIONS_MAX => drop(sessions.spawn(refuse(stream))),
                Ok((stream, _)) => drop(sessions.spawn(session::serve(stream, Arc::clone(&ctx)))),
                Err(e) => {
                    trouble.warn(e);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(DRAIN_TIMEOUT, async {
        while let Some(ended) = sessions.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        warn!(sessions = sessions.len(), "sessions did not end in time and are cut off");
    }
    sessions.shutdown().await;
}

/// A panic ends its connection only: the timeline's state has another owner.
fn report(ended: Result<(), JoinError>) {
    if let Err(e) = ended
        && e.is_panic()
    {
        error!(error = %e, "a session panicked; its connection was closed");
    }
}

async fn refuse(stream: TcpStream) {
    let limit = Duration::from_secs(1);
    let Ok(mut connection) = ServerConnection::accept(stream, &Auth::Trust, limit, |_| Vec::new()).await else {
        return;
    };
    let text = format!("too many connections: this safekeeper serves {CONNECTIONS_MAX} at once");
    let refusal = SqlError::fatal(sqlstate::CONFIGURATION_LIMIT_EXCEEDED, text);
    // The client may be gone by now; there is nobody else to tell.
    let _ = tokio::time::timeout(limit, connection.send_error(&refusal)).await;
}
