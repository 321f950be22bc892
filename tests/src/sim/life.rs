//! Nodes go down and come back; the world heals, settles, and is compared byte by byte.

use super::event::Event;
use super::net::ConnKey;
use super::node::{Node, OpenFailure};
use super::schedule::spread;
use super::world::World;
use crate::check::Violation;
use safekeeper::core::Admission;

impl World {
    pub(crate) fn node_down(&mut self, node: usize, power: bool) {
        if self.trace {
            println!("          node {} goes down, power {power}", self.nodes[node].id);
        }
        self.nodes[node].go_down(power);
        let life = self.nodes[node].life;
        let keys: Vec<ConnKey> =
            self.net.conns.iter().filter(|(_, c)| c.node == node && c.at_node).map(|(k, _)| *k).collect();
        for key in keys {
            let silent = power && self.rng.bool();
            let lost = power || self.rng.bool();
            if let Some(conn) = self.net.conns.get_mut(&key) {
                conn.at_node = false;
                conn.lost_to_shim = lost;
            }
            if !silent {
                self.deliver_to_shim(key, Event::BrokenAtShim(key, None));
            }
        }
        let at = self.now + spread(&mut self.rng, 60_000);
        self.queue.at(at, Event::Restart(node, life));
    }

    pub(super) fn on_restart(&mut self, node: usize, life: u64) -> Result<(), Violation> {
        if self.nodes[node].live.is_some() || self.nodes[node].life != life {
            return Ok(());
        }
        let first = life == 0;
        let sync_first = self.rng.bool();
        let id = self.nodes[node].id;
        match self.nodes[node].open(sync_first) {
            Ok((state, end)) => {
                if self.trace {
                    println!(
                        "          node {id} opens at term {} flush {end:?} commit {:?}",
                        state.term, state.commit_lsn
                    );
                }
                self.checks.truncate.opened(id, state.commit_lsn);
                self.checks.history.held(id, &state.history, state.term)?;
                let last_record = self.nodes[node].live.as_ref().and_then(|l| l.acceptor.positions().last_record_start);
                if end > Some(self.start) && last_record.is_none() {
                    return Violation::of("open", format!("node {id} cannot tell its last record before {end:?}"));
                }
                if state.commit_lsn > end {
                    return Violation::of("open", format!("node {id} lost committed WAL: it ends at {end:?}"));
                }
                self.queue.at(self.now, Event::Ask(node, life));
                if !first {
                    self.checks.promises.reopened(id, &state, end)?;
                }
                Ok(())
            }
            Err(OpenFailure::Damaged(problem)) => Violation::of("open", format!("node {id}: {problem}")),
            Err(OpenFailure::Disk) => {
                if self.nodes[node].disk.is_down() {
                    self.count("crash while opening");
                    let power = self.rng.bool();
                    self.node_down(node, power);
                } else {
                    self.queue.at(self.now + 10_000, Event::Restart(node, life));
                }
                Ok(())
            }
        }
    }

    pub(super) fn on_heal(&mut self) -> Result<(), Violation> {
        self.healed = true;
        for node in 0..self.nodes.len() {
            self.mend(node);
            let life = self.nodes[node].life;
            if self.nodes[node].live.is_none() {
                self.queue.at(self.now + 50_000, Event::Restart(node, life));
            }
        }
        for shim in 1..self.shims.len() {
            self.shims[shim].retired = true;
            self.end_attempt(shim, None);
        }
        if self.shims[0].attempt.is_none() {
            self.queue.at(self.now + 1_000, Event::ShimStart(0));
        }
        self.target = Some(self.checks.prefix.log().len());
        self.queue.at(self.now + 20_000, Event::Settled);
        Ok(())
    }

    /// Whether commits went on after healing, and then everybody holds all of it.
    pub(super) fn is_settled(&mut self) -> Result<bool, Violation> {
        if let Some(target) = self.target {
            if self.checks.prefix.log().len() > target {
                self.target = None;
            }
            return Ok(false);
        }
        let Some(attempt) = &self.shims[0].attempt else { return Ok(false) };
        let Some(server) = attempt.server.and_then(|s| self.servers.get(s)) else { return Ok(false) };
        let end = Some(server.end());
        let everywhere = self.nodes.iter().all(|n| {
            let positions = n.live.as_ref().map(|l| l.acceptor.positions());
            positions.is_some_and(|p| p.flush_lsn == end && p.commit_lsn == end && p.persisted_commit_lsn == end)
                && n.live.as_ref().is_some_and(|l| l.acceptor.admission() == Admission::Admitted)
        });
        Ok(everywhere && attempt.told.flush == end)
    }

    /// Bytes equal everywhere, read back as a reader gets them and as the medium holds them.
    pub(super) fn check_end(&mut self) -> Result<(), Violation> {
        let committed = self.checks.prefix.log();
        let end = self.start.add(committed.len() as u64);
        for node in &self.nodes {
            let whose = format!("node {}", node.id);
            let Some(log) = node.read(self.start, end) else {
                return Violation::of("equal", format!("{whose} cannot read its log up to {end}"));
            };
            if log != committed || !node.medium_holds(self.start, committed) {
                return Violation::of("equal", format!("{whose} holds other bytes than were committed, up to {end}"));
            }
            self.checks.acked.kept(&whose, None, &log)?;
        }
        Ok(())
    }

    pub(super) fn describe(&self) -> String {
        let node = |n: &Node| match &n.live {
            Some(l) => {
                let (positions, admission) = (l.acceptor.positions(), l.acceptor.admission());
                format!("node {}: {admission:?} {positions:?}, {} operations", n.id, l.ops().count())
            }
            None => format!("node {}: down", n.id),
        };
        let nodes: Vec<String> = self.nodes.iter().map(node).collect();
        let attempt = self.shims[0].attempt.as_ref();
        let shim =
            attempt.map(|a| format!("{:?} term {} told {:?}", a.proposer().phase(), a.proposer().term(), a.told));
        format!(
            "committed {}, target {:?}, shim {shim:?}, {}",
            self.checks.prefix.log().len(),
            self.target,
            nodes.join("; ")
        )
    }
}
