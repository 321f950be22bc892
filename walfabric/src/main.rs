//! `walfabric`: the operator's binary; also runs every server as a subcommand, so that one file can be shipped.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use brokerd::{BrokerLimits, CONNECTIONS_MAX, QUOTA_BYTES};
use clap::{Args, Parser, Subcommand};
use libpq::{ConnectOptions, Environment};
use node::{exit, server::ServerWords};
use pgformat::Lsn;
use pgformat::rel::{BlockTag, RelFork};
use proto::id::{TenantId, TenantTimelineId, TimelineId};
use walfabric::postgres::InitdbOptions;
use walfabric::status::Source;
use walfabric::supervisor::STOP_PATIENCE_S;
use walfabric::verbs::Verb;
use walfabric::wal::{Outcome, WalSource};
use walfabric::{
    demo, env, fabric::FabricDir, fabric::Usage, page, protect, readmit, root, sql, status, supervisor, timeline, up,
    verbs, wal,
};

/// Quorum-durable, branchable storage for an unmodified PostgreSQL.
#[derive(Parser)]
#[command(name = "walfabric", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
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
    /// Manage timelines
    #[command(subcommand)]
    Timeline(TimelineCommand),
    /// Write a timeline's WAL as segment files
    #[command(subcommand)]
    Wal(WalCommand),
    /// Read pages from a pageserver
    #[command(subcommand)]
    Page(PageCommand),
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

#[derive(Args)]
struct DirOptions {
    /// Directory of the fabric
    #[arg(long)]
    dir: PathBuf,
}

#[derive(Args)]
struct NameOptions {
    /// Directory of the fabric
    #[arg(long)]
    dir: PathBuf,
    /// safekeeper-N, pageserver-N, shim, postgres or broker
    name: String,
}

#[derive(Args)]
struct StopOptions {
    #[command(flatten)]
    process: NameOptions,
    /// Seconds until what does not end in order is made to: PostgreSQL by an immediate shutdown, others by SIGKILL
    #[arg(long, default_value_t = STOP_PATIENCE_S)]
    wait_s: u64,
}

#[derive(Args)]
struct DownOptions {
    /// Directory of the fabric
    #[arg(long)]
    dir: PathBuf,
    /// Seconds until a process that does not end in order is made to, as with `stop`
    #[arg(long, default_value_t = STOP_PATIENCE_S)]
    wait_s: u64,
}

#[derive(Args)]
struct UpOptions {
    /// Directory of the fabric; made if missing, resumed if not
    #[arg(long)]
    dir: PathBuf,
    /// Number of safekeepers [default: 3]
    #[arg(long)]
    safekeepers: Option<u64>,
    /// Number of pageservers [default: 1]
    #[arg(long)]
    pageservers: Option<u64>,
    /// `embedded` or the URL of an etcd [default: embedded]
    #[arg(long)]
    broker: Option<String>,
    /// Directory of PostgreSQL's programs [default: found by itself, 15 preferred]
    #[arg(long)]
    pg_bin: Option<PathBuf>,
    /// Where pageservers keep pages, s3://bucket/prefix or file:///dir [default: in the fabric's directory]
    #[arg(long)]
    remote_storage: Option<String>,
    /// Neither PostgreSQL nor shim
    #[arg(long)]
    no_postgres: bool,
    #[command(flatten)]
    initdb: InitdbFlags,
    /// For root: the user who runs all processes and owns the directory [default: postgres]
    #[arg(long, value_name = "USER")]
    run_as: Option<String>,
    /// Return once the fabric is up, and leave it running
    #[arg(long)]
    detach: bool,
    /// Restart processes that die by themselves
    #[arg(long)]
    supervise: bool,
}

#[derive(Args)]
struct InitdbFlags {
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
    fn options(self) -> Result<InitdbOptions, Usage> {
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

#[derive(Args)]
struct StatusOptions {
    /// Directory of a local fabric
    #[arg(long, conflicts_with = "broker", required_unless_present = "broker")]
    dir: Option<PathBuf>,
    /// URL of the broker
    #[arg(long)]
    broker: Option<String>,
    /// Key prefix on the broker
    #[arg(long, default_value = proto::broker::keys::DEFAULT_PREFIX)]
    broker_prefix: String,
    /// Print JSON
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

#[derive(Subcommand)]
enum TimelineCommand {
    /// Create a timeline for a primary: slot, members, pageservers; repeating it changes nothing
    Create(CreateOptions),
    /// As create, and the pageservers copy the running cluster, so that they serve its pages; shows the progress
    Import(CreateOptions),
    /// Make commits wait for the quorum: set synchronous_standby_names on the primary, once its shim streams
    Protect(ProtectOptions),
    /// Make commits wait no longer, and restore the setting that `protect --replace` replaced
    Unprotect(UnprotectOptions),
    /// List every timeline that the broker or a living node knows, half-made ones too
    List(TimelineBroker),
    /// Show one timeline as JSON: its record, its shim, what each node holds
    Show(TimelineShowOptions),
    /// Delete a timeline: pages, WAL, records on the broker, and with --primary its slots
    Delete(TimelineDeleteOptions),
    /// Ask a member that forgot what it promised what it waits for; with --force it takes part again as it is
    Readmit(ReadmitOptions),
}

#[derive(Subcommand)]
enum WalCommand {
    /// For restore_command: write one file of pg_wal. Exit code 1: it does not exist; 126: stop the recovery
    Get {
        /// Name of a segment or history file: %f
        name: String,
        /// Where to write it: %p
        path: PathBuf,
        #[command(flatten)]
        source: WalSource,
    },
    /// Write a segment and every one behind it, with history files, into a directory
    Copy {
        /// Name of the first segment
        first: String,
        /// The directory, for instance the pg_wal of a restored base backup
        directory: PathBuf,
        #[command(flatten)]
        source: WalSource,
    },
}

#[derive(Subcommand)]
enum PageCommand {
    /// Write one page, 8192 bytes, to standard output
    Get(PageGetOptions),
    /// Compare every page of a stopped cluster with a pageserver; exit code 5 when they differ
    Verify(PageVerifyOptions),
}

#[derive(Args)]
struct PageSource {
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

#[derive(Args)]
struct PageGetOptions {
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

#[derive(Args)]
struct PageVerifyOptions {
    #[command(flatten)]
    source: PageSource,
    /// Data directory of the cluster, which was shut down cleanly
    #[arg(long)]
    data_dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct CreateOptions {
    /// libpq connection string of the primary (a superuser, or REPLICATION with pg_monitor)
    #[arg(long, visible_alias = "from", value_name = "CONNINFO")]
    primary: String,
    /// URL of the broker
    #[arg(long)]
    broker: String,
    /// Key prefix on the broker
    #[arg(long, default_value = proto::broker::keys::DEFAULT_PREFIX)]
    broker_prefix: String,
    /// Tenant, 32 hex digits [default: random]
    #[arg(long)]
    tenant_id: Option<TenantId>,
    /// Timeline, 32 hex digits [default: random]
    #[arg(long)]
    timeline_id: Option<TimelineId>,
    /// Members by node id [default: every safekeeper on the broker]
    #[arg(long, value_delimiter = ',')]
    safekeepers: Vec<u64>,
    /// Pageservers by node id [default: every pageserver on the broker]
    #[arg(long, value_delimiter = ',')]
    pageservers: Vec<u64>,
}

#[derive(Args)]
struct ProtectOptions {
    /// libpq connection string of the primary: a superuser, or a role that may ALTER SYSTEM this setting and reload
    #[arg(long, required_unless_present = "print")]
    primary: Option<String>,
    /// Timeline, 32 hex digits
    #[arg(long)]
    timeline_id: TimelineId,
    /// HTTP address of the shim, host:port, for its own reasons when it does not stream
    #[arg(long, value_name = "HOST:PORT")]
    shim: Option<String>,
    /// Replace a setting that names others; `unprotect` restores it
    #[arg(long)]
    replace: bool,
    /// Only print the line for postgresql.conf
    #[arg(long)]
    print: bool,
    /// How long to wait for the shim, seconds
    #[arg(long, default_value_t = 60)]
    wait_s: u64,
}

#[derive(Args)]
struct TimelineBroker {
    /// URL of the broker
    #[arg(long)]
    broker: String,
    /// Key prefix on the broker
    #[arg(long, default_value = proto::broker::keys::DEFAULT_PREFIX)]
    broker_prefix: String,
}

#[derive(Args)]
struct TimelineIds {
    /// Tenant, 32 hex digits
    #[arg(long)]
    tenant_id: TenantId,
    /// Timeline, 32 hex digits
    #[arg(long)]
    timeline_id: TimelineId,
}

impl TimelineIds {
    fn ttid(&self) -> TenantTimelineId {
        TenantTimelineId::new(self.tenant_id, self.timeline_id)
    }
}

#[derive(Args)]
struct TimelineShowOptions {
    #[command(flatten)]
    broker: TimelineBroker,
    #[command(flatten)]
    ids: TimelineIds,
}

#[derive(Args)]
struct TimelineDeleteOptions {
    #[command(flatten)]
    broker: TimelineBroker,
    #[command(flatten)]
    ids: TimelineIds,
    /// libpq connection string of the primary, whose two slots are dropped
    #[arg(long, value_name = "CONNINFO")]
    primary: Option<String>,
    /// Also while it is written, or while nodes are away
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
struct UnprotectOptions {
    /// libpq connection string of the primary: a superuser, or a role that may ALTER SYSTEM this setting and reload
    #[arg(long)]
    primary: String,
    /// Timeline, 32 hex digits
    #[arg(long)]
    timeline_id: TimelineId,
}

#[derive(Args)]
struct ReadmitOptions {
    /// Broker URL
    #[arg(long)]
    broker: String,
    /// Key prefix on the broker
    #[arg(long, default_value = "/walfabric")]
    broker_prefix: String,
    /// Tenant, 32 hex digits
    #[arg(long)]
    tenant_id: TenantId,
    /// Timeline, 32 hex digits
    #[arg(long)]
    timeline_id: TimelineId,
    /// The member's node id
    #[arg(long)]
    safekeeper: u64,
    /// Whatever it may have acknowledged or voted: it takes part with what it has
    #[arg(long)]
    force: bool,
}

#[derive(Args)]
struct BrokerOptions {
    /// Directory of the store
    #[arg(long)]
    dir: PathBuf,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:2379")]
    listen: std::net::SocketAddr,
    /// Bytes of keys, values and leases (each counts 256 more) beyond which no writes are taken
    #[arg(long, default_value_t = QUOTA_BYTES, value_parser = clap::value_parser!(u64).range(1 << 20..))]
    quota_bytes: u64,
    /// Connections at once
    #[arg(long, default_value_t = CONNECTIONS_MAX)]
    connections_max: usize,
}

#[derive(Args)]
struct DemoOptions {
    /// Directory of the fabric [default: a new one below the system's temporary directory]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Directory of PostgreSQL's programs
    #[arg(long)]
    pg_bin: Option<PathBuf>,
    /// Leave the fabric running
    #[arg(long)]
    keep: bool,
    /// Seconds that setting up took before (`make demo` tells)
    #[arg(long, hide = true)]
    setup_seconds: Option<f64>,
    /// Seconds that building took before (`make demo` tells)
    #[arg(long, hide = true)]
    build_seconds: Option<f64>,
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
    if let Command::Supervise(o) = &cli.command {
        let supervised = FabricDir::new(&o.dir).and_then(|dir| supervisor::supervise(&dir));
        return ExitCode::from(exit_code(supervised.map(|()| exit::OK)));
    }
    node::block_on("walfabric", async { exit_code(run(cli.command).await) })
}

/// Root runs no fabric: whatever acts on one is done by the fabric's user.
fn step_down(command: &Command) -> Result<()> {
    let there = |dir| root::Asked { dir, pg_bin: None, makes: None };
    let default_dir = demo::default_dir();
    let asked = match command {
        Command::Up(o) => root::Asked {
            dir: &o.dir,
            pg_bin: o.pg_bin.as_deref(),
            makes: Some(root::Makes { run_as: o.run_as.as_deref(), remote_storage: o.remote_storage.as_deref() }),
        },
        Command::Demo(o) => root::Asked {
            dir: o.dir.as_deref().unwrap_or(&default_dir),
            pg_bin: o.pg_bin.as_deref(),
            makes: Some(root::Makes::default()),
        },
        Command::Start(o) | Command::Kill(o) => there(&o.dir),
        Command::Stop(o) => there(&o.process.dir),
        Command::Down(o) => there(&o.dir),
        Command::Supervise(o) => there(&o.dir),
        _ => return Ok(()),
    };
    root::step_down(&asked)
}

fn exit_code(result: Result<u8>) -> u8 {
    result.unwrap_or_else(|e| {
        eprintln!("walfabric: {e:#}");
        if e.root_cause().is::<Usage>() { exit::USAGE } else { exit::ERROR }
    })
}

async fn run(command: Command) -> Result<u8> {
    match command {
        Command::Up(o) => run_up(o).await,
        Command::Start(o) => verbs::run(&o.dir, Verb::Start, &o.name, STOP_PATIENCE_S).await,
        Command::Stop(o) => verbs::run(&o.process.dir, Verb::Stop, &o.process.name, o.wait_s).await,
        Command::Kill(o) => verbs::run(&o.dir, Verb::Kill, &o.name, STOP_PATIENCE_S).await,
        Command::Down(o) => verbs::down(&o.dir, o.wait_s).await,
        Command::Status(o) => run_status(o).await,
        Command::Env(o) => env::run(&o.dir),
        Command::Timeline(TimelineCommand::Create(o)) => run_create(o, false).await,
        Command::Timeline(TimelineCommand::Import(o)) => run_create(o, true).await,
        Command::Timeline(TimelineCommand::Protect(o)) => run_protect(o).await,
        Command::Timeline(TimelineCommand::Unprotect(o)) => {
            let now = protect::unprotect(&primary(&o.primary)?.to_conninfo(), o.timeline_id).await?;
            println!("commits wait for {} no longer: synchronous_standby_names is '{now}'", o.timeline_id);
            Ok(exit::OK)
        }
        Command::Timeline(TimelineCommand::List(o)) => run_timeline_list(o).await,
        Command::Timeline(TimelineCommand::Show(o)) => run_timeline_show(o).await,
        Command::Timeline(TimelineCommand::Delete(o)) => run_timeline_delete(o).await,
        Command::Timeline(TimelineCommand::Readmit(o)) => {
            let ttid = TenantTimelineId::new(o.tenant_id, o.timeline_id);
            readmit::run(&o.broker, &o.broker_prefix, ttid, o.safekeeper, o.force).await
        }
        Command::Wal(WalCommand::Get { name, path, source }) => Ok(run_wal_get(&source, &name, &path).await),
        Command::Wal(WalCommand::Copy { first, directory, source }) => run_wal_copy(&source, &first, &directory).await,
        Command::Page(PageCommand::Get(o)) => run_page_get(o).await,
        Command::Page(PageCommand::Verify(o)) => run_page_verify(o).await,
        Command::Broker(o) => run_broker(o).await,
        Command::Demo(o) => {
            let before = demo::Before { setup: o.setup_seconds, build: o.build_seconds };
            demo::run(demo::DemoArgs { dir: o.dir, pg_bin: o.pg_bin, keep: o.keep, before }).await
        }
        Command::Safekeeper(o) => Ok(safekeeper::run(&o.words).await),
        Command::Pageserver(o) => Ok(pageserver::run(&o.words).await),
        Command::WalproposerShim(o) => Ok(walproposer_shim::run(&o.words).await),
        Command::Supervise(_) => unreachable!("handled before the runtime starts"),
    }
}

/// The primary that `conninfo` and the environment name, as for libpq's programs.
fn primary(conninfo: &str) -> Result<ConnectOptions> {
    sql::resolve("--primary", conninfo, &Environment::read(|name| std::env::var(name).ok()))
}

async fn run_up(o: UpOptions) -> Result<u8> {
    let args = up::UpArgs {
        dir: o.dir,
        safekeepers: o.safekeepers,
        pageservers: o.pageservers,
        broker: o.broker,
        pg_bin: o.pg_bin,
        remote_storage: o.remote_storage,
        no_postgres: o.no_postgres,
        initdb: o.initdb.options()?,
        run_as: o.run_as,
        supervise: o.supervise,
    };
    let interrupted = node::shutdown_on_signals()?;
    let fabric = up::up(&args, &interrupted).await?;
    if let Some(pg) = &fabric.postgres {
        println!("connect with: psql '{}'", pg.conninfo());
    }
    if o.detach {
        return Ok(exit::OK);
    }
    println!("running; Ctrl-C takes it down");
    interrupted.cancelled().await;
    verbs::down(&args.dir, STOP_PATIENCE_S).await
}

async fn run_status(o: StatusOptions) -> Result<u8> {
    let source = match (o.dir, o.broker) {
        (Some(dir), _) => Source::Dir(dir),
        (None, url) => Source::Broker { url: url.context("--dir or --broker is needed")?, prefix: o.broker_prefix },
    };
    let only = status::Only { timeline: o.timeline, tenant: o.tenant };
    let status = status::collect(&source, only).await?;
    if o.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", status.render());
    }
    Ok(if o.check && status.degraded() { exit::NOT_READY } else { exit::OK })
}

async fn run_create(o: CreateOptions, import: bool) -> Result<u8> {
    let random = timeline::random_ttid();
    let ttid =
        TenantTimelineId::new(o.tenant_id.unwrap_or(random.tenant_id), o.timeline_id.unwrap_or(random.timeline_id));
    let primary = primary(&o.primary)?;
    let args = timeline::CreateArgs {
        primary: primary.to_conninfo(),
        broker: o.broker,
        broker_prefix: o.broker_prefix,
        ttid,
        safekeepers: o.safekeepers,
        pageservers: o.pageservers,
        import,
        interrupted: node::shutdown_on_signals()?,
    };
    // First of all: a retry with them continues what an interrupted one has begun.
    println!("tenant {}, timeline {}", ttid.tenant_id, ttid.timeline_id);
    let created = timeline::create(&args).await.with_context(|| {
        format!("a retry with --tenant-id {} --timeline-id {} continues", ttid.tenant_id, ttid.timeline_id)
    })?;
    let addresses: Vec<_> = created.safekeepers.iter().map(|(_, pg)| pg.as_str()).collect();
    println!(
        "timeline {ttid} {}, starts at {}",
        if created.changed { "created" } else { "unchanged" },
        created.start_lsn
    );
    let shown = env::quoted(&primary.shown());
    let secret = if primary.password.is_some() { " (its password by PGPASSWORD or ~/.pgpass)" } else { "" };
    println!("next, start the shim{secret}:");
    let shim = format!(
        "walproposer-shim --primary {shown} --safekeepers {} --tenant-id {} --timeline-id {} --broker {}",
        addresses.join(","),
        ttid.tenant_id,
        ttid.timeline_id,
        args.broker
    );
    println!("  {shim}");
    println!("and last, make commits wait for the quorum:");
    println!("  walfabric timeline protect --primary {shown} --timeline-id {}", ttid.timeline_id);
    if import {
        // Ending this command does not end the import; given again, it follows on.
        let shim = format!("it comes through the shim, which must run: {shim}");
        let mut say = |line: &str| println!("{line}");
        let followed = walfabric::import::follow(&created.pageservers, ttid, &shim, &mut say);
        let ended = args.interrupted.run_until_cancelled(followed).await;
        ended.context(
            "interrupted: the import goes on without this command; given again with the ids, it follows on",
        )??;
    }
    Ok(exit::OK)
}

/// A reader that has enough, such as `head`, ends the command without a word.
fn print_line(line: &str) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(exit::ERROR.into());
    }
}

async fn run_timeline_list(o: TimelineBroker) -> Result<u8> {
    let found = timeline::inventory::list(&o.broker, &o.broker_prefix).await?;
    if found.is_empty() {
        println!("no timeline yet: 'walfabric timeline import --primary CONNINFO --broker {}' makes one", o.broker);
    }
    for (ttid, known) in found {
        print_line(&format!("{} {}: {}", ttid.tenant_id, ttid.timeline_id, known.describe()));
    }
    Ok(exit::OK)
}

async fn run_timeline_show(o: TimelineShowOptions) -> Result<u8> {
    let ttid = o.ids.ttid();
    let mut found = timeline::inventory::list(&o.broker.broker, &o.broker.broker_prefix).await?;
    let known = found.remove(&ttid).with_context(|| format!("timeline {ttid} is known to nobody"))?;
    print_line(&serde_json::to_string_pretty(&known)?);
    Ok(if known.is_whole() { exit::OK } else { exit::NOT_READY })
}

async fn run_timeline_delete(o: TimelineDeleteOptions) -> Result<u8> {
    let args = timeline::inventory::DeleteArgs {
        ttid: o.ids.ttid(),
        broker: o.broker.broker,
        broker_prefix: o.broker.broker_prefix,
        primary: o.primary.map(|p| primary(&p)).transpose()?.map(|p| p.to_conninfo()),
        force: o.force,
    };
    timeline::inventory::delete(&args, &mut |line| println!("{line}")).await?;
    Ok(exit::OK)
}

async fn run_protect(o: ProtectOptions) -> Result<u8> {
    let line = protect::line(o.timeline_id);
    let Some(primary) = o.primary.filter(|_| !o.print) else {
        println!("{line}");
        return Ok(exit::OK);
    };
    let (primary, patience) = (self::primary(&primary)?.to_conninfo(), Duration::from_secs(o.wait_s));
    let args = protect::ProtectArgs { primary, timeline: o.timeline_id, shim: o.shim, replace: o.replace, patience };
    let done = protect::protect(&args).await?;
    if let Some(replaced) = done.replaced {
        println!("replaced synchronous_standby_names = '{replaced}'");
    }
    println!("commits of {} wait for the quorum: synchronous_standby_names = '{}'", o.timeline_id, done.setting);
    Ok(exit::OK)
}

async fn run_wal_get(source: &WalSource, name: &str, path: &Path) -> u8 {
    match wal::get(source, name, path).await {
        Ok(Outcome::Written { .. }) => exit::OK,
        Ok(Outcome::NotThere(why)) => {
            eprintln!("walfabric: {name} does not exist: {why}");
            wal::NOT_THERE
        }
        Err(e) => {
            eprintln!("walfabric: {name}: {e:#}");
            wal::STOP
        }
    }
}

async fn run_wal_copy(source: &WalSource, first: &str, directory: &Path) -> Result<u8> {
    for (name, outcome) in wal::copy(source, first, directory).await? {
        if let Outcome::Written { from, upto } = outcome {
            println!("{name} from {from}{}", upto.map_or(String::new(), |upto| format!(", up to {upto}")));
        }
    }
    Ok(exit::OK)
}

async fn run_page_get(o: PageGetOptions) -> Result<u8> {
    let server = page::find_server(&o.source.pageserver).await?;
    let ttid = TenantTimelineId::new(o.source.tenant, o.source.timeline);
    let tag = BlockTag { fork: o.rel, blk: o.block };
    let bytes = page::get(&server, ttid, tag, o.lsn, Duration::from_millis(o.source.wait_ms)).await?;
    let mut out = std::io::stdout().lock();
    out.write_all(&bytes).and_then(|()| out.flush()).context("the page cannot be written")?;
    Ok(exit::OK)
}

async fn run_page_verify(o: PageVerifyOptions) -> Result<u8> {
    let local = page::verify::read_local(&o.data_dir).await?;
    let server = page::find_server(&o.source.pageserver).await?;
    let ttid = TenantTimelineId::new(o.source.tenant, o.source.timeline);
    let wait = Duration::from_millis(o.source.wait_ms);
    let mut remote = page::remote::Remote::open(server, ttid, local.lsn, wait).await?;
    let report = page::verify::verify(&local, &mut remote).await?;
    if o.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.render());
    }
    Ok(if report.equal { exit::OK } else { exit::CORRUPTION })
}

async fn run_broker(o: BrokerOptions) -> Result<u8> {
    node::init_logging(false);
    let cancel = node::shutdown_on_signals()?;
    let ready = |address: std::net::SocketAddr| tracing::info!(%address, "the embedded broker listens");
    let limits = BrokerLimits { quota_bytes: o.quota_bytes, connections_max: o.connections_max };
    match brokerd::serve_within(limits, o.dir, o.listen, ready, cancel).await {
        Err(error) if error.is_corruption() => {
            tracing::error!(%error, "the embedded broker cannot start");
            Ok(exit::CORRUPTION)
        }
        Err(error) if error.is_usage() => {
            tracing::error!(%error, "the embedded broker cannot start");
            Ok(exit::USAGE)
        }
        ended => ended.map(|()| exit::OK).map_err(Into::into),
    }
}
