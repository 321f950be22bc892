//! Attempts, one after the other: connect to the primary, prove it, lead a session until it ends, begin again.
//!
//! Everything that may pass by itself is waited out with back-off and jitter; a refusal ends the shim with its exit
//! code.

use std::sync::Arc;

use proto::id::Term;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::driver::{self, Attached};
use crate::patience::Patience;
use crate::shared::{Identity, Phase};
use crate::stop::Stop;
use crate::upstream::{SlotState, Upstream};
use crate::{Context, proof, survey};

/// Tries until it is cancelled or refused; returns the exit code.
pub(crate) async fn run(ctx: &Arc<Context>, cancel: &CancellationToken) -> u8 {
    let mut highest = Term::ZERO;
    let mut patience = Patience::new();
    loop {
        let began = Instant::now();
        ctx.metrics.attaches.inc();
        let elections = ctx.metrics.elections.get();
        let stop = attempt(ctx, &mut highest, cancel).await;
        if let Some(code) = stop.exit_code() {
            if matches!(stop, Stop::Shutdown) {
                tracing::info!("stopping");
            } else {
                tracing::error!(exit_code = code, "{stop}");
                ctx.shared.stopped(stop.to_string(), true);
            }
            return code;
        }
        let text = stop.to_string();
        if !ctx.outage.warn(&text) {
            tracing::debug!(reason = text, "still not attached");
        }
        ctx.shared.stopped(text, false);
        let won = ctx.metrics.elections.get() - elections;
        let next = patience.after(&stop, began, won, Instant::now());
        if let Some(say) = next.say {
            tracing::error!("{say}");
            ctx.shared.stopped(say, false);
        }
        tokio::select! {
            () = cancel.cancelled() => return proto::runtime::exit::OK,
            () = sleep(next.pause.mul_f64(0.5 + fastrand::f64())) => {}
        }
    }
}

/// One attempt, and the session that it leads to.
async fn attempt(ctx: &Arc<Context>, highest: &mut Term, cancel: &CancellationToken) -> Stop {
    let attached = tokio::select! {
        () = cancel.cancelled() => return Stop::Shutdown,
        attached = attach(ctx, *highest) => attached,
    };
    match attached {
        Ok(attached) => driver::run(ctx, attached, highest, cancel).await,
        Err(stop) => stop,
    }
}

/// Everything that comes before a vote is asked for; changes nothing at the safekeepers.
async fn attach(ctx: &Arc<Context>, min_term: Term) -> Result<Attached, Stop> {
    let config = &ctx.config;
    let mut upstream = Upstream::connect(config).await?;
    let primary = &upstream.primary;
    let (system_id, tli, pid) = (primary.system_id, primary.tli, upstream.pid);
    // In an outage of the quorum this happens at every attempt, and is told once.
    if !ctx.outage.is_running() {
        tracing::info!(%system_id, %tli, end = %primary.end, pid, "connected to the primary");
    }
    ctx.shared.set_identity(Identity { system_id, tli, pid });
    ctx.shared.set_phase(Phase::Validating);
    // Two shims on one primary: the slot is exclusive, and who does not have it must not depose who does.
    let slot = upstream.slot(&config.slot).await?;
    ctx.shared.set_at_work(!matches!(slot, SlotState::Active(_)));
    if let SlotState::Active(by) = &slot {
        return Err(Stop::Retry(format!(
            "replication slot {} is in use by walsender {by}: another shim is at work, or PostgreSQL has not noticed \
             the end of the last one yet",
            config.slot
        )));
    }
    let survey = survey::judge(config, &survey::ask(config).await)?;
    let (mut upstream, proved) = proof::before_vote(config, upstream, &survey).await?;
    if let SlotState::Missing | SlotState::Lost = slot {
        // The WAL that the quorum lacks is still there, or the stream will be refused: so the slot may be made anew
        // (H10).
        tracing::warn!(slot = config.slot, state = ?slot, "the replication slot is gone and is created anew");
        upstream.recreate_slot(&config.slot, slot == SlotState::Lost).await?;
    }
    Ok(Attached { upstream, survey, proved, min_term })
}
