//! Judging rounds of answers, without a network.

use pgformat::{Lsn, SegSize, Tli};
use proto::api::{PgHistoryEntry, SafekeeperTimelineStatus};
use proto::consensus::{AcceptorGreeting, Member, TermLsn};
use proto::id::{Generation, PrimaryEpoch, SystemId};
use proto::pg::SqlError;

use super::*;
use crate::testing::config;

fn mconf(ids: &[u64]) -> MemberConf {
    let members = ids.iter().map(|id| Member { id: NodeId(*id), host: String::new(), pg_port: 0 }).collect();
    MemberConf::new(Generation::FIRST, members, Vec::new()).expect("a valid set")
}

fn account(node: u64, history: &[(u64, u64)], flush: u64, commit: u64) -> Account {
    let term_history: Vec<TermLsn> =
        history.iter().map(|(t, l)| TermLsn { term: Term(*t), lsn: Lsn::new(*l) }).collect();
    let term = term_history.last().map_or(Term::ZERO, |e| e.term);
    let ttid = config(&[]).ttid;
    let status = SafekeeperTimelineStatus {
        schema: proto::api::SCHEMA,
        tenant_id: ttid.tenant_id,
        timeline_id: ttid.timeline_id,
        safekeeper_id: NodeId(node),
        term,
        last_log_term: term,
        term_history,
        mconf: mconf(&[1, 2, 3]),
        source: TimelineSource::Vanilla,
        primary_epoch: PrimaryEpoch::FIRST,
        pg_history: vec![PgHistoryEntry { tli: Tli(1), start_lsn: Lsn::new(100) }],
        pg_version_num: 150_000,
        system_id: SystemId(7),
        wal_seg_size: SegSize::DEFAULT,
        timeline_start_lsn: Some(Lsn::new(100)),
        local_start_lsn: Some(Lsn::new(100)),
        flush_lsn: Some(Lsn::new(flush)),
        commit_lsn: Some(Lsn::new(commit)),
        last_record_start_lsn: Some(Lsn::new(flush - 8)),
        peer_horizon_lsn: Some(Lsn::new(100)),
        remote_consistent_lsn: None,
        wal_bytes: 0,
        streaming: false,
        pushes: Vec::new(),
        stopped: None,
        not_admitted: None,
        damaged: None,
        incarnation: None,
        starts: 0,
    };
    let greeting = AcceptorGreeting { node_id: NodeId(node), mconf: mconf(&[1, 2, 3]), term };
    Account { greeting, status }
}

fn away() -> Result<Account, NoAccount> {
    let error = Box::new(SqlError::fatal(sqlstate::ADMIN_SHUTDOWN, "going down"));
    Err(NetError::Server { peer: "sk".to_owned(), error }.into())
}

fn lost(node: u64) -> Result<Account, NoAccount> {
    Err(NoAccount::NoTimeline(NodeId(node)))
}

fn three() -> ShimConfig {
    config(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"])
}

#[test]
fn a_quorum_gives_the_most_advanced_log_and_the_committed_donor() {
    let answers =
        vec![Ok(account(1, &[(0, 100), (2, 200)], 300, 250)), Ok(account(2, &[(0, 100), (3, 200)], 240, 200)), away()];
    let survey = judge(&three(), &answers, |_| true).expect("two of three");
    assert_eq!(survey.log.end, Lsn::new(250), "term 3 is more advanced, but 250 is committed");
    assert_eq!((survey.donor, survey.log.commit), (0, Lsn::new(250)));
    assert_eq!(survey.term, Term(3));
    assert_eq!(survey.log.oldest, Lsn::new(0), "the prehistory of the first segment is held");
}

#[test]
fn too_few_answers_are_worth_another_try_and_say_who_is_missing() {
    let answers = vec![Ok(account(1, &[(0, 100)], 200, 100)), lost(2), away()];
    let Err(StopCause::Retry(why)) = judge(&three(), &answers, |_| true) else { panic!("one of three is no quorum") };
    assert!(why.contains("127.0.0.1:2") && why.contains("does not exist"), "{why}");
}

#[test]
fn lists_with_strangers_twins_or_too_few_are_refused() {
    let ok = |node| Ok(account(node, &[(0, 100)], 200, 100));
    for (answers, config, word) in [
        (vec![ok(1), ok(4), away()], three(), "not a member"),
        (vec![ok(1), ok(2), lost(9)], three(), "not a member"),
        (vec![ok(1), ok(2), lost(2)], three(), "both lead"),
        (vec![ok(1), ok(1), away()], three(), "both lead"),
        (vec![ok(1)], config(&["127.0.0.1:1"]), "cannot form a quorum"),
    ] {
        let stop = judge(&config, &answers, |_| true).expect_err("refused");
        assert_eq!(stop.exit_code(), Some(6), "{stop}");
        assert!(stop.to_string().contains(word), "{stop}");
    }
}

#[test]
fn a_stale_epoch_and_a_foreign_source_are_refused() {
    let mut epoch = account(1, &[(0, 100)], 200, 100);
    epoch.status.primary_epoch = PrimaryEpoch(2);
    let stop = judge(&three(), &vec![Ok(epoch), away(), away()], |_| true).expect_err("refused even without a quorum");
    assert!(matches!(stop, StopCause::Refused(AttachRefusal::StaleEpoch { known: 2, given: 1 })), "{stop}");
    let mut source = account(1, &[(0, 100)], 200, 100);
    source.status.source = TimelineSource::Walproposer;
    assert_eq!(judge(&three(), &vec![Ok(source), away(), away()], |_| true).expect_err("refused").exit_code(), Some(6));
}

#[test]
fn members_that_disagree_on_what_never_changes_are_corruption() {
    let mut other = account(2, &[(0, 100)], 200, 100);
    other.status.timeline_start_lsn = Some(Lsn::new(108));
    let answers = vec![Ok(account(1, &[(0, 100)], 200, 100)), Ok(other), away()];
    assert_eq!(judge(&three(), &answers, |_| true).expect_err("corrupt").exit_code(), Some(5));
}
