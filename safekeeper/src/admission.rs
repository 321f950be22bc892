//! Asks the other members of each timeline what they remember of this one, and tells them where it stands
//! (`docs/protocol.md`, "Amnesia"). What follows from it is decided by the acceptor.
//!
//! Owner of nothing. Asks when a timeline was opened, until enough have answered; then tells what moved, now and then,
//! so that the others remember it. Idle timelines say nothing. No running stream waits for it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use proto::admission::{Answer, Statement};
use proto::consensus::Member;
use proto::id::TenantTimelineId;
use proto::net::{ClientConnection, ConnectOptions, NetError};
use proto::runtime::parts;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, error};

use crate::core::Admission;
use crate::server::Context;
use crate::timeline::TimelineHandle;

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
/// Timelines that ask at a time: a start of a node with thousands of them must not dial everybody at once.
const ASKING_MAX: usize = 8;

/// Asks for every timeline until the server stops.
pub(crate) async fn run(ctx: Arc<Context>) {
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
    loop {
        positions.borrow_and_update();
        let began = Instant::now();
        let all_told = round(&handle, &turns).await;
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
async fn round(handle: &TimelineHandle, turns: &Semaphore) -> bool {
    let Ok(_turn) = turns.acquire().await else { return false };
    let control = handle.control();
    let Some(statement) = handle.statement().await else { return false };
    let others: BTreeSet<(&str, u16)> = control
        .mconf
        .members
        .iter()
        .chain(&control.mconf.new_members)
        .filter(|m| m.id != statement.safekeeper_id && m.pg_port != 0)
        .map(|m: &Member| (m.host.as_str(), m.pg_port))
        .collect();
    let ttid = handle.ttid();
    let asked = others.into_iter().map(|(host, port)| {
        let statement = &statement;
        async move { (host, port, ask(ttid, host, port, statement).await) }
    });
    let mut all = true;
    for (host, port, answer) in join_all(asked).await {
        match answer {
            Ok(answer) => handle.answered(answer),
            Err(e) => {
                all = false;
                debug!(%ttid, address = format!("{host}:{port}"), error = %e, "another member did not answer");
            }
        }
    }
    all
}

async fn ask(ttid: TenantTimelineId, host: &str, port: u16, statement: &Statement) -> Result<Answer, NetError> {
    let options = ConnectOptions {
        host: host.trim_matches(['[', ']']).to_owned(),
        port,
        user: "safekeeper".to_owned(),
        application_name: format!("safekeeper-{}", statement.safekeeper_id),
        options: vec![
            ("tenant_id".to_owned(), ttid.tenant_id.to_string()),
            ("timeline_id".to_owned(), ttid.timeline_id.to_string()),
        ],
        timeout: QUESTION,
        ..ConnectOptions::default()
    };
    let peer = format!("{host}:{port}");
    let bad = |problem: String| NetError::Protocol { peer: peer.clone(), problem };
    let json = serde_json::to_string(statement).map_err(|e| bad(e.to_string()))?;
    let question = async {
        let mut connection = ClientConnection::dial(&options).await?;
        connection.simple_query(&format!("MEMBER_STATEMENT '{json}'")).await
    };
    let limit = QUESTION;
    let answered = timeout(limit, question).await;
    let rows = answered.map_err(|_| NetError::Timeout { peer: peer.clone(), what: "what it remembers", limit })?;
    let text = rows?.into_iter().next().and_then(|r| r.rows.into_iter().next()?.into_iter().next()?);
    serde_json::from_str(&text.unwrap_or_default()).map_err(|e| bad(format!("MEMBER_STATEMENT: {e}")))
}
