//! Everything about a timeline, as HTTP, SHOW and readiness tell it.

use std::time::{Duration, Instant};

use pgformat::Lsn;
use proto::api::{ChoiceMode, ChoiceStatus, PageserverTimelineState, PageserverTimelineStatus, SCHEMA};
use proto::id::NodeId;

use super::stream::millis;
use super::{Timeline, Trouble};
use crate::choose::{Choice, Mode};

/// A commit that was acknowledged is told to the safekeeper that feeds a pageserver, and by it, within this time.
const COMMIT_TRAVELS: Duration = Duration::from_millis(500);

impl Timeline {
    /// Everything about it, for HTTP and SHOW.
    pub(crate) fn status(&self, me: NodeId) -> PageserverTimelineStatus {
        let position = self.position();
        let trouble = self.trouble();
        let offer = self.offer();
        let running = self.stream.running();
        let state = match (&trouble.stopped, trouble.copying, running.as_ref().map(|r| r.choice.mode), &offer) {
            (Some(_), _, _, _) => PageserverTimelineState::Stopped,
            (None, true, _, _) => PageserverTimelineState::Importing,
            (None, false, Some(Mode::Push), _) => PageserverTimelineState::Pushed,
            (None, false, Some(Mode::Pull), _) => PageserverTimelineState::Pulling,
            (None, false, None, Some(_)) => PageserverTimelineState::WaitingForDial,
            (None, false, None, None) => PageserverTimelineState::Idle,
        };
        let now = Instant::now();
        let (lag_bytes, commit, age) = self.lag_and_commit(now);
        let reasons = self.reasons_of(now, &trouble);
        let choice = offer.map(|o| ChoiceStatus {
            safekeeper_id: o.choice.safekeeper,
            reason: o.choice.reason.as_str().to_owned(),
            choice_seq: o.choice.seq,
            chosen_at: o.chosen_at,
            mode: match o.choice.mode {
                Mode::Push => ChoiceMode::Push,
                Mode::Pull => ChoiceMode::Pull,
            },
        });
        // A timeline that cannot be opened stands nowhere.
        let known = |lsn: Lsn| Lsn::from_wire(lsn.get());
        PageserverTimelineStatus {
            schema: SCHEMA,
            tenant_id: self.ttid.tenant_id,
            timeline_id: self.ttid.timeline_id,
            pageserver_id: me,
            start_lsn: self.attach.as_ref().map(|a| a.start_lsn),
            last_record_lsn: known(position.last_record_lsn),
            disk_consistent_lsn: known(position.disk_consistent_lsn),
            remote_consistent_lsn: known(position.disk_consistent_lsn),
            choice,
            state,
            source_commit_lsn: commit.max(self.stream.gauge.commit_lsn()),
            commit_age_ms: age.map(millis),
            lag_bytes,
            reasons,
            stopped: trouble.stopped.or(trouble.full),
            readable_from: self.readable_from().filter(|from| *from <= position.last_record_lsn),
            import: self.import.borrow().status(),
        }
    }

    /// Bytes behind the commit position, that position, and how old it is.
    fn lag_and_commit(&self, now: Instant) -> (Option<u64>, Option<Lsn>, Option<Duration>) {
        let follow = self.follow();
        let (commit, age) = follow.commit(now).unzip();
        (follow.lag(now, self.position().last_record_lsn), commit, age)
    }

    /// Bytes behind the commit position; none when that is unknown.
    pub(crate) fn lag(&self) -> Option<u64> {
        self.lag_and_commit(Instant::now()).0
    }

    /// Whether all is here that was committed when somebody asked: a stream runs, and what it has told since then, or
    /// anybody else, lies not above what was ingested.
    pub(crate) fn has_all_since(&self, asked: Instant) -> bool {
        let now = Instant::now();
        let Some((commit, age)) = self.follow().commit(now) else { return false };
        let is_new = now.saturating_duration_since(asked) >= COMMIT_TRAVELS + age;
        is_new && self.stream.running().is_some() && self.position().last_record_lsn >= commit
    }

    /// Why it does not follow the quorum, each to be read behind "timeline X"; empty: it does.
    pub(crate) fn reasons(&self) -> Vec<String> {
        self.reasons_of(Instant::now(), &self.trouble())
    }

    fn reasons_of(&self, now: Instant, trouble: &Trouble) -> Vec<String> {
        if let Some(why) = &trouble.stopped {
            return vec![format!("is stopped: {why}")];
        }
        if trouble.copying {
            let import = self.import.borrow().status();
            let failed = import.and_then(|i| Some(format!(" (attempt {}: {})", i.attempts, i.last_error?)));
            return vec![format!("is being imported{}", failed.unwrap_or_default())];
        }
        if let Some(why) = &trouble.full {
            return vec![format!("waits for storage: {why}")];
        }
        let chosen = match self.offer().map(|o| o.choice) {
            Some(Choice { mode: Mode::Push, safekeeper, .. }) => format!("waits for safekeeper {safekeeper} to dial"),
            Some(Choice { mode: Mode::Pull, safekeeper, .. }) => format!("dials safekeeper {safekeeper}"),
            None => "has no safekeeper to take WAL from".to_owned(),
        };
        self.follow().reasons(now, self.position().last_record_lsn, &chosen)
    }
}
