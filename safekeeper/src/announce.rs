//! Publishes where this safekeeper stands: its node record, and one record per timeline.
//!
//! Level-triggered: a change of positions wakes the announcer of that timeline, which publishes what is true by then.
//! The session coalesces to one put a second and key, and writes nothing while nothing changes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use node::parts;
use proto::broker::records::{SCHEMA, SafekeeperTimelineRecord};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tracing::error;

use crate::context::SafekeeperContext;
use crate::timeline::{TimelineHandle, TimelinePositions};

/// A busy timeline moves thousands of times a second; the session takes one value a second, so more are made for
/// nothing.
const PAUSE: Duration = Duration::from_millis(200);

/// Announces until the server stops.
pub(crate) async fn run(ctx: Arc<SafekeeperContext>) {
    publish(&ctx, ctx.broker.keys().safekeeper(ctx.config.node.id), &ctx.node_record());
    let mut changes = ctx.timelines.changes();
    let mut announced = BTreeSet::new();
    let mut tasks = JoinSet::new();
    loop {
        changes.borrow_and_update();
        let list = ctx.timelines.list();
        // One that was deleted and made anew is announced anew.
        announced.retain(|ttid| list.iter().any(|handle| handle.ttid() == *ttid));
        for handle in list {
            if announced.insert(handle.ttid()) {
                tasks.spawn(announce(Arc::clone(&ctx), handle));
            }
        }
        tokio::select! {
            () = ctx.cancel.cancelled() => break,
            changed = changes.changed() => if changed.is_err() { break },
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                if let Err(e) = ended {
                    error!(error = %e, "an announcer of a timeline was cut off");
                }
            }
        }
    }
    tasks.shutdown().await;
}

/// Announces one timeline until it is shut down, deleted, or broken: then nobody shall choose it any more.
async fn announce(ctx: Arc<SafekeeperContext>, handle: TimelineHandle) {
    let key = ctx.broker.keys().timeline_safekeeper(handle.ttid(), ctx.config.node.id);
    if let Err(panic) = parts::caught(follow(&ctx, &handle, &key)).await {
        handle.broke(&format!("its announcer panicked: {panic}"));
    }
    // The keys of a process that ends go all together.
    if !ctx.cancel.is_cancelled() {
        ctx.session.withdraw(&key);
    }
}

async fn follow(ctx: &SafekeeperContext, handle: &TimelineHandle, key: &str) {
    #[cfg(test)]
    crate::planted::look(handle.ttid(), "announcer");
    let mut positions = handle.positions();
    loop {
        let now = positions.borrow_and_update().clone();
        publish(ctx, key.to_owned(), &record(ctx, handle, &now));
        let soonest = Instant::now() + PAUSE;
        if positions.changed().await.is_err() {
            return;
        }
        sleep_until(soonest).await;
    }
}

fn record(ctx: &SafekeeperContext, handle: &TimelineHandle, p: &TimelinePositions) -> SafekeeperTimelineRecord {
    SafekeeperTimelineRecord {
        schema: SCHEMA,
        safekeeper_id: ctx.config.node.id,
        term: p.term,
        last_log_term: p.last_log_term,
        flush_lsn: p.flush_lsn,
        commit_lsn: p.commit_lsn,
        peer_horizon_lsn: p.peer_horizon_lsn,
        local_start_lsn: handle.control().local_start_lsn,
        remote_consistent_lsn: None,
        streaming: p.streaming,
    }
}

fn publish(ctx: &SafekeeperContext, key: String, record: &impl serde::Serialize) {
    match serde_json::to_vec(record) {
        Ok(value) => ctx.session.publish(key, value),
        Err(e) => error!(error = %e, key, "a record cannot be written as JSON"),
    }
}
