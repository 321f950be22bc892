//! WAL to be pushed: the start of a log, and synthetic records in bulk.

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use pgformat::wal::{StreamConfig, WalBuilder};
use pgformat::{Lsn, PgMajor, SegSize, Tli};
use proto::api::{CreateTimelineRequest, PgHistoryEntry, TimelineSource};
use proto::consensus::{Member, MemberConf, ProposerGreeting};
use proto::id::{Generation, NodeId, PrimaryEpoch, SystemId, TenantTimelineId};

/// Whose log it is and where it starts.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The cluster.
    pub system_id: SystemId,
    /// PG_VERSION_NUM.
    pub pg_version_num: u32,
    /// Segment size.
    pub seg_size: SegSize,
    /// Where the log starts.
    pub start: Lsn,
    /// The cluster's own WAL of the first segment before that.
    pub prehistory: Bytes,
}

impl Origin {
    /// Of made-up WAL: starts with a segment, so that a timeline without WAL has no file.
    ///
    /// # Errors
    /// When there is no such segment size.
    pub fn synthetic(seg_size: u32) -> Result<Origin> {
        let seg_size = SegSize::new(seg_size).context("no segment size")?;
        Ok(Origin {
            system_id: SystemId(7_300_000_000_000_000_001),
            pg_version_num: 150_004,
            seg_size,
            start: seg_size.start_of(3),
            prehistory: Bytes::new(),
        })
    }

    /// What its stream must look like.
    ///
    /// # Errors
    /// When the version is not supported.
    pub fn stream(&self) -> Result<StreamConfig> {
        Ok(StreamConfig {
            version: PgMajor::from_version_num(self.pg_version_num).context("an unsupported version")?,
            seg_size: self.seg_size,
            system_id: Some(self.system_id.0),
            tlis: vec![(Tli(1), Lsn::new(0))],
        })
    }

    /// The member set: that one node.
    ///
    /// # Errors
    /// When the node has no valid id.
    pub fn members(node: NodeId) -> Result<MemberConf> {
        let member = Member { id: node, host: "127.0.0.1".into(), pg_port: 1 };
        Ok(MemberConf::new(Generation::FIRST, vec![member], Vec::new())?)
    }

    /// Body of the request that creates a timeline.
    ///
    /// # Errors
    /// When the node has no valid id.
    pub fn creation(&self, ttid: TenantTimelineId, node: NodeId) -> Result<Vec<u8>> {
        let request = CreateTimelineRequest {
            tenant_id: ttid.tenant_id,
            timeline_id: ttid.timeline_id,
            mconf: Origin::members(node)?,
            pg_version_num: self.pg_version_num,
            system_id: self.system_id,
            wal_seg_size: self.seg_size,
            start_lsn: self.start,
            source: TimelineSource::Vanilla,
            primary_epoch: PrimaryEpoch::FIRST,
            pg_history: vec![PgHistoryEntry { tli: Tli(1), start_lsn: Lsn::new(0) }],
            prehistory_len: self.prehistory.len() as u64,
        };
        let mut body = serde_json::to_vec(&request)?;
        body.push(b'\n');
        body.extend_from_slice(&self.prehistory);
        Ok(body)
    }

    /// A proposer's greeting.
    ///
    /// # Errors
    /// When the node has no valid id.
    pub fn greeting(&self, ttid: TenantTimelineId, node: NodeId) -> Result<ProposerGreeting> {
        Ok(ProposerGreeting {
            ttid,
            mconf: Origin::members(node)?,
            pg_version_num: self.pg_version_num,
            system_id: self.system_id,
            seg_size: self.seg_size,
            tli: None,
        })
    }
}

/// Records made up in advance, one behind the other. Cheap to clone: many timelines can be fed the same ones.
#[derive(Clone, Debug)]
pub struct Records {
    /// Where the first one starts.
    pub start: Lsn,
    /// All of them.
    pub bytes: Bytes,
    ends: std::sync::Arc<[u32]>,
}

impl Records {
    /// As many records of `sizes` bytes, in turn, as fill `len` bytes.
    ///
    /// # Errors
    /// When `origin` is of an unsupported version.
    pub fn build(origin: &Origin, sizes: &[u32], len: usize) -> Result<Records> {
        let mut builder = WalBuilder::new(origin.stream()?, origin.start, None);
        let mut bytes = BytesMut::with_capacity(len + (1 << 20));
        let mut ends = Vec::new();
        for size in sizes.iter().cycle() {
            let built = builder.noop(*size);
            ends.push(u32::try_from(built.end.bytes_since(origin.start))?);
            if builder.bytes().len() >= 1 << 16 {
                bytes.extend_from_slice(&builder.take().1);
                if bytes.len() >= len {
                    break;
                }
            }
        }
        Ok(Records { start: origin.start, bytes: bytes.freeze(), ends: ends.into() })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// Where they end.
    pub fn end(&self) -> Lsn {
        self.start.add(self.bytes.len() as u64)
    }

    /// Position behind the first `n` records.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn end_of(&self, n: usize) -> Result<Lsn> {
        let Some(last) = n.checked_sub(1) else { return Ok(self.start) };
        let end = self.ends.get(last).context("the prepared records have run out: prepare more")?;
        Ok(self.start.add(u64::from(*end)))
    }

    /// Bytes of record number `n`, from 0, with any page header inside or before it.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn record(&self, n: usize) -> Result<Bytes> {
        let at = |lsn: Lsn| usize::try_from(lsn.bytes_since(self.start));
        Ok(self.bytes.slice(at(self.end_of(n)?)?..at(self.end_of(n + 1)?)?))
    }
}
