//! One push: dial, stream, back off, again, until the choice is gone.
//!
//! A key that is gone ends no stream: the broker may have lost it with a lease that could not be kept alive, and the
//! pageserver ends what it does not want. It only ends the dialling; so a push whose key is gone ends with its stream.
//! A choice that was only put again (same nonce and number) leaves the running stream alone; its newer token is used
//! when the next dial is due. A refusal as stale is not repeated at once: only a new key makes it right.

use std::sync::Arc;
use std::time::Duration;

use libpq::{CopyEvent, CopyReader, CopyWriter, NetError};
use node::RepeatLog;
use proto::api::{StreamState, shown};
use proto::id::TenantTimelineId;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span, warn};

use super::backoff::DialBackoff;
use super::desired::PushChoice;
use super::dial::{self, DialError};
use crate::context::SafekeeperContext;
use crate::net::send::{self, Outlet, SendEnd};
use crate::net::streams::{OutgoingStream, StreamKind};
use crate::timeline::{ReadMode, TimelineHandle};

/// After a stale refusal the key normally changes; this is for a pageserver that refused before it knew its own put.
const STALE_RETRY: Duration = Duration::from_secs(5);

/// A stream that lasts so long ends an outage; one that breaks off again and again is one outage.
const LASTED: Duration = Duration::from_secs(5);

/// Limit for the last words on a connection.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

/// What the broker shows of one choice.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct WantedPush {
    /// As it was shown last.
    pub(super) choice: PushChoice,
    /// The key is not there any more.
    pub(super) gone: bool,
}

/// How an attempt ended.
enum PushOutcome {
    /// The server stops.
    Stopped,
    /// Another choice took this one's place, or nothing is streamed yet and the key is gone.
    NewChoice,
    /// The pageserver has another choice.
    Stale(String),
    /// Any other end: refused, unreachable, or broken off.
    Broken { progress: bool, reason: String },
}

/// Pushes until `stop`, or until the key and the stream are gone.
pub(super) async fn run(
    ctx: Arc<SafekeeperContext>,
    choice: watch::Receiver<WantedPush>,
    stop: CancellationToken,
    first_pause: Duration,
) {
    let (ttid, pageserver) = {
        let c = &choice.borrow().choice;
        (c.ttid, c.record.pageserver_id)
    };
    let span = info_span!("push", %ttid, %pageserver);
    attempts(ctx, choice, stop, first_pause).instrument(span).await;
}

async fn attempts(
    ctx: Arc<SafekeeperContext>,
    mut choice: watch::Receiver<WantedPush>,
    stop: CancellationToken,
    first_pause: Duration,
) {
    if stop.run_until_cancelled(tokio::time::sleep(first_pause)).await.is_none() {
        return;
    }
    let mut backoff = DialBackoff::new();
    let first = choice.borrow().choice.clone();
    let stream = OutgoingStream::new(
        first.ttid,
        StreamKind::Push,
        format!("pageserver-{}", first.record.pageserver_id),
        Some(first.record.pageserver_id),
    );
    let stream = ctx.streams.register(stream);
    // A pageserver that is down for an hour is a line a minute, not one for each attempt.
    let outage =
        RepeatLog::outage(format!("push to pageserver {} broke off, trying again", first.record.pageserver_id));
    loop {
        let WantedPush { choice: current, gone } = choice.borrow_and_update().clone();
        if gone {
            return;
        }
        stream.set_token(current.token);
        stream.set_state(StreamState::Connecting);
        ctx.metrics.push_dials.inc();
        let pause = match attempt(&ctx, &current, &mut choice, &stop, (&stream, &outage)).await {
            PushOutcome::Stopped => return,
            PushOutcome::NewChoice => {
                backoff.reset();
                continue;
            }
            // The key was put again while the pageserver was asked: its newer token may be the right one.
            PushOutcome::Stale(_) if choice.borrow().choice.token != current.token => continue,
            PushOutcome::Stale(reason) => {
                info!(
                    reason,
                    token = current.token,
                    "the pageserver has another choice: waiting for the key to change"
                );
                stream.set_state(StreamState::Stale);
                STALE_RETRY
            }
            PushOutcome::Broken { progress, reason } => {
                ctx.metrics.push_failures.inc();
                if progress {
                    backoff.reset();
                }
                outage.warn(&reason);
                stream.set_state(StreamState::Backoff);
                backoff.pause(fastrand::f64())
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            changed = choice.changed() => {
                if changed.is_err() {
                    return;
                }
                backoff.reset();
            }
        }
    }
}

async fn attempt(
    ctx: &Arc<SafekeeperContext>,
    current: &PushChoice,
    choice: &mut watch::Receiver<WantedPush>,
    stop: &CancellationToken,
    (stream, outage): (&OutgoingStream, &RepeatLog),
) -> PushOutcome {
    let handle = tokio::select! {
        handle = appeared(ctx, current.ttid) => handle,
        () = revoked(current, choice, stream) => return PushOutcome::NewChoice,
        () = stop.cancelled() => return PushOutcome::Stopped,
    };
    let dials = ctx.pushes.dials(&current.record.pageserver_pg);
    let opening = async {
        // Never closed: the board keeps it.
        let _permit = dials.acquire().await;
        let now = handle.positions().borrow().clone();
        dial::open(current, ctx.config.node.id, now.term, shown(now.commit_lsn)).await
    };
    let opened = tokio::select! {
        opened = opening => opened,
        () = revoked(current, choice, stream) => return PushOutcome::NewChoice,
        () = stop.cancelled() => return PushOutcome::Stopped,
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(DialError::Stale(reason)) => return PushOutcome::Stale(reason),
        Err(DialError::Failed(reason)) => return PushOutcome::Broken { progress: false, reason },
    };
    let start = opened.start.start_lsn;
    let wal = match handle.wal_reader(ReadMode::Committed, start) {
        Ok(wal) => wal,
        Err(e) => return finish(SendEnd::Failed(send::read_error(&e)), opened.reader, opened.writer, false).await,
    };
    info!(start_lsn = %start, address = current.record.pageserver_pg, token = current.token, "pushing");
    stream.set_state(StreamState::Streaming);
    let _open = ctx.metrics.open(StreamKind::Push.name());
    let outlet = Outlet {
        handle,
        stream,
        metrics: &ctx.metrics,
        window: u64::from(opened.start.recv_window),
        keepalive: keepalive_of(opened.start.keepalive_s),
    };
    let lasted = async {
        tokio::time::sleep(LASTED).await;
        outage.over();
        std::future::pending::<bool>().await
    };
    let ended = async {
        tokio::select! {
            () = replaced(current, choice, stream) => false,
            () = stop.cancelled() => true,
            never = lasted => never,
        }
    };
    let (end, reader, writer) = send::run(outlet, wal, opened.reader, opened.writer, ended).await;
    let progress = stream.received().is_some_and(|r| r > start);
    finish(end, reader, writer, progress).await
}

/// The timeline, as soon as it is here: a choice may come before the creation.
async fn appeared(ctx: &SafekeeperContext, ttid: TenantTimelineId) -> TimelineHandle {
    let mut changes = ctx.timelines.changes();
    let mut told = false;
    loop {
        changes.borrow_and_update();
        if let Some(handle) = ctx.timelines.get(ttid) {
            return handle;
        }
        if !told {
            warn!("chosen to push a timeline that does not exist here");
            told = true;
        }
        if changes.changed().await.is_err() {
            // The server stops, and says so elsewhere.
            std::future::pending::<()>().await;
        }
    }
}

/// Ends the stream on the wire and says what that means for the next attempt.
async fn finish(end: SendEnd<bool>, reader: CopyReader, mut writer: CopyWriter, progress: bool) -> PushOutcome {
    let outcome = match end {
        SendEnd::Asked(true) => PushOutcome::Stopped,
        SendEnd::Asked(false) => PushOutcome::NewChoice,
        SendEnd::PeerError(e) if dial::is_stale(&e) => return PushOutcome::Stale(e.to_string()),
        SendEnd::PeerError(e) => return PushOutcome::Broken { progress, reason: e.to_string() },
        SendEnd::PeerDone => PushOutcome::Broken { progress, reason: "the pageserver ended the stream".to_owned() },
        SendEnd::Gone(reason) => return PushOutcome::Broken { progress, reason },
        SendEnd::Failed(error) => {
            // It may not read any more; then there is nobody to tell.
            let _ = timeout(FAREWELL_MAX, writer.close_with(reader, &error)).await;
            return PushOutcome::Broken { progress, reason: error.to_string() };
        }
    };
    writer.queue_done();
    let _ = timeout(FAREWELL_MAX, part(reader, writer)).await;
    outcome
}

/// Sends what is queued and closes, then waits for the pageserver to do the same: what it says meanwhile would
/// otherwise reset the connection, and CopyDone could be lost.
async fn part(mut reader: CopyReader, writer: CopyWriter) -> Result<(), NetError> {
    writer.shutdown().await?;
    while !matches!(reader.next().await?, CopyEvent::Closed | CopyEvent::Done | CopyEvent::Error(_)) {}
    Ok(())
}

/// Returns when the choice is another one; a key that was only put again gives its newer token for display.
async fn replaced(current: &PushChoice, choice: &mut watch::Receiver<WantedPush>, stream: &OutgoingStream) {
    while choice.changed().await.is_ok() {
        let WantedPush { choice: newer, gone } = choice.borrow_and_update().clone();
        if !current.same_stream(&newer) {
            return;
        }
        if gone {
            info!("the choice is gone from the broker: the stream goes on, and is not dialled again");
        }
        stream.set_token(newer.token);
    }
    // The reconciler dropped this push: `stop` says so too.
    std::future::pending().await
}

/// Returns when the choice is another one or gone: before there is a stream both mean that there shall be none.
async fn revoked(current: &PushChoice, choice: &mut watch::Receiver<WantedPush>, stream: &OutgoingStream) {
    let mut shown = choice.clone();
    let gone = async {
        if shown.wait_for(|wanted| wanted.gone).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = replaced(current, choice, stream) => {}
        () = gone => {}
    }
}

fn keepalive_of(seconds: u8) -> Duration {
    if seconds == 0 { send::KEEPALIVE } else { Duration::from_secs(u64::from(seconds)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pageserver_may_ask_for_its_own_silence() {
        assert_eq!(keepalive_of(0), send::KEEPALIVE);
        assert_eq!(keepalive_of(10), Duration::from_secs(10));
    }
}
