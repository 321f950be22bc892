//! What a failed `up` takes back: the processes that it started, and files that hold nobody's data.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};

use super::directory::LOGS;
use crate::fabric::{FabricDir, FabricPlan};
use crate::supervisor::{Client, STOP_ORDER, STOP_PATIENCE_S, SupervisorRequest};

/// How the fabric was before.
pub(super) struct Undo {
    /// Nothing was there: `up` has made the directory's files.
    fresh: bool,
    /// What ran; `None`: not even a supervisor.
    ran: Option<BTreeSet<String>>,
}

impl Undo {
    pub(super) fn begin(dir: &FabricDir, fresh: bool) -> Result<Undo> {
        Ok(Undo { fresh, ran: running(dir)? })
    }

    /// Stops what did not run before, removes what was made in vain, and says both with the cause.
    pub(super) fn back(&self, dir: &FabricDir, cause: &anyhow::Error) -> anyhow::Error {
        let logs = dir.root().join(LOGS);
        let mut done = match self.stop(dir) {
            Ok(None) => "everything that it had started is stopped again".to_owned(),
            Ok(Some(note)) => format!("everything that it had started is stopped again, though {note}"),
            Err(e) => return anyhow::anyhow!("{cause:#}\nnot everything that it had started could be stopped: {e:#}"),
        };
        done += &match self.remove(dir) {
            Ok(true) => format!(", and nothing but the logs in {} is left", logs.display()),
            Ok(false) => format!(
                "; the same command goes on from here (logs: {}; remove {} to begin anew)",
                logs.display(),
                dir.root().display()
            ),
            Err(e) => format!(", but what it had made could not be removed: {e:#}"),
        };
        anyhow::anyhow!("{cause:#}\nthe fabric is not up: {done}")
    }

    /// Gives what did not go in order.
    fn stop(&self, dir: &FabricDir) -> Result<Option<String>> {
        let Some(now) = running(dir)? else { return Ok(None) };
        let mut client = Client::connect(dir).context("the supervisor is gone")?;
        let Some(before) = &self.ran else {
            return Ok(client.down(STOP_PATIENCE_S)?.error);
        };
        let mut notes = Vec::new();
        for prefix in STOP_ORDER {
            for name in now.difference(before).filter(|name| name.starts_with(prefix)) {
                let request = SupervisorRequest::Stop { name: name.clone(), patience_s: STOP_PATIENCE_S };
                notes.extend(client.ask(&request)?.error);
            }
        }
        let left: Vec<_> = running(dir)?.unwrap_or_default().difference(before).cloned().collect();
        ensure!(left.is_empty(), "{} still run", left.join(", "));
        Ok((!notes.is_empty()).then(|| notes.join("; ")))
    }

    /// True when it was made in vain and is gone. Once there is a cluster, nothing is removed: others may have used it.
    fn remove(&self, dir: &FabricDir) -> Result<bool> {
        let fabric = dir.read_fabric()?;
        if !self.fresh || fabric.postgres.is_some_and(|pg| pg.data_dir.exists()) {
            return Ok(false);
        }
        // First: without it the rest is no fabric, should this be interrupted.
        std::fs::remove_file(dir.fabric_json())?;
        for entry in std::fs::read_dir(dir.root())? {
            let entry = entry?;
            if entry.file_name() == LOGS || entry.file_name() == "lost+found" {
                continue;
            }
            let path = entry.path();
            let removed =
                if entry.file_type()?.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            match removed {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => bail!("{}: {e}", path.display()),
                _ => {}
            }
        }
        Ok(true)
    }
}

/// Names of the processes that run; `None` without a supervisor.
fn running(dir: &FabricDir) -> Result<Option<BTreeSet<String>>> {
    let Some(mut client) = Client::connect(dir) else { return Ok(None) };
    let FabricPlan { processes, .. } = dir.read_plan()?;
    let mut running = BTreeSet::new();
    for name in processes.into_keys() {
        if client.ask(&SupervisorRequest::Probe { name: name.clone() })?.pid.is_some() {
            running.insert(name);
        }
    }
    Ok(Some(running))
}
