//! Push: this safekeeper dials the pageservers that chose it. A reconciler: desired set = keys below `P/push/<me>/`,
//! actual set = running pushers.
//!
//! Owner of the pushers: [`run`]. Without its key a push is not dialled; a stream that runs goes on. A broker that is
//! away changes nothing.

mod backoff;
mod desired;
mod dial;
mod pusher;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use broker::Watch;
use proto::id::{NodeId, TenantId, TimelineId};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::net::streams::{Stream, StreamKind};
use crate::server::Context;
use desired::{Change, Choice, Desired};
use pusher::Wanted;

/// The most handshakes with one pageserver at once: after its restart every timeline dials it anew.
const DIALS_PER_PAGESERVER_MAX: usize = 64;

/// Pause before a pusher that panicked starts again.
const PANIC_PAUSE: Duration = Duration::from_secs(15);

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
    /// connecting, streaming, backoff, stale; `None` while no pusher runs.
    pub(crate) state: Option<&'static str>,
}

/// Every choice that fell on this safekeeper.
pub(crate) fn choice_rows(ctx: &Context) -> Vec<ChoiceRow> {
    let streams = ctx.streams.all();
    let row = |c: Choice| {
        let of_choice = |s: &&Arc<Stream>| {
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
            state: streams.iter().find(of_choice).map(|s| s.state().name()),
            reason: c.record.reason,
            chosen_at: c.record.chosen_at,
        }
    };
    ctx.pushes.choices().into_iter().map(row).collect()
}

/// What others may know about the pushes: the choices, and a bound on handshakes per pageserver.
#[derive(Debug, Default)]
pub(crate) struct PushBoard {
    choices: Mutex<Vec<Choice>>,
    dials: Mutex<BTreeMap<String, Arc<Semaphore>>>,
}

impl PushBoard {
    /// The choices that fell on this safekeeper, as the broker showed them last.
    fn choices(&self) -> Vec<Choice> {
        self.choices.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn show(&self, desired: &Desired) {
        *self.choices.lock().unwrap_or_else(PoisonError::into_inner) = desired.choices().cloned().collect();
    }

    /// Permits for handshakes with the pageserver at `address`.
    fn dials(&self, address: &str) -> Arc<Semaphore> {
        let mut dials = self.dials.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Semaphore::new(DIALS_PER_PAGESERVER_MAX));
        Arc::clone(dials.entry(address.to_owned()).or_insert_with(new))
    }
}

struct Running {
    choice: watch::Sender<Wanted>,
    stop: CancellationToken,
    task: Id,
}

struct Reconciler {
    ctx: Arc<Context>,
    running: BTreeMap<String, Running>,
    tasks: JoinSet<()>,
}

/// Follows the choices until the server stops; then ends every push.
pub(crate) async fn run(ctx: Arc<Context>) {
    let keys = ctx.broker.keys().clone();
    let mut watch = Watch::start(ctx.broker.clone(), keys.choices_of(ctx.config.id));
    let mut desired = Desired::default();
    let mut r = Reconciler { ctx: Arc::clone(&ctx), running: BTreeMap::new(), tasks: JoinSet::new() };
    loop {
        tokio::select! {
            () = ctx.cancel.cancelled() => break,
            event = watch.next() => {
                for change in desired.apply(&keys, event) {
                    r.change(change);
                }
                ctx.pushes.show(&desired);
            }
            Some(ended) = r.tasks.join_next_with_id(), if !r.tasks.is_empty() => {
                match ended {
                    Ok((task, ())) => r.ended(task, Duration::ZERO),
                    Err(e) => {
                        error!(error = %e, "a pusher panicked");
                        r.ended(e.id(), PANIC_PAUSE);
                    }
                }
            }
        }
    }
    for running in r.running.values() {
        running.stop.cancel();
    }
    while r.tasks.join_next().await.is_some() {}
}

impl Reconciler {
    fn change(&mut self, change: Change) {
        match change {
            Change::Start(key, choice) | Change::Update(key, choice) => {
                if let Some(running) = self.running.get(&key) {
                    // Of a pusher that just ended, `ended` sees it.
                    running.choice.send_replace(Wanted { choice, gone: false });
                } else {
                    self.start(key, choice, Duration::ZERO);
                }
            }
            Change::Stop(key) => {
                if let Some(running) = self.running.get(&key) {
                    running.choice.send_modify(|wanted| wanted.gone = true);
                }
            }
            Change::Unreadable(key, reason) => warn!(key, reason, "a choice cannot be read"),
        }
    }

    fn start(&mut self, key: String, choice: Choice, pause: Duration) {
        let r = &choice.record;
        info!(ttid = %choice.ttid, pageserver = %r.pageserver_id, reason = r.reason, choice_seq = r.choice_seq,
            token = choice.token, "chosen to push");
        let (sender, receiver) = watch::channel(Wanted { choice, gone: false });
        let stop = self.ctx.cancel.child_token();
        let task = self.tasks.spawn(pusher::run(Arc::clone(&self.ctx), receiver, stop.clone(), pause)).id();
        self.running.insert(key, Running { choice: sender, stop, task });
    }

    /// A pusher ended: because its choice is gone, or by a panic. It starts anew when the choice is there (again).
    fn ended(&mut self, task: Id, pause: Duration) {
        let Some(key) = self.running.iter().find(|(_, r)| r.task == task).map(|(k, _)| k.clone()) else { return };
        if let Some(running) = self.running.remove(&key) {
            let Wanted { choice, gone } = running.choice.borrow().clone();
            if !gone && !self.ctx.cancel.is_cancelled() {
                self.start(key, choice, pause);
            }
        }
    }
}
