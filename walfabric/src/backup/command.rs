//! The command line of `walfabric backup`, and what it shares with other commands that copy a cluster.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use node::exit;
use proto::id::{TenantId, TenantTimelineId, TimelineId};

use super::BackupRequest;
use super::when::When;
use crate::fabric::{Fabric, FabricDir};
use crate::page::find_server;
use crate::usage::UsageError;

/// Which cluster, as of when.
#[derive(Args)]
pub struct BackupSource {
    /// A local fabric, whose pageserver and timeline are taken where none is named
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
    /// The pageserver, host:port; its HTTP and its libpq port will do (each tells the other)
    #[arg(long)]
    pageserver: Option<String>,
    /// Tenant, 32 hex digits
    #[arg(long)]
    tenant: Option<TenantId>,
    /// Timeline, 32 hex digits
    #[arg(long)]
    timeline: Option<TimelineId>,
    /// As of an LSN, a time ('10 minutes ago', 2026-11-29T10:15:00Z) or a transaction (xid:734) [default: now]
    #[arg(long, value_name = "WHEN")]
    at: Option<When>,
}

/// What `walfabric backup` takes.
#[derive(Args)]
pub struct BackupOptions {
    #[command(flatten)]
    source: BackupSource,
    /// The directory to make; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Where a tablespace goes, as in pg_basebackup [default: TO_tablespaces/OID]
    #[arg(short = 'T', long, value_name = "OLD=NEW", value_parser = mapping)]
    tablespace_mapping: Vec<(PathBuf, PathBuf)>,
    /// Stay on the log's own tli: only for the one server that goes on with this log, when no other will
    #[arg(long)]
    same_tli: bool,
}

fn mapping(text: &str) -> Result<(PathBuf, PathBuf), String> {
    let (old, new) = text.split_once('=').ok_or("write OLD=NEW, two directories")?;
    let absolute = |p: &str| Some(PathBuf::from(p)).filter(|p| p.is_absolute());
    absolute(old).zip(absolute(new)).ok_or_else(|| "both directories must be absolute paths".to_owned())
}

impl BackupSource {
    fn fabric(&self) -> Result<Option<Fabric>> {
        self.dir.as_deref().map(|dir| FabricDir::new(dir)?.read_fabric()).transpose()
    }

    /// Where the fabric's PostgreSQL has its programs.
    ///
    /// # Errors
    /// When there is no such fabric.
    pub(crate) fn bin_dir(&self) -> Result<Option<PathBuf>> {
        Ok(self.fabric()?.and_then(|f| f.postgres).map(|pg| pg.bin_dir))
    }

    /// A copy of it to `to`.
    ///
    /// # Errors
    /// When no pageserver, tenant or timeline is named, or no pageserver answers.
    pub(crate) async fn request(&self, to: PathBuf) -> Result<BackupRequest> {
        let fabric = self.fabric()?;
        let missing = |what: &str| UsageError(format!("which {what}? Name it, or a local fabric with --dir"));
        let address = match (&self.pageserver, &fabric) {
            (Some(address), _) => address.clone(),
            (None, Some(fabric)) => fabric.pageservers.first().context("the fabric has no pageserver")?.http.clone(),
            (None, None) => return Err(missing("pageserver").into()),
        };
        let tenant = self.tenant.or(fabric.as_ref().map(|f| f.tenant_id)).ok_or_else(|| missing("tenant"))?;
        let timeline = self.timeline.or(fabric.as_ref().map(|f| f.timeline_id)).ok_or_else(|| missing("timeline"))?;
        Ok(BackupRequest {
            pageserver: find_server(&address).await?.pg,
            ttid: TenantTimelineId::new(tenant, timeline),
            at: self.at.clone(),
            same_tli: false,
            to,
            tablespaces: Vec::new(),
        })
    }
}

impl BackupOptions {
    /// Makes the directory, and says how to start a server on it.
    ///
    /// # Errors
    /// See [`super::run`].
    pub async fn run(self) -> Result<u8> {
        let request = BackupRequest {
            same_tli: self.same_tli,
            tablespaces: self.tablespace_mapping,
            ..self.source.request(self.to).await?
        };
        let started = std::time::Instant::now();
        let made = super::run(&request, &node::shutdown_on_signals()?).await?;
        let seconds = started.elapsed().as_secs_f64().max(1e-3);
        let mib = made.bytes as f64 / f64::from(1 << 20);
        println!("{}: everything up to {}, on tli {}", request.to.display(), made.lsn, made.tli);
        println!("{mib:.0} MiB in {seconds:.1} s, {:.0} MiB/s", mib / seconds);
        for space in &made.tablespaces {
            println!("tablespace in {}", space.display());
        }
        let to = request.to.display();
        if rustix::process::geteuid().is_root() {
            println!("it belongs to root, as whom PostgreSQL does not run: give it to the user who runs it, chown -R");
        }
        println!("pg_hba.conf lets only local users in. Start it: pg_ctl -D {to} -l {to}.log start");
        Ok(exit::OK)
    }
}
