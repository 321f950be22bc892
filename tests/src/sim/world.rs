//! The simulated world: nodes, shims, servers and the network between them, driven by one queue of events.
//!
//! Owns everything; single-threaded; every choice comes from the seed. The run has two halves: in the first, faults are
//! injected; in the second, everything heals and the quorum must make progress. The checkers watch both.

use std::collections::BTreeMap;

use bytes::Bytes;
use fastrand::Rng;
use pgformat::{Lsn, Tli};
use proto::api::{PgHistoryEntry, TimelineSource};
use proto::consensus::{AcceptorMessage, Member, MemberConf, ProposerMessage, ProtoVersion};
use proto::feedback::PageserverFeedback;
use proto::id::{
    Generation, Incarnation, NodeId, PrimaryEpoch, SystemId, TenantId, TenantTimelineId, Term, TimelineId,
};
use safekeeper::core::{ConnId, ControlState, DiskOp, Input as NodeInput};

use super::amnesia::Amnesia;
use super::bug::Bug;
use super::event::{Event, shown};
use super::net::{ConnKey, Net};
use super::node::{Node, Out};
use super::schedule::{Micros, Profile, Queue, spread};
use super::shim::Shim;
use super::wal::{SYSTEM_ID, Server, beginning, seg_size};
use crate::check::{Violation, acked::Acked, i1_one_leader::OneLeader, i2_history::History, i3_prefix::Prefix};
use crate::check::{i5_truncate::Truncate, promises::Promises};

/// A node takes what was said to it within this time: what comes meanwhile joins the batch.
const WAKE_MAX: Micros = 300;

/// How long the healed world may take to make progress and to settle.
const HEAL_LIMIT: Micros = 30_000_000;

/// The checkers that keep what they saw.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    pub(crate) leader: OneLeader,
    pub(crate) history: History,
    pub(crate) prefix: Prefix,
    pub(crate) truncate: Truncate,
    pub(crate) promises: Promises,
    pub(crate) acked: Acked,
}

pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) profile: Profile,
    pub(crate) bug: Option<Bug>,
    pub(crate) now: Micros,
    pub(crate) queue: Queue<Event>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) shims: Vec<Shim>,
    pub(crate) servers: Vec<Server>,
    pub(crate) net: Net,
    pub(crate) checks: Checks,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) ttid: TenantTimelineId,
    pub(crate) mconf: MemberConf,
    pub(crate) start: Lsn,
    pub(crate) epoch: PrimaryEpoch,
    /// A server's state at some moment, from which a foreign copy goes on.
    pub(crate) fork: Option<Server>,
    /// What members are created with.
    pub(crate) created: (ControlState, Vec<u8>),
    pub(crate) amnesia: Amnesia,
    pub(crate) healed: bool,
    /// Committed bytes that must be passed after healing; `None`: passed, only settling is left.
    pub(super) target: Option<usize>,
    digest: u64,
    events: u64,
    /// Prints every event.
    pub(super) trace: bool,
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// Events handled.
    pub events: u64,
    /// Faults that struck, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Hash over everything that happened, in order.
    pub digest: u64,
    /// Bytes of WAL committed.
    pub committed: u64,
    /// Elections won.
    pub elections: u64,
    /// The first invariant that did not hold.
    pub violation: Option<Violation>,
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>, trace: bool) -> World {
        let mut rng = Rng::with_seed(seed);
        let mut profile = Profile::draw(&mut rng);
        profile.focus(bug);
        let ids = |set: &[u64]| -> Vec<Member> {
            set.iter().map(|id| Member { id: NodeId(*id), host: format!("sk{id}"), pg_port: 1 }).collect()
        };
        let mconf = MemberConf::new(Generation::FIRST, ids(&profile.members), ids(&profile.new_members))
            .expect("a valid configuration");
        let ttid = TenantTimelineId::new(TenantId::new([7; 16]), TimelineId::new([8; 16]));
        let (start, prev, prehistory) = beginning(profile.start);
        let epoch = PrimaryEpoch::FIRST;
        let pg_history = vec![PgHistoryEntry { tli: Tli(1), start_lsn: Lsn::new(1 << 20) }];
        let mut state = if profile.foreign {
            ControlState::implicit(ttid, SystemId(0), 0, seg_size())
        } else {
            let (system_id, members) = (SystemId(SYSTEM_ID), mconf.clone());
            let source = TimelineSource::Vanilla;
            ControlState::created(ttid, source, system_id, 150_004, seg_size(), members, epoch, pg_history, start)
        };
        let prehistory = if profile.foreign { Vec::new() } else { prehistory };
        let nodes: Vec<Node> = profile.nodes().iter().map(|id| Node::new(*id, rng.u64(..), bug)).collect();
        for node in &nodes {
            state.standing.incarnation = Incarnation::new([u8::try_from(node.id).expect("a few nodes"); 16]);
            node.create(&state, &prehistory).expect("a fresh disk works");
        }
        let server = |_| Shim {
            attempt: None,
            attempts: 0,
            min_term: Term::ZERO,
            server: None,
            retired: false,
            clock_ahead_ms: 0,
        };
        let mut shims: Vec<Shim> = (0..profile.shims).map(server).collect();
        let mut servers = Vec::new();
        if !profile.compute {
            servers.push(Server::behind(start, Vec::new(), prev, 1, rng.fork(), profile.uniform));
            shims.iter_mut().for_each(|s| s.server = Some(0));
        }
        let mut world = World {
            net: Net::new(nodes.len()),
            rng,
            profile,
            bug,
            now: 0,
            queue: Queue::new(),
            nodes,
            shims,
            servers,
            checks: Checks::default(),
            faults: BTreeMap::new(),
            ttid,
            mconf,
            start,
            epoch,
            fork: None,
            created: (state, prehistory),
            amnesia: Amnesia::default(),
            healed: false,
            target: None,
            digest: 0xcbf2_9ce4_8422_2325,
            events: 0,
            trace,
        };
        world.schedule_beginning();
        world
    }

    fn schedule_beginning(&mut self) {
        for node in 0..self.nodes.len() {
            self.queue.at(0, Event::Restart(node, 0));
        }
        for shim in 0..self.shims.len() {
            let at = if shim == 0 { 1_000 } else { self.rng.u64(1_000..self.profile.chaos) };
            self.queue.at(at, Event::ShimStart(shim));
        }
        self.queue.at(2_000, Event::Produce);
        self.queue.at(20_000, Event::Fault);
        self.queue.at(self.profile.chaos, Event::Heal);
    }

    /// Runs to the end or to the first violation.
    pub(crate) fn run(&mut self) -> Result<(), Violation> {
        while let Some((time, event)) = self.queue.next() {
            self.now = time;
            self.events += 1;
            self.note(&event);
            if self.trace {
                println!("{:>9} {}", self.now, shown(&event));
            }
            if matches!(event, Event::Settled) && self.is_settled()? {
                return self.check_end();
            }
            self.handle(event)?;
            if self.now > self.profile.chaos + HEAL_LIMIT {
                return Violation::of("progress", format!("the healed world does not settle: {}", self.describe()));
            }
        }
        Violation::of("progress", "nothing is left to happen")
    }

    pub(crate) fn report(&self, violation: Option<Violation>) -> Report {
        Report {
            events: self.events,
            faults: self.faults.clone(),
            digest: self.digest,
            committed: self.checks.prefix.log().len() as u64,
            elections: self.shims.iter().map(|s| s.attempts).sum(),
            violation,
        }
    }

    /// Folds the event into the digest: two runs of one seed must agree in every one of them.
    fn note(&mut self, event: &Event) {
        let mut fold = |value: u64| self.digest = (self.digest ^ value).wrapping_mul(0x0000_0100_0000_01b3);
        fold(self.now);
        let positions = |l: Option<Lsn>| Lsn::to_wire(l);
        match event {
            Event::ToNode(key, ProposerMessage::Append(m)) => {
                [1, *key, m.end_lsn.get(), positions(m.commit_lsn)].map(fold)
            }
            Event::ToShim(key, AcceptorMessage::Append(m)) => {
                [2, *key, positions(m.flush_lsn), positions(m.commit_lsn)].map(fold)
            }
            Event::ConnectArrives(k) | Event::Accepted(k) | Event::ToNode(k, _) | Event::ToShim(k, _) => {
                [3, *k, 0, 0].map(fold)
            }
            Event::NodeIo(n, life) | Event::Restart(n, life) => [4, *n as u64, *life, 0].map(fold),
            Event::Campaign(s, n) | Event::SendElected(s, n) => [5, *s as u64, *n, 0].map(fold),
            _ => [6, 0, 0, 0].map(fold),
        };
    }

    fn handle(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::ConnectArrives(key) => self.on_connect(key),
            Event::Accepted(key)
            | Event::DialTimeout(key)
            | Event::Refused(key)
            | Event::BrokenAtShim(key, _)
            | Event::ToShim(key, _) => self.on_shim_side(key, event),
            Event::ToNode(key, message) => {
                let Some((node, true)) = self.node_side(key).map(|(n, c)| (n, !c.lost_to_node)) else { return Ok(()) };
                self.say(node, NodeInput::Message { conn: ConnId(key), message });
                Ok(())
            }
            Event::BrokenAtNode(key) => {
                let Some((node, conn)) = self.node_side(key) else { return Ok(()) };
                conn.at_node = false;
                self.net.collect(key);
                self.say(node, NodeInput::Disconnected { conn: ConnId(key) });
                Ok(())
            }
            Event::Written(key, end) => self.on_written(key, end),
            Event::NodeIo(node, life) => self.on_node_io(node, life),
            Event::NodeWake(node, life) => self.on_node_wake(node, life),
            Event::NodeFlush(node, life) => self.on_node_flush(node, life),
            Event::NodeTick(node, life) => self.on_node_tick(node, life),
            Event::Restart(node, life) => self.on_restart(node, life),
            Event::ShimStart(shim) => self.on_shim_start(shim),
            Event::ShimTick(shim, attempt) => self.on_shim_tick(shim, attempt),
            Event::Campaign(shim, attempt) => self.on_campaign(shim, attempt),
            Event::SendElected(shim, attempt) => self.on_send_elected(shim, attempt),
            Event::Produce => self.on_produce(),
            Event::Stream(shim, attempt) => self.on_stream(shim, attempt),
            Event::Ask(node, life) => self.on_ask(node, life),
            Event::Told(node, from, life, statement) => self.on_told(node, (from, life), statement),
            Event::Answered(node, life, answer) => self.on_answered(node, life, *answer),
            Event::Forget(node, misses) => self.forget(node, misses),
            Event::Fault => self.on_fault(),
            Event::Mend(node) => {
                self.mend(node);
                Ok(())
            }
            Event::PowerLoss(node) => {
                if !self.healed {
                    self.strike_node(node, true);
                }
                Ok(())
            }
            Event::Blackout => {
                if !self.healed {
                    self.everybody_down();
                }
                Ok(())
            }
            Event::Heal => self.on_heal(),
            Event::Settled => {
                self.queue.at(self.now + 20_000, Event::Settled);
                Ok(())
            }
        }
    }

    pub(crate) fn count(&mut self, fault: &'static str) {
        if self.trace {
            println!("          fault: {fault}");
        }
        *self.faults.entry(fault).or_insert(0) += 1;
    }

    pub(crate) fn net_delay(&mut self) -> Micros {
        spread(&mut self.rng, self.profile.net)
    }

    pub(crate) fn live(&mut self, node: usize, life: u64) -> Option<&mut super::node::Live> {
        let node = self.nodes.get_mut(node).filter(|n| n.life == life)?;
        node.live.as_mut()
    }

    /// The connection, when the node still has it.
    fn node_side(&mut self, key: ConnKey) -> Option<(usize, &mut super::net::Conn)> {
        let conn = self.net.conns.get_mut(&key).filter(|c| c.at_node)?;
        let node = conn.node;
        (self.nodes[node].live.is_some() && self.nodes[node].life == conn.life).then_some((node, conn))
    }

    fn on_connect(&mut self, key: ConnKey) -> Result<(), Violation> {
        let Some(conn) = self.net.conns.get_mut(&key) else { return Ok(()) };
        let node = conn.node;
        if self.nodes[node].live.is_none() || self.net.cut_off[node] {
            let delay = self.net_delay();
            self.queue.at(self.now + delay, Event::Refused(key));
            return Ok(());
        }
        conn.at_node = true;
        conn.life = self.nodes[node].life;
        let epoch = self.shims[conn.shim].attempt.as_ref().map_or(self.epoch, |a| a.epoch);
        let primary_epoch = (!self.profile.foreign).then_some(epoch);
        self.deliver_to_shim(key, Event::Accepted(key));
        let connected = NodeInput::Connected { conn: ConnId(key), version: ProtoVersion::V3, primary_epoch };
        self.say(node, connected);
        Ok(())
    }

    fn on_node_wake(&mut self, node: usize, life: u64) -> Result<(), Violation> {
        let now_ms = self.now / 1_000;
        let Some(live) = self.live(node, life) else { return Ok(()) };
        live.wake_due = false;
        let out = self.nodes[node].take_inbox(now_ms);
        self.after_node(node, out)
    }

    fn on_node_flush(&mut self, node: usize, life: u64) -> Result<(), Violation> {
        let Some(live) = self.live(node, life) else { return Ok(()) };
        live.flush_due = false;
        self.node_step(node, NodeInput::FlushNow)
    }

    fn on_node_tick(&mut self, node: usize, life: u64) -> Result<(), Violation> {
        let Some(live) = self.live(node, life) else { return Ok(()) };
        live.tick_due = None;
        self.node_step(node, NodeInput::Tick)
    }

    /// Something is said to a node: it takes it when it can.
    pub(crate) fn say(&mut self, node: usize, input: NodeInput) {
        if let Some(live) = &mut self.nodes[node].live {
            live.inbox.push_back(input);
        }
        self.wake_when_it_takes(node);
    }

    fn wake_when_it_takes(&mut self, node: usize) {
        let life = self.nodes[node].life;
        let Some(live) = self.nodes[node].live.as_mut().filter(|l| l.takes_commands() && !l.wake_due) else { return };
        live.wake_due = true;
        let at = self.now + self.rng.u64(0..WAKE_MAX);
        self.queue.at(at, Event::NodeWake(node, life));
    }

    pub(crate) fn deliver_to_shim(&mut self, key: ConnKey, event: Event) {
        let delay = self.net_delay();
        if let Some(at) = self.net.arrival_at_shim(key, self.now, delay) {
            self.queue.at(at, event);
        }
    }

    pub(crate) fn node_step(&mut self, node: usize, input: NodeInput) -> Result<(), Violation> {
        let out = self.nodes[node].step(self.now / 1_000, input);
        self.after_node(node, out)
    }

    /// Sends what a node said, and schedules what it needs next.
    pub(crate) fn after_node(&mut self, node: usize, out: Vec<Out>) -> Result<(), Violation> {
        for event in out {
            match event {
                Out::Send(ConnId(key), mut message) => {
                    // The first node feeds a pageserver: the others hear of commits later than it does.
                    if let AcceptorMessage::Append(answer) = &mut message
                        && node == 0
                    {
                        let last_received_lsn = answer.flush_lsn;
                        answer.pageserver_feedback =
                            Some(PageserverFeedback { last_received_lsn, ..PageserverFeedback::default() });
                    }
                    let message = AcceptorMessage::decode(ProtoVersion::V3, message.encode(ProtoVersion::V3));
                    let message = message.expect("what one side writes the other reads");
                    self.checks.promises.sent(self.nodes[node].id, &message);
                    self.deliver_to_shim(key, Event::ToShim(key, message));
                }
                Out::Answer(ask, answer) => self.answer(node, ask, answer),
                Out::Misread(what) => return Violation::of("readers", what),
                Out::Close(ConnId(key), refusal) => {
                    if self.trace {
                        println!("          node {} closes {key}: {refusal}", self.nodes[node].id);
                    }
                    self.count("refused by a node");
                    if let Some(conn) = self.net.conns.get_mut(&key) {
                        conn.at_node = false;
                    }
                    self.deliver_to_shim(key, Event::BrokenAtShim(key, Some(refusal.action())));
                }
            }
        }
        let id = self.nodes[node].id;
        let life = self.nodes[node].life;
        let Some(live) = &mut self.nodes[node].live else { return Ok(()) };
        let positions = live.acceptor.positions();
        if self.trace {
            let ops: Vec<String> = live.ops().map(super::node::shown).collect();
            println!(
                "          node {id} write {:?} flush {:?} commit {:?}: {}",
                positions.write_lsn,
                positions.flush_lsn,
                positions.commit_lsn,
                ops.join(", ")
            );
        }
        self.checks.truncate.knows(id, positions.commit_lsn);
        self.checks.history.held(id, &live.acceptor.state().history, positions.term)?;
        if !live.work.is_empty() && !live.io_due {
            live.io_due = true;
            let at = self.now + spread(&mut self.rng, self.profile.io);
            self.queue.at(at, Event::NodeIo(node, life));
        }
        if live.acceptor.dirty() && !live.flush_due && self.bug != Some(Bug::NeverFlush) {
            live.flush_due = true;
            self.queue.at(self.now + self.rng.u64(0..self.profile.hold), Event::NodeFlush(node, life));
        }
        let due = live.acceptor.next_timeout();
        if let Some(due) = due.filter(|_| live.tick_due != due) {
            live.tick_due = Some(due);
            let at = due.saturating_sub(self.nodes[node].clock_ahead_ms) * 1_000;
            self.queue.at(at.max(self.now), Event::NodeTick(node, life));
        }
        self.wake_when_it_takes(node);
        Ok(())
    }

    fn on_node_io(&mut self, node: usize, life: u64) -> Result<(), Violation> {
        let spare = self.rng.u8(0..30) == 0;
        let Some(live) = self.live(node, life) else { return Ok(()) };
        live.io_due = false;
        if let Some(job) = live.storage.wal().spare_job().filter(|_| spare) {
            job.run();
        }
        let cut = match live.ops().next() {
            Some(DiskOp::Truncate { to, .. }) => Some(*to),
            _ => None,
        };
        let id = self.nodes[node].id;
        if let Some(to) = cut {
            let to = if self.bug == Some(Bug::CutTooLow) { self.start } else { to };
            self.checks.truncate.cut(id, to)?;
            self.checks.promises.cut(id, to);
        }
        match self.nodes[node].run_io(self.now / 1_000) {
            Ok(out) => self.after_node(node, out),
            Err(_) if self.nodes[node].disk.is_down() => {
                let power = self.rng.bool();
                self.count(if power { "power loss inside a disk operation" } else { "kill inside a disk operation" });
                self.node_down(node, power);
                Ok(())
            }
            Err(e) if e.is_no_space() => {
                if let Some(live) = self.live(node, life) {
                    live.io_due = true;
                }
                self.queue.at(self.now + 20_000, Event::NodeIo(node, life));
                Ok(())
            }
            Err(e) => {
                self.count("failed disk operation");
                self.node_step(node, NodeInput::Failed { reason: e.to_string() })?;
                // The timeline is opened anew by the same process.
                self.nodes[node].live = None;
                self.nodes[node].life += 1;
                let life = self.nodes[node].life;
                let at = self.now + self.rng.u64(1_000..50_000);
                self.queue.at(at, Event::Restart(node, life));
                Ok(())
            }
        }
    }

    /// Whether new WAL is still wanted.
    pub(crate) fn produces(&self) -> bool {
        !self.healed || self.target.is_some()
    }

    /// Bytes of a server as messages carry them.
    pub(crate) fn bytes_of(&self, server: usize, from: Lsn, to: Lsn) -> Bytes {
        Bytes::copy_from_slice(self.servers[server].range(from, to))
    }
}
