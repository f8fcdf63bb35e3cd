//! A link between two servers that can be cut, healed and slowed: a TCP proxy on the loopback.
//!
//! A cut closes what is open and refuses what is new, as an unplugged router with an active firewall does; it does not
//! show what a link does that swallows packets without a word. Nor can a proxy lose a TCP packet: it loses none, and
//! **models** a loss as the stall that a lone segment's retransmission is. UDP packets it does lose.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::packets::{Dice, Weather};

/// Bytes that are on their way at most, for each direction of a connection.
const UNDER_WAY: usize = 1 << 20;
const CHUNK: usize = 16 << 10;
/// What a TCP segment carries.
const SEGMENT: usize = 1_448;
/// Linux waits no less before it sends a segment again that nothing follows.
const LEAST_STALL: Duration = Duration::from_millis(200);

/// A link.
pub(crate) struct Link {
    port: u16,
    whole: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Link {
    /// A link to a port of the loopback, as it comes.
    pub(crate) async fn to(port: u16) -> Result<Self> {
        Self::through(port, Weather::default(), 0).await
    }

    /// A link to a port of the loopback, in whose both directions the weather is this.
    pub(crate) async fn through(port: u16, weather: Weather, seed: u64) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("a port for a link")?;
        let own = listener.local_addr()?.port();
        let (whole, seen) = watch::channel(true);
        let task = tokio::spawn(accept(listener, loopback(port), weather, seed, seen));
        Ok(Self { port: own, whole, task })
    }

    /// The same for UDP.
    pub(crate) async fn datagrams(port: u16, weather: Weather, seed: u64) -> Result<Self> {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).await.context("a port for a link")?;
        let own = socket.local_addr()?.port();
        let (whole, seen) = watch::channel(true);
        let task = tokio::spawn(async move {
            // It ends when this is dropped; an error before that shows as silence, and so as a failed call.
            datagrams(Arc::new(socket), loopback(port), weather, seed, seen)
                .await
                .unwrap_or_default();
        });
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

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

async fn accept(listener: TcpListener, to: SocketAddr, weather: Weather, seed: u64, whole: watch::Receiver<bool>) {
    let mut connections = seed;
    while let Ok((near, _)) = listener.accept().await {
        connections += 2;
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
                () = carry(near_read, far_write, weather, Dice::new(connections)) => {}
                () = carry(far_read, near_write, weather, Dice::new(connections + 1)) => {}
                _ = whole.wait_for(|whole| !whole) => {}
            }
        });
    }
}

/// Carries bytes one way, each a delay later than it came, or a stall later with what is behind it.
async fn carry(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
    weather: Weather,
    mut dice: Dice,
) {
    let Weather { delay, .. } = weather;
    let stall = LEAST_STALL.max(delay * 4);
    let (send, mut receive) = mpsc::channel::<(Instant, Arc<[u8]>)>(UNDER_WAY / CHUNK);
    let reading = async move {
        let mut buffer = vec![0; CHUNK];
        loop {
            match from.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(n) => {
                    let mut segments = 0..n.div_ceil(SEGMENT);
                    let late = if segments.any(|_| dice.lost(weather)) {
                        delay + stall
                    } else {
                        delay
                    };
                    if send.send((Instant::now() + late, buffer[..n].into())).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    let writing = async move {
        while let Some((due, bytes)) = receive.recv().await {
            if due > Instant::now() {
                tokio::time::sleep_until(due).await;
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}

/// Carries packets: a socket towards the far side for each peer, so that answers find their way.
async fn datagrams(
    near: Arc<UdpSocket>,
    to: SocketAddr,
    weather: Weather,
    seed: u64,
    whole: watch::Receiver<bool>,
) -> Result<()> {
    let mut peers = std::collections::HashMap::new();
    let mut tasks = tokio::task::JoinSet::new();
    let mut dice = Dice::new(seed);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (length, peer) = near.recv_from(&mut buffer).await?;
        let sender = match peers.get(&peer) {
            Some(sender) => sender,
            None => {
                let far = Arc::new(UdpSocket::bind(("127.0.0.1", 0)).await?);
                far.connect(to).await?;
                let (send, receive) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY / CHUNK);
                let (back, back_receive) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY / CHUNK);
                let (there, here, near) = (Arc::clone(&far), far, Arc::clone(&near));
                tasks.spawn(late(receive, there, None));
                tasks.spawn(late(back_receive, near, Some(peer)));
                let (mut dice, whole) = (Dice::new(seed + 1), whole.clone());
                tasks.spawn(async move {
                    let mut buffer = vec![0; 64 << 10];
                    while let Ok(length) = here.recv(&mut buffer).await {
                        if *whole.borrow() && !dice.lost(weather) {
                            let packet = (Instant::now() + weather.delay, buffer[..length].to_vec());
                            // A full queue loses packets, as a router does.
                            drop(back.try_send(packet));
                        }
                    }
                });
                peers.entry(peer).or_insert(send)
            }
        };
        if *whole.borrow() && !dice.lost(weather) {
            drop(sender.try_send((Instant::now() + weather.delay, buffer[..length].to_vec())));
        }
    }
}

/// Sends each packet when it is due, to a peer or to whom the socket is connected.
async fn late(mut packets: mpsc::Receiver<(Instant, Vec<u8>)>, socket: Arc<UdpSocket>, peer: Option<SocketAddr>) {
    while let Some((due, packet)) = packets.recv().await {
        if due > Instant::now() {
            tokio::time::sleep_until(due).await;
        }
        let sent = match peer {
            Some(peer) => socket.send_to(&packet, peer).await,
            None => socket.send(&packet).await,
        };
        if sent.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn datagrams_are_carried_and_lost() {
        let echo = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
        let port = echo.local_addr().unwrap().port();
        let echoing = tokio::spawn(async move {
            let mut buffer = [0; 64];
            while let Ok((length, peer)) = echo.recv_from(&mut buffer).await {
                echo.send_to(&buffer[..length], peer).await.ok();
            }
        });
        let answered = async |per_mille: u64| {
            let weather = Weather {
                delay: Duration::from_millis(1),
                lost_per_mille: per_mille,
            };
            let link = Link::datagrams(port, weather, 7).await.unwrap();
            let peer = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
            peer.connect(("127.0.0.1", link.port())).await.unwrap();
            peer.send(b"x").await.unwrap();
            let wait = if per_mille == 0 { 30_000 } else { 100 };
            let answer = tokio::time::timeout(Duration::from_millis(wait), peer.recv(&mut [0; 8])).await;
            answer.is_ok()
        };
        assert!(answered(0).await);
        assert!(!answered(1_000).await);
        echoing.abort();
    }

    #[tokio::test]
    async fn a_link_carries_is_cut_and_heals() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let link = Link::to(listener.local_addr().unwrap().port()).await.unwrap();
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
