//! Settings: flags, an optional file below them, and the checked result.
//!
//! A [`Config`] that exists is valid. It is built once and passed down; nothing below reads flags, files or the
//! environment.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use node::HTTP_CONNECTIONS_MAX;
use proto::broker::keys::DEFAULT_PREFIX;
use proto::id::NodeId;
use serde::Deserialize;

use crate::choose::Settings;
use crate::store::StoreConfig;

/// The longest that a read may be told to wait: one hour. Beyond that a client is surely gone.
pub(crate) const LSN_WAIT_MS_MAX: u64 = 3_600_000;
/// To stay awake longer than a millisecond costs more than it can win.
const PAGE_AWAKE_US_MAX: usize = 1000;

/// Sessions unless configured: one pusher per timeline, its successor, page clients and some people.
const PG_CONNECTIONS_MAX: usize = 4096;

/// The most that either number of connections may be set to.
const CONNECTIONS_LIMIT: usize = 100_000;

/// Flags of the pageserver. Each one can stand in the file of `--config` too; a flag wins over the file.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Args {
    /// Number of this pageserver, unique among pageservers, 1 or more; fixed for a data directory.
    #[arg(long, value_name = "N")]
    pub id: Option<u64>,
    /// Directory for everything durable; created when missing.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where safekeepers push and clients ask.
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
    /// Address that safekeepers dial instead of --listen-pg.
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_pg: Option<String>,
    /// Address that others ask over HTTP instead of --listen-http.
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise_http: Option<String>,
    /// Availability zone; a safekeeper in the same zone is preferred.
    #[arg(long, value_name = "NAME")]
    pub availability_zone: Option<String>,
    /// Where pages are stored, `file:///dir` or `s3://bucket/prefix` [default: `pages` in the data directory].
    #[arg(long, value_name = "URL")]
    pub remote_storage: Option<String>,
    /// A published choice that no safekeeper dials within this many milliseconds falls to the next one [default: 1000].
    #[arg(long, value_name = "MS")]
    pub dial_timeout_ms: Option<u64>,
    /// Memory for decoded blocks of layers, shared by all timelines, in MiB [default: 256].
    #[arg(long, value_name = "MIB")]
    pub cache_mib: Option<usize>,
    /// Memory of one timeline's newest changes at which they are written as a layer, in MiB [default: 64].
    #[arg(long, value_name = "MIB")]
    pub layer_mib: Option<usize>,
    /// Changes are written as a layer after so many milliseconds, however few [default: 300000].
    #[arg(long, value_name = "MS")]
    pub layer_age_ms: Option<u64>,
    /// A read at an LSN that is not here yet waits for it so many milliseconds at most [default: 60000].
    #[arg(long, value_name = "MS")]
    pub lsn_wait_ms: Option<u64>,
    /// A client that asks for its next page within so many microseconds of the last answer is waited for as long
    /// without sleeping; 0: never [default: 50].
    #[arg(long, value_name = "US")]
    pub page_awake_us: Option<u64>,
    /// Start although another living process has published itself under this id; it is to be stopped.
    #[arg(long)]
    pub take_over: bool,
    /// Sessions on --listen-pg at once, a quarter of them kept for streams of WAL into this server [default: 4096].
    #[arg(long, value_name = "N")]
    pub pg_connections_max: Option<usize>,
    /// Connections to --listen-http at once [default: 256].
    #[arg(long, value_name = "N")]
    pub http_connections_max: Option<usize>,
    /// File of settings, `name = value` in TOML, names as the flags with `_` for `-`.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Form of the log on standard error: text or json [default: text].
    #[arg(long, value_name = "FORM")]
    pub log_format: Option<String>,
    /// Check the settings, say what is wrong with them, and exit.
    #[arg(long)]
    pub check_config: bool,
}

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
    remote_storage: Option<String>,
    dial_timeout_ms: Option<u64>,
    cache_mib: Option<usize>,
    layer_mib: Option<usize>,
    layer_age_ms: Option<u64>,
    lsn_wait_ms: Option<u64>,
    page_awake_us: Option<u64>,
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
    /// Where pages are stored; `None`: below the data directory.
    pub remote_storage: Option<String>,
    /// Bytes of decoded blocks kept in memory.
    pub cache_bytes: usize,
    /// Bytes of memory at which a timeline's newest changes are written.
    pub layer_bytes: usize,
    /// Age at which they are written.
    pub layer_age: Duration,
    /// How long a read waits for an LSN that is not here yet.
    pub lsn_wait: Duration,
    /// How long a client that asks quickly is waited for without sleeping.
    pub page_awake: Duration,
    /// JSON logs instead of text.
    pub log_json: bool,
    /// Limits of the chooser and of streams.
    pub(crate) choice: Settings,
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
    /// Where pages are stored.
    pub(crate) fn storage_url(&self) -> String {
        self.remote_storage.clone().unwrap_or_else(|| {
            let dir = std::path::absolute(&self.data_dir).unwrap_or_else(|_| self.data_dir.clone());
            format!("file://{}", dir.join("pages").display())
        })
    }

    /// Whether that is far away.
    pub(crate) fn is_remote(&self) -> bool {
        self.remote_storage.as_ref().is_some_and(|url| !url.starts_with("file://"))
    }

    /// Sizes and bounds of the page store.
    pub(crate) fn store(&self) -> StoreConfig {
        StoreConfig { layer_bytes: self.layer_bytes, layer_age: self.layer_age, ..StoreConfig::default() }
    }

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
        let remote_storage = a.remote_storage.or(file.remote_storage);
        remote_storage.as_deref().map(check_remote_storage).transpose()?;
        let log_json = match a.log_format.or(file.log_format).as_deref() {
            None | Some("text") => false,
            Some("json") => true,
            Some(other) => return Err(invalid("--log-format", other, "expected text or json")),
        };
        let dial_timeout_ms = a.dial_timeout_ms.or(file.dial_timeout_ms).unwrap_or(1000);
        if !(10..=60_000).contains(&dial_timeout_ms) {
            return Err(invalid("--dial-timeout-ms", &dial_timeout_ms.to_string(), "expected 10 to 60000"));
        }
        let bounded = |flag, value: usize, range: std::ops::RangeInclusive<usize>| {
            let problem = format!("expected {} to {}", range.start(), range.end());
            if range.contains(&value) { Ok(value) } else { Err(invalid(flag, &value.to_string(), &problem)) }
        };
        let cache_mib = bounded("--cache-mib", a.cache_mib.or(file.cache_mib).unwrap_or(256), 1..=1 << 20)?;
        let layer_mib = bounded("--layer-mib", a.layer_mib.or(file.layer_mib).unwrap_or(64), 1..=1024)?;
        let layer_age_ms = a.layer_age_ms.or(file.layer_age_ms).unwrap_or(300_000);
        if !(10..=86_400_000).contains(&layer_age_ms) {
            return Err(invalid("--layer-age-ms", &layer_age_ms.to_string(), "expected 10 to 86400000"));
        }
        let page_awake_us = a.page_awake_us.or(file.page_awake_us).unwrap_or(50);
        let page_awake_us = bounded("--page-awake-us", page_awake_us as usize, 0..=PAGE_AWAKE_US_MAX)?;
        let lsn_wait_ms = a.lsn_wait_ms.or(file.lsn_wait_ms).unwrap_or(60_000);
        if lsn_wait_ms > LSN_WAIT_MS_MAX {
            let problem = format!("expected 0 to {LSN_WAIT_MS_MAX}");
            return Err(invalid("--lsn-wait-ms", &lsn_wait_ms.to_string(), &problem));
        }
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
            advertise_pg: advertised("--advertise-pg", a.advertise_pg.or(file.advertise_pg), listen_pg)?,
            advertise_http: advertised("--advertise-http", a.advertise_http.or(file.advertise_http), listen_http)?,
            remote_storage,
            cache_bytes: cache_mib << 20,
            layer_bytes: layer_mib << 20,
            layer_age: Duration::from_millis(layer_age_ms),
            lsn_wait: Duration::from_millis(lsn_wait_ms),
            page_awake: Duration::from_micros(page_awake_us as u64),
            log_json,
            choice: Settings {
                zone: a.availability_zone.or(file.availability_zone),
                dial_timeout: Duration::from_millis(dial_timeout_ms),
                ..Settings::default()
            },
        })
    }

    /// Names and values, for `SHOW CONFIG`.
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let or_empty = |v: &Option<String>| v.clone().unwrap_or_default();
        let seconds = |d: Duration| d.as_secs_f64().to_string();
        vec![
            ("kind", "pageserver".to_owned()),
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
            ("availability_zone", or_empty(&self.choice.zone)),
            ("remote_storage", self.storage_url()),
            ("cache_mib", (self.cache_bytes >> 20).to_string()),
            ("layer_mib", (self.layer_bytes >> 20).to_string()),
            ("layer_age_ms", self.layer_age.as_millis().to_string()),
            ("log_format", if self.log_json { "json" } else { "text" }.to_owned()),
            ("lsn_wait_ms", self.lsn_wait.as_millis().to_string()),
            ("page_awake_us", self.page_awake.as_micros().to_string()),
            ("dial_timeout_ms", self.choice.dial_timeout.as_millis().to_string()),
            ("silence_limit_s", seconds(self.choice.silence_limit)),
            ("wal_timeout_s", seconds(self.choice.wal_timeout)),
            ("hold_s", seconds(self.choice.hold)),
            ("lag_bytes_max", self.choice.lag_bytes_max.to_string()),
            ("lag_bytes_max_stalled", self.choice.lag_bytes_max_stalled.to_string()),
        ]
    }
}

fn check_remote_storage(url: &str) -> Result<(), ConfigError> {
    let is_good = match url.split_once("://") {
        Some(("file", path)) => path.starts_with('/') && path.len() > 1,
        Some(("s3", rest)) => rest.split('/').next().is_some_and(|bucket| !bucket.is_empty()),
        _ => false,
    };
    let problem = "expected file:///absolute/directory or s3://bucket/prefix";
    if is_good { Ok(()) } else { Err(invalid("--remote-storage", url, problem)) }
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
            id: Some(1),
            data_dir: Some("/tmp/d".into()),
            listen_pg: Some("127.0.0.1:0".into()),
            listen_http: Some("127.0.0.1:0".into()),
            broker: Some("http://127.0.0.1:2379".into()),
            ..Args::default()
        }
    }

    #[test]
    fn every_unusable_setting_is_named() {
        let cases: Vec<(&str, Args)> = vec![
            ("--id", Args { id: Some(0), ..args() }),
            ("--data-dir", Args { data_dir: None, ..args() }),
            ("--listen-pg", Args { listen_pg: Some("nonsense".into()), ..args() }),
            ("--broker-prefix", Args { broker_prefix: Some("/".into()), ..args() }),
            ("--advertise-pg", Args { listen_pg: Some("0.0.0.0:6400".into()), ..args() }),
            ("--remote-storage", Args { remote_storage: Some("gs://x".into()), ..args() }),
            ("--remote-storage", Args { remote_storage: Some("file://relative".into()), ..args() }),
            ("--dial-timeout-ms", Args { dial_timeout_ms: Some(0), ..args() }),
            ("--lsn-wait-ms", Args { lsn_wait_ms: Some(u64::MAX), ..args() }),
            ("--page-awake-us", Args { page_awake_us: Some(u64::MAX), ..args() }),
            ("--log-format", Args { log_format: Some("xml".into()), ..args() }),
        ];
        for (flag, a) in cases {
            let e = Config::from_args(&a).expect_err(flag).to_string();
            assert!(e.contains(flag), "{e}");
        }
        for good in ["file:///var/pages", "s3://bucket", "s3://bucket/prefix"] {
            Config::from_args(&Args { remote_storage: Some(good.into()), ..args() }).expect(good);
        }
    }

    #[test]
    fn flags_win_over_the_file_and_unknown_names_are_refused() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("ps.toml");
        std::fs::write(&path, "id = 9\nbroker_prefix = \"/x\"\ndial_timeout_ms = 50\n").expect("write");
        let c = Config::from_args(&Args { config: Some(path.clone()), ..args() }).expect("valid");
        assert_eq!((c.id, c.broker_prefix.as_str(), c.choice.dial_timeout.as_millis()), (NodeId(1), "/x", 50));
        std::fs::write(&path, "idd = 9\n").expect("write");
        let e = Config::from_args(&Args { config: Some(path), ..args() }).expect_err("a typing error").to_string();
        assert!(e.contains("idd") && e.contains("ps.toml"), "{e}");
    }
}
