//! Waits until a process answers, with a deadline, noticing early that it ended instead.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::fabric::{FabricDir, ReadyProbe};
use crate::http::Http;
use crate::supervisor::{Client, SupervisorRequest};

/// How often to ask.
const STEP: Duration = Duration::from_millis(20);

/// Waits until `name` answers its probe.
///
/// # Errors
/// When it ended instead (with the end of its log), or the deadline passed.
pub async fn wait_ready(dir: &FabricDir, name: &str, probe: &ReadyProbe, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        let mut answer = ask(probe).await;
        let mut client = Client::connect(dir).context("the supervisor is gone: see log/supervisor.log")?;
        let state = client.ask(&SupervisorRequest::Probe { name: name.to_owned() })?;
        if let Some(ended) = state.ended {
            bail!("{name} {ended}; the end of its log:\n{}", log_tail(dir, name));
        }
        match (&answer, state.pid) {
            // Whoever has its port is not it.
            (Ok(Some(other)), Some(pid)) if *other != pid => {
                answer = Err(anyhow::anyhow!("process {other} answers in its place, which is {pid}"));
            }
            (Ok(_), Some(_)) => return Ok(()),
            _ => {}
        }
        if Instant::now() > deadline {
            let why = answer.err().map(|e| format!("{e:#}")).unwrap_or_default();
            bail!("{name} does not answer after {patience:?}: {why}; the end of its log:\n{}", log_tail(dir, name));
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Gives the process that answers, where it says so.
pub(crate) async fn ask(probe: &ReadyProbe) -> Result<Option<u32>> {
    match probe {
        ReadyProbe::Livez(address) => Http::new(Duration::from_secs(1))?.process_at(address).await,
        ReadyProbe::Broker(url) => {
            let broker = broker::Broker::new(url, "/walfabric")?;
            let read = broker.get("/walfabric/ready");
            tokio::time::timeout(Duration::from_secs(1), read).await.context("no answer in time")??;
            Ok(None)
        }
        ReadyProbe::Postgres(conninfo) => {
            crate::sql::connect(conninfo).await?;
            Ok(None)
        }
    }
}

/// The last lines of a process's log.
pub fn log_tail(dir: &FabricDir, name: &str) -> String {
    let text = std::fs::read(dir.log(name)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(12)..).unwrap_or_default().join("\n")
}
