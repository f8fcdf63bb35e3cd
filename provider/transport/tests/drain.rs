//! A server that is drained loses no call: each is answered, or finds nobody.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fanout_transport::testing::NatsServer;
use fanout_transport::{CallContext, Error, Options};
use support::bindings::test::echo::echo;
use support::stock::test::echo::echo as stock_echo;
use support::{Echo, PATIENCE, client, eventually, lattice, serve, serve_direct};

const CALLERS: usize = 32;

/// Callers that go on until they find nobody; returns how many calls were answered.
async fn until_nobody(nats: &NatsServer, answered: Arc<AtomicUsize>) -> Vec<tokio::task::JoinHandle<()>> {
    let lattice = lattice(nats, Options::default()).await;
    let mut callers = Vec::new();
    for _ in 0..CALLERS {
        let (client, answered) = (client(&lattice), Arc::clone(&answered));
        callers.push(tokio::spawn(async move {
            loop {
                let cx = CallContext::within(Duration::from_secs(10));
                match echo::length(&client, cx, "", &Bytes::from_static(b"1234")).await {
                    Ok(length) => assert_eq!(length, Ok(4)),
                    Err(error) if matches!(Error::find(&error), Some(Error::NoResponders)) => return,
                    Err(error) => panic!("a call was lost: {error:#}"),
                }
                answered.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    callers
}

async fn drain_under_load(direct: bool) {
    let nats = NatsServer::start().await;
    for _ in 0..5 {
        let lattice = lattice(&nats, Options::default()).await;
        let echo = Echo::default();
        let server = if direct { serve_direct(&lattice, &echo).await } else { serve(&lattice, &echo).await };
        let answered = Arc::new(AtomicUsize::new(0));
        let callers = until_nobody(&nats, Arc::clone(&answered)).await;
        eventually("calls are answered", || answered.load(Ordering::Relaxed) > 500).await;
        let drained = server.drain(PATIENCE).await;
        assert_eq!(drained.abandoned, 0);
        for caller in callers {
            caller.await.expect("no call is lost");
        }
        assert_eq!(lattice.load().exchanges, 0, "nothing is left behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_every_call_is_answered_or_finds_nobody() {
    drain_under_load(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_on_the_direct_path() {
    drain_under_load(true).await;
}
