//! Attempts, one after the other: connect to the primary, prove it, lead a session until it ends, begin again.
//!
//! Everything that may pass by itself is waited out with back-off and jitter; a refusal ends the shim with its exit
//! code.

pub(crate) mod doubt;
mod patience;
pub(crate) mod proof;
pub(crate) mod survey;

use std::sync::Arc;

use proto::api::ShimPhase;
use proto::id::Term;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::context::ShimContext;
use crate::dial::upstream::{SlotState, Upstream};
use crate::session::{self, AttachedPrimary};
use crate::stop::StopCause;
use patience::Patience;

/// Tries until it is cancelled or refused; returns the exit code.
pub(crate) async fn run(ctx: &Arc<ShimContext>, cancel: &CancellationToken) -> u8 {
    let mut highest = Term::ZERO;
    let mut patience = Patience::new();
    let mut looked_again = false;
    loop {
        let began = Instant::now();
        ctx.metrics.attaches.inc();
        let elections = ctx.metrics.elections.get();
        let stop = attempt(ctx, &mut highest, cancel).await;
        let won = ctx.metrics.elections.get() - elections;
        let stop = look_again(stop, won > 0, &mut looked_again);
        if let Some(code) = stop.exit_code() {
            if matches!(stop, StopCause::Shutdown) {
                tracing::info!("stopping");
            } else {
                tracing::error!(exit_code = code, "{stop}");
                ctx.board.stopped(stop.to_string(), true);
            }
            return code;
        }
        let text = stop.to_string();
        if !ctx.outage.warn(&text) {
            tracing::debug!(reason = text, "still not attached");
        }
        ctx.board.stopped(text, false);
        let next = patience.after(&stop, began, won, Instant::now());
        if let Some(say) = next.say {
            tracing::error!("{say}");
            ctx.board.stopped(say, false);
        }
        tokio::select! {
            () = cancel.cancelled() => return node::exit::OK,
            () = sleep(next.pause.mul_f64(0.5 + fastrand::f64())) => {}
        }
    }
}

/// A primary that must be rebuilt is told so only when a second look, over a new connection and with new accounts of
/// the safekeepers, says the same.
fn look_again(stop: StopCause, elected: bool, looked_again: &mut bool) -> StopCause {
    match stop {
        StopCause::Refused(refusal) if refusal.is_destructive() && !*looked_again => {
            *looked_again = true;
            StopCause::Retry(format!("{refusal}; looking again before anything is decided"))
        }
        // Somebody being away says nothing about it.
        StopCause::Retry(_) | StopCause::PrimaryAway(_) if !elected => stop,
        stop => {
            *looked_again = false;
            stop
        }
    }
}

/// One attempt, and the session that it leads to.
async fn attempt(ctx: &Arc<ShimContext>, highest: &mut Term, cancel: &CancellationToken) -> StopCause {
    let attached = tokio::select! {
        () = cancel.cancelled() => return StopCause::Shutdown,
        attached = attach(ctx, *highest) => attached,
    };
    match attached {
        Ok(attached) => session::run(ctx, attached, highest, cancel).await,
        Err(stop) => stop,
    }
}

/// Everything that comes before a vote is asked for; changes nothing at the safekeepers.
async fn attach(ctx: &Arc<ShimContext>, min_term: Term) -> Result<AttachedPrimary, StopCause> {
    let config = &ctx.config;
    let mut upstream = Upstream::connect(config).await?;
    let primary = &upstream.primary;
    let (system_id, tli, pid) = (primary.system_id, primary.tli, upstream.pid);
    // In an outage of the quorum this happens at every attempt, and is told once.
    if !ctx.outage.is_running() {
        tracing::info!(%system_id, %tli, end = %primary.end, pid, "connected to the primary");
    }
    ctx.board.set_identity(upstream.identity());
    ctx.board.set_phase(ShimPhase::Validating);
    // Two shims on one primary: the slot is exclusive, and who does not have it must not depose who does.
    let slot = upstream.slot(&config.slot).await?;
    ctx.board.set_at_work(!matches!(slot, SlotState::Active(_)));
    if let SlotState::Active(by) = &slot {
        return Err(StopCause::Retry(format!(
            "replication slot {} is in use by walsender {by}: another shim is at work, or PostgreSQL has not noticed \
             the end of the last one yet",
            config.slot
        )));
    }
    let usable = |index| ctx.board.donors(|donors| donors.rank(index).is_some());
    let survey = survey::judge(config, &survey::ask(config).await, usable)?;
    let (mut upstream, proved) = match proof::before_vote(config, upstream, &survey).await {
        Ok(proved) => proved,
        Err(stop) => return Err(doubt::instead(ctx, stop, survey.donor).await),
    };
    if let SlotState::Missing | SlotState::Lost = slot {
        // The WAL that the quorum lacks is still there, or the stream will be refused: so the slot may be made anew
        // (H10).
        tracing::warn!(slot = config.slot, state = ?slot, "the replication slot is gone and is created anew");
        upstream.recreate_slot(&config.slot, slot == SlotState::Lost).await?;
    }
    Ok(AttachedPrimary { upstream, survey, proved, min_term })
}

#[cfg(test)]
mod tests {
    use pgformat::Lsn;

    use super::*;
    use crate::stop::AttachRefusal;

    #[test]
    fn a_rebuild_is_asked_for_after_a_second_look_only() {
        let behind = || StopCause::Refused(AttachRefusal::Behind { primary: Lsn::new(0x10), log: Lsn::new(0x20) });
        let mut again = false;
        let first = look_again(behind(), false, &mut again);
        assert_eq!(first.exit_code(), None);
        assert!(!first.to_string().contains("rebuild"), "{first}");
        assert!(matches!(
            look_again(StopCause::PrimaryAway(String::new()), false, &mut again),
            StopCause::PrimaryAway(_)
        ));
        assert_eq!(look_again(behind(), false, &mut again).exit_code(), Some(6));
        look_again(behind(), false, &mut again);
        look_again(StopCause::Retry("PostgreSQL closed the stream".to_owned()), true, &mut again);
        assert_eq!(look_again(behind(), true, &mut again).exit_code(), None, "a session came between the two looks");
        let standby = look_again(StopCause::Refused(AttachRefusal::Standby), false, &mut false);
        assert_eq!(standby.exit_code(), Some(6), "what destroys nothing is said at once");
    }
}
