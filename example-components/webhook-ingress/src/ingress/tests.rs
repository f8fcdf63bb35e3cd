use std::{cell::RefCell, io};

use proptest::{prelude::*, sample::Index};
use webhook_signature::{Scheme, SigningKey, Unsigned, sign};

use super::*;
use crate::publish::{Position, Problem};

const NOW: i64 = 1_767_225_600;
const SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODw==";
const BODY: &str =
    r#"{"id":"evt_1","type":"invoice.paid","created":1767225000,"data":{"object":{"metadata":{"tenant":"acme"}}}}"#;

/// A host that keeps what was published.
struct FakeHost {
    settings: Result<Settings, String>,
    now: i64,
    published: RefCell<Vec<Event>>,
    refusal: Option<PublishError>,
}

impl Host for FakeHost {
    fn settings(&self) -> Result<Settings, String> {
        self.settings.clone()
    }

    fn now(&self) -> i64 {
        self.now
    }

    fn publish(&self, event: Event) -> Result<Receipt, PublishError> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        self.published.borrow_mut().push(event);
        Ok(Receipt {
            position: Position {
                partition: 0,
                offset: 7,
            },
            duplicate: false,
            durable_subscriptions: 2,
        })
    }
}

fn host() -> FakeHost {
    let settings = [
        ("stripe.scheme", "stripe"),
        ("stripe.secret", SECRET),
        ("stripe.tenant", "pointer:/data/object/metadata/tenant"),
        ("stripe.max-body", "1KiB"),
        ("standard.scheme", "standard-webhooks"),
        ("standard.secret", SECRET),
        ("standard.tenant", "constant:acme"),
        ("github.scheme", "github"),
        ("github.secret", SECRET),
        ("github.tenant", "path"),
        ("broken.scheme", "stripe"),
        ("broken.tolerance", "1"),
    ];
    let settings = settings.map(|(key, value)| (format!("source.{key}"), value.to_owned()));
    FakeHost {
        settings: Ok(settings.to_vec()),
        now: NOW,
        published: RefCell::default(),
        refusal: None,
    }
}

fn post<B: Read>(path: &str, headers: &[(&str, &str)], body: B) -> Request<B> {
    let mut request = Request::post(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

fn signed(scheme: Scheme, path: &str, more: &[(&str, &str)], body: &'static str) -> Request<&'static [u8]> {
    let key = SigningKey::parse(scheme, SECRET).unwrap();
    let webhook = Unsigned {
        id: "msg_1",
        timestamp: NOW,
        body: body.as_bytes(),
        ..Unsigned::default()
    };
    let made = sign(&key, &webhook).unwrap();
    let headers: Vec<_> = made
        .headers
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .chain(more.iter().copied())
        .collect();
    post(path, &headers, body.as_bytes())
}

fn stripe() -> Request<&'static [u8]> {
    signed(Scheme::Stripe, "/webhooks/stripe", &[], BODY)
}

#[test]
fn a_webhook_of_each_scheme_becomes_an_event() {
    let host = host();
    let receipt = receive(&host, stripe()).unwrap();
    let answered = answer(&receipt);
    assert_eq!(answered.status(), 200);
    assert_eq!(
        String::from_utf8_lossy(answered.body()),
        r#"{"position":{"partition":0,"offset":7},"duplicate":false,"durable_subscriptions":2}"#
    );
    receive(
        &host,
        signed(Scheme::StandardWebhooks, "/webhooks/standard", &[], r#"{"type":"a.b"}"#),
    )
    .unwrap();
    let github = [("x-github-event", "push"), ("x-github-delivery", "d-1")];
    receive(
        &host,
        signed(Scheme::Github, "/webhooks/github/acme%2D2", &github, "{}"),
    )
    .unwrap();

    let published = host.published.into_inner();
    let seen: Vec<_> = published
        .iter()
        .map(|event| [&event.tenant, &event.event_type, &event.id, &event.source].map(String::as_str))
        .collect();
    assert_eq!(
        seen,
        [
            ["acme", "invoice.paid", "evt_1", "/webhooks/stripe"],
            ["acme", "a.b", "msg_1", "/webhooks/standard"],
            ["acme-2", "push", "d-1", "/webhooks/github"],
        ]
    );
    assert_eq!(published[0].data, BODY.as_bytes());
    assert_eq!(published[0].time, Some(1_767_225_000_000_000_000));
}

#[test]
fn other_paths_and_methods_are_refused() {
    let host = host();
    for path in [
        "/",
        "/webhooks",
        "/webhooks/",
        "/webhooks/stripe/acme",
        "/webhooks/github",
        "/webhooks/a/b/c",
        "/%ff",
    ] {
        let refusal = receive(&host, post(path, &[], &b""[..])).unwrap_err();
        assert_eq!(refusal.answer().status(), 404, "{path}: {refusal:?}");
    }
    let unknown = receive(&host, post("/webhooks/paypal", &[], &b""[..]));
    assert_eq!(
        unknown,
        Err(Refusal::UnknownSource {
            name: "paypal".to_owned()
        })
    );
    let get = Request::get("/webhooks/stripe").body(&b""[..]).unwrap();
    assert_eq!(
        receive(&host, get),
        Err(Refusal::MethodNotAllowed { method: Method::GET })
    );
}

#[test]
fn a_source_with_broken_settings_says_which_and_disturbs_no_other() {
    let host = host();
    let refusal = receive(&host, post("/webhooks/broken", &[], &b""[..])).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the configuration is broken: source.broken.secret is missing; source.broken.tenant is missing; \
         source.broken.tolerance is no duration from 1s to 1d"
    );
    let answer = refusal.answer();
    assert_eq!(answer.status(), 500);
    assert!(
        answer
            .body()
            .starts_with(br#"{"code":"invalid-config:source.broken.secret","#)
    );
    assert!(receive(&host, stripe()).is_ok());

    let host = FakeHost {
        settings: Err("gone".to_owned()),
        ..host
    };
    assert_eq!(receive(&host, stripe()).unwrap_err().answer().status(), 500);
}

#[test]
fn a_forged_or_stale_webhook_is_not_published() {
    let host = host();
    for (request, code) in [
        (post("/webhooks/stripe", &[], BODY.as_bytes()), "missing-header"),
        (
            signed(
                Scheme::Stripe,
                "/webhooks/stripe",
                &[("stripe-signature", "t=1,v1=")],
                BODY,
            ),
            "repeated-header",
        ),
        (
            post("/webhooks/stripe", &[("stripe-signature", "t=1")], BODY.as_bytes()),
            "no-supported-signature",
        ),
    ] {
        let Err(Refusal::Signature(refusal)) = receive(&host, request) else {
            panic!("{code}")
        };
        assert_eq!(refusal.code(), code);
    }
    for (now, code) in [(NOW + 301, "stale-timestamp"), (NOW - 301, "future-timestamp")] {
        let late = FakeHost { now, ..self::host() };
        let Err(Refusal::Signature(refusal)) = receive(&late, stripe()) else {
            panic!("{code}")
        };
        assert_eq!(refusal.code(), code);
        assert!(late.published.borrow().is_empty());
    }
    assert!(host.published.borrow().is_empty());
}

#[test]
fn what_the_body_says_counts_only_once_it_is_verified() {
    let refusal = receive(
        &host(),
        post(
            "/webhooks/stripe",
            &[("stripe-signature", "t=1,v1=x")],
            &b"not json"[..],
        ),
    );
    assert!(matches!(refusal, Err(Refusal::Signature(_))), "{refusal:?}");
    let refusal = receive(&host(), signed(Scheme::Stripe, "/webhooks/stripe", &[], "not json"));
    assert!(matches!(refusal, Err(Refusal::NotJson { .. })), "{refusal:?}");
}

/// A sender that never stops.
struct Endless(usize);

impl Read for &mut Endless {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0 += buffer.len();
        buffer.fill(b'a');
        Ok(buffer.len())
    }
}

#[test]
fn a_body_is_read_no_further_than_the_sources_limit() {
    let mut sender = Endless(0);
    let refusal = receive(&host(), post("/webhooks/stripe", &[], &mut sender));
    assert_eq!(refusal, Err(Refusal::TooLarge { limit: 1024 }));
    assert_eq!(sender.0, 1025);

    // A length that is declared too large is believed, one that is declared small is not.
    let mut sender = Endless(0);
    let refusal = receive(
        &host(),
        post("/webhooks/stripe", &[("content-length", "1025")], &mut sender),
    );
    assert_eq!(refusal, Err(Refusal::TooLarge { limit: 1024 }));
    assert_eq!(sender.0, 0);
    let refusal = receive(
        &host(),
        post("/webhooks/stripe", &[("content-length", "1")], &mut sender),
    );
    assert_eq!(refusal, Err(Refusal::TooLarge { limit: 1024 }));
}

#[test]
fn without_a_receipt_there_is_no_success() {
    let problem = Problem {
        code: "store-full".to_owned(),
        message: "m".to_owned(),
    };
    let host = FakeHost {
        refusal: Some(PublishError::StoreFull(problem)),
        ..host()
    };
    let answer = receive(&host, stripe()).unwrap_err().answer();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["retry-after"]),
        (503, &"60".parse().unwrap())
    );
}

proptest! {
    #[test]
    fn any_changed_bit_of_the_body_is_refused(at in any::<Index>()) {
        let host = host();
        let mut body = BODY.as_bytes().to_vec();
        let bit = at.index(body.len() * 8);
        body[bit / 8] ^= 1 << (bit % 8);
        let refusal = receive(&host, stripe().map(|_| body.as_slice()));
        prop_assert_eq!(refusal, Err(Refusal::Signature(webhook_signature::Refusal::SignatureMismatch)));
        prop_assert!(host.published.into_inner().is_empty());
    }

    #[test]
    fn no_signed_body_makes_it_panic(body in r#"[{}\[\]":,a-z0-9.]{0,60}"#) {
        let key = SigningKey::parse(Scheme::Stripe, SECRET).unwrap();
        let made = sign(&key, &Unsigned { timestamp: NOW, body: body.as_bytes(), ..Unsigned::default() }).unwrap();
        let (name, value) = &made.headers[0];
        let refusal = receive(&host(), post("/webhooks/stripe", &[(name, value)], body.as_bytes()));
        prop_assert!(matches!(refusal, Err(Refusal::NotJson { .. } | Refusal::NotFound { .. })), "{refusal:?}");
    }
}
