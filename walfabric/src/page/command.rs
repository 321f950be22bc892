//! The command line of `walfabric page`.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use node::exit;
use pgformat::Lsn;
use pgformat::rel::{BlockTag, RelFork};
use proto::id::{TenantId, TenantTimelineId, TimelineId};

use super::remote::Remote;
use super::verify;

/// What `walfabric page` can do.
#[derive(Subcommand)]
pub enum PageCommand {
    /// Write one page, 8192 bytes, to standard output
    Get(PageGetOptions),
    /// Compare every page of a stopped cluster with a pageserver; exit code 5 when they differ
    Verify(PageVerifyOptions),
}

impl PageCommand {
    /// Writes the page or the report; the exit code says whether all pages are equal.
    ///
    /// # Errors
    /// When the pageserver or the data directory cannot be read.
    pub async fn run(self) -> Result<u8> {
        match self {
            PageCommand::Get(options) => options.run().await,
            PageCommand::Verify(options) => options.run().await,
        }
    }
}

/// Which pageserver and timeline.
#[derive(Args)]
pub struct PageSource {
    /// The pageserver, host:port; its HTTP and its libpq port will do (each tells the other)
    #[arg(long)]
    pageserver: String,
    /// Tenant, 32 hex digits
    #[arg(long)]
    tenant: TenantId,
    /// Timeline, 32 hex digits
    #[arg(long)]
    timeline: TimelineId,
    /// How long the pageserver may wait for an LSN that has not reached it
    #[arg(long, default_value_t = 60_000)]
    wait_ms: u64,
}

/// What `walfabric page get` takes.
#[derive(Args)]
pub struct PageGetOptions {
    #[command(flatten)]
    source: PageSource,
    /// TABLESPACE/DATABASE/RELFILENODE, with _vm, _fsm or _init behind it for another fork
    #[arg(long)]
    rel: RelFork,
    /// Number of the block in the fork
    #[arg(long)]
    block: u32,
    /// The page as of exactly this LSN [default: the latest that the pageserver has]
    #[arg(long)]
    lsn: Option<Lsn>,
}

impl PageGetOptions {
    async fn run(self) -> Result<u8> {
        let server = super::find_server(&self.source.pageserver).await?;
        let ttid = TenantTimelineId::new(self.source.tenant, self.source.timeline);
        let tag = BlockTag { fork: self.rel, blk: self.block };
        let bytes = super::get(&server, ttid, tag, self.lsn, Duration::from_millis(self.source.wait_ms)).await?;
        let mut out = std::io::stdout().lock();
        out.write_all(&bytes).and_then(|()| out.flush()).context("the page cannot be written")?;
        Ok(exit::OK)
    }
}

/// What `walfabric page verify` takes.
#[derive(Args)]
pub struct PageVerifyOptions {
    #[command(flatten)]
    source: PageSource,
    /// Data directory of the cluster, which was shut down cleanly
    #[arg(long)]
    data_dir: PathBuf,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

impl PageVerifyOptions {
    async fn run(self) -> Result<u8> {
        let local = verify::read_local(&self.data_dir).await?;
        let server = super::find_server(&self.source.pageserver).await?;
        let ttid = TenantTimelineId::new(self.source.tenant, self.source.timeline);
        let wait = Duration::from_millis(self.source.wait_ms);
        let mut remote = Remote::open(server, ttid, local.lsn, wait).await?;
        let report = verify::verify(&local, &mut remote).await?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
        } else {
            print!("{}", report.render());
        }
        Ok(if report.equal { exit::OK } else { exit::CORRUPTION })
    }
}
