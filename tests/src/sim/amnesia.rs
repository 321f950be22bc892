//! Members that forget: a directory rolled back to an old copy, or lost and made again. Also the statements of members,
//! which reveal such a member.
//!
//! The fault model: one member at a time forgets, until it is admitted again, and every other member remembers durably
//! what it forgot. The guard cannot notice a copy younger than the member's last statement (`docs/protocol.md`,
//! "Amnesia").

use std::collections::BTreeMap;

use disk::DiskImage;
use proto::admission::{AdmissionAnswer, MemberMemory, Statement};
use proto::id::{Incarnation, NodeId, Term};
use safekeeper::core::{Admission, AskId, Input};

use super::bug::Bug;
use super::event::Event;
use super::schedule::spread;
use super::world::World;
use crate::check::Violation;

/// Who forgot what.
#[derive(Debug, Default)]
pub(crate) struct Amnesia {
    /// The member that forgot, and its re-admission before.
    forgetful: Option<(usize, Term)>,
    /// A copy of a member's disk, and what the member would say when it comes up with it.
    copy: Option<(usize, DiskImage, Statement)>,
    /// Who asked, by question, and in which life.
    asks: BTreeMap<AskId, (usize, u64)>,
    asked: u64,
    lives: u8,
}

impl Amnesia {
    /// The member that forgot something and was not admitted again yet.
    pub(crate) fn who(&self) -> Option<usize> {
        self.forgetful.map(|(node, _)| node)
    }
}

impl World {
    /// A member says where it stands, again and again.
    pub(crate) fn on_ask(&mut self, node: usize, life: u64) -> Result<(), Violation> {
        let Some(live) = self.live(node, life) else { return Ok(()) };
        let pause = if live.acceptor.admission() == Admission::Admitted { 60_000 } else { 8_000 };
        let (statement, out) = self.nodes[node].statement();
        self.after_node(node, out)?;
        let pause = if statement.is_some() { pause } else { 4_000 };
        let next = spread(&mut self.rng, pause);
        self.queue.at(self.now + next, Event::Ask(node, life));
        self.look_at_amnesia(node);
        let Some(statement) = statement.filter(|_| !self.profile.foreign) else { return Ok(()) };
        self.maybe_copy(node, &statement);
        if self.bug == Some(Bug::AmnesiacVotes) && self.amnesia.who() == Some(node) {
            self.pretend_answers(node, &statement)?;
        }
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            let at = self.now + self.net_delay();
            self.queue.at(at, Event::Told(other, node, life, Box::new(statement.clone())));
        }
        Ok(())
    }

    pub(crate) fn on_told(
        &mut self,
        node: usize,
        from: (usize, u64),
        statement: Box<Statement>,
    ) -> Result<(), Violation> {
        if self.nodes[node].live.is_none() || self.net.cut_off[node] || self.net.cut_off[from.0] {
            return Ok(());
        }
        self.amnesia.asked += 1;
        let ask = AskId(self.amnesia.asked);
        self.amnesia.asks.insert(ask, from);
        self.say(node, Input::Told { ask, statement });
        Ok(())
    }

    /// The answer leaves.
    pub(crate) fn answer(&mut self, node: usize, ask: AskId, answer: Box<AdmissionAnswer>) {
        let Some((to, life)) = self.amnesia.asks.remove(&ask) else { return };
        if !self.net.cut_off[node] && !self.net.cut_off[to] {
            let at = self.now + self.net_delay();
            self.queue.at(at, Event::Answered(to, life, answer));
        }
    }

    pub(crate) fn on_answered(&mut self, node: usize, life: u64, mut answer: AdmissionAnswer) -> Result<(), Violation> {
        if self.live(node, life).is_none() {
            return Ok(());
        }
        if self.bug == Some(Bug::AmnesiacVotes) && self.amnesia.who() == Some(node) {
            answer.remembered = None;
            answer.statement.committed = false;
        }
        self.say(node, Input::Answered(Box::new(answer)));
        self.look_at_amnesia(node);
        Ok(())
    }

    /// The planted bug: nobody is waited for, and nobody remembers anything.
    fn pretend_answers(&mut self, node: usize, own: &Statement) -> Result<(), Violation> {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            let safekeeper_id = NodeId(self.nodes[other].id);
            let statement = Statement { safekeeper_id, committed: false, ..own.clone() };
            let answer = AdmissionAnswer { statement, elected: Term::ZERO, remembered: None, fenced: None };
            self.node_step(node, Input::Answered(Box::new(answer)))?;
        }
        Ok(())
    }

    /// Notes when a member that forgot is admitted again.
    fn look_at_amnesia(&mut self, node: usize) {
        let Some((_, before)) = self.amnesia.forgetful.filter(|(who, _)| *who == node) else { return };
        let Some(live) = &self.nodes[node].live else { return };
        let persisted = &live.storage.persisted().standing;
        let unnoticed = self.bug == Some(Bug::AmnesiacVotes) && live.acceptor.admission() == Admission::Admitted;
        if unnoticed || (persisted.barred.is_none() && persisted.readmitted > before) {
            self.amnesia.forgetful = None;
            self.count("admitted again");
        }
    }

    fn maybe_copy(&mut self, node: usize, statement: &Statement) {
        if self.amnesia.forgetful.is_none() && self.rng.u8(0..12) == 0 {
            let mut statement = statement.clone();
            statement.starts += 1;
            self.amnesia.copy = Some((node, self.nodes[node].disk.image(), statement));
        }
    }

    /// The fault begins: some other member is cut off for a moment, so that it misses what this one will forget.
    pub(crate) fn begin_forgetting(&mut self, node: usize) {
        if self.profile.foreign || self.amnesia.forgetful.is_some() {
            return;
        }
        let misses = self.other_than(node);
        if self.rng.bool() {
            self.cut_off(misses);
        }
        let at = self.now + self.rng.u64(20_000..90_000);
        self.queue.at(at, Event::Forget(node, misses));
    }

    fn other_than(&mut self, node: usize) -> usize {
        (node + self.rng.usize(1..self.nodes.len())) % self.nodes.len()
    }

    /// The fault: a member's directory is rolled back to the copy taken last, or lost. The one that missed it is back,
    /// and often another one is cut off.
    pub(crate) fn forget(&mut self, node: usize, misses: usize) -> Result<(), Violation> {
        if self.healed || self.amnesia.forgetful.is_some() {
            return Ok(());
        }
        self.net.cut_off[misses] = false;
        let away = (0..self.nodes.len()).find(|n| *n != node && *n != misses);
        if let Some(away) = away.filter(|_| self.rng.bool()) {
            self.cut_off(away);
        }
        if self.rng.bool() {
            // Whoever leads has it all, and would hand it back.
            (0..self.shims.len()).for_each(|shim| self.end_attempt(shim, Some(3_000)));
        }
        if self.rng.bool() { self.roll_back() } else { self.lose(node) }
    }

    fn roll_back(&mut self) -> Result<(), Violation> {
        let Some((node, image, statement)) = self.amnesia.copy.take() else { return Ok(()) };
        if self.remembered_by_all(node, |m| m.objection(&statement).is_some()) {
            self.count("directory rolled back");
            self.begin_amnesia(node);
            self.nodes[node].disk.restore(Some(image));
        }
        Ok(())
    }

    fn lose(&mut self, node: usize) -> Result<(), Violation> {
        if !self.remembered_by_all(node, |_| true) {
            return Ok(());
        }
        self.count("directory lost");
        self.begin_amnesia(node);
        self.amnesia.lives += 1;
        let (mut state, prehistory) = self.created.clone();
        state.standing.incarnation = Incarnation::new([100 + self.amnesia.lives; 16]);
        self.nodes[node].disk.restore(None);
        self.nodes[node].disk.limit(None);
        self.nodes[node].disk.no_faults();
        self.nodes[node].create(&state, &prehistory).or_else(|e| Violation::of("open", e.to_string()))
    }

    /// Whether every other member takes part and has durably remembered what `what` wants of `node`.
    fn remembered_by_all(&self, node: usize, what: impl Fn(&MemberMemory) -> bool) -> bool {
        let id = NodeId(self.nodes[node].id);
        self.nodes[node].live.is_some()
            && self.nodes.iter().enumerate().filter(|(other, _)| *other != node).all(|(_, other)| {
                let live = other.live.as_ref();
                let sound = live.filter(|l| l.acceptor.admission() == Admission::Admitted);
                sound.and_then(|l| l.storage.persisted().standing.peers.get(&id)).is_some_and(&what)
            })
    }

    fn begin_amnesia(&mut self, node: usize) {
        let id = self.nodes[node].id;
        let readmitted = self.nodes[node].live.as_ref().map(|l| l.acceptor.state().standing.readmitted);
        self.node_down(node, false);
        self.amnesia.forgetful = Some((node, readmitted.unwrap_or(Term::ZERO)));
        self.amnesia.copy = None;
        self.checks.promises.forgotten(id);
    }
}
