//! Parsers of values. Each says what it expects, with its bounds: that is the error, and the bound in docs/settings.md.

use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::time::Duration;

use proto::id::NodeId;

/// The most MiB that can be counted in bytes.
pub(super) const MIB_MAX: u64 = (usize::MAX >> 20) as u64;

/// A number of things, within `bounds`.
pub fn count(bounds: RangeInclusive<u64>) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    move |text| within(text, &bounds).and_then(|n| usize::try_from(n).map_err(|_| expected(&bounds)))
}

/// A number of MiB within `bounds`, as bytes.
pub fn mib(bounds: RangeInclusive<u64>) -> impl Fn(&str) -> Result<usize, String> + Clone + Send + Sync + 'static {
    let bounds = *bounds.start()..=(*bounds.end()).min(MIB_MAX);
    move |text| {
        let n = within(text, &bounds)?;
        usize::try_from(n << 20).map_err(|_| expected(&bounds))
    }
}

/// A number of milliseconds within `bounds`.
pub fn millis(
    bounds: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| within(text, &bounds).map(Duration::from_millis)
}

/// A number of microseconds within `bounds`.
pub fn micros(
    bounds: RangeInclusive<u64>,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync + 'static {
    move |text| within(text, &bounds).map(Duration::from_micros)
}

/// The number of a node.
///
/// # Errors
/// When it is none; 0 means "no node" on the wire.
pub fn node_id(text: &str) -> Result<NodeId, String> {
    match text.parse() {
        Ok(0) => Err("node numbers start at 1".to_owned()),
        Ok(id) => Ok(NodeId(id)),
        Err(_) => Err(expected(&(1..=u64::MAX))),
    }
}

/// `host:port` of this machine, as an address to listen on.
///
/// # Errors
/// When it is none, or the host has no address.
pub fn socket_address(text: &str) -> Result<SocketAddr, String> {
    if !text.contains(':') {
        return Err("expected host:port".to_owned());
    }
    let mut found = text.to_socket_addrs().map_err(|e| format!("expected host:port ({e})"))?;
    found.next().ok_or_else(|| "the host has no address".to_owned())
}

/// `host:port` that others dial; the name is theirs to resolve.
///
/// # Errors
/// When it is none.
pub fn host_port(text: &str) -> Result<String, String> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse().ok());
    match port {
        None | Some(0u16) => Err("expected host:port".to_owned()),
        Some(_) => Ok(text.to_owned()),
    }
}

/// The prefix of all keys on the broker.
pub(super) fn broker_prefix(text: &str) -> Result<String, String> {
    if text.starts_with('/') && !text.trim_end_matches('/').is_empty() {
        Ok(text.to_owned())
    } else {
        Err("expected a path like /walfabric".to_owned())
    }
}

fn within(text: &str, bounds: &RangeInclusive<u64>) -> Result<u64, String> {
    text.parse().ok().filter(|n| bounds.contains(n)).ok_or_else(|| expected(bounds))
}

/// A bound that no machine reaches is none to speak of.
fn expected(bounds: &RangeInclusive<u64>) -> String {
    match *bounds.end() {
        MIB_MAX.. => format!("expected {} or more", bounds.start()),
        end => format!("expected {} to {end}", bounds.start()),
    }
}
