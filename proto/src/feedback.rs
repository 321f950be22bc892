//! Pageserver feedback: the key-value blob that travels from a pageserver through the safekeepers to the proposer.
//! Unknown keys are skipped by their length on both sides: this is the protocol's extension point.

use pgformat::Lsn;

/// What a pageserver reports about one timeline. Every key is optional: an unknown position is left out, not sent as zero.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PageserverFeedback {
    /// `current_timeline_size`: logical size in bytes.
    pub current_timeline_size: Option<u64>,
    /// `ps_writelsn`: last record received, in the pageserver's memory.
    pub last_received_lsn: Option<Lsn>,
    /// `ps_flushlsn`: durable on the pageserver's own disk.
    pub disk_consistent_lsn: Option<Lsn>,
    /// `ps_applylsn`: durable in object storage. Never filled from `disk_consistent_lsn`: WAL removal rests on it.
    pub remote_consistent_lsn: Option<Lsn>,
    /// `ps_replytime`: microseconds since 2000-01-01 00:00 UTC.
    pub reply_time: Option<i64>,
    /// `shard_number`, written only when above zero.
    pub shard_number: u32,
    /// `corruption_detected`, written only when true.
    pub corruption_detected: bool,
}
