//! Whether timelines follow the quorum, looked at again and again, so that what is too old shows.

use std::sync::Arc;
use std::time::Duration;

use crate::process::Pageserver;

/// Between two looks at whether timelines follow.
const LOOK: Duration = Duration::from_secs(1);

/// Looks at every timeline each second until the process stops.
pub(crate) async fn run(pageserver: Arc<Pageserver>) {
    loop {
        for timeline in pageserver.timelines() {
            let told = pageserver.directory.commit(timeline.ttid).filter(|_| pageserver.session.is_connected());
            timeline.observe(told);
        }
        if pageserver.shutdown.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_none() {
            return;
        }
    }
}
