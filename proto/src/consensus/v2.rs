//! Version 2: little-endian C structs, 64-bit tags. Layouts: `docs/protocol.md`, "Version 2".
//!
//! Substitutes for fields that this version cannot carry:
//! - every generation reads as 0 and is not written; a greeting's member set reads as empty;
//! - the proposer's uuid, the term's start in append requests and `timeline_start_lsn` in vote responses are written as
//!   zeros and ignored when read;
//! - `timeline_start_lsn` of an elected message is the first LSN of the history;
//! - a greeting without tli is written with tli 1.

use bytes::{BufMut, BytesMut};
use pgformat::{Lsn, SegSize, Tli};

use super::wire::{
    LITTLE, history_len, read_feedback, read_history, read_lsn, read_wal, write_feedback, write_history,
};
use super::{
    AcceptorGreeting, AcceptorMessage, AppendRequest, AppendResponse, MemberConf, ProposerElected, ProposerGreeting,
    ProposerMessage, VoteRequest, VoteResponse,
};
use crate::codec::{DecodeError, Reader};
use crate::id::{Generation, NodeId, SystemId, TenantId, TenantTimelineId, Term, TimelineId};

const GREETING: u64 = b'g' as u64;
const VOTE: u64 = b'v' as u64;
const ELECTED: u64 = b'e' as u64;
const APPEND: u64 = b'a' as u64;
const NO_UUID: [u8; 16] = [0; 16];

pub(super) fn read_proposer(r: &mut Reader) -> Result<ProposerMessage, DecodeError> {
    match r.u64_le("tag")? {
        GREETING => read_proposer_greeting(r).map(ProposerMessage::Greeting),
        VOTE => {
            let term = Term(r.u64_le("term")?);
            r.array::<16>("proposer uuid")?;
            Ok(ProposerMessage::VoteRequest(VoteRequest { generation: Generation::NONE, term }))
        }
        ELECTED => {
            let term = Term(r.u64_le("term")?);
            let start_streaming_at = Lsn::new(r.u64_le("start_streaming_at")?);
            let history = read_history(r, &LITTLE)?;
            r.u64_le("timeline_start_lsn")?;
            let elected = ProposerElected { generation: Generation::NONE, term, start_streaming_at, history };
            Ok(ProposerMessage::Elected(elected))
        }
        APPEND => {
            let term = Term(r.u64_le("term")?);
            r.u64_le("term start")?;
            let begin_lsn = Lsn::new(r.u64_le("begin_lsn")?);
            let end_lsn = Lsn::new(r.u64_le("end_lsn")?);
            let commit_lsn = read_lsn(r, &LITTLE, "commit_lsn")?;
            let truncate_lsn = read_lsn(r, &LITTLE, "truncate_lsn")?;
            r.array::<16>("proposer uuid")?;
            let wal = read_wal(r, begin_lsn, end_lsn)?;
            let generation = Generation::NONE;
            let append = AppendRequest { generation, term, begin_lsn, end_lsn, commit_lsn, truncate_lsn, wal };
            Ok(ProposerMessage::Append(append))
        }
        tag => Err(r.error(format!("unknown tag {tag:#x}"))),
    }
}

pub(super) fn write_proposer(message: &ProposerMessage, out: &mut BytesMut) {
    match message {
        ProposerMessage::Greeting(m) => {
            out.put_u64_le(GREETING);
            out.put_u32_le(2);
            out.put_u32_le(m.pg_version_num);
            out.put_slice(&NO_UUID);
            out.put_u64_le(m.system_id.0);
            out.put_slice(m.ttid.timeline_id.bytes());
            out.put_slice(m.ttid.tenant_id.bytes());
            out.put_u32_le(m.tli.unwrap_or(Tli(1)).0);
            out.put_u32_le(m.seg_size.to_u32());
        }
        ProposerMessage::VoteRequest(m) => {
            out.put_u64_le(VOTE);
            out.put_u64_le(m.term.0);
            out.put_slice(&NO_UUID);
        }
        ProposerMessage::Elected(m) => {
            out.put_u64_le(ELECTED);
            out.put_u64_le(m.term.0);
            out.put_u64_le(m.start_streaming_at.get());
            out.put_u32_le(history_len(&m.history));
            write_history(&m.history, &LITTLE, out);
            out.put_u64_le(m.history.first().map_or(0, |e| e.lsn.get()));
        }
        ProposerMessage::Append(m) => {
            out.put_u64_le(APPEND);
            out.put_u64_le(m.term.0);
            out.put_u64_le(0);
            out.put_u64_le(m.begin_lsn.get());
            out.put_u64_le(m.end_lsn.get());
            out.put_u64_le(Lsn::to_wire(m.commit_lsn));
            out.put_u64_le(Lsn::to_wire(m.truncate_lsn));
            out.put_slice(&NO_UUID);
        }
    }
}

pub(super) fn read_acceptor(r: &mut Reader) -> Result<AcceptorMessage, DecodeError> {
    match r.u64_le("tag")? {
        GREETING => {
            let term = Term(r.u64_le("term")?);
            let node_id = NodeId(r.u64_le("node_id")?);
            Ok(AcceptorMessage::Greeting(AcceptorGreeting { node_id, mconf: MemberConf::none(), term }))
        }
        VOTE => {
            let term = Term(r.u64_le("term")?);
            let vote_given = match r.u64_le("vote_given")? {
                0 => false,
                1 => true,
                other => return Err(r.error(format!("vote_given is {other}, neither 0 nor 1"))),
            };
            let flush_lsn = read_lsn(r, &LITTLE, "flush_lsn")?;
            let truncate_lsn = read_lsn(r, &LITTLE, "truncate_lsn")?;
            let history = read_history(r, &LITTLE)?;
            r.u64_le("timeline_start_lsn")?;
            let generation = Generation::NONE;
            let vote = VoteResponse { generation, term, vote_given, flush_lsn, truncate_lsn, history };
            Ok(AcceptorMessage::VoteResponse(vote))
        }
        APPEND => {
            let generation = Generation::NONE;
            let term = Term(r.u64_le("term")?);
            let flush_lsn = read_lsn(r, &LITTLE, "flush_lsn")?;
            let commit_lsn = read_lsn(r, &LITTLE, "commit_lsn")?;
            let (hs_feedback, pageserver_feedback) = read_feedback(r, &LITTLE)?;
            let append = AppendResponse { generation, term, flush_lsn, commit_lsn, hs_feedback, pageserver_feedback };
            Ok(AcceptorMessage::Append(append))
        }
        tag => Err(r.error(format!("unknown tag {tag:#x}"))),
    }
}

pub(super) fn write_acceptor(message: &AcceptorMessage, out: &mut BytesMut) {
    match message {
        AcceptorMessage::Greeting(m) => {
            out.put_u64_le(GREETING);
            out.put_u64_le(m.term.0);
            out.put_u64_le(m.node_id.0);
        }
        AcceptorMessage::VoteResponse(m) => {
            out.put_u64_le(VOTE);
            out.put_u64_le(m.term.0);
            out.put_u64_le(u64::from(m.vote_given));
            out.put_u64_le(Lsn::to_wire(m.flush_lsn));
            out.put_u64_le(Lsn::to_wire(m.truncate_lsn));
            out.put_u32_le(history_len(&m.history));
            write_history(&m.history, &LITTLE, out);
            out.put_u64_le(0);
        }
        AcceptorMessage::Append(m) => {
            out.put_u64_le(APPEND);
            out.put_u64_le(m.term.0);
            out.put_u64_le(Lsn::to_wire(m.flush_lsn));
            out.put_u64_le(Lsn::to_wire(m.commit_lsn));
            write_feedback(m, &LITTLE, out);
        }
    }
}

fn read_proposer_greeting(r: &mut Reader) -> Result<ProposerGreeting, DecodeError> {
    let version = r.u32_le("protocol_version")?;
    if version != 2 {
        return Err(r.error(format!("protocol_version is {version} in a version 2 greeting")));
    }
    let pg_version_num = r.u32_le("pg_version")?;
    r.array::<16>("proposer uuid")?;
    let system_id = SystemId(r.u64_le("system_id")?);
    let timeline_id = TimelineId::new(r.array("timeline_id")?);
    let tenant_id = TenantId::new(r.array("tenant_id")?);
    let tli = Some(Tli(r.u32_le("tli")?));
    let size = r.u32_le("wal_segment_size")?;
    let seg_size = SegSize::new(size).ok_or_else(|| r.error(format!("{size} is not a WAL segment size")))?;
    let ttid = TenantTimelineId::new(tenant_id, timeline_id);
    Ok(ProposerGreeting { ttid, mconf: MemberConf::none(), pg_version_num, system_id, seg_size, tli })
}
