//! What the members of a timeline say of its WAL, and where it ends.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use libpq::{ClientConnection, ConnectOptions};
use pgformat::wal::StreamConfig;
use pgformat::{Lsn, PgMajor};
use proto::api::{SafekeeperTimelineStatus, shown};
use proto::id::{TenantTimelineId, Term};

/// How long a member may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// A member that answered.
#[derive(Clone, Debug)]
pub(super) struct MemberAccount {
    /// Its libpq address.
    pub(super) address: String,
    pub(super) status: SafekeeperTimelineStatus,
}

impl MemberAccount {
    /// Where its log ends, as elections compare it.
    fn log_end(&self) -> (Term, Lsn) {
        (self.status.last_log_term, shown(self.status.flush_lsn))
    }
}

/// What a timeline's WAL must look like.
pub(crate) fn stream_config(s: &SafekeeperTimelineStatus) -> Result<StreamConfig> {
    let version = PgMajor::from_version_num(s.pg_version_num);
    Ok(StreamConfig {
        version: version.with_context(|| format!("PostgreSQL version {} is not supported", s.pg_version_num))?,
        seg_size: s.wal_seg_size,
        system_id: (s.system_id.0 != 0).then_some(s.system_id.0),
        tlis: s.pg_history.iter().map(|e| (e.tli, e.start_lsn)).collect(),
    })
}

/// A session with a member.
pub(super) async fn dial(address: &str, ttid: TenantTimelineId) -> Result<ClientConnection> {
    let mut options = ConnectOptions::to_address(address, "walfabric")?;
    options.application_name = "walfabric wal get".to_owned();
    options.options = vec![
        ("tenant_id".to_owned(), ttid.tenant_id.to_string()),
        ("timeline_id".to_owned(), ttid.timeline_id.to_string()),
    ];
    options.timeout = ANSWER_LIMIT;
    Ok(ClientConnection::dial(&options).await?)
}

/// Asks all members at once; who does not answer is told with why.
pub(super) async fn ask_all(addresses: &[String], ttid: TenantTimelineId) -> (Vec<MemberAccount>, Vec<String>) {
    let asking = addresses.iter().map(|address| async move {
        let asked = tokio::time::timeout(ANSWER_LIMIT, ask(address, ttid)).await;
        asked.unwrap_or_else(|_| bail!("no answer within {ANSWER_LIMIT:?}")).map_err(|e| format!("{address}: {e:#}"))
    });
    let (mut members, mut silent) = (Vec::new(), Vec::new());
    for answer in futures::future::join_all(asking).await {
        match answer {
            Ok(member) => members.push(member),
            Err(problem) => silent.push(problem),
        }
    }
    (members, silent)
}

async fn ask(address: &str, ttid: TenantTimelineId) -> Result<MemberAccount> {
    let mut session = dial(address, ttid).await?;
    let results = session.simple_query("SHOW TIMELINE").await?;
    let text = results.first().and_then(|r| r.rows.first()?.first()?.as_deref()).context("it shows nothing")?;
    let status = serde_json::from_str(text).context("what it shows is not a timeline's status")?;
    Ok(MemberAccount { address: address.to_owned(), status })
}

/// Refuses members of different clusters.
pub(super) fn check_same(members: &[MemberAccount]) -> Result<()> {
    let Some(first) = members.first() else { return Ok(()) };
    for m in members {
        let (a, b) = (&first.status, &m.status);
        let known = a.system_id.0 != 0 && b.system_id.0 != 0;
        ensure!(
            a.wal_seg_size == b.wal_seg_size && (!known || a.system_id == b.system_id),
            "{} and {} hold WAL of different clusters: system {} and {}, segments of {} and {} bytes",
            first.address,
            m.address,
            a.system_id,
            b.system_id,
            a.wal_seg_size.bytes(),
            b.wal_seg_size.bytes(),
        );
    }
    Ok(())
}

/// Where the timeline's WAL ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EndOfWal {
    /// A quorum answered, and a proposer streams: what it has committed.
    Committed(Lsn),
    /// A quorum answered, and nobody writes: where an election would end the log now. All that was ever acknowledged
    /// is in it; a commit position may lag behind that.
    Elected { term: Term, end: Lsn },
    /// Too few answered: at least so far.
    Unknown(Lsn),
}

/// Where the WAL ends, from what members say. A member that may have forgotten what it promised does not count. While a
/// proposer streams, that is what is committed, as it tells the members within its heartbeat.
pub(super) fn end_of(members: &[MemberAccount]) -> EndOfWal {
    let commit = shown(members.iter().filter_map(|m| m.status.commit_lsn).max());
    let Some(newest) = members.iter().max_by_key(|m| m.status.mconf.generation) else {
        return EndOfWal::Unknown(commit);
    };
    let counted: Vec<&MemberAccount> = members.iter().filter(|m| m.status.not_admitted.is_none()).collect();
    let quorum = newest.status.mconf.is_quorum(|id| counted.iter().any(|m| m.status.safekeeper_id == id));
    match counted.iter().map(|m| m.log_end()).max() {
        Some(_) if quorum && members.iter().any(|m| m.status.streaming) => EndOfWal::Committed(commit),
        Some((term, end)) if quorum => EndOfWal::Elected { term, end },
        _ => EndOfWal::Unknown(commit),
    }
}

/// How a member can give WAL up to `upto`: as a reader of what is committed, or, where nobody writes, of the end an
/// election would choose (with its present term). `None`: it does not have it.
pub(super) fn way_to(member: &MemberAccount, upto: Lsn, end: EndOfWal) -> Option<Option<Term>> {
    let s = &member.status;
    if s.commit_lsn >= Some(upto) {
        return Some(None);
    }
    match end {
        EndOfWal::Elected { term, .. } if s.last_log_term == term && s.flush_lsn >= Some(upto) => Some(Some(s.term)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proto::id::NodeId;

    use super::*;

    /// A member of three that says this.
    fn member(id: u64, last_log_term: u64, flush: &str, commit: &str, streaming: bool) -> MemberAccount {
        let ids = "0123456789abcdef0123456789abcdef";
        let members: Vec<_> = (1..=3).map(|id| serde_json::json!({"id": id, "host": "h", "pg_port": 1})).collect();
        let status = serde_json::json!({
            "tenant_id": ids, "timeline_id": ids, "safekeeper_id": id, "term": last_log_term + 1,
            "last_log_term": last_log_term, "term_history": [],
            "mconf": {"generation": 1, "members": members, "new_members": []},
            "source": "vanilla", "primary_epoch": 1, "pg_history": [{"tli": 1, "start_lsn": "0/0"}],
            "pg_version_num": 150_004, "system_id": 7, "wal_seg_size": 1 << 24, "timeline_start_lsn": "0/1000028",
            "local_start_lsn": "0/1000028", "flush_lsn": flush, "commit_lsn": commit,
            "last_record_start_lsn": "0/0", "peer_horizon_lsn": "0/0", "remote_consistent_lsn": "0/0",
            "wal_bytes": 0, "streaming": streaming, "pushes": [], "stopped": null
        });
        MemberAccount { address: format!("sk{id}"), status: serde_json::from_value(status).expect("a status") }
    }

    const COMMITTED: Lsn = Lsn::new(0x200_0000);
    const FLUSHED: Lsn = Lsn::new(0x200_1000);

    #[test]
    fn the_end_is_that_of_an_election_when_nobody_writes() {
        let behind = member(1, 2, "0/2000000", "0/2000000", false);
        let silent = [behind, member(2, 2, "0/2001000", "0/2000000", false)];
        let end = end_of(&silent);
        assert_eq!(end, EndOfWal::Elected { term: Term(2), end: FLUSHED });
        assert_eq!(way_to(&silent[0], FLUSHED, end), None, "it does not have the end");
        assert_eq!(way_to(&silent[1], FLUSHED, end), Some(Some(Term(3))), "not told yet that it is committed");
        assert_eq!(way_to(&silent[0], COMMITTED, end), Some(None));
        let other_log = member(3, 1, "0/3000000", "0/2000000", false);
        assert_eq!(
            end_of(&[silent[0].clone(), other_log.clone()]),
            EndOfWal::Elected { term: Term(2), end: COMMITTED }
        );
        assert_eq!(way_to(&other_log, FLUSHED, end), None, "longer, and of an older term");
    }

    #[test]
    fn without_a_quorum_the_end_is_not_known() {
        let one = member(1, 2, "0/2001000", "0/2000000", true);
        assert_eq!(end_of(std::slice::from_ref(&one)), EndOfWal::Unknown(COMMITTED));
        let mut barred = member(2, 2, "0/2001000", "0/2000000", false);
        barred.status.not_admitted = Some("it may have forgotten".to_owned());
        assert_eq!(end_of(&[one.clone(), barred]), EndOfWal::Unknown(COMMITTED));
        let writing = [one, member(2, 2, "0/2000000", "0/2000000", true)];
        assert_eq!(end_of(&writing), EndOfWal::Committed(COMMITTED));
    }

    #[test]
    fn members_of_two_clusters_are_refused() {
        let mut other = member(2, 2, "0/2000000", "0/2000000", false);
        other.status.system_id.0 = 8;
        other.status.safekeeper_id = NodeId(2);
        let e = check_same(&[member(1, 2, "0/2000000", "0/2000000", false), other]).expect_err("two clusters");
        assert!(e.to_string().contains("different clusters"), "{e}");
    }
}
