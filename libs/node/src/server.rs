//! One way to be a server: settings, logs, signals, then the server itself.

use std::ffi::OsString;
use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use super::logging::start_logging;
use super::settings::{LogFormat, ServerSettings, SettingError, read};
use super::{block_on, exit, shutdown_on_signals};

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
pub fn main<S: ServerSettings>(name: &str, start: impl AsyncFnOnce(S::Checked, CancellationToken) -> u8) -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    block_on(name, run::<S>(name, &words, start))
}

/// Runs the server `name`, told by the words behind its name, the environment and its file. An exit code.
pub async fn run<S: ServerSettings>(
    name: &str,
    words: &[OsString],
    start: impl AsyncFnOnce(S::Checked, CancellationToken) -> u8,
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
    match shutdown_on_signals() {
        Ok(cancel) => start(settings.checked, cancel).await,
        Err(e) => {
            tracing::error!(error = %e, "signals cannot be received");
            exit::ERROR
        }
    }
}
