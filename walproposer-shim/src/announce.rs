//! Publishes the primary record on the broker: who is at work, in which term, and whether commits are protected. The
//! shim that waits for the slot publishes nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::context::ShimContext;

/// What grows old changes without a word: the record is looked at so often. Equal ones are published once.
const LOOK: Duration = Duration::from_secs(1);

/// Publishes every change until cancelled; the broker session coalesces, and retries while the broker is away.
pub(crate) async fn run(ctx: Arc<ShimContext>, http: String, cancel: CancellationToken) {
    let key = ctx.broker_keys.primary(ctx.config.ttid);
    loop {
        match ctx.board.record(&ctx.config, &http).map(|record| serde_json::to_vec(&record)) {
            None => ctx.broker.withdraw(&key),
            Some(Ok(value)) => ctx.broker.publish(key.clone(), value),
            Some(Err(e)) => tracing::error!(error = %e, "the primary record cannot be written as JSON"),
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = ctx.board.changed() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}
