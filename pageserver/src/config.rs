//! Settings of the pageserver: those of every node, and its own.
//!
//! Settings that were read are valid. They are read once and passed down; nothing below reads flags, files or the
//! environment.

use std::time::Duration;

use broker::Broker;
use node::settings::{NodeSettings, ProcessSettings, ServerSettings, SettingError, mib, micros, millis};

use crate::choose::Settings;
use crate::store::StoreConfig;

/// The longest that a read may be told to wait: one hour. Beyond that a client is surely gone.
pub(crate) const LSN_WAIT_MS_MAX: u64 = 3_600_000;

/// Sessions unless configured: one pusher per timeline, its successor, page clients and some people.
const PG_CONNECTIONS_MAX: &str = "4096";

/// Receives PostgreSQL WAL from the safekeeper it chose, and serves the pages that it describes.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "pageserver", version)]
#[command(mut_arg("pg_connections_max", |arg| arg.default_value(PG_CONNECTIONS_MAX)))]
pub struct PageserverSettings {
    /// What every node is told.
    #[command(flatten)]
    pub node: NodeSettings,
    /// What every server is told.
    #[command(flatten)]
    pub process: ProcessSettings,
    /// Where pages are stored: `file:///dir` or `s3://bucket/prefix`. The default is `pages` in the data directory.
    #[arg(long, value_name = "URL", value_parser = storage)]
    pub remote_storage: Option<String>,
    /// How long the pageserver waits for the safekeeper that it chose to connect, in milliseconds. Then it chooses
    /// another one.
    #[arg(long = "dial-timeout-ms", value_name = "MS", default_value = "1000", value_parser = millis(10..=60_000))]
    pub dial_timeout: Duration,
    /// Memory of the cache for all timelines together, in MiB: three quarters for blocks of layer files, the rest for
    /// pages that took long to build. The larger it is, the fewer reads need a file.
    #[arg(long = "cache-mib", value_name = "MIB", default_value = "256", value_parser = mib(1..=1 << 20))]
    pub cache_bytes: usize,
    /// A timeline's newest changes are written as a layer when they take up this much memory, in MiB.
    #[arg(long = "layer-mib", value_name = "MIB", default_value = "64", value_parser = mib(1..=1024))]
    pub layer_bytes: usize,
    /// Changes are written as a layer after this many milliseconds, however few they are.
    ///
    /// With a shorter time a quiet timeline is durable sooner, and has more small files.
    #[arg(long = "layer-age-ms", value_name = "MS", default_value = "300000", value_parser = millis(10..=86_400_000))]
    pub layer_age: Duration,
    /// How long a read waits for WAL up to its LSN before it fails, in milliseconds.
    #[arg(long = "lsn-wait-ms", value_name = "MS", default_value = "60000", value_parser = millis(0..=LSN_WAIT_MS_MAX))]
    pub lsn_wait: Duration,
    /// How long a session waits awake for its client's next request, in microseconds, when the one before came within
    /// that time. With 0 it never does.
    ///
    /// In our measurements one client got its answers in about half the time. This costs up to one busy core. Waits of
    /// more than a millisecond cost more than they gain.
    #[arg(long = "page-awake-us", value_name = "US", default_value = "50", value_parser = micros(0..=1000))]
    pub page_awake: Duration,
    /// Limits of the chooser and of streams, which follow from these settings.
    #[arg(skip)]
    pub(crate) choice: Settings,
}

impl ServerSettings for PageserverSettings {
    type Checked = PageserverSettings;

    fn process(&mut self) -> &mut ProcessSettings {
        &mut self.process
    }

    fn check(mut self, _: &dyn Fn(&str) -> Option<String>) -> Result<PageserverSettings, SettingError> {
        self.node.check()?;
        self.process.check(|url, prefix| Broker::new(url, prefix).map(drop))?;
        let zone = self.node.availability_zone.clone();
        self.choice = Settings { zone, dial_timeout: self.dial_timeout, ..Settings::default() };
        Ok(self)
    }
}

impl PageserverSettings {
    /// Where pages are stored.
    pub(crate) fn storage_url(&self) -> String {
        self.remote_storage.clone().unwrap_or_else(|| {
            let dir = std::path::absolute(&self.node.data_dir).unwrap_or_else(|_| self.node.data_dir.clone());
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

    /// Names and values, for `SHOW CONFIG`, with the chooser's own limits.
    pub fn rows(&self) -> Vec<(String, String)> {
        let choice = &self.choice;
        let seconds = |d: Duration| d.as_secs_f64().to_string();
        let own = [
            ("kind", "pageserver".to_owned()),
            ("remote_storage", self.storage_url()),
            ("silence_limit_s", seconds(choice.silence_limit)),
            ("wal_timeout_s", seconds(choice.wal_timeout)),
            ("hold_s", seconds(choice.hold)),
            ("lag_bytes_max", choice.lag_bytes_max.to_string()),
            ("lag_bytes_max_stalled", choice.lag_bytes_max_stalled.to_string()),
        ];
        let given = self.process.shown.iter().filter(|(key, _)| key != "remote_storage").cloned();
        own.into_iter().map(|(key, value)| (key.to_owned(), value)).chain(given).collect()
    }
}

fn storage(url: &str) -> Result<String, String> {
    let is_good = match url.split_once("://") {
        Some(("file", path)) => path.starts_with('/') && path.len() > 1,
        Some(("s3", rest)) => rest.split('/').next().is_some_and(|bucket| !bucket.is_empty()),
        _ => false,
    };
    let problem = "expected file:///absolute/directory or s3://bucket/prefix";
    if is_good { Ok(url.to_owned()) } else { Err(problem.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::settings::from_flags;

    fn with(more: &[&str]) -> Result<PageserverSettings, SettingError> {
        let good = ["--id", "1", "--data-dir", "/tmp/d", "--listen-pg", "127.0.0.1:0", "--listen-http", "127.0.0.1:0"];
        from_flags::<PageserverSettings>(&[&good[..], &["--broker", "http://127.0.0.1:2379"], more].concat())
    }

    #[test]
    fn every_unusable_setting_is_named() {
        let most = u64::MAX.to_string();
        for (flag, value) in [
            ("--remote-storage", "gs://x"),
            ("--remote-storage", "file://relative"),
            ("--dial-timeout-ms", "0"),
            ("--lsn-wait-ms", &most),
            ("--page-awake-us", &most),
        ] {
            let refused = with(&[flag, value]).expect_err(flag).to_string();
            assert!(refused.contains(flag) && refused.contains(value) && refused.contains("expected"), "{refused}");
        }
        for good in ["file:///var/pages", "s3://bucket", "s3://bucket/prefix"] {
            assert!(with(&["--remote-storage", good]).is_ok(), "{good}");
        }
    }

    #[test]
    fn defaults_are_those_of_the_documentation_and_the_chooser_gets_its_own() {
        let settings = with(&["--dial-timeout-ms", "50", "--availability-zone", "a"]).expect("valid");
        assert_eq!((settings.node.pg_connections_max, settings.cache_bytes), (4096, 256 << 20));
        assert_eq!((settings.choice.dial_timeout.as_millis(), settings.choice.zone.as_deref()), (50, Some("a")));
        let rows = settings.rows();
        let value = |key: &str| rows.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        assert_eq!((value("remote_storage"), value("lsn_wait_ms")), (Some("file:///tmp/d/pages"), Some("60000")));
    }
}
