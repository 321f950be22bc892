//! JSON bodies of the HTTP interfaces: one definition for server and client.
//!
//! LSNs are `X/X` text. One that is unknown is null since [`SCHEMA`] 2, and was `0/0` before; a reader takes both, and
//! a missing field, for unknown.

use pgformat::{Lsn, SegSize, Tli};
use serde::{Deserialize, Serialize};

use crate::consensus::{MemberConf, TermLsn};
use crate::id::{Incarnation, NodeId, PrimaryEpoch, SystemId, TenantId, Term, TimelineId};

mod position;
mod state;
#[cfg(test)]
mod tests;

pub use position::{SCHEMA, shown};
use position::{first_schema, known, zero_unknown};
pub use state::{ChoiceMode, ImportStage, PageserverTimelineState, PeerState, ShimPhase, StreamState};

/// Who feeds a timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimelineSource {
    /// An unmodified PostgreSQL through the shim.
    Vanilla,
    /// A compute with a built-in walproposer.
    Walproposer,
}

/// Part of PostgreSQL's own timeline history: from `start_lsn` on, WAL carries `tli`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PgHistoryEntry {
    /// PostgreSQL's timeline number, in names of segments and in WAL page headers.
    pub tli: Tli,
    /// From here on.
    pub start_lsn: Lsn,
}

/// `POST /v1/tenant/timeline` on a safekeeper. The body is this object on one line, a line feed, then `prehistory_len`
/// raw bytes: the primary's own WAL of `[start of start_lsn's segment, start_lsn)`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTimelineRequest {
    /// Tenant that owns the timeline.
    pub tenant_id: TenantId,
    /// Timeline to be made.
    pub timeline_id: TimelineId,
    /// The member set, generation 1 or more; must contain this safekeeper.
    pub mconf: MemberConf,
    /// Version of PostgreSQL as `PG_VERSION_NUM`, for instance 150004.
    pub pg_version_num: u32,
    /// PostgreSQL's system identifier of the cluster.
    pub system_id: SystemId,
    /// Size of a WAL segment in bytes.
    pub wal_seg_size: SegSize,
    /// Where the log starts: a record boundary.
    pub start_lsn: Lsn,
    /// Who feeds it.
    pub source: TimelineSource,
    /// Epoch of the primary; 1 at creation.
    pub primary_epoch: PrimaryEpoch,
    /// PostgreSQL's timeline history up to start_lsn; at least one entry.
    pub pg_history: Vec<PgHistoryEntry>,
    /// Raw bytes that follow this line.
    pub prehistory_len: u64,
}

/// `GET /v1/tenant/T/timeline/L` on a safekeeper (and elements of `GET /v1/tenant/timeline`).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SafekeeperTimelineStatus {
    /// [`SCHEMA`]; 1 when it is missing.
    #[serde(default = "first_schema")]
    pub schema: u32,
    /// Tenant that owns the timeline.
    pub tenant_id: TenantId,
    /// Timeline that is shown.
    pub timeline_id: TimelineId,
    /// The safekeeper that answers.
    pub safekeeper_id: NodeId,
    /// The highest term that it voted for or followed.
    pub term: Term,
    /// Term that wrote the end of the log held here.
    pub last_log_term: Term,
    /// Term history, cut at flush_lsn.
    pub term_history: Vec<TermLsn>,
    /// The member set that it works by.
    pub mconf: MemberConf,
    /// Who feeds it.
    pub source: TimelineSource,
    /// Epoch of the primary.
    pub primary_epoch: PrimaryEpoch,
    /// PostgreSQL's timeline history.
    pub pg_history: Vec<PgHistoryEntry>,
    /// Version of PostgreSQL as `PG_VERSION_NUM`, for instance 150004.
    pub pg_version_num: u32,
    /// PostgreSQL's system identifier of the cluster.
    pub system_id: SystemId,
    /// Size of a WAL segment in bytes.
    pub wal_seg_size: SegSize,
    /// Start of the log.
    #[serde(default, deserialize_with = "known")]
    pub timeline_start_lsn: Option<Lsn>,
    /// First byte held here.
    #[serde(default, deserialize_with = "known")]
    pub local_start_lsn: Option<Lsn>,
    /// End of the WAL that is durable here.
    #[serde(default, deserialize_with = "known")]
    pub flush_lsn: Option<Lsn>,
    /// Durable on a quorum, as known here in memory.
    #[serde(default, deserialize_with = "known")]
    pub commit_lsn: Option<Lsn>,
    /// Start of the last whole record held here; none when there is none above start_lsn.
    #[serde(default, deserialize_with = "known")]
    pub last_record_start_lsn: Option<Lsn>,
    /// Nobody needs WAL below it for recovery.
    #[serde(default, deserialize_with = "known")]
    pub peer_horizon_lsn: Option<Lsn>,
    /// In object storage.
    #[serde(default, deserialize_with = "known")]
    pub remote_consistent_lsn: Option<Lsn>,
    /// Bytes of WAL files held.
    pub wal_bytes: u64,
    /// Whether a proposer is connected.
    pub streaming: bool,
    /// Pageservers being pushed to.
    pub pushes: Vec<PushStatus>,
    /// Why the timeline does not accept WAL, when it does not.
    pub stopped: Option<String>,
    /// Why this member neither votes nor counts, when it may have forgotten what it promised, and what it waits for.
    #[serde(default)]
    pub not_admitted: Option<String>,
    /// Where WAL held here does not read back as it was written, when that was found out.
    #[serde(default)]
    pub damaged: Option<String>,
    /// The life of the timeline's directory here.
    #[serde(default)]
    pub incarnation: Option<Incarnation>,
    /// How often that directory was opened.
    #[serde(default)]
    pub starts: u64,
}

impl SafekeeperTimelineStatus {
    /// It in schema 1. `SHOW TIMELINE` says it so: a shim of an earlier version reads that before it connects, cannot
    /// read null, and must go on when the safekeepers are upgraded before it.
    ///
    /// # Errors
    /// None that is known: the value has no map with keys other than text.
    pub fn to_schema_1(&self) -> serde_json::Result<serde_json::Value> {
        let mut status = serde_json::to_value(SafekeeperTimelineStatus { schema: 1, ..self.clone() })?;
        zero_unknown(&mut status);
        status["pushes"].as_array_mut().into_iter().flatten().for_each(zero_unknown);
        Ok(status)
    }
}

/// One outgoing push stream of a safekeeper.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PushStatus {
    /// Node id of the pageserver that receives.
    pub pageserver_id: NodeId,
    /// What it does now.
    pub state: StreamState,
    /// Sent up to here.
    #[serde(default, deserialize_with = "known")]
    pub sent_lsn: Option<Lsn>,
    /// Receiver's last_record_lsn: end of the last record that it took in.
    #[serde(default, deserialize_with = "known")]
    pub last_record_lsn: Option<Lsn>,
    /// Receiver's disk_consistent_lsn: below it a crash there loses nothing.
    #[serde(default, deserialize_with = "known")]
    pub disk_consistent_lsn: Option<Lsn>,
    /// Token of the choice.
    pub token: u64,
}

/// `POST /v1/tenant/T/timeline/L/attach` on a pageserver. Repeating it with equal values changes nothing.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    /// Where to start.
    pub start_lsn: Lsn,
    /// Version of PostgreSQL as `PG_VERSION_NUM`, for instance 150004.
    pub pg_version_num: u32,
    /// PostgreSQL's system identifier of the cluster.
    pub system_id: SystemId,
    /// Size of a WAL segment in bytes.
    pub wal_seg_size: SegSize,
    /// PostgreSQL's timeline history up to start_lsn.
    pub pg_history: Vec<PgHistoryEntry>,
}

/// `POST /v1/tenant/T/timeline/L/import` on a pageserver: attaches the timeline and copies the cluster that writes it.
/// Repeating it while the copy is under way or done changes nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportRequest {
    /// The timeline to be filled, and where it starts.
    pub attach: AttachRequest,
    /// libpq connection string of the running cluster, as the pageserver reaches it. It names no files (`passfile`,
    /// `service`), and the pageserver adds nothing of its own environment.
    pub from: String,
}

impl std::fmt::Debug for ImportRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImportRequest").field("attach", &self.attach).field("from", &"(hidden)").finish()
    }
}

/// `POST /v1/import/check` on a pageserver: whether it could copy the cluster. Changes nothing. 200, or 409 with why
/// not.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImportCheckRequest {
    /// libpq connection string of the running cluster, as the pageserver reaches it.
    pub from: String,
    /// Which cluster it must be.
    pub system_id: SystemId,
}

impl std::fmt::Debug for ImportCheckRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ImportCheckRequest").field("from", &"(hidden)").field("system_id", &self.system_id).finish()
    }
}

/// An element of `GET /v1/tenant/T/timeline/L/xacts` on a pageserver: how a transaction ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct XactRow {
    /// commit, abort, prepare, commit prepared, abort prepared.
    pub kind: String,
    /// The top transaction.
    pub xid: u32,
    /// End of its record: from here on it counts.
    pub end_lsn: Lsn,
    /// When, in microseconds since 2000-01-01 UTC.
    pub time_us: i64,
    /// Its subtransactions, which end as it ends.
    pub subxids: Vec<u32>,
}

/// `GET /v1/tenant/T/timeline/L/record?lsn=X/X` on a pageserver: the last record that ends at or below the LSN.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecordPlace {
    /// Position of its first byte, which the record behind it names as predecessor; none before the first record.
    pub start_lsn: Option<Lsn>,
    /// The boundary behind it.
    pub end_lsn: Lsn,
}

/// How far an import is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ImportStatus {
    /// What it does now.
    pub state: ImportStage,
    /// Bytes copied by this attempt.
    pub bytes: u64,
    /// What the cluster said its size was; 0 = unknown.
    pub bytes_total: u64,
    /// Milliseconds since this attempt began; of a finished copy, how long it took.
    pub elapsed_ms: u64,
    /// The copied pages are versions of this position; none: unknown yet.
    #[serde(default, deserialize_with = "known")]
    pub start_lsn: Option<Lsn>,
    /// End of the backup: reads below it are refused; none: unknown yet.
    #[serde(default, deserialize_with = "known")]
    pub end_lsn: Option<Lsn>,
    /// How many attempts were begun, the running one included.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

/// `GET /v1/tenant/T/timeline/L` on a pageserver (and elements of `GET /v1/tenant/timeline`).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PageserverTimelineStatus {
    /// [`SCHEMA`]; 1 when it is missing.
    #[serde(default = "first_schema")]
    pub schema: u32,
    /// Tenant that owns the timeline.
    pub tenant_id: TenantId,
    /// Timeline that is shown.
    pub timeline_id: TimelineId,
    /// The pageserver that answers.
    pub pageserver_id: NodeId,
    /// Where it was attached.
    #[serde(default, deserialize_with = "known")]
    pub start_lsn: Option<Lsn>,
    /// End of the last record ingested.
    #[serde(default, deserialize_with = "known")]
    pub last_record_lsn: Option<Lsn>,
    /// Durable on this pageserver's disk.
    #[serde(default, deserialize_with = "known")]
    pub disk_consistent_lsn: Option<Lsn>,
    /// In object storage.
    #[serde(default, deserialize_with = "known")]
    pub remote_consistent_lsn: Option<Lsn>,
    /// The present choice, if any.
    pub choice: Option<ChoiceStatus>,
    /// What this pageserver does about it.
    pub state: PageserverTimelineState,
    /// The highest commit position that anybody told: the stream, or a safekeeper on the broker.
    #[serde(default, deserialize_with = "known")]
    pub source_commit_lsn: Option<Lsn>,
    /// For how long nobody confirmed it, in milliseconds; none when it is unknown.
    #[serde(default)]
    pub commit_age_ms: Option<u64>,
    /// source_commit_lsn - last_record_lsn, in bytes; none when nobody told a commit position lately.
    pub lag_bytes: Option<u64>,
    /// Why it does not follow the quorum, each to be read behind "the timeline"; empty: it does.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// Why ingest stopped, when it did.
    pub stopped: Option<String>,
    /// Pages can be read from here on; none: not yet, or attached without an import.
    #[serde(default, deserialize_with = "known")]
    pub readable_from: Option<Lsn>,
    /// How far its import is; none without one.
    #[serde(default)]
    pub import: Option<ImportStatus>,
}

/// Size of a relation's fork, from `GET /v1/tenant/T/timeline/L/relation`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RelationSize {
    /// The LSN that was read; none inside of [`Relations`], which says it once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<Lsn>,
    /// The fork, as in `1663/5/16384_vm`.
    pub rel: String,
    /// Its blocks; none when it does not exist.
    pub blocks: Option<u32>,
}

/// All forks of a cluster or of a database, from `GET /v1/tenant/T/timeline/L/relations`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Relations {
    /// The LSN that was read.
    pub lsn: Lsn,
    /// Bytes of all of them: without free space maps, which are not logged.
    pub bytes: u64,
    /// Them, ordered by tablespace, database, relation, fork.
    pub relations: Vec<RelationSize>,
    /// Databases that were made with `STRATEGY wal_log`, or copied from such a one, since the import: bits of their
    /// visibility maps were not logged.
    pub logged_databases: Vec<u32>,
}

/// A field of the control file that differs from what a pageserver knows, from
/// `POST /v1/tenant/T/timeline/L/control/compare`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ControlDifference {
    /// Name of the field.
    pub what: String,
    /// As the pageserver has it.
    pub ours: String,
    /// As the file has it.
    pub theirs: String,
}

/// A segment of an SLRU.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SegmentSize {
    /// Number of the segment, from 0; in hexadecimal its file's name.
    pub segno: u32,
    /// Pages that it has, 8 KiB each, 32 at most.
    pub pages: u32,
}

/// All segments of an SLRU, from `GET /v1/tenant/T/timeline/L/slru`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Segments {
    /// The LSN that was read.
    pub lsn: Lsn,
    /// The segments in the order of their numbers.
    pub segments: Vec<SegmentSize>,
}

/// Small files beside the pages, from `GET /v1/tenant/T/timeline/L/files`: relation maps, prepared transactions,
/// progress of replication origins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Files {
    /// The LSN that was read.
    pub lsn: Lsn,
    /// Their paths below the data directory.
    pub files: Vec<String>,
}

/// A choice as shown over HTTP, by SHOW CHOICES and on the broker.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChoiceStatus {
    /// Node id of the safekeeper that is chosen.
    pub safekeeper_id: NodeId,
    /// Why that one: `no_keepalives` and the other words of the choice.
    pub reason: String,
    /// Counts from 1.
    pub choice_seq: u64,
    /// When it was chosen, as RFC 3339 has it.
    pub chosen_at: String,
    /// Which side dials.
    pub mode: ChoiceMode,
}

/// `GET /v1/status` on the shim.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ShimStatus {
    /// [`SCHEMA`]; 1 when it is missing.
    #[serde(default = "first_schema")]
    pub schema: u32,
    /// Tenant that owns the timeline.
    pub tenant_id: TenantId,
    /// Timeline that is written.
    pub timeline_id: TimelineId,
    /// What it does now.
    pub state: ShimPhase,
    /// Term won last; 0 = none.
    pub term: Term,
    /// End of log chosen by the last election.
    #[serde(default, deserialize_with = "known")]
    pub elected_at_lsn: Option<Lsn>,
    /// Durable on a quorum.
    #[serde(default, deserialize_with = "known")]
    pub commit_lsn: Option<Lsn>,
    /// Received from PostgreSQL.
    #[serde(default, deserialize_with = "known")]
    pub received_lsn: Option<Lsn>,
    /// Reported to PostgreSQL as write and flush.
    #[serde(default, deserialize_with = "known")]
    pub reported_lsn: Option<Lsn>,
    /// Reported to PostgreSQL as apply.
    #[serde(default, deserialize_with = "known")]
    pub reported_apply_lsn: Option<Lsn>,
    /// Whether synchronous commits really wait for the quorum.
    pub protected: bool,
    /// Why not, when not.
    pub reasons: Vec<String>,
    /// What does no harm today and may tomorrow: settings of the primary.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// One entry per safekeeper.
    pub safekeepers: Vec<ShimSafekeeperStatus>,
}

/// A safekeeper as the shim sees it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ShimSafekeeperStatus {
    /// Node id, 0 until it greeted.
    pub id: NodeId,
    /// Address that the shim dials, `host:port`.
    pub address: String,
    /// How far the session with it is.
    pub state: PeerState,
    /// Up to here it has acknowledged WAL as durable.
    #[serde(default, deserialize_with = "known")]
    pub flush_lsn: Option<Lsn>,
    /// Why no WAL flows to it, while none does and a reason is known.
    #[serde(default)]
    pub problem: Option<String>,
}

/// Error body of every HTTP interface: what, and what to do next.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What is wrong, where, why.
    pub error: String,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Answer to `GET /readyz?verbose`, of every server.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether the server does its job.
    pub ready: bool,
    /// Why not, or what is degraded.
    pub reasons: Vec<String>,
}
