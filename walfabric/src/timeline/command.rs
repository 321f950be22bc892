//! The command line of `walfabric timeline`.

use std::io::Write as _;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use libpq::ConnectOptions;
use node::exit;
use proto::id::{TenantId, TenantTimelineId, TimelineId};

use super::create::{CreateArgs, create, random_ttid};
use super::inventory;
use crate::env;
use crate::protect::{self, ProtectOptions, UnprotectOptions};
use crate::readmit::ReadmitOptions;
use crate::sql::{self, primary};

/// What `walfabric timeline` can do.
#[derive(Subcommand)]
pub enum TimelineCommand {
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

impl TimelineCommand {
    /// Does it; gives the exit code.
    ///
    /// # Errors
    /// With what is wrong and what to do, in words.
    pub async fn run(self) -> Result<u8> {
        match self {
            TimelineCommand::Create(options) => options.run(false).await,
            TimelineCommand::Import(options) => options.run(true).await,
            TimelineCommand::Protect(options) => options.run().await,
            TimelineCommand::Unprotect(options) => options.run().await,
            TimelineCommand::List(broker) => broker.list().await,
            TimelineCommand::Show(options) => options.run().await,
            TimelineCommand::Delete(options) => options.run().await,
            TimelineCommand::Readmit(options) => options.run().await,
        }
    }
}

/// What `walfabric timeline create` and `import` take.
#[derive(Args)]
pub struct CreateOptions {
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

impl CreateOptions {
    async fn run(self, import: bool) -> Result<u8> {
        let random = random_ttid();
        let ttid = TenantTimelineId::new(
            self.tenant_id.unwrap_or(random.tenant_id),
            self.timeline_id.unwrap_or(random.timeline_id),
        );
        let primary = primary(&self.primary)?;
        let args = CreateArgs {
            primary: primary.to_conninfo(),
            broker: self.broker,
            broker_prefix: self.broker_prefix,
            ttid,
            safekeepers: self.safekeepers,
            pageservers: self.pageservers,
            import,
            interrupted: node::shutdown_on_signals()?,
        };
        // First of all: a retry with them continues what a killed one has begun.
        println!("tenant {}, timeline {}", ttid.tenant_id, ttid.timeline_id);
        let created = create(&args).await?;
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
        let by = protector(&primary).await;
        let why = if by.user == primary.user { "" } else { " (as a superuser: the role above may not)" };
        println!("and last, make commits wait for the quorum{why}:");
        let by = env::quoted(&by.shown());
        println!("  walfabric timeline protect --primary {by} --timeline-id {}", ttid.timeline_id);
        if import {
            // Ending this command does not end the import; given again, it follows on.
            let shim = format!("it comes through the shim, which must run: {shim}");
            let mut say = |line: &str| println!("{line}");
            let followed = crate::import::follow(&created.pageservers, ttid, &shim, &mut say);
            let ended = args.interrupted.run_until_cancelled(followed).await;
            ended.context(
                "interrupted: the import goes on without this command; given again with the ids, it follows on",
            )??;
        }
        Ok(exit::OK)
    }
}

/// How to connect to the primary for `protect`: as before, or as a superuser when that role may not change the setting.
/// As before, too, when the primary does not say.
async fn protector(primary: &ConnectOptions) -> ConnectOptions {
    let mut by = primary.clone();
    let asked = async { protect::role_for(&sql::connect(&primary.to_conninfo()).await?).await };
    if let Ok(role) = asked.await
        && role != primary.user
    {
        // Without a name the database is the role's own.
        by.database.get_or_insert_with(|| "postgres".to_owned());
        by.user = role;
    }
    by
}

/// A reader that has enough, such as `head`, ends the command without a word.
fn print_line(line: &str) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(exit::ERROR.into());
    }
}

/// Which broker the timelines are asked of.
#[derive(Args)]
pub struct TimelineBroker {
    /// URL of the broker
    #[arg(long)]
    broker: String,
    /// Key prefix on the broker
    #[arg(long, default_value = proto::broker::keys::DEFAULT_PREFIX)]
    broker_prefix: String,
}

impl TimelineBroker {
    async fn list(self) -> Result<u8> {
        let found = inventory::list(&self.broker, &self.broker_prefix).await?;
        if found.is_empty() {
            println!(
                "no timeline yet: 'walfabric timeline import --primary CONNINFO --broker {}' makes one",
                self.broker
            );
        }
        for (ttid, known) in found {
            print_line(&format!("{} {}: {}", ttid.tenant_id, ttid.timeline_id, known.describe()));
        }
        Ok(exit::OK)
    }
}

/// Which timeline, by both of its ids.
#[derive(Args)]
pub struct TimelineIds {
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

/// What `walfabric timeline show` takes.
#[derive(Args)]
pub struct TimelineShowOptions {
    #[command(flatten)]
    broker: TimelineBroker,
    #[command(flatten)]
    ids: TimelineIds,
}

impl TimelineShowOptions {
    async fn run(self) -> Result<u8> {
        let ttid = self.ids.ttid();
        let mut found = inventory::list(&self.broker.broker, &self.broker.broker_prefix).await?;
        let known = found.remove(&ttid).with_context(|| format!("timeline {ttid} is known to nobody"))?;
        print_line(&serde_json::to_string_pretty(&known)?);
        Ok(if known.is_whole() { exit::OK } else { exit::NOT_READY })
    }
}

/// What `walfabric timeline delete` takes.
#[derive(Args)]
pub struct TimelineDeleteOptions {
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

impl TimelineDeleteOptions {
    async fn run(self) -> Result<u8> {
        let args = inventory::DeleteArgs {
            ttid: self.ids.ttid(),
            broker: self.broker.broker,
            broker_prefix: self.broker.broker_prefix,
            primary: self.primary.map(|p| primary(&p)).transpose()?.map(|p| p.to_conninfo()),
            force: self.force,
        };
        inventory::delete(&args, &mut |line| println!("{line}")).await?;
        Ok(exit::OK)
    }
}
