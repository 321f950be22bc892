//! A pagestream: requests for pages on a copy stream, replies in the order of requests.
//!
//! Whatever requests were received already are answered together and flushed together; nobody waits for more of them.
//! Memory per session is bounded by [`BATCH_MAX`] replies: the next requests are read when those were handed to the
//! socket.

use std::sync::Arc;
use std::time::Duration;

use libpq::{CopyEvent, CopyReader, CopyWriter, NetError, ServerConnection};
use pgformat::Lsn;
use proto::pagestream::{PagestreamVersion, Reply, Request};
use proto::pg::{SqlError, sqlstate};
use tokio_util::sync::CancellationToken;

use super::pace::{Awake, Pace};
use crate::metrics::Metrics;
use crate::read::{PageReader, ReadError, ReadPoint};

/// Requests answered together: enough that a system call does not count, few enough that the first is not kept
/// waiting by the last, and that replies (8 KiB each, 256 KiB for a segment) stay small.
const BATCH_MAX: usize = 32;

/// What a session needs beside its connection.
pub(super) struct PageSession {
    /// The timeline whose pages are asked for.
    pub(super) reader: PageReader,
    /// Version of the messages.
    pub(super) version: PagestreamVersion,
    /// How long WAL is waited for.
    pub(super) wait_limit: Duration,
    /// Whether quick clients are waited for awake.
    pub(super) awake: Arc<Awake>,
    /// This process's metrics.
    pub(super) metrics: Arc<Metrics>,
    /// Cancelled when the process shall stop.
    pub(super) shutdown: CancellationToken,
}

/// Why no further requests are read.
enum PageSessionEnd {
    /// The client is done, or gave up; the session goes on with commands.
    Done,
    /// The client is gone.
    Gone,
    /// The client cannot be understood.
    Malformed(SqlError),
    /// The process stops.
    Shutdown,
}

impl PageSession {
    /// Serves requests until the client is done; gives the session back then.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(super) async fn serve(self, connection: ServerConnection) -> Result<Option<ServerConnection>, NetError> {
        let (mut incoming, mut outgoing) = connection.copy_both().await?;
        let mut pace = Pace::new(self.awake.clone());
        loop {
            let (requests, mut end) = self.receive(&mut incoming, &mut pace).await?;
            if !self.answer(&requests, &mut outgoing).await? {
                end = Some(PageSessionEnd::Shutdown);
            }
            outgoing.flush().await?;
            pace.answered();
            match end {
                None => {}
                Some(PageSessionEnd::Gone) => return Ok(None),
                Some(PageSessionEnd::Done) => {
                    return ServerConnection::after_copy(incoming, outgoing, "COPY 0").await.map(Some);
                }
                Some(PageSessionEnd::Malformed(error)) => {
                    tracing::warn!(peer = incoming.peer(), "pagestream ended: {error}");
                    return outgoing.close_with(incoming, &error).await.map(|()| None);
                }
                Some(PageSessionEnd::Shutdown) => {
                    let error = SqlError::fatal(sqlstate::ADMIN_SHUTDOWN, "the pageserver is being stopped");
                    return outgoing.close_with(incoming, &error).await.map(|()| None);
                }
            }
        }
    }

    /// Waits for a request, and takes those along that are here already.
    async fn receive(
        &self,
        incoming: &mut CopyReader,
        pace: &mut Pace,
    ) -> Result<(Vec<Request>, Option<PageSessionEnd>), NetError> {
        let mut requests = Vec::new();
        let mut event = tokio::select! {
            event = pace.next(incoming) => event?,
            () = self.shutdown.cancelled() => return Ok((requests, Some(PageSessionEnd::Shutdown))),
        };
        loop {
            match event {
                CopyEvent::Data(bytes) => match Request::decode(self.version, bytes) {
                    Ok(request) => requests.push(request),
                    Err(e) => {
                        let error = SqlError::protocol_violation(e.to_string());
                        return Ok((requests, Some(PageSessionEnd::Malformed(error))));
                    }
                },
                CopyEvent::Done => return Ok((requests, Some(PageSessionEnd::Done))),
                CopyEvent::Fail(text) => {
                    tracing::info!(peer = incoming.peer(), "pagestream ended by the client: {text}");
                    return Ok((requests, Some(PageSessionEnd::Gone)));
                }
                CopyEvent::Closed | CopyEvent::Error(_) => return Ok((requests, Some(PageSessionEnd::Gone))),
            }
            if requests.len() == BATCH_MAX {
                return Ok((requests, None));
            }
            match incoming.try_next()? {
                Some(next) => event = next,
                None => return Ok((requests, None)),
            }
        }
    }

    /// Queues the reply to each request. Before WAL has to be waited for, what is known already is sent. Says whether
    /// all were answered: not when the process stops meanwhile.
    async fn answer(&self, requests: &[Request], outgoing: &mut CopyWriter) -> Result<bool, NetError> {
        let mut ready: Vec<(&Request, Result<Lsn, ReadError>)> = Vec::with_capacity(requests.len());
        for request in requests {
            let at = ReadPoint { lsn: request.lsn, not_modified_since: request.not_modified_since };
            let lsn = match self.reader.try_resolve(at) {
                Ok(Some(lsn)) => Ok(lsn),
                Err(e) => Err(e),
                Ok(None) => {
                    self.reply(std::mem::take(&mut ready), outgoing).await;
                    outgoing.flush().await?;
                    tokio::select! {
                        lsn = self.reader.resolve(at, self.wait_limit) => lsn,
                        () = self.shutdown.cancelled() => return Ok(false),
                    }
                }
            };
            ready.push((request, lsn));
        }
        self.reply(ready, outgoing).await;
        Ok(true)
    }

    async fn reply(&self, ready: Vec<(&Request, Result<Lsn, ReadError>)>, outgoing: &mut CopyWriter) {
        let asks = ready.iter().filter_map(|(request, lsn)| Some((request.ask, *lsn.as_ref().ok()?))).collect();
        let mut answers = self.reader.batch(asks).await.into_iter();
        let mut answered = 0;
        for (request, lsn) in ready {
            let answer = lsn.and_then(|_| answers.next().expect("each request with an LSN has an answer"));
            let reply = match answer {
                Ok(answer) => {
                    answered += 1;
                    answer.into_reply()
                }
                Err(error) => {
                    let error = error.to_sql();
                    tracing::debug!(ask = ?request.ask, lsn = %request.lsn, "{error}");
                    self.metrics.read_refused(&error.code);
                    Reply::Error(error.to_copy_fail())
                }
            };
            let (head, pages) = reply.encode(self.version, request);
            outgoing.queue(&head, pages);
        }
        self.metrics.reads(answered);
    }
}
