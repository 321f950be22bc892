//! Asks the other members of each timeline what they remember of this one, and tells them where it stands
//! (`docs/protocol.md`, "Amnesia"). What follows from it is decided by the acceptor.
//!
//! Anybody may claim to be a member, so what is told is a hint only: the member itself is asked, at its address in the
//! member set, and its own words are taken.
//!
//! Owner of nothing. Asks when a timeline was opened, until enough have answered; then tells what moved, now and then,
//! so that the others remember it. Idle timelines say nothing. No running stream waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use libpq::{ClientConnection, ConnectOptions, NetError};
use node::{RepeatLog, parts};
use proto::admission::{AdmissionAnswer, Statement};
use proto::consensus::Member;
use proto::id::{NodeId, TenantTimelineId};
use proto::pg::{SqlError, sqlstate};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error};

use crate::context::SafekeeperContext;
use crate::core::{Admission, Refusal, check_statement};
use crate::timeline::{TimelineHandle, Unheard};

/// Between two statements of a timeline that moves.
const PERIOD: Duration = Duration::from_secs(3);
/// Between two rounds of a member that does not take part, at first.
const SOON: Duration = Duration::from_millis(100);
/// The same, at most.
const SOON_MAX: Duration = Duration::from_secs(2);
/// Between two attempts to tell a member that was away.
const AWAY: Duration = Duration::from_secs(15);
/// Limit for one question.
const QUESTION: Duration = Duration::from_secs(2);
/// Limit for the question back to the one who asks, who waits for [`QUESTION`] meanwhile.
const BACK: Duration = Duration::from_secs(1);
/// How long the question back waits for a vote or an election that is being written here: several syncs of a slow disk.
const SETTLE: Duration = Duration::from_millis(800);
/// Between two looks meanwhile.
const LOOK: Duration = Duration::from_millis(5);
/// Timelines that ask at a time: a start of a node with thousands of them must not dial everybody at once.
const ASKING_MAX: usize = 8;

/// Asks for every timeline until the server stops.
pub(crate) async fn run(ctx: Arc<SafekeeperContext>) {
    let turns = Arc::new(Semaphore::new(ASKING_MAX));
    let mut changes = ctx.timelines.changes();
    let mut followed = BTreeSet::new();
    let mut tasks = JoinSet::new();
    loop {
        changes.borrow_and_update();
        for handle in ctx.timelines.list() {
            if followed.insert(handle.ttid()) {
                let turns = Arc::clone(&turns);
                tasks.spawn(async move {
                    if let Err(panic) = parts::caught(follow(handle.clone(), turns)).await {
                        handle.broke(&format!("its admission panicked: {panic}"));
                    }
                });
            }
        }
        tokio::select! {
            () = ctx.cancel.cancelled() => break,
            changed = changes.changed() => if changed.is_err() { break },
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                if let Err(e) = ended {
                    error!(error = %e, "asking the other members was cut off");
                }
            }
        }
    }
    tasks.shutdown().await;
}

/// One timeline, until it is shut down.
async fn follow(handle: TimelineHandle, turns: Arc<Semaphore>) {
    let mut positions = handle.positions();
    let mut pause = SOON;
    let misplaced = RepeatLog::events(format!("timeline {}: another safekeeper answers", handle.ttid()));
    loop {
        positions.borrow_and_update();
        let began = Instant::now();
        let all_told = round(&handle, &turns, &misplaced).await;
        if positions.has_changed().is_err() {
            return;
        }
        if positions.borrow().admission != Admission::Admitted {
            sleep(pause).await;
            pause = (pause * 2).min(SOON_MAX);
            continue;
        }
        pause = SOON;
        tokio::select! {
            changed = positions.changed() => if changed.is_err() { return },
            () = sleep(AWAY), if !all_told => {}
        }
        sleep((began + PERIOD).saturating_duration_since(Instant::now())).await;
    }
}

/// Tells every other member; true when all of them heard it.
async fn round(handle: &TimelineHandle, turns: &Semaphore, misplaced: &RepeatLog) -> bool {
    let Ok(_turn) = turns.acquire().await else { return false };
    let control = handle.control();
    let Some(statement) = handle.statement().await else { return false };
    let others: BTreeSet<(NodeId, &str, u16)> = control
        .mconf
        .members
        .iter()
        .chain(&control.mconf.new_members)
        .filter(|m| m.id != statement.safekeeper_id && m.pg_port != 0)
        .map(|m: &Member| (m.id, m.host.as_str(), m.pg_port))
        .collect();
    let ttid = handle.ttid();
    let asked = others.into_iter().map(|(id, host, port)| {
        let statement = &statement;
        async move { (id, host, port, ask(ttid, host, port, statement).await) }
    });
    let mut all = true;
    for (id, host, port, answer) in join_all(asked).await {
        match answer {
            Ok(answer) if answer.statement.safekeeper_id != id => {
                all = false;
                let who = answer.statement.safekeeper_id;
                misplaced.warn(format!("safekeeper {who} at {host}:{port}, where the member set has safekeeper {id}"));
            }
            Ok(answer) => handle.answered(answer),
            Err(e) => {
                all = false;
                debug!(%ttid, address = format!("{host}:{port}"), error = %e, "another member did not answer");
            }
        }
    }
    all
}

/// Somebody says where a member stands: that member is asked, what *it* says is taken, and whoever asked is answered.
///
/// # Errors
/// 22023 for what no member of the timeline can have said, 55006 and 57P03 when the member is not heard now.
pub(crate) async fn told(own: NodeId, handle: &TimelineHandle, claim: &Statement) -> Result<AdmissionAnswer, SqlError> {
    let (node, ttid, mconf) = (claim.safekeeper_id, handle.ttid(), handle.control().mconf.clone());
    let term = handle.positions().borrow().term;
    check_statement(term, claim).map_err(|refusal| sql_error(&refusal))?;
    let member = mconf.members.iter().chain(&mconf.new_members).find(|m| m.id == node && node != own);
    let Some(Member { host, pg_port, .. }) = member else {
        let text = format!("safekeeper {node} is not another member of timeline {ttid}");
        return Err(SqlError::invalid_value(text).with_hint("Only members tell each other where they stand."));
    };
    if *pg_port == 0 {
        let text = format!("the member set has no address of safekeeper {node}, at which to hear its statement");
        return Err(SqlError::new(sqlstate::CANNOT_CONNECT_NOW, text)
            .with_hint("Members that were created without their ports are not asked."));
    }
    let call = async || hear(ttid, own, (node, host, *pg_port)).await;
    let statement = handle.hearsay().hear(node, claim, call).await.map_err(|unheard| match unheard {
        Unheard::TooMany(most) => {
            let text = format!("{most} sessions wait already to hear what safekeeper {node} states");
            SqlError::new(sqlstate::OBJECT_IN_USE, text).with_hint("Ask again.")
        }
        Unheard::Failed(why) => {
            let text = format!(
                "cannot reach safekeeper {node} at {host}:{pg_port}, as the member set has it, to hear its statement: \
                 {why}"
            );
            SqlError::new(sqlstate::CANNOT_CONNECT_NOW, text)
                .with_hint("A statement is taken from the member itself alone: its address must be reached from here.")
        }
    })?;
    let answer = handle.told(Box::new(statement)).await.ok_or_else(stopped)?;
    answer.map_err(|refusal| sql_error(&refusal))
}

/// What this member says of itself, once that is durable.
///
/// # Errors
/// 57P03 when it is not durable within [`SETTLE`], or the timeline is stopped.
pub(crate) async fn own_statement(handle: &TimelineHandle) -> Result<Statement, SqlError> {
    let until = Instant::now() + SETTLE;
    loop {
        if let Some(statement) = handle.statement().await {
            return Ok(statement);
        }
        if handle.stopped().is_some() || Instant::now() >= until {
            return Err(stopped());
        }
        sleep(LOOK).await;
    }
}

fn stopped() -> SqlError {
    SqlError::new(sqlstate::CANNOT_CONNECT_NOW, "the timeline is stopped or has just been opened anew")
}

fn sql_error(refusal: &Refusal) -> SqlError {
    SqlError { hint: refusal.hint().map(str::to_owned), ..SqlError::new(refusal.sqlstate(), refusal.to_string()) }
}

async fn ask(
    ttid: TenantTimelineId,
    host: &str,
    port: u16,
    statement: &Statement,
) -> Result<AdmissionAnswer, NetError> {
    let json = serde_json::to_string(statement)
        .map_err(|e| NetError::Protocol { peer: format!("{host}:{port}"), problem: e.to_string() })?;
    let command = format!("MEMBER_STATEMENT '{json}'");
    question(ttid, statement.safekeeper_id, (host, port), &command, QUESTION).await
}

/// What the member at this address says of itself.
async fn hear(
    ttid: TenantTimelineId,
    own: NodeId,
    (node, host, port): (NodeId, &str, u16),
) -> Result<Statement, String> {
    let said: Statement =
        question(ttid, own, (host, port), "MEMBER_STATEMENT", BACK).await.map_err(|e| e.to_string())?;
    if said.safekeeper_id == node { Ok(said) } else { Err(format!("safekeeper {} answers there", said.safekeeper_id)) }
}

/// Asks another member; it answers one value, JSON.
async fn question<T: DeserializeOwned>(
    ttid: TenantTimelineId,
    own: NodeId,
    (host, port): (&str, u16),
    command: &str,
    limit: Duration,
) -> Result<T, NetError> {
    let options = ConnectOptions {
        host: host.trim_matches(['[', ']']).to_owned(),
        port,
        user: "safekeeper".to_owned(),
        application_name: format!("safekeeper-{own}"),
        options: vec![
            ("tenant_id".to_owned(), ttid.tenant_id.to_string()),
            ("timeline_id".to_owned(), ttid.timeline_id.to_string()),
        ],
        timeout: limit,
        ..ConnectOptions::default()
    };
    let peer = format!("{host}:{port}");
    let question = async {
        let mut connection = ClientConnection::dial(&options).await?;
        connection.simple_query(command).await
    };
    let answered = timeout(limit, question).await;
    let rows = answered.map_err(|_| NetError::Timeout { peer: peer.clone(), what: "an answer", limit })?;
    let text = rows?.into_iter().next().and_then(|r| r.rows.into_iter().next()?.into_iter().next()?);
    serde_json::from_str(&text.unwrap_or_default())
        .map_err(|e| NetError::Protocol { peer, problem: format!("MEMBER_STATEMENT: {e}") })
}
