//! The safekeeper: keeps the WAL of timelines durable, votes, and hands committed WAL on.
//!
//! | module | what | pure? |
//! |---|---|---|
//! | [`core`] | the acceptor: consensus of one timeline | yes |
//! | [`storage`] | WAL segments and control files | no |
//! | [`timeline`] | one driver per timeline, the handle for everybody else | no |
//! | [`config`] | settings, checked | |
//! | [`server`] | the process: start and stop | no |
//! | `context` | what the parts of the process share | no |
//! | `net` | libpq sessions: proposers, readers, people | no |
//! | `push` | dials the pageservers that chose this safekeeper | `desired` yes |
//! | `admission` | asks the other members what they remember of this one | no |
//! | `announce` | publishes positions to the broker | no |
//! | `relay` | pageservers' positions from the broker to the proposer | no |
//! | `http` | timelines, metrics, health | no |
//! | `measured` | a disk that counts writes and syncs | no |
//! | `metrics` | this process's metrics | |

mod admission;
mod announce;
pub mod config;
mod context;
pub mod core;
mod http;
mod measured;
mod metrics;
mod net;
#[cfg(test)]
mod planted;
mod push;
mod relay;
pub mod server;
pub mod storage;
pub mod timeline;

use std::process::ExitCode;

use clap::Parser;
use node::exit;
use tracing::error;

pub use config::{Args, Config, ConfigError};
pub use context::VERSION;
pub use server::{Server, StartError};

/// Keeps PostgreSQL WAL durable on a quorum.
#[derive(Parser)]
#[command(name = "safekeeper", version)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

/// The program: reads the command line, runs until SIGTERM or SIGINT.
pub fn cli() -> ExitCode {
    let cli = Cli::parse();
    node::block_on("safekeeper", run(cli.args))
}

/// Runs a safekeeper until SIGTERM or SIGINT; returns an exit code of [`node::exit`].
pub async fn run(args: Args) -> u8 {
    let config = match Config::from_args(&args) {
        Ok(config) => config,
        Err(e) => {
            eprintln!("safekeeper: {e}");
            return exit::USAGE;
        }
    };
    if args.check_config {
        println!("the settings are valid");
        return exit::OK;
    }
    node::init_logging(config.log_json);
    let cancel = match node::shutdown_on_signals() {
        Ok(cancel) => cancel,
        Err(e) => {
            error!(error = %e, "signals cannot be received");
            return exit::ERROR;
        }
    };
    match Server::start(config, cancel).await {
        Ok(server) => server.stopped().await,
        Err(e) => {
            error!(error = %e, "the safekeeper does not start");
            e.exit_code()
        }
    }
}
