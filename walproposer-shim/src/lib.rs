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
//! | [`session`] | one session: owner of core, ring and stream | no |
//! | [`session::course`] | what a session does, and in which order | yes |
//! | `session::downstream` | one task per safekeeper | no |
//! | [`session::ring`] | WAL in memory | yes |
//! | `session::{report, standbys}` | what PostgreSQL is told, about standbys too | |
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
pub mod session;
pub mod sql;
mod status;
mod stop;
#[cfg(test)]
mod testing;

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use node::parts::Part;
use node::server::{ExitVerdict, LastStep, OpenHttp, RunningServer, StartError, open_http};
use node::{BoundHttp, exit};
use tokio_util::sync::CancellationToken;

pub use config::{ApplySource, ShimConfig, ShimSettings};
use context::ShimContext;
pub use guard::sync_names;

/// What the program is called.
const NAME: &str = "walproposer-shim";

/// How long the end of the process waits for the broker.
const FAREWELL: Duration = Duration::from_secs(1);

/// The program: reads the command line, runs until SIGTERM, SIGINT or a refusal.
pub fn cli() -> ExitCode {
    node::server::main::<ShimSettings>(NAME, start)
}

/// Runs a shim, told by the words behind its name, until SIGTERM, SIGINT or a refusal; returns an exit code of
/// [`node::exit`].
pub async fn run(words: &[OsString]) -> u8 {
    node::server::run::<ShimSettings>(NAME, words, start).await
}

/// Starts a shim; returns when its HTTP port answers. It stops when `cancel` is cancelled, or when it is refused.
///
/// # Errors
/// See [`StartError`]. By itself the shim exits with 2, 5 or 6 only, so each of them means a wrong usage.
pub async fn start(config: ShimConfig, cancel: CancellationToken) -> Result<RunningServer, StartError> {
    start_parts(config, cancel, |parts| parts)
}

/// `change` is for tests: it sees the parts before they start.
fn start_parts(
    config: ShimConfig,
    cancel: CancellationToken,
    change: impl FnOnce(Vec<Part>) -> Vec<Part>,
) -> Result<RunningServer, StartError> {
    if config.exposes_password {
        tracing::warn!("--primary: {}", libpq::PASSWORD_IN_ARGV);
    }
    if let Some(note) = config.replication.password_note.as_ref().filter(|n| n.contains("was not read")) {
        tracing::warn!("{note}");
    }
    let OpenHttp { http, advertise_http } = open_http(&config.process).map_err(|e| StartError::own(exit::USAGE, e))?;
    let address = http.address();
    // The broker outlives the rest by a moment, so that the record is withdrawn at the end.
    let broker_stop = CancellationToken::new();
    let ctx = ShimContext::start(config, broker_stop.clone()).map_err(|e| StartError::own(exit::USAGE, e))?;
    let (ttid, safekeepers) = (ctx.config.ttid, ctx.config.safekeepers.len());
    tracing::info!(%ttid, http = advertise_http, safekeepers, "walproposer-shim starts");
    let (stop, verdict) = (cancel.child_token(), ExitVerdict::default());
    let parts = change(parts(&ctx, http, advertise_http, &stop, &verdict));
    let session = ctx.broker.clone();
    let farewell = async move {
        session.close(FAREWELL).await;
        broker_stop.cancel();
    };
    let last = vec![LastStep::new("leaving the broker", FAREWELL * 2, farewell)];
    Ok(RunningServer::start(NAME, address, parts, last, stop).judged_by(verdict))
}

/// Everything that must not die. `verdict` is given by the one that may end the process.
fn parts(
    ctx: &Arc<ShimContext>,
    bound: BoundHttp,
    http: String,
    stop: &CancellationToken,
    verdict: &ExitVerdict,
) -> Vec<Part> {
    let (proposing, ends, verdict) = (Arc::clone(ctx), stop.clone(), verdict.clone());
    let proposer = async move {
        let code = attach::run(&proposing, &ends).await;
        if code != exit::OK {
            verdict.give(code, proposing.board.snapshot().last_stop.unwrap_or_default());
        }
        ends.cancel();
    };
    let session = ctx.broker.clone();
    vec![
        Part::new("HTTP interface", bound.serve(http::router(ctx), http::KNOWN, stop.clone())),
        Part::new("guard", guard::run(Arc::clone(ctx), stop.clone())),
        Part::new("announcer", announce::run(Arc::clone(ctx), http, stop.clone())),
        Part::new("proposer", proposer),
        Part::until("broker session", stop.clone(), async move { session.ended().await }),
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
            let started = start_parts(testing::config(&[]), CancellationToken::new(), plant);
            let stopped = started.expect("it starts").stopped();
            let code = tokio::time::timeout(Duration::from_secs(20), stopped).await.expect("it ends");
            assert_eq!(code, exit::ERROR, "part {planted}");
        }
    }
}
