//! The tables of SHOW, which `GET /v1/show/NAME` gives as JSON: one definition, so that both say the same.

use proto::api::{PageserverTimelineStatus, shown};

use crate::process::{Pageserver, VERSION};
use crate::read::LayerRow;
use crate::timeline::Timeline;

/// A result set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ShowTable {
    /// Names of the columns.
    pub(crate) columns: Vec<&'static str>,
    /// Rows; none is NULL.
    pub(crate) rows: Vec<Vec<Option<String>>>,
}

fn some(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

impl Pageserver {
    /// The table `name` (lower case); none when there is no such table.
    pub(crate) fn table(&self, name: &str) -> Option<ShowTable> {
        let (columns, rows) = match name {
            "timelines" => (TIMELINES.to_vec(), self.statuses().iter().map(timeline_row).collect()),
            "choices" => (CHOICES.to_vec(), self.statuses().iter().filter_map(choice_row).collect()),
            "lag" => (LAG.to_vec(), self.statuses().iter().map(lag_row).collect()),
            "safekeepers" => (SAFEKEEPERS.to_vec(), self.safekeeper_rows()),
            "layers" => (LAYERS.to_vec(), self.timelines().iter().flat_map(|t| layer_rows(t)).collect()),
            "config" => (vec!["name", "value"], self.config_rows()),
            "version" => (vec!["version"], vec![vec![some(format!("walfabric pageserver {}", VERSION))]]),
            _ => return None,
        };
        Some(ShowTable { columns, rows })
    }

    /// The addresses are those that others are told, given or found at start.
    fn config_rows(&self) -> Vec<Vec<Option<String>>> {
        let row = |(name, value): (String, String)| match name.as_str() {
            "advertise_pg" => vec![some(name), some(&self.advertise_pg)],
            "advertise_http" => vec![some(name), some(&self.advertise_http)],
            _ => vec![some(name), some(value)],
        };
        self.config.rows().into_iter().map(row).collect()
    }

    fn safekeeper_rows(&self) -> Vec<Vec<Option<String>>> {
        let pushes = self.pushes().clone();
        let row = |n: proto::broker::records::NodeRecord| {
            let chosen = pushes.get(&n.id).copied().unwrap_or(0);
            vec![some(n.id), some(n.pg), some(n.http), n.availability_zone, some(n.version), some(chosen)]
        };
        self.directory.safekeepers().into_iter().map(row).collect()
    }
}

const TIMELINES: [&str; 11] = [
    "tenant_id",
    "timeline_id",
    "state",
    "start_lsn",
    "last_record_lsn",
    "disk_consistent_lsn",
    "remote_consistent_lsn",
    "safekeeper_id",
    "reason",
    "stopped",
    "readable_from",
];
const LAYERS: [&str; 10] =
    ["tenant_id", "timeline_id", "kind", "first_lsn", "last_lsn", "first_key", "last_key", "versions", "bytes", "name"];
const CHOICES: [&str; 8] =
    ["tenant_id", "timeline_id", "pageserver_id", "safekeeper_id", "mode", "reason", "choice_seq", "chosen_at"];
const LAG: [&str; 7] = [
    "tenant_id",
    "timeline_id",
    "pageserver_id",
    "source_commit_lsn",
    "last_record_lsn",
    "disk_consistent_lsn",
    "lag_bytes",
];
const SAFEKEEPERS: [&str; 6] = ["id", "pg", "http", "availability_zone", "version", "choices"];

fn timeline_row(s: &PageserverTimelineStatus) -> Vec<Option<String>> {
    vec![
        some(s.tenant_id),
        some(s.timeline_id),
        some(s.state),
        some(shown(s.start_lsn)),
        some(shown(s.last_record_lsn)),
        some(shown(s.disk_consistent_lsn)),
        some(shown(s.remote_consistent_lsn)),
        s.choice.as_ref().map(|c| c.safekeeper_id.to_string()),
        s.choice.as_ref().map(|c| c.reason.clone()),
        s.stopped.clone(),
        some(shown(s.readable_from)),
    ]
}

fn layer_rows(timeline: &Timeline) -> Vec<Vec<Option<String>>> {
    let layers = timeline.reads().map(|reads| reads.layers()).unwrap_or_default();
    let row = |layer: LayerRow| {
        let (first_key, last_key) = layer.keys.unzip();
        vec![
            some(timeline.ttid.tenant_id),
            some(timeline.ttid.timeline_id),
            some(layer.kind),
            some(layer.lsns.0),
            some(layer.lsns.1),
            first_key.map(|k| k.to_string()),
            last_key.map(|k| k.to_string()),
            some(layer.versions),
            some(layer.bytes),
            some(layer.name),
        ]
    };
    layers.into_iter().map(row).collect()
}

fn choice_row(s: &PageserverTimelineStatus) -> Option<Vec<Option<String>>> {
    let c = s.choice.as_ref()?;
    Some(vec![
        some(s.tenant_id),
        some(s.timeline_id),
        some(s.pageserver_id),
        some(c.safekeeper_id),
        some(c.mode),
        some(&c.reason),
        some(c.choice_seq),
        some(&c.chosen_at),
    ])
}

fn lag_row(s: &PageserverTimelineStatus) -> Vec<Option<String>> {
    vec![
        some(s.tenant_id),
        some(s.timeline_id),
        some(s.pageserver_id),
        some(shown(s.source_commit_lsn)),
        some(shown(s.last_record_lsn)),
        some(shown(s.disk_consistent_lsn)),
        s.lag_bytes.map(|lag| lag.to_string()),
    ]
}
