//! What the queue of the simulated world holds.

use pgformat::Lsn;
use proto::admission::{AdmissionAnswer, Statement};
use proto::consensus::{AcceptorMessage, ProposerMessage};
use safekeeper::core::NextAction;

use super::net::ConnKey;

/// Everything that can happen.
#[derive(Debug)]
pub(crate) enum Event {
    ConnectArrives(ConnKey),
    Refused(ConnKey),
    Accepted(ConnKey),
    DialTimeout(ConnKey),
    ToNode(ConnKey, ProposerMessage),
    ToShim(ConnKey, AcceptorMessage),
    BrokenAtNode(ConnKey),
    BrokenAtShim(ConnKey, Option<NextAction>),
    Written(ConnKey, Lsn),
    NodeIo(usize, u64),
    /// A node takes what was said to it.
    NodeWake(usize, u64),
    NodeFlush(usize, u64),
    NodeTick(usize, u64),
    Restart(usize, u64),
    ShimStart(usize),
    ShimTick(usize, u64),
    Campaign(usize, u64),
    SendElected(usize, u64),
    Produce,
    Stream(usize, u64),
    Fault,
    Mend(usize),
    /// A member states where it stands to the others.
    Ask(usize, u64),
    /// That arrives.
    Told(usize, usize, u64, Box<Statement>),
    /// What the other one answers arrives.
    Answered(usize, u64, Box<AdmissionAnswer>),
    /// A member forgets, which another one misses.
    Forget(usize, usize),
    /// The power goes, if faults are still wanted.
    PowerLoss(usize),
    /// The same for all nodes.
    Blackout,
    Heal,
    Settled,
}

/// An event on one line, without the WAL it carries.
pub(crate) fn shown(event: &Event) -> String {
    match event {
        Event::ToNode(key, ProposerMessage::Append(m)) => {
            format!("ToNode({key}) append {} term {}..{} commit {:?}", m.term, m.begin_lsn, m.end_lsn, m.commit_lsn)
        }
        other => format!("{other:?}"),
    }
}
