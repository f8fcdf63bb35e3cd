//! Live tails to a thousand readers, beside as many plain subscribers. The contract has no live tail, so that there is none
//! over a session.

use std::time::Instant;

use anyhow::{Context as _, Result};
use futures::StreamExt as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::connection::Connection;
use super::{TOKENS, Ways};
use crate::case::Size;
use crate::load::raw_as_stored;
use crate::processor;
use crate::report::{Report, Took};
use crate::tally::Tally;
use crate::world::subject;

const READERS: usize = 1_000;
const GROUP: &str = "read live by 1,000 readers (an event of each is an event)";
/// Before the data of an event of a tail.
const DATA: &[u8] = b"\ndata:";

/// Who reads.
#[derive(Clone, Copy)]
enum Way {
    Plain,
    Http,
}

pub(super) async fn run(report: &mut Report, size: Size, ways: &Ways) -> Result<()> {
    let events = size.events(100);
    for round in 0..=size.rounds() {
        for (way, case) in [
            (Way::Plain, "core NATS, a connection each"),
            (Way::Http, "server-sent events"),
        ] {
            // Who is not measured has left: each event concerns every tail that is open.
            let read = Tally::default();
            let mut readers = JoinSet::new();
            let tenant = match way {
                Way::Plain => "plain",
                Way::Http => "tail",
            };
            for i in 0..READERS {
                match way {
                    Way::Plain => subscribe(ways, tenant, &read, &mut readers).await?,
                    Way::Http => {
                        let connection = Connection::open(&ways.address).await?;
                        let stream = connection.follow("?tenant=tail", TOKENS[i % TOKENS.len()]).await?;
                        readers.spawn(count(stream, read.clone()));
                    }
                }
            }
            let before = processor::used()?;
            let start = Instant::now();
            let run = format!("tail-{round}");
            let storing = raw_as_stored(&ways.world.js, tenant, &run, events);
            let events = read
                .of(events * READERS, async { Ok(storing.await? * READERS) })
                .await?;
            let seconds = start.elapsed().as_secs_f64();
            if round > 0 {
                let used = processor::between(&before, &processor::used()?);
                report.round(GROUP, case, Took { events, seconds, used })?;
            }
            readers.shutdown().await;
            ways.world.clear().await?;
        }
    }
    Ok(())
}

async fn subscribe(ways: &Ways, tenant: &str, read: &Tally, readers: &mut JoinSet<Result<()>>) -> Result<()> {
    let client = ways.world.bench.nats.client().await;
    let mut messages = client.subscribe(subject(tenant)).await?;
    client.flush().await?;
    let read = read.clone();
    readers.spawn(async move {
        while messages.next().await.is_some() {
            read.add(1);
        }
        drop(client);
        Ok(())
    });
    Ok(())
}

/// Counts the events that come.
async fn count(mut stream: TcpStream, read: Tally) -> Result<()> {
    let mut text = Vec::with_capacity(64 << 10);
    loop {
        stream.read_buf(&mut text).await.context("a tail")?;
        let events = text.windows(DATA.len()).filter(|bytes| *bytes == DATA).count();
        if events > 0 {
            read.add(events);
        }
        // What may be the beginning of the next.
        text.drain(..text.len().saturating_sub(DATA.len() - 1));
    }
}
