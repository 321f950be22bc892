//! The command line of `walfabric wal`.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Subcommand;
use node::exit;

use super::{NOT_THERE, Outcome, STOP, WalSource};

/// What `walfabric wal` can do.
#[derive(Subcommand)]
pub enum WalCommand {
    /// For restore_command: write one file of pg_wal. Exit code 1: it does not exist; 126: stop the recovery
    Get {
        /// Name of a segment or history file: %f
        name: String,
        /// Where to write it: %p
        path: PathBuf,
        /// Where the members are.
        #[command(flatten)]
        source: WalSource,
    },
    /// Write a segment and every one behind it, with history files, into a directory
    Copy {
        /// Name of the first segment
        first: String,
        /// The directory, for instance the pg_wal of a restored base backup
        directory: PathBuf,
        /// Where the members are.
        #[command(flatten)]
        source: WalSource,
    },
}

impl WalCommand {
    /// Writes the file or the files; the exit code of `get` is for PostgreSQL's restore_command.
    ///
    /// # Errors
    /// Of `copy` only: see [`super::copy`].
    pub async fn run(self) -> Result<u8> {
        match self {
            WalCommand::Get { name, path, source } => Ok(get(&source, &name, &path).await),
            WalCommand::Copy { first, directory, source } => copy(&source, &first, &directory).await,
        }
    }
}

async fn get(source: &WalSource, name: &str, path: &Path) -> u8 {
    match super::get(source, name, path).await {
        Ok(Outcome::Written { .. }) => exit::OK,
        Ok(Outcome::NotThere(why)) => {
            eprintln!("walfabric: {name} does not exist: {why}");
            NOT_THERE
        }
        Err(e) => {
            eprintln!("walfabric: {name}: {e:#}");
            STOP
        }
    }
}

async fn copy(source: &WalSource, first: &str, directory: &Path) -> Result<u8> {
    for (name, outcome) in super::copy(source, first, directory).await? {
        if let Outcome::Written { from, upto } = outcome {
            println!("{name} from {from}{}", upto.map_or(String::new(), |upto| format!(", up to {upto}")));
        }
    }
    Ok(exit::OK)
}
