//! The files that describe a local fabric: `fabric.json`, which outside tools read, and `plan.json`, which says how
//! each process is started. Only the supervisor writes them while it runs; both are replaced by rename, so a reader
//! never sees half a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use disk::FsDisk;
use proto::id::{TenantId, TimelineId};
use serde::{Deserialize, Serialize};

use crate::postgres::InitdbOptions;

/// `fabric.json`, schema 1: fields may be added, never renamed. A `pid` is null while the process does not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fabric {
    /// Version of this form, always 1.
    pub schema: u32,
    /// Where positions and choices are published.
    pub broker: BrokerEntry,
    /// The fabric's tenant.
    pub tenant_id: TenantId,
    /// The fabric's timeline.
    pub timeline_id: TimelineId,
    /// The primary; null with `--no-postgres`.
    pub postgres: Option<PostgresEntry>,
    /// The shim; null with `--no-postgres`.
    pub shim: Option<ShimEntry>,
    /// Safekeepers by id.
    pub safekeepers: Vec<NodeEntry>,
    /// Pageservers by id.
    pub pageservers: Vec<NodeEntry>,
    /// Where pages are stored, if not in the fabric's own directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_storage: Option<String>,
}

/// The broker of a fabric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerEntry {
    /// URL of its etcd v3 API.
    pub endpoint: String,
    /// What all keys of the fabric begin with.
    pub prefix: String,
    /// Whether it is the built-in one, run by this fabric.
    pub embedded: bool,
    /// Process id of the embedded broker.
    pub pid: Option<u32>,
}

/// The PostgreSQL primary of a fabric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresEntry {
    /// Host to connect to.
    pub host: String,
    /// Port to connect to.
    pub port: u16,
    /// Name of the superuser.
    pub user: String,
    /// Database to connect to.
    pub dbname: String,
    /// The cluster's data directory (PGDATA).
    pub data_dir: PathBuf,
    /// Directory of the PostgreSQL programs.
    pub bin_dir: PathBuf,
    /// What the cluster is made with, beside what `up` needs.
    #[serde(default, skip_serializing_if = "InitdbOptions::is_empty")]
    pub initdb: InitdbOptions,
    /// Process id of the postmaster.
    pub pid: Option<u32>,
}

impl PostgresEntry {
    /// libpq connection string.
    pub fn conninfo(&self) -> String {
        format!("host={} port={} user={} dbname={}", self.host, self.port, self.user, self.dbname)
    }
}

/// The shim of a fabric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimEntry {
    /// Address of its HTTP port, host:port.
    pub http: String,
    /// Process id; null while it does not run.
    pub pid: Option<u32>,
}

/// A safekeeper or pageserver of a fabric.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEntry {
    /// Number of the node among its kind.
    pub id: u64,
    /// Address of its libpq port, host:port.
    pub pg: String,
    /// Address of its HTTP port, host:port.
    pub http: String,
    /// Directory of its files.
    pub data_dir: PathBuf,
    /// Process id; null while it does not run.
    pub pid: Option<u32>,
}

/// How one process is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessPlan {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// How `stop` asks it to end.
    pub stop: StopStyle,
    /// What tells that it answers.
    pub ready: ReadyProbe,
}

/// How a process is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopStyle {
    /// SIGTERM, then SIGKILL when it takes too long.
    Terminate,
    /// PostgreSQL: SIGINT (fast), SIGQUIT (immediate) after 30 seconds.
    Postgres,
}

/// What tells that a process answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadyProbe {
    /// `GET /livez` at this address answers 200.
    Livez(String),
    /// PostgreSQL at this connection string accepts connections.
    Postgres(String),
    /// This broker URL answers a read.
    Broker(String),
}

/// `plan.json`: process name to plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct FabricPlan {
    /// By name: broker, safekeeper-N, pageserver-N, shim, postgres.
    pub processes: BTreeMap<String, ProcessPlan>,
    /// Whether the supervisor restarts what died by itself.
    pub supervise: bool,
}

/// The paths inside a fabric directory.
#[derive(Clone, Debug)]
pub struct FabricDir {
    root: PathBuf,
}

impl FabricDir {
    /// The fabric in `dir`; made absolute, since processes run elsewhere.
    ///
    /// # Errors
    /// When the current directory is gone.
    pub fn new(dir: &Path) -> Result<FabricDir> {
        Ok(FabricDir { root: std::path::absolute(dir).context("cannot make the directory's path absolute")? })
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Path of `fabric.json` in the directory.
    pub fn fabric_json(&self) -> PathBuf {
        self.root.join("fabric.json")
    }

    /// Path of `plan.json` in the directory.
    pub fn plan_json(&self) -> PathBuf {
        self.root.join("plan.json")
    }

    /// Log of process `name`.
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.join("log").join(format!("{name}.log"))
    }

    /// Data directory of process `name`.
    pub fn data(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Reads `fabric.json`.
    ///
    /// # Errors
    /// When it is missing (no fabric there) or not of schema 1.
    pub fn read_fabric(&self) -> Result<Fabric> {
        let path = self.fabric_json();
        let text = std::fs::read(&path)
            .with_context(|| format!("no fabric in {}: run `walfabric up --dir {0}` first", self.root.display()))?;
        let fabric: Fabric =
            serde_json::from_slice(&text).with_context(|| format!("{} is not a fabric description", path.display()))?;
        anyhow::ensure!(fabric.schema == 1, "{} has schema {}, this program knows 1", path.display(), fabric.schema);
        Ok(fabric)
    }

    /// Reads `plan.json`.
    ///
    /// # Errors
    /// When it is missing or malformed.
    pub fn read_plan(&self) -> Result<FabricPlan> {
        let path = self.plan_json();
        let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is malformed", path.display()))
    }

    /// Replaces `fabric.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_fabric(&self, fabric: &Fabric) -> Result<()> {
        replace(&self.fabric_json(), serde_json::to_vec_pretty(fabric)?)
    }

    /// Replaces `plan.json`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_plan(&self, plan: &FabricPlan) -> Result<()> {
        replace(&self.plan_json(), serde_json::to_vec_pretty(plan)?)
    }
}

fn replace(path: &Path, mut json: Vec<u8>) -> Result<()> {
    json.push(b'\n');
    disk::write_durably(&FsDisk, path, &json).with_context(|| format!("cannot write {}", path.display()))
}

impl Fabric {
    /// Sets the process id of `name`; names without an entry are ignored.
    pub fn set_pid(&mut self, name: &str, pid: Option<u32>) {
        let numbered = |prefix: &str| name.strip_prefix(prefix).and_then(|n| n.parse::<u64>().ok());
        if name == "broker" {
            self.broker.pid = pid;
        } else if name == "postgres" {
            self.postgres.iter_mut().for_each(|p| p.pid = pid);
        } else if name == "shim" {
            self.shim.iter_mut().for_each(|s| s.pid = pid);
        } else if let Some(id) = numbered("safekeeper-") {
            self.safekeepers.iter_mut().filter(|s| s.id == id).for_each(|s| s.pid = pid);
        } else if let Some(id) = numbered("pageserver-") {
            self.pageservers.iter_mut().filter(|s| s.id == id).for_each(|s| s.pid = pid);
        }
    }

    /// Every process id that the file names, with the process's name.
    pub fn pids(&self) -> Vec<(String, u32)> {
        let mut all = Vec::new();
        all.extend(self.postgres.iter().filter_map(|p| Some(("postgres".to_owned(), p.pid?))));
        all.extend(self.shim.iter().filter_map(|s| Some(("shim".to_owned(), s.pid?))));
        all.extend(self.safekeepers.iter().filter_map(|s| Some((format!("safekeeper-{}", s.id), s.pid?))));
        all.extend(self.pageservers.iter().filter_map(|p| Some((format!("pageserver-{}", p.id), p.pid?))));
        all.extend(self.broker.pid.map(|pid| ("broker".to_owned(), pid)));
        all
    }
}
