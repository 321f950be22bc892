//! One way to be a server: settings, logs, signals, directory, ports, parts, and the end in order.
//!
//! [`main`] and [`run`] read the settings and start the logs. The server's own start then takes hold of what it needs
//! ([`open_node`], [`open_http`]), makes its parts, and gives them to [`RunningServer`], which waits for the end: parts
//! stop taking in and end what is open, then the last steps run one after the other, each with a limit, and what did
//! not end in time is named. A server differs by its settings, its parts and its last steps, and by nothing else.

mod open;
mod running;

use std::ffi::OsString;
use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use crate::exit;
use crate::logging::start_logging;
use crate::program::block_on;
use crate::settings::{LogFormat, ServerSettings, SettingError, read};
use crate::shutdown::shutdown_on_signals;

pub use open::{OpenHttp, OpenNode, StartError, open_http, open_node};
pub use running::{ExitVerdict, LastStep, RunningServer};

/// The words of a server's command line, for a program that has servers as subcommands: a server reads them itself,
/// over its file and the environment.
#[derive(clap::Args, Clone, Debug)]
#[command(disable_help_flag = true)]
pub struct ServerWords {
    /// Settings of the server; --help shows them
    #[arg(value_name = "SETTINGS", trailing_var_arg = true, allow_hyphen_values = true)]
    pub words: Vec<OsString>,
}

/// The program `name`: reads the command line, and runs until SIGTERM or SIGINT.
pub fn main<S: ServerSettings>(
    name: &'static str,
    start: impl AsyncFnOnce(S::Checked, CancellationToken) -> Result<RunningServer, StartError>,
) -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    block_on(name, run::<S>(name, &words, start))
}

/// Runs the server `name`, told by the words behind its name, the environment and its file, until SIGTERM or SIGINT;
/// returns an exit code of [`exit`].
pub async fn run<S: ServerSettings>(
    name: &'static str,
    words: &[OsString],
    start: impl AsyncFnOnce(S::Checked, CancellationToken) -> Result<RunningServer, StartError>,
) -> u8 {
    let settings = match read::<S, _>(words, &|variable| std::env::var(variable).ok()) {
        Ok(settings) => settings,
        Err(SettingError::CommandLine(asked)) => {
            // Help and version go to standard output, which may be closed: there is nobody else to tell.
            let _ = asked.print();
            return if asked.use_stderr() { exit::USAGE } else { exit::OK };
        }
        Err(e) => {
            eprintln!("{name}: {e}");
            return exit::USAGE;
        }
    };
    let process = &settings.process;
    if process.check_config {
        println!("the settings are valid");
        return exit::OK;
    }
    start_logging(process.log_format == LogFormat::Json, &process.log);
    let cancel = match shutdown_on_signals() {
        Ok(cancel) => cancel,
        Err(e) => {
            tracing::error!(error = %e, "signals cannot be received");
            return exit::ERROR;
        }
    };
    match start(settings.checked, cancel).await {
        Ok(server) => server.stopped().await,
        Err(e) => {
            tracing::error!(error = %e, "the {name} does not start");
            e.exit_code()
        }
    }
}
