//! What a creation has made so far, so that one that fails leaves nothing behind.

use anyhow::{Context, Result};
use broker::Broker;
use proto::broker::records::NodeRecord;
use proto::id::TenantTimelineId;
use tokio_postgres::Client;

use super::records::timeline_path;
use crate::http::Http;

/// Made by this run, in this order.
#[derive(Default)]
pub(super) struct Made {
    /// Replication slot on the primary.
    pub(super) slot: Option<String>,
    /// Safekeepers that were asked to create it.
    pub(super) members: Vec<NodeRecord>,
    /// Whether the broker has its record from us.
    pub(super) conf: bool,
    /// Pageservers that were asked to attach it.
    pub(super) pageservers: Vec<NodeRecord>,
}

impl Made {
    /// Takes everything back, last things first. Gives what could not be taken back, as text.
    pub(super) async fn undo(
        self,
        ttid: TenantTimelineId,
        client: &Client,
        http: &Http,
        broker: &Broker,
    ) -> Vec<String> {
        let mut left = Vec::new();
        let mut note = |what: String, done: Result<()>| {
            if let Err(e) = done {
                left.push(format!("{what} ({e:#})"));
            }
        };
        let path = format!("{}?force=true", timeline_path(ttid));
        for node in &self.pageservers {
            note(format!("pageserver {}", node.id), http.delete(&node.http, &path).await.map(drop));
        }
        if self.conf {
            let deleted = broker.delete(&broker.keys().conf(ttid)).await;
            note("its record on the broker".to_owned(), deleted.map(drop).map_err(Into::into));
        }
        for node in &self.members {
            note(format!("safekeeper {}", node.id), http.delete(&node.http, &path).await.map(drop));
        }
        if let Some(slot) = &self.slot {
            let drop_it = format!("SELECT pg_drop_replication_slot('{slot}')");
            let dropped = client.simple_query(&drop_it).await.map(drop).context("PostgreSQL refuses");
            note(format!("replication slot {slot}"), dropped);
        }
        left
    }
}
