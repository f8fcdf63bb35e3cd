//! A host between programs and the bus that knows the sessions' frames: frames come late and twice, answers of different
//! calls change places, connections break in the middle of a frame.
//!
//! TCP does none of the first three; a session tolerates them all the same, where that can be told from what it expects.
//! Calls are never repeated: that would be another call.

use std::io;
use std::net::Ipv4Addr;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::sleep;
use turmoil::net::{TcpListener, TcpStream};

use crate::dice::Dice;
use crate::world::{Phase, World};

/// What a caller begins with, and what a server does.
const HELLO_BYTES: usize = 8;
const GREETING_BYTES: usize = 20;
/// Kind, number, length.
const HEAD_BYTES: usize = 9;

/// Frames that may come twice: cancellations, pings, pongs, whole answers, failures, notices of leaving.
const REPEATED: [u8; 6] = [0x30, 0x41, 0x50, 0x60, 0x61, 0x70];
/// Frames that may change places with the next: whole answers and failures.
const MOVED: [u8; 2] = [0x41, 0x50];

/// The software of the relay's host.
pub async fn run(world: World, incarnation: u64) -> turmoil::Result {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 7761)).await?;
    let mut connections = 0;
    loop {
        let (from, _) = listener.accept().await?;
        connections += 1;
        let (mut up, mut down) = (
            world.dice(&format!("relay up {connections}"), incarnation),
            world.dice(&format!("relay down {connections}"), incarnation),
        );
        let world = world.clone();
        tokio::spawn(async move {
            let Ok(to) = TcpStream::connect(("bus", 7761)).await else {
                return;
            };
            let ((from_peer, to_peer), (from_bus, to_bus)) = (from.into_split(), to.into_split());
            // One direction that ends, for whatever reason, ends the other.
            let ended = tokio::select! {
                ended = forward(&world, &mut up, HELLO_BYTES, from_peer, to_bus) => ended,
                ended = forward(&world, &mut down, GREETING_BYTES, from_bus, to_peer) => ended,
            };
            world
                .history
                .note(format_args!("the relay's connection ends: {ended:?}"));
        });
    }
}

async fn forward(
    world: &World,
    dice: &mut Dice,
    greeting: usize,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    let mut is_greeted = false;
    let mut late: Option<Bytes> = None;
    loop {
        while let Some(frame) = next(&mut buffer, greeting, &mut is_greeted) {
            let kind = frame[0];
            let is_whole = frame.len() >= HEAD_BYTES;
            let faults = world.phase() == Phase::Faults && is_whole && is_greeted;
            if faults && dice.chance(6) {
                sleep(dice.milliseconds(10, 600)).await;
            }
            if faults && dice.chance(1) && dice.chance(40) {
                let half = frame.len() / 2;
                to.write_all(&frame[..half]).await?;
                return Err(io::Error::other("broken in the middle of a frame"));
            }
            if faults && late.is_none() && MOVED.contains(&kind) && dice.chance(10) {
                late = Some(frame);
                continue;
            }
            to.write_all(&frame).await?;
            if faults && REPEATED.contains(&kind) && dice.chance(10) {
                to.write_all(&frame).await?;
            }
            if let Some(late) = late.take() {
                to.write_all(&late).await?;
            }
        }
        buffer.reserve(16 << 10);
        let read = async { from.read_buf(&mut buffer).await };
        let read = match &late {
            None => read.await?,
            // Nothing comes that it could change places with.
            Some(_) => tokio::select! {
                read = read => read?,
                () = sleep(dice.milliseconds(50, 900)) => {
                    if let Some(late) = late.take() {
                        to.write_all(&late).await?;
                    }
                    continue;
                }
            },
        };
        if read == 0 {
            return to.shutdown().await;
        }
    }
}

/// The next frame of a stream, or what a side begins with.
fn next(buffer: &mut BytesMut, greeting: usize, is_greeted: &mut bool) -> Option<Bytes> {
    if !*is_greeted {
        if buffer.len() < greeting {
            return None;
        }
        *is_greeted = true;
        return Some(buffer.split_to(greeting).freeze());
    }
    let mut head = buffer.get(HEAD_BYTES - 4..HEAD_BYTES)?;
    let length = HEAD_BYTES + head.get_u32() as usize;
    (buffer.len() >= length).then(|| buffer.split_to(length).freeze())
}
