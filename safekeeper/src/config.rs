//! Settings of the safekeeper: those of every node, and its own.
//!
//! Settings that were read are valid. They are read once and passed down; nothing below reads flags, files or the
//! environment.

use broker::Broker;
use node::settings::{NodeSettings, ProcessSettings, ServerSettings, SettingError, mib};

/// Keeps PostgreSQL WAL durable on a quorum.
#[derive(clap::Parser, Clone, Debug)]
#[command(name = "safekeeper", version)]
pub struct SafekeeperSettings {
    /// What every node is told: PostgreSQL fleets of 1024 sessions have one proposer and a handful of readers per
    /// timeline.
    #[command(flatten)]
    pub node: NodeSettings,
    /// What every server is told.
    #[command(flatten)]
    pub process: ProcessSettings,
    /// Let a walproposer of generation 0 create its timeline when it connects. Without this flag, timelines are created
    /// over HTTP only.
    #[arg(long)]
    pub allow_implicit_timelines: bool,
    /// WAL kept in memory for readers, of all timelines together, in MiB.
    ///
    /// While a timeline is written, its newest 8 MiB are kept, so the default is enough for eight busy timelines. A
    /// timeline gives its memory back one second after its last WAL, and earlier when others need it: the one that has
    /// been idle longest gives first. Readers get older WAL from the files.
    #[arg(long = "ring-mib", value_name = "MIB", default_value = "64", value_parser = mib(1..=u64::MAX))]
    pub rings_bytes: usize,
}

impl ServerSettings for SafekeeperSettings {
    type Checked = SafekeeperSettings;

    fn process(&mut self) -> &mut ProcessSettings {
        &mut self.process
    }

    fn check(self, _: &dyn Fn(&str) -> Option<String>) -> Result<SafekeeperSettings, SettingError> {
        self.node.check()?;
        self.process.check(|url, prefix| Broker::new(url, prefix).map(drop))?;
        Ok(self)
    }
}

impl SafekeeperSettings {
    /// Names and values, for `SHOW CONFIG`.
    pub fn rows(&self) -> Vec<(String, String)> {
        let kind = ("kind".to_owned(), "safekeeper".to_owned());
        std::iter::once(kind).chain(self.process.shown.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node::settings::from_flags;

    const GOOD: [&str; 10] = [
        "--id",
        "7",
        "--data-dir",
        "/tmp/d",
        "--listen-pg",
        "127.0.0.1:0",
        "--listen-http",
        "127.0.0.1:0",
        "--broker",
        "http://127.0.0.1:2379",
    ];

    fn with(more: &[&str]) -> Result<SafekeeperSettings, SettingError> {
        from_flags::<SafekeeperSettings>(&[&GOOD, more].concat())
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let settings = with(&[]).expect("valid");
        assert_eq!((settings.rings_bytes, settings.node.pg_connections_max), (64 << 20, 1024));
        assert!(!settings.allow_implicit_timelines && !settings.node.take_over);
        let shown = settings.rows();
        assert!(shown.contains(&("ring_mib".to_owned(), "64".to_owned())), "{shown:?}");
    }

    #[test]
    fn every_unusable_setting_is_named() {
        for (flag, value) in [("--ring-mib", "0"), ("--availability-zone", ""), ("--pg-connections-max", "3")] {
            let refused = with(&[flag, value]);
            assert_eq!(refused.is_err(), !value.is_empty(), "{flag} {value}");
            assert!(refused.err().is_none_or(|e| e.to_string().contains(flag)));
        }
        let mut words = GOOD;
        words[9] = "2379";
        let refused = from_flags::<SafekeeperSettings>(&words).expect_err("no URL").to_string();
        assert!(refused.contains("--broker"), "{refused}");
    }
}
