//! Accepts libpq connections: one task per connection, a bound on their number, an orderly end.

use std::sync::Arc;
use std::time::Duration;

use proto::net::{Auth, ServerConnection, SqlError, sqlstate};
use proto::runtime::RepeatLog;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};

use super::session;
use crate::node::Node;

/// The most connections at once: one pusher per timeline, its successor, and some people. Each pusher may hold two
/// batches of `PENDING_BYTES_MAX`.
const CONNECTIONS_MAX: usize = 4096;
/// How long streams get at shutdown to bring what they hold to disk.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// Pause after a failed accept (no file descriptors left): trying again at once would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts until the server stops, then waits for the sessions.
pub(crate) async fn run(listener: TcpListener, node: Arc<Node>) {
    let mut sessions = JoinSet::new();
    let trouble = RepeatLog::events("a connection could not be accepted");
    loop {
        tokio::select! {
            () = node.shutdown.cancelled() => break,
            Some(ended) = sessions.join_next(), if !sessions.is_empty() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if sessions.len() >= CONNECTIONS_MAX => drop(sessions.spawn(refuse(stream))),
                Ok((stream, _)) => drop(sessions.spawn(session::serve(stream, node.clone()))),
                Err(e) => {
                    trouble.warn(e);
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(DRAIN_LIMIT, async {
        while let Some(ended) = sessions.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        tracing::warn!(sessions = sessions.len(), "sessions did not end in time and are cut off");
    }
    sessions.shutdown().await;
}

/// A panic ends its connection only: the timeline's writer has gone back to its slot.
fn report(ended: Result<(), JoinError>) {
    if let Err(e) = ended
        && e.is_panic()
    {
        tracing::error!("a session panicked; its connection was closed: {e}");
    }
}

async fn refuse(stream: TcpStream) {
    let limit = Duration::from_secs(1);
    let Ok(connection) = ServerConnection::accept(stream, &Auth::Trust, limit, |_| Vec::new()).await else {
        return;
    };
    let text = format!("too many connections: this pageserver serves {CONNECTIONS_MAX} at once");
    let refusal = SqlError::fatal(sqlstate::CONFIGURATION_LIMIT_EXCEEDED, text);
    // The client may be gone by now; there is nobody else to tell.
    let _ = tokio::time::timeout(limit, connection.close_with(&refusal)).await;
}
