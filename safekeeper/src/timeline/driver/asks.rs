//! Other members' questions that are not answered yet. Owner of who asked.

use std::collections::BTreeMap;

use proto::admission::AdmissionAnswer;
use tokio::sync::oneshot;

use crate::core::{AskId, Refusal};

/// All questions of a timeline. Dropping it tells everybody who asks that there is no answer.
#[derive(Debug, Default)]
pub(super) struct Asks {
    last: u64,
    open: BTreeMap<AskId, oneshot::Sender<Result<AdmissionAnswer, Refusal>>>,
}

impl Asks {
    /// Numbers a question.
    pub(super) fn put(&mut self, answer: oneshot::Sender<Result<AdmissionAnswer, Refusal>>) -> AskId {
        self.last += 1;
        self.open.insert(AskId(self.last), answer);
        AskId(self.last)
    }

    /// Answers it; what the answer promises is durable.
    pub(super) fn answer(&mut self, ask: AskId, answer: AdmissionAnswer) {
        self.send(ask, Ok(answer));
    }

    /// What was said changed nothing.
    pub(super) fn refuse(&mut self, ask: AskId, refusal: Refusal) {
        self.send(ask, Err(refusal));
    }

    fn send(&mut self, ask: AskId, answer: Result<AdmissionAnswer, Refusal>) {
        if let Some(asker) = self.open.remove(&ask) {
            // It may have given up.
            let _ = asker.send(answer);
        }
    }
}
