//! The program itself: exit codes, settings, signals.

use std::path::Path;
use std::process::{Output, Stdio};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::common::soon;

fn safekeeper(dir: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_safekeeper"));
    command.args(["--id", "3", "--listen-pg", "127.0.0.1:0", "--listen-http", "127.0.0.1:0"]);
    command.args(["--broker", "http://127.0.0.1:1", "--data-dir"]).arg(dir.join("data")).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn output(mut command: Command) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } = soon("the program", command.output()).await.expect("it runs");
    (status.code(), format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr)))
}

/// Goal: settings are judged before anything is touched, with exit code 2 and words.
#[tokio::test]
async fn settings() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("safekeeper.toml");
    std::fs::write(&file, "log_format = \"json\"\nlisten = \"x\"\n").expect("written");
    let file = file.to_str().expect("a plain path");
    assert_eq!(output(safekeeper(dir.path(), &["--check-config"])).await.0, Some(0));
    for (more, said) in [
        (&["--bogus"][..], "--bogus"),
        (&["--log-format", "xml", "--check-config"], "--log-format"),
        (&["--config", file], "listen_pg"),
    ] {
        let (code, text) = output(safekeeper(dir.path(), more)).await;
        assert!(code == Some(2) && text.contains(said), "{more:?}: {code:?} {text}");
    }
    assert!(!dir.path().join("data").exists(), "nothing was touched");
    let (code, text) = output(safekeeper(dir.path(), &["--version"])).await;
    assert!(code == Some(0) && text.contains(env!("CARGO_PKG_VERSION")), "{text}");
}

/// Goal: it runs without a broker, keeps its directory to itself, and stops on SIGTERM with exit code 0.
#[tokio::test]
async fn life() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut first = safekeeper(dir.path(), &[]).spawn().expect("it starts");
    let mut log = BufReader::new(first.stderr.take().expect("piped")).lines();
    let runs =
        async { while !log.next_line().await.expect("text").expect("it runs on").contains("safekeeper runs") {} };
    soon("the start", runs).await;
    let (code, text) = output(safekeeper(dir.path(), &[])).await;
    assert!(code == Some(1) && text.contains("in use"), "{code:?} {text}");
    let pid = i32::try_from(first.id().expect("it runs")).expect("a process number");
    let pid = rustix::process::Pid::from_raw(pid).expect("a process number");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    assert_eq!(soon("an orderly stop", first.wait()).await.expect("it ends").code(), Some(0));
}
