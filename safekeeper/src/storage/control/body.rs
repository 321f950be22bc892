//! Versions 1 and 2 of the control file's body: little-endian, positions as numbers with 0 for unknown. Pure.
//! Version 2 is written: version 1 and, behind it, the member's standing. Version 1 is read.

use std::collections::BTreeMap;

use bytes::Bytes;
use pgformat::{Lsn, SegSize, Tli};
use proto::admission::MemberMemory;
use proto::api::{PgHistoryEntry, TimelineSource};
use proto::codec::{DecodeError, Reader};
use proto::consensus::{Member, MemberConf, TermHistory, TermLsn};
use proto::id::{
    Generation, Incarnation, NodeId, PrimaryEpoch, SystemId, TenantId, TenantTimelineId, Term, TimelineId,
};

use crate::core::{BAR_REASON_MAX, Bar, ControlState, HISTORY_ENTRIES_MAX, PG_HISTORY_ENTRIES_MAX, Standing};

/// The most members of one set.
pub const MEMBERS_MAX: usize = 64;
/// The longest host name of a member, in bytes.
pub const HOST_LEN_MAX: usize = 255;

pub(super) const FIXED_LEN: usize = 112 + 4 + 2 + 2 + 4 + 4;
pub(super) const STANDING_FIXED_LEN: usize = 16 + 8 + 8 + 8 + 8 + 1 + 1 + 2 + 2;
pub(super) const MEMORY_LEN: usize = 8 + 16 + 8 + 8 + 8 + 8;
/// The most members that are remembered: those of both sets.
pub(super) const MEMORIES_MAX: usize = 2 * MEMBERS_MAX;
pub(super) const MEMBER_FIXED_LEN: usize = 8 + 2 + 2;
pub(super) const HISTORY_ENTRY_LEN: usize = 16;
pub(super) const PG_HISTORY_ENTRY_LEN: usize = 12;

const SOURCE_VANILLA: u8 = 1;
const SOURCE_WALPROPOSER: u8 = 2;

/// The body; an error says which limit the state exceeds.
pub(super) fn encode(s: &ControlState, durable_lsn: Option<Lsn>) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(FIXED_LEN + s.history.entries().len() * HISTORY_ENTRY_LEN + 1024);
    out.extend_from_slice(s.ttid.tenant_id.bytes());
    out.extend_from_slice(s.ttid.timeline_id.bytes());
    out.push(match s.source {
        TimelineSource::Vanilla => SOURCE_VANILLA,
        TimelineSource::Walproposer => SOURCE_WALPROPOSER,
    });
    out.extend_from_slice(&[0; 7]);
    out.extend_from_slice(&s.system_id.0.to_le_bytes());
    out.extend_from_slice(&s.pg_version_num.to_le_bytes());
    out.extend_from_slice(&s.seg_size.to_u32().to_le_bytes());
    out.extend_from_slice(&s.term.0.to_le_bytes());
    out.extend_from_slice(&s.primary_epoch.0.to_le_bytes());
    for lsn in [s.timeline_start_lsn, s.local_start_lsn, s.commit_lsn, s.peer_horizon_lsn] {
        out.extend_from_slice(&Lsn::to_wire(lsn).to_le_bytes());
    }
    out.extend_from_slice(&Lsn::to_wire(durable_lsn).to_le_bytes());
    out.extend_from_slice(&s.mconf.generation.0.to_le_bytes());
    for set in [&s.mconf.members, &s.mconf.new_members] {
        out.extend_from_slice(&count_u16(set.len(), MEMBERS_MAX, "members")?.to_le_bytes());
    }
    let entries = s.history.entries();
    out.extend_from_slice(&count(entries.len(), HISTORY_ENTRIES_MAX, "term history entries")?.to_le_bytes());
    out.extend_from_slice(&count(s.pg_history.len(), PG_HISTORY_ENTRIES_MAX, "tli history entries")?.to_le_bytes());
    for m in s.mconf.members.iter().chain(&s.mconf.new_members) {
        out.extend_from_slice(&m.id.0.to_le_bytes());
        out.extend_from_slice(&m.pg_port.to_le_bytes());
        out.extend_from_slice(&count_u16(m.host.len(), HOST_LEN_MAX, "bytes of a host name")?.to_le_bytes());
        out.extend_from_slice(m.host.as_bytes());
    }
    for e in entries {
        out.extend_from_slice(&e.term.0.to_le_bytes());
        out.extend_from_slice(&e.lsn.get().to_le_bytes());
    }
    for e in &s.pg_history {
        out.extend_from_slice(&e.tli.0.to_le_bytes());
        out.extend_from_slice(&e.start_lsn.get().to_le_bytes());
    }
    encode_standing(&mut out, &s.standing)?;
    Ok(out)
}

fn count(n: usize, max: usize, what: &str) -> Result<u32, String> {
    if n > max {
        return Err(format!("{n} {what}, the control file holds {max}"));
    }
    u32::try_from(n).map_err(|_| format!("{n} {what}"))
}

fn count_u16(n: usize, max: usize, what: &str) -> Result<u16, String> {
    u16::try_from(count(n, max, what)?).map_err(|_| format!("{n} {what}"))
}

pub(super) fn decode(version: u32, body: Bytes) -> Result<(ControlState, Option<Lsn>), DecodeError> {
    let mut r = Reader::new("control file", body);
    let ttid = TenantTimelineId::new(TenantId::new(r.array("tenant id")?), TimelineId::new(r.array("timeline id")?));
    let source = match r.u8("source")? {
        SOURCE_VANILLA => TimelineSource::Vanilla,
        SOURCE_WALPROPOSER => TimelineSource::Walproposer,
        other => return Err(r.error(format!("unknown source {other}"))),
    };
    r.array::<7>("padding")?;
    let system_id = SystemId(r.u64_le("system id")?);
    let pg_version_num = r.u32_le("pg version")?;
    let seg_size = r.u32_le("segment size")?;
    let seg_size = SegSize::new(seg_size).ok_or_else(|| r.error(format!("invalid segment size {seg_size}")))?;
    let term = Term(r.u64_le("term")?);
    let primary_epoch = PrimaryEpoch(r.u64_le("primary epoch")?);
    let timeline_start_lsn = Lsn::from_wire(r.u64_le("timeline start")?);
    let local_start_lsn = Lsn::from_wire(r.u64_le("local start")?);
    let commit_lsn = Lsn::from_wire(r.u64_le("commit position")?);
    let peer_horizon_lsn = Lsn::from_wire(r.u64_le("peer horizon")?);
    let durable_lsn = Lsn::from_wire(r.u64_le("durable position")?);
    let generation = Generation(r.u32_le("generation")?);
    let counts = (r.u16_le("members")?, r.u16_le("new members")?);
    let history_len = r.u32_le("history length")?;
    let pg_history_len = r.u32_le("tli history length")?;
    let members = members(&mut r, counts.0)?;
    let new_members = self::members(&mut r, counts.1)?;
    let mconf = MemberConf::new(generation, members, new_members).map_err(|e| r.error(e.to_string()))?;
    let history = history(&mut r, history_len)?;
    let pg_history = pg_history(&mut r, pg_history_len)?;
    let standing = if version == 1 { Standing::default() } else { decode_standing(&mut r)? };
    r.finish()?;
    let state = ControlState {
        ttid,
        source,
        system_id,
        pg_version_num,
        seg_size,
        mconf,
        term,
        primary_epoch,
        history,
        timeline_start_lsn,
        local_start_lsn,
        commit_lsn,
        peer_horizon_lsn,
        pg_history,
        standing,
    };
    Ok((state, durable_lsn))
}

fn members(r: &mut Reader, n: u16) -> Result<Vec<Member>, DecodeError> {
    let n = r.bounded_count(u32::from(n), MEMBER_FIXED_LEN, "members")?;
    let mut out = Vec::with_capacity(n);
    for _ in 0..n {
        let id = NodeId(r.u64_le("member id")?);
        let pg_port = r.u16_le("member port")?;
        let len = r.u16_le("host length")?;
        let host = r.take(usize::from(len), "host")?;
        let host = String::from_utf8(host.to_vec()).map_err(|_| r.error("host is not UTF-8"))?;
        out.push(Member { id, host, pg_port });
    }
    Ok(out)
}

fn history(r: &mut Reader, n: u32) -> Result<TermHistory, DecodeError> {
    let n = r.bounded_count(n, HISTORY_ENTRY_LEN, "term history")?;
    let mut out = Vec::with_capacity(n);
    for _ in 0..n {
        out.push(TermLsn { term: Term(r.u64_le("history term")?), lsn: Lsn::new(r.u64_le("history position")?) });
    }
    TermHistory::new(out).map_err(|e| r.error(e.to_string()))
}

fn pg_history(r: &mut Reader, n: u32) -> Result<Vec<PgHistoryEntry>, DecodeError> {
    let n = r.bounded_count(n, PG_HISTORY_ENTRY_LEN, "tli history")?;
    let mut out = Vec::with_capacity(n);
    for _ in 0..n {
        out.push(PgHistoryEntry { tli: Tli(r.u32_le("tli")?), start_lsn: Lsn::new(r.u64_le("tli start")?) });
    }
    Ok(out)
}

fn encode_standing(out: &mut Vec<u8>, s: &Standing) -> Result<(), String> {
    out.extend_from_slice(s.incarnation.bytes());
    out.extend_from_slice(&s.starts.to_le_bytes());
    out.extend_from_slice(&s.readmitted.0.to_le_bytes());
    out.extend_from_slice(&Lsn::to_wire(s.acked_lsn).to_le_bytes());
    let bar = s.barred.as_ref();
    let fence = bar.and_then(|b| b.fence);
    out.extend_from_slice(&fence.unwrap_or(Term::ZERO).0.to_le_bytes());
    out.extend_from_slice(&[u8::from(bar.is_some()), u8::from(fence.is_some())]);
    let why = bar.map_or("", |b| &b.why);
    out.extend_from_slice(&count_u16(why.len(), BAR_REASON_MAX, "bytes of a reason")?.to_le_bytes());
    out.extend_from_slice(&count_u16(s.peers.len(), MEMORIES_MAX, "remembered members")?.to_le_bytes());
    out.extend_from_slice(why.as_bytes());
    for (node, m) in &s.peers {
        out.extend_from_slice(&node.0.to_le_bytes());
        out.extend_from_slice(m.incarnation.bytes());
        for number in [m.starts, m.term.0, m.last_log_term.0, m.flush_lsn.get()] {
            out.extend_from_slice(&number.to_le_bytes());
        }
    }
    Ok(())
}

fn decode_standing(r: &mut Reader) -> Result<Standing, DecodeError> {
    let incarnation = Incarnation::new(r.array("incarnation")?);
    let starts = r.u64_le("starts")?;
    let readmitted = Term(r.u64_le("re-admission")?);
    let acked_lsn = Lsn::from_wire(r.u64_le("acknowledged position")?);
    let fence = r.u64_le("fence")?;
    let flags = (r.u8("barred")?, r.u8("fenced")?);
    let (len, n) = (r.u16_le("length of the reason")?, r.u16_le("remembered members")?);
    let why = r.take(usize::from(len), "reason")?;
    let why = String::from_utf8(why.to_vec()).map_err(|_| r.error("the reason is not UTF-8"))?;
    let barred = match flags {
        (0, 0) => None,
        (1, fenced @ 0..=1) => Some(Bar { why, fence: (fenced == 1).then_some(Term(fence)) }),
        _ => return Err(r.error("impossible flags of a barred member")),
    };
    let n = r.bounded_count(u32::from(n), MEMORY_LEN, "remembered members")?;
    let mut peers = BTreeMap::new();
    for _ in 0..n {
        let node = NodeId(r.u64_le("remembered member")?);
        let memory = MemberMemory {
            incarnation: Incarnation::new(r.array("its incarnation")?),
            starts: r.u64_le("its starts")?,
            term: Term(r.u64_le("its term")?),
            last_log_term: Term(r.u64_le("its last log term")?),
            flush_lsn: Lsn::new(r.u64_le("its flush position")?),
        };
        peers.insert(node, memory);
    }
    Ok(Standing { incarnation, starts, barred, readmitted, acked_lsn, peers })
}
