//! Settings that every server has, and those of a server with a data directory.

use std::net::SocketAddr;
use std::path::PathBuf;

use proto::broker::keys::DEFAULT_PREFIX;
use proto::id::NodeId;

use super::error::SettingError;
use super::parsers::{broker_prefix, count, host_port, node_id, socket_address};

/// The fewest connections that a server can be told to take: one for each kind of them.
const CONNECTIONS_MIN: u64 = 4;

/// The most that either number of connections may be set to.
const CONNECTIONS_LIMIT: u64 = 100_000;

/// What every server is told, with or without a data directory.
#[derive(clap::Args, Clone, Debug)]
pub struct ProcessSettings {
    /// Where the HTTP interface listens; port 0 picks a free one.
    #[arg(long, value_name = "HOST:PORT", value_parser = socket_address)]
    pub listen_http: SocketAddr,
    /// Address of the HTTP interface for other servers, instead of --listen-http. Required when that is 0.0.0.0 or
    /// [::].
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    pub advertise_http: Option<String>,
    /// Address of the broker, in etcd's URL form: `http://host:port[,host:port...]`. While the broker is away the
    /// server goes on, and starts all the same.
    #[arg(long, value_name = "URL")]
    pub broker: String,
    /// Prefix of every key on the broker.
    #[arg(long, value_name = "PREFIX", default_value = DEFAULT_PREFIX, value_parser = broker_prefix)]
    pub broker_prefix: String,
    /// How many connections --listen-http takes at once. The default has room for people, monitoring and other nodes.
    ///
    /// A connection may hold a request body of up to 1 MiB in memory.
    #[arg(long, value_name = "N", default_value = "256", value_parser = count(CONNECTIONS_MIN..=CONNECTIONS_LIMIT))]
    pub http_connections_max: usize,
    /// Format of the log on standard error: text or json.
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub log_format: LogFormat,
    /// Level of the log, or a filter like `info,safekeeper::push=debug`.
    ///
    /// Levels: error, warn, info, debug, trace. If the filter is invalid, the log says so, and the level is info.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// File of settings in TOML, one `name = value` per line. The names are those of the flags, with `_` for `-`. Flags
    /// override the environment, and the environment overrides the file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check the settings, say what is wrong with them, and exit.
    #[arg(long)]
    pub check_config: bool,
    /// Keys and values as they were given, without secrets: for `SHOW CONFIG`.
    #[arg(skip)]
    pub shown: Vec<(String, String)>,
    /// Keys of what stood on the command line, which every user of the machine can read.
    #[arg(skip)]
    pub typed: Vec<String>,
}

/// What a server with a data directory and a libpq port is told besides.
#[derive(clap::Args, Clone, Debug)]
pub struct NodeSettings {
    /// Number of this node. No other node of the same kind may have it.
    ///
    /// The first start writes it into the data directory. A later start with another number is refused with exit code
    /// 2.
    #[arg(long, value_name = "N", value_parser = node_id)]
    pub id: NodeId,
    /// Directory of everything durable; created when missing, locked while the process runs.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where the server listens for the libpq protocol; port 0 picks a free one.
    ///
    /// This version asks for no password: it trusts everybody who can connect.
    #[arg(long, value_name = "HOST:PORT", value_parser = socket_address)]
    pub listen_pg: SocketAddr,
    /// Address that other servers dial instead of --listen-pg. Required when that is 0.0.0.0 or [::].
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    pub advertise_pg: Option<String>,
    /// Availability zone of this node. A pageserver prefers a safekeeper in its own zone.
    #[arg(long, value_name = "NAME")]
    pub availability_zone: Option<String>,
    /// How many sessions --listen-pg takes at once. A quarter of them is reserved for WAL that comes into this server.
    ///
    /// A session may hold some MiB of WAL in memory.
    #[arg(long, value_name = "N", default_value = "1024", value_parser = count(CONNECTIONS_MIN..=CONNECTIONS_LIMIT))]
    pub pg_connections_max: usize,
    /// Start although another process that is alive has published itself under this id. Stop that process.
    ///
    /// Without this flag such a start is refused with exit code 2, and both addresses are named. The record of a dead
    /// process does not prevent a start, and neither does a broker that is away.
    #[arg(long)]
    pub take_over: bool,
}

/// Form of the log on standard error.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// One line of text per event.
    Text,
    /// One JSON object per event.
    Json,
}

impl ProcessSettings {
    /// Checks the address to publish, and the broker by `broker` (URL and prefix), which says what is wrong with it.
    ///
    /// # Errors
    /// Names the flag, its value, and what would be right.
    pub fn check<E: std::fmt::Display>(
        &self,
        broker: impl FnOnce(&str, &str) -> Result<(), E>,
    ) -> Result<(), SettingError> {
        let checked = broker(&self.broker, &self.broker_prefix);
        checked.map_err(|e| SettingError::invalid("--broker", &self.broker, e.to_string()))?;
        dialable("--advertise-http", self.advertise_http.as_deref(), self.listen_http)
    }
}

impl NodeSettings {
    /// Checks the address to publish.
    ///
    /// # Errors
    /// When nobody could dial it.
    pub fn check(&self) -> Result<(), SettingError> {
        dialable("--advertise-pg", self.advertise_pg.as_deref(), self.listen_pg)
    }
}

/// Nobody can dial a wildcard address, so listening on one needs an explicit address.
fn dialable(flag: &str, advertised: Option<&str>, listen: SocketAddr) -> Result<(), SettingError> {
    if advertised.is_none() && listen.ip().is_unspecified() {
        let problem = format!("is needed because {listen} is not an address that others can dial");
        return Err(SettingError::invalid(flag, "", problem));
    }
    Ok(())
}
