//! Opens a push stream: dial, START_PUSH_REPLICATION, wait for the frame that tells where to start.

use std::time::Duration;

use libpq::{ClientConnection, ConnectOptions, CopyEvent, CopyReader, CopyWriter, NetError};
use pgformat::Lsn;
use proto::id::{NodeId, Term};
use proto::pg::{SqlError, sqlstate};
use proto::replication::{PushStart, ReceiverMessage};

use super::desired::PushChoice;

/// Limit for connecting, and again for the pageserver's first frame.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a pageserver refused because it has another choice by now, or a newer one took over.
pub(crate) fn is_stale(error: &SqlError) -> bool {
    [sqlstate::STALE_CHOICE, sqlstate::PREEMPTED].contains(&error.code.as_str())
}

/// Why no stream came about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The pageserver has another choice by now: only a new key helps.
    #[error("{0}")]
    Stale(String),
    /// Anything that may pass.
    #[error("{0}")]
    Failed(String),
}

impl From<NetError> for DialError {
    fn from(e: NetError) -> DialError {
        if e.server_error().is_some_and(is_stale) {
            DialError::Stale(e.to_string())
        } else {
            DialError::Failed(e.to_string())
        }
    }
}

/// A stream that may be written to.
pub(crate) struct OpenedPush {
    /// What the pageserver wants.
    pub(crate) start: PushStart,
    /// What the pageserver says from here on.
    pub(crate) reader: CopyReader,
    /// Where the WAL goes out.
    pub(crate) writer: CopyWriter,
}

/// Dials the pageserver of `choice` as safekeeper `me`.
pub(crate) async fn open(choice: &PushChoice, me: NodeId, term: Term, commit: Lsn) -> Result<OpenedPush, DialError> {
    let options = connect_options(choice, me)?;
    let connection = ClientConnection::dial(&options).await?;
    let (mut reader, writer) = connection.copy_both(&command(choice, me, term, commit)).await?;
    let first = tokio::time::timeout(DIAL_TIMEOUT, reader.next()).await;
    let first = first.map_err(|_| DialError::Failed(format!("no first frame within {DIAL_TIMEOUT:?}")))??;
    let start = match first {
        CopyEvent::Data(bytes) => match ReceiverMessage::decode(bytes) {
            Ok(ReceiverMessage::PushStart(start)) => start,
            Ok(other) => return Err(DialError::Failed(format!("expected the start frame, received {other:?}"))),
            Err(e) => return Err(DialError::Failed(e.to_string())),
        },
        CopyEvent::Error(e) if is_stale(&e) => return Err(DialError::Stale(e.to_string())),
        other => return Err(DialError::Failed(format!("expected the start frame, received {other:?}"))),
    };
    if start.version != 1 {
        return Err(DialError::Failed(format!("version {} of the start frame is not known here", start.version)));
    }
    Ok(OpenedPush { start, reader, writer })
}

fn connect_options(choice: &PushChoice, me: NodeId) -> Result<ConnectOptions, DialError> {
    let address = &choice.record.pageserver_pg;
    let bad = || DialError::Failed(format!("the choice names the address {address:?}: expected host:port"));
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    Ok(ConnectOptions {
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port: port.parse().map_err(|_| bad())?,
        user: "safekeeper".to_owned(),
        application_name: format!("safekeeper-{me}"),
        options: vec![
            ("tenant_id".to_owned(), choice.ttid.tenant_id.to_string()),
            ("timeline_id".to_owned(), choice.ttid.timeline_id.to_string()),
        ],
        timeout: DIAL_TIMEOUT,
        ..ConnectOptions::default()
    })
}

fn command(choice: &PushChoice, me: NodeId, term: Term, commit: Lsn) -> String {
    // The nonce comes from the broker, so it is quoted like anything from outside.
    let nonce = choice.record.nonce.replace('\'', "''");
    let token = choice.token;
    format!(
        "START_PUSH_REPLICATION (proto_version '1', sk_id '{me}', choice '{token}', nonce '{nonce}', term '{term}', \
         commit_lsn '{commit}')"
    )
}
