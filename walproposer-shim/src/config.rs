//! Settings of the shim: those of every server, and its own, and what follows from them.
//!
//! A [`ShimConfig`] that exists is valid. It is made once and passed down; nothing below reads flags, files or the
//! environment.

use std::time::Duration;

use broker::Broker;
use libpq::{ConnectOptions, Environment};
use node::settings::{ProcessSettings, ServerSettings, SettingError, mib};
use proto::consensus::MAX_SEND_SIZE;
use proto::id::{PrimaryEpoch, TenantId, TenantTimelineId, TimelineId};

use crate::names;

/// Where the shim's HTTP interface listens unless configured.
const LISTEN_HTTP: &str = "127.0.0.1:0";

/// Lets an unmodified PostgreSQL commit through a quorum of safekeepers.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "walproposer-shim", version)]
#[command(mut_arg("listen_http", |arg| arg.required(false).default_value(LISTEN_HTTP)))]
pub struct ShimSettings {
    /// What every server is told.
    #[command(flatten)]
    pub process: ProcessSettings,
    /// How to connect to the primary: a libpq connection string or URI with one host. The role needs REPLICATION, and
    /// must be allowed to read pg_stat_replication.
    ///
    /// What the string lacks comes from PostgreSQL's environment variables, service file and password file. The string
    /// is never shown, because it may hold a password.
    #[arg(long, value_name = "CONNINFO")]
    pub primary: String,
    /// Addresses of the timeline's safekeepers. They only say where to dial: quorums are counted by node id.
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', required = true)]
    pub safekeepers: Vec<String>,
    /// Id of the tenant.
    #[arg(long, value_name = "ID", value_parser = hex_id::<TenantId>)]
    pub tenant_id: TenantId,
    /// Id of the timeline.
    #[arg(long, value_name = "ID", value_parser = hex_id::<TimelineId>)]
    pub timeline_id: TimelineId,
    /// Which position PostgreSQL is told as applied: `flush`, the quorum's, or `pageserver`, what a pageserver has
    /// ingested.
    ///
    /// With `pageserver`, a commit with `synchronous_commit = remote_apply` returns when a branch taken then would see
    /// it. Such commits wait while no pageserver is attached.
    #[arg(long, value_name = "SOURCE", default_value = "flush")]
    pub apply_source: ApplySource,
    /// Name of the replication slot. The default is walfabric_ and the first 16 digits of the timeline id. The name of
    /// the pin slot is the same with _pin at its end.
    #[arg(long, value_name = "NAME", value_parser = slot_name)]
    pub slot: Option<String>,
    /// Epoch of the primary: raise it whenever another primary is designated for this timeline. Safekeepers refuse a
    /// shim whose epoch is lower than the one they know.
    #[arg(long, value_name = "N", default_value = "1", value_parser = primary_epoch)]
    pub primary_epoch: PrimaryEpoch,
    /// WAL kept in memory for safekeepers that fall behind, in MiB. A safekeeper that is further behind is fed from
    /// another one.
    #[arg(long = "ring-mib", value_name = "MIB", default_value = "64", value_parser = mib(RING_MIB_MIN..=u64::MAX))]
    pub ring_bytes: usize,
    /// Attach to a primary that runs with fsync off. After a crash of its operating system, rebuild that primary.
    #[arg(long)]
    pub allow_fsync_off: bool,
    /// Stay ready although ALTER ROLE or ALTER DATABASE lets some commits skip the quorum. Such settings are then only
    /// warnings.
    #[arg(long)]
    pub allow_async_commits: bool,
}

/// The ring holds several of the longest messages.
const RING_MIB_MIN: u64 = 1;
const _: () = assert!((RING_MIB_MIN << 20) as usize >= 8 * MAX_SEND_SIZE);

impl ServerSettings for ShimSettings {
    const SECRETS: &'static [&'static str] = &["primary"];
    type Checked = ShimConfig;

    fn process(&mut self) -> &mut ProcessSettings {
        &mut self.process
    }

    fn check(self, environment: &dyn Fn(&str) -> Option<String>) -> Result<ShimConfig, SettingError> {
        ShimConfig::new(self, &Environment::read(environment))
    }
}

/// Source of the applied position.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApplySource {
    /// Applied = flushed: `remote_apply` waits no longer than `on`.
    Flush,
    /// Applied = what the pageserver has ingested, so that `remote_apply` means "a branch taken now sees this commit".
    Pageserver,
}

/// Settings that were checked.
#[derive(Clone, Debug)]
pub struct ShimConfig {
    /// Tenant and timeline that it proposes for.
    pub ttid: TenantTimelineId,
    /// The primary, for ordinary SQL.
    pub sql: tokio_postgres::Config,
    /// The primary, for replication.
    pub replication: ConnectOptions,
    /// Safekeepers' addresses in order, each once.
    pub safekeepers: Vec<(String, u16)>,
    /// What every server is told.
    pub process: ProcessSettings,
    /// Whether the command line, which everybody can read, holds the primary's password.
    pub exposes_password: bool,
    /// Source of the applied position.
    pub apply_source: ApplySource,
    /// The replication slot that it streams from.
    pub slot: String,
    /// Slot that keeps WAL below the commit position.
    pub pin_slot: String,
    /// How often the primary was designated anew.
    pub primary_epoch: PrimaryEpoch,
    /// Size of the ring of WAL in memory, in bytes.
    pub ring_bytes: usize,
    /// Whether fsync=off is put up with.
    pub allow_fsync_off: bool,
    /// Whether roles and databases may commit without the quorum.
    pub allow_async_commits: bool,
}

/// Limit for connecting to PostgreSQL or to a safekeeper, unless the connection string has one.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

impl ShimConfig {
    /// Checks the settings. `env` stands in for what the connection string lacks.
    fn new(settings: ShimSettings, env: &Environment) -> Result<ShimConfig, SettingError> {
        settings.process.check(|url, prefix| Broker::new(url, prefix).map(drop))?;
        let ttid = TenantTimelineId::new(settings.tenant_id, settings.timeline_id);
        let (sql, replication) = primary(&settings.primary, ttid, env)?;
        let slot = settings.slot.unwrap_or_else(|| names::slot_name(ttid.timeline_id));
        let typed = settings.process.typed.iter().any(|key| key == "primary");
        Ok(ShimConfig {
            ttid,
            sql,
            replication,
            exposes_password: typed && libpq::holds_password(&settings.primary),
            safekeepers: safekeepers(&settings.safekeepers)?,
            process: settings.process,
            apply_source: settings.apply_source,
            pin_slot: names::pin_slot_name(&slot),
            slot,
            primary_epoch: settings.primary_epoch,
            ring_bytes: settings.ring_bytes,
            allow_fsync_off: settings.allow_fsync_off,
            allow_async_commits: settings.allow_async_commits,
        })
    }
}

fn hex_id<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "expected 32 hexadecimal digits without dashes".to_owned())
}

fn primary_epoch(text: &str) -> Result<PrimaryEpoch, String> {
    match text.parse() {
        Ok(0) => Err("the first epoch is 1".to_owned()),
        Ok(epoch) => Ok(PrimaryEpoch(epoch)),
        Err(_) => Err("expected 1 or more".to_owned()),
    }
}

fn slot_name(name: &str) -> Result<String, String> {
    // The pin slot appends four characters, NAMEDATALEN is 64 with its terminator.
    let fits = (1..=59).contains(&name.len());
    if fits && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        Ok(name.to_owned())
    } else {
        Err("expected 1 to 59 lower-case letters, digits and underscores".to_owned())
    }
}

fn safekeepers(list: &[String]) -> Result<Vec<(String, u16)>, SettingError> {
    let invalid = |text: &str, problem: &str| SettingError::invalid("--safekeepers", text, problem);
    let mut out: Vec<(String, u16)> = Vec::new();
    for text in list {
        let split = text.trim().rsplit_once(':').filter(|(host, _)| !host.is_empty());
        let parsed = split.and_then(|(host, port)| Some((host.to_owned(), port.parse::<u16>().ok()?)));
        let address = parsed.filter(|(_, port)| *port != 0).ok_or_else(|| invalid(text, "expected HOST:PORT"))?;
        if out.contains(&address) {
            return Err(invalid(text, "this address is given twice"));
        }
        out.push(address);
    }
    // Source: MAX_SAFEKEEPERS of the push protocol.
    if out.len() > 32 { Err(invalid(&list.join(","), "at most 32 addresses")) } else { Ok(out) }
}

fn primary(
    text: &str,
    ttid: TenantTimelineId,
    env: &Environment,
) -> Result<(tokio_postgres::Config, ConnectOptions), SettingError> {
    // The text may hold a password, so errors do not repeat it.
    let read = ConnectOptions::from_conninfo(text, env);
    let mut options = read.map_err(|e| SettingError::invalid("--primary", "...", e.to_string()))?;
    if options.timeout.is_zero() {
        options.timeout = CONNECT_TIMEOUT;
    }
    options.database = options.database.or(Some("postgres".to_owned()));
    options.application_name = names::guard_name(ttid.timeline_id);
    let sql = crate::sql::config(&options);
    options.application_name = names::attach_name(ttid.timeline_id);
    // Settings of the session are for SQL: the guard asks a walsender for the server's own defaults.
    options.options.clear();
    // With a database the walsender takes SQL too, which the proof and the renaming of the connection need.
    options.parameters = vec![("replication".to_owned(), "database".to_owned())];
    Ok((sql, options))
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::settings::from_flags;

    const GOOD: [&str; 10] = [
        "--primary",
        "host=/tmp port=5433 user=postgres password=secret",
        "--safekeepers",
        "127.0.0.1:1,127.0.0.1:2,[::1]:3",
        "--tenant-id",
        "0123456789abcdef0011223344556677",
        "--timeline-id",
        "00112233445566770123456789abcdef",
        "--broker",
        "http://127.0.0.1:2379",
    ];

    fn config(extra: &[&str]) -> Result<ShimConfig, SettingError> {
        from_flags::<ShimSettings>(&[&GOOD, extra].concat())
    }

    #[test]
    fn good_flags_give_derived_names_and_both_connections() {
        let config = config(&[]).expect("valid");
        assert_eq!(config.slot, "walfabric_0011223344556677");
        assert_eq!(config.pin_slot, "walfabric_0011223344556677_pin");
        assert_eq!(config.safekeepers.len(), 3);
        assert_eq!((config.replication.host.as_str(), config.replication.port), ("/tmp", 5433));
        assert_eq!(config.replication.database.as_deref(), Some("postgres"));
        assert_ne!(config.replication.application_name, names::standby_name(config.ttid.timeline_id));
    }

    #[test]
    fn bad_values_name_their_flag() {
        let replaced = |at: usize, value: &str| {
            let mut words = GOOD;
            words[at] = value;
            from_flags::<ShimSettings>(&words).expect_err("refused").to_string()
        };
        assert!(replaced(3, "127.0.0.1:1,127.0.0.1:1").contains("twice"));
        assert!(replaced(3, "127.0.0.1").contains("--safekeepers"));
        assert!(replaced(5, "xyz").contains("--tenant-id"));
        assert!(replaced(9, "2379").contains("--broker"));
        let said = replaced(1, "host=a,b password=secret");
        assert!(said.contains("exactly one") && !said.contains("secret"), "{said}");
        let said = replaced(1, "host=a password=my secret");
        assert!(said.contains("quotes") && !said.contains("secret"), "{said}");
        assert!(config(&["--slot", "Bad-Name"]).is_err());
        assert!(config(&["--primary-epoch", "0"]).is_err());
    }
}
