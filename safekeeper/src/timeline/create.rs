//! Checks of a creation request, and the comparison of a repeated one with what is there.

use bytes::Bytes;
use pgformat::wal::{check_prehistory, synthetic_prehistory};
use pgformat::{Lsn, PgMajor};
use proto::api::{CreateTimelineRequest, PgHistoryEntry, TimelineSource};
use proto::consensus::{MemberConf, ProposerGreeting};
use proto::id::{Generation, Incarnation, NodeId, PrimaryEpoch, SystemId, TenantTimelineId};

use super::shared::TimelineShared;
use crate::core::{ControlState, PG_HISTORY_ENTRIES_MAX};
use crate::storage::control::{HOST_LEN_MAX, MEMBERS_MAX};
use crate::storage::scan::stream_config;

/// The longest prehistory that is made up, bytes: the segments of walproposers have 16 MiB. A request of some hundred
/// bytes must not write a GiB.
const MADE_UP_MAX: u64 = 16 << 20;

/// Why a timeline is not created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// It exists with other parameters.
    #[error("timeline {ttid} exists with another {field}: {here} here, {asked} asked for")]
    Conflict {
        /// The timeline that was asked for.
        ttid: TenantTimelineId,
        /// Name of the parameter that differs.
        field: &'static str,
        /// The value held here.
        here: String,
        /// The value asked for.
        asked: String,
    },
    /// The request contradicts itself, or this node.
    #[error("{0}")]
    Invalid(String),
    /// Too little space is left for one more.
    #[error(
        "timeline {ttid} is not created: the disk of the data directory has {} MiB free, and {} MiB are kept for the \
         WAL of a new timeline and for those that are here", free >> 20, wanted >> 20
    )]
    NoRoom {
        /// The timeline that was asked for.
        ttid: TenantTimelineId,
        /// Bytes that are free.
        free: u64,
        /// Bytes that must be.
        wanted: u64,
    },
    /// The disk refused or failed.
    #[error("creating timeline {ttid}: {source}")]
    Io {
        /// The timeline that was asked for.
        ttid: TenantTimelineId,
        /// What the disk said.
        source: std::io::Error,
    },
}

/// A checked request.
#[derive(Clone, Debug)]
pub(super) struct CreationPlan {
    pub(super) state: ControlState,
    pub(super) prehistory: Bytes,
}

fn invalid(problem: impl Into<String>) -> CreateError {
    CreateError::Invalid(problem.into())
}

/// Checks an explicit request.
pub(super) fn plan(
    node: NodeId,
    request: CreateTimelineRequest,
    prehistory: Bytes,
) -> Result<CreationPlan, CreateError> {
    let r = request;
    let ttid = TenantTimelineId::new(r.tenant_id, r.timeline_id);
    for (name, id) in [("tenant_id", r.tenant_id.to_string()), ("timeline_id", r.timeline_id.to_string())] {
        if id.bytes().all(|b| b == b'0') {
            return Err(invalid(format!("{name} is all zeros, which names nothing")));
        }
    }
    // A walproposer's set may come with its greeting.
    if r.source != TimelineSource::Walproposer || r.mconf != MemberConf::none() {
        check_members(node, &r.mconf)?;
    }
    if PgMajor::from_version_num(r.pg_version_num).is_none() {
        return Err(invalid(format!("PostgreSQL version {} is not supported", r.pg_version_num)));
    }
    if r.system_id == SystemId(0) && r.source == TimelineSource::Vanilla {
        return Err(invalid("system_id must be known"));
    }
    if r.start_lsn == Lsn::new(0) || !r.start_lsn.is_aligned8() {
        return Err(invalid(format!("start_lsn {} is not the start of a record", r.start_lsn)));
    }
    check_history(&r.pg_history, r.start_lsn)?;
    let epoch = match r.source {
        TimelineSource::Vanilla if r.primary_epoch < PrimaryEpoch::FIRST => {
            return Err(invalid("primary_epoch of a vanilla timeline starts at 1"));
        }
        TimelineSource::Vanilla if !r.primary_epoch.may_follow(PrimaryEpoch::FIRST) => {
            let (epoch, max) = (r.primary_epoch, PrimaryEpoch::JUMP_MAX);
            return Err(invalid(format!("primary_epoch {epoch} lies more than {max} above the first one")));
        }
        TimelineSource::Vanilla => r.primary_epoch,
        // Such proposers do not name an epoch.
        TimelineSource::Walproposer => PrimaryEpoch(0),
    };
    if prehistory.len() as u64 != r.prehistory_len {
        return Err(invalid(format!("prehistory_len says {}, {} bytes came", r.prehistory_len, prehistory.len())));
    }
    let mut state = ControlState::created(
        ttid,
        r.source,
        r.system_id,
        r.pg_version_num,
        r.wal_seg_size,
        r.mconf,
        epoch,
        r.pg_history,
        r.start_lsn,
    );
    state.standing.incarnation = new_incarnation();
    let prehistory = check_bytes(&state, r.start_lsn, prehistory)?;
    Ok(CreationPlan { state, prehistory })
}

/// Checks the greeting of a foreign walproposer whose timeline is not there.
pub(super) fn plan_implicit(greeting: &ProposerGreeting) -> Result<CreationPlan, CreateError> {
    let g = greeting;
    if g.mconf.generation != Generation::NONE {
        return Err(invalid("a timeline with a member set is created explicitly, never by a greeting"));
    }
    if g.pg_version_num != 0 && PgMajor::from_version_num(g.pg_version_num).is_none() {
        return Err(invalid(format!("PostgreSQL version {} is not supported", g.pg_version_num)));
    }
    let mut state = ControlState::implicit(g.ttid, g.system_id, g.pg_version_num, g.seg_size);
    state.standing.incarnation = new_incarnation();
    Ok(CreationPlan { state, prehistory: Bytes::new() })
}

/// Of a directory that is about to be made.
fn new_incarnation() -> Incarnation {
    Incarnation::new(fastrand::u128(1..).to_le_bytes())
}

fn check_members(node: NodeId, mconf: &MemberConf) -> Result<(), CreateError> {
    let m = mconf.clone();
    // What was read from JSON was not checked as a whole yet.
    MemberConf::new(m.generation, m.members, m.new_members).map_err(|e| invalid(format!("mconf: {e}")))?;
    if mconf.generation < Generation::FIRST {
        return Err(invalid("mconf: the generation of a created timeline is 1 or more"));
    }
    if !mconf.generation.may_follow(Generation::FIRST) {
        let max = Generation::JUMP_MAX;
        return Err(invalid(format!(
            "mconf: generation {} lies more than {max} above the first one",
            mconf.generation
        )));
    }
    if !mconf.contains(node) {
        return Err(invalid(format!("mconf: this safekeeper, {node}, is not a member")));
    }
    for m in mconf.members.iter().chain(&mconf.new_members) {
        if m.host.is_empty() || m.host.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(invalid(format!("mconf: the host of member {} is {:?}, which is no host name", m.id, m.host)));
        }
        // A member that cannot be asked could never be barred for what it forgot.
        if m.pg_port == 0 {
            return Err(invalid(format!("mconf: the pg_port of member {} is 0, where nobody can be asked", m.id)));
        }
    }
    for set in [&mconf.members, &mconf.new_members] {
        if set.len() > MEMBERS_MAX || set.iter().any(|m| m.host.len() > HOST_LEN_MAX) {
            return Err(invalid(format!(
                "mconf: at most {MEMBERS_MAX} members, host names of at most {HOST_LEN_MAX} bytes"
            )));
        }
    }
    Ok(())
}

fn check_history(history: &[PgHistoryEntry], start: Lsn) -> Result<(), CreateError> {
    if history.is_empty() || history.len() > PG_HISTORY_ENTRIES_MAX {
        return Err(invalid(format!("pg_history needs 1 to {PG_HISTORY_ENTRIES_MAX} entries, {} came", history.len())));
    }
    let rises = history.iter().zip(history.iter().skip(1)).all(|(a, b)| a.tli < b.tli && a.start_lsn <= b.start_lsn);
    if !rises || history.iter().any(|e| e.tli.0 == 0 || e.start_lsn > start) {
        return Err(invalid("pg_history must rise and end at or below start_lsn"));
    }
    Ok(())
}

/// The bytes before `start` in its segment: the primary's own, or made up for a walproposer that has none to give.
fn check_bytes(state: &ControlState, start: Lsn, prehistory: Bytes) -> Result<Bytes, CreateError> {
    let cfg = stream_config(state).ok_or_else(|| invalid("unsupported PostgreSQL version"))?;
    if prehistory.is_empty() && state.source == TimelineSource::Walproposer {
        let len = start.segment_offset(state.seg_size);
        if len > MADE_UP_MAX {
            return Err(invalid(format!(
                "start_lsn {start} lies {len} bytes behind its segment's start: more than {MADE_UP_MAX} are not made \
                 up, send them as prehistory"
            )));
        }
        let made = synthetic_prehistory(&cfg, start).map_err(|e| invalid(format!("start_lsn: {e}")))?;
        return Ok(Bytes::from(made));
    }
    check_prehistory(&cfg, start, &prehistory).map_err(|e| invalid(format!("prehistory: {e}")))?;
    Ok(prehistory)
}

/// Whether a repeated request asks for what is there.
pub(super) fn compare(plan: &CreationPlan, held: &TimelineShared) -> Result<(), CreateError> {
    let view = held.view();
    let (here, asked) = (&*view.control, &plan.state);
    let differs = |field, here: String, asked: String| {
        if here == asked { Ok(()) } else { Err(CreateError::Conflict { ttid: held.ttid, field, here, asked }) }
    };
    differs("source", format!("{:?}", here.source), format!("{:?}", asked.source))?;
    // A proposer's greeting may have told it since.
    if asked.system_id != SystemId(0) {
        differs("system_id", here.system_id.to_string(), asked.system_id.to_string())?;
    }
    let major = |s: &ControlState| (s.pg_version_num / 10_000).to_string();
    differs("PostgreSQL major", major(here), major(asked))?;
    differs("wal_seg_size", here.seg_size.bytes().to_string(), asked.seg_size.bytes().to_string())?;
    let start = |s: &ControlState| proto::api::shown(s.timeline_start_lsn).to_string();
    differs("start_lsn", start(here), start(asked))?;
    let members = |s: &ControlState| {
        let show = |m: &proto::consensus::Member| format!("{}@{}:{}", m.id, m.host, m.pg_port);
        let list: Vec<String> = s.mconf.members.iter().chain(&s.mconf.new_members).map(show).collect();
        format!("generation {} {list:?}", s.mconf.generation)
    };
    differs("mconf", members(here), members(asked))?;
    // The epoch and PostgreSQL's history grow after creation; an older request asks for their beginning.
    if asked.primary_epoch > here.primary_epoch {
        differs("primary_epoch", here.primary_epoch.to_string(), asked.primary_epoch.to_string())?;
    }
    if !here.pg_history.starts_with(&asked.pg_history) {
        differs("pg_history", format!("{:?}", here.pg_history), format!("{:?}", asked.pg_history))?;
    }
    compare_prehistory(plan, held)
}

fn compare_prehistory(plan: &CreationPlan, held: &TimelineShared) -> Result<(), CreateError> {
    let Some(start) = plan.state.timeline_start_lsn.filter(|_| !plan.prehistory.is_empty()) else { return Ok(()) };
    let ttid = held.ttid;
    let io = |e: std::io::Error| CreateError::Io { ttid, source: e };
    let first = start.segment_start(plan.state.seg_size);
    let segments = held.view().segments;
    let file = segments.open_for_reading(first).map_err(|e| io(std::io::Error::other(e)))?;
    let file = file.ok_or_else(|| io(std::io::Error::from(std::io::ErrorKind::NotFound)))?;
    let mut bytes = vec![0; plan.prehistory.len()];
    let read = file.read_at(0, &mut bytes).map_err(io)?;
    if read == bytes.len() && bytes == plan.prehistory {
        return Ok(());
    }
    let at = bytes.iter().zip(&plan.prehistory).take_while(|(a, b)| a == b).count() as u64;
    Err(CreateError::Conflict {
        ttid,
        field: "prehistory",
        here: format!("other bytes from {} on", first.add(at)),
        asked: "the primary's bytes".to_owned(),
    })
}
