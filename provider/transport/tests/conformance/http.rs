//! What only HTTP has: routes beside invocations, tokens, and requests that other clients than this crate's write.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fanout_transport::testing::TestAuthority;
use fanout_transport::{
    CallContext, Caller, Calls, ClientTls, ConnectOptions, Error, Guard, HttpProblem, Identity, ListenOptions,
    Listener, Options, Outcome, Refusal, Remote, RequestBody, SecretFrom, ServerTls, Service, Serving, Shape, TooMany,
    encode,
};
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::bindings::test::echo::echo;
use crate::support::{Echo, INSTANCE, PATIENCE, eventually, isolated};

const TOKEN: &str = "fanout_of-orders";

/// Knows one token, which can be taken back, and lets everybody call.
#[derive(Clone, Default)]
pub(crate) struct OneToken {
    revoked: Arc<Mutex<bool>>,
}

impl Guard for OneToken {
    fn admit(&self, caller: Caller, _: &str, func: &str, _: &[u8]) -> Result<Caller, Refusal> {
        match func {
            "poke" => Err(Refusal::Failure("it may not poke".to_owned())),
            _ => Ok(caller),
        }
    }

    fn shape(&self, _: &str, _: &str) -> Option<&'static Shape> {
        None
    }

    fn knows_token(&self, sha256: &[u8; 32]) -> bool {
        let revoked = *self.revoked.lock().expect("no test panics with it");
        !revoked && *sha256 == <[u8; 32]>::from(Sha256::digest(TOKEN))
    }

    fn too_many(&self, _: &Caller, _: &str, _: &str, _: TooMany) -> Refusal {
        Refusal::Failure("too many".to_owned())
    }
}

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// Routes as a program has them: one that calls, one that answers for ever, one that panics.
async fn route(request: Request<RequestBody>) -> Result<Response<Body>, std::convert::Infallible> {
    let calls = request.extensions().get::<Calls>().expect("it can call").clone();
    let path = request.uri().path().to_owned();
    let whole = |response: Response<Full<Bytes>>| response.map(BodyExt::boxed_unsync);
    Ok(match path.as_str() {
        "/length" => match request.into_body().collect().await {
            Ok(body) => {
                let params = encode((String::new(), body.to_bytes())).expect("it can be encoded");
                match calls.invoke(INSTANCE, "length", params).await {
                    Ok(result) => whole(Response::new(Full::new(result))),
                    Err(error) => whole(HttpProblem::from(&error).into_response()),
                }
            }
            // Whatever a route makes of it, the answer is why.
            Err(_) => whole(Response::new(Full::default())),
        },
        "/ticks" => {
            let ticks = futures::stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Some((Ok(http_body::Frame::data(Bytes::from_static(b"tick\n"))), ()))
            });
            Response::new(StreamBody::new(ticks).boxed_unsync())
        }
        "/floods" => {
            let flood = futures::stream::repeat_with(|| Ok(http_body::Frame::data(Bytes::from(vec![7; 1 << 16]))));
            Response::new(StreamBody::new(flood).boxed_unsync())
        }
        "/hangs" => std::future::pending().await,
        "/live" => whole(Response::new(Full::from("alive"))),
        "/panic" => panic!("as the test asks"),
        _ => whole(
            HttpProblem::new(StatusCode::NOT_FOUND, "nobody-serves", "there is no such route here").into_response(),
        ),
    })
}

pub(crate) async fn routed(echo: &Echo, guard: OneToken) -> Service {
    isolated(echo).await.guarded(guard).http(
        tower::service_fn(route),
        |_: &Method, uri| uri.path() == "/live",
        |request| {
            let page = request.get(ORIGIN).cloned();
            page.map(|page| (ACCESS_CONTROL_ALLOW_ORIGIN, page))
                .into_iter()
                .collect()
        },
    )
}

async fn serving(url: &str, options: ListenOptions) -> (Serving, Echo, OneToken) {
    let (echo, guard) = (Echo::default(), OneToken::default());
    let listener = Listener::bind(&url.parse().expect("an endpoint"), options).await;
    let server = listener.expect("it is free").serve(&routed(&echo, guard.clone()).await);
    (server, echo, guard)
}

pub(crate) fn at(server: &Serving) -> String {
    server.local_endpoint().authority().expect("a port").to_string()
}

/// Sends bytes, and returns all that is answered until the server closes.
pub(crate) async fn say(at: &str, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).await.expect("it is there");
    // The server may close before it has read all of it.
    drop(stream.write_all(bytes).await);
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    drop(read.expect("the server closes"));
    String::from_utf8_lossy(&answer).into_owned()
}

pub(crate) fn request(line: &str, headers: &[&str], body: &str) -> Vec<u8> {
    let mut text = format!("{line} HTTP/1.1\r\nhost: bus.example\r\nconnection: close\r\n");
    for header in headers {
        text += &format!("{header}\r\n");
    }
    if !body.is_empty() {
        text += &format!("content-length: {}\r\n", body.len());
    }
    format!("{text}\r\n{body}").into_bytes()
}

async fn status_of(at: &str, bytes: &[u8]) -> (u16, String) {
    let answer = say(at, bytes).await;
    let status = answer.get(9..12).and_then(|status| status.parse().ok());
    (status.unwrap_or_else(|| panic!("no response: {answer:?}")), answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invocation_is_a_post_to_its_function() {
    let (server, ..) = serving("http://127.0.0.1:0", ListenOptions::default()).await;
    let at = at(&server);
    let path = format!("/{INSTANCE}/length");
    // A text of no bytes, and a list of four.
    let (status, answer) = status_of(&at, &request(&format!("POST {path}"), &[], "\0\u{4}abcd")).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer.contains("content-type: application/octet-stream"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n\0\u{4}"), "ok, and four: {answer:?}");
    for (line, body, status, code) in [
        (format!("POST /{INSTANCE}/nothing"), "", 404, "nobody-serves"),
        (format!("POST /{INSTANCE}/poke"), "", 500, "may not poke"),
        (format!("POST {path}"), "\0", 500, "call-failed"),
        (format!("POST {path}"), "\u{4}fail\0", 500, "does not want to"),
        (format!("POST {path}"), "\u{5}panic\0", 500, "panicked"),
        (format!("GET {path}"), "", 404, "nobody-serves"),
        ("POST /nowhere".to_owned(), "abc", 404, "no such route here"),
    ] {
        let (got, answer) = status_of(&at, &request(&line, &[], body)).await;
        assert_eq!(got, status, "{line}: {answer}");
        assert!(answer.contains("application/problem+json"), "{line}: {answer}");
        assert!(answer.contains(code), "{line}: {answer}");
    }
    eventually("all are answered", || server.in_flight() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_call_as_the_caller_of_their_request() {
    let limits = Options {
        max_body_bytes: 1000,
        in_flight: 1,
        queued: 0,
        ..Options::default()
    };
    let options = ListenOptions {
        limits,
        ..ListenOptions::default()
    };
    let (server, echo, _) = serving("http://127.0.0.1:0", options).await;
    let at = at(&server);
    let (status, answer) = status_of(&at, &request("POST /length", &[], "abcd")).await;
    assert!(status == 200 && answer.ends_with("\0\u{4}"), "{answer:?}");
    let (status, answer) = status_of(&at, &request("POST /length", &[], &"a".repeat(1001))).await;
    assert!(status == 413 && answer.contains("body-too-large"), "{answer}");
    // Chunked, its length is seen as it comes.
    let chunk = format!("3e8\r\n{}\r\n1\r\na\r\n0\r\n\r\n", "a".repeat(1000));
    let head = "POST /length HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let (status, answer) = status_of(&at, format!("{head}{chunk}").as_bytes()).await;
    assert!(status == 413 && answer.contains("body-too-large"), "{answer}");
    let (status, answer) = status_of(&at, &request("GET /panic", &[], "")).await;
    assert!(status == 500 && answer.contains("panicked"), "{answer}");
    // A place that is taken is taken for both.
    let gated = tokio::spawn({
        let at = at.clone();
        let line = format!("POST /{INSTANCE}/length");
        async move { status_of(&at, &request(&line, &[], "\u{4}gate\0")).await }
    });
    echo.begun(2).await;
    let (status, answer) = status_of(&at, &request("POST /length", &[], "abcd")).await;
    assert!(status == 503 && answer.contains("retry-after: 1"), "{answer}");
    echo.gate.add_permits(1);
    assert_eq!(gated.await.expect("no panic").0, 200);
    eventually("all is given back", || {
        server.buffered_bytes() == 0 && server.in_flight() == 0
    })
    .await;
}

/// What a page may read is said of every answer, also of those that come before a route or instead of it.
#[tokio::test(flavor = "multi_thread")]
async fn every_answer_says_which_page_may_read_it() {
    let limits = Options {
        max_body_bytes: 1000,
        in_flight: 1,
        queued: 0,
        serve_deadline: Duration::from_secs(1),
        ..Options::default()
    };
    let options = ListenOptions {
        limits,
        ..ListenOptions::default()
    };
    let (server, echo, _) = serving("http://127.0.0.1:0", options).await;
    let at = at(&server);
    let page = "origin: https://console.example.com";
    let allowed = "access-control-allow-origin: https://console.example.com\r\n";
    let long = format!("x-long: {}", "a".repeat(9 << 10));
    let many: Vec<String> = (0..120).map(|i| format!("x-{i}: a")).collect();
    let many = [vec![page], many.iter().map(String::as_str).collect()].concat();
    let slow = format!("POST /length HTTP/1.1\r\nhost: a\r\n{page}\r\ncontent-length: 10\r\n\r\nab");
    let large = format!("POST /length HTTP/1.1\r\nhost: a\r\n{page}\r\ncontent-length: 9999\r\n\r\n");
    let broken = format!("POST /length HTTP/1.1\r\nhost: a\r\n{page}\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n");
    let old = format!("GET /live HTTP/1.0\r\nhost: a\r\n{page}\r\n\r\n");
    for (bytes, status) in [
        (request("GET /live", &[page], ""), 200),
        (format!("GET /live HTTP/1.1\r\n{page}\r\n\r\n").into_bytes(), 400),
        (broken.into_bytes(), 400),
        (request("GET /ticks", &[page, "authorization: Bearer nobodys"], ""), 401),
        (request(&format!("POST /{INSTANCE}/length"), &[page], "\0\0"), 403),
        (request("GET /nowhere", &[page], ""), 404),
        (slow.into_bytes(), 408),
        (large.into_bytes(), 413),
        (request("POST /length", &[page], &"a".repeat(1001)), 413),
        (request("GET /live", &[page, &long], ""), 431),
        (request("GET /live", &many, ""), 431),
        (request("GET /panic", &[page], ""), 500),
        (request("GET /hangs", &[page, "fanout-deadline-ms: 100"], ""), 504),
        (old.into_bytes(), 505),
    ] {
        let sent = String::from_utf8_lossy(&bytes).into_owned();
        let (got, answer) = status_of(&at, &bytes).await;
        assert_eq!(got, status, "{sent}: {answer}");
        assert!(answer.contains(allowed), "{sent}: {answer}");
        if status != 200 {
            is_a_problem(&answer);
        }
    }
    let gated = tokio::spawn({
        let at = at.clone();
        let line = format!("POST /{INSTANCE}/length");
        async move { status_of(&at, &request(&line, &[], "\u{4}gate\0")).await }
    });
    echo.begun(1).await;
    let (status, answer) = status_of(&at, &request("POST /length", &[page], "abcd")).await;
    assert!(status == 503 && answer.contains(allowed), "{answer}");
    is_a_problem(&answer);
    echo.gate.add_permits(1);
    gated.await.expect("no panic");
    let (_, answer) = status_of(&at, &request("GET /live", &[], "")).await;
    assert!(!answer.contains("access-control"), "{answer}");
}

/// Holds an answer to what every problem says.
fn is_a_problem(answer: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.contains("content-type: application/problem+json"), "{answer}");
    let problem: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"));
    let code = problem["code"].as_str().expect("a code");
    assert!(
        problem["type"] == format!("/docs/errors/{code}")
            && problem["title"] == HttpProblem::title(code)
            && answer.starts_with(&format!("HTTP/1.1 {} ", problem["status"]))
                | answer.starts_with(&format!("HTTP/1.0 {} ", problem["status"]))
            && problem["detail"].as_str().is_some_and(|detail| detail.len() > 20),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_a_call_that_ends_with_its_server() {
    let (server, ..) = serving("http://127.0.0.1:0", ListenOptions::default()).await;
    let at = at(&server);
    let mut stream = TcpStream::connect(&at).await.expect("it is there");
    stream
        .write_all(&request("GET /ticks", &[], ""))
        .await
        .expect("it is sent");
    let mut some = [0; 256];
    assert!(
        timeout(PATIENCE, stream.read(&mut some))
            .await
            .expect("in time")
            .expect("ticks")
            > 0
    );
    assert_eq!(server.in_flight(), 1);
    let drained = tokio::spawn(server.drain(PATIENCE));
    let mut rest = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    read.expect("it ends").expect("in order");
    assert!(
        rest.ends_with(b"0\r\n\r\n"),
        "the last chunk: {:?}",
        String::from_utf8_lossy(&rest)
    );
    assert_eq!(drained.await.expect("no panic").abandoned, 0);
}

fn token(text: &str) -> Option<SecretFrom> {
    Some(SecretFrom::Value(text.into()))
}

async fn connect(server: &Serving, tls: Option<ClientTls>, token: Option<SecretFrom>) -> Result<Remote, Error> {
    let options = ConnectOptions {
        tls,
        token,
        ..ConnectOptions::default()
    };
    Remote::connect(server.local_endpoint(), options).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_its_holder_s_or_nobody_s() {
    let (server, _, guard) = serving("http://127.0.0.1:0", ListenOptions::default()).await;
    let at = at(&server);
    let of = |header: &str| request(&format!("POST /{INSTANCE}/who"), &[header], "");
    let known = format!("authorization: Bearer {TOKEN}");
    assert_eq!(status_of(&at, &of(&known)).await.0, 200);
    // This machine's processes may call, and none of these is one of them.
    assert_eq!(status_of(&at, &of("x-nothing: 1")).await.0, 200);
    for unknown in [
        "authorization: Bearer fanout_of-another",
        "authorization: Bearer ",
        "authorization: Basic b3JkZXJzOmE=",
        &format!("authorization: {TOKEN}"),
        &format!("{known}\r\n{known}"),
    ] {
        let (status, answer) = status_of(&at, &of(unknown)).await;
        assert_eq!(status, 401, "{unknown}: {answer}");
        assert!(answer.contains("www-authenticate: Bearer"), "{answer}");
        assert!(answer.contains("unauthenticated-caller"), "{answer}");
        assert!(!answer.contains("of-another"), "{answer}");
    }
    let remote = connect(&server, None, token(TOKEN)).await.expect("it is known");
    assert!(echo::who(&remote, CallContext::default()).await.is_ok());
    let error = connect(&server, None, token("fanout_of-another"))
        .await
        .expect_err("it is not");
    assert_eq!((error.code(), error.outcome()), ("peer-refused", Outcome::NotStarted));
    assert!(error.to_string().contains("token-sha256"), "{error}");
    // A stream that goes on ends when its token is taken back.
    let mut stream = TcpStream::connect(&at).await.expect("it is there");
    stream
        .write_all(&request("GET /ticks", &[&known], ""))
        .await
        .expect("it is sent");
    eventually("it goes on", || server.in_flight() == 1).await;
    *guard.revoked.lock().expect("no test panics with it") = true;
    let mut ticks = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut ticks)).await;
    read.expect("it ends").expect("in order");
    assert_eq!(status_of(&at, &of(&known)).await.0, 401);
    let error = echo::who(&remote, CallContext::default())
        .await
        .expect_err("it was taken back");
    assert_eq!(Error::find(&error).map(Error::code), Some("peer-refused"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_loopback_https_requires_a_token_where_it_requires_no_certificate() {
    let authority = TestAuthority::new();
    let open = ServerTls {
        client_ca: None,
        ..authority.server()
    };
    let options = ListenOptions {
        tls: Some(open),
        ..ListenOptions::default()
    };
    let error = Listener::bind(&"http://0.0.0.0:0".parse().expect("an endpoint"), options.clone()).await;
    assert_eq!(error.expect_err("anyone reads it").code(), "unauthenticated-listener");
    let (server, ..) = serving("https://0.0.0.0:0", options).await;
    let port = server.local_endpoint().authority().expect("a port").port();
    let Some(own) = own_address() else {
        // A machine without a network has nobody beyond it.
        return;
    };
    let endpoint = format!("https://{own}:{port}").parse().expect("an endpoint");
    let tls = ClientTls {
        identity: None,
        server_name: Some("localhost".to_owned()),
        ..authority.client("nobody")
    };
    let call = async |token| {
        let options = ConnectOptions {
            tls: Some(tls.clone()),
            token,
            ..ConnectOptions::default()
        };
        Remote::connect(&endpoint, options).await
    };
    let error = call(None).await.expect_err("nobody");
    assert!(error.to_string().contains("shows no token"), "{error}");
    let remote = call(token(TOKEN)).await.expect("it is known");
    assert!(echo::who(&remote, CallContext::default()).await.is_ok());
}

/// An address of this machine that is not the loopback's, if it has one.
fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: the system only chooses where it would be sent from.
    socket.connect("192.0.2.1:9").ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback() && !own.is_unspecified()).then_some(own)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_goes_nowhere_in_the_clear() {
    let options = ConnectOptions {
        token: token(TOKEN),
        ..ConnectOptions::default()
    };
    for url in ["http://bus.example:80", "http://192.0.2.1:80", "tcp://127.0.0.1:9"] {
        let endpoint = url.parse().expect("an endpoint");
        let error = Remote::connect(&endpoint, options.clone())
            .await
            .expect_err("it is not shown");
        assert_eq!(error.code(), "invalid-endpoint", "{error}");
        assert!(
            error.to_string().contains("token") && !error.to_string().contains(TOKEN),
            "{error}"
        );
    }
    assert!(!format!("{options:?}").contains(TOKEN));
    let Some(own) = own_address() else { return };
    let open = ListenOptions {
        allow_unauthenticated_network_peers: true,
        ..ListenOptions::default()
    };
    let (server, ..) = serving("http://0.0.0.0:0", open).await;
    let port = server.local_endpoint().authority().expect("a port").port();
    let line = format!("POST /{INSTANCE}/who");
    let bytes = request(&line, &[&format!("authorization: Bearer {TOKEN}")], "");
    let (status, answer) = status_of(&format!("{own}:{port}"), &bytes).await;
    assert!(status == 403 && answer.contains("use https"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_and_a_certificate_are_judged_together() {
    let authority = TestAuthority::new();
    let seen = Arc::new(Mutex::new(None));
    let note = Arc::clone(&seen);
    let service = Service::new().guarded(OneToken::default()).direct(
        INSTANCE,
        "length",
        move |caller, (_, _): (String, Bytes)| {
            *note.lock().expect("no test panics with it") = Some(caller.identity);
            async { Ok(Ok::<u64, String>(0)) }
        },
    );
    let options = ListenOptions {
        tls: Some(authority.server()),
        ..ListenOptions::default()
    };
    let endpoint = "https://127.0.0.1:0".parse().expect("an endpoint");
    let server = Listener::bind(&endpoint, options)
        .await
        .expect("it is free")
        .serve(&service);
    let tls = Some(authority.client("orders.example"));
    let remote = connect(&server, tls.clone(), token(TOKEN))
        .await
        .expect("both are known");
    let length = echo::length(&remote, CallContext::default(), "", &Bytes::new()).await;
    length.expect("an answer").expect("a length");
    let identity = seen.lock().expect("no test panics with it").take();
    let Some(Identity::Token(proof)) = identity else {
        panic!("by its token: {identity:?}");
    };
    assert_eq!(proof.sha256, <[u8; 32]>::from(Sha256::digest(TOKEN)));
    let names = proof.certificate.as_ref().expect("and its certificate");
    assert_eq!(names.common_names, ["orders.example"]);
    assert!(!format!("{proof:?}").contains(TOKEN));
    // A certificate does not help a token that nobody knows.
    let error = connect(&server, tls, token("fanout_of-another")).await;
    assert_eq!(error.expect_err("it is not known").code(), "peer-refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_no_caller_answers_everybody() {
    let authority = TestAuthority::new();
    let options = ListenOptions {
        tls: Some(ServerTls {
            client_ca: None,
            ..authority.server()
        }),
        ..ListenOptions::default()
    };
    let (server, ..) = serving("http://127.0.0.1:0", options).await;
    let at = at(&server);
    let wrong = "authorization: Bearer fanout_of-another";
    let (status, answer) = status_of(&at, &request("GET /live", &[wrong], "")).await;
    assert!(status == 200 && answer.ends_with("alive"), "{answer}");
    assert_eq!(status_of(&at, &request("GET /ticks", &[wrong], "")).await.0, 401);
}

/// A server that is busy for a minute says so once.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_is_called_no_more_until_it_takes_calls_again() {
    const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 60\r\ncontent-length: 0\r\n\r\n";
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
    let posts = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&posts);
    let busy = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut read = vec![0; 4096];
            while let Ok(bytes @ 1..) = stream.read(&mut read).await {
                let answer = match read[..bytes].starts_with(b"POST") {
                    true => {
                        *counted.lock().expect("no test panics with it") += 1;
                        BUSY
                    }
                    false => b"HTTP/1.1 204 No Content\r\n\r\n",
                };
                stream.write_all(answer).await.expect("it is read");
            }
        }
    });
    let endpoint = endpoint.parse().expect("an endpoint");
    let remote = Remote::connect(&endpoint, ConnectOptions::default())
        .await
        .expect("it is there");
    for _ in 0..3 {
        let call = remote
            .call(CallContext::within(PATIENCE), INSTANCE, "who", Bytes::new())
            .await;
        let error = call.expect_err("it is busy");
        assert_eq!(
            (error.code(), error.outcome()),
            ("too-busy", Outcome::NotStarted),
            "{error}"
        );
    }
    assert_eq!(
        *posts.lock().expect("no test panics with it"),
        1,
        "the others are not sent"
    );
    let other = remote
        .call(CallContext::within(PATIENCE), INSTANCE, "length", Bytes::new())
        .await;
    assert!(other.is_err());
    assert_eq!(
        *posts.lock().expect("no test panics with it"),
        2,
        "another function is another matter"
    );
    busy.abort();
}

/// A peer that does not read holds what it asked for against its own share, until it is let go.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_counts_until_it_is_sent() {
    const MIB: usize = 1 << 20;
    let limits = Options {
        max_body_bytes: 16 * MIB,
        serve_deadline: PATIENCE,
        ..Options::default()
    };
    let options = ListenOptions {
        limits,
        ..ListenOptions::default()
    };
    let (server, ..) = serving("http://127.0.0.1:0", options).await;
    let mut stream = TcpStream::connect(at(&server)).await.expect("it is there");
    let length = u32::try_from(15 * MIB).expect("32 bits");
    let leb: Vec<u8> = (0..4)
        .map(|i| ((length >> (7 * i)) & 0x7f) as u8 | if i < 3 { 0x80 } else { 0 })
        .collect();
    let head = format!(
        "POST /{INSTANCE}/bytes HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n",
        leb.len()
    );
    stream
        .write_all(&[head.as_bytes(), &leb].concat())
        .await
        .expect("it is sent");
    eventually("the answer is made", || server.buffered_bytes() > 15 * MIB).await;
    assert_eq!(server.in_flight(), 1);
    // More than a kernel takes of it is still counted, however long nobody reads.
    let mut some = vec![0; 64 << 10];
    stream.read_exact(&mut some).await.expect("the beginning");
    assert!(server.buffered_bytes() > 15 * MIB && server.in_flight() == 1);
    drop(stream);
    eventually("all is given back", || {
        server.buffered_bytes() == 0 && server.in_flight() == 0
    })
    .await;
}
