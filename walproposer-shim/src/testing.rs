//! What unit tests of several modules need.

use crate::config::{ApplySource, Args, Config, LogFormat};

/// Settings with these safekeepers (or three that nobody listens at).
pub(crate) fn config(safekeepers: &[&str]) -> Config {
    let default = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"];
    let list = if safekeepers.is_empty() { &default[..] } else { safekeepers };
    let args = Args {
        primary: "host=127.0.0.1 port=1 user=postgres".to_owned(),
        safekeepers: list.iter().map(|s| (*s).to_owned()).collect(),
        tenant_id: "0123456789abcdef0011223344556677".to_owned(),
        timeline_id: "00112233445566770123456789abcdef".to_owned(),
        broker: "http://127.0.0.1:1".to_owned(),
        broker_prefix: "/walfabric".to_owned(),
        listen_http: "127.0.0.1:0".to_owned(),
        advertise_http: None,
        apply_source: ApplySource::Flush,
        slot: None,
        primary_epoch: 1,
        ring_mib: 64,
        allow_fsync_off: false,
        allow_async_commits: false,
        log_format: LogFormat::Text,
        check_config: false,
    };
    Config::new(&args, &libpq::Environment::none()).expect("valid settings")
}
