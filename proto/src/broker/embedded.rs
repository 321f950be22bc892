//! A small server that speaks the etcd v3 subset that walfabric uses (KV, Txn, Watch, Lease), durable in a directory.

use std::path::PathBuf;

use tokio_util::sync::CancellationToken;

/// Runs the embedded broker until cancelled. Binds `listen` ("127.0.0.1:2379"); calls `ready` with the bound address.
///
/// # Errors
/// When the directory or the socket cannot be used.
pub async fn serve(
    dir: PathBuf,
    listen: std::net::SocketAddr,
    ready: impl FnOnce(std::net::SocketAddr) + Send,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let _ = (dir, listen, ready, cancel);
    todo!()
}
