//! Health and numbers: when the server is ready, `/v1/status`, what `/metrics` shows.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use proto::api::Readiness;
use serde::Serialize;

use crate::context::{SafekeeperContext, VERSION};
use crate::core::HISTORY_ENTRIES_MAX;
use crate::metrics::Observed;
use crate::net::streams::StreamKind;
use crate::push::board::ChoiceRow;

/// Entries of a term history from which on it is warned about: half of what there is room for.
const HISTORY_WARN: usize = HISTORY_ENTRIES_MAX / 2;

/// Body of the answer to `GET /v1/status`.
#[derive(Serialize)]
pub(super) struct SafekeeperNodeStatus {
    kind: &'static str,
    id: u64,
    version: &'static str,
    uptime_s: u64,
    pg: String,
    http: String,
    timelines: usize,
    broker_connected: bool,
}

pub(super) async fn status(State(ctx): State<Arc<SafekeeperContext>>) -> Json<SafekeeperNodeStatus> {
    Json(SafekeeperNodeStatus {
        kind: "safekeeper",
        id: ctx.config.node.id.0,
        version: VERSION,
        uptime_s: ctx.started.elapsed().as_secs(),
        pg: ctx.advertise_pg.clone(),
        http: ctx.advertise_http.clone(),
        timelines: ctx.timelines.list().len(),
        broker_connected: ctx.session.is_connected(),
    })
}

/// `GET /v1/choices`: the choices that fell on this safekeeper.
pub(super) async fn choices(State(ctx): State<Arc<SafekeeperContext>>) -> Json<Vec<ChoiceRow>> {
    Json(ctx.pushes.rows(&ctx.streams))
}

/// Ready while every timeline accepts WAL. A broker that is away is named, but stops nothing.
pub(crate) fn readiness(ctx: &SafekeeperContext) -> Readiness {
    let mut reasons = Vec::new();
    if ctx.cancel.is_cancelled() {
        reasons.push("the safekeeper is shutting down".to_owned());
    }
    for handle in ctx.timelines.list() {
        if let Some(reason) = handle.stopped() {
            reasons.push(format!("timeline {} accepts no WAL: {reason}", handle.ttid()));
        }
        if let Some(reason) = handle.positions().borrow().not_admitted() {
            reasons.push(format!("timeline {}: this member takes no part: {reason}", handle.ttid()));
        }
        if let Some(damage) = handle.damage() {
            reasons.push(format!(
                "timeline {}: WAL held here is damaged {damage}; it takes WAL on, but is no donor of this range \
                 (operations.md, 'Damaged WAL')",
                handle.ttid()
            ));
        }
    }
    reasons.extend(ctx.session.intruder());
    let ready = reasons.is_empty();
    reasons.extend(ctx.session.refusal());
    if !ctx.session.is_connected() {
        reasons.push("degraded: the broker does not answer; streams go on, new choices do not arrive".to_owned());
    }
    for handle in ctx.timelines.list() {
        let entries = handle.positions().borrow().history_entries;
        if entries >= HISTORY_WARN {
            reasons.push(format!(
                "degraded: timeline {}: its term history holds {entries} of {HISTORY_ENTRIES_MAX} entries, at which no \
                 vote is given any more; find out what causes the elections (operations.md, 'A term history that fills \
                 up')",
                handle.ttid()
            ));
        }
    }
    Readiness { ready, reasons }
}

/// Everything that is counted and measured, as Prometheus scrapes it.
pub(super) fn metrics(ctx: &SafekeeperContext) -> Result<String, std::fmt::Error> {
    ctx.metrics.encode(&observe(ctx), |r| ctx.timelines.register_metrics(r))
}

fn observe(ctx: &SafekeeperContext) -> Observed {
    let mut o =
        Observed { broker_connected: ctx.session.is_connected(), ready: readiness(ctx).ready, ..Observed::default() };
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    for handle in ctx.timelines.list() {
        let positions = handle.positions();
        let p = positions.borrow();
        o.timelines += 1;
        o.timelines_stopped += i64::from(handle.stopped().is_some());
        o.timelines_damaged += i64::from(handle.damage().is_some());
        o.readmission_pending += i64::from(p.not_admitted().is_some());
        o.timelines_streaming += i64::from(p.streaming);
        let lsn = |l: Option<pgformat::Lsn>| l.map_or(0, pgformat::Lsn::get);
        o.flush_lsn_sum = o.flush_lsn_sum.wrapping_add(lsn(p.flush_lsn));
        o.commit_lsn_sum = o.commit_lsn_sum.wrapping_add(lsn(p.commit_lsn));
        o.history_entries_max = o.history_entries_max.max(signed(p.history_entries as u64));
        if let (Some(flush), Some(commit)) = (p.flush_lsn, p.commit_lsn) {
            o.uncommitted_bytes_max = o.uncommitted_bytes_max.max(signed(flush.bytes_since(commit)));
        }
    }
    for s in ctx.streams.all().iter().filter(|s| s.kind == StreamKind::Push) {
        let commit = ctx.timelines.get(s.ttid).and_then(|h| h.positions().borrow().commit_lsn);
        if let (Some(commit), Some(received)) = (commit, s.received()) {
            o.push_lag_bytes_max = o.push_lag_bytes_max.max(signed(commit.bytes_since(received)));
        }
    }
    o
}
