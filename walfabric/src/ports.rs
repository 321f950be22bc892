//! Ports for servers of this machine.

use std::net::TcpListener;
use std::ops::Range;

use anyhow::{Context, Result, ensure};

/// Below the range from which Linux gives ports to outgoing connections (32768 and up): such a connection could have a
/// server's port at the very moment when the server starts, or starts again.
const PORTS: Range<u16> = 10_000..32_768;
/// Ports tried before giving up.
const TRIES: usize = 10_000;

/// Ports that are free now, all different. They are let go again, so another process can still be faster.
///
/// # Errors
/// When too few are free.
pub fn free(count: usize) -> Result<Vec<u16>> {
    let tried = (0..TRIES).map(|_| fastrand::u16(PORTS));
    // Kept until all are found, so that none comes twice.
    let held: Vec<TcpListener> =
        tried.filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).take(count).collect();
    ensure!(held.len() == count, "fewer than {count} ports are free between {} and {}", PORTS.start, PORTS.end);
    held.iter().map(|l| Ok(l.local_addr().context("a bound socket has an address")?.port())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_lie_outside_of_what_connections_get() {
        let mut ports = free(50).expect("free ports");
        assert!(ports.iter().all(|p| PORTS.contains(p)));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 50);
    }
}
