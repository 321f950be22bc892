//! Processes and directories for every test: run a program with a deadline, signal a child, wait for its end, become
//! the user `postgres`, copy a tree.
//!
//! Everything is a system call: programs like `kill`, `chown` or `cp` may not be installed. Nothing waits without a
//! deadline, and an error names whatever misses its deadline.

mod tree;

use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

pub use tree::{copy_entries, copy_tree, link_tree};

/// Longer than any helper program takes on a loaded machine, short enough to fail a test that hangs.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// For what works for minutes: measurements, scripts with a full load.
pub const LONG: Duration = Duration::from_secs(1800);
/// Pauses between two looks: short at first, for programs of milliseconds.
const STEPS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(20));

/// User and group to run PostgreSQL as, which refuses root; `None` when we are not root.
///
/// # Errors
/// When we are root and there is no user `postgres`.
pub fn postgres_user() -> Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let line = passwd.lines().find(|l| l.starts_with("postgres:"));
    let line = line.context("there is no user `postgres`: run scripts/setup.sh")?;
    let id = |n: usize| line.split(':').nth(n).and_then(|t| t.parse::<u32>().ok());
    let ids = id(2).zip(id(3)).with_context(|| format!("/etc/passwd: {line:?} has no ids"))?;
    Ok(Some(ids))
}

/// A command that runs as the user `postgres` when we are root, with that user's group alone.
///
/// # Errors
/// When there is no such user.
pub fn as_postgres(program: &Path) -> Result<Command> {
    let mut command = Command::new(program);
    if let Some((uid, gid)) = postgres_user()? {
        // The standard library drops the supplementary groups of root together with its uid.
        command.uid(uid).gid(gid);
    }
    Ok(command)
}

/// Gives a file or directory to the user `postgres` when we are root.
///
/// # Errors
/// When that is not allowed, naming the path.
pub fn give_to_postgres(path: &Path) -> Result<()> {
    let Some((uid, gid)) = postgres_user()? else { return Ok(()) };
    std::os::unix::fs::chown(path, Some(uid), Some(gid)).with_context(|| format!("cannot give {} away", path.display()))
}

/// Sends a signal to a child that was not waited for yet: its id is its own until then.
///
/// # Errors
/// When the system refuses.
pub fn signal(child: &Child, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(child.id().cast_signed()).context("a process id")?;
    kill_process(pid, signal).with_context(|| format!("cannot send {signal:?} to process {}", child.id()))
}

/// Waits for the end of a child; one that is late is killed.
///
/// # Errors
/// Names what was late.
pub fn wait(child: &mut Child, what: &str, patience: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + patience;
    let mut pause = STEPS.0;
    loop {
        if let Some(status) = child.try_wait().with_context(|| format!("cannot wait for {what}"))? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill().with_context(|| format!("{what} did not end, and cannot be killed"))?;
            // A killed process ends, unless the kernel itself is stuck in it: then waiting helps nobody.
            bail!("{what} did not end within {patience:?}");
        }
        std::thread::sleep(pause); // between two looks
        pause = (pause * 2).min(STEPS.1);
    }
}

/// Runs a program to its end, whatever that is. Its input is empty.
///
/// Its output goes through files: a server that it leaves behind may hold them without anyone waiting for that.
///
/// # Errors
/// When it cannot be started or is late.
pub fn output(command: &mut Command, patience: Duration) -> Result<Output> {
    let what = format!("{command:?}");
    let (mut out, mut err) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(err.try_clone()?);
    let mut child = command.spawn().with_context(|| format!("cannot start {what}"))?;
    let status = wait(&mut child, &what, patience);
    let mut said = (Vec::new(), Vec::new());
    out.rewind()?;
    out.read_to_end(&mut said.0)?;
    err.rewind()?;
    err.read_to_end(&mut said.1)?;
    let status = status.with_context(|| String::from_utf8_lossy(&said.1).trim().to_owned())?;
    Ok(Output { status, stdout: said.0, stderr: said.1 })
}

/// A command that ends in time: what [`Command::output`] is without a deadline.
pub trait Bounded {
    /// As [`output`].
    ///
    /// # Errors
    /// As [`output`].
    fn output_within(&mut self, patience: Duration) -> Result<Output>;
}

impl Bounded for Command {
    fn output_within(&mut self, patience: Duration) -> Result<Output> {
        output(self, patience)
    }
}

/// Runs a program that has to succeed, within [`PATIENCE`]; what it printed.
///
/// # Errors
/// When it cannot be started, is late, or fails: with what it said.
pub fn run(command: &mut Command) -> Result<String> {
    run_within(command, PATIENCE)
}

/// As [`run`], for programs that may take longer.
///
/// # Errors
/// As [`run`].
pub fn run_within(command: &mut Command, patience: Duration) -> Result<String> {
    let said = output(command, patience)?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let error = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.success(), "{command:?}: {}\n{}\n{}", said.status, error.trim(), text.trim());
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_late_program_is_ended_and_named() {
        let patience = Duration::from_millis(50);
        let error = output(&mut shell("echo so far >&2; exec sleep 1000"), patience).expect_err("it is late");
        let text = format!("{error:#}");
        assert!(text.contains("sleep 1000") && text.contains("did not end within 50ms"), "{text}");
    }

    #[test]
    fn what_it_said_is_kept_and_failure_is_no_success() {
        assert_eq!(run(&mut shell("echo out; echo err >&2")).expect("it succeeds"), "out\n");
        let error = format!("{:#}", run(&mut shell("echo why >&2; exit 3")).expect_err("it fails"));
        assert!(error.contains("why") && error.contains('3'), "{error}");
        let missing = run(&mut Command::new("/nonexistent/program")).expect_err("there is none");
        assert!(format!("{missing:#}").contains("/nonexistent/program"), "{missing:#}");
    }

    #[test]
    fn a_server_left_behind_does_not_hold_the_run() {
        let began = Instant::now();
        let text = run(&mut shell("sleep 5 & echo $!")).expect("it succeeds");
        assert!(began.elapsed() < Duration::from_secs(5), "waited for a grandchild");
        let pid = text.trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, Signal::KILL).expect("it still runs");
    }

    #[test]
    fn a_signal_reaches_a_child() {
        let mut child = shell("exec sleep 1000").spawn().expect("sh runs");
        signal(&child, Signal::TERM).expect("it is ours");
        let status = wait(&mut child, "sleep", PATIENCE).expect("it ends");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(Signal::TERM.as_raw()));
    }
}
