//! Requests to the supervisor: one JSON line each way over `supervisor.sock`.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::fabric::FabricDir;

/// What the supervisor can be asked for. Each answers once the state is as asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "verb")]
pub enum SupervisorRequest {
    /// Spawn a process; answers when it is spawned.
    Start {
        /// Name of the process in `plan.json`.
        name: String,
    },
    /// End a process in order; answers when it is reaped.
    Stop {
        /// Name of the process in `plan.json`.
        name: String,
        /// How long each step of it may take, seconds.
        #[serde(default = "stop_patience_s")]
        patience_s: u64,
    },
    /// SIGKILL a process and its descendants; answers when they are reaped.
    Kill {
        /// Name of the process in `plan.json`.
        name: String,
    },
    /// Whether a process runs, and how it ended last.
    Probe {
        /// Name of the process in `plan.json`.
        name: String,
    },
    /// Read `plan.json` and `fabric.json` anew.
    Reload,
    /// Stop everything in order and exit.
    Down {
        /// How long each step of a process's stop may take, seconds.
        #[serde(default = "stop_patience_s")]
        patience_s: u64,
    },
}

/// How long an orderly stop takes before the next step, seconds: PostgreSQL goes from fast to immediate, others are
/// killed. Longer than a checkpoint of a busy local cluster.
pub const STOP_PATIENCE_S: u64 = 30;

/// The order in which a fabric is stopped, by prefix of the name: PostgreSQL first, while its shutdown checkpoint can
/// still reach the quorum; the broker last.
pub const STOP_ORDER: [&str; 5] = ["postgres", "shim", "safekeeper-", "pageserver-", "broker"];

fn stop_patience_s() -> u64 {
    STOP_PATIENCE_S
}

/// Longest answer, bytes: a line about each of 66 processes, with room for paths.
const ANSWER_MAX: u64 = 1 << 20;

/// The supervisor's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorReply {
    /// Exit code for the command: 0, 1 or 2.
    pub code: u8,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Process id, when it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// How it ended last, when it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
}

/// A supervisor that answers.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
}

/// Socket paths are limited to 107 bytes, fabric directories are not: the socket is named through an open directory.
pub(super) fn socket_path(dir: &std::fs::File) -> String {
    format!("/proc/self/fd/{}/supervisor.sock", dir.as_raw_fd())
}

impl Client {
    /// Connects to the supervisor of `dir`; `None` when none runs.
    pub fn connect(dir: &FabricDir) -> Option<Client> {
        let handle = open_dir(dir.root()).ok()?;
        let stream = UnixStream::connect(socket_path(&handle)).ok()?;
        Some(Client { stream })
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// When the supervisor ended in the middle, or is none: its answer has no end.
    pub fn ask(&mut self, request: &SupervisorRequest) -> Result<SupervisorReply> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stream.write_all(&line).context("the supervisor does not listen any more")?;
        let mut answer = String::new();
        let mut limited = BufReader::new(&self.stream).take(ANSWER_MAX);
        limited.read_line(&mut answer).context("the supervisor did not answer")?;
        ensure!(limited.limit() > 0, "what listens on supervisor.sock is no supervisor: its answer has no end");
        serde_json::from_str(&answer).context("the supervisor ended before it answered: see log/supervisor.log")
    }

    /// Ends everything in order, the supervisor too: it is gone when this returns, its lock with it.
    ///
    /// # Errors
    /// When the supervisor ended in the middle.
    pub fn down(mut self, patience_s: u64) -> Result<SupervisorReply> {
        let reply = self.ask(&SupervisorRequest::Down { patience_s })?;
        // It says nothing more: its end is the end of the stream.
        std::io::copy(&mut self.stream, &mut std::io::sink()).context("the supervisor's end cannot be awaited")?;
        Ok(reply)
    }
}

pub(super) fn open_dir(path: &Path) -> std::io::Result<std::fs::File> {
    std::fs::File::open(path)
}
