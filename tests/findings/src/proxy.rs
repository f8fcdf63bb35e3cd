//! A link between two servers that can be cut, healed and slowed: a TCP proxy on the loopback.
//!
//! A cut closes what is open and refuses what is new, as an unplugged router with an active firewall does; it does not
//! show what a link does that swallows packets without a word.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Bytes that are on their way at most, for each direction of a connection.
const UNDER_WAY: usize = 1 << 20;
const CHUNK: usize = 16 << 10;

/// A link.
pub(crate) struct Link {
    port: u16,
    whole: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Link {
    /// A link to a port of the loopback, each direction of which takes `delay`.
    pub(crate) async fn to(port: u16, delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("a port for a link")?;
        let own = listener.local_addr()?.port();
        let (whole, seen) = watch::channel(true);
        let task = tokio::spawn(accept(listener, SocketAddr::from(([127, 0, 0, 1], port)), delay, seen));
        Ok(Self { port: own, whole, task })
    }

    /// The port to connect to.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn cut(&self) {
        self.whole.send_replace(false);
    }

    pub(crate) fn heal(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.whole.send_replace(false);
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, delay: Duration, whole: watch::Receiver<bool>) {
    while let Ok((near, _)) = listener.accept().await {
        if !*whole.borrow() {
            continue;
        }
        let mut whole = whole.clone();
        tokio::spawn(async move {
            let Ok(far) = TcpStream::connect(to).await else { return };
            // Whatever ends first ends the connection: an error here is a peer that went away.
            near.set_nodelay(true).unwrap_or_default();
            far.set_nodelay(true).unwrap_or_default();
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            tokio::select! {
                () = carry(near_read, far_write, delay) => {}
                () = carry(far_read, near_write, delay) => {}
                _ = whole.wait_for(|whole| !whole) => {}
            }
        });
    }
}

/// Carries bytes one way, each `delay` later than it came.
async fn carry(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    delay: Duration,
) {
    let (send, mut receive) = mpsc::channel::<(Instant, Arc<[u8]>)>(UNDER_WAY / CHUNK);
    let reading = async move {
        let mut buffer = vec![0; CHUNK];
        loop {
            match from.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    if send.send((Instant::now() + delay, buffer[..n].into())).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = receive.recv().await {
            if !delay.is_zero() {
                tokio::time::sleep_until(due).await;
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_link_carries_is_cut_and_heals() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let link = Link::to(listener.local_addr().unwrap().port(), Duration::ZERO)
            .await
            .unwrap();
        let echo = tokio::spawn(async move {
            while let Ok((mut peer, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = peer.split();
                    tokio::io::copy(&mut read, &mut write).await.ok();
                });
            }
        });
        let answered = async || {
            let mut peer = TcpStream::connect(("127.0.0.1", link.port())).await.ok()?;
            peer.write_all(b"x").await.ok()?;
            let mut answer = [0];
            peer.read_exact(&mut answer).await.ok()
        };
        assert!(answered().await.is_some());
        link.cut();
        assert!(answered().await.is_none());
        link.heal();
        assert!(answered().await.is_some());
        echo.abort();
    }
}
