//! Values on the broker: JSON with a `schema` field. Readers ignore unknown fields and refuse an unknown schema.

use pgformat::Lsn;
use serde::{Deserialize, Serialize};

use crate::consensus::MemberConf;
use crate::id::{NodeId, PrimaryEpoch, SystemId, Term};

/// Schema number of every record today.
pub const SCHEMA: u32 = 1;

/// `P/sk/<id>` and `P/ps/<id>`: a node and its addresses, on the node's lease. While the key exists the node is alive.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    /// Version of the record's fields, [`SCHEMA`].
    pub schema: u32,
    /// The node itself, also in the key.
    pub id: NodeId,
    /// Dialable address of its libpq port, `host:port`.
    pub pg: String,
    /// Dialable address of its HTTP port, `host:port`.
    pub http: String,
    /// Availability zone, when configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability_zone: Option<String>,
    /// Version of the program that runs.
    pub version: String,
}

/// `P/tl/<tenant>/<timeline>/sk/<id>`: where a safekeeper stands, on its lease. `None` = unknown.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SafekeeperTimelineRecord {
    /// Version of the record's fields, [`SCHEMA`].
    pub schema: u32,
    /// The safekeeper that reports.
    pub safekeeper_id: NodeId,
    /// The highest term that it voted for or followed.
    pub term: Term,
    /// Term that wrote the end of its log.
    pub last_log_term: Term,
    /// End of the WAL that is durable there.
    pub flush_lsn: Option<Lsn>,
    /// Durable on a quorum, as known here (in memory).
    pub commit_lsn: Option<Lsn>,
    /// Nobody needs WAL below it for recovery.
    pub peer_horizon_lsn: Option<Lsn>,
    /// First byte held here.
    pub local_start_lsn: Option<Lsn>,
    /// In object storage, as reported by pageservers; unknown until there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_consistent_lsn: Option<Lsn>,
    /// Whether a proposer is connected.
    pub streaming: bool,
}

/// `P/tl/<tenant>/<timeline>/ps/<id>.<shard>`: where a pageserver stands and whom it chose, on its lease.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PageserverTimelineRecord {
    /// Version of the record's fields, [`SCHEMA`].
    pub schema: u32,
    /// The pageserver that reports.
    pub pageserver_id: NodeId,
    /// Chosen safekeeper, if any.
    pub safekeeper_id: Option<NodeId>,
    /// Why, in words of `pageserver`'s choice reasons.
    pub reason: Option<String>,
    /// Counts the choices of this (pageserver, timeline), from 1.
    pub choice_seq: u64,
    /// RFC 3339 time of the choice.
    pub chosen_at: Option<String>,
    /// End of the last record ingested.
    pub last_record_lsn: Option<Lsn>,
    /// Durable on the pageserver's own disk.
    pub disk_consistent_lsn: Option<Lsn>,
    /// Durable in object storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_consistent_lsn: Option<Lsn>,
}

/// `P/push/<sk>/<tenant>/<timeline>/<ps>.<shard>`: the choice, indexed by safekeeper, on the pageserver's lease.
/// The key's mod_revision is the token that the safekeeper presents.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ChoiceRecord {
    /// Version of the record's fields, [`SCHEMA`].
    pub schema: u32,
    /// The pageserver that chose.
    pub pageserver_id: NodeId,
    /// Address to dial, `host:port`.
    pub pageserver_pg: String,
    /// The safekeeper that is to push.
    pub safekeeper_id: NodeId,
    /// Counts the choices of this (pageserver, timeline), from 1.
    pub choice_seq: u64,
    /// Why that one: `no_keepalives` and the other words of the choice.
    pub reason: String,
    /// RFC 3339 time of the choice.
    pub chosen_at: String,
    /// Secret of this choice, 32 hex digits: proves that the pageserver asked for this stream.
    pub nonce: String,
    /// Where the stream will start, as known when choosing; the first frame of the stream decides.
    pub start_lsn_hint: Option<Lsn>,
}

/// `P/conf/<tenant>/<timeline>`: the member set and what else never changes, created once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TimelineConfRecord {
    /// Version of the record's fields, [`SCHEMA`].
    pub schema: u32,
    /// The member set.
    pub mconf: MemberConf,
    /// Version of PostgreSQL as `PG_VERSION_NUM`, for instance 150004.
    pub pg_version_num: u32,
    /// PostgreSQL's system identifier of the cluster.
    pub system_id: SystemId,
    /// Size of a WAL segment in bytes.
    pub wal_seg_size: u32,
    /// Where the log starts.
    pub start_lsn: Lsn,
    /// Pageservers that it was attached to at creation.
    pub pageservers: Vec<NodeId>,
}

/// `P/primary/<tenant>/<timeline>`: the shim at work, on its lease.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PrimaryRecord {
    /// Version of the record's fields, [`SCHEMA`].
    pub schema: u32,
    /// Dialable address of the shim's HTTP port.
    pub shim_http: String,
    /// PostgreSQL's system identifier of the cluster.
    pub system_id: SystemId,
    /// PostgreSQL's timeline number on which it writes.
    pub tli: u32,
    /// Term that the shim won last.
    pub term: Option<Term>,
    /// Epoch of the primary.
    pub primary_epoch: PrimaryEpoch,
    /// Whether synchronous commits really wait for the quorum.
    pub protected: bool,
    /// Why not, when not.
    pub reasons: Vec<String>,
}
