//! A proposer's connection to a timeline's driver: messages in, bounded in bytes; answers out.

use std::sync::Arc;

use proto::consensus::ProposerMessage;
use tokio::sync::{Semaphore, mpsc};

use super::commands::{DriverCommand, PortEvent};
use super::shared::TimelineShared;
use crate::core::ConnId;

/// Answers that wait for a proposer to read them, at most; more closes its connection. A few hundred bytes each.
pub(super) const ANSWERS_MAX: usize = 1024;
/// What a message without WAL counts against the budget of bytes.
const MESSAGE_COST: usize = 512;

/// A proposer's connection to the acceptor.
#[derive(Debug)]
pub struct ProposerPort {
    sender: PortSender,
    receiver: PortReceiver,
}

/// The sending half, for the task that reads the socket. Dropping it disconnects; what was sent is still made durable.
#[derive(Debug)]
pub struct PortSender {
    shared: Arc<TimelineShared>,
    conn: ConnId,
    budget: Arc<Semaphore>,
}

/// The receiving half, for the task that writes the socket.
#[derive(Debug)]
pub struct PortReceiver {
    events: mpsc::Receiver<PortEvent>,
}

/// The timeline closed the port; the receiving half says why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the timeline closed the connection")]
pub struct PortClosed;

impl ProposerPort {
    pub(super) fn new(
        shared: Arc<TimelineShared>,
        conn: ConnId,
        budget: Arc<Semaphore>,
        events: mpsc::Receiver<PortEvent>,
    ) -> ProposerPort {
        ProposerPort { sender: PortSender { shared, conn, budget }, receiver: PortReceiver { events } }
    }

    /// Splits into independently owned halves.
    pub fn split(self) -> (PortSender, PortReceiver) {
        (self.sender, self.receiver)
    }
}

impl PortSender {
    /// Hands over a message; waits while too many bytes are queued. Cancelling it before it is done loses the message.
    ///
    /// # Errors
    /// The timeline closed the port.
    pub async fn send(&mut self, message: ProposerMessage) -> Result<(), PortClosed> {
        let cost = cost(&message).min(self.shared.queue_bytes as usize);
        let cost = u32::try_from(cost).unwrap_or(self.shared.queue_bytes);
        let permit = Arc::clone(&self.budget).acquire_many_owned(cost).await.map_err(|_| PortClosed)?;
        self.shared.commands.send(DriverCommand::Message { conn: self.conn, message, permit }).map_err(|_| PortClosed)
    }
}

impl Drop for PortSender {
    fn drop(&mut self) {
        // When the driver is gone there is nobody to tell.
        let _ = self.shared.commands.send(DriverCommand::Disconnect { conn: self.conn });
    }
}

impl PortReceiver {
    /// The next event; `None` when the timeline is shut down. Cancel safe.
    pub async fn recv(&mut self) -> Option<PortEvent> {
        self.events.recv().await
    }
}

fn cost(message: &ProposerMessage) -> usize {
    match message {
        ProposerMessage::Append(append) => append.wal.len() + MESSAGE_COST,
        ProposerMessage::Elected(elected) => elected.history.entries().len() * 16 + MESSAGE_COST,
        ProposerMessage::Greeting(_) | ProposerMessage::VoteRequest(_) => MESSAGE_COST,
    }
}
