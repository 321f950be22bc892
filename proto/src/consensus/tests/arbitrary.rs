//! Arbitrary messages for property tests.

use bytes::Bytes;
use pgformat::{Lsn, SegSize, Tli};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;

use crate::consensus::*;
use crate::id::{TenantId, TimelineId};

pub(crate) fn lsn() -> impl Strategy<Value = Option<Lsn>> {
    any::<u64>().prop_map(Lsn::from_wire)
}

pub(crate) fn payload(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

pub(crate) fn feedback() -> impl Strategy<Value = PageserverFeedback> {
    let fields = (option::of(any::<u64>()), lsn(), lsn(), lsn(), option::of(any::<i64>()), any::<u32>(), any::<bool>());
    fields.prop_map(|(size, received, disk, remote, reply_time, shard_number, corruption_detected)| {
        PageserverFeedback {
            current_timeline_size: size,
            last_received_lsn: received,
            disk_consistent_lsn: disk,
            remote_consistent_lsn: remote,
            reply_time,
            shard_number,
            corruption_detected,
        }
    })
}

fn history() -> impl Strategy<Value = TermHistory> {
    vec((1u64..1000, 0u64..1 << 40), 0..20).prop_map(|steps| {
        let (mut term, mut lsn) = (0, 0);
        let entries = steps.into_iter().map(|(t, l)| {
            term += t;
            lsn += l;
            TermLsn { term: Term(term), lsn: Lsn::new(lsn) }
        });
        TermHistory::new(entries.collect()).expect("it rises")
    })
}

fn members(min: usize) -> impl Strategy<Value = Vec<Member>> {
    btree_map(1u64.., ("[a-z0-9.-]{0,20}", any::<u16>()), min..5)
        .prop_map(|map| map.into_iter().map(|(id, (host, pg_port))| Member { id: NodeId(id), host, pg_port }).collect())
}

fn mconf() -> impl Strategy<Value = MemberConf> {
    let some = (1u32.., members(1), members(0))
        .prop_map(|(g, old, new)| MemberConf::new(Generation(g), old, new).expect("a valid configuration"));
    prop_oneof![Just(MemberConf::none()), some]
}

/// What version 2 cannot carry gets its stand-in.
pub(crate) fn proposer(version: ProtoVersion) -> impl Strategy<Value = ProposerMessage> {
    let v3 = version == ProtoVersion::V3;
    let generation = move || any::<u32>().prop_map(move |g| Generation(if v3 { g } else { 0 }));
    let greeting = (any::<([u8; 16], [u8; 16], u32, u64, u32)>(), mconf(), 20u32..=30).prop_map(
        move |((tenant, timeline, pg_version_num, system_id, tli), mconf, bits)| {
            ProposerMessage::Greeting(ProposerGreeting {
                ttid: TenantTimelineId::new(TenantId::new(tenant), TimelineId::new(timeline)),
                mconf: if v3 { mconf } else { MemberConf::none() },
                pg_version_num,
                system_id: SystemId(system_id),
                seg_size: SegSize::new(1 << bits).expect("a power of two in range"),
                tli: (!v3).then_some(Tli(tli)),
            })
        },
    );
    let vote = (generation(), any::<u64>())
        .prop_map(|(generation, t)| ProposerMessage::VoteRequest(VoteRequest { generation, term: Term(t) }));
    let elected = (generation(), any::<(u64, u64)>(), history()).prop_map(|(generation, (term, at), history)| {
        let start_streaming_at = Lsn::new(at);
        ProposerMessage::Elected(ProposerElected { generation, term: Term(term), start_streaming_at, history })
    });
    let append = (generation(), any::<u64>(), 0..u64::MAX / 2, lsn(), lsn(), payload(1000)).prop_map(
        |(generation, term, begin, commit_lsn, truncate_lsn, wal)| {
            let begin_lsn = Lsn::new(begin);
            let end_lsn = begin_lsn.add(wal.len() as u64);
            let term = Term(term);
            let append = AppendRequest { generation, term, begin_lsn, end_lsn, commit_lsn, truncate_lsn, wal };
            ProposerMessage::Append(append)
        },
    );
    prop_oneof![greeting, vote, elected, append]
}

pub(crate) fn acceptor(version: ProtoVersion) -> impl Strategy<Value = AcceptorMessage> {
    let v3 = version == ProtoVersion::V3;
    let generation = move || any::<u32>().prop_map(move |g| Generation(if v3 { g } else { 0 }));
    let greeting = (any::<(u64, u64)>(), mconf()).prop_map(move |((id, term), mconf)| {
        let mconf = if v3 { mconf } else { MemberConf::none() };
        AcceptorMessage::Greeting(AcceptorGreeting { node_id: NodeId(id), mconf, term: Term(term) })
    });
    let vote = (generation(), any::<(u64, bool)>(), lsn(), lsn(), history()).prop_map(
        |(generation, (term, vote_given), flush_lsn, truncate_lsn, history)| {
            let term = Term(term);
            let vote = VoteResponse { generation, term, vote_given, flush_lsn, truncate_lsn, history };
            AcceptorMessage::VoteResponse(vote)
        },
    );
    let append = (generation(), any::<u64>(), lsn(), lsn(), any::<(i64, u64, u64)>(), option::of(feedback())).prop_map(
        |(generation, term, flush_lsn, commit_lsn, (ts, xmin, catalog_xmin), feedback)| {
            AcceptorMessage::Append(AppendResponse {
                generation,
                term: Term(term),
                flush_lsn,
                commit_lsn,
                hs_feedback: HotStandbyFeedback { ts, xmin, catalog_xmin },
                pageserver_feedback: feedback.filter(|f| !f.is_empty()),
            })
        },
    );
    prop_oneof![greeting, vote, append]
}
