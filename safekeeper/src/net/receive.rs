//! START_WAL_PUSH: carries messages between a proposer's socket and the acceptor.
//!
//! The reading half decodes and hands over, waiting while too many bytes are queued there; that is the back-pressure
//! the proposer feels. The writing half sends what the acceptor says. Both are polled independently of each other.

use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use libpq::{CopyEvent, CopyReader, CopyWriter, NetError};
use proto::command::StartWalPush;
use proto::consensus::{ProposerMessage, ProtoVersion};
use proto::id::{Generation, TenantTimelineId};
use proto::pg::{SqlError, sqlstate};
use tokio::time::timeout;

use crate::context::SafekeeperContext;
use crate::timeline::{CreateError, PortEvent, PortReceiver, PortSender, ProposerPort};

/// A client that says nothing for so long is gone: half-open sockets would stay for ever otherwise.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(600);

/// Answers gathered before the socket is written, at most; each is a few hundred bytes.
const ANSWERS_MAX: usize = 64;

/// How a proposer's stream ended.
#[derive(Debug)]
pub(super) enum ProposerEnded {
    /// The proposer went away.
    Gone(String),
    /// It was told this and the connection is to be closed.
    Refused(SqlError),
}

/// Carries messages until one side ends it.
pub(super) async fn run(
    ctx: &SafekeeperContext,
    port: ProposerPort,
    first: Option<ProposerMessage>,
    version: ProtoVersion,
    reader: &mut CopyReader,
    writer: &mut CopyWriter,
) -> ProposerEnded {
    let (mut to_acceptor, mut from_acceptor) = port.split();
    if let Some(first) = first {
        // A port that is closed already says why through its other half.
        let _ = to_acceptor.send(first).await;
    }
    let reading = async {
        match read(ctx, version, reader, &mut to_acceptor).await {
            Some(ended) => ended,
            // The acceptor closed the port: the writing half learns the reason.
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = reading => ended,
        ended = write(version, &mut from_acceptor, writer) => ended,
    }
}

/// `None`: the acceptor takes no more.
async fn read(
    ctx: &SafekeeperContext,
    version: ProtoVersion,
    reader: &mut CopyReader,
    to_acceptor: &mut PortSender,
) -> Option<ProposerEnded> {
    loop {
        match next_message(version, reader).await {
            Ok(message) => {
                if let ProposerMessage::Append(append) = &message {
                    ctx.metrics.received_bytes.inc_by(append.wal.len() as u64);
                }
                to_acceptor.send(message).await.ok()?;
            }
            Err(ended) => return Some(ended),
        }
    }
}

/// The proposer's next message.
pub(super) async fn next_message(
    version: ProtoVersion,
    reader: &mut CopyReader,
) -> Result<ProposerMessage, ProposerEnded> {
    let event = timeout(IDLE_MAX, reader.next()).await;
    let event = event.map_err(|_| ProposerEnded::Gone(format!("nothing came for {IDLE_MAX:?}")))?;
    let bytes = match event {
        Ok(CopyEvent::Data(bytes)) => bytes,
        Ok(CopyEvent::Done | CopyEvent::Closed) => {
            return Err(ProposerEnded::Gone("it closed the connection".to_owned()));
        }
        Ok(CopyEvent::Fail(text)) => return Err(ProposerEnded::Gone(text)),
        Ok(CopyEvent::Error(e)) => return Err(ProposerEnded::Gone(e.to_string())),
        Err(NetError::Protocol { problem, .. }) => {
            return Err(ProposerEnded::Refused(SqlError::protocol_violation(problem)));
        }
        Err(e) => return Err(ProposerEnded::Gone(e.to_string())),
    };
    ProposerMessage::decode(version, bytes)
        .map_err(|e| ProposerEnded::Refused(SqlError::protocol_violation(e.to_string())))
}

async fn write(version: ProtoVersion, from_acceptor: &mut PortReceiver, writer: &mut CopyWriter) -> ProposerEnded {
    loop {
        let Some(event) = from_acceptor.recv().await else {
            return ProposerEnded::Refused(SqlError::fatal(sqlstate::ADMIN_SHUTDOWN, "the timeline is shut down"));
        };
        if let Err(e) = queue(version, event, writer) {
            return e;
        }
        for _ in 1..ANSWERS_MAX {
            match from_acceptor.recv().now_or_never() {
                Some(Some(event)) => {
                    if let Err(e) = queue(version, event, writer) {
                        return e;
                    }
                }
                Some(None) | None => break,
            }
        }
        if let Err(e) = writer.flush().await {
            return ProposerEnded::Gone(e.to_string());
        }
    }
}

fn queue(version: ProtoVersion, event: PortEvent, writer: &mut CopyWriter) -> Result<(), ProposerEnded> {
    match event {
        PortEvent::Message(message) => {
            writer.queue(&message.encode(version), Bytes::new());
            Ok(())
        }
        PortEvent::Close(error) => Err(ProposerEnded::Refused(error)),
    }
}

/// A connection to the acceptor of a timeline that is not here yet: made from the greeting of a walproposer of
/// generation 0, when this server and the command allow it.
pub(super) async fn create_implicitly(
    ctx: &SafekeeperContext,
    ttid: TenantTimelineId,
    command: &StartWalPush,
    first: &ProposerMessage,
) -> Result<ProposerPort, SqlError> {
    let ProposerMessage::Greeting(greeting) = first else {
        return Err(SqlError::protocol_violation("the first message must be a greeting"));
    };
    if greeting.ttid != ttid {
        let text = format!("the greeting names timeline {}, the connection's options name {ttid}", greeting.ttid);
        return Err(SqlError::new(sqlstate::FOREIGN_CLUSTER, text));
    }
    if greeting.mconf.generation != Generation::NONE {
        return Err(missing(ttid));
    }
    let handle = match ctx.timelines.for_greeting(greeting).await {
        Ok(Some(handle)) => handle,
        Ok(None) => return Err(missing(ttid)),
        Err(e @ CreateError::NoRoom { .. }) => return Err(SqlError::new(sqlstate::DISK_FULL, e.to_string())),
        Err(e @ CreateError::Io { .. }) => return Err(SqlError::new(sqlstate::IO_ERROR, e.to_string())),
        Err(e) => return Err(SqlError::new(sqlstate::FOREIGN_CLUSTER, e.to_string())),
    };
    handle.connect_proposer(command).map_err(|refused| refused.0)
}

/// A timeline that is not here, with what to do about it.
pub(super) fn missing(ttid: TenantTimelineId) -> SqlError {
    SqlError::timeline_not_found(ttid).with_hint(
        "Create it on every member with 'walfabric timeline create'. A safekeeper that had it and lost its data must \
         not take part again before it was filled from the others.",
    )
}
