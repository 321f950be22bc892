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
    /// [`SCHEMA`].
    pub schema: u32,
    /// The node.
    pub id: NodeId,
    /// Dialable address of its libpq port, `host:port`.
    pub pg: String,
    /// Dialable address of its HTTP port, `host:port`.
    pub http: String,
    /// Availability zone, when configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability_zone: Option<String>,
    /// Build version.
    pub version: String,
}

/// `P/tl/<tenant>/<timeline>/sk/<id>`: where a safekeeper stands, on its lease. `None` = unknown.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SafekeeperTimelineRecord {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The safekeeper.
    pub safekeeper_id: NodeId,
    /// Its term.
    pub term: Term,
    /// Term that wrote the end of its log.
    pub last_log_term: Term,
    /// Durable here.
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
    /// [`SCHEMA`].
    pub schema: u32,
    /// The pageserver.
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
    /// [`SCHEMA`].
    pub schema: u32,
    /// Who chose.
    pub pageserver_id: NodeId,
    /// Address to dial, `host:port`.
    pub pageserver_pg: String,
    /// Chosen safekeeper.
    pub safekeeper_id: NodeId,
    /// Counts the choices of this (pageserver, timeline), from 1.
    pub choice_seq: u64,
    /// Why.
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
    /// [`SCHEMA`].
    pub schema: u32,
    /// The member set.
    pub mconf: MemberConf,
    /// PG_VERSION_NUM.
    pub pg_version_num: u32,
    /// The cluster.
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
    /// [`SCHEMA`].
    pub schema: u32,
    /// Dialable address of the shim's HTTP port.
    pub shim_http: String,
    /// The cluster.
    pub system_id: SystemId,
    /// PostgreSQL's tli.
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
