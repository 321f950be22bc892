//! One attached timeline: the handle that everybody else holds.
//!
//! Owner of the state: the writer (`Ingest`) is owned by the stream that took it from the slot; the chooser by the
//! timeline's manager task. What is in here is what they tell each other and the outside, in cells that are never
//! locked across I/O.
//!
//! | module | what |
//! |---|---|
//! | [`stream`] | the place that one stream has at a time: a leaf |
//! | `status` | everything about a timeline, as the outside sees it |

mod status;
pub(crate) mod stream;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use pgformat::{Lsn, PgMajor};
use proto::api::AttachRequest;
use proto::id::TenantTimelineId;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::stream::StreamPlace;
use crate::choose::{Choice, Input, Progress};
use crate::follow::{Follow, FollowInput};
use crate::import::state::ImportState;
use crate::ingest::lease::IngestSlot;
use crate::ingest::{Ingest, IngestPosition};
use crate::read::TimelineReads;
use crate::read::live::LiveReads;
use crate::store::{Intake, Store};

/// Inputs that may wait for a timeline's manager: streams begin and end rarely, senders wait beyond this.
const EVENTS_MAX: usize = 64;

/// A choice as it was published, and what a safekeeper must present to be that choice's pusher.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Offer {
    /// The decision that was published.
    pub(crate) choice: Choice,
    /// When, RFC 3339.
    pub(crate) chosen_at: String,
    /// Secret of this choice; empty in mode pull.
    pub(crate) nonce: String,
    /// Its key on the broker; empty in mode pull.
    pub(crate) key: String,
    /// Revision of the key; none while the broker has not answered.
    pub(crate) token: Option<i64>,
}

/// Why nothing is taken in.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Trouble {
    /// For good, until a restart.
    pub(crate) stopped: Option<String>,
    /// Until space returns.
    pub(crate) full: Option<String>,
    /// Until its pages are copied: no safekeeper is chosen.
    pub(crate) copying: bool,
}

/// What was found when a timeline was opened.
pub(crate) struct TimelineParts {
    /// What it was attached with.
    pub(crate) attach: AttachRequest,
    /// Its pages, as storage has them.
    pub(crate) store: Arc<Store>,
    /// Its writer; none while its pages are still to be copied.
    pub(crate) ingest: Option<Ingest>,
}

/// The handle of one timeline: what its tasks and the outside share.
pub(crate) struct Timeline {
    /// Its id, with its tenant's.
    pub(crate) ttid: TenantTimelineId,
    /// What it was attached with; none when its control file cannot be read.
    pub(crate) attach: Option<AttachRequest>,
    /// Its pages; none when they cannot be opened.
    pub(crate) store: Option<Arc<Store>>,
    /// How far its import is.
    pub(crate) import: watch::Sender<ImportState>,
    /// The writer, while no stream has it.
    pub(crate) slot: Arc<IngestSlot>,
    /// The place that one stream has at a time, and what that has seen.
    pub(crate) stream: Arc<StreamPlace>,
    /// Cancelled when the node stops, and when the timeline is deleted.
    pub(crate) gone: CancellationToken,
    /// Its tasks; streams are ended by [`StreamPlace::end`].
    pub(crate) tasks: TaskTracker,
    /// Whether it follows the quorum.
    follow: Mutex<Follow>,
    /// The manager must look at the broker's view again.
    pub(crate) view_changed: Notify,
    /// The next stream panics.
    #[cfg(test)]
    pub(crate) stream_panics: std::sync::atomic::AtomicBool,
    position: watch::Sender<IngestPosition>,
    trouble: watch::Sender<Trouble>,
    offer: watch::Sender<Option<Offer>>,
    events: mpsc::Sender<Input>,
    choice_seq: AtomicU64,
    reads: RwLock<Option<Arc<dyn TimelineReads>>>,
}

impl Timeline {
    /// A timeline and the queue that its manager reads; `gone` is cancelled when its tasks shall end.
    pub(crate) fn new(
        ttid: TenantTimelineId,
        opened: Result<TimelineParts, String>,
        choice_seq: u64,
        gone: CancellationToken,
    ) -> (Arc<Timeline>, mpsc::Receiver<Input>) {
        let (events, queue) = mpsc::channel(EVENTS_MAX);
        let unknown = Lsn::new(0);
        let nowhere =
            IngestPosition { last_record_lsn: unknown, last_record_start: None, disk_consistent_lsn: unknown };
        let (attach, store, ingest, stopped) = match opened {
            Ok(TimelineParts { attach, store, ingest }) => (Some(attach), Some(store), ingest, None),
            Err(why) => (None, None, None, Some(why)),
        };
        let version = attach.as_ref().and_then(|a| PgMajor::from_version_num(a.pg_version_num));
        let live = |(store, version)| Arc::new(LiveReads::new(store, version)) as Arc<dyn TimelineReads>;
        let reads = store.clone().zip(version).map(live);
        let position = ingest.as_ref().map_or(nowhere, Ingest::position);
        let copying = ingest.is_none() && stopped.is_none();
        let timeline = Timeline {
            ttid,
            attach,
            store,
            import: watch::Sender::new(ImportState::default()),
            slot: IngestSlot::new(ingest),
            stream: Arc::default(),
            gone,
            tasks: TaskTracker::new(),
            follow: Mutex::new(Follow::new(Instant::now())),
            view_changed: Notify::new(),
            #[cfg(test)]
            stream_panics: Default::default(),
            position: watch::Sender::new(position),
            trouble: watch::Sender::new(Trouble { stopped, full: None, copying }),
            offer: watch::Sender::new(None),
            events,
            choice_seq: AtomicU64::new(choice_seq),
            reads: RwLock::new(reads),
        };
        (Arc::new(timeline), queue)
    }

    /// Its pages; none when its store cannot be opened.
    pub(crate) fn reads(&self) -> Option<Arc<dyn TimelineReads>> {
        self.reads.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Other pages than those of the store.
    #[cfg(test)]
    pub(crate) fn set_reads(&self, reads: Arc<dyn TimelineReads>) {
        *self.reads.write().unwrap_or_else(PoisonError::into_inner) = Some(reads);
    }

    /// How far it is.
    pub(crate) fn position(&self) -> IngestPosition {
        *self.position.borrow()
    }

    /// To wait for a position.
    pub(crate) fn positions(&self) -> watch::Receiver<IngestPosition> {
        self.position.subscribe()
    }

    /// The stream's report of how far it is.
    pub(crate) fn set_position(&self, position: IngestPosition) {
        self.position.send_if_modified(|old| std::mem::replace(old, position) != position);
    }

    /// Storage has everything up to `lsn`; whoever flushed without a stream says so.
    pub(crate) fn note_durable(&self, lsn: Lsn) {
        self.position.send_if_modified(|p| {
            let moved = p.disk_consistent_lsn < lsn && lsn <= p.last_record_lsn;
            if moved {
                p.disk_consistent_lsn = lsn;
            }
            moved
        });
    }

    /// Why nothing is taken in.
    pub(crate) fn trouble(&self) -> Trouble {
        let mut trouble = self.trouble.borrow().clone();
        // Since the opening, maybe: then no stream has met it yet.
        if let Some(store) = self.store.as_ref().filter(|store| !store.is_claimed()) {
            match &*store.intake().borrow() {
                Intake::Full(why) => trouble.full = Some(why.clone()),
                Intake::Stopped(why) => trouble.stopped = trouble.stopped.or(Some(why.clone())),
                Intake::Open | Intake::Busy => {}
            }
        }
        trouble
    }

    /// To wait for trouble.
    pub(crate) fn troubles(&self) -> watch::Receiver<Trouble> {
        self.trouble.subscribe()
    }

    /// Nothing is taken in until a restart.
    pub(crate) fn set_stopped(&self, why: &str) {
        self.trouble.send_modify(|t| t.stopped = Some(why.to_owned()));
    }

    /// A part of it panicked: nothing is taken in until a restart, and the running stream ends.
    pub(crate) fn part_panicked(&self, part: &str, panic: &str) {
        tracing::error!(timeline = %self.ttid, "stopped: its {part} panicked: {panic}");
        // The first reason is the cause.
        self.trouble.send_modify(|t| t.stopped = t.stopped.take().or(Some(format!("its {part} panicked: {panic}"))));
        self.stream.end();
    }

    /// The disk is full, or has space again; whether that is news.
    pub(crate) fn set_full(&self, why: Option<&str>) -> bool {
        self.trouble.send_if_modified(|t| {
            let news = t.full.is_some() != why.is_some();
            t.full = why.map(str::to_owned);
            news
        })
    }

    /// Pages are being copied, so that no WAL is wanted; or they are there, and `ingest` takes it in from now on.
    pub(crate) fn set_copying(&self, ingest: Option<Ingest>) {
        let copying = ingest.is_none();
        if let Some(ingest) = ingest {
            self.set_position(ingest.position());
            self.slot.put(ingest);
        }
        self.trouble.send_modify(|t| t.copying = copying);
        self.view_changed.notify_one();
    }

    /// The import cannot go on and begins anew.
    pub(crate) fn import_again(&self, why: &str) {
        self.import.send_modify(|import| import.again = Some(why.to_owned()));
    }

    /// Pages can be read from here on, once WAL is ingested up to there; none while that is not known.
    pub(crate) fn readable_from(&self) -> Option<Lsn> {
        self.store.as_ref()?.readable_from()
    }

    /// The choice that stands.
    pub(crate) fn offer(&self) -> Option<Offer> {
        self.offer.borrow().clone()
    }

    /// To wait for another choice, or for its token.
    pub(crate) fn offers(&self) -> watch::Receiver<Option<Offer>> {
        self.offer.subscribe()
    }

    /// The manager's word.
    pub(crate) fn set_offer(&self, offer: Option<Offer>) {
        if let Some(o) = &offer {
            self.choice_seq.fetch_max(o.choice.seq, Ordering::Relaxed);
        }
        self.offer.send_replace(offer);
    }

    /// Number of the last choice made.
    pub(crate) fn choice_seq(&self) -> u64 {
        self.choice_seq.load(Ordering::Relaxed)
    }

    /// Tells the manager; waits when it is busy.
    pub(crate) async fn tell(&self, input: Input) {
        // A manager that is gone is being shut down: nobody needs the news.
        let _ = self.events.send(input).await;
    }

    /// What the chooser wants to know about the running stream.
    pub(crate) fn progress(&self) -> Option<Progress> {
        let seq = self.stream.running()?.choice.seq;
        let gauge = &self.stream.gauge;
        let (last_message_at, last_wal_at) = gauge.heard_at();
        Some(Progress {
            seq,
            last_message_at,
            last_wal_at,
            commit_lsn: gauge.commit_lsn(),
            last_record_lsn: self.position().last_record_lsn,
            has_records: gauge.has_records(),
        })
    }

    /// The sender told something, and its commit position.
    pub(crate) fn heard(&self, now: Duration, commit: Option<Lsn>) {
        self.stream.gauge.message(now, commit);
        self.follow().heard(Instant::now(), commit);
    }

    /// Takes in what is known now; `told`: the highest commit position on the broker, while that answers.
    pub(crate) fn observe(&self, told: Option<Lsn>) {
        let seen =
            FollowInput { stream: self.stream.running().is_some(), at: self.position().last_record_lsn, commit: told };
        self.follow().observe(Instant::now(), seen);
    }

    /// A stream ended; `refused`: for WAL that cannot be taken.
    pub(crate) fn stream_ended(&self, refused: bool, text: String) {
        self.follow().ended(refused, text);
    }

    /// Records were taken in.
    pub(crate) fn took_records(&self) {
        self.follow().took();
    }

    fn follow(&self) -> MutexGuard<'_, Follow> {
        self.follow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
