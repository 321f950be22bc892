//! A link between two processes that can be cut: bytes stop and connections stay open, as on a network that drops all
//! packets.

use std::net::SocketAddr;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Bytes on their way, each direction of a connection.
const IN_FLIGHT: usize = 64 << 10;

/// One link; ends with its handle.
pub(super) struct Link {
    address: SocketAddr,
    cut: watch::Sender<bool>,
    _task: AbortOnDropHandle<()>,
}

impl Link {
    /// Listens on a port of its own for what is meant for `target`.
    pub(super) async fn open(target: SocketAddr) -> Result<Link> {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
        let (address, (cut, seen)) = (listener.local_addr()?, watch::channel(false));
        let task = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(carry(near, target, seen.clone()));
            }
        });
        Ok(Link { address, cut, _task: AbortOnDropHandle::new(task) })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts the link, or joins it again; what was under way is delivered then.
    pub(super) fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }
}

async fn carry(near: TcpStream, target: SocketAddr, mut cut: watch::Receiver<bool>) {
    if cut.wait_for(|cut| !cut).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(target).await else { return };
    if near.set_nodelay(true).and(far.set_nodelay(true)).is_err() {
        return;
    }
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::join!(forward(near_in, far_out, cut.clone()), forward(far_in, near_out, cut));
}

/// Until the sender ends, or either side is gone.
async fn forward(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut cut: watch::Receiver<bool>) {
    let mut bytes = vec![0; IN_FLIGHT];
    loop {
        let read = from.read(&mut bytes).await.unwrap_or(0);
        if cut.wait_for(|cut| !cut).await.is_err() {
            return;
        }
        let written = match read {
            0 => to.shutdown().await,
            n => to.write_all(&bytes[..n]).await,
        };
        if read == 0 || written.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_cut_link_carries_nothing_and_a_joined_one_everything() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let link = Link::open(server.local_addr().expect("an address")).await.expect("a link");
        let mut near = TcpStream::connect(link.address()).await.expect("connected");
        let (mut far, _) = server.accept().await.expect("it leads there");
        let mut word = [0; 3];
        near.write_all(b"one").await.expect("sent");
        far.read_exact(&mut word).await.expect("received");
        link.cut(true);
        near.write_all(b"two").await.expect("taken");
        let early = tokio::time::timeout(Duration::from_millis(50), far.read_exact(&mut word)).await;
        assert!(early.is_err(), "{word:?}");
        link.cut(false);
        far.read_exact(&mut word).await.expect("received");
        assert_eq!(&word, b"two");
        drop(near);
        assert_eq!(far.read(&mut word).await.expect("the end"), 0);
    }
}
