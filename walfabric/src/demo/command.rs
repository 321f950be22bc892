//! The command line of `walfabric demo`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use super::{Before, DemoArgs};

/// What `walfabric demo` takes.
#[derive(Args)]
pub struct DemoOptions {
    /// Directory of the fabric [default: a new one below the system's temporary directory]
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Directory of PostgreSQL's programs
    #[arg(long)]
    pub pg_bin: Option<PathBuf>,
    /// Leave the fabric running
    #[arg(long)]
    pub keep: bool,
    /// Seconds that setting up took before (`make demo` tells)
    #[arg(long, hide = true)]
    pub setup_seconds: Option<f64>,
    /// Seconds that building took before (`make demo` tells)
    #[arg(long, hide = true)]
    pub build_seconds: Option<f64>,
}

impl DemoOptions {
    /// Runs the demo; the exit code is 0 only if everything was proved.
    ///
    /// # Errors
    /// See [`super::run`].
    pub async fn run(self) -> Result<u8> {
        let before = Before { setup: self.setup_seconds, build: self.build_seconds };
        super::run(DemoArgs { dir: self.dir, pg_bin: self.pg_bin, keep: self.keep, before }).await
    }
}
