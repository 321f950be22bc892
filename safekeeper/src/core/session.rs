//! Connections and the greeting: who may talk to this timeline at all.

use pgformat::PgMajor;
use proto::api::TimelineSource;
use proto::consensus::{AcceptorGreeting, AcceptorMessage, ProposerGreeting, ProtoVersion};
use proto::id::{Generation, PrimaryEpoch, SystemId, Term};

use super::conn::Conn;
use super::effect::{ConnId, Effect, Refusal, WriteId};
use super::pending::Pending;
use super::{Acceptor, ControlState};

impl Acceptor {
    pub(super) fn on_connected(
        &mut self,
        conn: ConnId,
        version: ProtoVersion,
        primary_epoch: Option<PrimaryEpoch>,
        effects: &mut Vec<Effect>,
    ) {
        let epoch = primary_epoch.unwrap_or(PrimaryEpoch(0));
        let fresh = Conn { version, epoch, greeted: false, ack_due: false, last_after: None };
        let known = self.conns.insert(conn, fresh);
        assert!(known.is_none(), "connection numbers are used once");
        let refusal = if let Some(reason) = &self.stopped {
            Refusal::Stopped(reason.clone())
        } else if self.state.source == TimelineSource::Vanilla && primary_epoch.is_none() {
            Refusal::EpochMissing
        } else if let Err(refused) = self.check_epoch(epoch) {
            refused
        } else {
            return;
        };
        self.close(conn, refusal, effects);
    }

    /// A primary that was replaced is refused like a lower term, at every message: the epoch may rise while it is
    /// connected.
    pub(super) fn check_epoch(&self, asked: PrimaryEpoch) -> Result<(), Refusal> {
        let here = self.state.primary_epoch;
        if asked < here {
            return Err(Refusal::EpochStale { here, asked });
        }
        if !asked.may_follow(here) {
            let (here, asked) = (here.0, asked.0);
            return Err(Refusal::TooFar { what: "primary_epoch", here, asked, max: PrimaryEpoch::JUMP_MAX });
        }
        Ok(())
    }

    /// A term far above ours is refused before anything comes of it.
    pub(super) fn check_term(&self, asked: Term) -> Result<(), Refusal> {
        let here = self.state.term;
        if asked.may_follow(here) {
            return Ok(());
        }
        Err(Refusal::TooFar { what: "term", here: here.0, asked: asked.0, max: Term::JUMP_MAX })
    }

    /// What every message after the greeting needs: greeted, current epoch, equal generation.
    pub(super) fn check_session(&self, conn: ConnId, generation: Generation) -> Result<PrimaryEpoch, Refusal> {
        let known = self.conns.get(&conn).ok_or(Refusal::OutOfOrder("the connection is closed"))?;
        if !known.greeted {
            return Err(Refusal::OutOfOrder("the first message must be a greeting"));
        }
        self.check_epoch(known.epoch)?;
        let here = self.state.mconf.generation;
        if generation != here {
            return Err(Refusal::WrongGeneration { here, asked: generation });
        }
        Ok(known.epoch)
    }

    pub(super) fn on_greeting(
        &mut self,
        conn: ConnId,
        greeting: &ProposerGreeting,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let known = self.conns.get(&conn).expect("messages of closed connections are dropped before");
        if known.greeted {
            return Err(Refusal::OutOfOrder("a second greeting"));
        }
        check_identity(&self.state, greeting)?;
        if known.version == ProtoVersion::V2 && self.state.mconf.generation != Generation::NONE {
            let here = self.state.mconf.generation;
            return Err(Refusal::WrongGeneration { here, asked: Generation::NONE });
        }
        let changed = self.learn_from(greeting)?;
        if let Some(known) = self.conns.get_mut(&conn) {
            known.greeted = true;
        }
        let after = if changed { Some(self.persist(effects)) } else { None };
        let mconf = self.state.mconf.clone();
        let reply = AcceptorGreeting { node_id: self.config.node_id, mconf, term: self.state.term };
        self.reply(conn, AcceptorMessage::Greeting(reply), after, effects);
        Ok(())
    }

    /// Takes over what was unknown, and a newer configuration that contains this node. True when something must be
    /// persisted.
    fn learn_from(&mut self, greeting: &ProposerGreeting) -> Result<bool, Refusal> {
        let mut changed = false;
        let generation = greeting.mconf.generation;
        if generation > self.state.mconf.generation {
            if !generation.may_follow(self.state.mconf.generation) {
                let (here, asked) = (self.state.mconf.generation.0.into(), generation.0.into());
                let max = Generation::JUMP_MAX.into();
                return Err(Refusal::TooFar { what: "configuration generation", here, asked, max });
            }
            let node = self.config.node_id;
            if !greeting.mconf.contains(node) {
                return Err(Refusal::NotAMember { node, generation });
            }
            self.state.mconf = greeting.mconf.clone();
            changed = true;
        }
        if self.state.system_id == SystemId(0) && greeting.system_id != SystemId(0) {
            self.state.system_id = greeting.system_id;
            changed = true;
        }
        if greeting.pg_version_num != 0 && self.state.pg_version_num != greeting.pg_version_num {
            self.state.pg_version_num = greeting.pg_version_num;
            changed = true;
        }
        Ok(changed)
    }

    /// Sends a reply that waits for `after`, and for whatever the connection's reply before it waits for.
    pub(super) fn reply(
        &mut self,
        conn: ConnId,
        message: AcceptorMessage,
        after: Option<WriteId>,
        effects: &mut Vec<Effect>,
    ) {
        let oldest = self.pending.front().map(Pending::id);
        let Some(known) = self.conns.get_mut(&conn) else { return };
        // What is finished needs no waiting for: pending ids rise, so everything below the oldest one is done.
        let after = after.max(known.last_after).filter(|a| oldest.is_some_and(|o| *a >= o));
        known.last_after = after;
        effects.push(Effect::Reply { conn, message, after });
    }

    pub(super) fn close(&mut self, conn: ConnId, refusal: Refusal, effects: &mut Vec<Effect>) {
        if self.conns.contains_key(&conn) {
            self.drop_conn(conn);
            effects.push(Effect::Close { conn, refusal });
            // What it sent before stays in the log: make it durable, as at any disconnect.
            self.flush_now(effects);
        }
    }

    pub(super) fn drop_conn(&mut self, conn: ConnId) {
        self.conns.remove(&conn);
        self.parked.retain(|(of, _)| *of != conn);
        if self.pusher == Some(conn) {
            self.pusher = None;
        }
    }
}

/// Same timeline, same cluster, same segment size, a PostgreSQL of the same supported major.
fn check_identity(state: &ControlState, greeting: &ProposerGreeting) -> Result<(), Refusal> {
    if greeting.ttid != state.ttid {
        return Err(Refusal::WrongTimeline { here: state.ttid, asked: greeting.ttid });
    }
    if greeting.seg_size != state.seg_size {
        return Err(Refusal::WrongSegSize { here: state.seg_size.bytes(), asked: greeting.seg_size.bytes() });
    }
    let both_known = greeting.system_id != SystemId(0) && state.system_id != SystemId(0);
    if both_known && greeting.system_id != state.system_id {
        return Err(Refusal::WrongSystem { here: state.system_id, asked: greeting.system_id });
    }
    if greeting.pg_version_num != 0 {
        let (here, asked) = (state.pg_version_num, greeting.pg_version_num);
        let major = PgMajor::from_version_num(asked);
        if major.is_none() || (here != 0 && PgMajor::from_version_num(here) != major) {
            return Err(Refusal::WrongVersion { here, asked });
        }
    }
    Ok(())
}
