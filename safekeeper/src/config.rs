//! Settings: flags, an optional file below them, and the checked result.
//!
//! A [`Config`] that exists is valid. It is built once and passed down; nothing below reads flags, files or the
//! environment.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use node::HTTP_CONNECTIONS_MAX;
use proto::broker::keys::DEFAULT_PREFIX;
use proto::id::NodeId;
use serde::Deserialize;

/// Sessions unless configured. Each may hold 4 MiB of unwritten WAL or 1 MiB of outgoing WAL, so that all of them stay
/// within a few GiB; PostgreSQL fleets of this size have one proposer and a handful of readers per timeline.
const PG_CONNECTIONS_MAX: usize = 1024;

/// The most that either number of connections may be set to.
const CONNECTIONS_LIMIT: usize = 100_000;

/// Flags of the safekeeper. Each one can stand in the file of `--config` too; a flag wins over the file.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Args {
    /// Number of this safekeeper, unique among safekeepers, 1 or more; fixed for a data directory.
    #[arg(long, value_name = "N")]
    pub id: Option<u64>,
    /// Directory for WAL and control files; created when missing.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where proposers and readers connect.
    #[arg(long, value_name = "HOST:PORT")]
    pub listen_pg: Option<String>,
    /// Where the HTTP interface listens.
    #[arg(long, value_name = "HOST:PORT")]
    pub listen_http: Option<String>,
    /// Broker, etcd's own URL form: `http://host:port[,host:port...]`.
    #[arg(long, value_name = "URL")]
    pub broker: Option<String>,
    /// Prefix of every key on the broker [default: /walfabric].
    #[arg(long, value_name = "PREFIX")]
    pub broker_prefix: Option<String>,
    /// Address that others dial instead of --listen-pg.
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_pg: Option<String>,
    /// Address that others ask over HTTP instead of --listen-http.
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_http: Option<String>,
    /// Availability zone, shown to pageservers that choose a source.
    #[arg(long, value_name = "NAME")]
    pub availability_zone: Option<String>,
    /// Start although another living process has published itself under this id; it is to be stopped.
    #[arg(long)]
    pub take_over: bool,
    /// Sessions on --listen-pg at once, a quarter of them kept for streams of WAL into this server [default: 1024].
    #[arg(long, value_name = "N")]
    pub pg_connections_max: Option<usize>,
    /// Connections to --listen-http at once [default: 256].
    #[arg(long, value_name = "N")]
    pub http_connections_max: Option<usize>,
    /// File of settings, `name = value` in TOML, names as the flags with `_` for `-`.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Let a walproposer of generation 0 create its timeline by pushing; off, timelines are created over HTTP only.
    #[arg(long)]
    pub allow_implicit_timelines: bool,
    /// WAL kept in memory for readers, of all timelines together, in MiB [default: 64].
    #[arg(long, value_name = "MIB")]
    pub ring_mib: Option<u32>,
    /// Form of the log on standard error: text or json [default: text].
    #[arg(long, value_name = "FORM")]
    pub log_format: Option<String>,
    /// Check the settings, say what is wrong with them, and exit.
    #[arg(long)]
    pub check_config: bool,
}

/// Default of --ring-mib: eight timelines that write at once have all that helps them.
const RING_MIB: u32 = 64;

/// The file of `--config`: the flags again.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct File {
    id: Option<u64>,
    data_dir: Option<PathBuf>,
    listen_pg: Option<String>,
    listen_http: Option<String>,
    broker: Option<String>,
    broker_prefix: Option<String>,
    advertise_pg: Option<String>,
    advertise_http: Option<String>,
    availability_zone: Option<String>,
    allow_implicit_timelines: Option<bool>,
    ring_mib: Option<u32>,
    log_format: Option<String>,
    pg_connections_max: Option<usize>,
    http_connections_max: Option<usize>,
}

/// Settings that were checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// This node.
    pub id: NodeId,
    /// Directory of everything durable.
    pub data_dir: PathBuf,
    /// libpq listener; port 0 picks a free one.
    pub listen_pg: SocketAddr,
    /// HTTP listener; port 0 picks a free one.
    pub listen_http: SocketAddr,
    /// Broker URL.
    pub broker: String,
    /// Key prefix on the broker.
    pub broker_prefix: String,
    /// Address published for libpq; `None`: the one listened on.
    pub advertise_pg: Option<String>,
    /// Address published for HTTP; `None`: the one listened on.
    pub advertise_http: Option<String>,
    /// Whether the start does not look for another process with this id.
    pub take_over: bool,
    /// Sessions on the libpq port at once.
    pub pg_connections_max: usize,
    /// Connections to the HTTP port at once.
    pub http_connections_max: usize,
    /// Availability zone.
    pub availability_zone: Option<String>,
    /// Whether START_WAL_PUSH of a generation-0 walproposer may create a timeline.
    pub allow_implicit_timelines: bool,
    /// WAL kept in memory for readers, of all timelines together, in bytes.
    pub rings_bytes: usize,
    /// JSON logs instead of text.
    pub log_json: bool,
}

/// Settings that cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ConfigError {
    /// A setting without which nothing works.
    #[error("{flag} is missing: give the flag, or {name} in the file of --config", name = file_name(.flag))]
    Missing {
        /// The flag.
        flag: &'static str,
    },
    /// A setting whose value is of no use.
    #[error("{flag} {value:?}: {problem}")]
    Invalid {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The file of `--config`.
    #[error("configuration file {path}: {problem}")]
    File {
        /// Its path.
        path: String,
        /// What is wrong, with the line and the known names.
        problem: String,
    },
}

fn file_name(flag: &str) -> String {
    flag.trim_start_matches('-').replace('-', "_")
}

impl Config {
    /// Merges flags and file, and checks everything.
    ///
    /// # Errors
    /// The first setting that is missing or of no use.
    pub fn from_args(args: &Args) -> Result<Config, ConfigError> {
        let file = args.config.as_deref().map(read_file).transpose()?.unwrap_or_default();
        let a = args.clone();
        let id = required("--id", a.id.or(file.id))?;
        if id == 0 {
            return Err(invalid("--id", "0", "node numbers start at 1"));
        }
        let data_dir = required("--data-dir", a.data_dir.or(file.data_dir))?;
        let listen_pg = resolve("--listen-pg", &required("--listen-pg", a.listen_pg.or(file.listen_pg))?)?;
        let listen_http = resolve("--listen-http", &required("--listen-http", a.listen_http.or(file.listen_http))?)?;
        let broker = required("--broker", a.broker.or(file.broker))?;
        let broker_prefix = a.broker_prefix.or(file.broker_prefix).unwrap_or_else(|| DEFAULT_PREFIX.to_owned());
        if !broker_prefix.starts_with('/') || broker_prefix.trim_end_matches('/').is_empty() {
            return Err(invalid("--broker-prefix", &broker_prefix, "expected a path like /walfabric"));
        }
        broker::Broker::new(&broker, &broker_prefix).map_err(|e| invalid("--broker", &broker, &e.to_string()))?;
        let advertise_pg = advertised("--advertise-pg", a.advertise_pg.or(file.advertise_pg), listen_pg)?;
        let advertise_http = advertised("--advertise-http", a.advertise_http.or(file.advertise_http), listen_http)?;
        let ring_mib = a.ring_mib.or(file.ring_mib).unwrap_or(RING_MIB);
        let rings_bytes = usize::try_from(u64::from(ring_mib) << 20).ok().filter(|bytes| *bytes > 0);
        let rings_bytes =
            rings_bytes.ok_or_else(|| invalid("--ring-mib", &ring_mib.to_string(), "expected 1 or more"))?;
        let log_json = match a.log_format.or(file.log_format).as_deref() {
            None | Some("text") => false,
            Some("json") => true,
            Some(other) => return Err(invalid("--log-format", other, "expected text or json")),
        };
        let places = |flag, value: usize| {
            let problem = format!("expected 4 to {CONNECTIONS_LIMIT}");
            let good = (4..=CONNECTIONS_LIMIT).contains(&value);
            if good { Ok(value) } else { Err(invalid(flag, &value.to_string(), &problem)) }
        };
        let pg = a.pg_connections_max.or(file.pg_connections_max).unwrap_or(PG_CONNECTIONS_MAX);
        let http = a.http_connections_max.or(file.http_connections_max).unwrap_or(HTTP_CONNECTIONS_MAX);
        Ok(Config {
            take_over: a.take_over,
            pg_connections_max: places("--pg-connections-max", pg)?,
            http_connections_max: places("--http-connections-max", http)?,
            id: NodeId(id),
            data_dir,
            listen_pg,
            listen_http,
            broker,
            broker_prefix,
            advertise_pg,
            advertise_http,
            availability_zone: a.availability_zone.or(file.availability_zone),
            allow_implicit_timelines: a.allow_implicit_timelines || file.allow_implicit_timelines.unwrap_or(false),
            rings_bytes,
            log_json,
        })
    }

    /// Names and values, for `SHOW CONFIG`.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let or_empty = |v: &Option<String>| v.clone().unwrap_or_default();
        vec![
            ("kind", "safekeeper".to_owned()),
            ("id", self.id.to_string()),
            ("data_dir", self.data_dir.display().to_string()),
            ("listen_pg", self.listen_pg.to_string()),
            ("listen_http", self.listen_http.to_string()),
            ("broker", self.broker.clone()),
            ("broker_prefix", self.broker_prefix.clone()),
            ("pg_connections_max", self.pg_connections_max.to_string()),
            ("http_connections_max", self.http_connections_max.to_string()),
            ("advertise_pg", or_empty(&self.advertise_pg)),
            ("advertise_http", or_empty(&self.advertise_http)),
            ("availability_zone", or_empty(&self.availability_zone)),
            ("allow_implicit_timelines", self.allow_implicit_timelines.to_string()),
            ("ring_mib", (self.rings_bytes >> 20).to_string()),
            ("log_format", if self.log_json { "json" } else { "text" }.to_owned()),
        ]
    }
}

fn read_file(path: &Path) -> Result<File, ConfigError> {
    let error = |problem: String| ConfigError::File { path: path.display().to_string(), problem };
    let text = std::fs::read_to_string(path).map_err(|e| error(e.to_string()))?;
    toml::from_str(&text).map_err(|e| error(e.to_string().trim_end().to_owned()))
}

fn required<T>(flag: &'static str, value: Option<T>) -> Result<T, ConfigError> {
    value.ok_or(ConfigError::Missing { flag })
}

fn invalid(flag: &'static str, value: &str, problem: &str) -> ConfigError {
    ConfigError::Invalid { flag, value: value.to_owned(), problem: problem.to_owned() }
}

fn resolve(flag: &'static str, value: &str) -> Result<SocketAddr, ConfigError> {
    let mut found = value.to_socket_addrs().map_err(|e| invalid(flag, value, &format!("expected host:port ({e})")))?;
    found.next().ok_or_else(|| invalid(flag, value, "the host has no address"))
}

/// The address to publish. Nobody can dial a wildcard address, so listening on one needs an explicit address.
fn advertised(flag: &'static str, value: Option<String>, listen: SocketAddr) -> Result<Option<String>, ConfigError> {
    match value {
        Some(v) => {
            let port = v.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, p)| p.parse::<u16>().ok());
            if port.is_none_or(|p| p == 0) {
                return Err(invalid(flag, &v, "expected host:port"));
            }
            Ok(Some(v))
        }
        None if listen.ip().is_unspecified() => {
            Err(invalid(flag, "", &format!("is needed because {listen} is not an address that others can dial")))
        }
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> Args {
        Args {
            id: Some(7),
            data_dir: Some("/tmp/d".into()),
            listen_pg: Some("127.0.0.1:0".into()),
            listen_http: Some("127.0.0.1:0".into()),
            broker: Some("http://127.0.0.1:2379".into()),
            ..Args::default()
        }
    }

    fn with_file(text: &str, args: Args) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("safekeeper.toml");
        std::fs::write(&path, text).expect("the file is written");
        Config::from_args(&Args { config: Some(path), ..args })
    }

    #[test]
    fn flags_win_over_the_file() {
        let c = with_file("id = 3\nbroker_prefix = \"/x\"\nallow_implicit_timelines = true\n", args()).expect("valid");
        assert_eq!((c.id, c.broker_prefix.as_str(), c.allow_implicit_timelines), (NodeId(7), "/x", true));
    }

    #[test]
    fn unknown_names_are_refused_with_the_known_ones() {
        let e = with_file("idd = 3\n", args()).expect_err("a typing error").to_string();
        assert!(e.contains("idd") && e.contains("listen_pg") && e.contains("safekeeper.toml"), "{e}");
    }

    #[test]
    fn every_unusable_setting_is_named() {
        let cases: Vec<(&str, Args)> = vec![
            ("--id", Args { id: None, ..args() }),
            ("--id", Args { id: Some(0), ..args() }),
            ("--data-dir", Args { data_dir: None, ..args() }),
            ("--listen-pg", Args { listen_pg: Some("nonsense".into()), ..args() }),
            ("--broker-prefix", Args { broker_prefix: Some("/".into()), ..args() }),
            ("--advertise-pg", Args { listen_pg: Some("0.0.0.0:5454".into()), ..args() }),
            ("--advertise-http", Args { advertise_http: Some("host".into()), ..args() }),
            ("--ring-mib", Args { ring_mib: Some(0), ..args() }),
            ("--log-format", Args { log_format: Some("xml".into()), ..args() }),
        ];
        for (flag, a) in cases {
            let e = Config::from_args(&a).expect_err(flag).to_string();
            assert!(e.contains(flag), "{e}");
        }
    }
}
