//! Push: this safekeeper dials the pageservers that chose it. A reconciler: desired set = keys below `P/push/<me>/`,
//! actual set = running pushers.
//!
//! Owner of the pushers: [`run`]. Without its key a push is not dialled; a stream that runs goes on. A broker that is
//! away changes nothing.

mod backoff;
pub(crate) mod board;
mod desired;
mod dial;
mod pusher;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use broker::Watch;
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::context::SafekeeperContext;
use desired::{ChoiceChange, DesiredPushes, PushChoice};
use pusher::WantedPush;

/// Pause before a pusher that panicked starts again.
const PANIC_PAUSE: Duration = Duration::from_secs(15);

struct RunningPush {
    choice: watch::Sender<WantedPush>,
    stop: CancellationToken,
    task: Id,
}

struct Reconciler {
    ctx: Arc<SafekeeperContext>,
    running: BTreeMap<String, RunningPush>,
    tasks: JoinSet<()>,
}

/// Follows the choices until the server stops; then ends every push.
pub(crate) async fn run(ctx: Arc<SafekeeperContext>) {
    let keys = ctx.broker.keys().clone();
    let mut watch = Watch::start(ctx.broker.clone(), keys.choices_of(ctx.config.node.id));
    let mut desired = DesiredPushes::default();
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
    fn change(&mut self, change: ChoiceChange) {
        match change {
            ChoiceChange::Start(key, choice) | ChoiceChange::Update(key, choice) => {
                if let Some(running) = self.running.get(&key) {
                    // Of a pusher that just ended, `ended` sees it.
                    running.choice.send_replace(WantedPush { choice, gone: false });
                } else {
                    self.start(key, choice, Duration::ZERO);
                }
            }
            ChoiceChange::Stop(key) => {
                if let Some(running) = self.running.get(&key) {
                    running.choice.send_modify(|wanted| wanted.gone = true);
                }
            }
            ChoiceChange::Unreadable(key, reason) => warn!(key, reason, "a choice cannot be read"),
        }
    }

    fn start(&mut self, key: String, choice: PushChoice, pause: Duration) {
        let r = &choice.record;
        info!(ttid = %choice.ttid, pageserver = %r.pageserver_id, reason = r.reason, choice_seq = r.choice_seq,
            token = choice.token, "chosen to push");
        let (sender, receiver) = watch::channel(WantedPush { choice, gone: false });
        let stop = self.ctx.cancel.child_token();
        let task = self.tasks.spawn(pusher::run(Arc::clone(&self.ctx), receiver, stop.clone(), pause)).id();
        self.running.insert(key, RunningPush { choice: sender, stop, task });
    }

    /// A pusher ended: because its choice is gone, or by a panic. It starts anew when the choice is there (again).
    fn ended(&mut self, task: Id, pause: Duration) {
        let Some(key) = self.running.iter().find(|(_, r)| r.task == task).map(|(k, _)| k.clone()) else { return };
        if let Some(running) = self.running.remove(&key) {
            let WantedPush { choice, gone } = running.choice.borrow().clone();
            if !gone && !self.ctx.cancel.is_cancelled() {
                self.start(key, choice, pause);
            }
        }
    }
}
