//! Dialling, socket options, and a close that lets the peer read the last bytes.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::error::NetError;
use super::link::{Incoming, Outgoing};

/// A peer that acknowledges nothing for so long is gone: a pulled cable would otherwise go unseen for a quarter of an
/// hour.
const USER_TIMEOUT: Duration = Duration::from_secs(60);
/// Silence after which the kernel asks whether the peer is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
/// Between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long the peer may take to read the last words.
const LINGER: Duration = Duration::from_secs(1);
/// How much it may still send meanwhile.
const LINGER_BYTES: usize = 1 << 20;

type Halves = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

/// No Nagle delay; a dead peer is noticed. Where the kernel refuses an option the connection works without it.
pub fn tune(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(USER_TIMEOUT));
}

/// Dials `host` (a directory when it starts with `/`) and `port`.
pub(crate) async fn dial(host: &str, port: u16, peer: &str) -> Result<Halves, NetError> {
    if host.starts_with('/') {
        let path = format!("{host}/.s.PGSQL.{port}");
        let stream = UnixStream::connect(path).await.map_err(|e| NetError::io(peer, e))?;
        let (read, write) = stream.into_split();
        return Ok((Box::new(read), Box::new(write)));
    }
    let stream = TcpStream::connect((host, port)).await.map_err(|e| NetError::io(peer, e))?;
    tune(&stream);
    let (read, write) = stream.into_split();
    Ok((Box::new(read), Box::new(write)))
}

/// Sends what is queued, ends the sending direction and reads on for a moment: a socket closed with unread input is
/// reset, and a reset would take the last words with it.
pub(crate) async fn linger(incoming: &mut Incoming, mut outgoing: Outgoing) -> Result<(), NetError> {
    let closing = async {
        outgoing.shutdown().await?;
        incoming.discard(LINGER_BYTES).await;
        Ok(())
    };
    tokio::time::timeout(LINGER, closing).await.unwrap_or(Ok(()))
}
