//! Connections: each direction keeps its order, different connections overtake each other, and either side may learn of
//! the end long after the other.

use std::collections::BTreeMap;

use super::schedule::Micros;

/// Names a connection; never used twice.
pub(crate) type ConnKey = u64;

/// One connection between a shim's attempt and a node's life.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) shim: usize,
    pub(crate) attempt: u64,
    pub(crate) peer: usize,
    /// Number of the session in the shim's attempt.
    pub(crate) session: u64,
    pub(crate) node: usize,
    pub(crate) life: u64,
    /// The acceptor knows it.
    pub(crate) at_node: bool,
    /// The proposer uses it.
    pub(crate) at_shim: bool,
    /// The proposer heard that it is established.
    pub(crate) accepted: bool,
    /// What is under way is lost.
    pub(crate) lost_to_node: bool,
    pub(crate) lost_to_shim: bool,
    /// Nothing arrives before these: order within a direction.
    to_node: Micros,
    to_shim: Micros,
}

/// All connections.
#[derive(Debug, Default)]
pub(crate) struct Net {
    pub(crate) conns: BTreeMap<ConnKey, Conn>,
    last: ConnKey,
    /// Nodes that cannot be reached.
    pub(crate) cut_off: Vec<bool>,
}

impl Net {
    pub(crate) fn new(nodes: usize) -> Net {
        Net { cut_off: vec![false; nodes], ..Net::default() }
    }

    pub(crate) fn open(&mut self, shim: usize, attempt: u64, peer: usize, session: u64) -> ConnKey {
        self.last += 1;
        let conn = Conn {
            shim,
            attempt,
            peer,
            session,
            node: peer,
            life: 0,
            at_node: false,
            at_shim: false,
            accepted: false,
            lost_to_node: false,
            lost_to_shim: false,
            to_node: 0,
            to_shim: 0,
        };
        self.conns.insert(self.last, conn);
        self.last
    }

    /// When something sent at `sent` with `delay` arrives at the node.
    pub(crate) fn arrival_at_node(&mut self, key: ConnKey, sent: Micros, delay: Micros) -> Option<Micros> {
        let conn = self.conns.get_mut(&key)?;
        conn.to_node = conn.to_node.max(sent + delay);
        Some(conn.to_node)
    }

    /// When something sent at `sent` with `delay` arrives at the shim.
    pub(crate) fn arrival_at_shim(&mut self, key: ConnKey, sent: Micros, delay: Micros) -> Option<Micros> {
        let conn = self.conns.get_mut(&key)?;
        conn.to_shim = conn.to_shim.max(sent + delay);
        Some(conn.to_shim)
    }

    /// Forgets what neither side knows any more.
    pub(crate) fn collect(&mut self, key: ConnKey) {
        if self.conns.get(&key).is_some_and(|c| !c.at_node && !c.at_shim) {
            self.conns.remove(&key);
        }
    }
}
