//! Against the stock client and server of wrpc-transport-nats 0.29, which a wasmCloud v1 host links.

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fanout_transport::testing::NatsServer;
use fanout_transport::{CallContext, Error, Options, Outcome};
use futures::{StreamExt as _, stream};
use support::bindings::test::echo::echo;
use support::stock::test::echo::echo as stock_echo;
use support::{Echo, client, lattice, serve, serve_direct, stock_client, stock_nats, stock_server};

const CALLS: usize = 20_000;
const IN_FLIGHT: usize = 64;
/// What counts as a hang.
const HANG: Duration = Duration::from_secs(20);

fn stock_headers() -> stock_async_nats::HeaderMap {
    let mut headers = stock_async_nats::HeaderMap::new();
    headers.insert("source-id", "component");
    headers.insert("link-name", "audit");
    headers
}

/// One client for all calls, and, as a host does, one for each.
async fn storm(nats: &NatsServer, calls: usize, client_each: bool) {
    let nats = stock_nats(nats).await;
    let shared = stock_client(&nats).await;
    let body = Bytes::from(vec![7; 1024]);
    let failures: Vec<String> = stream::iter(0..calls)
        .map(|call| {
            let (nats, shared, body) = (Arc::clone(&nats), shared.clone(), body.clone());
            tokio::spawn(async move {
                let client = if client_each { stock_client(&nats).await } else { shared };
                let length = stock_echo::length(&client, Some(stock_headers()), "", &body);
                match tokio::time::timeout(HANG, length).await {
                    Ok(Ok(Ok(1024))) => None,
                    Ok(other) => Some(format!("call {call}: {other:?}")),
                    Err(_) => Some(format!("call {call} hangs")),
                }
            })
        })
        .buffer_unordered(IN_FLIGHT)
        .filter_map(async |done| done.expect("no panic"))
        .collect()
        .await;
    assert!(
        failures.is_empty(),
        "{} of {calls} failed: {:?}",
        failures.len(),
        &failures[..failures.len().min(3)]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_of_a_stock_client_hangs_or_fails_on_the_isolated_path() {
    let nats = NatsServer::start().await;
    let lattice = lattice(&nats, Options::default()).await;
    let server = serve(&lattice, &Echo::default()).await;
    storm(&nats, CALLS, false).await;
    storm(&nats, CALLS / 10, true).await;
    eprintln!("isolated: {} repeats", lattice.load().repeats);
    assert_eq!(server.drain(HANG).await.abandoned, 0);
    assert_eq!(lattice.load().exchanges, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_of_a_stock_client_hangs_or_fails_on_the_direct_path() {
    let nats = NatsServer::start().await;
    let lattice = lattice(&nats, Options::default()).await;
    let server = serve_direct(&lattice, &Echo::default()).await;
    storm(&nats, CALLS, false).await;
    storm(&nats, CALLS / 10, true).await;
    eprintln!("direct: {} repeats", lattice.load().repeats);
    assert_eq!(server.drain(HANG).await.abandoned, 0);
    assert_eq!(lattice.load().exchanges, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_client_sends_and_receives_every_size() {
    let nats = NatsServer::start().await;
    let lattice = lattice(&nats, Options::default()).await;
    for direct in [false, true] {
        let echo = Echo::default();
        let server = if direct {
            serve_direct(&lattice, &echo).await
        } else {
            serve(&lattice, &echo).await
        };
        let stock = stock_nats(&nats).await;
        let client = stock_client(&stock).await;
        let max = stock.server_info().max_payload;
        for size in [1, 1024, 32 << 10, max - 2000, max - 64, max, max + 1, 6 << 20] {
            let body = Bytes::from(vec![7; size]);
            let length = stock_echo::length(&client, Some(stock_headers()), "", &body);
            let length = tokio::time::timeout(HANG, length)
                .await
                .expect("no hang")
                .expect("a result");
            assert_eq!(length, Ok(size as u64));
            let size = u32::try_from(size).expect("small");
            let bytes = stock_echo::bytes(&client, Some(stock_headers()), size);
            let bytes = tokio::time::timeout(HANG, bytes)
                .await
                .expect("no hang")
                .expect("a result");
            assert_eq!(bytes.len(), size as usize);
        }
        server.drain(HANG).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_caller_is_known_by_its_headers() {
    let nats = NatsServer::start().await;
    let lattice = lattice(&nats, Options::default()).await;
    let _server = serve(&lattice, &Echo::default()).await;
    let client = stock_client(&stock_nats(&nats).await).await;
    let who = stock_echo::who(&client, Some(stock_headers())).await.expect("who");
    assert_eq!(who, ("component".into(), "audit".into(), None));
    let who = stock_echo::who(&client, None).await.expect("who");
    assert_eq!(who, (String::new(), "default".into(), None));
}

/// Up to `max_payload`: beyond it a stock server may lose a chunk that comes before its own subscription.
#[tokio::test(flavor = "multi_thread")]
async fn our_client_calls_a_stock_server() {
    let nats = NatsServer::start().await;
    stock_server(&nats, Echo::default()).await;
    let lattice = lattice(&nats, Options::default()).await;
    let client = client(&lattice);
    let cx = CallContext::default;
    // The server's subscriptions are another connection's: the first call waits for them.
    support::eventually_async("the stock server serves", async || {
        echo::length(&client, cx(), "", &Bytes::new()).await.is_ok()
    })
    .await;
    for size in [1, 1024, 32 << 10, 1_000_000] {
        let length = echo::length(&client, cx(), "", &vec![7; size].into())
            .await
            .expect("a result");
        assert_eq!(length, Ok(size as u64));
        let size = u32::try_from(size).expect("small");
        assert_eq!(
            echo::bytes(&client, cx(), size).await.expect("a result").len(),
            size as usize
        );
    }
    // A result may be of any size.
    assert_eq!(
        echo::bytes(&client, cx(), 6 << 20).await.expect("a result").len(),
        6 << 20
    );
    // A function without parameters: the stock server waits for the end marker.
    echo::who(&client, cx()).await.expect("who");
    let poked = CallContext {
        no_result: true,
        ..cx()
    };
    echo::poke(&client, poked).await.expect("poke");

    let calls: Vec<_> = stream::iter(0..CALLS)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(
                async move { echo::length(&client, CallContext::default(), "", &Bytes::from_static(b"12")).await },
            )
        })
        .buffer_unordered(IN_FLIGHT)
        .filter_map(async |done| done.expect("no panic").err())
        .collect()
        .await;
    assert!(calls.is_empty(), "{} of {CALLS} failed: {:#}", calls.len(), calls[0]);
    assert_eq!(lattice.load().exchanges, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_server_whose_handler_fails_is_told_from_one_that_is_absent() {
    let nats = NatsServer::start().await;
    let lattice = lattice(&nats, Options::default()).await;
    let client = client(&lattice);
    let error = echo::length(&client, CallContext::default(), "fail", &Bytes::new())
        .await
        .expect_err("nobody");
    let error = Error::find(&error).expect("an error of the transport");
    assert!(matches!(error, Error::NoResponders), "{error}");
    assert_eq!(error.outcome(), Outcome::NotStarted);

    stock_server(&nats, Echo::default()).await;
    support::eventually_async("the stock server serves", async || {
        echo::length(&client, CallContext::default(), "", &Bytes::new())
            .await
            .is_ok()
    })
    .await;
    let error = echo::length(&client, CallContext::default(), "fail", &Bytes::new())
        .await
        .expect_err("fails");
    let error = Error::find(&error).expect("an error of the transport");
    assert!(matches!(error, Error::Incomplete), "{error}");
    assert_eq!(error.outcome(), Outcome::Failed);

    let cx = CallContext::within(Duration::from_millis(200));
    let error = echo::length(&client, cx, "gate", &Bytes::new())
        .await
        .expect_err("late");
    let error = Error::find(&error).expect("an error of the transport");
    assert!(matches!(error, Error::Deadline { after_ms: 200 }), "{error}");
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(lattice.load().exchanges, 0);
}
