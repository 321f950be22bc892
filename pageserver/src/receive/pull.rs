//! Pull: we dial the safekeeper. For when nobody can be asked to push: the broker is away, or nobody dials.

use std::sync::Arc;
use std::time::Duration;

use libpq::{ClientConnection, ConnectOptions};

use super::stream::Receiver;
use super::{StreamEnd, TAKEOVER_LIMIT, push};
use crate::choose::{Choice, Ended, Input};
use crate::ingest::Halt;
use crate::process::Pageserver;
use crate::timeline::Timeline;
use crate::timeline::stream::StreamGuard;

/// Connect, start-up and authentication together.
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// Pulls from `address` until the stream ends.
pub(crate) async fn run(pageserver: Arc<Pageserver>, timeline: Arc<Timeline>, choice: Choice, address: String) {
    let guard = timeline.stream.announce(choice);
    let receiver = tokio::select! {
        receiver = open(&pageserver, &timeline, &address, &guard) => receiver,
        () = guard.cancelled().cancelled() => Err(StreamEnd::Cancelled),
        () = pageserver.shutdown.cancelled() => Err(StreamEnd::Shutdown),
    };
    let end = match receiver {
        Ok(receiver) => {
            timeline.tell(Input::Connected { seq: choice.seq }).await;
            receiver.run(guard, choice.seq).await
        }
        Err(end) => {
            let how = end.kind(guard.is_replaced());
            drop(guard);
            if how != Ended::Replaced {
                timeline.stream_ended(false, end.to_string());
                timeline.tell(Input::StreamEnded { seq: choice.seq, how }).await;
            }
            end
        }
    };
    push::log_end(&pageserver, timeline.ttid, &choice, &end);
}

async fn open(
    pageserver: &Arc<Pageserver>,
    timeline: &Arc<Timeline>,
    address: &str,
    guard: &StreamGuard,
) -> Result<Receiver, StreamEnd> {
    let lost = |e: String| StreamEnd::Lost(format!("pull from {address}: {e}"));
    let mut options = ConnectOptions::to_address(address, "pageserver").map_err(|e| lost(e.to_string()))?;
    options.application_name = format!("pageserver-{}", pageserver.config.node.id);
    options.options = vec![
        ("tenant_id".into(), timeline.ttid.tenant_id.to_string()),
        ("timeline_id".into(), timeline.ttid.timeline_id.to_string()),
    ];
    options.parameters = vec![("replication".into(), "true".into())];
    options.timeout = DIAL_LIMIT;
    let connection = ClientConnection::dial(&options).await.map_err(|e| lost(e.to_string()))?;
    let mut lease = tokio::time::timeout(TAKEOVER_LIMIT, timeline.slot.take())
        .await
        .map_err(|_| lost("the stream before did not let go".into()))?;
    let start = lease.begin().await.map_err(|halt| {
        let why = halt.to_string();
        match halt {
            Halt::ReadAgain(_) => return StreamEnd::ReadAgain(why),
            Halt::Stopped(_) => timeline.set_stopped(&why),
            Halt::ImportAgain(_) => {}
        }
        StreamEnd::Stopped(why)
    })?;
    timeline.set_position(lease.position());
    let command = format!("START_REPLICATION PHYSICAL {start}");
    let (reader, writer) = connection.copy_both(&command).await.map_err(|e| lost(e.to_string()))?;
    tracing::info!(timeline = %timeline.ttid, %address, %start, "pull stream begins");
    guard.go_live(pageserver.now());
    let had_trouble = timeline.trouble().full.is_some();
    Ok(Receiver { pageserver: pageserver.clone(), timeline: timeline.clone(), lease, reader, writer, had_trouble })
}
