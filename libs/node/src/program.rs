//! The thread on which a program runs.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use super::exit;

/// From here on, files and directories that this process makes are for its own user only: WAL and pages are the data of
/// whoever commits, and nobody else's business.
pub fn private_files() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

/// How long blocking work may go on when the program has ended.
const LINGER: Duration = Duration::from_millis(500);

/// Runs `program` to its end and gives its exit code; `name` is for the message when it cannot even start.
///
/// One thread does all that does not block; disk work goes to the runtime's blocking threads. Between a socket and an
/// acknowledgement nothing then crosses from one thread to another but the sync itself: on the commit path a wake-up
/// of another thread costs more than the work it hands over (docs/adr/0005-commit-path.md).
pub fn block_on(name: &str, program: impl Future<Output = u8>) -> ExitCode {
    super::use_ring();
    private_files();
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => {
            let code = runtime.block_on(program);
            // A file or bucket that does not answer must not keep the process alive: its work
            // survives a kill at any point.
            runtime.shutdown_timeout(LINGER);
            ExitCode::from(code)
        }
        Err(e) => {
            eprintln!("{name}: the runtime cannot be started: {e}");
            ExitCode::from(exit::ERROR)
        }
    }
}
