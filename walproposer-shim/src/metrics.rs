//! This process's metrics. Counters are bumped where things happen; positions and states are taken when somebody asks.

use std::fmt;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use proto::api::{PeerState, ShimPhase};

use crate::status::ShimState;

/// Counters and the registry that shows them.
pub(crate) struct ShimMetrics {
    registry: Registry,
    gauges: Gauges,
    /// WAL received from PostgreSQL, bytes.
    pub(crate) received_bytes: Counter,
    /// WAL fetched from a safekeeper for another one, bytes.
    pub(crate) donor_bytes: Counter,
    /// WAL read from PostgreSQL once more, because a safekeeper needs it and no other one acknowledged it.
    pub(crate) reread_bytes: Counter,
    /// Elections won by this process.
    pub(crate) elections: Counter,
    /// Attempts to attach to the primary.
    pub(crate) attaches: Counter,
    /// Sessions with safekeepers that failed or did not come about.
    pub(crate) disconnects: Counter,
}

struct Gauges {
    protected: Gauge,
    streaming: Gauge,
    state: Gauge,
    term: Gauge,
    commit_lsn: Gauge,
    received_lsn: Gauge,
    reported_lsn: Gauge,
    reported_apply_lsn: Gauge,
    uncommitted_bytes: Gauge,
    ring_bytes: Gauge,
    safekeepers_active: Gauge,
    donors_doubted: Gauge,
    broker_connected: Gauge,
}

impl ShimMetrics {
    pub(crate) fn new() -> ShimMetrics {
        let mut registry = Registry::with_prefix("walfabric_shim");
        let mut gauge = |name: &str, help: &str| {
            let gauge = Gauge::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let gauges = Gauges {
            protected: gauge("protected", "1 while synchronous commits are known to wait for the quorum"),
            streaming: gauge("streaming", "1 while WAL flows from PostgreSQL"),
            state: gauge(
                "state",
                "0 detached, 1 validating, 2 campaign, 3 elected, 4 streaming, 5 refused, 6 no quorum",
            ),
            term: gauge("term", "Term won last"),
            commit_lsn: gauge("commit_lsn", "Durable on a quorum, byte position"),
            received_lsn: gauge("received_lsn", "Received from PostgreSQL in this session, byte position"),
            reported_lsn: gauge("reported_lsn", "Reported to PostgreSQL as write and flush, byte position"),
            reported_apply_lsn: gauge("reported_apply_lsn", "Reported to PostgreSQL as apply, byte position"),
            uncommitted_bytes: gauge("uncommitted_bytes", "Received and not yet durable on a quorum"),
            ring_bytes: gauge("ring_bytes", "WAL in memory"),
            safekeepers_active: gauge("safekeepers_active", "Safekeepers that WAL flows to"),
            donors_doubted: gauge(
                "donors_doubted",
                "Safekeepers whose WAL was refused and has not read back well since",
            ),
            broker_connected: gauge("broker_connected", "1 while the broker answers"),
        };
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        ShimMetrics {
            received_bytes: counter("received_bytes", "WAL received from PostgreSQL"),
            donor_bytes: counter("donor_bytes", "WAL fetched from a safekeeper for another one"),
            reread_bytes: counter("reread_bytes", "WAL read from PostgreSQL once more for a safekeeper"),
            elections: counter("elections", "Elections won"),
            attaches: counter("attaches", "Attempts to attach to the primary"),
            disconnects: counter("safekeeper_disconnects", "Sessions with safekeepers that failed"),
            gauges,
            registry,
        }
    }

    /// Everything, in the exposition format.
    pub(crate) fn encode(&self, state: &ShimState, broker_connected: bool) -> Result<String, fmt::Error> {
        let position = |l: Option<pgformat::Lsn>| l.map_or(0, |l| i64::try_from(l.get()).unwrap_or(i64::MAX));
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let g = &self.gauges;
        g.protected.set(i64::from(state.reasons().is_empty()));
        g.streaming.set(i64::from(state.phase == ShimPhase::Streaming));
        let phase = ShimPhase::ALL.iter().position(|p| *p == state.phase).unwrap_or_default();
        g.state.set(number(phase as u64));
        g.term.set(number(state.term.0));
        g.commit_lsn.set(position(state.commit));
        g.received_lsn.set(position(state.received));
        g.reported_lsn.set(position(state.reported));
        g.reported_apply_lsn.set(position(state.reported_apply));
        let uncommitted = state.received.zip(state.commit).map_or(0, |(r, c)| r.bytes_since(c));
        g.uncommitted_bytes.set(number(uncommitted));
        g.ring_bytes.set(number(state.ring_bytes as u64));
        let active = state.peers.iter().filter(|p| p.state == PeerState::Active).count();
        g.safekeepers_active.set(number(active as u64));
        g.donors_doubted.set(number(state.donors.doubted() as u64));
        g.broker_connected.set(i64::from(broker_connected));
        let mut out = String::new();
        encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::StatusBoard;
    use crate::testing::config;

    #[test]
    fn the_exposition_shows_counters_and_the_present_state() {
        let metrics = ShimMetrics::new();
        metrics.received_bytes.inc_by(42);
        let text = metrics.encode(&StatusBoard::new(&config(&[])).snapshot(), true).expect("encodes");
        assert!(text.contains("walfabric_shim_received_bytes_total 42"), "{text}");
        assert!(text.contains("walfabric_shim_protected 0"), "{text}");
        assert!(text.contains("walfabric_shim_broker_connected 1"), "{text}");
    }
}
