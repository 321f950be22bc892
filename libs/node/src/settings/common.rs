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
    /// Address that others ask over HTTP instead of --listen-http. Needed when that is 0.0.0.0 or [::].
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    pub advertise_http: Option<String>,
    /// Broker, etcd's own URL form: `http://host:port[,host:port...]`. One that is away stops nothing, not even the
    /// start.
    #[arg(long, value_name = "URL")]
    pub broker: String,
    /// Prefix of every key on the broker.
    #[arg(long, value_name = "PREFIX", default_value = DEFAULT_PREFIX, value_parser = broker_prefix)]
    pub broker_prefix: String,
    /// Connections to --listen-http at once: people, monitoring and the other nodes, with room.
    ///
    /// Each may hold one body of 1 MiB.
    #[arg(long, value_name = "N", default_value = "256", value_parser = count(CONNECTIONS_MIN..=CONNECTIONS_LIMIT))]
    pub http_connections_max: usize,
    /// Form of the log on standard error: text or json.
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub log_format: LogFormat,
    /// Level of the log, or a filter like `info,safekeeper::push=debug`.
    ///
    /// Levels: error, warn, info, debug, trace. A filter that cannot be read is named in the log, and info is used.
    #[arg(long, value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// File of settings, `name = value` in TOML, names as the flags with `_` for `-`. A flag wins over the
    /// environment, the environment over the file.
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
    /// Number of this node, unique among its kind; fixed for a data directory.
    ///
    /// It is written into the data directory at the first start; another number on the same directory is refused with
    /// exit code 2.
    #[arg(long, value_name = "N", value_parser = node_id)]
    pub id: NodeId,
    /// Directory of everything durable; created when missing, locked while the process runs.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where the libpq protocol is spoken; port 0 picks a free one.
    ///
    /// Nobody is asked for a password in this version: anyone who reaches it is trusted.
    #[arg(long, value_name = "HOST:PORT", value_parser = socket_address)]
    pub listen_pg: SocketAddr,
    /// Address that others dial instead of --listen-pg. Needed when that is 0.0.0.0 or [::].
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    pub advertise_pg: Option<String>,
    /// Availability zone, published with the node; a safekeeper in the pageserver's own zone is preferred.
    #[arg(long, value_name = "NAME")]
    pub availability_zone: Option<String>,
    /// Sessions on --listen-pg at once, a quarter of them kept for streams of WAL into this server.
    ///
    /// Each may hold some MiB of WAL.
    #[arg(long, value_name = "N", default_value = "1024", value_parser = count(CONNECTIONS_MIN..=CONNECTIONS_LIMIT))]
    pub pg_connections_max: usize,
    /// Start although another living process has published itself under this id; it is to be stopped.
    ///
    /// Without it such a start is refused with exit code 2 and both addresses. A record whose process is dead, and a
    /// broker that is away, refuse nothing.
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
