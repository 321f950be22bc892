//! The Watch service: one task per client stream, any number of watches on it.
//!
//! For each watch, a stream keeps the next revision to send, and reads the history when that grows; nothing is queued.
//! A watch whose next revision is no longer in the history is cancelled, with the oldest revision that is. Invariant:
//! an answer to a progress request names a revision up to which every watch of the stream was sent everything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::{
    PbEvent, PbKeyValue, PbResponseHeader, PbWatchRequest, PbWatchRequestUnion, PbWatchResponse, PbWatchService,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::history::{Commit, EventHistory};
use super::limits::{ANSWER_BYTES_MAX, SLOW_WATCHER_LIMIT, WATCH_KEY_BYTES_MAX, WATCHES_MAX, shown_bytes};
use super::store::{Identity, KeyRange, RequestRefusal};

/// How often a watch that asked for it hears where the store is when nothing happens.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Responses that may wait for a slow client; each holds about [`RESPONSE_BYTES`].
const RESPONSES_MAX: usize = 2;

/// Bytes of events after which a response is sent; a revision is never cut in two.
const RESPONSE_BYTES: usize = 256 << 10;

/// Bytes of events of one revision beyond which a watch is cancelled instead: it lists anew.
const REVISION_BYTES_MAX: u64 = ANSWER_BYTES_MAX;

/// Revisions looked at in one go.
const COMMITS_MAX: usize = 256;

/// Watch id of answers that concern the whole stream, as etcd has it.
const WHOLE_STREAM: i64 = -1;

const NO_PUT: i32 = 0;
const NO_DELETE: i32 = 1;

/// Hands streams to tasks.
#[derive(Clone)]
pub(super) struct Watches {
    history: Arc<EventHistory>,
    identity: Identity,
    cancel: CancellationToken,
    pub(super) streams: TaskTracker,
    room: Room,
}

/// Places of all watches, and bytes of their keys.
#[derive(Clone)]
struct Room {
    watches: Arc<Semaphore>,
    key_bytes: Arc<Semaphore>,
}

impl Watches {
    pub(super) fn new(
        history: Arc<EventHistory>,
        identity: Identity,
        cancel: CancellationToken,
        streams: TaskTracker,
    ) -> Watches {
        let room = Room {
            watches: Arc::new(Semaphore::new(WATCHES_MAX.1)),
            key_bytes: Arc::new(Semaphore::new(WATCH_KEY_BYTES_MAX)),
        };
        Watches { history, identity, cancel, streams, room }
    }
}

impl Room {
    /// A place for a watch with keys of so many bytes; `open` are on its stream already.
    fn take(&self, open: usize, key_bytes: usize) -> Result<[OwnedSemaphorePermit; 2], String> {
        let (of_stream, of_all) = WATCHES_MAX;
        if open >= of_stream {
            return Err(format!("walfabric: {of_stream} watches are open on this stream"));
        }
        let watch = self.watches.clone().try_acquire_owned();
        let watch = watch.map_err(|_| format!("walfabric: {of_all} watches are open"))?;
        let permits = u32::try_from(key_bytes).unwrap_or(u32::MAX);
        let keys = self.key_bytes.clone().try_acquire_many_owned(permits);
        let keys = keys.map_err(|_| format!("walfabric: the keys of all watches have {WATCH_KEY_BYTES_MAX} bytes"))?;
        Ok([watch, keys])
    }
}

#[async_trait]
impl PbWatchService for Watches {
    type WatchStream = ReceiverStream<Result<PbWatchResponse, Status>>;

    async fn watch(&self, request: Request<Streaming<PbWatchRequest>>) -> Result<Response<Self::WatchStream>, Status> {
        let (responses, receiver) = mpsc::channel(RESPONSES_MAX);
        let stream = ServedStream {
            history: self.history.clone(),
            identity: self.identity,
            revision: *self.history.revisions().borrow(),
            watches: BTreeMap::new(),
            next_id: 0,
            room: self.room.clone(),
            responses,
        };
        let (cancel, incoming) = (self.cancel.clone(), request.into_inner());
        self.streams.spawn(async move { cancel.run_until_cancelled(stream.run(incoming)).await });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// The client does not listen any more.
struct Gone;

struct ServedStream {
    history: Arc<EventHistory>,
    identity: Identity,
    /// Durable revision as last seen.
    revision: i64,
    watches: BTreeMap<i64, ServedWatch>,
    next_id: i64,
    room: Room,
    responses: mpsc::Sender<Result<PbWatchResponse, Status>>,
}

struct ServedWatch {
    range: KeyRange,
    next: i64,
    puts: bool,
    deletes: bool,
    prev_kv: bool,
    progress: bool,
    _place: [OwnedSemaphorePermit; 2],
}

/// What a stream waits for.
enum StreamWake {
    Request(Option<PbWatchRequest>),
    Revision,
    Progress,
    Gone,
}

impl ServedStream {
    async fn run(mut self, mut incoming: Streaming<PbWatchRequest>) {
        let mut revisions = self.history.revisions();
        let mut progress = tokio::time::interval(PROGRESS_EVERY);
        progress.reset();
        loop {
            let wake = tokio::select! {
                message = incoming.message() => StreamWake::Request(message.ok().flatten()),
                changed = revisions.changed() => if changed.is_ok() { StreamWake::Revision } else { StreamWake::Gone },
                _ = progress.tick() => StreamWake::Progress,
                () = self.responses.closed() => StreamWake::Gone,
            };
            self.revision = *revisions.borrow_and_update();
            let outcome = match wake {
                StreamWake::Request(Some(request)) => self.obey(request).await,
                StreamWake::Revision => {
                    progress.reset();
                    self.catch_up().await
                }
                StreamWake::Progress => self.tell_progress().await,
                StreamWake::Request(None) | StreamWake::Gone => return,
            };
            if outcome.is_err() {
                return;
            }
        }
    }

    async fn obey(&mut self, request: PbWatchRequest) -> Result<(), Gone> {
        match request.request_union {
            Some(PbWatchRequestUnion::CreateRequest(create)) => {
                let bytes = create.key.len() + create.range_end.len();
                let place = match self.room.take(self.watches.len(), bytes) {
                    Ok(place) => place,
                    Err(reason) => return self.refuse(reason).await,
                };
                let range = KeyRange::new(&create.key, &create.range_end);
                let next = if create.start_revision > 0 { create.start_revision } else { self.revision + 1 };
                let watch = ServedWatch {
                    range,
                    next,
                    puts: !create.filters.contains(&NO_PUT),
                    deletes: !create.filters.contains(&NO_DELETE),
                    prev_kv: create.prev_kv,
                    progress: create.progress_notify,
                    _place: place,
                };
                self.create(create.watch_id, watch).await
            }
            Some(PbWatchRequestUnion::CancelRequest(cancel)) => {
                if self.watches.remove(&cancel.watch_id).is_none() {
                    return Ok(());
                }
                let response = PbWatchResponse { canceled: true, ..self.response(cancel.watch_id) };
                self.send(response).await
            }
            Some(PbWatchRequestUnion::ProgressRequest(_)) => {
                self.catch_up().await?;
                self.send(self.response(WHOLE_STREAM)).await
            }
            None => Ok(()),
        }
    }

    async fn create(&mut self, wanted_id: i64, watch: ServedWatch) -> Result<(), Gone> {
        if wanted_id != 0 && self.watches.contains_key(&wanted_id) {
            let reason = "etcdserver: mvcc: duplicate watch ID provided on the WatchStream";
            return self.refuse(reason.to_owned()).await;
        }
        let id = if wanted_id != 0 {
            wanted_id
        } else {
            while self.watches.contains_key(&self.next_id) {
                self.next_id += 1;
            }
            self.next_id += 1;
            self.next_id - 1
        };
        self.watches.insert(id, watch);
        self.send(PbWatchResponse { created: true, ..self.response(id) }).await?;
        self.catch_up().await
    }

    /// Answers a watch that is not created.
    async fn refuse(&mut self, cancel_reason: String) -> Result<(), Gone> {
        let response = PbWatchResponse { created: true, canceled: true, cancel_reason, ..self.response(WHOLE_STREAM) };
        self.send(response).await
    }

    /// Ends a watch: what it should be told is not there any more, or too much; `floor` is where it may go on.
    async fn end(&mut self, id: i64, floor: i64) -> Result<(), Gone> {
        self.watches.remove(&id);
        let cancel_reason = RequestRefusal::Compacted.text().to_owned();
        let ended = PbWatchResponse { canceled: true, compact_revision: floor, cancel_reason, ..self.response(id) };
        self.send(ended).await
    }

    /// Tells every watch what it has not been told yet.
    async fn catch_up(&mut self) -> Result<(), Gone> {
        let ids: Vec<i64> = self.watches.keys().copied().collect();
        for id in ids {
            while self.watches.get(&id).is_some_and(|watch| watch.next <= self.revision) {
                self.tell_some(id).await?;
            }
        }
        Ok(())
    }

    /// One portion of revisions for one watch.
    async fn tell_some(&mut self, id: i64) -> Result<(), Gone> {
        let Some(watch) = self.watches.get_mut(&id) else { return Ok(()) };
        let commits = match self.history.from(watch.next, COMMITS_MAX) {
            Ok(commits) => commits,
            Err(compacted) => return self.end(id, compacted.floor).await,
        };
        let (mut events, mut bytes, mut told) = (Vec::new(), 0, None);
        for commit in commits.iter().filter(|commit| commit.revision <= self.revision) {
            if watch.bytes_of(commit) > REVISION_BYTES_MAX {
                return self.end(id, commit.revision + 1).await;
            }
            let before = events.len();
            events.extend(watch.events_of(commit));
            told = Some(commit.revision);
            if events.len() > before {
                bytes += commit.bytes;
            }
            if bytes >= RESPONSE_BYTES {
                break;
            }
        }
        // Revisions have no gaps, so none to send means that all were sent.
        watch.next = told.unwrap_or(self.revision) + 1;
        if events.is_empty() {
            return Ok(());
        }
        let header = Some(self.identity.header(told.unwrap_or(self.revision)));
        self.send(PbWatchResponse { header, events, ..self.response(id) }).await
    }

    async fn tell_progress(&mut self) -> Result<(), Gone> {
        self.catch_up().await?;
        let ids: Vec<i64> = self.watches.iter().filter(|(_, watch)| watch.progress).map(|(id, _)| *id).collect();
        for id in ids {
            self.send(self.response(id)).await?;
        }
        Ok(())
    }

    fn header(&self) -> PbResponseHeader {
        self.identity.header(self.revision)
    }

    fn response(&self, watch_id: i64) -> PbWatchResponse {
        PbWatchResponse { header: Some(self.header()), watch_id, ..PbWatchResponse::default() }
    }

    async fn send(&self, response: PbWatchResponse) -> Result<(), Gone> {
        match timeout(SLOW_WATCHER_LIMIT, self.responses.send(Ok(response))).await {
            Ok(sent) => sent.map_err(|_| Gone),
            Err(_) => {
                tracing::warn!(watches = self.watches.len(), "a watcher took nothing for {SLOW_WATCHER_LIMIT:?}, cut");
                Err(Gone)
            }
        }
    }
}

impl ServedWatch {
    fn events_of<'a>(&'a self, commit: &'a Commit) -> impl Iterator<Item = PbEvent> + 'a {
        commit.events.iter().filter(|event| self.wants(event)).map(|event| PbEvent {
            r#type: event.r#type,
            kv: event.kv.clone(),
            prev_kv: event.prev_kv.as_ref().filter(|_| self.prev_kv).cloned(),
        })
    }

    /// Bytes of a revision's events for this watch.
    fn bytes_of(&self, commit: &Commit) -> u64 {
        let shown = |kv: Option<&PbKeyValue>| kv.map_or(0, |kv| shown_bytes(kv, false));
        let bytes =
            |event: &PbEvent| shown(event.kv.as_ref()) + if self.prev_kv { shown(event.prev_kv.as_ref()) } else { 0 };
        commit.events.iter().filter(|event| self.wants(event)).map(bytes).sum()
    }

    fn wants(&self, event: &PbEvent) -> bool {
        let key = event.kv.as_ref().map_or(&[][..], |kv: &PbKeyValue| &kv.key);
        let is_put = event.r#type == 0;
        self.range.contains(key) && if is_put { self.puts } else { self.deletes }
    }
}
