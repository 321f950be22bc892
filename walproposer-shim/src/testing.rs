//! What unit tests of several modules need.

use crate::config::{ShimConfig, ShimSettings};

/// Settings with these safekeepers (or three that nobody listens at).
pub(crate) fn config(safekeepers: &[&str]) -> ShimConfig {
    let default = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"];
    let list = if safekeepers.is_empty() { &default[..] } else { safekeepers }.join(",");
    let primary = ["--primary", "host=127.0.0.1 port=1 user=postgres"];
    let tenant = ["--tenant-id", "0123456789abcdef0011223344556677"];
    let timeline = ["--timeline-id", "00112233445566770123456789abcdef"];
    let rest = ["--broker", "http://127.0.0.1:1", "--safekeepers", &list];
    let flags = [&primary[..], &tenant, &timeline, &rest].concat();
    node::settings::from_flags::<ShimSettings>(&flags).expect("valid settings")
}
