//! One simulated shim: the real proposer and a driver in miniature.
//!
//! An attempt is one connection to the server and one proposer. As in the real shim, the driver's part of safety is
//! here: the attach proof before the campaign and before the announcement, and the positions reported to the server.

use pgformat::{Lsn, Tli};
use proto::consensus::MemberConf;
use proto::id::{PrimaryEpoch, SystemId, TenantTimelineId, Term};
use walproposer_shim::core::{Proposer, ProposerConfig};

use super::net::ConnKey;
use super::schedule::Profile;
use super::wal::{SYSTEM_ID, seg_size};

/// A shim's process.
#[derive(Debug)]
pub(crate) struct Shim {
    pub(crate) attempt: Option<Attempt>,
    /// Numbers the attempts: what was meant for an earlier one is dropped.
    pub(crate) attempts: u64,
    /// The highest term used or seen.
    pub(crate) min_term: Term,
    /// Which server it streams from; a compute gets its own with each election.
    pub(crate) server: Option<usize>,
    /// How far its clock is ahead, milliseconds.
    pub(crate) clock_ahead_ms: u64,
    /// Stopped for good.
    pub(crate) retired: bool,
}

/// One attempt to lead.
#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) proposer: Proposer,
    pub(crate) conns: Vec<Option<ConnKey>>,
    pub(crate) epoch: PrimaryEpoch,
    /// The server whose WAL it streams.
    pub(crate) server: Option<usize>,
    /// Received or proved in this session.
    pub(crate) received: Option<Lsn>,
    pub(crate) reported: Option<Lsn>,
    pub(crate) tick_due: Option<u64>,
}

pub(crate) fn config(
    ttid: TenantTimelineId,
    mconf: &MemberConf,
    profile: &Profile,
    min_term: Term,
    start: Lsn,
) -> ProposerConfig {
    ProposerConfig {
        ttid,
        mconf: if profile.foreign { MemberConf::none() } else { mconf.clone() },
        addresses: profile.nodes().len(),
        pg_version_num: 150_004,
        system_id: SystemId(SYSTEM_ID),
        seg_size: seg_size(),
        tli: Tli(1),
        min_term,
        start_lsn: profile.foreign.then_some(start),
        heartbeat_ms: 60,
        commit_lag_ms: ProposerConfig::COMMIT_LAG_MS,
        silence_ms: 400,
        reconnect_ms: profile.reconnect_ms,
        window: profile.window,
    }
}
