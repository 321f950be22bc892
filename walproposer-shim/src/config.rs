//! Settings: flags and the checked result.
//!
//! A [`Config`] that exists is valid. It is built once and passed down; nothing below reads flags or the environment.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use broker::Broker;
use libpq::{ConnectOptions, Environment};
use proto::broker::keys::DEFAULT_PREFIX;
use proto::consensus::MAX_SEND_SIZE;
use proto::id::{PrimaryEpoch, TenantTimelineId};

use crate::names;

/// Flags of the shim.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Where the primary is: a libpq connection string or URI of a role with REPLICATION that may read
    /// pg_stat_replication.
    #[arg(long, value_name = "CONNINFO")]
    pub primary: String,
    /// Addresses of the timeline's safekeepers. Only where to dial: quorums are counted by node id.
    #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', required = true)]
    pub safekeepers: Vec<String>,
    /// Tenant, 32 hexadecimal digits.
    #[arg(long, value_name = "ID")]
    pub tenant_id: String,
    /// Timeline, 32 hexadecimal digits.
    #[arg(long, value_name = "ID")]
    pub timeline_id: String,
    /// Broker, etcd's own URL form: `http://host:port[,host:port...]`.
    #[arg(long, value_name = "URL")]
    pub broker: String,
    /// Prefix of every key on the broker.
    #[arg(long, value_name = "PREFIX", default_value = DEFAULT_PREFIX)]
    pub broker_prefix: String,
    /// Where the HTTP interface listens; port 0 picks a free one.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:0")]
    pub listen_http: String,
    /// Address that others ask over HTTP instead of --listen-http.
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_http: Option<String>,
    /// What is reported to PostgreSQL as applied: the quorum's position, or what a pageserver has ingested.
    #[arg(long, value_name = "SOURCE", value_enum, default_value_t = ApplySource::Flush)]
    pub apply_source: ApplySource,
    /// Replication slot [default: walfabric_ and the first 16 digits of the timeline id]; the pin slot's name ends in
    /// _pin.
    #[arg(long, value_name = "NAME")]
    pub slot: Option<String>,
    /// How often the primary of this timeline was designated anew; safekeepers refuse one that is lower than what they
    /// know.
    #[arg(long, value_name = "N", default_value_t = PrimaryEpoch::FIRST.0)]
    pub primary_epoch: u64,
    /// WAL kept in memory for safekeepers that fall behind, MiB.
    #[arg(long, value_name = "MIB", default_value_t = 64)]
    pub ring_mib: usize,
    /// Attach to a primary that runs with fsync off, whose own disk is then not trusted after an operating system
    /// crash.
    #[arg(long)]
    pub allow_fsync_off: bool,
    /// Stay ready although ALTER ROLE or ALTER DATABASE lets somebody commit without the quorum: such settings become
    /// warnings.
    #[arg(long)]
    pub allow_async_commits: bool,
    /// Form of the log on standard error.
    #[arg(long, value_name = "FORM", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Check the settings, say what is wrong with them, and exit.
    #[arg(long)]
    pub check_config: bool,
}

/// Source of the applied position.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApplySource {
    /// Applied = flushed: `remote_apply` waits no longer than `on`.
    Flush,
    /// Applied = what the pageserver has ingested, so that `remote_apply` means "a branch taken now sees this commit".
    Pageserver,
}

/// Form of the log.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// One line of text per event.
    Text,
    /// One JSON object per event.
    Json,
}

/// A setting that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{flag} {value:?}: {problem}")]
pub struct ConfigError {
    flag: &'static str,
    value: String,
    problem: String,
}

fn invalid(flag: &'static str, value: impl Into<String>, problem: impl Into<String>) -> ConfigError {
    ConfigError { flag, value: value.into(), problem: problem.into() }
}

/// Settings that were checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which timeline.
    pub ttid: TenantTimelineId,
    /// The primary, for ordinary SQL.
    pub sql: tokio_postgres::Config,
    /// The primary, for replication.
    pub replication: ConnectOptions,
    /// Safekeepers' addresses in order, each once.
    pub safekeepers: Vec<(String, u16)>,
    /// Broker URL.
    pub broker: String,
    /// Key prefix on the broker.
    pub broker_prefix: String,
    /// HTTP listener.
    pub listen_http: SocketAddr,
    /// Address published for HTTP; `None`: the one listened on.
    pub advertise_http: Option<String>,
    /// Source of the applied position.
    pub apply_source: ApplySource,
    /// Streaming slot.
    pub slot: String,
    /// Slot that keeps WAL below the commit position.
    pub pin_slot: String,
    /// Epoch of the primary.
    pub primary_epoch: PrimaryEpoch,
    /// Ring size in bytes.
    pub ring_bytes: usize,
    /// Whether fsync=off is put up with.
    pub allow_fsync_off: bool,
    /// Whether roles and databases may commit without the quorum.
    pub allow_async_commits: bool,
}

/// Limit for connecting to PostgreSQL or to a safekeeper, unless the connection string has one.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

impl Config {
    /// Checks the flags. `env` stands in for what the connection string lacks.
    ///
    /// # Errors
    /// Names the flag, its value, and what would be right.
    pub fn new(args: &Args, env: &Environment) -> Result<Config, ConfigError> {
        let id = |flag, text: &String| invalid(flag, text, "expected 32 hexadecimal digits without dashes");
        let tenant_id = args.tenant_id.parse().map_err(|_| id("--tenant-id", &args.tenant_id))?;
        let timeline_id = args.timeline_id.parse().map_err(|_| id("--timeline-id", &args.timeline_id))?;
        let ttid = TenantTimelineId::new(tenant_id, timeline_id);
        let (sql, replication) = primary(&args.primary, ttid, env)?;
        let slot = match &args.slot {
            Some(name) => slot_name(name)?,
            None => names::slot_name(ttid.timeline_id),
        };
        if args.primary_epoch == 0 {
            return Err(invalid("--primary-epoch", "0", "the first epoch is 1"));
        }
        let ring_bytes = args.ring_mib.checked_mul(1 << 20).filter(|b| *b >= 8 * MAX_SEND_SIZE);
        let ring_bytes =
            ring_bytes.ok_or_else(|| invalid("--ring-mib", args.ring_mib.to_string(), "expected 1 or more"))?;
        if Broker::new(&args.broker, &args.broker_prefix).is_err() {
            return Err(invalid("--broker", &args.broker, "expected http://host:port[,host:port...]"));
        }
        Ok(Config {
            ttid,
            sql,
            replication,
            safekeepers: safekeepers(&args.safekeepers)?,
            broker: args.broker.clone(),
            broker_prefix: args.broker_prefix.clone(),
            listen_http: listen("--listen-http", &args.listen_http)?,
            advertise_http: args.advertise_http.clone(),
            apply_source: args.apply_source,
            pin_slot: names::pin_slot_name(&slot),
            slot,
            primary_epoch: PrimaryEpoch(args.primary_epoch),
            ring_bytes,
            allow_fsync_off: args.allow_fsync_off,
            allow_async_commits: args.allow_async_commits,
        })
    }
}

fn listen(flag: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
    let wrong = || invalid(flag, text, "expected HOST:PORT of this machine");
    text.to_socket_addrs().map_err(|_| wrong())?.next().ok_or_else(wrong)
}

fn slot_name(name: &str) -> Result<String, ConfigError> {
    // The pin slot appends four characters, NAMEDATALEN is 64 with its terminator.
    let fits = (1..=59).contains(&name.len());
    if fits && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_') {
        Ok(name.to_owned())
    } else {
        Err(invalid("--slot", name, "expected 1 to 59 lower-case letters, digits and underscores"))
    }
}

fn safekeepers(list: &[String]) -> Result<Vec<(String, u16)>, ConfigError> {
    const FLAG: &str = "--safekeepers";
    let mut out: Vec<(String, u16)> = Vec::new();
    for text in list {
        let split = text.trim().rsplit_once(':').filter(|(host, _)| !host.is_empty());
        let parsed = split.and_then(|(host, port)| Some((host.to_owned(), port.parse::<u16>().ok()?)));
        let address = parsed.filter(|(_, port)| *port != 0).ok_or_else(|| invalid(FLAG, text, "expected HOST:PORT"))?;
        if out.contains(&address) {
            return Err(invalid(FLAG, text, "this address is given twice"));
        }
        out.push(address);
    }
    // Source: MAX_SAFEKEEPERS of the push protocol.
    if out.len() > 32 { Err(invalid(FLAG, list.join(","), "at most 32 addresses")) } else { Ok(out) }
}

fn primary(
    text: &str,
    ttid: TenantTimelineId,
    env: &Environment,
) -> Result<(tokio_postgres::Config, ConnectOptions), ConfigError> {
    // The text may hold a password, so errors do not repeat it.
    let read = ConnectOptions::from_conninfo(text, env);
    let mut options = read.map_err(|e| invalid("--primary", "...", e.to_string()))?;
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
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    const GOOD: [&str; 11] = [
        "shim",
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

    fn config(extra: &[&str]) -> Result<Config, ConfigError> {
        let cli = Cli::try_parse_from(GOOD.iter().chain(extra)).expect("flags parse");
        Config::new(&cli.args, &Environment::none())
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
            let mut words: Vec<&str> = GOOD.to_vec();
            words[at] = value;
            let cli = Cli::try_parse_from(words).expect("flags parse");
            Config::new(&cli.args, &Environment::none()).expect_err("refused").to_string()
        };
        assert!(replaced(4, "127.0.0.1:1,127.0.0.1:1").contains("twice"));
        assert!(replaced(4, "127.0.0.1").contains("--safekeepers"));
        assert!(replaced(6, "xyz").contains("--tenant-id"));
        assert!(replaced(10, "2379").contains("--broker"));
        let said = replaced(2, "host=a,b password=secret");
        assert!(said.contains("exactly one") && !said.contains("secret"), "{said}");
        let said = replaced(2, "host=a password=my secret");
        assert!(said.contains("quotes") && !said.contains("secret"), "{said}");
        assert!(config(&["--slot", "Bad-Name"]).is_err());
        assert!(config(&["--primary-epoch", "0"]).is_err());
    }
}
