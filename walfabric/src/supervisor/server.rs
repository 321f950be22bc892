//! The supervisor's main function and its request loop.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use super::client::{STOP_ORDER, SupervisorReply, SupervisorRequest, open_dir, socket_path};
use super::table::ProcessTable;
use crate::fabric::FabricDir;

/// Runs the supervisor of `dir` until it is told to go down.
///
/// # Errors
/// When another supervisor holds the directory, or its files cannot be read.
pub fn supervise(dir: &FabricDir) -> Result<()> {
    node::private_files();
    // Away from the terminal of whoever ran `up`; fails only when this process leads its group already, which is as
    // good.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).context("cannot become the subreaper")?;
    let handle = open_dir(dir.root())?;
    let lock = std::fs::File::create(dir.root().join("supervisor.lock"))?;
    lock.try_lock().context("another supervisor runs in this directory")?;
    let path = socket_path(&handle);
    let _ = std::fs::remove_file(&path);
    let table = Arc::new(ProcessTable::load(dir.clone())?);
    let listener = UnixListener::bind(&path).context("cannot listen on supervisor.sock")?;
    let reaper = Arc::clone(&table);
    thread::Builder::new().name("reaper".to_owned()).spawn(move || reaper.reap_for_ever())?;
    for stream in listener.incoming() {
        let (stream, table) = (stream?, Arc::clone(&table));
        let socket = path.clone();
        thread::Builder::new().name("request".to_owned()).spawn(move || serve(stream, &table, &socket))?;
    }
    Ok(())
}

fn serve(stream: UnixStream, table: &ProcessTable, socket: &str) {
    let Ok(mut writer) = stream.try_clone() else { return };
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        let request: Result<SupervisorRequest, _> = serde_json::from_str(&line);
        let down = matches!(request, Ok(SupervisorRequest::Down { .. }));
        let reply = match request {
            Ok(request) => answer(table, &request),
            Err(e) => failure(2, format!("malformed request: {e}")),
        };
        let mut text = serde_json::to_vec(&reply).unwrap_or_default();
        text.push(b'\n');
        if down {
            // The name goes first: whoever sees the answer must be able to start the next supervisor.
            let _ = std::fs::remove_file(socket);
        }
        let sent = writer.write_all(&text);
        if down {
            std::process::exit(i32::from(reply.code));
        }
        if sent.is_err() {
            return;
        }
    }
}

fn failure(code: u8, error: String) -> SupervisorReply {
    SupervisorReply { code, error: Some(error), pid: None, ended: None }
}

fn answer(table: &ProcessTable, request: &SupervisorRequest) -> SupervisorReply {
    let done = |result: Result<()>| match result {
        Ok(()) => SupervisorReply { code: 0, error: None, pid: None, ended: None },
        Err(e) => failure(1, format!("{e:#}")),
    };
    match request {
        SupervisorRequest::Start { name }
        | SupervisorRequest::Stop { name, .. }
        | SupervisorRequest::Kill { name }
        | SupervisorRequest::Probe { name }
            if !table.known(name) =>
        {
            failure(2, format!("no process is called {name:?}; there are: {}", table.names().join(", ")))
        }
        SupervisorRequest::Start { name } => match table.start(name) {
            Ok(pid) => SupervisorReply { code: 0, error: None, pid: Some(pid), ended: None },
            Err(e) => failure(1, format!("{e:#}")),
        },
        SupervisorRequest::Stop { name, patience_s } => done(table.stop(name, Duration::from_secs(*patience_s))),
        SupervisorRequest::Kill { name } => done(table.kill(name)),
        SupervisorRequest::Probe { name } => {
            let (pid, ended) = table.probe(name);
            SupervisorReply { code: 0, error: None, pid, ended }
        }
        SupervisorRequest::Reload => done(table.reload()),
        SupervisorRequest::Down { patience_s } => done(down(table, Duration::from_secs(*patience_s))),
    }
}

/// What does not stop in order is said in the end, and keeps nothing else running.
fn down(table: &ProcessTable, patience: Duration) -> Result<()> {
    let mut problems = Vec::new();
    for prefix in STOP_ORDER {
        let names: Vec<String> = table.names().into_iter().filter(|n| n.starts_with(prefix)).collect();
        thread::scope(|scope| {
            let stops: Vec<_> = names.iter().map(|name| scope.spawn(move || table.stop(name, patience))).collect();
            for stop in stops {
                let stopped = stop.join().unwrap_or_else(|_| anyhow::bail!("a stop panicked"));
                problems.extend(stopped.err().map(|e| format!("{e:#}")));
            }
        });
    }
    anyhow::ensure!(problems.is_empty(), "{}", problems.join("; "));
    Ok(())
}
