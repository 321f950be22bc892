//! Whether what a status shows is as it should be, and in words what is not. Pure.
//!
//! One sentence for each thing that users rely on and that does not work now: `--check` gives 3 when there is any.

use std::collections::BTreeSet;

use proto::id::NodeId;

use super::report::{PageserverRow, SafekeeperRow, TimelineStatus};

/// Why the timeline is not as it should be; empty: it is. `members` are the safekeepers of its member set, `hosts` the
/// pageservers that are to have it; empty where nobody knows.
pub(super) fn judge(t: &TimelineStatus, members: &BTreeSet<NodeId>, hosts: &BTreeSet<NodeId>) -> Vec<String> {
    let mut reasons = Vec::new();
    if t.shim.alive {
        reasons.extend(t.shim.reasons.iter().map(|why| format!("shim: {why}")));
    } else {
        reasons.push("the shim does not answer: nobody commits through the quorum".to_owned());
    }
    let is_member = |id: &NodeId| members.is_empty() || members.contains(id);
    reasons.extend(t.safekeepers.iter().filter(|s| is_member(&s.id)).filter_map(|s| safekeeper(s, t)));
    let listed = |id: &NodeId| t.safekeepers.iter().any(|s| s.id == *id);
    reasons
        .extend(members.iter().filter(|id| !listed(id)).map(|id| format!("safekeeper {id} is a member, and unknown")));
    let following = t.safekeepers.iter().filter(|s| is_member(&s.id) && s.holds && s.stopped.is_none()).count();
    let all = if members.is_empty() { t.safekeepers.len() } else { members.len() };
    if following <= all / 2 {
        reasons.push(format!("no quorum: {following} of {all} safekeepers can take WAL, commits wait"));
    }
    let is_host = |p: &&PageserverRow| p.holds || hosts.is_empty() || hosts.contains(&p.id);
    for p in t.pageservers.iter().filter(is_host) {
        pageserver(p, &mut reasons);
    }
    if !t.pageservers.is_empty() && !t.pageservers.iter().any(|p| p.alive && p.holds) {
        reasons.push("no pageserver that answers has the timeline".to_owned());
    }
    reasons
}

fn safekeeper(s: &SafekeeperRow, t: &TimelineStatus) -> Option<String> {
    let id = s.id;
    if !s.alive {
        return Some(format!("safekeeper {id} does not answer"));
    }
    if !s.holds {
        return Some(format!(
            "safekeeper {id} answers, but does not have the timeline (term 0, flush 0/0): its directory was lost or \
             replaced, or the timeline was never created there"
        ));
    }
    if let Some(why) = &s.stopped {
        return Some(format!("safekeeper {id} accepts no WAL: {why}"));
    }
    if let Some(problem) = &s.problem {
        return Some(format!("safekeeper {id} takes no part: {problem}"));
    }
    if let Some(damage) = &s.damaged {
        return Some(format!("safekeeper {id} holds WAL that is damaged {damage}"));
    }
    if t.shim.alive && !s.streaming {
        let seen = t.shim.safekeepers.iter().find(|row| row.id == id);
        let why = seen.and_then(|row| row.problem.clone()).map(|p| format!(": {p}")).unwrap_or_default();
        return Some(format!("safekeeper {id} is not streamed to (flush {}){why}", s.flush_lsn));
    }
    None
}

fn pageserver(p: &PageserverRow, reasons: &mut Vec<String>) {
    let id = p.id;
    if !p.alive {
        reasons.push(format!("pageserver {id} does not answer"));
    } else if !p.holds {
        reasons.push(format!("pageserver {id} answers, but does not have the timeline"));
    } else {
        reasons.extend(p.reasons.iter().map(|why| format!("pageserver {id}: the timeline {why}")));
        if p.lag_bytes.is_none() {
            reasons.push(format!("pageserver {id}: its lag is unknown, nobody tells the commit position"));
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::Lsn;
    use proto::api::PageserverTimelineState;
    use proto::id::{TenantId, Term, TimelineId};

    use super::super::report::{SeenSafekeeperRow, ShimRow};
    use super::*;

    fn sound() -> TimelineStatus {
        let at = Lsn::new(64);
        let safekeeper = |id| SafekeeperRow {
            id: NodeId(id),
            alive: true,
            term: Term(3),
            last_log_term: Term(3),
            flush_lsn: at,
            commit_lsn: at,
            remote_consistent_lsn: at,
            wal_bytes: 1,
            holds: true,
            streaming: true,
            stopped: None,
            problem: None,
            damaged: None,
        };
        let seen = |id| SeenSafekeeperRow {
            id: NodeId(id),
            address: format!("127.0.0.1:{id}"),
            state: "active".to_owned(),
            flush_lsn: at,
            problem: None,
        };
        TimelineStatus {
            tenant_id: TenantId::new([1; 16]),
            timeline_id: TimelineId::new([2; 16]),
            safekeepers: (1..=3).map(safekeeper).collect(),
            pageservers: vec![PageserverRow {
                id: NodeId(1),
                alive: true,
                safekeeper_id: Some(NodeId(1)),
                reason: Some("no_existing_connection".to_owned()),
                choice_seq: 1,
                chosen_at: None,
                last_record_lsn: at,
                disk_consistent_lsn: at,
                remote_consistent_lsn: at,
                lag_bytes: Some(0),
                commit_age_ms: Some(0),
                holds: true,
                state: PageserverTimelineState::Pushed,
                reasons: Vec::new(),
            }],
            shim: ShimRow {
                alive: true,
                state: "streaming".to_owned(),
                term: Term(3),
                reported_lsn: at,
                protected: true,
                reasons: Vec::new(),
                safekeepers: (1..=3).map(seen).collect(),
            },
            reasons: Vec::new(),
        }
    }

    fn reasons(change: impl FnOnce(&mut TimelineStatus)) -> Vec<String> {
        let mut t = sound();
        change(&mut t);
        let members = (1..=3).map(NodeId).collect();
        judge(&t, &members, &BTreeSet::from([NodeId(1)]))
    }

    #[test]
    fn a_sound_timeline_has_no_reasons() {
        assert_eq!(reasons(|_| {}), Vec::<String>::new());
        assert_eq!(judge(&sound(), &BTreeSet::new(), &BTreeSet::new()), Vec::<String>::new());
    }

    #[test]
    fn everything_that_does_not_work_has_its_own_words() {
        let check = |word: &str, change: fn(&mut TimelineStatus)| {
            let found = reasons(change);
            assert!(found.len() == 1 && found[0].contains(word), "{word}: {found:?}");
        };
        check("shim does not answer", |t| t.shim.alive = false);
        check("shim: not checked for 9 s", |t| t.shim.reasons.push("not checked for 9 s".to_owned()));
        check("safekeeper 2 does not answer", |t| (t.safekeepers[1].alive, t.safekeepers[1].holds) = (false, false));
        check("safekeeper 2 answers, but does not have", |t| t.safekeepers[1].holds = false);
        check("safekeeper 3 accepts no WAL: disk full", |t| t.safekeepers[2].stopped = Some("disk full".to_owned()));
        check("safekeeper 3 takes no part: it forgot", |t| {
            t.safekeepers[2].problem = Some("it forgot what it promised".to_owned());
        });
        check("safekeeper 1 holds WAL that is damaged at 0/8: a bit", |t| {
            t.safekeepers[0].damaged = Some("at 0/8: a bit".to_owned());
        });
        check("safekeeper 3 is not streamed to (flush 0/40): the log", |t| {
            t.safekeepers[2].streaming = false;
            t.shim.safekeepers[2].problem = Some("the log differs".to_owned());
        });
        check("safekeeper 3 is a member, and unknown", |t| drop(t.safekeepers.pop()));
        check("the timeline stands still at", |t| t.pageservers[0].reasons.push("stands still at 0/8".to_owned()));
        check("lag is unknown", |t| t.pageservers[0].lag_bytes = None);
    }

    #[test]
    fn two_of_three_that_take_no_wal_are_no_quorum() {
        let found =
            reasons(|t| t.safekeepers.iter_mut().take(2).for_each(|s| s.stopped = Some("disk full".to_owned())));
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[2], "no quorum: 1 of 3 safekeepers can take WAL, commits wait");
    }

    #[test]
    fn a_pageserver_that_is_away_or_empty_shows_and_one_that_has_nothing_to_do_with_it_does_not() {
        let found = reasons(|t| (t.pageservers[0].alive, t.pageservers[0].holds) = (false, false));
        assert_eq!(found, ["pageserver 1 does not answer", "no pageserver that answers has the timeline"]);
        let found = reasons(|t| t.pageservers[0].holds = false);
        assert!(found[0].contains("does not have the timeline"), "{found:?}");
        let found = reasons(|t| {
            let mut other = t.pageservers[0].clone();
            (other.id, other.holds, other.lag_bytes) = (NodeId(2), false, None);
            t.pageservers.push(other);
        });
        assert_eq!(found, Vec::<String>::new());
    }
}
