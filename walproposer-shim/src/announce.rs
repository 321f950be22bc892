//! Publishes the primary record on the broker: who is at work, in which term, and whether commits are protected.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::Context;

/// Publishes every change until cancelled; the broker session coalesces, and retries while the broker is away.
pub(crate) async fn run(ctx: Arc<Context>, http: String, cancel: CancellationToken) {
    let key = ctx.broker_keys.primary(ctx.config.ttid);
    loop {
        if let Some(record) = ctx.shared.record(&ctx.config, &http) {
            match serde_json::to_vec(&record) {
                Ok(value) => ctx.broker.publish(key.clone(), value),
                Err(e) => tracing::error!(error = %e, "the primary record cannot be written as JSON"),
            }
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = ctx.shared.changed() => {}
        }
    }
}
