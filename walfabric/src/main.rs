//! `walfabric`: the operator's binary; also runs every server as a subcommand, so that one file can be shipped.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use node::{exit, server::ServerWords};
use walfabric::backup::command::BackupOptions;
use walfabric::broker::BrokerOptions;
use walfabric::demo::{self, command::DemoOptions};
use walfabric::env;
use walfabric::fabric::FabricDir;
use walfabric::look::LookOptions;
use walfabric::page::command::PageCommand;
use walfabric::root;
use walfabric::status::command::StatusOptions;
use walfabric::supervisor::{self, STOP_PATIENCE_S};
use walfabric::timeline::command::TimelineCommand;
use walfabric::up::command::UpOptions;
use walfabric::usage::UsageError;
use walfabric::verbs::{self, DirOptions, DownOptions, NameOptions, StopOptions, Verb};
use walfabric::wal::{self, command::WalCommand};

/// Quorum-durable, branchable storage for an unmodified PostgreSQL.
#[derive(Parser)]
#[command(name = "walfabric", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: WalfabricCommand,
}

#[derive(Subcommand)]
enum WalfabricCommand {
    /// Make or resume a local fabric and wait until it protects commits
    Up(UpOptions),
    /// Start one process of a fabric and wait until it answers
    Start(NameOptions),
    /// Stop one process of a fabric in order
    Stop(StopOptions),
    /// SIGKILL one process of a fabric and its descendants
    Kill(NameOptions),
    /// Take a fabric down, PostgreSQL first
    Down(DownOptions),
    /// Show every node, dead or alive
    Status(StatusOptions),
    /// Print addresses and ids of a fabric as shell commands: eval "$(walfabric env --dir DIR)"
    Env(DirOptions),
    /// Create, protect, list, show and delete timelines
    #[command(subcommand)]
    Timeline(TimelineCommand),
    /// Write a timeline's WAL as segment files
    #[command(subcommand)]
    Wal(WalCommand),
    /// Read pages from a pageserver
    #[command(subcommand)]
    Page(PageCommand),
    /// Make a data directory as of any moment, which PostgreSQL starts on without recovery
    Backup(BackupOptions),
    /// psql on the cluster as of a past moment: a copy with a server of its own, gone at the end
    Psql(LookOptions),
    /// pg_dump of the cluster as of a past moment, in the same way
    Dump(LookOptions),
    /// Run the embedded broker (etcd v3 API)
    Broker(BrokerOptions),
    /// Run the main job with kills and prove that nothing was lost
    Demo(DemoOptions),
    /// Run a safekeeper
    Safekeeper(ServerWords),
    /// Run a pageserver
    Pageserver(ServerWords),
    /// Run the shim between a primary and its safekeepers
    WalproposerShim(ServerWords),
    /// Parent of a local fabric's processes (started by `up`)
    #[command(hide = true)]
    Supervise(DirOptions),
}

fn main() -> ExitCode {
    // PostgreSQL takes an exit code up to 125 of its restore_command for "there is no more WAL": whatever goes wrong
    // there must be above.
    let restoring = std::env::args().skip(1).take(2).eq(["wal", "get"].map(str::to_owned));
    if restoring {
        std::panic::set_hook(Box::new(|panic| {
            eprintln!("walfabric: {panic}");
            std::process::exit(i32::from(wal::STOP));
        }));
    }
    let cli = match Cli::try_parse() {
        Err(e) if restoring && e.use_stderr() => {
            // Nobody else can be told that even this failed.
            let _ = e.print();
            return ExitCode::from(wal::STOP);
        }
        parsed => parsed.unwrap_or_else(|e| e.exit()),
    };
    if let Err(e) = step_down(&cli.command) {
        return ExitCode::from(exit_code(Err(e)));
    }
    // The supervisor is plain threads: it must not share a process with a runtime.
    if let WalfabricCommand::Supervise(o) = &cli.command {
        let supervised = FabricDir::new(&o.dir).and_then(|dir| supervisor::supervise(&dir));
        return ExitCode::from(exit_code(supervised.map(|()| exit::OK)));
    }
    node::block_on("walfabric", async { exit_code(run(cli.command).await) })
}

/// Root runs no fabric: whatever acts on one is done by the fabric's user.
fn step_down(command: &WalfabricCommand) -> Result<()> {
    let there = |dir| root::Asked { dir, pg_bin: None, makes: None };
    let default_dir = demo::default_dir();
    let asked = match command {
        WalfabricCommand::Up(o) => root::Asked {
            dir: &o.dir,
            pg_bin: o.pg_bin.as_deref(),
            makes: Some(root::Makes { run_as: o.run_as.as_deref(), remote_storage: o.remote_storage.as_deref() }),
        },
        WalfabricCommand::Demo(o) => root::Asked {
            dir: o.dir.as_deref().unwrap_or(&default_dir),
            pg_bin: o.pg_bin.as_deref(),
            makes: Some(root::Makes::default()),
        },
        WalfabricCommand::Start(o) | WalfabricCommand::Kill(o) => there(&o.dir),
        WalfabricCommand::Stop(o) => there(&o.process.dir),
        WalfabricCommand::Down(o) => there(&o.dir),
        WalfabricCommand::Supervise(o) => there(&o.dir),
        WalfabricCommand::Psql(o) | WalfabricCommand::Dump(o) => match o.dir() {
            Some(dir) => there(dir),
            None => return Ok(()),
        },
        _ => return Ok(()),
    };
    root::step_down(&asked)
}

fn exit_code(result: Result<u8>) -> u8 {
    result.unwrap_or_else(|e| {
        eprintln!("walfabric: {e:#}");
        if e.root_cause().is::<UsageError>() { exit::USAGE } else { exit::ERROR }
    })
}

async fn run(command: WalfabricCommand) -> Result<u8> {
    match command {
        WalfabricCommand::Up(o) => o.run().await,
        WalfabricCommand::Start(o) => verbs::run(&o.dir, Verb::Start, &o.name, STOP_PATIENCE_S).await,
        WalfabricCommand::Stop(o) => verbs::run(&o.process.dir, Verb::Stop, &o.process.name, o.wait_s).await,
        WalfabricCommand::Kill(o) => verbs::run(&o.dir, Verb::Kill, &o.name, STOP_PATIENCE_S).await,
        WalfabricCommand::Down(o) => verbs::down(&o.dir, o.wait_s).await,
        WalfabricCommand::Status(o) => o.run().await,
        WalfabricCommand::Env(o) => env::run(&o.dir),
        WalfabricCommand::Timeline(command) => command.run().await,
        WalfabricCommand::Wal(command) => command.run().await,
        WalfabricCommand::Page(command) => command.run().await,
        WalfabricCommand::Backup(o) => o.run().await,
        WalfabricCommand::Psql(o) => o.run("psql").await,
        WalfabricCommand::Dump(o) => o.run("pg_dump").await,
        WalfabricCommand::Broker(o) => o.run().await,
        WalfabricCommand::Demo(o) => o.run().await,
        WalfabricCommand::Safekeeper(o) => Ok(safekeeper::run(&o.words).await),
        WalfabricCommand::Pageserver(o) => Ok(pageserver::run(&o.words).await),
        WalfabricCommand::WalproposerShim(o) => Ok(walproposer_shim::run(&o.words).await),
        WalfabricCommand::Supervise(_) => unreachable!("handled before the runtime starts"),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_question_is_told_apart_from_what_went_wrong() {
        assert_eq!(exit_code(Ok(exit::NOT_READY)), exit::NOT_READY);
        assert_eq!(exit_code(Err(anyhow::anyhow!("the broker is away"))), exit::ERROR);
        let usage = anyhow::Error::from(UsageError("no such option of initdb".to_owned())).context("--initdb-option");
        assert_eq!(exit_code(Err(usage)), exit::USAGE);
    }
}
