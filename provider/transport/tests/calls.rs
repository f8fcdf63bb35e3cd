//! Calls between two of us, through generated bindings and typed values: sizes, callers, errors.

mod support;

use std::time::Duration;

use bytes::Bytes;
use fanout_transport::testing::{NatsServer, NatsSettings};
use fanout_transport::{Body, CallContext, Client, Error, Options, Outcome, Resource};
use support::bindings::test::echo::echo;
use support::{Echo, INSTANCE, PATIENCE, client, eventually, lattice, serve, serve_direct};

async fn length(client: &Client, text: &str, size: usize) -> Result<u64, Error> {
    let params = (text.to_owned(), Bytes::from(vec![7; size]));
    let result: Result<u64, String> = client
        .call_values(CallContext::default(), INSTANCE, "length", params)
        .await?;
    Ok(result.expect("the handler accepts it"))
}

/// The transport's error in that of the bindings.
fn find(error: &anyhow::Error) -> &Error {
    Error::find(error).unwrap_or_else(|| panic!("no error of the transport: {error:#}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_size_goes_both_ways_on_both_paths() {
    let nats = NatsServer::start().await;
    let (serving, calling) = (
        lattice(&nats, Options::default()).await,
        lattice(&nats, Options::default()).await,
    );
    let client = client(&calling);
    let max = serving.nats().max_payload();
    for direct in [false, true] {
        let echo = Echo::default();
        let server = if direct {
            serve_direct(&serving, &echo).await
        } else {
            serve(&serving, &echo).await
        };
        for size in [0, 1, 1024, 32 << 10, max - 2000, max - 64, max, max + 1, 6 << 20] {
            assert_eq!(length(&client, "", size).await.expect("a result"), size as u64);
            let sent = Bytes::from(vec![7; size]);
            let bound = echo::length(&client, CallContext::default(), "", &sent).await;
            assert_eq!(bound.expect("a result"), Ok(size as u64));
            let size = u32::try_from(size).expect("small");
            let received = echo::bytes(&client, CallContext::default(), size).await;
            assert_eq!(received.expect("a result"), vec![7; size as usize]);
        }
        server.drain(PATIENCE).await;
        assert_eq!((serving.load().exchanges, calling.load().exchanges), (0, 0));
        assert_eq!((serving.load().buffered_bytes, calling.load().buffered_bytes), (0, 0));
    }
}

/// Nothing may be concluded from a size: a server far away may have a smaller `max_payload` than ours.
#[tokio::test(flavor = "multi_thread")]
async fn a_small_max_payload_makes_chunks_of_small_bodies() {
    let settings = NatsSettings {
        config: Some("max_payload: 4096".into()),
        ..NatsSettings::default()
    };
    let nats = NatsServer::start_with(settings).await;
    let lattice = lattice(&nats, Options::default()).await;
    let client = client(&lattice);
    for direct in [false, true] {
        let echo = Echo::default();
        let server = if direct {
            serve_direct(&lattice, &echo).await
        } else {
            serve(&lattice, &echo).await
        };
        for size in [3500, 4096, 20_000] {
            assert_eq!(length(&client, "", size).await.expect("a result"), size as u64);
            let size = u32::try_from(size).expect("small");
            let received = echo::bytes(&client, CallContext::default(), size).await;
            assert_eq!(received.expect("a result").len(), size as usize);
        }
        server.drain(PATIENCE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_is_told_who_calls() {
    let nats = NatsServer::start().await;
    let lattice = lattice(&nats, Options::default()).await;
    let _server = serve(&lattice, &Echo::default()).await;
    let client = client(&lattice);
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let cx = CallContext {
        link: Some("audit".into()),
        traceparent: Some(TRACE.into()),
        ..CallContext::default()
    };
    let who = echo::who(&client, cx).await.expect("who");
    assert_eq!(who, ("tester".into(), "audit".into(), Some(TRACE.into())));
    let who = echo::who(&client, CallContext::default()).await.expect("who");
    assert_eq!(who, ("tester".into(), "default".into(), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_with_an_over_long_id_is_refused() {
    let nats = NatsServer::start().await;
    let lattice = lattice(&nats, Options::default()).await;
    let _server = serve(&lattice, &Echo::default()).await;
    let client = Client::new(&lattice, support::PREFIX, &"x".repeat(257));
    let error = echo::who(&client, CallContext::default()).await.expect_err("refused");
    assert!(
        matches!(find(&error), Error::Remote(reason) if reason.contains("too long")),
        "{error:#}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_break_makes_no_header_of_its_own() {
    let nats = NatsServer::start().await;
    let lattice = lattice(&nats, Options::default()).await;
    let _server = serve(&lattice, &Echo::default()).await;
    let cx = CallContext {
        link: Some("audit\r\nsource-id: another".into()),
        ..CallContext::default()
    };
    let error = echo::who(&client(&lattice), cx).await.expect_err("refused");
    assert!(matches!(find(&error), Error::Encode(_)), "{error:#}");
    assert_eq!(find(&error).outcome(), Outcome::NotStarted);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_tells_what_is_known_of_the_handler() {
    let nats = NatsServer::start().await;
    let lattice = lattice(&nats, Options::default()).await;
    let client = client(&lattice);
    let body = Bytes::new();
    let call = async |text: &'static str, cx| echo::length(&client, cx, text, &body).await;
    let cx = CallContext::default;

    let error = call("", cx()).await.expect_err("nobody is there");
    assert!(matches!(find(&error), Error::NoResponders), "{error:#}");
    assert_eq!(find(&error).outcome(), Outcome::NotStarted);

    let server = serve(&lattice, &Echo::default()).await;
    for (text, said) in [("fail", "does not want to"), ("panic", "panicked")] {
        let error = call(text, cx()).await.expect_err("fails");
        assert!(
            matches!(find(&error), Error::Remote(reason) if reason.contains(said)),
            "{error:#}"
        );
        assert_eq!(find(&error).outcome(), Outcome::Failed);
    }
    let error = call("gate", CallContext::within(Duration::from_millis(100)))
        .await
        .expect_err("late");
    assert!(matches!(find(&error), Error::Deadline { after_ms: 100 }), "{error:#}");
    assert_eq!(find(&error).outcome(), Outcome::Unknown);

    // A domain error is a result.
    assert_eq!(call("refuse", cx()).await.expect("a result"), Err("no".into()));
    assert!(
        echo::poke(&client, cx()).await.is_ok(),
        "between two of us, no result is a success"
    );

    let unknown = client.call(cx(), INSTANCE, "no-such-function", Bytes::new()).await;
    assert!(matches!(unknown, Err(Error::NoResponders)), "{unknown:?}");
    server.drain(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_over_the_limit_are_not_sent() {
    let nats = NatsServer::start().await;
    let options = Options {
        max_body_bytes: 10_000,
        ..Options::default()
    };
    let small = lattice(&nats, options).await;
    let large = lattice(&nats, Options::default()).await;
    let _server = serve(&large, &Echo::default()).await;
    let error = length(&client(&small), "", 10_001).await.expect_err("too large");
    assert!(
        matches!(
            error,
            Error::TooLarge {
                body: Body::Parameters,
                limit: 10_000,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(error.outcome(), Outcome::NotStarted);
    // A result over the limit is dropped on arrival, in one message or in chunks.
    for size in [20_000, 3 << 20] {
        let error = echo::bytes(&client(&small), CallContext::default(), size)
            .await
            .expect_err("too large");
        let error = find(&error);
        assert!(
            matches!(
                error,
                Error::TooLarge {
                    body: Body::Result,
                    limit: 10_000,
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(error.outcome(), Outcome::Unknown);
    }
    assert_eq!(small.load().exchanges, 0);
    assert_eq!(small.load().buffered_bytes, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_calls_than_allowed_wait_and_are_never_sent() {
    let nats = NatsServer::start().await;
    let options = Options {
        calls: 1,
        ..Options::default()
    };
    let lattice = lattice(&nats, options).await;
    let echo = Echo::default();
    let _server = serve(&lattice, &echo).await;
    let client = client(&lattice);
    let first = tokio::spawn({
        let client = client.clone();
        async move { length(&client, "gate", 1).await }
    });
    echo.begun(1).await;
    let cx = CallContext::within(Duration::from_millis(100));
    let error = echo::length(&client, cx, "", &Bytes::new())
        .await
        .expect_err("no place");
    assert!(matches!(find(&error), Error::Busy(Resource::Calls)), "{error:#}");
    assert_eq!(find(&error).outcome(), Outcome::NotStarted);
    echo.gate.add_permits(1);
    assert_eq!(first.await.expect("no panic").expect("a result"), 1);
    assert_eq!(length(&client, "", 2).await.expect("there is a place again"), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_dropped_leaves_nothing() {
    let nats = NatsServer::start().await;
    let (serving, calling) = (
        lattice(&nats, Options::default()).await,
        lattice(&nats, Options::default()).await,
    );
    let echo = Echo::default();
    let server = serve(&serving, &echo).await;
    let client = client(&calling);
    let call = tokio::spawn(async move { length(&client, "gate", 3 << 20).await });
    echo.begun(1).await;
    assert_eq!(calling.load().exchanges, 1);
    call.abort();
    eventually("the call is forgotten", || calling.load().exchanges == 0).await;
    assert_eq!(calling.load().buffered_bytes, 0);
    // Its target does not learn of that: it goes on, and is answered to nobody.
    echo.gate.add_permits(1);
    eventually("the invocation ends", || server.in_flight() == 0).await;
    assert_eq!(serving.load().exchanges, 0);
    assert_eq!(serving.load().buffered_bytes, 0);
}
