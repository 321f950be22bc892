//! This process's metrics, described together; `/metrics` shows them. No tenant label: aggregates only.
//!
//! Counters are bumped where things happen. What is a state (positions, bytes held) is read when somebody asks.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::measured::DiskMetrics;

/// Label of a connection or stream.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(crate) struct StreamLabel {
    /// proposer, reader, recovery, push.
    pub(crate) kind: &'static str,
}

/// Label of something that was refused or failed.
#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
pub(crate) struct Code {
    /// SQLSTATE of the refusal, five characters.
    pub(crate) sqlstate: String,
}

/// All metrics of a safekeeper process.
#[derive(Debug)]
pub(crate) struct SafekeeperMetrics {
    /// Open connections and streams, by kind.
    pub(crate) connections: Family<StreamLabel, Gauge>,
    /// WAL bytes received from proposers.
    pub(crate) received_bytes: Counter,
    /// WAL bytes sent, by kind of stream.
    pub(crate) sent_bytes: Family<StreamLabel, Counter>,
    /// Errors sent to clients, by SQLSTATE.
    pub(crate) refused: Family<Code, Counter>,
    /// Attempts to open a push stream.
    pub(crate) push_dials: Counter,
    /// Attempts that failed, and streams that broke.
    pub(crate) push_failures: Counter,
    /// Writes and syncs.
    pub(crate) disk: DiskMetrics,
}

/// Something open, however it ends.
#[derive(Debug)]
pub(crate) struct OpenGuard(Gauge);

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What is read at the time of asking.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// Timelines that are open.
    pub(crate) timelines: i64,
    /// Timelines that do not accept WAL.
    pub(crate) timelines_stopped: i64,
    /// Timelines that hold WAL which does not read back.
    pub(crate) timelines_damaged: i64,
    /// Timelines in which this member takes no part until it is admitted again.
    pub(crate) readmission_pending: i64,
    /// Timelines with an elected proposer connected.
    pub(crate) timelines_streaming: i64,
    /// Largest flush_lsn - commit_lsn of a timeline.
    pub(crate) uncommitted_bytes_max: i64,
    pub(crate) history_entries_max: i64,
    /// Sum of the timelines' flush positions: its rate is the ingest rate.
    pub(crate) flush_lsn_sum: u64,
    /// Sum of the timelines' commit positions.
    pub(crate) commit_lsn_sum: u64,
    /// Largest commit_lsn - last_record_lsn of a push stream.
    pub(crate) push_lag_bytes_max: i64,
    /// Whether the broker answers.
    pub(crate) broker_connected: bool,
    /// Whether the server is ready.
    pub(crate) ready: bool,
}

impl SafekeeperMetrics {
    /// All at zero.
    pub(crate) fn new() -> SafekeeperMetrics {
        SafekeeperMetrics {
            connections: Family::default(),
            received_bytes: Counter::default(),
            sent_bytes: Family::default(),
            refused: Family::default(),
            push_dials: Counter::default(),
            push_failures: Counter::default(),
            disk: DiskMetrics::new(),
        }
    }

    /// Counts a connection or stream as open until the guard is dropped.
    pub(crate) fn open(&self, kind: &'static str) -> OpenGuard {
        let gauge = self.connections.get_or_create_owned(&StreamLabel { kind });
        gauge.inc();
        OpenGuard(gauge)
    }

    /// The text that `/metrics` answers.
    pub(crate) fn encode(&self, now: &Observed, more: impl FnOnce(&mut Registry)) -> Result<String, std::fmt::Error> {
        let mut registry = Registry::with_prefix("walfabric_safekeeper");
        let r = &mut registry;
        r.register("connections", "Open connections and streams", self.connections.clone());
        let bytes = || Unit::Bytes;
        r.register_with_unit("received", "WAL received from proposers", bytes(), self.received_bytes.clone());
        r.register_with_unit("sent", "WAL sent to readers and pageservers", bytes(), self.sent_bytes.clone());
        r.register("errors", "Errors sent to clients, by SQLSTATE", self.refused.clone());
        r.register("push_dials", "Attempts to open a push stream", self.push_dials.clone());
        r.register("push_failures", "Push streams that failed or broke", self.push_failures.clone());
        observed(r, now);
        self.disk.register(r);
        more(r);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry)?;
        Ok(text)
    }
}

fn observed(r: &mut Registry, now: &Observed) {
    let gauge = |v: i64| {
        let g = Gauge::<i64>::default();
        g.set(v);
        g
    };
    // Positions are 64 bits wide without a sign.
    let wide = |v: u64| {
        let g = Gauge::<u64, AtomicU64>::default();
        g.set(v);
        g
    };
    r.register("timelines", "Open timelines", gauge(now.timelines));
    r.register("timelines_stopped", "Timelines that do not accept WAL", gauge(now.timelines_stopped));
    let help = "Timelines that hold WAL which does not read back as it was written";
    r.register("timelines_damaged", help, gauge(now.timelines_damaged));
    let help = "Timelines in which this member takes no part until it is admitted again";
    r.register("readmission_pending", help, gauge(now.readmission_pending));
    r.register("timelines_streaming", "Timelines with an elected proposer", gauge(now.timelines_streaming));
    r.register("uncommitted_bytes_max", "Largest flush_lsn - commit_lsn", gauge(now.uncommitted_bytes_max));
    let help = "Entries of the longest term history; at 10240 no vote is given any more";
    r.register("term_history_entries_max", help, gauge(now.history_entries_max));
    r.register("push_lag_bytes_max", "Largest lag of a push stream", gauge(now.push_lag_bytes_max));
    r.register("flush_lsn_sum", "Sum of all flush positions", wide(now.flush_lsn_sum));
    r.register("commit_lsn_sum", "Sum of all commit positions", wide(now.commit_lsn_sum));
    r.register("broker_connected", "1 when the broker answers", gauge(i64::from(now.broker_connected)));
    r.register("ready", "1 when the server is ready", gauge(i64::from(now.ready)));
}
