//! One task per safekeeper address: dials when told to, carries messages both ways, fetches a laggard's WAL from a
//! donor, or once more from the primary.
//!
//! The task owns its connection; the driver owns everything else and talks to it through a bounded queue. Nothing is
//! decided here: what is sent, and when, comes from the core. Reading never waits for writing.
//!
//! The session's course numbers the sessions of each address. Events carry the number, so that those of a session that
//! was closed are ignored, and commands of a session that is gone are dropped until the next [`PeerCommand::Dial`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use libpq::{ClientConnection, CopyEvent, CopyReader, CopyWriter, NetError};
use pgformat::Lsn;
use proto::consensus::{AcceptorMessage, AppendRequest, ProposerMessage, ProtoVersion};
use proto::pg::{SqlError, sqlstate};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::config::ShimConfig;
use crate::core::PeerId;
use crate::dial::safekeeper;
use crate::dial::upstream::{self, PrimaryIdentity};
use crate::dial::wal_reader::{StretchError, WalReader};
use crate::status::donors::Lent;

/// Commands that wait for a stalled safekeeper. WAL among them is bounded by the core's window (1 MiB); this bounds
/// the rest. A queue that is full closes the session: the safekeeper is fed again after it reconnects.
pub(crate) const COMMANDS: usize = 4096;

/// Events that wait for the driver, of all safekeepers together: acknowledgements are small, and a full queue only
/// stops reading from the sockets.
pub(crate) const EVENTS: usize = 1024;

/// Bytes gathered before they are given to the socket: two appends of the largest size.
const GATHER: usize = 2 * proto::consensus::MAX_SEND_SIZE;

/// From the driver.
#[derive(Debug)]
pub(crate) enum PeerCommand {
    /// Open a session under this number.
    Dial(u64),
    /// Close the session.
    Close,
    /// A message without WAL, encoded.
    Send(Bytes),
    /// An append: its head, the WAL in pieces, and where it ends.
    Wal {
        /// The message before its WAL, encoded.
        head: Bytes,
        /// The bytes, in order.
        parts: Vec<Bytes>,
        /// Position after them.
        end: Lsn,
    },
    /// An append whose WAL is fetched.
    Fetch {
        /// The message, without WAL.
        head: AppendRequest,
        /// Who is asked for the WAL.
        source: CatchUpSource,
    },
}

/// In the message of a safekeeper whose committed WAL would be cut.
const PARTED: &str = "below the committed";

/// Where WAL is fetched that is not in memory any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum CatchUpSource {
    /// The safekeeper at this index of the address list.
    Donor(usize),
    /// The primary of the session.
    Primary(PrimaryIdentity),
}

/// To the driver.
#[derive(Debug)]
pub(crate) struct PeerEvent {
    /// The address that it is about.
    pub(crate) peer: PeerId,
    /// Of which session.
    pub(crate) session: u64,
    /// What happened in that session.
    pub(crate) what: Happened,
}

/// What happened on a session.
#[derive(Debug)]
pub(crate) enum Happened {
    /// START_WAL_PUSH was accepted.
    Connected,
    /// A message arrived.
    Message(AcceptorMessage),
    /// WAL up to here was given to the socket.
    Written(Lsn),
    /// The session failed, or never came about.
    Disconnected(Failure),
}

/// Why a session failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Failure {
    /// What went wrong, in words.
    pub(crate) reason: String,
    /// What the driver makes of it.
    pub(crate) kind: FailureKind,
}

/// What follows from a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum FailureKind {
    /// It is away, or refuses for a reason that may pass: dial again.
    Away,
    /// It knows a newer epoch of the primary.
    Fenced,
    /// It holds committed WAL that the log elected lacks.
    Parted,
    /// It found that what it holds, or was sent, is damaged (XX001): what it was sent last of another safekeeper's WAL
    /// in this session.
    Damaged(Option<Lent>),
    /// The session was well; the safekeeper that was to supply its missing WAL failed.
    Donor(usize),
    /// The session was well; the primary did not give its missing WAL once more.
    Primary,
}

impl Failure {
    pub(crate) fn away(reason: impl Into<String>) -> Failure {
        Failure { reason: reason.into(), kind: FailureKind::Away }
    }

    fn refused(error: &SqlError, lent: Option<Lent>) -> Failure {
        let kind = match error.code.as_str() {
            sqlstate::STALE_PRIMARY_EPOCH => FailureKind::Fenced,
            sqlstate::DATA_CORRUPTED if error.message.contains(PARTED) => FailureKind::Parted,
            sqlstate::DATA_CORRUPTED => FailureKind::Damaged(lent),
            _ => FailureKind::Away,
        };
        Failure { reason: error.to_string(), kind }
    }
}

impl From<NetError> for Failure {
    fn from(e: NetError) -> Failure {
        let refused = e.server_error().map(|error| Failure::refused(error, None).kind);
        Failure { reason: e.to_string(), kind: refused.unwrap_or(FailureKind::Away) }
    }
}

/// Starts the task of one address; it ends with the handle.
pub(crate) fn start(
    config: Arc<ShimConfig>,
    peer: PeerId,
    events: mpsc::Sender<PeerEvent>,
) -> (mpsc::Sender<PeerCommand>, AbortOnDropHandle<()>) {
    let (sender, commands) = mpsc::channel(COMMANDS);
    let task = tokio::spawn(async move {
        let mut task = PeerTask { config, peer, commands, events, session: 0 };
        while let Some(command) = task.commands.recv().await {
            if let PeerCommand::Dial(session) = command {
                task.session = session;
                if task.serve().await.is_none() {
                    return;
                }
            }
        }
    });
    (sender, AbortOnDropHandle::new(task))
}

type Fetching = Pin<Box<dyn Future<Output = (Option<Box<OpenSource>>, Result<Vec<Bytes>, StretchError>)> + Send>>;

/// An open stream from a donor or from the primary; kept while appends follow each other.
struct OpenSource {
    source: CatchUpSource,
    wal: WalReader,
}

struct PeerTask {
    config: Arc<ShimConfig>,
    peer: PeerId,
    commands: mpsc::Receiver<PeerCommand>,
    events: mpsc::Sender<PeerEvent>,
    session: u64,
}

/// A session that is open.
struct OpenSession {
    reader: CopyReader,
    writer: CopyWriter,
    /// End of the last append in the writer's queue.
    unwritten: Option<Lsn>,
    donor: Option<Box<OpenSource>>,
    /// The WAL that was sent last in this session of another safekeeper's.
    lent: Option<Lent>,
    /// Where the WAL that is being fetched comes from.
    fetched_from: Option<usize>,
    fetching: Option<(AppendRequest, Fetching)>,
}

/// What the select of a session picked.
enum PeerPick {
    Command(Option<PeerCommand>),
    Received(Result<CopyEvent, NetError>),
    Flushed(Result<(), NetError>),
    Fetched(Option<Box<OpenSource>>, Result<Vec<Bytes>, StretchError>),
}

/// How a session ended.
enum SessionEnd {
    /// The driver closed it, or is gone itself.
    Closed,
    /// The connection or the safekeeper failed.
    Failed(Failure),
}

impl PeerTask {
    /// One session from dialling to its end; `None` when the driver is gone.
    async fn serve(&mut self) -> Option<()> {
        let opened = tokio::select! {
            opened = open(&self.config, self.peer) => opened,
            () = until_close(&mut self.commands) => return Some(()),
        };
        let ended = match opened {
            Ok(mut open) => {
                self.tell(Happened::Connected).await?;
                self.run(&mut open).await?
            }
            Err(e) => SessionEnd::Failed(e.into()),
        };
        match ended {
            SessionEnd::Closed => Some(()),
            SessionEnd::Failed(reason) => self.tell(Happened::Disconnected(reason)).await,
        }
    }

    async fn tell(&self, what: Happened) -> Option<()> {
        self.events.send(PeerEvent { peer: self.peer, session: self.session, what }).await.ok()
    }

    async fn run(&mut self, open: &mut OpenSession) -> Option<SessionEnd> {
        loop {
            let outcome = match self.pick(open).await {
                PeerPick::Command(None) => return None,
                PeerPick::Command(Some(PeerCommand::Close)) => return Some(SessionEnd::Closed),
                PeerPick::Command(Some(command)) => {
                    self.take(open, command);
                    Ok(())
                }
                PeerPick::Received(Ok(event)) => self.received(open.lent, event).await?,
                PeerPick::Received(Err(e)) | PeerPick::Flushed(Err(e)) => Err(e.into()),
                PeerPick::Flushed(Ok(())) => {
                    if let Some(end) = open.unwritten.take() {
                        self.tell(Happened::Written(end)).await?;
                    }
                    Ok(())
                }
                PeerPick::Fetched(donor, Ok(parts)) => {
                    open.fetched(donor, parts);
                    Ok(())
                }
                PeerPick::Fetched(_, Err(e)) => Err(open.not_fetched(&e)),
            };
            if let Err(failure) = outcome {
                return Some(SessionEnd::Failed(failure));
            }
        }
    }

    async fn pick(&mut self, open: &mut OpenSession) -> PeerPick {
        let ready_for_more = open.fetching.is_none() && open.writer.queued_bytes() < GATHER;
        let OpenSession { reader, writer, fetching, .. } = open;
        let fetched = async {
            match fetching {
                Some((_, future)) => future.await,
                None => std::future::pending().await,
            }
        };
        // Commands first, so that what is queued is gathered before it is written.
        tokio::select! {
            biased;
            command = self.commands.recv(), if ready_for_more => PeerPick::Command(command),
            event = reader.next() => PeerPick::Received(event),
            (donor, result) = fetched => PeerPick::Fetched(donor, result),
            result = writer.flush(), if writer.queued_bytes() > 0 => PeerPick::Flushed(result),
        }
    }

    fn take(&self, open: &mut OpenSession, command: PeerCommand) {
        match command {
            PeerCommand::Send(message) => open.writer.queue(&message, Bytes::new()),
            PeerCommand::Wal { head, parts, end } => {
                open.donor = None; // caught up
                open.writer.queue_slices(&head, parts);
                open.unwritten = Some(end);
            }
            PeerCommand::Fetch { head, source } => {
                let held = open.donor.take();
                open.fetched_from = match source {
                    CatchUpSource::Donor(index) => Some(index),
                    CatchUpSource::Primary(_) => None,
                };
                let future = fetch(Arc::clone(&self.config), held, source, head.clone());
                open.fetching = Some((head, Box::pin(future)));
            }
            // The driver closes a session before it dials again.
            PeerCommand::Dial(_) | PeerCommand::Close => {}
        }
    }

    async fn received(&mut self, lent: Option<Lent>, event: CopyEvent) -> Option<Result<(), Failure>> {
        let reason = match event {
            CopyEvent::Data(data) => match AcceptorMessage::decode(ProtoVersion::V3, data) {
                Ok(message) => return self.tell(Happened::Message(message)).await.map(Ok),
                Err(e) => e.to_string(),
            },
            CopyEvent::Error(error) => return Some(Err(Failure::refused(&error, lent))),
            CopyEvent::Fail(text) => text,
            CopyEvent::Done | CopyEvent::Closed => "closed by the safekeeper".to_owned(),
        };
        Some(Err(Failure::away(reason)))
    }
}

impl OpenSession {
    fn not_fetched(&self, e: &StretchError) -> Failure {
        let kind = self.fetched_from.map_or(FailureKind::Primary, FailureKind::Donor);
        Failure { reason: format!("its missing WAL could not be fetched: {e}"), kind }
    }

    /// The WAL of the append that waited has come.
    fn fetched(&mut self, donor: Option<Box<OpenSource>>, parts: Vec<Bytes>) {
        self.donor = donor;
        if let Some((head, _)) = self.fetching.take() {
            let (begin, end) = (head.begin_lsn, head.end_lsn);
            if let Some(donor) = self.fetched_from {
                let same = self.lent.filter(|lent| lent.donor == donor && lent.to == begin);
                self.lent = Some(Lent { donor, from: same.map_or(begin, |lent| lent.from), to: end });
            }
            self.writer.queue_slices(&encode_head(head), parts);
            self.unwritten = Some(end);
        }
    }
}

/// The head of an append, whose WAL follows it.
pub(crate) fn encode_head(head: AppendRequest) -> Bytes {
    let mut out = BytesMut::with_capacity(64);
    ProposerMessage::Append(head).encode_head(ProtoVersion::V3, &mut out);
    out.freeze()
}

async fn open(config: &ShimConfig, peer: PeerId) -> Result<OpenSession, NetError> {
    let address = config.safekeepers.get(peer.0).expect("the driver numbers the addresses of the list");
    let connection = ClientConnection::dial(&safekeeper::options(config, address)).await?;
    let (reader, writer) = connection.copy_both(&safekeeper::push_command(config)).await?;
    Ok(OpenSession { reader, writer, unwritten: None, donor: None, lent: None, fetched_from: None, fetching: None })
}

/// Drops what was meant for a session that has not come about, until the driver gives it up.
async fn until_close(commands: &mut mpsc::Receiver<PeerCommand>) {
    while let Some(command) = commands.recv().await {
        if matches!(command, PeerCommand::Close) {
            return;
        }
    }
}

/// Reads the WAL of one append from its source, on the stream that is open when it fits.
async fn fetch(
    config: Arc<ShimConfig>,
    held: Option<Box<OpenSource>>,
    source: CatchUpSource,
    head: AppendRequest,
) -> (Option<Box<OpenSource>>, Result<Vec<Bytes>, StretchError>) {
    let (begin, end) = (head.begin_lsn, head.end_lsn);
    let fitting = held.filter(|d| d.source == source && d.wal.position() == begin);
    let mut donor = match fitting {
        Some(mut donor) => {
            donor.wal.extend(end);
            donor
        }
        None => {
            let opened = match &source {
                CatchUpSource::Donor(index) => {
                    let address = config.safekeepers.get(*index).expect("donors are addresses of the list");
                    safekeeper::read(&config, address, begin, end, Some(head.term)).await
                }
                CatchUpSource::Primary(origin) => upstream::reread(&config, *origin, begin, end).await,
            };
            match opened {
                Ok(wal) => Box::new(OpenSource { source, wal }),
                Err(e) => return (None, Err(e)),
            }
        }
    };
    let mut parts = Vec::new();
    loop {
        match donor.wal.next().await {
            Ok(Some((_, wal))) => parts.push(wal),
            Ok(None) => return (Some(donor), Ok(parts)),
            Err(e) => return (None, Err(e)),
        }
    }
}
