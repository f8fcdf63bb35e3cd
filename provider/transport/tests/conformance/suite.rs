//! What every transport does alike. A caller gives a [`Wire`] and names the laws, see [`laws`].

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fanout_transport::{
    CallContext, Drained, Error, Identity, ListenOptions, Options, Outcome, Remote, Resource, Service, Serving,
};
use futures::StreamExt as _;

use crate::support::bindings::test::echo::echo;
use crate::support::{Echo, INSTANCE, PATIENCE, eventually, isolated};

/// A transport under test: a place where servers can be started, one after the other, and called.
pub(crate) trait Wire: Send + Sync + 'static {
    /// Serves at this place. Waits for a server that was there before to be gone.
    fn serve(&self, service: &Service, options: ListenOptions) -> impl Future<Output = Box<dyn Served>> + Send;
    /// Calls it.
    fn call(&self, limits: Options) -> impl Future<Output = Result<Remote, Error>> + Send;
    /// How a handler knows the caller of [`Wire::call`].
    fn identity(&self) -> Identity;
}

/// A server under test.
pub(crate) trait Served: Send {
    fn in_flight(&self) -> usize;
    fn drain(self: Box<Self>, within: Duration) -> futures::future::BoxFuture<'static, Drained>;
}

impl Served for Serving {
    fn in_flight(&self) -> usize {
        Self::in_flight(self)
    }
    fn drain(self: Box<Self>, within: Duration) -> futures::future::BoxFuture<'static, Drained> {
        Box::pin(Self::drain(*self, within))
    }
}

/// All functions in isolation, but for `length`, which is on the direct path.
pub(crate) async fn service(echo: &Echo) -> Service {
    let direct = echo.clone();
    isolated(echo)
        .await
        .direct(INSTANCE, "length", move |_, (text, body): (String, Bytes)| {
            let echo = direct.clone();
            async move { echo.length(&text, &body).await }
        })
}

struct Bench<W> {
    wire: Arc<W>,
    echo: Echo,
    server: Box<dyn Served>,
    remote: Remote,
}

async fn bench<W: Wire>(wire: W, options: ListenOptions) -> Bench<W> {
    let echo = Echo::default();
    let server = wire.serve(&service(&echo).await, options.clone()).await;
    let remote = wire.call(options.limits).await.expect("it can be called");
    Bench {
        wire: Arc::new(wire),
        echo,
        server,
        remote,
    }
}

fn with_limits(limits: Options) -> ListenOptions {
    ListenOptions {
        limits,
        ..ListenOptions::default()
    }
}

fn found(error: &anyhow::Error) -> &Error {
    Error::find(error).unwrap_or_else(|| panic!("an error of the transport: {error:#}"))
}

/// From one byte to the limit, both ways.
pub(crate) async fn sizes(wire: impl Wire) {
    const LIMIT: usize = 4 << 20;
    let limits = Options {
        max_body_bytes: LIMIT,
        call_deadline: PATIENCE,
        serve_deadline: PATIENCE,
        ..Options::default()
    };
    let bench = bench(wire, with_limits(limits)).await;
    for size in [0, 1, 100, 1000, 32 << 10, (32 << 10) + 1, 100_000, 1 << 20, LIMIT - 5] {
        let body = Bytes::from(vec![7; size]);
        let length = echo::length(&bench.remote, CallContext::default(), "", &body).await;
        assert_eq!(length.expect("a result"), Ok(size as u64), "{size} bytes to the server");
        let bytes = echo::bytes(&bench.remote, CallContext::default(), size as u32).await;
        assert!(bytes.expect("a result") == body, "{size} bytes from the server");
    }
    let body = Bytes::from(vec![7; LIMIT]);
    let error = echo::length(&bench.remote, CallContext::default(), "", &body).await;
    let error = error.expect_err("over the limit");
    assert!(
        matches!(found(&error), Error::TooLarge { limit: LIMIT, .. }),
        "{error:#}"
    );
    assert_eq!(found(&error).outcome(), Outcome::NotStarted);
    let error = echo::bytes(&bench.remote, CallContext::default(), LIMIT as u32).await;
    let error = error.expect_err("over the limit");
    assert_eq!(found(&error).outcome(), Outcome::Failed, "{error:#}");
    // Neither ended anything else.
    assert!(echo::who(&bench.remote, CallContext::default()).await.is_ok());
    assert_eq!(bench.server.drain(PATIENCE).await, Drained { abandoned: 0 });
}

/// Each error keeps its meaning.
pub(crate) async fn errors(wire: impl Wire) {
    let bench = bench(wire, ListenOptions::default()).await;
    let remote = &bench.remote;
    let call = async |text: &str| echo::length(remote, CallContext::default(), text, &Bytes::new()).await;
    assert_eq!(
        call("refuse").await.expect("an answer"),
        Err("no".into()),
        "errors of WIT are answers"
    );
    for (text, reason) in [("fail", "does not want to"), ("panic", "panicked")] {
        let error = call(text).await.expect_err("it failed");
        assert!(
            matches!(found(&error), Error::Remote(why) if why.contains(reason)),
            "{error:#}"
        );
        assert_eq!(found(&error).outcome(), Outcome::Failed);
    }
    let nobody = remote
        .call(CallContext::default(), INSTANCE, "nothing", Bytes::new())
        .await;
    let error = nobody.expect_err("there is no such function");
    assert!(matches!(error, Error::NoResponders), "{error}");
    // Parameters that are cut, have a rest, or are no UTF-8.
    for params in [
        &b"\x05aaa"[..],
        b"\x00\x00rest",
        b"\x02\xff\xff\x00",
        b"\x00\xff\xff\xff\xff\x0f",
    ] {
        let error = remote
            .call(CallContext::default(), INSTANCE, "length", Bytes::from_static(params))
            .await;
        assert_eq!(error.expect_err("malformed").outcome(), Outcome::Failed);
    }
    let poked = CallContext {
        no_result: true,
        ..CallContext::default()
    };
    echo::poke(remote, poked).await.expect("a function without a result");
    eventually("all are answered", || bench.server.in_flight() == 0).await;
}

/// Ten thousand calls, 64 at a time.
pub(crate) async fn many(wire: impl Wire) {
    let limits = Options {
        call_deadline: 4 * PATIENCE,
        serve_deadline: 4 * PATIENCE,
        ..Options::default()
    };
    let bench = bench(wire, with_limits(limits)).await;
    let answered = AtomicUsize::new(0);
    futures::stream::iter(0..10_000_usize)
        .for_each_concurrent(64, |i| {
            let (remote, answered) = (&bench.remote, &answered);
            async move {
                let body = Bytes::from(vec![7; i % 2000]);
                let length = echo::length(remote, CallContext::default(), "", &body).await;
                assert_eq!(length.expect("a result"), Ok(body.len() as u64));
                answered.fetch_add(1, Ordering::Relaxed);
            }
        })
        .await;
    assert_eq!(answered.into_inner(), 10_000);
    eventually("all are answered", || bench.server.in_flight() == 0).await;
}

/// The deadline bounds the whole call, and frees the server.
pub(crate) async fn deadlines(wire: impl Wire) {
    let limits = Options {
        serve_deadline: Duration::from_millis(500),
        ..Options::default()
    };
    let bench = bench(wire, with_limits(limits)).await;
    // The caller's.
    let cx = CallContext::within(Duration::from_millis(100));
    let error = echo::length(&bench.remote, cx, "gate", &Bytes::new()).await;
    let error = error.expect_err("nobody opens the gate");
    // A server that was told of the deadline may be faster in saying so.
    assert!(
        matches!(found(&error), Error::Deadline { .. } | Error::Remote(_)),
        "{error:#}"
    );
    // The server's.
    let cx = CallContext::within(PATIENCE);
    let error = echo::length(&bench.remote, cx, "gate", &Bytes::new()).await;
    let error = error.expect_err("nobody opens the gate");
    assert!(
        matches!(found(&error), Error::Remote(why) if why.contains("deadline")),
        "{error:#}"
    );
    eventually("all places are free", || bench.server.in_flight() == 0).await;
}

/// A call that is given up frees its place at the server, where the transport can tell it.
pub(crate) async fn cancellation(wire: impl Wire) {
    let limits = Options {
        serve_deadline: 4 * PATIENCE,
        ..Options::default()
    };
    let bench = bench(wire, with_limits(limits)).await;
    let call = tokio::spawn({
        let remote = bench.remote.clone();
        async move { echo::length(&remote, CallContext::within(4 * PATIENCE), "gate", &Bytes::new()).await }
    });
    bench.echo.begun(1).await;
    assert_eq!(bench.server.in_flight(), 1);
    call.abort();
    eventually("the handler is stopped", || bench.server.in_flight() == 0).await;
    // The connection goes on.
    assert!(echo::who(&bench.remote, CallContext::default()).await.is_ok());
}

/// A peer that vanishes with its calls under way.
pub(crate) async fn vanishing(wire: impl Wire) {
    let limits = Options {
        serve_deadline: 4 * PATIENCE,
        ..Options::default()
    };
    let Bench {
        wire,
        echo,
        server,
        remote,
    } = bench(wire, with_limits(limits.clone())).await;
    let calls: Vec<_> = (0..5)
        .map(|_| {
            let remote = remote.clone();
            tokio::spawn(async move {
                echo::length(&remote, CallContext::within(4 * PATIENCE), "gate", &Bytes::new()).await
            })
        })
        .collect();
    echo.begun(5).await;
    for call in calls {
        call.abort();
        drop(call.await);
    }
    drop(remote);
    eventually("its handlers are stopped", || server.in_flight() == 0).await;
    let another = wire.call(limits).await.expect("it can be called");
    assert!(echo::who(&another, CallContext::default()).await.is_ok());
}

/// A drain loses no call: each is answered, or was never taken.
pub(crate) async fn drain(wire: impl Wire) {
    let limits = Options {
        call_deadline: PATIENCE,
        ..Options::default()
    };
    let Bench {
        wire: _wire,
        server,
        remote,
        ..
    } = bench(wire, with_limits(limits)).await;
    let answered = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..32)
        .map(|_| {
            let (remote, answered) = (remote.clone(), Arc::clone(&answered));
            tokio::spawn(async move {
                loop {
                    let body = Bytes::from_static(b"1234");
                    match echo::length(&remote, CallContext::default(), "", &body).await {
                        Ok(length) => assert_eq!(length, Ok(4)),
                        Err(error) if found(&error).outcome() == Outcome::NotStarted => return,
                        Err(error) => panic!("a call was lost: {error:#}"),
                    }
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    eventually("calls are answered", || answered.load(Ordering::Relaxed) > 500).await;
    assert_eq!(server.drain(PATIENCE).await, Drained { abandoned: 0 });
    for caller in callers {
        caller.await.expect("no call is lost");
    }
}

/// A drain whose time is up says so to the callers.
pub(crate) async fn cut_off(wire: impl Wire) {
    let Bench {
        wire: _wire,
        echo,
        server,
        remote,
    } = bench(wire, ListenOptions::default()).await;
    let slow = tokio::spawn({
        let remote = remote.clone();
        async move { echo::length(&remote, CallContext::default(), "gate", &Bytes::new()).await }
    });
    echo.begun(1).await;
    assert_eq!(server.drain(Duration::from_millis(50)).await, Drained { abandoned: 1 });
    let error = slow.await.expect("no panic").expect_err("cut off");
    assert!(
        matches!(found(&error), Error::Remote(why) if why.contains("stops")),
        "{error:#}"
    );
}

/// After the server was restarted, the same remote calls its successor.
pub(crate) async fn reconnect(wire: impl Wire) {
    let Bench {
        wire,
        echo,
        server,
        remote,
    } = bench(wire, ListenOptions::default()).await;
    assert!(echo::who(&remote, CallContext::default()).await.is_ok());
    server.drain(PATIENCE).await;
    let error = echo::who(&remote, CallContext::default())
        .await
        .expect_err("nobody is there");
    assert_eq!(found(&error).outcome(), Outcome::NotStarted, "{error:#}");
    let _successor = wire.serve(&service(&echo).await, ListenOptions::default()).await;
    crate::support::eventually_async("the successor answers", async || {
        echo::who(&remote, CallContext::default()).await.is_ok()
    })
    .await;
}

/// Who calls, and the trace that the call belongs to, reach the handler.
pub(crate) async fn caller(wire: impl Wire) {
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let seen = Arc::new(std::sync::Mutex::new(None));
    let note = Arc::clone(&seen);
    let service = Service::new().direct(INSTANCE, "poke", move |caller, ()| {
        *note.lock().expect("no test panics with it") = Some(caller);
        async { Ok(true) }
    });
    let _server = wire.serve(&service, ListenOptions::default()).await;
    let remote = wire.call(Options::default()).await.expect("it can be called");
    let cx = CallContext {
        traceparent: Some(traceparent.into()),
        tracestate: Some("vendor=1".into()),
        link: Some("audit".into()),
        ..CallContext::default()
    };
    let poked: Result<(bool,), _> = remote.call_values(cx, INSTANCE, "poke", ()).await;
    assert_eq!(poked.expect("an answer"), (true,));
    let caller = seen
        .lock()
        .expect("no test panics with it")
        .take()
        .expect("it was called");
    assert_eq!(caller.identity, wire.identity());
    assert_eq!(caller.link, "audit");
    assert_eq!(caller.traceparent.as_deref(), Some(traceparent));
    assert_eq!(caller.tracestate.as_deref(), Some("vendor=1"));
}

/// What has no place is refused at once and never runs.
pub(crate) async fn busy(wire: impl Wire) {
    let limits = Options {
        in_flight: 1,
        queued: 1,
        call_deadline: PATIENCE,
        serve_deadline: PATIENCE,
        ..Options::default()
    };
    let bench = bench(wire, with_limits(limits)).await;
    let gated = || {
        let remote = bench.remote.clone();
        tokio::spawn(async move { echo::length(&remote, CallContext::default(), "gate", &Bytes::new()).await })
    };
    let running = gated();
    bench.echo.begun(1).await;
    let queued = gated();
    eventually("one waits", || bench.server.in_flight() == 2).await;
    let error = gated().await.expect("no panic").expect_err("refused");
    assert!(matches!(found(&error), Error::Busy(Resource::Target)), "{error:#}");
    assert_eq!(found(&error).outcome(), Outcome::NotStarted);
    assert!(
        echo::who(&bench.remote, CallContext::default()).await.is_ok(),
        "another function"
    );
    bench.echo.gate.add_permits(2);
    for call in [running, queued] {
        assert_eq!(call.await.expect("no panic").expect("a result"), Ok(0));
    }
}

/// One test for each law, on a transport.
macro_rules! laws {
    ($wire:expr) => { $crate::laws!($wire; sizes errors many deadlines cancellation vanishing drain cut_off reconnect caller busy); };
    ($wire:expr; $($law:ident)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $law() {
                $crate::suite::$law($wire).await;
            }
        )*
    };
}
pub(crate) use laws;
