//! A call's deadline is for all of it, on a network of the test's own.

#![allow(clippy::unwrap_used, reason = "a test stops at what it did not expect")]

use std::io;
use std::time::Duration;

use fanout_client::{Event, Upstream};
use fanout_transport::testing::{Network, NetworkListener, NetworkStream, use_network};
use fanout_transport::{CallContext, ConnectOptions};
use fanout_wit::types::PublishError;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

/// What a server of sessions begins with: its version, then a body of 1 MiB, 16 calls and an idle time of a minute.
const GREETING: &[u8] = b"\xfafanout\x01\x00\x10\x00\x00\x00\x00\x00\x10\x00\x00\xea\x60";

/// Takes this long to connect, and never answers a call.
struct Slow(Duration);

impl Network for Slow {
    fn connect(&self, _: &str, _: u16) -> BoxFuture<'static, io::Result<NetworkStream>> {
        let takes = self.0;
        let connected = async move {
            tokio::time::sleep(takes).await;
            let (here, mut there) = tokio::io::duplex(4 << 10);
            there.write_all(GREETING).await?;
            // It stays open.
            tokio::spawn(async move {
                tokio::io::copy(&mut there, &mut tokio::io::sink()).await.ok();
            });
            let (reader, writer) = tokio::io::split(here);
            Ok(NetworkStream::new(reader, writer))
        };
        connected.boxed()
    }

    fn listen(&self, _: u16) -> BoxFuture<'static, io::Result<Box<dyn NetworkListener>>> {
        async { Err(io::ErrorKind::Unsupported.into()) }.boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn connecting_takes_of_the_time_of_the_call() {
    use_network(Slow(Duration::from_millis(600)));
    let nowhere = "tcp://bus:1".parse().unwrap();
    let upstream = Upstream::new(nowhere, ConnectOptions::default(), Duration::from_secs(8));
    let event = fanout_wit::types::Event::from(&Event::new("acme", "invoice.paid", "1"));
    let since = Instant::now();
    let published = upstream
        .publish(&CallContext::within(Duration::from_secs(1)), &event)
        .await;
    let took = since.elapsed();
    assert!(
        matches!(published, Err(PublishError::OutcomeUnknown(_))),
        "{published:?}"
    );
    assert!(took <= Duration::from_millis(1_001), "a call within 1 s took {took:?}");
}
