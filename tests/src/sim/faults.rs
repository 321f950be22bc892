//! Faults: their kinds, their frequency, and their end.

use disk::IoFault;
use proto::id::PrimaryEpoch;

use super::bug::Bug;
use super::event::Event;
use super::net::ConnKey;
use super::node::Node;
use super::schedule::{pick, spread};
use super::world::World;
use crate::check::Violation;

impl World {
    /// One fault, then the next one's time.
    pub(crate) fn on_fault(&mut self) -> Result<(), Violation> {
        if self.healed {
            return Ok(());
        }
        let next = spread(&mut self.rng, self.profile.fault_every);
        self.queue.at(self.now + next, Event::Fault);
        let node = self.rng.usize(0..self.nodes.len());
        let kind = if self.profile.blackouts && self.rng.bool() { 26 } else { self.rng.u8(0..100) };
        let kind = if self.profile.forgetful && self.rng.u8(0..3) == 0 { 97 } else { kind };
        match kind {
            0..9 => self.strike_node(node, false),
            9..14 => self.kill_then_power_loss(node),
            14..26 => self.strike_node(node, true),
            26..32 => self.blackout(),
            32..46 => {
                let calls = self.rng.u64(1..12);
                self.nodes[node].disk.die_in(calls);
            }
            46..58 => self.break_some_connection(),
            58..64 => self.cut_off(node),
            64..74 => {
                let fault = *pick(&mut self.rng, &[IoFault::Write, IoFault::Sync, IoFault::Sync, IoFault::SyncDir]);
                self.nodes[node].disk.fail_next(fault);
            }
            74..78 => self.fill_disk(node),
            78..83 => {
                self.count("clock jump");
                let leap_ms = self.rng.u64(1..3_600_000);
                if self.rng.bool() {
                    self.nodes[node].clock_ahead_ms += leap_ms;
                } else {
                    let shim = self.rng.usize(0..self.shims.len());
                    self.shims[shim].clock_ahead_ms += leap_ms;
                }
            }
            83..92 => self.restart_shim(),
            92..95 => self.next_primary(),
            95..97 => self.foreign_server(),
            97 => self.begin_forgetting(node),
            _ => self.rot(node),
        }
        for node in 0..self.nodes.len() {
            for _ in 0..self.nodes[node].disk.take_fired() {
                self.count("disk error");
            }
        }
        Ok(())
    }

    pub(crate) fn strike_node(&mut self, node: usize, power: bool) {
        if self.nodes[node].live.is_some() {
            self.count(if power { "power loss" } else { "process kill" });
            self.node_down(node, power);
        }
    }

    /// What a killed process left in the page cache must be synced before its successor relies on it.
    fn kill_then_power_loss(&mut self, node: usize) {
        self.strike_node(node, false);
        let at = self.now + self.rng.u64(60_000..300_000);
        self.queue.at(at, Event::PowerLoss(node));
    }

    /// All nodes lose power, often once more when they have just come back and hold a little new WAL.
    fn blackout(&mut self) {
        self.everybody_down();
        if self.rng.bool() {
            let at = self.now + self.rng.u64(100_000..500_000);
            self.queue.at(at, Event::Blackout);
        }
    }

    pub(crate) fn everybody_down(&mut self) {
        self.count("power loss of all nodes");
        for node in 0..self.nodes.len() {
            if self.nodes[node].live.is_some() {
                self.node_down(node, true);
            }
        }
    }

    fn break_some_connection(&mut self) {
        let open: Vec<ConnKey> =
            self.net.conns.iter().filter(|(_, c)| c.at_node && c.at_shim).map(|(k, _)| *k).collect();
        if open.is_empty() {
            return;
        }
        self.count("connection dropped");
        let key = *pick(&mut self.rng, &open);
        let (to_node, to_shim) = (self.rng.bool(), self.rng.bool());
        if let Some(conn) = self.net.conns.get_mut(&key) {
            conn.lost_to_node |= to_node;
            conn.lost_to_shim |= to_shim;
        }
        let (at_node, at_shim) = (spread(&mut self.rng, 10_000), spread(&mut self.rng, 10_000));
        self.queue.at(self.now + at_node, Event::BrokenAtNode(key));
        self.queue.at(self.now + at_shim, Event::BrokenAtShim(key, None));
    }

    pub(super) fn cut_off(&mut self, node: usize) {
        self.count("node cut off");
        self.net.cut_off[node] = true;
        let keys: Vec<ConnKey> = self.net.conns.iter().filter(|(_, c)| c.node == node).map(|(k, _)| *k).collect();
        for key in keys {
            if let Some(conn) = self.net.conns.get_mut(&key) {
                conn.lost_to_node = true;
                conn.lost_to_shim = true;
            }
            // The node's side lingers until its own timeout.
            let at = self.now + spread(&mut self.rng, 200_000);
            self.queue.at(at, Event::BrokenAtNode(key));
        }
        let at = self.now + spread(&mut self.rng, 100_000);
        self.queue.at(at, Event::Mend(node));
    }

    fn fill_disk(&mut self, node: usize) {
        self.count("disk full");
        self.nodes[node].disk.limit(Some(0));
        let at = self.now + spread(&mut self.rng, 150_000);
        self.queue.at(at, Event::Mend(node));
    }

    /// Ends what lasts: partition, full disk, planned faults.
    pub(crate) fn mend(&mut self, node: usize) {
        self.net.cut_off[node] = false;
        self.nodes[node].disk.limit(None);
        if self.healed {
            self.nodes[node].disk.no_faults();
        }
    }

    fn restart_shim(&mut self) {
        let shim = self.rng.usize(0..self.shims.len());
        if self.shims[shim].attempt.is_some() {
            self.count("shim or server restarted");
            self.end_attempt(shim, Some(10_000));
        }
    }

    /// The primary is designated anew: attempts from now on carry a higher epoch.
    fn next_primary(&mut self) {
        if self.profile.foreign {
            return;
        }
        self.count("primary epoch raised");
        self.epoch = PrimaryEpoch(self.epoch.0 + 1);
        let shim = self.rng.usize(0..self.shims.len());
        self.end_attempt(shim, Some(1_000));
    }

    /// A copy of the server, taken a while ago, goes on by itself and gets a shim.
    fn foreign_server(&mut self) {
        let shim = self.shims.len() - 1;
        let Some(mut copy) = self.fork.take().filter(|_| shim > 0 && self.shims[shim].server == Some(0)) else {
            return;
        };
        let behind = copy.end();
        let reported = self.shims.iter().filter_map(|s| s.attempt.as_ref()?.told.flush).max();
        if reported.is_none_or(|r| r <= behind) {
            return; // not diverged from anything that is committed
        }
        while copy.end() < self.servers[0].end() {
            copy.write();
        }
        self.count("foreign server");
        self.servers.push(copy);
        self.end_attempt(shim, Some(1_000));
        self.shims[shim].server = Some(self.servers.len() - 1);
    }

    /// Only as a planted bug: no code can bring back what a medium forgets.
    fn rot(&mut self, node: usize) {
        let committed = self.checks.prefix.log().len() as u64;
        if self.bug == Some(Bug::BitRot) && committed > 64 {
            let at = self.start.add(self.rng.u64(0..committed));
            let offset = at.segment_offset(super::wal::seg_size());
            self.nodes[node].disk.rot(&Node::segment_path(at), offset);
        }
    }
}
