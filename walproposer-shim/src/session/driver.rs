//! One session: the single owner of its course, of the ring and of the stream from PostgreSQL.
//!
//! It tells the course what happened, and does what follows on tokio; [`super::course`] decides in which order. One
//! session serves one connection to the primary: when that connection or the term is lost, the session ends, and
//! everything begins again with a new proof and a new election.
//!
//! Invariant I6: what is reported is [`Proposer::reportable`], and never falls within a session. When deposed, the
//! connection to PostgreSQL is closed before anything else happens.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use proto::api::ShimPhase;
use proto::consensus::{AcceptorMessage, AppendRequest, LogPosition, ProtoVersion};
use proto::id::Term;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::course::{SessionAction, SessionCourse, WalSource};
use super::downstream::{self, CatchUpSource, Failure, FailureKind, Happened, PeerCommand, PeerEvent};
use super::peers::Peers;
use super::streaming::{StreamPick, Streaming};
use crate::attach::doubt;
use crate::attach::proof::{self, Chosen, Proved};
use crate::attach::survey::Survey;
use crate::config::ApplySource;
use crate::context::ShimContext;
use crate::core::{Input, PeerId, Proposer, ProposerConfig};
use crate::dial::upstream::{PrimaryIdentity, Upstream};
use crate::stop::StopCause;

/// The end of a session waits so long at most for safekeepers to hear of the commit position.
const FAREWELL_MAX: Duration = Duration::from_millis(200);
/// A safekeeper whose queue of commands is full.
const QUEUE_FULL: &str = "it does not take what is sent to it";

/// What an attached primary brings into a session.
pub(crate) struct AttachedPrimary {
    pub(crate) upstream: Upstream,
    pub(crate) survey: Survey,
    pub(crate) proved: Proved,
    /// The term asked for lies above this one.
    pub(crate) min_term: Term,
}

type Proving = Pin<Box<dyn Future<Output = Result<Box<Streaming>, StopCause>> + Send>>;

/// Where the connection to PostgreSQL is.
enum UpstreamStage {
    /// Proved up to the commit position; waits for the election.
    Waiting(Box<Upstream>),
    /// The rest is being proved, then the stream is started.
    Proving(Proving),
    /// WAL flows from the primary.
    Streaming(Box<Streaming>),
    /// Taken for a moment, or given up.
    Gone,
}

struct SessionDriver {
    ctx: Arc<ShimContext>,
    course: SessionCourse,
    peers: Peers,
    events: mpsc::Receiver<PeerEvent>,
    stage: UpstreamStage,
    /// The primary of this session.
    origin: PrimaryIdentity,
    survey: Survey,
    proved: Proved,
    started: Instant,
    reply_every: Duration,
}

/// What the select picked.
enum SessionPick {
    Cancelled,
    Timer,
    Peer(Option<PeerEvent>),
    Proved(Result<Box<Streaming>, StopCause>),
    Stream(StreamPick),
}

/// Runs a session to its end and says why it ended. `highest` is raised to the highest term used or seen.
pub(crate) async fn run(
    ctx: &Arc<ShimContext>,
    attached: AttachedPrimary,
    highest: &mut Term,
    cancel: &CancellationToken,
) -> StopCause {
    let mut driver = match SessionDriver::new(ctx, attached) {
        Ok(driver) => driver,
        Err(stop) => return stop,
    };
    driver.step(Input::Tick);
    let stop = loop {
        if let Err(stop) = driver.obey() {
            break stop;
        }
        let picked = driver.pick(cancel).await;
        if let Err(stop) = driver.on(picked) {
            break stop;
        }
        driver.show();
    };
    match stop {
        StopCause::Retry(_) => driver.farewell(cancel).await,
        StopCause::Shutdown => {
            if let UpstreamStage::Streaming(s) = &mut driver.stage {
                s.release_slot(FAREWELL_MAX).await;
            }
        }
        _ => {}
    }
    // PostgreSQL first: from here on nothing may be reported any more.
    driver.stage = UpstreamStage::Gone;
    *highest = (*highest).max(driver.course.core().term());
    if let StopCause::Deposed(term) = stop {
        *highest = (*highest).max(term);
    }
    ctx.board.session_over();
    stop
}

impl SessionDriver {
    fn new(ctx: &Arc<ShimContext>, attached: AttachedPrimary) -> Result<SessionDriver, StopCause> {
        let AttachedPrimary { upstream, survey, proved, min_term } = attached;
        let primary = &upstream.primary;
        let config = ProposerConfig {
            ttid: ctx.config.ttid,
            mconf: survey.mconf.clone(),
            addresses: ctx.config.safekeepers.len(),
            pg_version_num: survey.log.version_num,
            system_id: primary.system_id,
            seg_size: primary.seg_size,
            tli: primary.tli,
            min_term: min_term.max(survey.term),
            start_lsn: Some(survey.log.start),
            heartbeat_ms: ProposerConfig::HEARTBEAT_MS,
            commit_lag_ms: ProposerConfig::COMMIT_LAG_MS,
            silence_ms: ProposerConfig::SILENCE_MS,
            // Jitter, so that shims and safekeepers that lost each other together do not come back in step.
            reconnect_ms: fastrand::u64(ProposerConfig::RECONNECT_MS / 2..=ProposerConfig::RECONNECT_MS),
            window: ProposerConfig::WINDOW,
        };
        let core = Proposer::new(config).map_err(StopCause::Fatal)?;
        let (peers, events) = Peers::start(ctx);
        let third = upstream.wal_sender_timeout / 3;
        let longest = Duration::from_secs(10);
        Ok(SessionDriver {
            course: SessionCourse::new(core, ctx.config.apply_source == ApplySource::Pageserver),
            peers,
            events,
            origin: upstream.identity(),
            stage: UpstreamStage::Waiting(Box::new(upstream)),
            survey,
            proved,
            started: Instant::now(),
            reply_every: if third.is_zero() { longest } else { third.min(longest) },
            ctx: Arc::clone(ctx),
        })
    }

    fn core(&self) -> &Proposer {
        self.course.core()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn step(&mut self, input: Input) {
        let now = self.now();
        self.course.step(now, input);
    }

    /// When the core wants to be asked again.
    fn timer(&self) -> impl Future<Output = ()> + use<> {
        let tick = self.core().next_timeout().map(|ms| self.started + Duration::from_millis(ms));
        async move {
            match tick {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Before the safekeepers are let go, they hear how far the log is committed: of a PostgreSQL that was shut down
    /// they would not know the last record to be committed until it starts again, and no pageserver would get it.
    /// Nothing is reported meanwhile.
    async fn farewell(&mut self, cancel: &CancellationToken) {
        let until = Instant::now() + FAREWELL_MAX;
        while self.carry_out().is_ok() && !self.core().all_told() {
            let timer = self.timer();
            tokio::select! {
                () = cancel.cancelled() => return,
                () = sleep_until(until) => return,
                () = timer => self.step(Input::Tick),
                event = self.events.recv() => match event {
                    Some(event) => self.on_peer(event),
                    None => return,
                },
            }
        }
    }

    async fn pick(&mut self, cancel: &CancellationToken) -> SessionPick {
        let timer = self.timer();
        let upstream = async {
            match &mut self.stage {
                UpstreamStage::Waiting(_) | UpstreamStage::Gone => std::future::pending().await,
                UpstreamStage::Proving(future) => SessionPick::Proved(future.await),
                UpstreamStage::Streaming(s) => SessionPick::Stream(s.pick(self.reply_every).await),
            }
        };
        tokio::select! {
            () = cancel.cancelled() => SessionPick::Cancelled,
            () = timer => SessionPick::Timer,
            event = self.events.recv() => SessionPick::Peer(event),
            picked = upstream => picked,
        }
    }

    fn on(&mut self, picked: SessionPick) -> Result<(), StopCause> {
        match picked {
            SessionPick::Cancelled => return Err(StopCause::Shutdown),
            SessionPick::Timer => self.step(Input::Tick),
            SessionPick::Peer(Some(event)) => {
                let unfed = self.unfed(&event);
                self.on_peer(event);
                if let Some(reason) = unfed.filter(|_| !self.core().has_quorum(self.now())) {
                    // A new session gets everything from the log's end on by its own stream.
                    return Err(StopCause::Retry(format!("too few safekeepers are left without it: {reason}")));
                }
            }
            SessionPick::Peer(None) => return Err(StopCause::Retry("every safekeeper task has ended".to_owned())),
            SessionPick::Proved(outcome) => {
                let streaming = outcome?;
                let start = streaming.start();
                tracing::info!(%start, term = %self.core().term(), "streaming from the primary");
                self.ctx.outage.over();
                self.stage = UpstreamStage::Streaming(streaming);
                self.course.announce(self.now(), start);
            }
            SessionPick::Stream(picked) => self.on_stream(picked)?,
        }
        Ok(())
    }

    fn on_peer(&mut self, event: PeerEvent) {
        let PeerEvent { peer, session, what } = event;
        if !self.course.is_current(peer, session) {
            return;
        }
        let input = match what {
            Happened::Connected => Input::Connected { peer },
            Happened::Message(message) => match self.lost(peer, &message) {
                Some(reason) => {
                    self.peers.note_problem(peer, reason);
                    self.command(peer, PeerCommand::Close);
                    Input::Disconnected { peer }
                }
                None => Input::Message { peer, message },
            },
            Happened::Written(end) => Input::Written { peer, end },
            Happened::Disconnected(failure) => self.on_failure(peer, failure),
        };
        self.step(input);
    }

    /// Why a safekeeper gets nothing from the primary's second connection, when the event says so.
    fn unfed(&self, event: &PeerEvent) -> Option<String> {
        match &event.what {
            Happened::Disconnected(Failure { reason, kind: FailureKind::Primary })
                if self.course.is_current(event.peer, event.session) =>
            {
                Some(reason.clone())
            }
            _ => None,
        }
    }

    /// What a voter lost since it acknowledged it to this process: its vote must not count.
    fn lost(&self, peer: PeerId, message: &AcceptorMessage) -> Option<String> {
        let AcceptorMessage::VoteResponse(vote) = message else { return None };
        if !vote.vote_given {
            return None;
        }
        let known = self.core().peers().into_iter().nth(peer.0)?;
        let end = LogPosition::of(&vote.history, vote.flush_lsn);
        // The term that it greeted with: the vote has raised its own since.
        self.ctx.board.stands(known.node?, known.term, (end.last_log_term, proto::api::shown(end.flush_lsn)))
    }

    fn on_failure(&mut self, peer: PeerId, failure: Failure) -> Input {
        let Failure { reason, kind } = failure;
        let node = self.core().peers().get(peer.0).and_then(|p| p.node);
        let reason = self.peers.failed(peer, node, reason, kind);
        match kind {
            FailureKind::Fenced => Input::Fenced { peer, said: reason },
            FailureKind::Away
            | FailureKind::Parted
            | FailureKind::Damaged(_)
            | FailureKind::Donor(_)
            | FailureKind::Primary => Input::Disconnected { peer },
        }
    }

    fn on_stream(&mut self, picked: StreamPick) -> Result<(), StopCause> {
        let now = self.now();
        let UpstreamStage::Streaming(s) = &mut self.stage else { return Ok(()) };
        match picked {
            StreamPick::Received(event) => {
                if s.take_batch(event?, &self.ctx.metrics)? {
                    self.course.received(now, &s.ring);
                }
            }
            StreamPick::Written(outcome) => {
                outcome?;
                s.written();
            }
            StreamPick::ReportDue => s.report_again(self.reply_every)?,
        }
        Ok(())
    }

    /// Does everything that is to be done.
    fn carry_out(&mut self) -> Result<(), StopCause> {
        while let Some(action) = self.course.next_action() {
            self.act(action)?;
        }
        Ok(())
    }

    /// Does everything that is to be done, and tells PostgreSQL what came of it.
    fn obey(&mut self) -> Result<(), StopCause> {
        self.carry_out()?;
        let (needed, next_xid) = (self.core().standbys(self.now()), self.ctx.board.next_xid());
        if let UpstreamStage::Streaming(s) = &mut self.stage {
            if needed.is_some_and(|needed| s.tell_standbys(needed, next_xid)) {
                s.report_now()?;
            }
            self.course.settle(&s.ring);
        }
        self.carry_out()
    }

    fn act(&mut self, action: SessionAction) -> Result<(), StopCause> {
        match action {
            SessionAction::Dial { peer, session } => self.command(peer, PeerCommand::Dial(session)),
            SessionAction::Close { peer, reason } => {
                self.peers.note_problem(peer, reason.to_string());
                self.command(peer, PeerCommand::Close);
            }
            SessionAction::Send { peer, message } => {
                self.command(peer, PeerCommand::Send(message.encode(ProtoVersion::V3)));
            }
            SessionAction::Append { peer, head } => self.append(peer, head),
            SessionAction::Campaign { greeted } => {
                tracing::info!(quorum = ?greeted, "a quorum has greeted: asking for votes");
                self.ctx.board.set_phase(ShimPhase::Campaign);
                // The first half of the proof was done before the session.
                self.step(Input::Campaign);
            }
            SessionAction::Prove { term, donor, donor_node, end } => {
                tracing::info!(%term, donor = %donor_node, %end, "the election is won");
                self.ctx.board.elected(term, end);
                self.ctx.metrics.elections.inc();
                self.prove(Chosen { term, donor: donor.0, end })?;
            }
            SessionAction::Committed { commit_lsn: to } | SessionAction::Release { to } => {
                if let UpstreamStage::Streaming(s) = &mut self.stage {
                    s.ring.release(to);
                }
            }
            SessionAction::Report(positions) => {
                if let UpstreamStage::Streaming(s) = &mut self.stage {
                    s.report.positions = positions;
                    s.report_now()?;
                }
            }
            SessionAction::Deposed { term } => return Err(StopCause::Deposed(term)),
            SessionAction::Fatal(fatal) => return Err(StopCause::Fatal(fatal)),
        }
        Ok(())
    }

    /// Starts the second half of the proof; the election is announced when it has passed.
    fn prove(&mut self, chosen: Chosen) -> Result<(), StopCause> {
        let UpstreamStage::Waiting(upstream) = std::mem::replace(&mut self.stage, UpstreamStage::Gone) else {
            return Err(StopCause::Retry("an election was won without a proved primary".to_owned()));
        };
        let (ctx, survey, proved) = (Arc::clone(&self.ctx), self.survey.clone(), self.proved);
        self.stage = UpstreamStage::Proving(Box::pin(async move {
            let config = &ctx.config;
            let (upstream, _, link) = match proof::before_elected(config, *upstream, &survey, proved, chosen).await {
                Ok(proved) => proved,
                Err(stop) => return Err(doubt::instead(&ctx, stop, chosen.donor).await),
            };
            let stream = upstream.stream(config, chosen.end).await?;
            Ok(Box::new(Streaming::new(stream, link, config.ring_bytes)))
        }));
        Ok(())
    }

    fn append(&mut self, peer: PeerId, head: AppendRequest) {
        let ring = match &self.stage {
            UpstreamStage::Streaming(s) => Some(&s.ring),
            _ => None,
        };
        let donors = self.ctx.board.donors(|donors| donors.clone());
        let (end, len) = (head.end_lsn, head.end_lsn.bytes_since(head.begin_lsn));
        let command = match self.course.source_of(&head, ring, |peer| donors.rank(peer.0)) {
            WalSource::Memory(parts) => PeerCommand::Wal { head: downstream::encode_head(head), parts, end },
            WalSource::Donor(donor) => {
                self.ctx.metrics.donor_bytes.inc_by(len);
                PeerCommand::Fetch { head, source: CatchUpSource::Donor(donor.0) }
            }
            WalSource::Primary => {
                self.ctx.metrics.reread_bytes.inc_by(len);
                PeerCommand::Fetch { head, source: CatchUpSource::Primary(self.origin) }
            }
            WalSource::Nowhere => {
                let doubts = donors.describe(|i| self.ctx.safekeeper_name(i));
                let why: String = doubts.into_iter().map(|doubt| format!("; {doubt}")).collect();
                return self.give_up(peer, format!("nobody can supply the WAL up to {end} that it lacks{why}"));
            }
        };
        self.command(peer, command);
    }

    fn command(&mut self, peer: PeerId, command: PeerCommand) {
        if !self.peers.command(peer, command) {
            self.give_up(peer, QUEUE_FULL.to_owned());
        }
    }

    fn give_up(&mut self, peer: PeerId, reason: String) {
        self.peers.give_up(peer, reason);
        self.course.gave_up(self.now(), peer);
    }

    /// Brings the status page up to date.
    fn show(&mut self) {
        let stream = match &self.stage {
            UpstreamStage::Streaming(s) => Some(s.positions()),
            _ => None,
        };
        let peers = self.core().peers();
        self.peers.note_streaming(&peers);
        let quorum = self.core().has_quorum(self.now());
        self.ctx.board.progress(self.core().commit_lsn(), quorum, stream, peers.iter().zip(self.peers.problems()));
    }
}
