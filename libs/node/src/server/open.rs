//! What a server takes hold of before its parts start: its directory, descriptors and ports.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::datadir::{DataDir, DataDirError};
use crate::descriptors::{TooFewDescriptors, claim_descriptors};
use crate::exit;
use crate::http::{BoundHttp, bind_http, bind_tcp};
use crate::settings::{NodeSettings, ProcessSettings};

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The system allows too few open files.
    #[error(transparent)]
    Descriptors(#[from] TooFewDescriptors),
    /// A port cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// Something of this server's own.
    #[error("{problem}")]
    Own {
        /// The exit code, of [`exit`].
        code: u8,
        /// What is wrong.
        problem: String,
    },
}

impl StartError {
    /// A reason of the server's own, with its exit code.
    pub fn own(code: u8, problem: impl Display) -> StartError {
        StartError::Own { code, problem: problem.to_string() }
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::DataDir(e) if e.is_usage() => exit::USAGE,
            StartError::DataDir(DataDirError::BadIdFile { .. }) => exit::CORRUPTION,
            StartError::DataDir(_) | StartError::Listen { .. } => exit::ERROR,
            StartError::Descriptors(_) => exit::USAGE,
            StartError::Own { code, .. } => *code,
        }
    }
}

/// What a server without a data directory holds before it serves.
#[derive(Debug)]
pub struct OpenHttp {
    /// The HTTP port, bound.
    pub http: BoundHttp,
    /// Its address for others.
    pub advertise_http: String,
}

/// What a server with a data directory holds before it serves.
#[derive(Debug)]
pub struct OpenNode {
    /// The directory, locked.
    pub data_dir: DataDir,
    /// The libpq port, bound.
    pub pg: TcpListener,
    /// Its address, with the real port.
    pub pg_address: SocketAddr,
    /// Its address for others.
    pub advertise_pg: String,
    /// The HTTP port, bound.
    pub http: BoundHttp,
    /// Its address for others.
    pub advertise_http: String,
}

/// Claims descriptors and binds the HTTP port.
///
/// # Errors
/// See [`StartError`].
pub fn open_http(process: &ProcessSettings) -> Result<OpenHttp, StartError> {
    claim_descriptors(process.http_connections_max)?;
    let http = bound_http(process)?;
    let advertise_http = process.advertise_http.clone().unwrap_or_else(|| http.address().to_string());
    Ok(OpenHttp { http, advertise_http })
}

/// Locks the directory of a `kind` of node, claims descriptors, binds both ports, and asks `alone`, unless told to take
/// over, whether another process lives under this id than the one at these two addresses, libpq and HTTP.
///
/// # Errors
/// See [`StartError`]; what `alone` says has the exit code of a wrong usage.
pub async fn open_node<E: Display>(
    kind: &'static str,
    (node, process): (&NodeSettings, &ProcessSettings),
    alone: impl AsyncFnOnce(&str, &str) -> Result<(), E>,
) -> Result<OpenNode, StartError> {
    let data_dir = DataDir::open(&node.data_dir, kind, node.id)?;
    claim_descriptors(node.pg_connections_max + process.http_connections_max)?;
    let listen = |source| StartError::Listen { address: node.listen_pg, source };
    let pg = bind_tcp(node.listen_pg).map_err(listen)?;
    let pg_address = pg.local_addr().map_err(listen)?;
    if !pg_address.ip().is_loopback() {
        tracing::warn!(address = %pg_address, "anyone who reaches this address is trusted");
    }
    let http = bound_http(process)?;
    let advertise_pg = node.advertise_pg.clone().unwrap_or_else(|| pg_address.to_string());
    let advertise_http = process.advertise_http.clone().unwrap_or_else(|| http.address().to_string());
    if !node.take_over {
        alone(&advertise_pg, &advertise_http).await.map_err(|e| StartError::own(exit::USAGE, e))?;
    }
    Ok(OpenNode { data_dir, pg, pg_address, advertise_pg, http, advertise_http })
}

fn bound_http(process: &ProcessSettings) -> Result<BoundHttp, StartError> {
    let address = process.listen_http;
    bind_http(address, process.http_connections_max).map_err(|source| StartError::Listen { address, source })
}
