//! The command line of `walfabric status`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use node::exit;
use proto::id::{TenantId, TimelineId};

use super::{NodeSource, Only};

/// What `walfabric status` takes.
#[derive(Args)]
pub struct StatusOptions {
    /// Directory of a local fabric
    #[arg(long, conflicts_with = "broker", required_unless_present = "broker")]
    dir: Option<PathBuf>,
    /// URL of the broker
    #[arg(long)]
    broker: Option<String>,
    /// Key prefix on the broker
    #[arg(long, default_value = proto::broker::keys::DEFAULT_PREFIX)]
    broker_prefix: String,
    /// Print the status as JSON
    #[arg(long)]
    json: bool,
    /// Show this timeline only, whoever serves it
    #[arg(long)]
    timeline: Option<TimelineId>,
    /// Tenant of `--timeline`, needed when nobody serves it
    #[arg(long, requires = "timeline")]
    tenant: Option<TenantId>,
    /// Exit with 3 when anything is degraded
    #[arg(long)]
    check: bool,
}

impl StatusOptions {
    /// Prints every node; the exit code says with `--check` whether all is well.
    ///
    /// # Errors
    /// See [`super::collect`].
    pub async fn run(self) -> Result<u8> {
        let source = match (self.dir, self.broker) {
            (Some(dir), _) => NodeSource::Dir(dir),
            (None, url) => {
                NodeSource::Broker { url: url.context("--dir or --broker is needed")?, prefix: self.broker_prefix }
            }
        };
        let only = Only { timeline: self.timeline, tenant: self.tenant };
        let status = super::collect(&source, only).await?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&status)?);
        } else {
            print!("{}", status.render());
        }
        Ok(if self.check && status.degraded() { exit::NOT_READY } else { exit::OK })
    }
}
