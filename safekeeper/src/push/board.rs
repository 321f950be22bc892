//! What the rest of the process sees of the pushes: the choices as rows, and a bound on handshakes per pageserver.
//!
//! Owner: the reconciler shows the choices here; pushers take their permits here; status pages read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use proto::api::StreamState;
use proto::id::{NodeId, TenantId, TimelineId};
use serde::Serialize;
use tokio::sync::Semaphore;

use super::desired::{DesiredPushes, PushChoice};
use crate::net::streams::{OutgoingStream, OutgoingStreams, StreamKind};

/// The most handshakes with one pageserver at once: after its restart every timeline dials it anew.
const DIALS_PER_PAGESERVER_MAX: usize = 64;

/// A choice that fell on this safekeeper, as `SHOW CHOICES` and `GET /v1/choices` give it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ChoiceRow {
    pub(crate) tenant_id: TenantId,
    pub(crate) timeline_id: TimelineId,
    pub(crate) pageserver_id: NodeId,
    pub(crate) safekeeper_id: NodeId,
    pub(crate) mode: &'static str,
    pub(crate) reason: String,
    pub(crate) choice_seq: u64,
    pub(crate) chosen_at: String,
    pub(crate) token: i64,
    /// What its stream does; `None` while no pusher runs.
    pub(crate) state: Option<StreamState>,
}

/// What others may know about the pushes: the choices, and a bound on handshakes per pageserver.
#[derive(Debug, Default)]
pub(crate) struct PushBoard {
    choices: Mutex<Vec<PushChoice>>,
    dials: Mutex<BTreeMap<String, Arc<Semaphore>>>,
}

impl PushBoard {
    /// Every choice that fell on this safekeeper, with the state of its stream.
    pub(crate) fn rows(&self, streams: &OutgoingStreams) -> Vec<ChoiceRow> {
        let streams = streams.all();
        let row = |c: PushChoice| {
            let of_choice = |s: &&Arc<OutgoingStream>| {
                (s.kind, s.ttid, s.pageserver) == (StreamKind::Push, c.ttid, Some(c.record.pageserver_id))
            };
            ChoiceRow {
                tenant_id: c.ttid.tenant_id,
                timeline_id: c.ttid.timeline_id,
                pageserver_id: c.record.pageserver_id,
                safekeeper_id: c.record.safekeeper_id,
                mode: "push",
                choice_seq: c.record.choice_seq,
                token: c.token,
                state: streams.iter().find(of_choice).map(|s| s.state()),
                reason: c.record.reason,
                chosen_at: c.record.chosen_at,
            }
        };
        self.choices().into_iter().map(row).collect()
    }

    /// The choices that fell on this safekeeper, as the broker showed them last.
    fn choices(&self) -> Vec<PushChoice> {
        self.choices.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn show(&self, desired: &DesiredPushes) {
        *self.choices.lock().unwrap_or_else(PoisonError::into_inner) = desired.choices().cloned().collect();
    }

    /// Permits for handshakes with the pageserver at `address`.
    pub(super) fn dials(&self, address: &str) -> Arc<Semaphore> {
        let mut dials = self.dials.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Semaphore::new(DIALS_PER_PAGESERVER_MAX));
        Arc::clone(dials.entry(address.to_owned()).or_insert_with(new))
    }
}
