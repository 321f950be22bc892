//! What a manifest says. Fields that this program does not know are kept, on every level, and written again.

use pgformat::{Lsn, SegSize, Tli};
use proto::api::{AttachRequest, PgHistoryEntry};
use proto::id::{SystemId, TenantId, TenantTimelineId, TimelineId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::cluster::key::{KEY_LEN, Key};

/// Fields of a newer program.
type Rest = Map<String, Value>;

/// The one document of a timeline: everything that is needed to open it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The tenant that has the timeline.
    pub(crate) tenant_id: TenantId,
    /// The timeline itself, unique in its tenant.
    pub(crate) timeline_id: TimelineId,
    /// Who wrote this number: random for every opening. Two writers never write the same bytes.
    pub(crate) writer: String,
    /// Counts this writer's changes, so that it never writes the same bytes twice either.
    pub(crate) change: u64,
    /// What the timeline was attached with.
    pub(crate) origin: TimelineOrigin,
    /// While the pages of a running cluster are copied in; absent or null: the timeline is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) importing: Option<Importing>,
    /// Reads below are refused.
    pub(crate) readable_from: Lsn,
    /// Everything up to here is in `layers`: the end of a record.
    pub(crate) disk_consistent_lsn: Lsn,
    /// Where the record that ends at `disk_consistent_lsn` starts; none before the first.
    pub(crate) last_record_start: Option<Lsn>,
    /// Every layer there is, in no order.
    pub(crate) layers: Vec<LayerEntry>,
    /// No read, branch or backup below; only leases keep older versions. Null: everything is kept.
    pub(crate) horizon: Option<Lsn>,
    /// Positions below the horizon whose versions are kept.
    pub(crate) leases: Vec<VersionLease>,
    /// Refuses deletion of the timeline.
    pub(crate) protected: bool,
    /// Number of the last choice of a safekeeper that was published.
    pub(crate) choice_seq: u64,
    /// A size in a layer says that pages need not be stored: in the file a required feature.
    #[serde(skip)]
    pub(crate) has_steps: bool,
    /// What a newer program wrote besides.
    #[serde(flatten)]
    pub(crate) rest: Rest,
}

/// What the timeline was attached with.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct TimelineOrigin {
    /// Where WAL starts.
    pub(crate) start_lsn: Lsn,
    /// PG_VERSION_NUM of the cluster, such as 160004.
    pub(crate) pg_version_num: u32,
    /// The identifier that initdb gave the cluster.
    pub(crate) system_id: SystemId,
    /// Size of a WAL segment in bytes.
    pub(crate) wal_seg_size: SegSize,
    /// PostgreSQL's timeline history up to `start_lsn`.
    pub(crate) pg_history: Vec<TliStart>,
    /// What a newer program wrote besides.
    #[serde(flatten)]
    pub(crate) rest: Rest,
}

/// From `start_lsn` on, WAL carries `tli`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct TliStart {
    /// PostgreSQL's own timeline number.
    pub(crate) tli: Tli,
    /// From here on.
    pub(crate) start_lsn: Lsn,
    /// What a newer program wrote besides.
    #[serde(flatten)]
    pub(crate) rest: Rest,
}

/// A copy of a running cluster that is not complete.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Importing {
    /// The copied pages are versions at this LSN: the redo position of the backup's checkpoint.
    pub(crate) pages_at: Lsn,
    /// End of the backup, once it is known.
    pub(crate) end: Option<Lsn>,
    /// What a newer program wrote besides.
    #[serde(flatten)]
    pub(crate) rest: Rest,
}

/// What is known of a layer without opening its file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct LayerEntry {
    /// Name in the folder of layers; never used twice.
    pub(crate) name: String,
    /// Length of the file in bytes.
    pub(crate) bytes: u64,
    /// Smallest and largest key, 36 hexadecimal digits each.
    pub(crate) keys: [HexKey; 2],
    /// Smallest and largest LSN.
    pub(crate) lsns: [Lsn; 2],
    /// 0: written by a flush; 1: by compaction.
    pub(crate) level: u32,
    /// Files that were written together have the same number: they share keys only where a key was divided.
    pub(crate) run: u64,
    /// Number of versions.
    pub(crate) versions: u64,
    /// Number of different keys.
    pub(crate) chains: u64,
    /// CRC32C of the layer's footer, which covers the checksums of everything else.
    pub(crate) checksum: u32,
    /// The horizon for which a compaction has removed what was not needed any more; null: none was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cleaned_to: Option<Lsn>,
    /// What a newer program wrote besides.
    #[serde(flatten)]
    pub(crate) rest: Rest,
}

/// A position whose versions are kept.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct VersionLease {
    /// Who asked, unique in the list.
    pub(crate) name: String,
    /// Versions that decide the state here are kept.
    pub(crate) lsn: Lsn,
    /// Seconds since 1970 (UTC) when it ends; null: never.
    pub(crate) until: Option<u64>,
    /// What a newer program wrote besides.
    #[serde(flatten)]
    pub(crate) rest: Rest,
}

/// A key as text: its 18 bytes in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HexKey(pub(crate) Key);

impl Serialize for HexKey {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let text: String = self.0.to_bytes().iter().map(|b| format!("{b:02x}")).collect();
        s.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for HexKey {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        parse_key(&text).map(HexKey).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is not a key")))
    }
}

fn parse_key(text: &str) -> Option<Key> {
    let mut bytes = [0; KEY_LEN];
    let digits = text.as_bytes();
    if digits.len() != 2 * KEY_LEN {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        for digit in pair {
            *byte = *byte << 4 | (*digit as char).to_digit(16)? as u8;
        }
    }
    Key::from_bytes(&bytes)
}

impl From<&PgHistoryEntry> for TliStart {
    fn from(e: &PgHistoryEntry) -> TliStart {
        TliStart { tli: e.tli, start_lsn: e.start_lsn, rest: Rest::new() }
    }
}

impl Manifest {
    /// A timeline without anything in it.
    pub(crate) fn new(id: TenantTimelineId, attach: &AttachRequest) -> Manifest {
        Manifest {
            tenant_id: id.tenant_id,
            timeline_id: id.timeline_id,
            writer: String::new(),
            change: 0,
            origin: TimelineOrigin {
                start_lsn: attach.start_lsn,
                pg_version_num: attach.pg_version_num,
                system_id: attach.system_id,
                wal_seg_size: attach.wal_seg_size,
                pg_history: attach.pg_history.iter().map(TliStart::from).collect(),
                rest: Rest::new(),
            },
            importing: None,
            readable_from: attach.start_lsn,
            disk_consistent_lsn: attach.start_lsn,
            last_record_start: None,
            layers: Vec::new(),
            horizon: None,
            leases: Vec::new(),
            protected: false,
            choice_seq: 0,
            has_steps: false,
            rest: Rest::new(),
        }
    }

    /// What the timeline was attached with.
    pub(crate) fn attach(&self) -> AttachRequest {
        let TimelineOrigin { start_lsn, pg_version_num, system_id, wal_seg_size, ref pg_history, .. } = self.origin;
        let entry = |e: &TliStart| PgHistoryEntry { tli: e.tli, start_lsn: e.start_lsn };
        let pg_history = pg_history.iter().map(entry).collect();
        AttachRequest { start_lsn, pg_version_num, system_id, wal_seg_size, pg_history }
    }

    /// Whose it is.
    pub(crate) fn id(&self) -> TenantTimelineId {
        TenantTimelineId::new(self.tenant_id, self.timeline_id)
    }
}
