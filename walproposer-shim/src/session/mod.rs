//! One session: the single owner of the proposer core, of the ring and of the stream from PostgreSQL.
//!
//! It routes inputs to the core and effects from it, runs the second half of the attach proof between a won election
//! and its announcement, and reports to PostgreSQL. One session serves one connection to the primary: when that
//! connection or the term is lost, the session ends and everything begins again with a new proof and a new election.
//!
//! Invariant I6: what is reported is [`Proposer::reportable`], and never falls within a session. When deposed, the
//! connection to PostgreSQL is closed before anything else happens.

mod downstream;
mod report;
mod ring;
mod standbys;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use libpq::{CopyEvent, NetError};
use node::pg_now;
use pgformat::Lsn;
use proto::consensus::{AcceptorMessage, AppendRequest, HotStandbyFeedback, LogPosition, ProtoVersion};
use proto::feedback::PageserverFeedback;
use proto::id::Term;
use proto::pg::sqlstate;
use proto::replication::SenderMessage;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::attach::doubt;
use crate::attach::proof::{self, Chosen, LinkCheck, Proved};
use crate::attach::survey::Survey;
use crate::context::ShimContext;
use crate::core::{Effect, Input, PeerId, Proposer, ProposerConfig};
use crate::dial::safekeeper;
use crate::dial::upstream::{PrimaryIdentity, PrimaryStream, Upstream};
use crate::metrics::ShimMetrics;
use crate::status::ShimPhase;
use crate::stop::{AttachRefusal, StopCause};
use downstream::{EVENTS, Failure, FailureKind, Happened, PeerCommand, PeerEvent, WalSource};
use report::PositionReport;
use ring::Ring;
use standbys::StandbyReport;

/// WAL taken from the socket in one go before it is handed on: merges small messages, keeps acknowledgements prompt.
const BATCH: usize = 1 << 20;

/// The end of a session waits so long at most for safekeepers to hear of the commit position.
const FAREWELL_MAX: Duration = Duration::from_millis(200);
/// Silence of a PostgreSQL that was asked for an answer, after which it counts as gone.
const UPSTREAM_SILENCE: Duration = Duration::from_secs(30);

/// What an attached primary brings into a session.
pub(crate) struct AttachedPrimary {
    pub(crate) upstream: Upstream,
    pub(crate) survey: Survey,
    pub(crate) proved: Proved,
    /// The term asked for lies above this one.
    pub(crate) min_term: Term,
}

/// The stream from PostgreSQL with what belongs to it.
struct Streaming {
    stream: PrimaryStream,
    ring: Ring,
    link: LinkCheck,
    report: PositionReport,
    standbys: StandbyReport,
    /// When PostgreSQL was heard last.
    heard: Instant,
}

type Proving = Pin<Box<dyn Future<Output = Result<Box<Streaming>, StopCause>> + Send>>;

/// Where the connection to PostgreSQL is.
enum UpstreamStage {
    /// Proved up to the commit position; waits for the election.
    Waiting(Box<Upstream>),
    /// The rest is being proved, then the stream is started.
    Proving(Proving),
    /// WAL flows.
    Streaming(Box<Streaming>),
    /// Taken for a moment, or given up.
    Gone,
}

struct PeerHandle {
    commands: mpsc::Sender<PeerCommand>,
    task_guard: AbortOnDropHandle<()>,
    session: u64,
    /// Last failure, for the status page.
    problem: Option<String>,
}

struct SessionDriver {
    ctx: Arc<ShimContext>,
    core: Proposer,
    effects: Vec<Effect>,
    peers: Vec<PeerHandle>,
    events: mpsc::Receiver<PeerEvent>,
    /// For tasks that are started later.
    events_sender: mpsc::Sender<PeerEvent>,
    stage: UpstreamStage,
    /// The primary of this session.
    origin: PrimaryIdentity,
    survey: Survey,
    proved: Proved,
    started: Instant,
    /// Largest position that a pageserver has ingested, as safekeepers pass it on.
    applied: Option<Lsn>,
    reply_every: Duration,
}

/// What the select picked.
enum SessionPick {
    Cancelled,
    Timer,
    Reply,
    Peer(Option<PeerEvent>),
    Proved(Result<Box<Streaming>, StopCause>),
    Upstream(Result<CopyEvent, NetError>),
    Replied(Result<(), NetError>),
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
        StopCause::Shutdown => driver.release_slot().await,
        _ => {}
    }
    // PostgreSQL first: from here on nothing may be reported any more.
    driver.stage = UpstreamStage::Gone;
    *highest = (*highest).max(driver.core.term());
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
        let (sender, events) = mpsc::channel(EVENTS);
        let start = |i| {
            let (commands, task) = downstream::start(Arc::clone(&ctx.config), PeerId(i), sender.clone());
            // What was told of an earlier session is over when WAL flows there again, not before.
            let problem = ctx.away.get(i).filter(|away| away.is_running()).map(|_| "away before".to_owned());
            PeerHandle { commands, task_guard: task, session: 0, problem }
        };
        let third = upstream.wal_sender_timeout / 3;
        let longest = Duration::from_secs(10);
        Ok(SessionDriver {
            core: Proposer::new(config).map_err(StopCause::Fatal)?,
            effects: Vec::new(),
            peers: (0..ctx.config.safekeepers.len()).map(start).collect(),
            events,
            events_sender: sender,
            origin: upstream.identity(),
            stage: UpstreamStage::Waiting(Box::new(upstream)),
            survey,
            proved,
            started: Instant::now(),
            applied: None,
            reply_every: if third.is_zero() { longest } else { third.min(longest) },
            ctx: Arc::clone(ctx),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn step(&mut self, input: Input) {
        let now = self.now();
        self.core.step(now, input, &mut self.effects);
    }

    /// When the core wants to be asked again.
    fn timer(&self) -> impl Future<Output = ()> + use<> {
        let tick = self.core.next_timeout().map(|ms| self.started + Duration::from_millis(ms));
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
        while self.carry_out().is_ok() && !self.core.all_told() {
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

    /// Before an orderly end the slot is released: it would keep rows for standbys for as long as no shim runs.
    async fn release_slot(&mut self) {
        let UpstreamStage::Streaming(s) = &mut self.stage else { return };
        if s.standbys.may_hold() && tokio::time::timeout(FAREWELL_MAX, s.release_slot()).await.is_err() {
            tracing::warn!("PostgreSQL did not take back in time what its slot keeps for standbys");
        }
    }

    async fn pick(&mut self, cancel: &CancellationToken) -> SessionPick {
        let timer = self.timer();
        let upstream = async {
            match &mut self.stage {
                UpstreamStage::Waiting(_) | UpstreamStage::Gone => std::future::pending().await,
                UpstreamStage::Proving(future) => SessionPick::Proved(future.await),
                UpstreamStage::Streaming(s) => s.pick(self.reply_every).await,
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
                if let Some(reason) = unfed.filter(|_| !self.core.has_quorum(self.now())) {
                    // A new session gets everything from the log's end on by its own stream.
                    return Err(StopCause::Retry(format!("too few safekeepers are left without it: {reason}")));
                }
            }
            SessionPick::Peer(None) => return Err(StopCause::Retry("every safekeeper task has ended".to_owned())),
            SessionPick::Proved(outcome) => {
                let streaming = outcome?;
                tracing::info!(start = %streaming.stream.start, term = %self.core.term(), "streaming from the primary");
                self.ctx.outage.over();
                self.stage = UpstreamStage::Streaming(streaming);
                self.step(Input::SendElected);
            }
            SessionPick::Upstream(event) => self.on_upstream(event)?,
            SessionPick::Replied(outcome) => {
                outcome?;
                if let UpstreamStage::Streaming(s) = &mut self.stage {
                    s.report.flushed(&mut s.stream.writer);
                }
            }
            SessionPick::Reply => self.on_reply_timer()?,
        }
        Ok(())
    }

    fn on_peer(&mut self, event: PeerEvent) {
        let PeerEvent { peer, session, what } = event;
        if self.peers.get(peer.0).is_none_or(|p| p.session != session) {
            return;
        }
        let input = match what {
            Happened::Connected => Input::Connected { peer },
            Happened::Message(message) => match self.lost(peer, &message) {
                Some(reason) => {
                    self.note_problem(peer, reason);
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
        let current = self.peers.get(event.peer.0).is_some_and(|p| p.session == event.session);
        match &event.what {
            Happened::Disconnected(Failure { reason, kind: FailureKind::Primary }) if current => Some(reason.clone()),
            _ => None,
        }
    }

    /// What a voter lost since it acknowledged it to this process: its vote must not count.
    fn lost(&self, peer: PeerId, message: &AcceptorMessage) -> Option<String> {
        let AcceptorMessage::VoteResponse(vote) = message else { return None };
        if !vote.vote_given {
            return None;
        }
        let known = self.core.peers().into_iter().nth(peer.0)?;
        let end = LogPosition::of(&vote.history, vote.flush_lsn);
        // The term that it greeted with: the vote has raised its own since.
        self.ctx.board.stands(known.node?, known.term, (end.last_log_term, proto::api::shown(end.flush_lsn)))
    }

    fn on_failure(&mut self, peer: PeerId, failure: Failure) -> Input {
        let Failure { reason, kind } = failure;
        let reason = self.blame(peer, reason, kind);
        self.note_problem(peer, reason.clone());
        let forgot = [sqlstate::TIMELINE_NOT_FOUND, sqlstate::NOT_ADMITTED].iter().any(|code| reason.contains(code));
        // A member that was opened a moment ago asks the others first, and has lost nothing.
        let forgot = forgot && !reason.contains("just opened");
        if let Some(node) = self.core.peers().get(peer.0).and_then(|p| p.node).filter(|_| forgot) {
            self.ctx.board.absent(node, &format!("takes no part: {reason}"));
        }
        if matches!(kind, FailureKind::Fenced | FailureKind::Parted) {
            self.ctx.board.apart(peer, &reason);
        }
        match kind {
            FailureKind::Fenced => Input::Fenced { peer, said: reason },
            FailureKind::Away
            | FailureKind::Parted
            | FailureKind::Damaged(_)
            | FailureKind::Donor(_)
            | FailureKind::Primary => Input::Disconnected { peer },
        }
    }

    /// When the failure is another safekeeper's, which one is named, and passed over next time.
    fn blame(&mut self, peer: PeerId, reason: String, kind: FailureKind) -> String {
        let name = |index: usize| self.ctx.config.safekeepers.get(index).map(safekeeper::shown).unwrap_or_default();
        match kind {
            FailureKind::Damaged(Some(lent)) => {
                doubt::ask(&self.ctx, lent, format!("by {}: {reason}", name(peer.0)));
                format!(
                    "it refused the WAL of {}..{} that came from {}: {reason}",
                    lent.from,
                    lent.to,
                    name(lent.donor)
                )
            }
            FailureKind::Donor(donor) => {
                self.ctx.board.donors(|donors| donors.failed(donor));
                format!("the donor {} failed: {reason}", name(donor))
            }
            _ => reason,
        }
    }

    fn note_problem(&mut self, peer: PeerId, reason: String) {
        let Some(known) = self.peers.get_mut(peer.0) else { return };
        if let Some(away) = self.ctx.away.get(peer.0) {
            away.warn(&reason);
        }
        known.problem = Some(reason);
        self.ctx.metrics.disconnects.inc();
    }

    fn on_upstream(&mut self, event: Result<CopyEvent, NetError>) -> Result<(), StopCause> {
        let UpstreamStage::Streaming(s) = &mut self.stage else { return Ok(()) };
        let before = s.ring.end();
        s.heard = Instant::now();
        s.take(event?, &self.ctx.metrics)?;
        while s.ring.end().bytes_since(before) < BATCH as u64 && s.ring.has_room() {
            match s.stream.reader.try_next()? {
                Some(event) => s.take(event, &self.ctx.metrics)?,
                None => break,
            }
        }
        let end = s.ring.end();
        if end > before {
            self.step(Input::WalAvailable { end });
        }
        Ok(())
    }

    fn on_reply_timer(&mut self) -> Result<(), StopCause> {
        if let UpstreamStage::Streaming(s) = &mut self.stage {
            // While the ring is full nothing is read, so silence says nothing.
            if s.ring.has_room() && s.heard.elapsed() > UPSTREAM_SILENCE {
                return Err(StopCause::Retry(format!("PostgreSQL was silent for {UPSTREAM_SILENCE:?}")));
            }
            let ask = s.heard.elapsed() >= self.reply_every;
            s.report.queue(&mut s.stream.writer, ask);
        }
        Ok(())
    }

    /// Carries out what the core asked for.
    fn carry_out(&mut self) -> Result<(), StopCause> {
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                self.effect(effect)?;
            }
        }
        Ok(())
    }

    /// Carries out what the core asked for, and reports what came of it to PostgreSQL.
    fn obey(&mut self) -> Result<(), StopCause> {
        self.carry_out()?;
        let (needed, next_xid) = (self.core.standbys(self.now()), self.ctx.board.next_xid());
        if let UpstreamStage::Streaming(s) = &mut self.stage {
            // Also in the midst of a record, which may be longer than the ring.
            if s.ring.is_full()
                && let Some(given) = self.core.given()
            {
                s.ring.release(given);
            }
            let due = needed.is_some_and(|needed| s.tell_standbys(needed, next_xid))
                | s.report.update(self.core.reportable(), self.applied, self.ctx.config.apply_source);
            if due {
                s.report.queue(&mut s.stream.writer, false);
                // At once when the socket takes it, which it nearly always does; the rest goes out with the next look.
                if s.stream.writer.flush().now_or_never().transpose()?.is_some() {
                    s.report.flushed(&mut s.stream.writer);
                }
            }
        }
        Ok(())
    }

    fn effect(&mut self, effect: Effect) -> Result<(), StopCause> {
        match effect {
            Effect::Dial { peer } => {
                if let Some(known) = self.peers.get_mut(peer.0) {
                    known.session += 1;
                    let session = known.session;
                    self.command(peer, PeerCommand::Dial(session));
                }
            }
            Effect::Close { peer, reason } => {
                self.note_problem(peer, reason.to_string());
                self.command(peer, PeerCommand::Close);
            }
            Effect::Send { peer, message } => self.command(peer, PeerCommand::Send(message.encode(ProtoVersion::V3))),
            Effect::Append { peer, head } => self.append(peer, head),
            Effect::ReadyToCampaign { greeted } => {
                tracing::info!(quorum = ?greeted, "a quorum has greeted: asking for votes");
                self.ctx.board.set_phase(ShimPhase::Campaign);
                self.step(Input::Campaign);
            }
            Effect::WonElection { term, donor, donor_node, end, .. } => {
                tracing::info!(%term, donor = %donor_node, %end, "the election is won");
                self.ctx.board.elected(term, end);
                self.ctx.metrics.elections.inc();
                self.prove(Chosen { term, donor: donor.0, end })?;
            }
            Effect::Committed { commit_lsn } => {
                if let UpstreamStage::Streaming(s) = &mut self.stage {
                    s.ring.release(commit_lsn);
                }
            }
            Effect::Feedback { feedback, .. } => self.feedback(&feedback),
            Effect::Deposed { term } => return Err(StopCause::Deposed(term)),
            Effect::Fatal(fatal) => return Err(StopCause::Fatal(fatal)),
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
            let ring = Ring::new(chosen.end, config.ring_bytes);
            let (report, heard) = (PositionReport::default(), Instant::now());
            Ok(Box::new(Streaming { stream, ring, link, report, standbys: StandbyReport::default(), heard }))
        }));
        Ok(())
    }

    fn append(&mut self, peer: PeerId, head: AppendRequest) {
        let from_ring = match &self.stage {
            UpstreamStage::Streaming(s) => s.ring.slices(head.begin_lsn, head.end_lsn),
            _ => None,
        };
        let end = head.end_lsn;
        let command = match from_ring {
            Some(parts) => PeerCommand::Wal { head: downstream::encode_head(head), parts, end },
            None => match self.source_of(&head) {
                Some(source) => PeerCommand::Fetch { head, source },
                None => {
                    let name = |i: usize| self.ctx.config.safekeepers.get(i).map(safekeeper::shown).unwrap_or_default();
                    let doubts = self.ctx.board.donors(|donors| donors.describe(name));
                    let why: String = doubts.into_iter().map(|doubt| format!("; {doubt}")).collect();
                    return self.give_up(peer, format!("nobody can supply the WAL up to {end} that it lacks{why}"));
                }
            },
        };
        self.command(peer, command);
    }

    /// Who has WAL that is not in the ring: a safekeeper that holds it durably, else the primary, which keeps what was
    /// not reported to it.
    fn source_of(&self, head: &AppendRequest) -> Option<WalSource> {
        let len = head.end_lsn.bytes_since(head.begin_lsn);
        let donors = self.ctx.board.donors(|donors| donors.clone());
        if let Some(donor) = self.core.donor_for(head.end_lsn, |peer| donors.rank(peer.0)) {
            self.ctx.metrics.donor_bytes.inc_by(len);
            return Some(WalSource::Donor(donor.0));
        }
        let UpstreamStage::Streaming(s) = &self.stage else { return None };
        // What lies before the stream was proved, not sent; and the proof needs no second connection.
        (s.stream.start <= head.begin_lsn).then(|| {
            self.ctx.metrics.reread_bytes.inc_by(len);
            WalSource::Primary(self.origin)
        })
    }

    fn command(&mut self, peer: PeerId, command: PeerCommand) {
        let Some(known) = self.peers.get(peer.0) else { return };
        if known.commands.try_send(command).is_err() {
            self.give_up(peer, "it does not take what is sent to it".to_owned());
        }
    }

    /// Ends a session from this side. The queue may be full, so the task is replaced instead of told.
    fn give_up(&mut self, peer: PeerId, reason: String) {
        self.note_problem(peer, reason);
        let (commands, task) = downstream::start(Arc::clone(&self.ctx.config), peer, self.events_sender.clone());
        if let Some(known) = self.peers.get_mut(peer.0) {
            (known.commands, known.task_guard) = (commands, task);
            known.session += 1;
        }
        self.step(Input::Disconnected { peer });
    }

    fn feedback(&mut self, feedback: &PageserverFeedback) {
        self.applied = self.applied.max(feedback.last_received_lsn);
    }

    /// Brings the status page up to date.
    fn show(&mut self) {
        let received = match &self.stage {
            UpstreamStage::Streaming(s) => Some((s.ring.end(), s.ring.bytes(), s.report.flush(), s.report.apply())),
            _ => None,
        };
        let peers = self.core.peers();
        for (known, away) in
            peers.iter().zip(&mut self.peers).zip(&self.ctx.away).filter_map(|((peer, known), away)| {
                (peer.streaming && known.problem.is_some()).then_some((known, away))
            })
        {
            known.problem = None;
            away.over();
        }
        let rows = peers.iter().zip(&self.peers).map(|(p, known)| (p, known.problem.as_deref()));
        let quorum = self.core.has_quorum(self.now());
        self.ctx.board.progress(self.core.commit_lsn(), quorum, received, rows);
    }
}

impl Streaming {
    async fn pick(&mut self, reply_every: Duration) -> SessionPick {
        let room = self.ring.has_room();
        let reply_at = self.report.sent_at() + reply_every;
        let PrimaryStream { reader, writer, .. } = &mut self.stream;
        tokio::select! {
            result = writer.flush(), if writer.queued_bytes() > 0 => SessionPick::Replied(result),
            event = reader.next(), if room => SessionPick::Upstream(event),
            () = sleep_until(reply_at) => SessionPick::Reply,
        }
    }

    /// Queues what the standbys need kept, when it is due; whether it was.
    fn tell_standbys(&mut self, needed: HotStandbyFeedback, next_xid: Option<u64>) -> bool {
        let now = Instant::now();
        let needed = next_xid.map_or(needed, |next| needed.recent_at(next));
        let Some(due) = self.standbys.due(needed, now) else { return false };
        if self.stream.writer.queued_bytes() > 0 {
            return false; // PostgreSQL does not read: the next look is soon enough
        }
        self.stream.writer.queue(&standbys::encode(due, pg_now()), Bytes::new());
        self.standbys.said(due, now);
        true
    }

    /// Takes back what the slot keeps for standbys; over when PostgreSQL has read it, or has ended the stream.
    async fn release_slot(&mut self) {
        let PrimaryStream { reader, writer, .. } = &mut self.stream;
        writer.queue(&standbys::encode(HotStandbyFeedback::default(), pg_now()), Bytes::new());
        // Its answer says that the word before was read: closing at once may throw that away.
        self.report.queue(writer, true);
        if writer.flush().await.is_err() {
            return;
        }
        while let Ok(CopyEvent::Data(data)) = reader.next().await {
            if matches!(SenderMessage::decode(data), Ok(SenderMessage::Keepalive { .. })) {
                return;
            }
        }
    }

    fn take(&mut self, event: CopyEvent, metrics: &ShimMetrics) -> Result<(), StopCause> {
        let data = match event {
            CopyEvent::Data(data) => data,
            CopyEvent::Error(e) => return Err(StopCause::Retry(format!("PostgreSQL ended the stream: {e}"))),
            CopyEvent::Done | CopyEvent::Closed | CopyEvent::Fail(_) => {
                return Err(StopCause::Retry("PostgreSQL closed the stream".to_owned()));
            }
        };
        let message = SenderMessage::decode(data);
        match message.map_err(|e| StopCause::Retry(format!("PostgreSQL broke the protocol: {e}")))? {
            SenderMessage::XLogData { start, wal, .. } => self.wal(start, wal, metrics),
            SenderMessage::Keepalive { reply_requested, .. } => {
                if reply_requested {
                    self.report.queue(&mut self.stream.writer, false);
                }
                Ok(())
            }
        }
    }

    fn wal(&mut self, start: Lsn, wal: Bytes, metrics: &ShimMetrics) -> Result<(), StopCause> {
        self.link.feed(start, &wal).map_err(AttachRefusal::DoesNotFollow)?;
        metrics.received_bytes.inc_by(wal.len() as u64);
        self.ring.push(start, wal).map_err(|gap| StopCause::Retry(gap.to_string()))
    }
}
