//! What only HTTP has: routes beside invocations, tokens, and requests that other clients than this crate's write.

mod load;
mod tokens;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fanout_transport::testing::TestAuthority;
use fanout_transport::{
    Caller, Calls, Guard, HttpProblem, ListenOptions, Listener, Options, Refusal, RequestBody, ServerTls, Service,
    Serving, Shape, TooMany, encode,
};
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

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
