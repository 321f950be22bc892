//! This crate's metrics: names, units and meanings in one place. No tenant labels.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::choose::Choice;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ChoiceLabels {
    reason: &'static str,
    mode: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct SqlstateLabels {
    sqlstate: String,
}

/// How a push handshake went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PushHandshake {
    /// A stream began.
    Accepted,
    /// The token or nonce is not that of the present choice.
    Stale,
    /// Any other refusal.
    Refused,
}

/// All metrics of a pageserver.
pub(crate) struct Metrics {
    registry: Mutex<Registry>,
    choices: Family<ChoiceLabels, Counter>,
    pushes: Family<OutcomeLabels, Counter>,
    bytes: Counter,
    records: Counter,
    feedbacks: Counter,
    fsyncs: Counter,
    fsync_seconds: Histogram,
    wal_errors: Counter,
    record_waits: Counter,
    reads: Counter,
    reads_refused: Family<SqlstateLabels, Counter>,
    timelines: Gauge,
    stopped: Gauge,
    streams: Gauge,
    lag_bytes_max: Gauge,
    lag_unknown: Gauge,
    unsynced_bytes_max: Gauge,
}

/// What the gauges show, computed when they are asked for.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Levels {
    /// Timelines that are attached.
    pub(crate) timelines: i64,
    /// Of them, those that take nothing in.
    pub(crate) stopped: i64,
    /// WAL streams that run.
    pub(crate) streams: i64,
    /// Greatest distance to a source's commit position.
    pub(crate) lag_bytes_max: u64,
    /// Timelines whose lag is unknown: nobody told a commit position lately.
    pub(crate) lag_unknown: i64,
    /// Greatest distance from the last record to the durable position.
    pub(crate) unsynced_bytes_max: u64,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let m = Metrics {
            registry: Mutex::new(Registry::with_prefix("walfabric_pageserver")),
            choices: Family::default(),
            pushes: Family::default(),
            bytes: Counter::default(),
            records: Counter::default(),
            feedbacks: Counter::default(),
            fsyncs: Counter::default(),
            fsync_seconds: Histogram::new(exponential_buckets(50e-6, 2.0, 16)),
            wal_errors: Counter::default(),
            record_waits: Counter::default(),
            reads: Counter::default(),
            reads_refused: Family::default(),
            timelines: Gauge::default(),
            stopped: Gauge::default(),
            streams: Gauge::default(),
            lag_bytes_max: Gauge::default(),
            lag_unknown: Gauge::default(),
            unsynced_bytes_max: Gauge::default(),
        };
        if let Ok(mut r) = m.registry.lock() {
            r.register("choices", "Choices of a safekeeper, by reason and mode", m.choices.clone());
            r.register("push_handshakes", "START_PUSH_REPLICATION, by outcome", m.pushes.clone());
            r.register("wal_received_bytes", "WAL taken in", m.bytes.clone());
            r.register("wal_records", "Whole records decoded", m.records.clone());
            r.register("feedbacks_sent", "Feedback messages sent to safekeepers", m.feedbacks.clone());
            r.register("fsyncs", "Files synced with fdatasync", m.fsyncs.clone());
            r.register("fsync_duration_seconds", "Time of one group sync", m.fsync_seconds.clone());
            r.register("wal_refused", "Streams ended because their WAL did not continue the log", m.wal_errors.clone());
            r.register("long_record_waits", "Looks for memory for a long record in vain", m.record_waits.clone());
            r.register("reads", "Answers to page requests and the like", m.reads.clone());
            r.register("reads_refused", "Reads that had no answer, by SQLSTATE", m.reads_refused.clone());
            r.register("timelines", "Attached timelines", m.timelines.clone());
            r.register("timelines_stopped", "Timelines that take nothing in", m.stopped.clone());
            r.register("streams", "Running WAL streams", m.streams.clone());
            r.register("lag_unknown", "Timelines whose commit position nobody told lately", m.lag_unknown.clone());
            r.register("lag_bytes_max", "Greatest distance to a source's commit position", m.lag_bytes_max.clone());
            r.register("unsynced_bytes_max", "Greatest unsynced distance of a timeline", m.unsynced_bytes_max.clone());
        }
        m
    }

    /// A long record found no memory.
    pub(crate) fn record_waits(&self) {
        self.record_waits.inc();
    }

    pub(crate) fn chose(&self, choice: &Choice) {
        let labels = ChoiceLabels { reason: choice.reason.as_str(), mode: choice.mode.as_str() };
        self.choices.get_or_create(&labels).inc();
    }

    pub(crate) fn push_handshake(&self, outcome: PushHandshake) {
        let outcome = match outcome {
            PushHandshake::Accepted => "accepted",
            PushHandshake::Stale => "stale",
            PushHandshake::Refused => "refused",
        };
        self.pushes.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    pub(crate) fn received(&self, bytes: u64) {
        self.bytes.inc_by(bytes);
    }

    pub(crate) fn ingested(&self, records: u64) {
        self.records.inc_by(records);
    }

    pub(crate) fn feedback_sent(&self) {
        self.feedbacks.inc();
    }

    pub(crate) fn synced(&self, files: u64, took: Duration) {
        self.fsyncs.inc_by(files);
        self.fsync_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn wal_refused(&self) {
        self.wal_errors.inc();
    }

    pub(crate) fn reads(&self, answered: u64) {
        self.reads.inc_by(answered);
    }

    pub(crate) fn read_refused(&self, code: &str) {
        self.reads_refused.get_or_create(&SqlstateLabels { sqlstate: code.to_owned() }).inc();
    }

    /// The exposition text.
    pub(crate) fn render(&self, levels: Levels) -> String {
        let gauge = |v: u64| i64::try_from(v).unwrap_or(i64::MAX);
        self.timelines.set(levels.timelines);
        self.stopped.set(levels.stopped);
        self.streams.set(levels.streams);
        self.lag_bytes_max.set(gauge(levels.lag_bytes_max));
        self.lag_unknown.set(levels.lag_unknown);
        self.unsynced_bytes_max.set(gauge(levels.unsynced_bytes_max));
        let mut text = String::new();
        match self.registry.lock() {
            Ok(registry) if prometheus_client::encoding::text::encode(&mut text, &registry).is_ok() => {}
            _ => {
                let _ = writeln!(text, "# EOF");
            }
        }
        text
    }
}
