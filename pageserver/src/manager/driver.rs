//! One task per timeline: owns the chooser, feeds it, and does what it says.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use broker::BrokerError;
use futures::future::BoxFuture;
use node::parts;
use proto::broker::records::PageserverTimelineRecord;
use proto::id::NodeId;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::publish;
use crate::choose::{Choice, Chooser, Effect, Input};
use crate::process::Pageserver;
use crate::receive::pull;
use crate::timeline::Timeline;

/// Rules that rest on time alone are looked at this often.
const TICK: Duration = Duration::from_secs(1);

type Putting = BoxFuture<'static, (u64, Result<i64, BrokerError>)>;

struct ChoiceDriver {
    pageserver: Arc<Pageserver>,
    timeline: Arc<Timeline>,
    chooser: Chooser,
    effects: Vec<Effect>,
    /// The put under way; at most one.
    putting: Option<Putting>,
    /// Keys of choices that the broker has, or may have.
    keys: BTreeSet<String>,
    /// What an earlier life of this pageserver may have left on its old lease is in `keys`, or gone.
    swept: bool,
    counted: Option<NodeId>,
    published: Option<PageserverTimelineRecord>,
}

/// Runs the connection manager of `timeline` until the node stops.
pub(crate) async fn run(pageserver: Arc<Pageserver>, timeline: Arc<Timeline>, mut events: mpsc::Receiver<Input>) {
    let chooser = Chooser::new(pageserver.config.choice.clone(), seed(&pageserver, &timeline), timeline.choice_seq());
    let mut driver = ChoiceDriver {
        pageserver,
        timeline,
        chooser,
        effects: Vec::new(),
        putting: None,
        keys: BTreeSet::new(),
        swept: false,
        counted: None,
        published: None,
    };
    driver.publish_record();
    // The broker may have shown everything before this timeline was attached, and stay silent for long.
    driver.timeline.view_changed.notify_one();
    // What was offered is taken back also when the chooser dies: nobody shall push for it.
    let worked = parts::caught(driver.work(&mut events)).await;
    if let Err(panic) = worked {
        driver.timeline.part_panicked("chooser", &panic);
        driver.give_up();
    } else if !driver.pageserver.shutdown.is_cancelled() {
        driver.forget();
    }
}

/// Names (pageserver, timeline) for the rendezvous hash.
fn seed(pageserver: &Pageserver, timeline: &Timeline) -> u64 {
    let id = timeline.ttid.timeline_id;
    let head = id.bytes().first_chunk::<8>().map_or(0, |b| u64::from_le_bytes(*b));
    head ^ pageserver.config.node.id.0.rotate_left(32)
}

impl ChoiceDriver {
    async fn work(&mut self, events: &mut mpsc::Receiver<Input>) {
        let mut troubles = self.timeline.troubles();
        let mut tick = Instant::now();
        let shutdown = self.timeline.gone.clone();
        loop {
            #[cfg(test)]
            crate::planted::look(self.timeline.ttid, "choosing");
            let (stopped, copying) = {
                let trouble = troubles.borrow_and_update();
                (trouble.stopped.is_some(), trouble.copying)
            };
            if stopped || copying {
                self.give_up();
                // What was chosen before counts no more when streams are wanted again.
                let (pageserver, timeline) = (&self.pageserver, &self.timeline);
                self.chooser =
                    Chooser::new(pageserver.config.choice.clone(), seed(pageserver, timeline), timeline.choice_seq());
                // Still answers events, so that no stream waits for a queue that nobody reads.
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    _ = events.recv() => continue,
                    Ok(()) = troubles.changed() => continue,
                }
            }
            let wake = self.next_wakeup(tick);
            let input = tokio::select! {
                () = shutdown.cancelled() => return,
                Some(event) = events.recv() => Some(event),
                () = self.timeline.view_changed.notified() => Some(self.view()),
                done = finished(&mut self.putting) => Some(self.on_put(done)),
                Ok(()) = troubles.changed() => None,
                () = sleep_until(wake) => {
                    if wake >= tick {
                        tick = Instant::now() + TICK;
                    }
                    Some(Input::Tick)
                }
            };
            if let Some(input) = input {
                self.step(input).await;
            }
        }
    }

    fn next_wakeup(&self, tick: Instant) -> Instant {
        let now = self.pageserver.now();
        let due = self.chooser.next_wakeup(now).map(|at| Instant::now() + at.saturating_sub(now));
        due.map_or(tick, |due| due.min(tick))
    }

    fn view(&self) -> Input {
        let pushes = self.pageserver.pushes().clone();
        Input::View(self.pageserver.directory.view(self.timeline.ttid, &pushes))
    }

    async fn step(&mut self, input: Input) {
        let now = self.pageserver.now();
        let mut effects = std::mem::take(&mut self.effects);
        if let Some(progress) = self.timeline.progress() {
            self.chooser.step(now, Input::Progress(progress), &mut effects);
        }
        self.chooser.step(now, input, &mut effects);
        for effect in effects.drain(..) {
            self.carry_out(effect);
        }
        self.effects = effects;
        self.publish_record();
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Publish(choice) => self.publish(choice),
            Effect::Dial(choice) => self.dial(choice),
            Effect::Close { seq } => self.timeline.stream.close(seq),
        }
    }

    fn publish(&mut self, choice: Choice) {
        let offer = match publish::offer(&self.pageserver, &self.timeline, choice) {
            Ok(offer) => offer,
            Err(e) => {
                tracing::error!(timeline = %self.timeline.ttid, "no random bytes for a nonce: {e}");
                let failed = Err(BrokerError::Refused { operation: "nonce", detail: e.to_string() });
                self.putting = Some(Box::pin(std::future::ready((choice.seq, failed))));
                return;
            }
        };
        self.note_choice(&choice);
        self.sweep();
        let record = publish::choice_record(&self.pageserver, &self.timeline, &offer);
        let delete = self.keys.iter().filter(|k| **k != offer.key).cloned().collect();
        let (session, key, seq) = (self.pageserver.session.clone(), offer.key.clone(), choice.seq);
        // Before the put: the safekeeper may dial before we hear from the broker.
        self.keys.insert(key.clone());
        self.timeline.set_offer(Some(offer));
        let limit = self.pageserver.config.choice.publish_timeout;
        let put = publish::put_choice(session, delete, key, record, limit);
        self.putting = Some(Box::pin(async move { (seq, put.await) }));
    }

    /// Before the first choice: whoever lives may still see a choice of the process before this one and would dial
    /// for it.
    fn sweep(&mut self) {
        if !std::mem::replace(&mut self.swept, true) {
            let (keys, me) = (self.pageserver.broker.keys(), self.pageserver.config.node.id);
            let living = self.pageserver.directory.safekeepers();
            self.keys.extend(living.iter().map(|sk| keys.choice(sk.id, self.timeline.ttid, me)));
        }
    }

    fn on_put(&mut self, (seq, result): (u64, Result<i64, BrokerError>)) -> Input {
        let offer = self.timeline.offer().filter(|o| o.choice.seq == seq);
        match (result, offer) {
            (Ok(token), Some(mut offer)) => {
                self.keys.retain(|k| *k == offer.key);
                offer.token = Some(token);
                self.timeline.set_offer(Some(offer));
                Input::Published { seq }
            }
            (Ok(_), None) => Input::Tick,
            (Err(e), _) => {
                tracing::warn!(timeline = %self.timeline.ttid, "choice {seq} could not be published: {e}");
                Input::PublishFailed { seq }
            }
        }
    }

    fn dial(&mut self, choice: Choice) {
        self.note_choice(&choice);
        self.withdraw_keys();
        match publish::offer(&self.pageserver, &self.timeline, choice) {
            Ok(offer) => self.timeline.set_offer(Some(offer)),
            Err(e) => tracing::error!(timeline = %self.timeline.ttid, "no offer: {e}"),
        }
        // A candidate without a node record is no candidate; if it went just now, the dial fails and says so.
        let address = self.pageserver.directory.address(choice.safekeeper).unwrap_or_default();
        let pull = pull::run(self.pageserver.clone(), self.timeline.clone(), choice, address);
        self.pageserver.run_part(&self.timeline, "pull stream", pull);
    }

    fn note_choice(&mut self, choice: &Choice) {
        self.pageserver.metrics.chose(choice);
        tracing::info!(
            timeline = %self.timeline.ttid, safekeeper = %choice.safekeeper, seq = choice.seq,
            mode = choice.mode.as_str(), reason = choice.reason.as_str(), "choice"
        );
        self.count(Some(choice.safekeeper));
    }

    fn count(&mut self, chosen: Option<NodeId>) {
        let mut pushes = self.pageserver.pushes();
        if let Some(before) = self.counted.take()
            && let Some(n) = pushes.get_mut(&before)
        {
            *n = n.saturating_sub(1);
        }
        if let Some(id) = chosen {
            *pushes.entry(id).or_insert(0) += 1;
        }
        self.counted = chosen;
    }

    fn withdraw_keys(&mut self) {
        for key in std::mem::take(&mut self.keys) {
            self.pageserver.session.withdraw(&key);
        }
    }

    /// The timeline takes nothing in any more: nobody shall push it here.
    fn give_up(&mut self) {
        self.putting = None;
        self.withdraw_keys();
        self.count(None);
        self.timeline.set_offer(None);
        self.publish_record();
    }

    /// The timeline is deleted: the broker shall know nothing of it.
    fn forget(&mut self) {
        self.give_up();
        let key = self.pageserver.broker.keys().timeline_pageserver(self.timeline.ttid, self.pageserver.config.node.id);
        self.pageserver.session.withdraw(&key);
    }

    /// Tells the broker when something changed; the session merges what comes within a second.
    fn publish_record(&mut self) {
        let record = publish::timeline_record(&self.pageserver, &self.timeline);
        if self.published.as_ref() == Some(&record) {
            return;
        }
        match serde_json::to_vec(&record) {
            Ok(value) => {
                let key = self
                    .pageserver
                    .broker
                    .keys()
                    .timeline_pageserver(self.timeline.ttid, self.pageserver.config.node.id);
                self.pageserver.session.publish(key, value);
                self.published = Some(record);
            }
            Err(e) => tracing::error!(timeline = %self.timeline.ttid, "record cannot be written as JSON: {e}"),
        }
    }
}

/// The end of the put under way; for ever when there is none.
async fn finished(putting: &mut Option<Putting>) -> (u64, Result<i64, BrokerError>) {
    match putting {
        Some(put) => {
            let done = put.await;
            *putting = None;
            done
        }
        None => std::future::pending().await,
    }
}
