//! `walfabric page`: one page of a pageserver, and the proof that all of them are those of a stopped cluster.
//!
//! Either port of the pageserver can be named: each tells the other. A single page is read over HTTP, which reads
//! exactly at an LSN and sets the checksum; all pages are read over the pagestream, which is faster.

pub mod catalogues;
pub mod client;
pub mod local;
pub mod remote;
#[cfg(test)]
mod tests;
pub mod verify;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use pgformat::Lsn;
use pgformat::page::PAGE_SIZE;
use pgformat::rel::BlockTag;
use proto::id::TenantTimelineId;
use proto::net::{ClientConnection, ConnectOptions};
use serde::Deserialize;

use crate::http::Http;

/// How long a port may take to say which one it is.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// What a request may take beyond the time that it lets the pageserver wait.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// A pageserver's two ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Server {
    /// libpq.
    pub pg: String,
    /// HTTP.
    pub http: String,
}

#[derive(Deserialize)]
struct Status {
    pg: String,
}

/// Finds both ports by asking one of them.
///
/// # Errors
/// When neither protocol is spoken there, or not by a pageserver.
pub async fn find_server(address: &str) -> Result<Server> {
    let over_http = async {
        let status: Status = Http::new(PROBE_LIMIT)?.get(address, "/v1/status").await?;
        Ok::<_, anyhow::Error>(Server { pg: status.pg, http: address.to_owned() })
    };
    let http_error = match over_http.await {
        Ok(server) => return Ok(server),
        Err(e) => e,
    };
    let over_libpq = async {
        let mut options = ConnectOptions::to_address(address, "walfabric")?;
        options.timeout = PROBE_LIMIT;
        let mut session = ClientConnection::dial(&options).await?;
        let rows = session.simple_query("SHOW CONFIG").await?;
        let rows = rows.iter().flat_map(|r| &r.rows);
        let value = |row: &Vec<Option<String>>| match row.as_slice() {
            [Some(name), Some(value)] if name == "advertise_http" => Some(value.clone()),
            _ => None,
        };
        let http = rows.filter_map(value).next().context("SHOW CONFIG has no advertise_http: is it a pageserver?")?;
        Ok::<_, anyhow::Error>(Server { pg: address.to_owned(), http })
    };
    over_libpq
        .await
        .with_context(|| format!("{address} is no pageserver, neither over HTTP ({http_error:#}) nor by libpq"))
}

/// The path of a timeline on a pageserver's HTTP port.
fn timeline_path(ttid: TenantTimelineId) -> String {
    format!("/v1/tenant/{}/timeline/{}", ttid.tenant_id, ttid.timeline_id)
}

/// A page exactly at `lsn`, or at the latest LSN, with its checksum if the cluster has them. Waits for the LSN as
/// long as `wait`.
///
/// # Errors
/// With the pageserver's own words: no such relation, beyond its end, LSN not readable.
pub async fn get(
    server: &Server,
    ttid: TenantTimelineId,
    tag: BlockTag,
    lsn: Option<Lsn>,
    wait: Duration,
) -> Result<Bytes> {
    let lsn = lsn.map_or_else(String::new, |lsn| format!("&lsn={lsn}"));
    let path =
        format!("{}/page?rel={}&block={}{lsn}&wait_ms={}", timeline_path(ttid), tag.fork, tag.blk, wait.as_millis());
    let page = Http::new(wait + ANSWER_LIMIT)?.get_bytes(&server.http, &path).await?;
    ensure!(page.len() == PAGE_SIZE, "{} answered with {} bytes instead of a page", server.http, page.len());
    Ok(page)
}
