//! One id, one living process: before a node publishes itself, it checks whether another process uses its id.
//!
//! The broker says where the id was last published, and the process at that address says who it is. A record alone
//! proves nothing: it outlives its process by the time of the lease. When the broker or the address does not answer,
//! the node starts.

use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::Broker;
use proto::broker::records::NodeRecord;

/// How long the broker, and then the address, may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// The longest status taken.
const STATUS_BYTES_MAX: u64 = 64 << 10;

/// Another process lives under this node's id.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{kind} {id} lives already at {} (HTTP {}); this process, at {own_pg} (HTTP {own_http}), does not start with the \
     same id: stop the other one, give another --id and --data-dir, or say --take-over",
    .other.0, .other.1
)]
pub struct TwoProcesses {
    kind: &'static str,
    id: u64,
    /// libpq and HTTP address of the other one.
    other: (String, String),
    own_pg: String,
    own_http: String,
}

#[derive(Deserialize)]
struct Status {
    id: u64,
    pg: String,
}

/// Looks whether the node of `key` on the broker lives elsewhere than at our addresses, libpq and HTTP, which are bound
/// already.
///
/// # Errors
/// When it does.
pub async fn one_process(
    broker: &Broker,
    kind: &'static str,
    key: &str,
    (own_pg, own_http): (&str, &str),
) -> Result<(), TwoProcesses> {
    let Ok(Ok(Some(entry))) = timeout(ANSWER_MAX, broker.get(key)).await else { return Ok(()) };
    let Ok(record) = serde_json::from_slice::<NodeRecord>(&entry.value) else { return Ok(()) };
    // Only our own previous process can have been at our own address.
    if record.http == own_http || record.pg == own_pg {
        return Ok(());
    }
    let Ok(Some(status)) = timeout(ANSWER_MAX, ask(&record.http)).await else { return Ok(()) };
    // Another node may have got the port of a dead one.
    if status.id != record.id.0 || status.pg != record.pg {
        return Ok(());
    }
    let other = (record.pg, record.http);
    Err(TwoProcesses { kind, id: record.id.0, other, own_pg: own_pg.to_owned(), own_http: own_http.to_owned() })
}

/// `GET /v1/status` of `address`; nothing when that is no node.
async fn ask(address: &str) -> Option<Status> {
    let mut socket = TcpStream::connect(address).await.ok()?;
    let request = format!("GET /v1/status HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    socket.take(STATUS_BYTES_MAX).read_to_end(&mut answer).await.ok()?;
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    serde_json::from_slice(answer.get(body..)?).ok()
}
