//! The command line of `walfabric up`.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use node::exit;

use super::UpArgs;
use crate::postgres::InitdbOptions;
use crate::supervisor::STOP_PATIENCE_S;
use crate::usage::UsageError;
use crate::verbs;

/// What `walfabric up` takes.
#[derive(Args)]
pub struct UpOptions {
    /// Directory of the fabric; made if missing, resumed if not
    #[arg(long)]
    pub dir: PathBuf,
    /// Number of safekeepers [default: 3]
    #[arg(long)]
    pub safekeepers: Option<u64>,
    /// Number of pageservers [default: 1]
    #[arg(long)]
    pub pageservers: Option<u64>,
    /// `embedded` or the URL of an etcd [default: embedded]
    #[arg(long)]
    pub broker: Option<String>,
    /// Directory of PostgreSQL's programs [default: found by itself, 15 preferred]
    #[arg(long)]
    pub pg_bin: Option<PathBuf>,
    /// Where pageservers keep pages, s3://bucket/prefix or file:///dir [default: in the fabric's directory]
    #[arg(long)]
    pub remote_storage: Option<String>,
    /// Neither PostgreSQL nor shim
    #[arg(long)]
    pub no_postgres: bool,
    #[command(flatten)]
    initdb: InitdbFlags,
    /// For root: the user who runs all processes and owns the directory [default: postgres]
    #[arg(long, value_name = "USER")]
    pub run_as: Option<String>,
    /// Return once the fabric is up, and leave it running
    #[arg(long)]
    pub detach: bool,
    /// Restart processes that die by themselves
    #[arg(long)]
    pub supervise: bool,
}

/// How the cluster is made, beside what `up` decides by itself.
#[derive(Args)]
pub struct InitdbFlags {
    /// Size of the cluster's WAL segments in MiB, a power of two from 1 to 1024 [default: 16]
    #[arg(long, value_name = "MB", conflicts_with = "no_postgres")]
    wal_segsize: Option<u32>,
    /// Whether the cluster's pages have checksums [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", conflicts_with = "no_postgres")]
    data_checksums: Option<bool>,
    /// Encoding of the cluster's databases [default: UTF8]
    #[arg(long, conflicts_with = "no_postgres")]
    encoding: Option<String>,
    /// Locale of the cluster's databases [default: C.UTF-8]
    #[arg(long, conflicts_with = "no_postgres")]
    locale: Option<String>,
    /// Another long option of initdb, as --initdb-option=--name=value; may be given more than once
    #[arg(long, value_name = "OPTION", allow_hyphen_values = true, conflicts_with = "no_postgres")]
    initdb_option: Vec<String>,
}

impl InitdbFlags {
    fn options(self) -> Result<InitdbOptions, UsageError> {
        let mut words = Vec::new();
        words.extend(self.wal_segsize.map(|mb| format!("--wal-segsize={mb}")));
        words.extend(
            self.data_checksums.map(|on| if on { "--data-checksums" } else { "--no-data-checksums" }.to_owned()),
        );
        words.extend(self.encoding.map(|name| format!("--encoding={name}")));
        words.extend(self.locale.map(|name| format!("--locale={name}")));
        words.extend(self.initdb_option);
        InitdbOptions::new(words)
    }
}

impl UpOptions {
    /// Brings the fabric up; without `--detach` runs until it is interrupted, and takes it down. Gives the exit code.
    ///
    /// # Errors
    /// When the fabric does not come up, or does not go down.
    pub async fn run(self) -> Result<u8> {
        let args = UpArgs {
            dir: self.dir,
            safekeepers: self.safekeepers,
            pageservers: self.pageservers,
            broker: self.broker,
            pg_bin: self.pg_bin,
            remote_storage: self.remote_storage,
            no_postgres: self.no_postgres,
            initdb: self.initdb.options()?,
            run_as: self.run_as,
            supervise: self.supervise,
        };
        let interrupted = node::shutdown_on_signals()?;
        let fabric = super::up(&args, &interrupted).await?;
        if let Some(pg) = &fabric.postgres {
            println!("connect with: psql '{}'", pg.conninfo());
        }
        if self.detach {
            return Ok(exit::OK);
        }
        println!("running; Ctrl-C takes it down");
        interrupted.cancelled().await;
        verbs::down(&args.dir, STOP_PATIENCE_S).await
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        up: UpOptions,
    }

    fn up(words: &[&str]) -> Result<UpOptions, clap::Error> {
        let line = ["up", "--dir", "/fabric"].iter().chain(words);
        Line::try_parse_from(line).map(|line| line.up)
    }

    #[test]
    fn what_the_cluster_is_made_with_becomes_options_of_initdb() {
        let options = |words: &[&str]| up(words).expect("flags").initdb.options().map_err(|UsageError(why)| why);
        let given = |words: &[&str]| InitdbOptions::new(words.iter().map(|w| (*w).to_owned()).collect()).expect("fine");
        assert_eq!(options(&[]), Ok(given(&[])));
        assert_eq!(options(&["--wal-segsize", "64"]), Ok(given(&["--wal-segsize=64"])));
        assert_eq!(options(&["--data-checksums"]), Ok(given(&["--data-checksums"])), "a flag alone means yes");
        assert_eq!(options(&["--data-checksums=false"]), Ok(given(&["--no-data-checksums"])));
        assert_eq!(options(&["--initdb-option=--lc-collate=C"]), Ok(given(&["--lc-collate=C"])));
        assert!(options(&["--initdb-option=--pgdata=/elsewhere"]).is_err(), "up decides that");
        assert!(up(&["--no-postgres", "--encoding", "LATIN1"]).is_err(), "there is no cluster then");
    }
}
