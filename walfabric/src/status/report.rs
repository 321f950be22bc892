//! What `walfabric status` shows: one row for each node and timeline, as JSON and in words. Plain data.

use std::fmt::Write;

use proto::Lsn;
use proto::api::{
    PageserverTimelineState, PageserverTimelineStatus, SafekeeperTimelineStatus, ShimSafekeeperStatus, ShimStatus,
    shown,
};
use proto::id::{NodeId, TenantId, Term, TimelineId};
use serde::Serialize;

/// `status --json`, schema 1: fields may be added, never renamed.
#[derive(Clone, Debug, Serialize)]
pub struct FabricStatus {
    /// Version of this form, always 1.
    pub schema: u32,
    /// Every node that is known, also before there is a timeline.
    pub nodes: Vec<NodeRow>,
    /// One entry per timeline.
    pub timelines: Vec<TimelineStatus>,
}

/// A node of the fabric, whatever it serves.
#[derive(Clone, Debug, Serialize)]
pub struct NodeRow {
    /// safekeeper or pageserver.
    pub kind: &'static str,
    /// Number of the node among its kind.
    pub id: NodeId,
    /// Address of its HTTP port; empty when its lease has ended.
    pub http: String,
    /// Whether it answered now.
    pub alive: bool,
}

/// One timeline over all nodes.
#[derive(Clone, Debug, Serialize)]
pub struct TimelineStatus {
    /// Tenant that the timeline belongs to.
    pub tenant_id: TenantId,
    /// Id of the timeline.
    pub timeline_id: TimelineId,
    /// Every configured safekeeper, by id.
    pub safekeepers: Vec<SafekeeperRow>,
    /// Every configured pageserver, by id.
    pub pageservers: Vec<PageserverRow>,
    /// The timeline's shim, as it says itself.
    pub shim: ShimRow,
    /// What is not as it should be, each in its own words; empty: all is.
    pub reasons: Vec<String>,
}

/// A safekeeper; positions are 0/0 when unknown.
#[derive(Clone, Debug, Serialize)]
pub struct SafekeeperRow {
    /// Number of the node among its kind.
    pub id: NodeId,
    /// Whether it answered now.
    pub alive: bool,
    /// Highest term that it knows.
    pub term: Term,
    /// Term that wrote the end of its log.
    pub last_log_term: Term,
    /// End of the log that is durable there.
    pub flush_lsn: Lsn,
    /// Durable on a quorum, as known there.
    pub commit_lsn: Lsn,
    /// In object storage.
    pub remote_consistent_lsn: Lsn,
    /// Bytes of WAL files held.
    pub wal_bytes: u64,
    /// Whether it has the timeline.
    pub holds: bool,
    /// Whether a proposer streams to it.
    pub streaming: bool,
    /// Why it accepts no WAL, when so.
    pub stopped: Option<String>,
    /// Why it takes no part, though it answers: it forgot what it promised, or does not have the timeline.
    pub problem: Option<String>,
    /// Where WAL held there does not read back, when that was found out.
    pub damaged: Option<String>,
}

/// A pageserver and its choice.
#[derive(Clone, Debug, Serialize)]
pub struct PageserverRow {
    /// Number of the node among its kind.
    pub id: NodeId,
    /// Whether it answered now.
    pub alive: bool,
    /// Whom it chose.
    pub safekeeper_id: Option<NodeId>,
    /// Why it chose that one, as a keyword.
    pub reason: Option<String>,
    /// Counts its choices.
    pub choice_seq: u64,
    /// When, RFC 3339.
    pub chosen_at: Option<String>,
    /// End of the last record ingested.
    pub last_record_lsn: Lsn,
    /// Durable on its disk.
    pub disk_consistent_lsn: Lsn,
    /// In object storage.
    pub remote_consistent_lsn: Lsn,
    /// Behind the highest commit position that anybody told, in bytes; none when it is unknown.
    pub lag_bytes: Option<u64>,
    /// For how long nobody confirmed the commit position that the pageserver knows, in milliseconds.
    pub commit_age_ms: Option<u64>,
    /// Whether it has the timeline.
    pub holds: bool,
    /// What it does about the timeline, unknown when it does not answer.
    pub state: PageserverTimelineState,
    /// Why it does not follow, each to be read behind "the timeline".
    pub reasons: Vec<String>,
}

/// The timeline's shim, as it says itself.
#[derive(Clone, Debug, Serialize)]
pub struct ShimRow {
    /// Whether it answered now.
    pub alive: bool,
    /// Its state, `down` when it does not answer.
    pub state: String,
    /// Term won last.
    pub term: Term,
    /// Reported to PostgreSQL.
    pub reported_lsn: Lsn,
    /// Whether synchronous commits wait for the quorum.
    pub protected: bool,
    /// Why commits are not protected.
    pub reasons: Vec<String>,
    /// The safekeepers as it sees them.
    pub safekeepers: Vec<SeenSafekeeperRow>,
}

/// A safekeeper as the shim sees it.
#[derive(Clone, Debug, Serialize)]
pub struct SeenSafekeeperRow {
    /// Its number, 0 until it greeted.
    pub id: NodeId,
    /// The address that is dialled.
    pub address: String,
    /// What the shim does with it.
    pub state: String,
    /// Up to here it has acknowledged WAL as durable.
    pub flush_lsn: Lsn,
    /// Why no WAL flows to it, while none does and a reason is known.
    pub problem: Option<String>,
}

fn seen_row(s: &ShimSafekeeperStatus) -> SeenSafekeeperRow {
    let (address, state, problem) = (s.address.clone(), s.state.to_string(), s.problem.clone());
    SeenSafekeeperRow { id: s.id, address, state, flush_lsn: shown(s.flush_lsn), problem }
}

pub(super) fn safekeeper_row(id: NodeId, alive: bool, held: Option<&SafekeeperTimelineStatus>) -> SafekeeperRow {
    SafekeeperRow {
        id,
        alive,
        term: held.map_or(Term::ZERO, |s| s.term),
        last_log_term: held.map_or(Term::ZERO, |s| s.last_log_term),
        flush_lsn: shown(held.and_then(|s| s.flush_lsn)),
        commit_lsn: shown(held.and_then(|s| s.commit_lsn)),
        remote_consistent_lsn: shown(held.and_then(|s| s.remote_consistent_lsn)),
        wal_bytes: held.map_or(0, |s| s.wal_bytes),
        holds: held.is_some(),
        streaming: held.is_some_and(|s| s.streaming),
        stopped: held.and_then(|s| s.stopped.clone()),
        problem: match held {
            Some(held) => held.not_admitted.clone(),
            None => alive.then(|| "it does not have the timeline".to_owned()),
        },
        damaged: held.and_then(|s| s.damaged.clone()),
    }
}

pub(super) fn pageserver_row(held: &PageserverTimelineStatus, commit: Option<Lsn>) -> PageserverRow {
    let choice = held.choice.as_ref();
    PageserverRow {
        id: held.pageserver_id,
        alive: true,
        safekeeper_id: choice.map(|c| c.safekeeper_id),
        reason: choice.map(|c| c.reason.clone()),
        choice_seq: choice.map_or(0, |c| c.choice_seq),
        chosen_at: choice.map(|c| c.chosen_at.clone()),
        last_record_lsn: shown(held.last_record_lsn),
        disk_consistent_lsn: shown(held.disk_consistent_lsn),
        remote_consistent_lsn: shown(held.remote_consistent_lsn),
        lag_bytes: commit.map(|commit| commit.bytes_since(shown(held.last_record_lsn))).or(held.lag_bytes),
        commit_age_ms: held.commit_age_ms,
        holds: true,
        state: held.state,
        reasons: held.reasons.clone(),
    }
}

pub(super) fn shim_row(status: Option<&ShimStatus>) -> ShimRow {
    match status {
        Some(s) => ShimRow {
            alive: true,
            state: s.state.to_string(),
            term: s.term,
            reported_lsn: shown(s.reported_lsn),
            protected: s.protected,
            reasons: s.reasons.clone(),
            safekeepers: s.safekeepers.iter().map(seen_row).collect(),
        },
        None => ShimRow {
            alive: false,
            state: "down".to_owned(),
            term: Term::ZERO,
            reported_lsn: Lsn::new(0),
            protected: false,
            reasons: vec!["the shim does not answer".to_owned()],
            safekeepers: Vec::new(),
        },
    }
}

impl FabricStatus {
    /// Whether anything configured is away or not as it should be.
    pub fn degraded(&self) -> bool {
        self.timelines.is_empty() || self.timelines.iter().any(|t| !t.reasons.is_empty())
    }

    /// The status as lines of text.
    pub fn render(&self) -> String {
        let mut out = String::new();
        if self.timelines.is_empty() {
            let _ = writeln!(out, "no timeline yet: make one with `walfabric timeline create`");
            for n in &self.nodes {
                let state = if n.alive { "alive" } else { "DOWN" };
                let _ = writeln!(out, "  {} {:<2} {state:<10} {}", n.kind, n.id, n.http);
            }
        }
        for t in &self.timelines {
            let _ = writeln!(out, "timeline {}/{}", t.tenant_id, t.timeline_id);
            let shim = &t.shim;
            let guard = if shim.protected {
                "protected".to_owned()
            } else {
                format!("NOT PROTECTED: {}", shim.reasons.join("; "))
            };
            let _ = writeln!(
                out,
                "  shim          {:<10} term {} reported {} {guard}",
                shim.state, shim.term, shim.reported_lsn
            );
            for s in &t.safekeepers {
                let state = if s.alive { "alive" } else { "DOWN" };
                let _ = writeln!(
                    out,
                    "  safekeeper {:<2} {state:<10} term {} flush {} commit {} holds {} MiB of WAL",
                    s.id,
                    s.term,
                    s.flush_lsn,
                    s.commit_lsn,
                    s.wal_bytes >> 20
                );
                if let Some(problem) = &s.problem {
                    let _ = writeln!(out, "      takes no part: {problem}");
                }
            }
            for p in &t.pageservers {
                let state = if p.alive { "alive" } else { "DOWN" };
                let lag = p.lag_bytes.map_or_else(|| unknown_lag(p), |lag| format!("{lag} B"));
                let chosen = p.safekeeper_id.map_or("none".to_owned(), |id| format!("safekeeper {id}"));
                let why = p.reason.as_deref().unwrap_or("-");
                let at = p.chosen_at.as_deref().unwrap_or("-");
                let _ = writeln!(
                    out,
                    "  pageserver {:<2} {state:<10} fed by {chosen} (choice {}, {why}, {at}) last record {} disk {} \
                     lag {lag}",
                    p.id, p.choice_seq, p.last_record_lsn, p.disk_consistent_lsn
                );
            }
            for why in &t.reasons {
                let _ = writeln!(out, "  ! {why}");
            }
        }
        out
    }
}

fn unknown_lag(p: &PageserverRow) -> String {
    p.commit_age_ms.map_or("unknown".to_owned(), |age| format!("unknown for {} s", age / 1000))
}
