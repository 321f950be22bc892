//! WAL on its way through a shim: from the server into the ring; from the ring, a donor or the server to a node.

use bytes::Bytes;
use pgformat::Lsn;
use proto::consensus::{AppendRequest, ProposerMessage};
use walproposer_shim::core::{PeerId, Phase};
use walproposer_shim::session::course::WalSource;

use super::event::Event;
use super::schedule::{Micros, spread};
use super::shim::Attempt;
use super::world::World;
use crate::check::Violation;

/// Bytes of WAL in one message of a server, at most.
const MESSAGE: u64 = 16 << 10;

impl World {
    /// The servers write.
    pub(crate) fn on_produce(&mut self) -> Result<(), Violation> {
        if !self.produces() {
            return Ok(());
        }
        let next = spread(&mut self.rng, self.profile.produce_every);
        self.queue.at(self.now + next, Event::Produce);
        let writing: Vec<usize> = if self.profile.compute {
            let elected = |a: &Attempt| a.proposer().phase() == Phase::Elected;
            self.shims.iter().filter_map(|s| s.attempt.as_ref().filter(|a| elected(a))?.server).collect()
        } else {
            (0..self.servers.len()).collect()
        };
        for server in writing {
            self.servers[server].write();
        }
        if !self.profile.compute && self.rng.u8(0..40) == 0 {
            self.fork = self.servers.first().map(|s| s.copy(2));
        }
        for shim in 0..self.shims.len() {
            let number = self.shims[shim].attempts;
            self.on_stream(shim, number)?;
        }
        Ok(())
    }

    /// A server sends its shim what it has flushed; sometimes only up to a page in the middle of a record.
    pub(crate) fn on_stream(&mut self, shim: usize, number: u64) -> Result<(), Violation> {
        let Some(attempt) = self.attempt(shim, number) else { return Ok(()) };
        let elected = attempt.proposer().phase() == Phase::Elected;
        let (Some(server), Some(received)) = (attempt.server.filter(|_| elected), attempt.received()) else {
            return Ok(());
        };
        let end = self.servers[server].end();
        if received >= end {
            return Ok(());
        }
        let page = Lsn::new(received.get() + self.rng.u64(0..end.get() - received.get())).page_start();
        let (part, rest) = if self.rng.u8(0..3) == 0 && page > received { (page, true) } else { (end, false) };
        if !self.fill_ring(shim, number, server, part) {
            return Ok(());
        }
        self.shim_turn(shim, |attempt, now| {
            if let Some(ring) = &attempt.ring {
                attempt.course.received(now, ring);
            }
        })?;
        if rest {
            let at = self.now + self.rng.u64(100..5_000);
            self.queue.at(at, Event::Stream(shim, number));
        }
        Ok(())
    }

    /// A shim takes a batch of WAL up to `to` at most; whether there was any.
    fn fill_ring(&mut self, shim: usize, number: u64, server: usize, to: Lsn) -> bool {
        let server = &self.servers[server];
        let shim = &mut self.shims[shim];
        if shim.attempts != number {
            return false;
        }
        let Some(Attempt { ring: Some(ring), starved, .. }) = &mut shim.attempt else { return false };
        let before = ring.end();
        while ring.end() < to && ring.batch_goes_on(before) {
            let at = ring.end();
            let wal = Bytes::copy_from_slice(server.range(at, to.min(at.add(MESSAGE))));
            ring.push(at, wal).expect("the server goes on where the ring ends");
        }
        // Read on when there is room, which there may be already.
        *starved = ring.end() < to;
        ring.end() > before
    }

    /// Sends WAL from where the course finds it. A laggard's WAL takes a while to come from a donor or the server.
    pub(crate) fn append(&mut self, shim: usize, number: u64, peer: PeerId, mut head: AppendRequest) {
        let fetch: Micros = 2 * self.profile.net;
        let Some(attempt) = self.attempt(shim, number) else { return };
        let server = attempt.server;
        let source = attempt.course.source_of(&head, attempt.ring.as_ref(), |donor| attempt.rank(donor));
        let found = match source {
            WalSource::Memory(parts) => Some((Bytes::from(parts.concat()), 0)),
            WalSource::Donor(donor) => {
                let lent = self.lent(donor, &head);
                if lent.is_none()
                    && let Some(failures) = self.attempt(shim, number).map(|a| &mut a.donor_failures[donor.0])
                {
                    *failures += 1;
                }
                lent.map(|wal| (wal, fetch))
            }
            WalSource::Primary => server.map(|s| (self.bytes_of(s, head.begin_lsn, head.end_lsn), fetch)),
            WalSource::Nowhere => None,
        };
        let Some((wal, late)) = found else { return self.give_up(shim, number, peer) };
        assert_eq!(wal.len() as u64, head.end_lsn.get() - head.begin_lsn.get(), "bytes that nobody has");
        head.wal = wal;
        let (end, at) = (head.end_lsn, self.now + late + self.rng.u64(0..2_000));
        if let Some(key) = self.attempt(shim, number).and_then(|a| a.conns[peer.0]) {
            self.queue.at(at, Event::Written(key, end));
        }
        self.send(shim, number, peer, late, ProposerMessage::Append(head));
    }

    /// What a donor gives, when it can be reached and is still in the term of the session.
    fn lent(&self, donor: PeerId, head: &AppendRequest) -> Option<Bytes> {
        let node = self.nodes.get(donor.0).filter(|_| !self.net.cut_off[donor.0])?;
        let positions = node.live.as_ref()?.acceptor.positions();
        let holds = positions.term == head.term && positions.flush_lsn >= Some(head.end_lsn);
        node.read(head.begin_lsn, head.end_lsn).filter(|_| holds).map(Bytes::from)
    }

    /// Nobody has the WAL that a node lacks: its session ends, and another one finds out what it lacks then.
    fn give_up(&mut self, shim: usize, number: u64, peer: PeerId) {
        self.count("no donor");
        let now_ms = self.now / 1_000 + self.shims[shim].clock_ahead_ms;
        let Some(attempt) = self.attempt(shim, number) else { return };
        let key = attempt.conns[peer.0].take();
        attempt.course.gave_up(now_ms, peer);
        if let Some(key) = key {
            self.hang_up(key);
        }
    }
}
