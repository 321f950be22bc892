//! `walfabric page`: one page of a pageserver, and the proof that all of them are those of a stopped cluster.
//!
//! Either port of the pageserver can be named: each tells the other. A single page is read over HTTP, which reads
//! exactly at an LSN and sets the checksum; all pages are read over the pagestream, which is faster.

pub mod catalogues;
pub mod client;
pub mod command;
pub mod local;
pub mod remote;
#[cfg(test)]
mod tests;
pub mod verify;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use libpq::{ClientConnection, ConnectOptions, NetError};
use pgformat::Lsn;
use pgformat::page::PAGE_SIZE;
use pgformat::rel::BlockTag;
use proto::id::TenantTimelineId;
use proto::pg::sqlstate;
use serde::Deserialize;

use crate::http::Http;
use crate::usage::UsageError;

/// How long a port may take to say which one it is.
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// What a request may take beyond the time that it lets the pageserver wait.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// A pageserver's two ports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageserverPorts {
    /// Address of its libpq port, host:port.
    pub pg: String,
    /// Address of its HTTP port, host:port.
    pub http: String,
}

#[derive(Deserialize)]
struct PageserverAddresses {
    pg: String,
}

/// Finds both ports by asking one of them.
///
/// # Errors
/// When neither protocol is spoken there, or not by a pageserver.
pub async fn find_server(address: &str) -> Result<PageserverPorts> {
    let over_http = async {
        let status: serde_json::Value = Http::new(PROBE_LIMIT)?.get(address, "/v1/status").await?;
        not_another(address, &status)?;
        let status: PageserverAddresses = serde_json::from_value(status).context("/v1/status is not a pageserver's")?;
        Ok::<_, anyhow::Error>(PageserverPorts { pg: status.pg, http: address.to_owned() })
    };
    let http_error = match over_http.await {
        Ok(server) => return Ok(server),
        Err(e) if e.is::<UsageError>() => return Err(e),
        Err(e) => e,
    };
    let over_libpq = async {
        let mut options = ConnectOptions::to_address(address, "walfabric")?;
        options.timeout = PROBE_LIMIT;
        let mut session = ClientConnection::dial(&options).await?;
        let rows = session.simple_query("SHOW CONFIG").await?;
        let pair = |row: &Vec<Option<String>>| match row.as_slice() {
            [Some(name), Some(value)] => Some((name.clone(), serde_json::Value::from(value.as_str()))),
            _ => None,
        };
        let settings: serde_json::Map<_, _> = rows.iter().flat_map(|r| &r.rows).filter_map(pair).collect();
        let http = settings.get("advertise_http").and_then(|http| http.as_str()).map(str::to_owned);
        not_another(address, &settings.into())?;
        let http = http.context("SHOW CONFIG has no advertise_http: is it a pageserver?")?;
        Ok::<_, anyhow::Error>(PageserverPorts { pg: address.to_owned(), http })
    };
    over_libpq.await.map_err(|e| match e.downcast_ref::<NetError>().and_then(NetError::server_error) {
        // It speaks the protocol, and does not let us in or has no such setting: ours would.
        Some(error) if FOREIGN_CODES.contains(&error.code.as_str()) => {
            UsageError(format!("{address} is a PostgreSQL ({}); {ADVICE}", error.message)).into()
        }
        _ if e.is::<UsageError>() => e,
        _ if matches!(e.downcast_ref(), Some(NetError::Io { .. } | NetError::Timeout { .. })) => {
            e.context(format!("no pageserver answers at {address}"))
        }
        _ => e.context(format!("{address} is no pageserver, neither over HTTP ({http_error:#}) nor by libpq")),
    })
}

/// What to do about an address of something else.
const ADVICE: &str = "give a pageserver's libpq or HTTP address";
/// How a PostgreSQL answers who is no user of its, or asks for `SHOW CONFIG`: no such setting, no such role, password
/// asked for or wrong, no line in pg_hba.conf, no such database, starting up.
const FOREIGN_CODES: [&str; 5] = [
    sqlstate::UNDEFINED_OBJECT,
    sqlstate::INVALID_AUTHORIZATION,
    sqlstate::INVALID_PASSWORD,
    sqlstate::UNDEFINED_DATABASE,
    sqlstate::CANNOT_CONNECT_NOW,
];

/// Refuses a server that says of itself that it is another kind than a pageserver.
fn not_another(address: &str, said: &serde_json::Value) -> Result<()> {
    let what = match said.get("kind").and_then(|kind| kind.as_str()) {
        Some("pageserver") => return Ok(()),
        Some(kind) => match said.get("id") {
            Some(serde_json::Value::String(id)) => format!("{kind} {id}"),
            Some(id) => format!("{kind} {id}"),
            None => format!("a {kind}"),
        },
        // Only the shim tells this.
        None if said.get("protected").is_some() => "a walproposer-shim".to_owned(),
        // A pageserver of an older version.
        None => return Ok(()),
    };
    Err(UsageError(format!("{address} is {what}; {ADVICE}")).into())
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
    server: &PageserverPorts,
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
