//! What a timeline's manager tells the broker: the choice, indexed by safekeeper, and where the pageserver stands.

use std::io::Read as _;
use std::time::Duration;

use broker::BrokerError;
use proto::broker::records::{ChoiceRecord, PageserverTimelineRecord, SCHEMA};

use crate::choose::{Choice, Mode};
use crate::process::Pageserver;
use crate::timeline::{Offer, Timeline};

/// An offer for `choice`, not yet published.
///
/// # Errors
/// When the operating system gives no random bytes for the nonce.
pub(super) fn offer(pageserver: &Pageserver, timeline: &Timeline, choice: Choice) -> std::io::Result<Offer> {
    let chosen_at = node::rfc3339_now();
    Ok(match choice.mode {
        Mode::Pull => Offer { choice, chosen_at, nonce: String::new(), key: String::new(), token: None },
        Mode::Push => {
            let key = pageserver.broker.keys().choice(choice.safekeeper, timeline.ttid, pageserver.config.node.id);
            Offer { choice, chosen_at, nonce: nonce()?, key, token: None }
        }
    })
}

/// Puts the choice in one transaction with the removal of those before it. Returns its token.
pub(super) async fn put_choice(
    session: broker::Session,
    delete: Vec<String>,
    key: String,
    record: ChoiceRecord,
    limit: Duration,
) -> Result<i64, BrokerError> {
    let value = serde_json::to_vec(&record)
        .map_err(|e| BrokerError::Refused { operation: "encode choice", detail: e.to_string() })?;
    session.replace(delete, key, value, limit).await
}

/// The choice's record.
pub(super) fn choice_record(pageserver: &Pageserver, timeline: &Timeline, offer: &Offer) -> ChoiceRecord {
    ChoiceRecord {
        schema: SCHEMA,
        pageserver_id: pageserver.config.node.id,
        pageserver_pg: pageserver.advertise_pg.clone(),
        safekeeper_id: offer.choice.safekeeper,
        choice_seq: offer.choice.seq,
        reason: offer.choice.reason.as_str().to_owned(),
        chosen_at: offer.chosen_at.clone(),
        nonce: offer.nonce.clone(),
        start_lsn_hint: Some(timeline.position().last_record_lsn),
    }
}

/// Where the pageserver stands.
pub(super) fn timeline_record(pageserver: &Pageserver, timeline: &Timeline) -> PageserverTimelineRecord {
    let position = timeline.position();
    let offer = timeline.offer();
    PageserverTimelineRecord {
        schema: SCHEMA,
        pageserver_id: pageserver.config.node.id,
        safekeeper_id: offer.as_ref().map(|o| o.choice.safekeeper),
        reason: offer.as_ref().map(|o| o.choice.reason.as_str().to_owned()),
        choice_seq: timeline.choice_seq(),
        chosen_at: offer.map(|o| o.chosen_at),
        last_record_lsn: timeline.attach.as_ref().map(|_| position.last_record_lsn),
        disk_consistent_lsn: timeline.attach.as_ref().map(|_| position.disk_consistent_lsn),
        // One storage holds everything that is durable.
        remote_consistent_lsn: timeline.attach.as_ref().map(|_| position.disk_consistent_lsn),
    }
}

/// 16 random bytes as hexadecimal digits: nobody can guess the nonce of a choice that it cannot read.
fn nonce() -> std::io::Result<String> {
    let mut bytes = [0u8; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}
