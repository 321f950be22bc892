//! `walfabric broker`: the embedded broker as a process.

use std::path::PathBuf;

use anyhow::Result;
use brokerd::{BrokerLimits, CONNECTIONS_MAX, QUOTA_BYTES};
use clap::Args;
use node::exit;

/// What `walfabric broker` takes.
#[derive(Args)]
pub struct BrokerOptions {
    /// Directory of the store
    #[arg(long)]
    dir: PathBuf,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1:2379")]
    listen: std::net::SocketAddr,
    /// Bytes of keys, values and leases (each counts 256 more) beyond which no writes are taken
    #[arg(long, default_value_t = QUOTA_BYTES, value_parser = clap::value_parser!(u64).range(1 << 20..))]
    quota_bytes: u64,
    /// Connections at once
    #[arg(long, default_value_t = CONNECTIONS_MAX)]
    connections_max: usize,
}

impl BrokerOptions {
    /// Serves until SIGTERM or SIGINT; gives the exit code.
    ///
    /// # Errors
    /// When the address cannot be listened at, or the store fails later.
    pub async fn run(self) -> Result<u8> {
        node::init_logging(false);
        let cancel = node::shutdown_on_signals()?;
        let ready = |address: std::net::SocketAddr| tracing::info!(%address, "the embedded broker listens");
        let limits = BrokerLimits { quota_bytes: self.quota_bytes, connections_max: self.connections_max };
        match brokerd::serve_within(limits, self.dir, self.listen, ready, cancel).await {
            Err(error) if error.is_corruption() => {
                tracing::error!(%error, "the embedded broker cannot start");
                Ok(exit::CORRUPTION)
            }
            Err(error) if error.is_usage() => {
                tracing::error!(%error, "the embedded broker cannot start");
                Ok(exit::USAGE)
            }
            ended => ended.map(|()| exit::OK).map_err(Into::into),
        }
    }
}
