//! What the safekeepers say before anybody is asked for a vote: member set, positions, identity.
//!
//! Asking changes nothing at the safekeepers, so that a shim whose primary is refused never disturbs a healthy leader.
//! [`judge`] is pure: it turns the answers into a [`Survey`], a refusal, or "not enough of them yet".

use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use libpq::NetError;
use proto::api::{TimelineSource, shown};
use proto::consensus::{LogPosition, MemberConf, TermHistory};
use proto::id::{NodeId, Term};
use proto::pg::sqlstate;
use tokio::time::{Instant, sleep_until};

use crate::attach::proof::plan::LogView;
use crate::config::ShimConfig;
use crate::dial::safekeeper::{self, Account, NoAccount};
use crate::stop::{AttachRefusal, StopCause};

/// The answers of one round, by address.
pub(crate) type Answers = Vec<Result<Account, NoAccount>>;

/// What a quorum says.
#[derive(Clone, Debug)]
pub(crate) struct Survey {
    /// The member set.
    pub(crate) mconf: MemberConf,
    /// The quorum's log, for the proof.
    pub(crate) log: LogView,
    /// Index of the address that holds all that is committed.
    pub(crate) donor: usize,
    /// Highest term heard of.
    pub(crate) term: Term,
}

/// When enough have answered, the rest are waited for so long: a safekeeper that hangs must not hold up an attach.
const GRACE: Duration = Duration::from_millis(300);

/// Asks everybody at once.
pub(crate) async fn ask(config: &ShimConfig) -> Answers {
    let count = config.safekeepers.len();
    let question = async |(i, address)| (i, safekeeper::account(config, address).await);
    let mut asked: FuturesUnordered<_> = config.safekeepers.iter().enumerate().map(question).collect();
    let mut answers: Vec<_> = (0..count).map(|_| None).collect();
    let (mut good, mut deadline) = (0, None);
    loop {
        let grace = async {
            match deadline {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let answer = tokio::select! {
            answer = asked.next() => answer,
            () = grace => None,
        };
        let Some((i, answer)) = answer else { break };
        good += usize::from(answer.is_ok());
        if good > count / 2 && deadline.is_none() {
            deadline = Some(Instant::now() + GRACE);
        }
        if let Some(slot) = answers.get_mut(i) {
            *slot = Some(answer);
        }
    }
    drop(asked);
    let late = |address| NetError::Timeout {
        peer: safekeeper::shown(address),
        what: "its account of the timeline, when others had given theirs,",
        limit: GRACE,
    };
    let or_late = |(answer, address): (Option<_>, _)| answer.unwrap_or_else(|| Err(late(address).into()));
    answers.into_iter().zip(&config.safekeepers).map(or_late).collect()
}

/// Judges a round of answers. `usable`: whose WAL may be compared with, of the addresses; others only when nobody else
/// is there.
pub(crate) fn judge(
    config: &ShimConfig,
    answers: &Answers,
    usable: impl Fn(usize) -> bool,
) -> Result<Survey, StopCause> {
    refused(config, answers)?;
    let accounts = || answers.iter().enumerate().filter_map(|(i, a)| Some((i, a.as_ref().ok()?)));
    let newest = accounts().max_by_key(|(_, a)| a.greeting.mconf.generation);
    let Some((_, newest)) = newest else { return Err(StopCause::Retry(not_enough(config, answers, None))) };
    let mconf = newest.greeting.mconf.clone();
    check_members(config, answers, &mconf)?;
    let nodes: Vec<Option<NodeId>> = answers.iter().map(|a| Some(a.as_ref().ok()?.greeting.node_id)).collect();
    if !mconf.is_quorum(|node| nodes.contains(&Some(node))) {
        return Err(StopCause::Retry(not_enough(config, answers, Some(&mconf))));
    }
    check_agreement(answers)?;
    // At another generation its log does not count; it will learn the set from the proposer.
    let member = |a: &Account| mconf.contains(a.greeting.node_id);
    let best = accounts().filter(|(_, a)| member(a)).max_by_key(|(_, a)| position(a));
    let donor = accounts().filter(|(_, a)| member(a)).max_by_key(|(i, a)| (usable(*i), a.status.commit_lsn));
    let (Some((_, best)), Some((donor, holder))) = (best, donor) else {
        return Err(StopCause::Retry(not_enough(config, answers, Some(&mconf))));
    };
    let (b, h) = (&best.status, &holder.status);
    let (begin, whole) = (shown(h.timeline_start_lsn), h.local_start_lsn <= h.timeline_start_lsn);
    let log = LogView {
        system_id: b.system_id,
        version_num: b.pg_version_num,
        seg_size: b.wal_seg_size,
        pg_history: b.pg_history.clone(),
        start: shown(b.timeline_start_lsn),
        commit: shown(h.commit_lsn),
        end: shown(b.flush_lsn.max(h.commit_lsn)),
        last_record_start: b.last_record_start_lsn,
        oldest: if whole { begin.segment_start(h.wal_seg_size) } else { shown(h.local_start_lsn) },
    };
    // One that claims an absurd term is not believed: the core closes its session.
    let lowest = accounts().map(|(_, a)| a.greeting.term).min().unwrap_or(Term::ZERO);
    let believed = accounts().map(|(_, a)| a.greeting.term).filter(|t| t.may_follow(lowest));
    let term = believed.max().unwrap_or(lowest);
    Ok(Survey { mconf, log, donor, term })
}

fn position(a: &Account) -> LogPosition {
    // A history that breaks its own rules counts as none; the core refuses it when it votes.
    let history = TermHistory::new(a.status.term_history.clone()).unwrap_or_else(|_| TermHistory::empty());
    LogPosition::of(&history, a.status.flush_lsn)
}

/// Answers that name this shim as the wrong one.
fn refused(config: &ShimConfig, answers: &Answers) -> Result<(), AttachRefusal> {
    for (address, answer) in config.safekeepers.iter().zip(answers) {
        match answer {
            Ok(a) if a.status.source != TimelineSource::Vanilla => {
                return Err(AttachRefusal::NotVanilla(format!("safekeeper {}", a.greeting.node_id)));
            }
            Ok(a) if a.status.primary_epoch > config.primary_epoch => {
                let (known, given) = (a.status.primary_epoch.0, config.primary_epoch.0);
                return Err(AttachRefusal::StaleEpoch { known, given });
            }
            Err(NoAccount::Net(e)) if e.server_error().is_some_and(|e| e.code == sqlstate::STALE_PRIMARY_EPOCH) => {
                return Err(AttachRefusal::Epoch(format!("{}: {e}", safekeeper::shown(address))));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The address list must lead to members, each once, and to enough of them.
fn check_members(config: &ShimConfig, answers: &Answers, mconf: &MemberConf) -> Result<(), AttachRefusal> {
    let mut seen: Vec<(NodeId, String)> = Vec::new();
    for (address, answer) in config.safekeepers.iter().zip(answers) {
        let node = match answer {
            Ok(account) => account.greeting.node_id,
            Err(NoAccount::NoTimeline(node)) => *node,
            Err(NoAccount::Net(_)) => continue,
        };
        let address = safekeeper::shown(address);
        if !mconf.contains(node) {
            return Err(AttachRefusal::Members(format!(
                "safekeeper {node} at {address} is not a member of the timeline"
            )));
        }
        if let Some((_, other)) = seen.iter().find(|(n, _)| *n == node) {
            return Err(AttachRefusal::Members(format!("{other} and {address} both lead to safekeeper {node}")));
        }
        seen.push((node, address));
    }
    let given = config.safekeepers.len();
    for set in [&mconf.members, &mconf.new_members] {
        if !set.is_empty() && given < set.len() / 2 + 1 {
            let members = set.len();
            return Err(AttachRefusal::Members(format!(
                "{given} safekeeper addresses cannot form a quorum of {members} members"
            )));
        }
    }
    Ok(())
}

/// What never differs between members.
fn check_agreement(answers: &Answers) -> Result<(), AttachRefusal> {
    let mut accounts = answers.iter().flatten();
    let Some(first) = accounts.next() else { return Ok(()) };
    let fixed = |a: &Account| (a.status.system_id, a.status.wal_seg_size, shown(a.status.timeline_start_lsn));
    match accounts.find(|a| fixed(a) != fixed(first)) {
        Some(other) => Err(AttachRefusal::Corrupt(format!(
            "safekeeper {} has (system, segment size, start) {:?}, safekeeper {} has {:?}",
            first.greeting.node_id,
            fixed(first),
            other.greeting.node_id,
            fixed(other)
        ))),
        None => Ok(()),
    }
}

fn not_enough(config: &ShimConfig, answers: &Answers, mconf: Option<&MemberConf>) -> String {
    let reasons = config.safekeepers.iter().zip(answers).filter_map(|(address, answer)| {
        let e = answer.as_ref().err()?;
        Some(format!("{}: {e}", safekeeper::shown(address)))
    });
    let reasons: Vec<String> = reasons.collect();
    let answered = answers.len() - reasons.len();
    let of = mconf.map_or(String::new(), |m| format!(" of {} members", m.nodes().len()));
    format!("no quorum: {answered}{of} answered ({})", reasons.join("; "))
}

#[cfg(test)]
mod tests;
