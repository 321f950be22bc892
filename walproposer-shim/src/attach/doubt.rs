//! Asks safekeepers whose WAL was refused to read it back, until they say that it is sound.
//!
//! One task asks for each doubted donor at most; the context owns it. What is known lies in [`crate::status::donors`].

use std::sync::Arc;
use std::time::Duration;

use crate::context::ShimContext;
use crate::dial::safekeeper;
use crate::status::donors::{DonorAnswer, Lent};
use crate::stop::{AttachRefusal, StopCause};

/// Between two questions: somebody has to repair it meanwhile.
const AGAIN: Duration = Duration::from_secs(30);

/// A difference between the primary and a donor whose own WAL is damaged there says nothing about the primary: another
/// attempt compares with another donor.
pub(crate) async fn instead(ctx: &Arc<ShimContext>, stop: StopCause, donor: usize) -> StopCause {
    let StopCause::Refused(AttachRefusal::Diverged { at, .. }) = &stop else { return stop };
    let Some(address) = ctx.config.safekeepers.get(donor) else { return stop };
    let lent = Lent { donor, from: *at, to: at.add(1) };
    match safekeeper::check_wal(&ctx.config, address, (lent.from, lent.to)).await {
        DonorAnswer::Damaged(problem) => {
            ask(ctx, lent, "by the attach proof: it differs from the primary's".to_owned());
            let name = safekeeper::shown(address);
            StopCause::Retry(format!(
                "the WAL of safekeeper {name} differs from the primary's, and is damaged {problem}"
            ))
        }
        DonorAnswer::Sound | DonorAnswer::Unknown(_) => stop,
    }
}

/// What a safekeeper lent was refused: it is not used until it says that it reads back well.
pub(crate) fn ask(ctx: &Arc<ShimContext>, lent: Lent, refused: String) {
    let Some(address) = ctx.config.safekeepers.get(lent.donor).cloned() else { return };
    let Lent { donor, from, to } = lent;
    if !ctx.board.donors(|donors| donors.refused(lent, refused.clone())) {
        return;
    }
    let name = safekeeper::shown(&address);
    tracing::error!(donor = name, %from, %to, "WAL that came from this donor was refused {refused}");
    // Weak: a task must not keep alive what it belongs to.
    let weak = Arc::downgrade(ctx);
    let asking = async move {
        loop {
            let Some(ctx) = weak.upgrade() else { return };
            let verdict = safekeeper::check_wal(&ctx.config, &address, (from, to)).await;
            match &verdict {
                DonorAnswer::Sound => tracing::warn!(donor = name, %from, %to, "the refused WAL reads back well there"),
                DonorAnswer::Damaged(problem) => tracing::error!(donor = name, problem, "its WAL is damaged"),
                DonorAnswer::Unknown(why) => tracing::warn!(donor = name, why, "it cannot read its WAL back"),
            }
            if !ctx.board.donors(|donors| donors.answered(donor, verdict)) {
                return;
            }
            drop(ctx);
            tokio::time::sleep(AGAIN).await;
        }
    };
    ctx.questions.start(asking);
}
