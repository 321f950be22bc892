//! Logs to standard error. Levels: error = act now, warn = degraded, info = state change, debug = request,
//! trace = message.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Environment variable with the level or a filter like `info,safekeeper::push=debug`.
const VARIABLE: &str = "WALFABRIC_LOG";

/// Starts logging to standard error: text, or JSON when `json`; level from `WALFABRIC_LOG` (default `info`).
///
/// Only the first call in a process has an effect.
pub fn init_logging(json: bool) {
    let wanted = std::env::var(VARIABLE).ok().filter(|wanted| !wanted.is_empty());
    start_logging(json, wanted.as_deref().unwrap_or("info"));
}

/// The same with a level or filter from the settings.
pub(super) fn start_logging(json: bool, wanted: &str) {
    let parsed = EnvFilter::try_new(wanted);
    let problem = parsed.as_ref().err().map(ToString::to_string);
    let filter = parsed.unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // It fails when logging has already started: several tests in one process do this.
    let _ = if json { builder.json().try_init() } else { builder.try_init() };
    if let Some(problem) = problem {
        tracing::warn!("{wanted:?} is not a log filter, info is used: {problem}");
    }
}
