//! Version 3: big-endian, one-byte tags, ids as hexadecimal text. Layouts: `docs/protocol.md`, "Version 3".

use bytes::{BufMut, BytesMut};
use pgformat::{Lsn, SegSize};

use super::wire::{BIG, history_len, read_feedback, read_history, read_lsn, read_wal, write_feedback, write_history};
use super::{
    AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, Member, MemberConf, ProposerElected,
    ProposerGreeting, ProposerMessage, VoteRequest, VoteResponse,
};
use crate::codec::{DecodeError, Reader};
use crate::id::{Generation, NodeId, SystemId, TenantTimelineId, Term};

/// Longest host name accepted in a member set (RFC 1035 allows 253).
const HOST_MAX: usize = 255;
/// u64 id, NUL of an empty host, u16 port.
const MEMBER_MIN: usize = 11;

pub(super) fn read_proposer(r: &mut Reader) -> Result<ProposerMessage, DecodeError> {
    match r.u8("tag")? {
        b'g' => read_proposer_greeting(r).map(ProposerMessage::Greeting),
        b'v' => Ok(ProposerMessage::VoteRequest(VoteRequest {
            generation: Generation(r.u32("generation")?),
            term: Term(r.u64("term")?),
        })),
        b'e' => Ok(ProposerMessage::Elected(ProposerElected {
            generation: Generation(r.u32("generation")?),
            term: Term(r.u64("term")?),
            start_streaming_at: Lsn::new(r.u64("start_streaming_at")?),
            history: read_history(r, &BIG)?,
        })),
        b'a' => {
            let generation = Generation(r.u32("generation")?);
            let term = Term(r.u64("term")?);
            let begin_lsn = Lsn::new(r.u64("begin_lsn")?);
            let end_lsn = Lsn::new(r.u64("end_lsn")?);
            let commit_lsn = read_lsn(r, &BIG, "commit_lsn")?;
            let truncate_lsn = read_lsn(r, &BIG, "truncate_lsn")?;
            let wal = read_wal(r, begin_lsn, end_lsn)?;
            let append = AppendRequest { generation, term, begin_lsn, end_lsn, commit_lsn, truncate_lsn, wal };
            Ok(ProposerMessage::Append(append))
        }
        tag => Err(r.error(format!("unknown tag 0x{tag:02x}"))),
    }
}

pub(super) fn write_proposer(message: &ProposerMessage, out: &mut BytesMut) {
    match message {
        ProposerMessage::Greeting(m) => {
            out.put_u8(b'g');
            put_cstr(out, &m.ttid.tenant_id.to_string());
            put_cstr(out, &m.ttid.timeline_id.to_string());
            write_mconf(&m.mconf, out);
            out.put_u32(m.pg_version_num);
            out.put_u64(m.system_id.0);
            out.put_u32(m.seg_size.to_u32());
        }
        ProposerMessage::VoteRequest(m) => {
            out.put_u8(b'v');
            out.put_u32(m.generation.0);
            out.put_u64(m.term.0);
        }
        ProposerMessage::Elected(m) => {
            out.put_u8(b'e');
            out.put_u32(m.generation.0);
            out.put_u64(m.term.0);
            out.put_u64(m.start_streaming_at.get());
            out.put_u32(history_len(&m.history));
            write_history(&m.history, &BIG, out);
        }
        ProposerMessage::Append(m) => {
            out.put_u8(b'a');
            out.put_u32(m.generation.0);
            out.put_u64(m.term.0);
            out.put_u64(m.begin_lsn.get());
            out.put_u64(m.end_lsn.get());
            out.put_u64(Lsn::to_wire(m.commit_lsn));
            out.put_u64(Lsn::to_wire(m.truncate_lsn));
        }
    }
}

pub(super) fn read_acceptor(r: &mut Reader) -> Result<AcceptorMessage, DecodeError> {
    match r.u8("tag")? {
        b'g' => Ok(AcceptorMessage::Greeting(AcceptorGreeting {
            node_id: NodeId(r.u64("node_id")?),
            mconf: read_mconf(r)?,
            term: Term(r.u64("term")?),
        })),
        b'v' => {
            let generation = Generation(r.u32("generation")?);
            let term = Term(r.u64("term")?);
            let vote_given = match r.u8("vote_given")? {
                0 => false,
                1 => true,
                other => return Err(r.error(format!("vote_given is {other}, neither 0 nor 1"))),
            };
            let flush_lsn = read_lsn(r, &BIG, "flush_lsn")?;
            let truncate_lsn = read_lsn(r, &BIG, "truncate_lsn")?;
            let history = read_history(r, &BIG)?;
            let vote = VoteResponse { generation, term, vote_given, flush_lsn, truncate_lsn, history };
            Ok(AcceptorMessage::VoteResponse(vote))
        }
        b'a' => {
            let generation = Generation(r.u32("generation")?);
            let term = Term(r.u64("term")?);
            let flush_lsn = read_lsn(r, &BIG, "flush_lsn")?;
            let commit_lsn = read_lsn(r, &BIG, "commit_lsn")?;
            let (hs_feedback, pageserver_feedback) = read_feedback(r, &BIG)?;
            let append = AppendResponse { generation, term, flush_lsn, commit_lsn, hs_feedback, pageserver_feedback };
            Ok(AcceptorMessage::Append(append))
        }
        tag => Err(r.error(format!("unknown tag 0x{tag:02x}"))),
    }
}

pub(super) fn write_acceptor(message: &AcceptorMessage, out: &mut BytesMut) {
    match message {
        AcceptorMessage::Greeting(m) => {
            out.put_u8(b'g');
            out.put_u64(m.node_id.0);
            write_mconf(&m.mconf, out);
            out.put_u64(m.term.0);
        }
        AcceptorMessage::VoteResponse(m) => {
            out.put_u8(b'v');
            out.put_u32(m.generation.0);
            out.put_u64(m.term.0);
            out.put_u8(u8::from(m.vote_given));
            out.put_u64(Lsn::to_wire(m.flush_lsn));
            out.put_u64(Lsn::to_wire(m.truncate_lsn));
            out.put_u32(history_len(&m.history));
            write_history(&m.history, &BIG, out);
        }
        AcceptorMessage::Append(m) => {
            out.put_u8(b'a');
            out.put_u32(m.generation.0);
            out.put_u64(m.term.0);
            out.put_u64(Lsn::to_wire(m.flush_lsn));
            out.put_u64(Lsn::to_wire(m.commit_lsn));
            write_feedback(m, &BIG, out);
        }
    }
}

fn read_proposer_greeting(r: &mut Reader) -> Result<ProposerGreeting, DecodeError> {
    let tenant_id = r.cstr(32, "tenant_id")?.parse().map_err(|e| r.error(format!("{e}")))?;
    let timeline_id = r.cstr(32, "timeline_id")?.parse().map_err(|e| r.error(format!("{e}")))?;
    let mconf = read_mconf(r)?;
    let pg_version_num = r.u32("pg_version")?;
    let system_id = SystemId(r.u64("system_id")?);
    let size = r.u32("wal_segment_size")?;
    let seg_size = SegSize::new(size).ok_or_else(|| r.error(format!("{size} is not a WAL segment size")))?;
    let ttid = TenantTimelineId::new(tenant_id, timeline_id);
    Ok(ProposerGreeting { ttid, mconf, pg_version_num, system_id, seg_size, tli: None })
}

fn read_mconf(r: &mut Reader) -> Result<MemberConf, DecodeError> {
    let generation = Generation(r.u32("mconf.generation")?);
    let members = read_members(r, "mconf.members")?;
    let new_members = read_members(r, "mconf.new_members")?;
    MemberConf::new(generation, members, new_members).map_err(|e| r.error(format!("mconf: {e}")))
}

fn read_members(r: &mut Reader, field: &'static str) -> Result<Vec<Member>, DecodeError> {
    let count = r.u32(field)?;
    let count = r.bounded_count(count, MEMBER_MIN, field)?;
    let mut members = Vec::with_capacity(count);
    for _ in 0..count {
        let id = NodeId(r.u64("member's node_id")?);
        let host = r.cstr(HOST_MAX, "member's host")?;
        members.push(Member { id, host, pg_port: r.u16("member's pg_port")? });
    }
    Ok(members)
}

fn write_mconf(mconf: &MemberConf, out: &mut BytesMut) {
    out.put_u32(mconf.generation.0);
    for set in [&mconf.members, &mconf.new_members] {
        out.put_u32(u32::try_from(set.len()).expect("a member set holds a handful of nodes"));
        for member in set {
            out.put_u64(member.id.0);
            put_cstr(out, &member.host);
            out.put_u16(member.pg_port);
        }
    }
}

fn put_cstr(out: &mut BytesMut, text: &str) {
    crate::pg::frame::put_cstr(out, text);
}
