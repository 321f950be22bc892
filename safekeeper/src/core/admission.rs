//! Whether this member may vote and count at all: what it must have heard from the others since it was opened, what
//! they remember of it, and how a member that forgot is admitted again (`docs/protocol.md`, "Amnesia").
//!
//! Invariants: a member that is barred, or has not heard enough of the others yet, grants no vote and acknowledges no
//! position. It is admitted again only behind a fence: more than `n - q` of the others promised not to vote or
//! acknowledge at its term or below, a proposer was elected above it without this member's vote, and the log here
//! reaches the start of that proposer's term.

use std::collections::BTreeSet;

use proto::admission::{AdmissionAnswer, MemberMemory, Statement};
use proto::consensus::{LogPosition, Member, MemberConf};
use proto::id::{NodeId, Term};

use super::Acceptor;
use super::bounds::{FENCE_STEP, check_answer, check_statement};
use super::effect::{AskId, Effect, Refusal};
use super::heard::Parted;
use super::pending::Pending;
use super::state::{BAR_REASON_MAX, Bar};

/// Where a member stands, for status pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Admission {
    /// It votes and counts.
    Admitted,
    /// It was just opened and has not heard from enough others yet.
    Asking,
    /// It forgot something and does not take part.
    Barred {
        /// What it forgot, and who says so.
        why: String,
        /// What it waits for.
        waits_for: String,
    },
}

impl Acceptor {
    /// Where this member stands.
    pub fn admission(&self) -> Admission {
        match &self.state.standing.barred {
            None if self.heard_enough() => Admission::Admitted,
            None => Admission::Asking,
            Some(bar) => Admission::Barred { why: bar.why.clone(), waits_for: self.waits_for(bar) },
        }
    }

    /// Whether this member votes and counts.
    pub(super) fn counts(&self) -> bool {
        self.state.standing.barred.is_none() && self.heard_enough()
    }

    /// Why it does not, for a proposer.
    pub(super) fn not_admitted(&self) -> Refusal {
        let node = self.config.node_id;
        let why = match self.admission() {
            Admission::Barred { why, waits_for } => format!("{why}; {waits_for}"),
            _ => "it was just opened and asks the other members what they remember of it".to_owned(),
        };
        Refusal::NotAdmitted { node, why }
    }

    /// What this member says about itself now; `None` while something in it is not durable yet: ask again then.
    pub fn statement(&mut self, effects: &mut Vec<Effect>) -> Option<Statement> {
        if self.stopped.is_some() {
            return None;
        }
        self.persist_start(effects);
        let unsettled = |p: &Pending| !matches!(p, Pending::Flush { .. });
        (!self.pending.iter().any(unsettled)).then(|| self.describe())
    }

    fn describe(&self) -> Statement {
        let (standing, flush_lsn) = (&self.state.standing, self.flush_lsn());
        Statement {
            safekeeper_id: self.config.node_id,
            incarnation: standing.incarnation,
            starts: standing.starts,
            term: self.state.term,
            last_log_term: LogPosition::of(&self.state.history, flush_lsn).last_log_term,
            flush_lsn: proto::api::shown(flush_lsn),
            committed: self.state.commit_lsn > self.state.timeline_start_lsn,
            admitted: self.counts(),
            readmitted: standing.readmitted,
            fence: self.heard.asked,
            commit_lsn: self.state.commit_lsn,
        }
    }

    /// The count of starts becomes durable before anything is promised in this life.
    pub(super) fn persist_start(&mut self, effects: &mut Vec<Effect>) {
        if self.heard.started.is_none() && self.stopped.is_none() {
            self.persist(effects);
        }
    }

    /// Another member says where it stands: it is told what is remembered of it, and remembered.
    pub(super) fn on_told(&mut self, now: u64, ask: AskId, told: &Statement, effects: &mut Vec<Effect>) {
        if let Err(refusal) = check_statement(self.state.term, told) {
            return effects.push(Effect::Doubted { ask: Some(ask), refusal });
        }
        let (node, mut after) = (told.safekeeper_id, None);
        let known = node != self.config.node_id && self.state.mconf.contains(node);
        if known {
            self.learn_commit(now, told, effects);
        }
        let remembered = self.state.standing.peers.get(&node).copied();
        // What asks first when WAL is committed here may have been lost: it stays unknown until it took part, so that
        // its next question, when this answer does not arrive, is answered alike.
        let late = remembered.is_none() && told.term == Term::ZERO && self.describe().committed;
        if known && !late && remembered.is_none_or(|m| m.objection(told).is_none()) {
            let memory = MemberMemory::of(told);
            self.state.standing.peers.insert(node, memory);
            // Positions are written along with whatever is written next; a new life is not forgotten at all.
            if remembered.is_none_or(|m| (m.incarnation, m.starts) != (memory.incarnation, memory.starts)) {
                after = Some(self.persist(effects));
            }
        }
        let fence = told.fence.filter(|_| known && self.counts() && self.stopped.is_none());
        let fenced = fence.filter(|fence| *fence > self.state.term);
        if let Some(fence) = fenced {
            // As for a vote, but for nobody: what was received becomes durable, and nothing more of a lower term comes.
            if self.uncovered() {
                self.flush(effects);
            }
            self.state.term = fence;
            self.pusher = None;
            self.leader_commit = None;
            after = Some(self.persist(effects));
        }
        let elected = self.state.history.last().map_or(Term::ZERO, |e| e.term);
        let answer = AdmissionAnswer { statement: self.describe(), elected, remembered, fenced };
        effects.push(Effect::Answer { ask, answer: Box::new(answer), after });
    }

    /// Another member answered what this one stated.
    pub(super) fn on_answered(&mut self, now: u64, answer: &AdmissionAnswer, effects: &mut Vec<Effect>) {
        let (node, theirs) = (answer.statement.safekeeper_id, &answer.statement);
        if node == self.config.node_id || !self.state.mconf.contains(node) || self.stopped.is_some() {
            return;
        }
        if let Err(refusal) = check_answer(self.state.term, answer) {
            return effects.push(Effect::Doubted { ask: None, refusal });
        }
        self.learn_commit(now, theirs, effects);
        self.heard.answered.insert(node);
        self.note_birth(theirs);
        if theirs.admitted {
            self.heard.admitted.insert(node);
        } else {
            self.heard.admitted.remove(&node);
        }
        let remembered = answer.remembered.map_or(Term::ZERO, |m| m.term);
        // One that just went behind the fence stands at it.
        let stated = if answer.fenced.is_some() { Term::ZERO } else { theirs.term };
        self.heard.highest = self.heard.highest.max(stated).max(remembered).max(self.state.term);
        self.heard.elected = self.heard.elected.max(answer.elected);
        self.heard.fenced.extend(answer.fenced.filter(|f| self.heard.asked == Some(*f)).map(|_| node));
        if let Some(what) = self.forgotten(answer) {
            self.drop_fence(effects);
            self.bar(format!("safekeeper {node} remembers of safekeeper {}: {what}", self.config.node_id), effects);
        }
        self.seek_fence(effects);
    }

    /// At a timeline's birth the others are known by their answers alone, and two may be elected before the last one
    /// asks for its part. So a fresh directory is remembered from its answer: its first question then finds it known.
    /// Not once anything is committed: from then on an unknown directory is one that may have been lost.
    ///
    /// Written with the vote that needed these answers; lost before it, nothing was promised either.
    fn note_birth(&mut self, theirs: &Statement) {
        if theirs.term == Term::ZERO && !theirs.committed && !self.describe().committed {
            self.state.standing.peers.entry(theirs.safekeeper_id).or_insert_with(|| MemberMemory::of(theirs));
        }
    }

    /// The commit position that a proposer told another member, and not this one before it went. Two logs that end in
    /// the same term are prefixes of one leader's log, so up to the shorter end they are one. Only from the directory
    /// that is remembered, and only when it has not forgotten anything: another one may have another log.
    fn learn_commit(&mut self, now: u64, theirs: &Statement, effects: &mut Vec<Effect>) {
        let own = LogPosition::of(&self.state.history, self.flush_lsn()).last_log_term;
        let same = |m: &MemberMemory| m.incarnation == theirs.incarnation && m.objection(theirs).is_none();
        let sound = self.state.standing.peers.get(&theirs.safekeeper_id).is_some_and(same);
        let sound = sound && theirs.admitted && self.counts() && self.stopped.is_none() && !self.busy();
        if sound && theirs.last_log_term == own && theirs.commit_lsn > self.leader_commit.max(self.state.commit_lsn) {
            self.leader_commit = theirs.commit_lsn;
            self.advance_commit(now, effects);
        }
    }

    fn forgotten(&self, answer: &AdmissionAnswer) -> Option<String> {
        let own = self.describe();
        let own = Statement { readmitted: own.readmitted.max(self.fence().unwrap_or(Term::ZERO)), ..own };
        match answer.remembered {
            Some(memory) => memory.objection(&own),
            // Whoever promised anything had told `q - 1` others before (`heard_enough`), unless it was of an earlier
            // version. What is committed here was committed without this directory.
            None if own.term == Term::ZERO && answer.statement.committed => Some(format!(
                "nothing, but the timeline is older than the directory here: it is at term {}, {}",
                answer.statement.term, answer.statement.flush_lsn
            )),
            None => None,
        }
    }

    /// More was promised since the fence was asked for: this directory is an old copy once more.
    fn drop_fence(&mut self, effects: &mut Vec<Effect>) {
        if let Some(bar) = self.state.standing.barred.as_mut().filter(|b| b.fence.is_some()) {
            bar.fence = None;
            self.persist(effects);
        }
    }

    /// From here on this member takes no part.
    pub(super) fn bar(&mut self, mut why: String, effects: &mut Vec<Effect>) {
        if self.state.standing.barred.is_some() {
            return;
        }
        let end = (0..=BAR_REASON_MAX.min(why.len())).rev().find(|at| why.is_char_boundary(*at)).unwrap_or(0);
        why.truncate(end);
        self.state.standing.barred = Some(Bar { why, fence: None });
        self.pusher = None;
        self.persist(effects);
        let conns: Vec<_> = self.conns.keys().copied().collect();
        for conn in conns {
            self.close(conn, self.not_admitted(), effects);
        }
    }

    /// Asks for a fence when enough others could give one, and stands behind it when they did.
    fn seek_fence(&mut self, effects: &mut Vec<Effect>) {
        let node = self.config.node_id;
        let waiting = self.state.standing.barred.as_ref().is_some_and(|b| b.fence.is_none());
        if !waiting || !outweighs(&self.state.mconf, node, &self.heard.admitted) {
            self.heard.asked = self.heard.asked.filter(|_| waiting);
            return;
        }
        let Some(asked) = self
            .heard
            .asked
            .filter(|asked| outweighs(&self.state.mconf, node, &self.heard.fenced) || self.heard.highest < *asked)
        else {
            // Somebody is there already, for whatever reason: higher.
            self.heard.asked = self.heard.highest.checked_add(FENCE_STEP);
            self.heard.fenced.clear();
            return;
        };
        if outweighs(&self.state.mconf, node, &self.heard.fenced)
            && let Some(bar) = &mut self.state.standing.barred
        {
            bar.fence = Some(asked);
            self.state.term = self.state.term.max(asked);
            self.heard.asked = None;
            self.persist(effects);
        }
    }

    /// Whether a proposer that others say was elected in `term` may be followed, without a vote.
    pub(super) fn may_follow(&self, term: Term) -> bool {
        self.fence().is_some_and(|fence| term > fence) && self.heard.elected == term
    }

    /// The fence that this member stands behind while it is barred.
    pub(super) fn fence(&self) -> Option<Term> {
        self.state.standing.barred.as_ref().and_then(|b| b.fence)
    }

    /// Admits this member again when its log reaches the start of a term elected above its fence.
    pub(super) fn readmit(&mut self, effects: &mut Vec<Effect>) {
        let (Some(fence), Some(last)) = (self.fence(), self.state.history.last()) else { return };
        if self.busy() || self.pusher.is_none() || last.term <= fence || self.flush_lsn() < Some(last.lsn) {
            return;
        }
        self.admit(fence, effects);
    }

    /// An operator vouches for this member, or gives up what it may have promised.
    pub(super) fn on_vouched(&mut self, effects: &mut Vec<Effect>) {
        if self.stopped.is_some() {
            return;
        }
        if let Some(parted) = self.parted.take() {
            return self.give_up(&parted, effects);
        }
        if self.state.standing.barred.is_none() {
            return;
        }
        // At the end of the range, which no number from outside brings near, it stays barred.
        let Some(fence) = self.heard.highest.max(self.state.term).checked_add(FENCE_STEP) else { return };
        self.state.term = fence;
        self.pusher = None;
        self.admit(fence, effects);
    }

    /// An operator gives up what is committed here and not in the log that was elected: from here on this member is one
    /// that forgot.
    fn give_up(&mut self, parted: &Parted, effects: &mut Vec<Effect>) {
        let keep = Some(parted.to);
        self.state.commit_lsn = self.state.commit_lsn.min(keep);
        self.durable_commit = self.durable_commit.min(keep);
        self.leader_commit = None;
        self.commit_dirty_since = None;
        self.bar(format!("an operator gave up its WAL from {} on, committed or not", parted.to), effects);
    }

    /// Why it refuses the leader, when that lacks what is committed here.
    pub fn parted(&self) -> Option<String> {
        self.parted.as_ref().map(Parted::to_string)
    }

    fn admit(&mut self, fence: Term, effects: &mut Vec<Effect>) {
        self.state.standing.barred = None;
        self.state.standing.readmitted = fence;
        self.heard.asked = None;
        // No acknowledgement before this is durable.
        self.adopted = Some(self.persist(effects));
    }

    /// A member hears `q - 1` others before it promises anything, and they remember it from then on: a quorum needs as
    /// many of them in any case. One without a past of its own hears more than `n - q`: of whoever was here before,
    /// at least one of them was told.
    fn heard_enough(&self) -> bool {
        let (node, past) = (self.config.node_id, self.state.term > Term::ZERO);
        own_sets(&self.state.mconf, node).all(|set| {
            let quorum = set.len() / 2 + 1;
            let needed = if past { quorum - 1 } else { set.len() - quorum + 1 };
            let others = set.iter().filter(|m| m.id != node);
            let asked = others.clone().filter(|m| m.pg_port != 0).count();
            others.filter(|m| self.heard.answered.contains(&m.id)).count() >= asked.min(needed)
        })
    }

    fn waits_for(&self, bar: &Bar) -> String {
        let node = self.config.node_id;
        if bar.fence.is_some() {
            return "it follows the next elected proposer, and is admitted when it has all of its log".to_owned();
        }
        let missing: Vec<String> = self
            .state
            .mconf
            .nodes()
            .into_iter()
            .filter(|n| *n != node && !self.heard.admitted.contains(n))
            .map(|n| n.to_string())
            .collect();
        if outweighs(&self.state.mconf, node, &self.heard.admitted) {
            return "it is being admitted again".to_owned();
        }
        let who = missing.join(" and ");
        let answered = self.heard.answered.union(&self.heard.admitted).count();
        if answered + 1 == self.state.mconf.nodes().len() {
            return format!(
                "safekeeper {who} answered and took no part either: nobody can admit it; 'walfabric timeline \
                 readmit --force' decides instead"
            );
        }
        format!(
            "it waits for safekeeper {who} to answer as a sound member; 'walfabric timeline readmit --force' decides \
             instead"
        )
    }
}

/// The sets that `node` belongs to.
fn own_sets(mconf: &MemberConf, node: NodeId) -> impl Iterator<Item = &Vec<Member>> {
    [&mconf.members, &mconf.new_members].into_iter().filter(move |set| set.iter().any(|m| m.id == node))
}

/// Whether `these` are more than `n - q` of the others in each set of `node`: every quorum that it was part of has one
/// of them.
fn outweighs(mconf: &MemberConf, node: NodeId, these: &BTreeSet<NodeId>) -> bool {
    mconf.contains(node)
        && own_sets(mconf, node).all(|set| {
            let spare = set.len() - (set.len() / 2 + 1);
            set.iter().filter(|m| m.id != node && these.contains(&m.id)).count() > spare
        })
}
