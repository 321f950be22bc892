//! The shim: lets an unmodified PostgreSQL commit through a quorum of safekeepers.
//!
//! Towards PostgreSQL it is a physical replication client and the only synchronous standby; towards the safekeepers it
//! is the proposer. It keeps nothing: after a restart, of itself or of PostgreSQL, it proves anew that the primary
//! extends the quorum's log, and is elected anew.
//!
//! | module | what | pure? |
//! |---|---|---|
//! | [`core`] | the proposer: consensus of one session | yes |
//! | `config` | settings, checked | |
//! | `context` | what the parts of the process share | |
//! | [`sql`] | ordinary SQL to the primary | |
//! | [`names`] | names that a timeline has inside PostgreSQL | yes |
//! | `attach` | attempts, one after the other | no |
//! | `attach::patience` | the pause between them, and what is said about duels and endless elections | yes |
//! | `attach::survey` | what the safekeepers say before a vote | `judge` yes |
//! | `attach::proof` | the attach proof | `plan` yes |
//! | `attach::doubt` | asking who lent WAL that was refused | no |
//! | `session` | one session: owner of core, ring and stream | no |
//! | `session::downstream` | one task per safekeeper | no |
//! | `session::{ring, report, standbys}` | WAL in memory; what PostgreSQL is told, about standbys too | yes |
//! | `guard` | whether commits really wait for the quorum | `judge` yes |
//! | `guard::pin` | the two replication slots, and the upkeep of the one that keeps WAL for the next proof | no |
//! | [`sync_names`] | `synchronous_standby_names`: grammar and verdict | yes |
//! | `dial` | whom the shim calls: the primary, a safekeeper, either for a stretch of WAL | no |
//! | `status` | what the shim knows about itself, about safekeepers that have less, and about donors | |
//! | `http`, `metrics`, `announce` | what others see of it | |

mod announce;
mod attach;
mod config;
mod context;
pub mod core;
mod dial;
mod guard;
mod http;
mod metrics;
pub mod names;
mod session;
pub mod sql;
mod status;
mod stop;
#[cfg(test)]
mod testing;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use node::parts::{Part, Parts};
use node::{BoundHttp, exit};
use tokio_util::sync::CancellationToken;

pub use config::{ApplySource, Config, ShimSettings};
use context::ShimContext;
pub use guard::sync_names;

/// How long the end of the process waits for the broker.
const FAREWELL: Duration = Duration::from_secs(1);

/// The program: reads the command line, runs until SIGTERM, SIGINT or a refusal.
pub fn cli() -> ExitCode {
    node::server::main::<ShimSettings>("walproposer-shim", told)
}

/// Runs a shim, told by the words behind its name, until SIGTERM, SIGINT or a refusal; returns an exit code of
/// [`node::exit`].
pub async fn run(words: &[OsString]) -> u8 {
    node::server::run::<ShimSettings>("walproposer-shim", words, told).await
}

async fn told(config: Config, cancel: CancellationToken) -> u8 {
    if config.exposes_password {
        tracing::warn!("--primary: {}", libpq::PASSWORD_IN_ARGV);
    }
    if let Some(note) = config.replication.password_note.as_ref().filter(|n| n.contains("was not read")) {
        tracing::warn!("{note}");
    }
    serve(config, cancel).await
}

/// Runs a shim until cancelled or refused; for tests and for embedding. Returns an exit code of
/// [`node::exit`].
pub async fn serve(config: Config, cancel: CancellationToken) -> u8 {
    serve_parts(config, cancel, |parts| parts).await
}

/// `change` is for tests: it sees the parts before they start.
async fn serve_parts(config: Config, cancel: CancellationToken, change: impl FnOnce(Vec<Part>) -> Vec<Part>) -> u8 {
    if let Err(e) = node::claim_descriptors(node::HTTP_CONNECTIONS_MAX) {
        tracing::error!("{e}");
        return exit::USAGE;
    }
    let bound = match node::bind_http(config.process.listen_http) {
        Ok(bound) => bound,
        Err(e) => {
            tracing::error!(error = %e, address = %config.process.listen_http, "--listen-http cannot be bound");
            return exit::USAGE;
        }
    };
    let http = config.process.advertise_http.clone().unwrap_or_else(|| bound.address().to_string());
    // The broker outlives the rest by a moment, so that the record is withdrawn at the end.
    let broker_stop = CancellationToken::new();
    let ctx = match ShimContext::start(config, broker_stop.clone()) {
        Ok(ctx) => ctx,
        Err(e) => {
            tracing::error!(error = %e, "--broker cannot be used");
            return exit::USAGE;
        }
    };
    let ttid = ctx.config.ttid;
    tracing::info!(%ttid, http, safekeepers = ctx.config.safekeepers.len(), "walproposer-shim starts");
    let stop = cancel.child_token();
    let code = Arc::new(OnceLock::new());
    let parts = change(parts(&ctx, bound, http, &stop, &code));
    let ended = Parts::start(parts, stop).ended().await;
    let (code, died) = match ended {
        Ok(()) => (code.get().copied().unwrap_or(exit::OK), None),
        Err(died) => (exit::ERROR, Some(died.to_string())),
    };
    ctx.broker.close(FAREWELL).await;
    broker_stop.cancel();
    if code != exit::OK {
        let reason = died.or(ctx.board.snapshot().last_stop).unwrap_or_default();
        tracing::error!(exit_code = code, reason, "walproposer-shim ends");
    }
    code
}

/// Everything that must not die. `code` is set by the one that may end the process.
fn parts(
    ctx: &Arc<ShimContext>,
    bound: BoundHttp,
    http: String,
    stop: &CancellationToken,
    code: &Arc<OnceLock<u8>>,
) -> Vec<Part> {
    let router = http::router(ctx);
    let serving = stop.clone();
    let pages = async move {
        // Whoever asks while the process ends is cut off.
        let served = serving.run_until_cancelled(bound.serve(router, serving.clone())).await;
        if let Some(Err(e)) = served {
            tracing::error!(error = %e, "the HTTP interface failed");
        }
    };
    let (proposing, ends, decided) = (Arc::clone(ctx), stop.clone(), Arc::clone(code));
    let proposer = async move {
        let code = attach::run(&proposing, &ends).await;
        // Set once: this is the only one that does.
        let _ = decided.set(code);
        ends.cancel();
    };
    let (session, until) = (ctx.broker.clone(), stop.clone());
    let broker = async move {
        until.run_until_cancelled(session.ended()).await;
    };
    vec![
        Part::new("HTTP interface", pages),
        Part::new("guard", guard::run(Arc::clone(ctx), stop.clone())),
        Part::new("announcer", announce::run(Arc::clone(ctx), http, stop.clone())),
        Part::new("proposer", proposer),
        Part::new("broker session", broker),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_in_any_part_ends_the_process_with_an_error() {
        for planted in 0..5 {
            let plant = |mut parts: Vec<Part>| {
                assert_eq!(parts.len(), 5, "each part gets its panic");
                parts[planted] = Part::new(parts[planted].name(), async { panic!("planted") });
                parts
            };
            let serving = serve_parts(testing::config(&[]), CancellationToken::new(), plant);
            let code = tokio::time::timeout(Duration::from_secs(20), serving).await.expect("it ends");
            assert_eq!(code, exit::ERROR, "part {planted}");
        }
    }
}
