//! One attached timeline: the handle that everybody else holds.
//!
//! Owner of the state: the writer (`Ingest`) is owned by the stream that took it from the slot; the chooser by the
//! timeline's manager task. What is in here is what they tell each other and the outside, in cells that are never
//! locked across I/O.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use pgformat::{Lsn, PgMajor};
use proto::api::{AttachRequest, ChoiceStatus, PageserverTimelineState, PageserverTimelineStatus, shown};
use proto::id::{NodeId, TenantTimelineId};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::choose::{Choice, Input, Mode, Progress};
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
    /// The decision.
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

/// A running stream, or one that is about to take over.
#[derive(Clone, Debug)]
pub(crate) struct StreamEntry {
    /// Distinguishes streams of one choice.
    number: u64,
    /// The choice it belongs to.
    pub(crate) choice: Choice,
    /// Whether WAL may flow: the handshake is over.
    pub(crate) live: bool,
    cancel: CancellationToken,
}

/// What the present stream has seen; times are milliseconds since the node started.
#[derive(Debug, Default)]
pub(crate) struct StreamGauge {
    last_message_ms: AtomicU64,
    last_wal_ms: AtomicU64,
    commit_lsn: AtomicU64,
    has_records: AtomicBool,
}

impl StreamGauge {
    fn reset(&self, now: Duration) {
        let now = millis(now);
        self.last_message_ms.store(now, Ordering::Relaxed);
        self.last_wal_ms.store(now, Ordering::Relaxed);
        self.has_records.store(false, Ordering::Relaxed);
    }

    /// A message came, with the sender's commit position.
    pub(crate) fn message(&self, now: Duration, commit: Option<Lsn>) {
        self.last_message_ms.store(millis(now), Ordering::Relaxed);
        self.commit_lsn.fetch_max(Lsn::to_wire(commit), Ordering::Relaxed);
    }

    /// WAL came.
    pub(crate) fn wal(&self, now: Duration, records: u64) {
        self.last_wal_ms.store(millis(now), Ordering::Relaxed);
        if records > 0 {
            self.has_records.store(true, Ordering::Relaxed);
        }
    }

    /// What the source said last.
    pub(crate) fn commit_lsn(&self) -> Option<Lsn> {
        Lsn::from_wire(self.commit_lsn.load(Ordering::Relaxed))
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
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
    /// Its pages.
    pub(crate) store: Arc<Store>,
    /// Its writer; none while its pages are still to be copied.
    pub(crate) ingest: Option<Ingest>,
}

/// The handle.
pub(crate) struct Timeline {
    /// Which.
    pub(crate) ttid: TenantTimelineId,
    /// What it was attached with; none when its control file cannot be read.
    pub(crate) attach: Option<AttachRequest>,
    /// Its pages; none when they cannot be opened.
    pub(crate) store: Option<Arc<Store>>,
    /// How far its import is.
    pub(crate) import: watch::Sender<ImportState>,
    /// The writer, while no stream has it.
    pub(crate) slot: Arc<IngestSlot>,
    /// What the present stream has seen.
    pub(crate) gauge: StreamGauge,
    /// Cancelled when the node stops, and when the timeline is deleted.
    pub(crate) gone: CancellationToken,
    /// Its tasks; streams are ended by [`Timeline::end_stream`].
    pub(crate) tasks: TaskTracker,
    /// Whether it follows the quorum.
    follow: Mutex<Follow>,
    /// The manager must look at the broker's view again.
    pub(crate) view_changed: Notify,
    /// The next stream panics.
    #[cfg(test)]
    pub(crate) stream_panics: AtomicBool,
    position: watch::Sender<IngestPosition>,
    trouble: watch::Sender<Trouble>,
    offer: watch::Sender<Option<Offer>>,
    stream: Mutex<(u64, Option<StreamEntry>)>,
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
            gauge: StreamGauge::default(),
            gone,
            tasks: TaskTracker::new(),
            follow: Mutex::new(Follow::new(Instant::now())),
            view_changed: Notify::new(),
            #[cfg(test)]
            stream_panics: AtomicBool::new(false),
            position: watch::Sender::new(position),
            trouble: watch::Sender::new(Trouble { stopped, full: None, copying }),
            offer: watch::Sender::new(None),
            stream: Mutex::new((0, None)),
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
        if let (_, Some(entry)) = &*self.stream() {
            entry.cancel.cancel();
        }
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

    /// Announces a stream: whoever ran or waited before is cancelled. The guard takes the announcement back.
    pub(crate) fn announce_stream(self: &Arc<Timeline>, choice: Choice) -> StreamGuard {
        let cancel = CancellationToken::new();
        let mut stream = self.stream();
        let number = stream.0 + 1;
        let entry = StreamEntry { number, choice, live: false, cancel: cancel.clone() };
        if let Some(before) = std::mem::replace(&mut *stream, (number, Some(entry))).1 {
            before.cancel.cancel();
        }
        StreamGuard { timeline: self.clone(), number, cancel }
    }

    /// Cancels the stream of choice `seq`.
    pub(crate) fn close_stream(&self, seq: u64) {
        if let (_, Some(entry)) = &*self.stream()
            && entry.choice.seq == seq
        {
            entry.cancel.cancel();
        }
    }

    /// Cancels whatever stream runs or waits.
    pub(crate) fn end_stream(&self) {
        if let (_, Some(entry)) = &*self.stream() {
            entry.cancel.cancel();
        }
    }

    /// The running stream.
    pub(crate) fn running(&self) -> Option<StreamEntry> {
        self.stream().1.clone().filter(|s| s.live)
    }

    /// What the chooser wants to know about the running stream.
    pub(crate) fn progress(&self) -> Option<Progress> {
        let seq = self.running()?.choice.seq;
        let ms = |v: &AtomicU64| Duration::from_millis(v.load(Ordering::Relaxed));
        Some(Progress {
            seq,
            last_message_at: ms(&self.gauge.last_message_ms),
            last_wal_at: ms(&self.gauge.last_wal_ms),
            commit_lsn: self.gauge.commit_lsn(),
            last_record_lsn: self.position().last_record_lsn,
            has_records: self.gauge.has_records.load(Ordering::Relaxed),
        })
    }

    /// Everything about it, for HTTP and SHOW.
    pub(crate) fn status(&self, me: NodeId) -> PageserverTimelineStatus {
        let position = self.position();
        let trouble = self.trouble();
        let offer = self.offer();
        let running = self.running();
        let state = match (&trouble.stopped, trouble.copying, running.as_ref().map(|r| r.choice.mode), &offer) {
            (Some(_), _, _, _) => PageserverTimelineState::Stopped,
            (None, true, _, _) => PageserverTimelineState::Importing,
            (None, false, Some(Mode::Push), _) => PageserverTimelineState::Pushed,
            (None, false, Some(Mode::Pull), _) => PageserverTimelineState::Pulling,
            (None, false, None, Some(_)) => PageserverTimelineState::WaitingForDial,
            (None, false, None, None) => PageserverTimelineState::Idle,
        };
        let now = Instant::now();
        let (lag_bytes, commit, age) = self.lag_and_commit(now);
        let reasons = self.reasons_of(now, &trouble);
        let choice = offer.map(|o| ChoiceStatus {
            safekeeper_id: o.choice.safekeeper,
            reason: o.choice.reason.as_str().to_owned(),
            choice_seq: o.choice.seq,
            chosen_at: o.chosen_at,
            mode: o.choice.mode.as_str().to_owned(),
        });
        PageserverTimelineStatus {
            tenant_id: self.ttid.tenant_id,
            timeline_id: self.ttid.timeline_id,
            pageserver_id: me,
            start_lsn: shown(self.attach.as_ref().map(|a| a.start_lsn)),
            last_record_lsn: position.last_record_lsn,
            disk_consistent_lsn: position.disk_consistent_lsn,
            remote_consistent_lsn: position.disk_consistent_lsn,
            choice,
            state,
            source_commit_lsn: shown(commit.max(self.gauge.commit_lsn())),
            commit_age_ms: age.map(millis),
            lag_bytes,
            reasons,
            stopped: trouble.stopped.or(trouble.full),
            readable_from: shown(self.readable_from().filter(|from| *from <= position.last_record_lsn)),
            import: self.import.borrow().status(),
        }
    }

    /// Bytes behind the commit position, that position, and how old it is.
    fn lag_and_commit(&self, now: Instant) -> (Option<u64>, Option<Lsn>, Option<Duration>) {
        let follow = self.follow();
        let (commit, age) = follow.commit(now).unzip();
        (follow.lag(now, self.position().last_record_lsn), commit, age)
    }

    /// Bytes behind the commit position; none when that is unknown.
    pub(crate) fn lag(&self) -> Option<u64> {
        self.lag_and_commit(Instant::now()).0
    }

    /// Why it does not follow the quorum, each to be read behind "timeline X"; empty: it does.
    pub(crate) fn reasons(&self) -> Vec<String> {
        self.reasons_of(Instant::now(), &self.trouble())
    }

    fn reasons_of(&self, now: Instant, trouble: &Trouble) -> Vec<String> {
        if let Some(why) = &trouble.stopped {
            return vec![format!("is stopped: {why}")];
        }
        if trouble.copying {
            let import = self.import.borrow().status();
            let failed = import.and_then(|i| Some(format!(" (attempt {}: {})", i.attempts, i.last_error?)));
            return vec![format!("is being imported{}", failed.unwrap_or_default())];
        }
        if let Some(why) = &trouble.full {
            return vec![format!("waits for storage: {why}")];
        }
        let chosen = match self.offer().map(|o| o.choice) {
            Some(Choice { mode: Mode::Push, safekeeper, .. }) => format!("waits for safekeeper {safekeeper} to dial"),
            Some(Choice { mode: Mode::Pull, safekeeper, .. }) => format!("dials safekeeper {safekeeper}"),
            None => "has no safekeeper to take WAL from".to_owned(),
        };
        self.follow().reasons(now, self.position().last_record_lsn, &chosen)
    }

    /// The sender told something, and its commit position.
    pub(crate) fn heard(&self, now: Duration, commit: Option<Lsn>) {
        self.gauge.message(now, commit);
        self.follow().heard(Instant::now(), commit);
    }

    /// Takes in what is known now; `told`: the highest commit position on the broker, while that answers.
    pub(crate) fn observe(&self, told: Option<Lsn>) {
        let seen = FollowInput { stream: self.running().is_some(), at: self.position().last_record_lsn, commit: told };
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

    fn stream(&self) -> MutexGuard<'_, (u64, Option<StreamEntry>)> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream's place in the timeline; dropping it gives the place up.
pub(crate) struct StreamGuard {
    timeline: Arc<Timeline>,
    number: u64,
    cancel: CancellationToken,
}

impl StreamGuard {
    /// Cancelled when another stream takes over, or the choice is given up.
    pub(crate) fn cancelled(&self) -> &CancellationToken {
        &self.cancel
    }

    /// The handshake is over; whether the place is still this stream's.
    pub(crate) fn go_live(&self, now: Duration) -> bool {
        let mut stream = self.timeline.stream();
        match &mut stream.1 {
            Some(entry) if entry.number == self.number => {
                entry.live = true;
                self.timeline.gauge.reset(now);
                true
            }
            _ => false,
        }
    }

    /// Whether somebody else took the place.
    pub(crate) fn is_replaced(&self) -> bool {
        self.timeline.stream().1.as_ref().is_none_or(|e| e.number != self.number)
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let mut stream = self.timeline.stream();
        if stream.1.as_ref().is_some_and(|e| e.number == self.number) {
            stream.1 = None;
        }
    }
}
