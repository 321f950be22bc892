//! Orderly stop on SIGTERM and SIGINT; a second signal ends the process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::exit;

/// A token that is cancelled by SIGTERM or SIGINT. Needs a running tokio runtime.
///
/// # Errors
/// When the signal handlers cannot be installed.
pub fn shutdown_on_signals() -> std::io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = CancellationToken::new();
    let cancel = token.clone();
    // Lives as long as the process: after the first signal it waits for a second one.
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if cancel.is_cancelled() {
                tracing::warn!("{name} while stopping: leaving at once");
                std::process::exit(exit::ERROR.into());
            }
            tracing::info!("{name}: stopping");
            cancel.cancel();
        }
    });
    Ok(token)
}
