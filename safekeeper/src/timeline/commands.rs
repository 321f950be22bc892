//! What is asked of a timeline's driver, and what it says to a proposer.

use std::sync::Arc;

use proto::admission::{AdmissionAnswer, Statement};
use proto::command::StartWalPush;
use proto::consensus::{AcceptorMessage, ProposerMessage};
use proto::pg::SqlError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::core::{ConnId, Refusal};

/// What handles ask of the driver. Unbounded as a channel, bounded by the ports' budgets of bytes.
#[derive(Debug)]
pub(super) enum DriverCommand {
    Connect {
        conn: ConnId,
        command: StartWalPush,
        events: mpsc::Sender<PortEvent>,
        budget: Arc<Semaphore>,
    },
    Message {
        conn: ConnId,
        message: ProposerMessage,
        permit: OwnedSemaphorePermit,
    },
    Disconnect {
        conn: ConnId,
    },
    /// What this member says about itself; `None` while it is not durable.
    Statement {
        answer: oneshot::Sender<Option<Statement>>,
    },
    /// Another member says where it stands.
    Told {
        statement: Box<Statement>,
        answer: oneshot::Sender<Result<AdmissionAnswer, Refusal>>,
    },
    /// Another member answered.
    Answered(Box<AdmissionAnswer>),
    /// An operator decides that this member takes part.
    Vouch,
    Shutdown,
}

/// What the acceptor says to a proposer.
#[derive(Clone, PartialEq, Debug)]
pub enum PortEvent {
    /// Send this message; more may follow.
    Message(AcceptorMessage),
    /// Send this error and close the connection; nothing follows.
    Close(SqlError),
}
