//! START_PUSH_REPLICATION: a safekeeper offers WAL. It is taken only from the pusher of the choice that was written
//! last.
//!
//! Tokens are compared for equality with that choice only, never for order: revisions of an emptied broker start anew.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use libpq::{CopyReader, CopyWriter, NetError, ServerConnection};
use node::parts;
use pgformat::Lsn;
use proto::command::StartPush;
use proto::id::TenantTimelineId;
use proto::pg::{SqlError, sqlstate};
use proto::replication::{PushStart, ReceiverMessage};

use super::stream::Receiver;
use super::{StreamEnd, TAKEOVER_LIMIT, stopped_error};
use crate::choose::{Choice, Ended, Input, Mode};
use crate::ingest::Halt;
use crate::ingest::lease::IngestLease;
use crate::metrics::PushHandshake;
use crate::process::Pageserver;
use crate::timeline::stream::StreamGuard;
use crate::timeline::{Offer, Timeline};

/// Version of the handshake and of the first frame.
const VERSION: u8 = 1;
/// A safekeeper may see the choice before we hear from the broker that it took it: how long its dial waits for that.
const TOKEN_WAIT: Duration = Duration::from_secs(2);
/// Seconds of silence after which the sender shall send a keepalive.
const KEEPALIVE_S: u8 = 1;

/// Serves the stream on `connection` until it ends. A session that was refused before a stream began is given back.
///
/// # Errors
/// When the peer could not be told.
pub(crate) async fn serve(
    pageserver: Arc<Pageserver>,
    mut connection: ServerConnection,
    ttid: TenantTimelineId,
    request: StartPush,
) -> Result<Option<ServerConnection>, NetError> {
    let (timeline, choice) = match admit(&pageserver, ttid, &request).await {
        Ok(admitted) => admitted,
        Err(error) => {
            refused(&pageserver, &connection, ttid, &request, &error);
            connection.send_error(&error).await?;
            return Ok(Some(connection));
        }
    };
    timeline.tell(Input::Dialled { seq: choice.seq }).await;
    let guard = timeline.stream.announce(choice);
    let (lease, start) = match take_over(&pageserver, &timeline, &request, &guard).await {
        Ok(taken) => taken,
        Err(error) => {
            refused(&pageserver, &connection, ttid, &request, &error);
            if !guard.is_replaced() {
                timeline.tell(Input::StreamEnded { seq: choice.seq, how: Ended::Lost }).await;
            }
            connection.close_with(&error).await?;
            return Ok(None);
        }
    };
    let peer = connection.peer().to_owned();
    let (reader, writer) = match open(connection, start).await {
        Ok(halves) => halves,
        Err(e) => {
            timeline.tell(Input::StreamEnded { seq: choice.seq, how: Ended::Lost }).await;
            return Err(e);
        }
    };
    pageserver.metrics.push_handshake(PushHandshake::Accepted);
    tracing::info!(timeline = %ttid, safekeeper = %choice.safekeeper, %peer, %start, "push stream begins");
    guard.go_live(pageserver.now());
    timeline.heard(pageserver.now(), request.commit_lsn);
    timeline.tell(Input::Connected { seq: choice.seq }).await;
    let had_trouble = timeline.trouble().full.is_some();
    let receiver =
        Receiver { pageserver: pageserver.clone(), timeline: timeline.clone(), lease, reader, writer, had_trouble };
    match parts::caught(receiver.run(guard, choice.seq)).await {
        Ok(end) => log_end(&pageserver, ttid, &choice, &end),
        Err(panic) => timeline.part_panicked("push stream", &panic),
    }
    Ok(None)
}

/// Turns the session into a stream and says where it must start.
async fn open(connection: ServerConnection, start_lsn: Lsn) -> Result<(CopyReader, CopyWriter), NetError> {
    let (reader, mut writer) = connection.copy_both().await?;
    let first = PushStart { version: VERSION, start_lsn, recv_window: 0, keepalive_s: KEEPALIVE_S };
    writer.queue(&ReceiverMessage::PushStart(first).encode(), Bytes::new());
    writer.flush().await?;
    Ok((reader, writer))
}

/// Checks that the timeline is here and that the dialler is the pusher of the present choice.
async fn admit(
    pageserver: &Pageserver,
    ttid: TenantTimelineId,
    request: &StartPush,
) -> Result<(Arc<Timeline>, Choice), SqlError> {
    if request.version != u32::from(VERSION) {
        let text = format!("push protocol version {} is not supported", request.version);
        return Err(SqlError::unsupported(text).with_hint(format!("This pageserver speaks version {VERSION}.")));
    }
    let timeline = pageserver.timeline(ttid).ok_or_else(|| {
        SqlError::timeline_not_found(ttid).with_hint("Attach it with POST /v1/tenant/T/timeline/L/attach.")
    })?;
    if let Some(why) = timeline.trouble().stopped {
        return Err(stopped_error(&why));
    }
    let choice = check_token(pageserver, &timeline, request).await?;
    Ok((timeline, choice))
}

/// Waits at most [`TOKEN_WAIT`] for a token that is on its way, as long as the rest fits.
async fn check_token(pageserver: &Pageserver, timeline: &Timeline, request: &StartPush) -> Result<Choice, SqlError> {
    let mut offers = timeline.offers();
    let mut renewals = pageserver.session.renewals();
    let deadline = tokio::time::Instant::now() + TOKEN_WAIT;
    loop {
        let offer = offers.borrow_and_update().clone();
        renewals.borrow_and_update();
        let Some(offer) = offer.filter(|o| is_addressed(o, request)) else { return Err(stale(request)) };
        if is_token(pageserver, &offer, request) {
            return Ok(offer.choice);
        }
        tokio::select! {
            Ok(()) = offers.changed() => {}
            Ok(()) = renewals.changed() => {}
            () = tokio::time::sleep_until(deadline) => return Err(stale(request)),
            else => return Err(stale(request)),
        }
    }
}

fn is_addressed(offer: &Offer, request: &StartPush) -> bool {
    offer.choice.mode == Mode::Push
        && offer.choice.safekeeper == request.safekeeper_id
        && !offer.nonce.is_empty()
        && offer.nonce == request.nonce
}

/// Whether the token is that of the last put of the choice's key: the one that we made, or one that the session made
/// after the broker had lost it.
fn is_token(pageserver: &Pageserver, offer: &Offer, request: &StartPush) -> bool {
    let presented = i64::try_from(request.choice).ok();
    presented.is_some() && (offer.token == presented || pageserver.session.revision_of(&offer.key) == presented)
}

/// Waits until the stream before has let go, checks that this choice still stands, and says where the stream starts.
async fn take_over(
    pageserver: &Pageserver,
    timeline: &Timeline,
    request: &StartPush,
    guard: &StreamGuard,
) -> Result<(IngestLease, Lsn), SqlError> {
    let mut lease = tokio::select! {
        lease = timeline.slot.take() => lease,
        () = guard.cancelled().cancelled() => return Err(stale(request)),
        () = pageserver.shutdown.cancelled() => {
            return Err(SqlError::fatal(sqlstate::ADMIN_SHUTDOWN, "the pageserver is being stopped"));
        }
        () = tokio::time::sleep(TAKEOVER_LIMIT) => {
            let text = format!("the stream before did not let go within {} s", TAKEOVER_LIMIT.as_secs());
            return Err(SqlError::new(sqlstate::CANNOT_CONNECT_NOW, text));
        }
    };
    let still = timeline.offer().is_some_and(|o| is_addressed(&o, request) && is_token(pageserver, &o, request));
    if !still {
        return Err(stale(request));
    }
    let start = lease.begin().await.map_err(|halt| {
        let why = halt.to_string();
        match halt {
            Halt::ReadAgain(_) => return SqlError::new(sqlstate::IO_ERROR, why),
            Halt::Stopped(_) => timeline.set_stopped(&why),
            Halt::ImportAgain(_) => {}
        }
        stopped_error(&why)
    })?;
    timeline.set_position(lease.position());
    Ok((lease, start))
}

fn stale(request: &StartPush) -> SqlError {
    let text =
        format!("stale choice: safekeeper {} with token {} was not chosen", request.safekeeper_id, request.choice);
    SqlError::new(sqlstate::STALE_CHOICE, text).with_hint("Wait for a new key below push/ on the broker.")
}

fn refused(
    pageserver: &Pageserver,
    c: &ServerConnection,
    ttid: TenantTimelineId,
    request: &StartPush,
    error: &SqlError,
) {
    let is_stale = error.code == sqlstate::STALE_CHOICE;
    pageserver.metrics.push_handshake(if is_stale { PushHandshake::Stale } else { PushHandshake::Refused });
    let (peer, safekeeper) = (c.peer(), request.safekeeper_id);
    if is_stale {
        tracing::info!(timeline = %ttid, %safekeeper, %peer, "push refused: {error}");
    } else {
        pageserver
            .refusals
            .warn(&error.code, format!("push of timeline {ttid} by safekeeper {safekeeper} at {peer}: {error}"));
    }
}

/// One line per stream, with the level that its end deserves.
pub(super) fn log_end(pageserver: &Pageserver, ttid: TenantTimelineId, choice: &Choice, end: &StreamEnd) {
    let (safekeeper, mode) = (choice.safekeeper, choice.mode.as_str());
    match end {
        StreamEnd::Stopped(_) => tracing::error!(timeline = %ttid, %safekeeper, mode, "WAL stream ended: {end}"),
        StreamEnd::BadWal(_) | StreamEnd::NotContiguous(_) | StreamEnd::Malformed(_) | StreamEnd::ReadAgain(_) => {
            // From a damaged log it comes again with every attempt.
            pageserver.stream_ends.warn(&format!("timeline {ttid}, safekeeper {safekeeper}"), end);
        }
        _ => tracing::info!(timeline = %ttid, %safekeeper, mode, "WAL stream ended: {end}"),
    }
}
