//! Follows the broker: one watch for all timelines of the process.

use std::sync::Arc;

use broker::{Watch, WatchEvent};

use crate::process::Pageserver;

/// Follows the broker until the node stops.
pub(crate) async fn run(pageserver: Arc<Pageserver>) {
    let keys = pageserver.broker.keys().clone();
    let mut nodes = Watch::start(pageserver.broker.clone(), keys.safekeepers());
    let mut timelines = Watch::start(pageserver.broker.clone(), keys.timelines());
    loop {
        tokio::select! {
            () = pageserver.shutdown.cancelled() => return,
            event = nodes.next() => {
                pageserver.directory.on_nodes(event);
                // Nodes come and go rarely; everybody may be concerned.
                pageserver.timelines().iter().for_each(|t| t.view_changed.notify_one());
            }
            event = timelines.next() => {
                let is_one = matches!(event, WatchEvent::Put(_) | WatchEvent::Delete(_));
                let changed = pageserver.directory.on_timelines(&keys, event);
                match changed.and_then(|ttid| pageserver.timeline(ttid)) {
                    Some(timeline) => timeline.view_changed.notify_one(),
                    None if is_one => {}
                    None => pageserver.timelines().iter().for_each(|t| t.view_changed.notify_one()),
                }
            }
        }
    }
}
