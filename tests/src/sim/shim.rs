//! One simulated shim: the real course of a session with its proposer and its ring, and a driver in miniature.
//!
//! An attempt is one connection to the server and one session. The attach proof is simulated: the driver compares the
//! server's WAL with the log, before the campaign and before the announcement.

use pgformat::{Lsn, Tli};
use proto::consensus::MemberConf;
use proto::id::{PrimaryEpoch, SystemId, TenantTimelineId, Term};
use walproposer_shim::core::{PeerId, Proposer, ProposerConfig};
use walproposer_shim::session::course::{ReportedPositions, SessionCourse};
use walproposer_shim::session::ring::Ring;

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
    pub(crate) course: SessionCourse,
    /// The newest WAL of the server, once the election is announced.
    pub(crate) ring: Option<Ring>,
    /// The ring had no room for more.
    pub(crate) starved: bool,
    /// How often each node failed as a donor.
    pub(crate) donor_failures: Vec<u32>,
    pub(crate) conns: Vec<Option<ConnKey>>,
    pub(crate) epoch: PrimaryEpoch,
    /// The server whose WAL it streams.
    pub(crate) server: Option<usize>,
    /// What the server was told.
    pub(crate) told: ReportedPositions,
    pub(crate) tick_due: Option<u64>,
}

impl Attempt {
    pub(crate) fn proposer(&self) -> &Proposer {
        self.course.core()
    }

    /// Received or proved in this session.
    pub(crate) fn received(&self) -> Option<Lsn> {
        self.ring.as_ref().map(Ring::end)
    }

    /// The place of a donor in the order of trying.
    pub(crate) fn rank(&self, donor: PeerId) -> Option<u32> {
        self.donor_failures.get(donor.0).copied()
    }
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
