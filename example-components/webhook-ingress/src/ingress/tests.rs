use std::{cell::RefCell, io};

use proptest::{prelude::*, sample::Index};
use webhook_source::samples::{self, SAMPLES, Sample, SampleSecrets};

use super::*;
use crate::publish::{Position, Problem};

const NOW: i64 = 1_767_225_601;

/// A host that keeps what was published.
struct FakeHost {
    settings: Result<Settings, String>,
    now: i64,
    published: RefCell<Vec<Event>>,
    /// What to answer instead of receipts.
    refusal: Option<PublishError>,
}

impl Secrets for FakeHost {
    fn secret(&self, name: &str) -> Result<Option<String>, String> {
        SampleSecrets.secret(name)
    }
}

impl Host for FakeHost {
    fn settings(&self) -> Result<Settings, String> {
        self.settings.clone()
    }

    fn now(&self) -> i64 {
        self.now
    }

    fn publish(&self, events: Vec<Event>) -> Result<Vec<Receipt>, PublishError> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        let mut published = self.published.borrow_mut();
        let store = |event: Event| {
            published.push(event);
            Receipt {
                position: Position {
                    partition: 0,
                    offset: published.len() as u64,
                },
                duplicate: false,
                durable_subscriptions: 2,
            }
        };
        Ok(events.into_iter().map(store).collect())
    }
}

fn host() -> FakeHost {
    let mut settings: Settings = SAMPLES.iter().flat_map(Sample::source_settings).collect();
    let more = [
        ("stripe.max-body", "1KiB"),
        ("open.scheme", "stripe"),
        ("open.secret", "whsec_test_stripe\n"),
        ("open.tenant", "constant:acme"),
        ("broken.scheme", "stripe"),
        ("broken.tolerance", "1"),
    ];
    settings.extend(more.map(|(key, value)| (format!("source.{key}"), value.to_owned())));
    FakeHost {
        settings: Ok(settings),
        now: NOW,
        published: RefCell::default(),
        refusal: None,
    }
}

fn post<B: Read>(path: &str, headers: &[(String, String)], body: B) -> Request<B> {
    let mut request = Request::post(path);
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.body(body).unwrap()
}

fn signed(sample: &Sample, path: &str, body: &str) -> Request<io::Cursor<Vec<u8>>> {
    let signed = sample.signed(body.as_bytes(), NOW);
    post(
        path,
        &sample.all_headers(&signed),
        io::Cursor::new(signed.body.to_vec()),
    )
}

fn of(scheme: Scheme) -> Request<io::Cursor<Vec<u8>>> {
    let sample = samples::of(scheme);
    signed(&sample, &sample.target(), sample.body)
}

fn text(answer: &Answer) -> &str {
    std::str::from_utf8(answer.body()).unwrap()
}

#[test]
fn a_webhook_of_each_scheme_is_published_and_answered_as_its_vendor_expects() {
    let host = host();
    for sample in SAMPLES {
        let accepted =
            receive(&host, of(sample.scheme)).unwrap_or_else(|refusal| panic!("{}: {refusal}", sample.scheme));
        let answer = accepted.answer();
        assert_eq!(answer.status(), 200);
        let published = host.published.take();
        let seen: Vec<_> = published
            .iter()
            .map(|event| (event.tenant.as_str(), event.event_type.as_str()))
            .collect();
        let expected: Vec<_> = sample
            .events
            .iter()
            .map(|(tenant, event_type, _)| (*tenant, *event_type))
            .collect();
        assert_eq!(seen, expected);
        match sample.scheme {
            Scheme::Adyen => {
                assert_eq!(text(&answer), "[accepted]");
                assert_eq!(answer.headers()["content-type"], "text/plain; charset=utf-8");
            }
            Scheme::Gocardless => assert_eq!(
                text(&answer),
                r#"{"receipts":[{"position":{"partition":0,"offset":1},"duplicate":false,"durable_subscriptions":2},{"position":{"partition":0,"offset":2},"duplicate":false,"durable_subscriptions":2}]}"#
            ),
            _ => assert_eq!(
                text(&answer),
                r#"{"position":{"partition":0,"offset":1},"duplicate":false,"durable_subscriptions":2}"#
            ),
        }
    }
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
    let unknown = receive(&host, post("/webhooks/other", &[], &b""[..]));
    let name = "other".to_owned();
    assert_eq!(unknown, Err(Refusal::UnknownSource { name }));
    for method in [Method::GET, Method::PUT] {
        let request = Request::builder()
            .method(&method)
            .uri("/webhooks/stripe")
            .body(&b""[..])
            .unwrap();
        assert_eq!(receive(&host, request), Err(Refusal::MethodNotAllowed { method }));
    }
}

#[test]
fn braintrees_challenge_is_answered_and_nothing_else_is_signed() {
    let host = host();
    let get = |path: &str| receive(&host, Request::get(path).body(&b""[..]).unwrap());
    let answered = get("/webhooks/braintree?bt_challenge=20f9f8ed05f77439fe955c977e4c8a53").unwrap();
    let answer = answered.answer();
    assert!(text(&answer).starts_with("integration_public_key|"), "{answer:?}");
    for query in [
        "",
        "?bt_challenge=",
        "?bt_challenge=no%0Achallenge",
        "?bt_challenge=20f9f8ed05f77439fe955c977e4c8a53&bt_challenge=20f9f8ed05f77439fe955c977e4c8a53",
    ] {
        let refused = get(&format!("/webhooks/braintree{query}"));
        assert_eq!(
            refused,
            Err(Refusal::MethodNotAllowed { method: Method::GET }),
            "{query}"
        );
    }
    assert!(get("/webhooks/stripe?bt_challenge=20f9f8ed05f77439fe955c977e4c8a53").is_err());
}

#[test]
fn a_source_with_broken_settings_says_which_and_disturbs_no_other() {
    let host = host();
    let refusal = receive(&host, post("/webhooks/broken", &[], &b""[..])).unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "the configuration is broken: source.broken.secret is missing: set secret-name to the name of a secret in the \
         manifest; source.broken.tenant is missing; source.broken.tolerance is no duration from 1s to 7d"
    );
    let answer = refusal.answer();
    assert_eq!(answer.status(), 500);
    assert!(
        answer
            .body()
            .starts_with(br#"{"code":"invalid-config:source.broken.secret","#)
    );
    assert!(receive(&host, of(Scheme::Stripe)).is_ok());

    let host = FakeHost {
        settings: Err("gone".to_owned()),
        ..host
    };
    assert_eq!(receive(&host, of(Scheme::Stripe)).unwrap_err().answer().status(), 500);
}

#[test]
fn a_forged_webhook_of_any_scheme_is_not_published() {
    for sample in SAMPLES {
        let host = host();
        // What is signed is another one than what comes.
        let mut request = of(sample.scheme);
        let forged = match sample.scheme {
            Scheme::Basic => {
                let forged = "Basic Y2hhcmdlYmVlOm90aGVy".parse().unwrap();
                request.headers_mut().insert("authorization", forged);
                continue_with(&host, request)
            }
            Scheme::Braintree => {
                let body = request.into_body().into_inner();
                let body = String::from_utf8(body)
                    .unwrap()
                    .replace("bt_payload=PG", "bt_payload=PH");
                continue_with(&host, post(&sample.target(), &[], io::Cursor::new(body.into_bytes())))
            }
            _ => {
                let (head, body) = request.into_parts();
                let body = String::from_utf8(body.into_inner()).unwrap();
                let changed = body
                    .replace("acme", "evil")
                    .replace("1130", "1131")
                    .replace("account_id", "account-id");
                let changed = if changed == body { format!("{body} ") } else { changed };
                continue_with(&host, Request::from_parts(head, io::Cursor::new(changed.into_bytes())))
            }
        };
        assert_eq!(forged, 401, "{}", sample.scheme);
        assert!(host.published.borrow().is_empty());
        // Without any signature it is no better.
        let bare = continue_with(
            &host,
            post(&sample.target(), &[], io::Cursor::new(sample.body.as_bytes().to_vec())),
        );
        assert!([400, 401].contains(&bare), "{}: {bare}", sample.scheme);
        assert!(host.published.borrow().is_empty());
    }
}

fn continue_with(host: &FakeHost, request: Request<io::Cursor<Vec<u8>>>) -> u16 {
    receive(host, request).map_or_else(|refusal| refusal.answer().status().as_u16(), |_| 200)
}

/// A host with the settings of one source.
fn host_of(name: &str, settings: &[(&str, &str)]) -> FakeHost {
    let settings = settings
        .iter()
        .map(|(key, value)| (format!("source.{name}.{key}"), (*value).to_owned()));
    FakeHost {
        settings: Ok(settings.collect()),
        ..host()
    }
}

/// What a webhook of Stripe's with this body is answered at a path, and the tenants of what was published.
fn stripe_at(host: &FakeHost, path: &str, body: &str) -> (u16, String, Vec<String>) {
    let (answer, _) = answer(host, signed(&samples::of(Scheme::Stripe), path, body));
    let published = host.published.take().into_iter().map(|event| event.tenant).collect();
    (answer.status().as_u16(), text(&answer).to_owned(), published)
}

#[test]
fn a_path_speaks_for_the_tenants_that_are_listed_and_no_others() {
    let path_alone = [("scheme", "stripe"), ("secret-name", "stripe"), ("tenant", "path")];
    let body = r#"{"id":"evt_1","type":"t","account":"acme"}"#;
    for tenants in [None, Some("*")] {
        let settings: Vec<_> = path_alone
            .into_iter()
            .chain(tenants.map(|list| ("tenants", list)))
            .collect();
        let (status, answer, published) = stripe_at(&host_of("s", &settings), "/webhooks/s/globex", body);
        assert_eq!((status, published.len()), (500, 0));
        assert!(answer.contains("invalid-config:source.s.tenants"), "{answer}");
    }
    let listed = host_of("s", &[&path_alone[..], &[("tenants", "acme,beta")]].concat());
    assert_eq!(stripe_at(&listed, "/webhooks/s/acme", body).2, ["acme"]);
    // Captured, and posted again for another.
    let (status, answer, published) = stripe_at(&listed, "/webhooks/s/globex", body);
    assert_eq!((status, published.len()), (403, 0), "{answer}");
    assert_eq!(stripe_at(&listed, "/webhooks/s/%61cme", body).2, ["acme"]);
    for path in ["/webhooks/s", "/webhooks/s/acme/", "/webhooks/s/*", "/webhooks/s/"] {
        let (status, _, published) = stripe_at(&listed, path, body);
        assert!(
            [403, 404, 503].contains(&status) && published.is_empty(),
            "{path}: {status}"
        );
    }
    // The path where the body says nothing: then it may be there or not, and what is signed comes first.
    let either = host_of(
        "s",
        &[
            ("scheme", "stripe"),
            ("secret-name", "stripe"),
            ("tenant", "pointer:/account || path"),
            ("tenants", "acme,beta"),
        ],
    );
    assert_eq!(stripe_at(&either, "/webhooks/s", body).2, ["acme"]);
    assert_eq!(stripe_at(&either, "/webhooks/s/beta", body).2, ["acme"]);
    assert_eq!(
        stripe_at(&either, "/webhooks/s/beta", r#"{"id":"evt_1","type":"t"}"#).2,
        ["beta"]
    );
    assert_eq!(stripe_at(&either, "/webhooks/s", r#"{"id":"evt_1","type":"t"}"#).0, 503);
}

#[test]
fn what_only_the_settings_keep_from_being_an_event_is_asked_for_again() {
    let host = host_of(
        "s",
        &[
            ("scheme", "stripe"),
            ("secret-name", "stripe"),
            ("tenant", "pointer:/account"),
            ("tenants", "acme"),
        ],
    );
    for (body, code) in [
        (r#"{"id":"evt_1","type":"t"}"#, "no-tenant"),
        (r#"{"id":"evt_1","type":"t","account":"globex"}"#, "tenant-not-allowed"),
        (r#"{"id":"evt_1","account":"acme"}"#, "no-event-type"),
        (r#"{"type":"t","account":"acme"}"#, "no-event-id"),
    ] {
        let (answer, note) = answer(&host, signed(&samples::of(Scheme::Stripe), "/webhooks/s", body));
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers()["retry-after"], "60");
        assert!(text(&answer).contains(code), "{}", text(&answer));
        assert_eq!(note.unwrap().level, Level::Error);
    }
    // What never can be one is not, and neither is what is ambiguous.
    for (body, status) in [
        ("{\"id\":\"a\\nb\",\"type\":\"t\",\"account\":\"acme\"}", 422),
        (r#"{"id":"1","id":"2","type":"t","account":"acme"}"#, 400),
        ("not json", 400),
    ] {
        assert_eq!(stripe_at(&host, "/webhooks/s", body).0, status, "{body}");
    }
}

#[test]
fn a_signed_body_that_is_sent_again_as_something_else_is_the_same_event() {
    let host = host();
    for sample in SAMPLES {
        let published = |content_type: &'static str, query: &str| {
            let mut request = signed(&sample, &format!("{}{query}", sample.target()), sample.body);
            let content_type = http::HeaderValue::from_static(content_type);
            request.headers_mut().insert("content-type", content_type);
            receive(&host, request).unwrap_or_else(|refusal| panic!("{}: {refusal}", sample.scheme));
            host.published.take()
        };
        let expected = published("application/json", "");
        for content_type in [
            "application/x-www-form-urlencoded",
            "text/xml",
            "application/cloudevents+json",
        ] {
            assert_eq!(
                published(content_type, "?tenant=evil&id=2&type=u"),
                expected,
                "{}",
                sample.scheme
            );
        }
    }
}

#[test]
fn a_stale_webhook_is_not_published() {
    for sample in SAMPLES.iter().filter(|sample| sample.scheme.signs_time()) {
        let tolerance = i64::try_from(sample.source(&[]).tolerance.as_secs()).unwrap();
        for now in [NOW + tolerance + 1, NOW - tolerance - 1] {
            let host = FakeHost { now, ..host() };
            let refusal = receive(&host, of(sample.scheme)).unwrap_err();
            assert_eq!(refusal.answer().status(), 401, "{}: {refusal}", sample.scheme);
            assert!(host.published.borrow().is_empty());
        }
    }
}

#[test]
fn what_the_body_says_counts_only_once_it_is_verified() {
    let forged = [("stripe-signature".to_owned(), "t=1,v1=x".to_owned())];
    let refusal = receive(&host(), post("/webhooks/stripe", &forged, &b"not json"[..])).unwrap_err();
    assert_eq!(refusal.answer().status(), 400);
    assert!(text(&refusal.answer()).contains("malformed-header"));
    let refusal = receive(
        &host(),
        signed(&samples::of(Scheme::Stripe), "/webhooks/stripe", "not json"),
    )
    .unwrap_err();
    assert!(text(&refusal.answer()).contains("invalid-body"));
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
    let declared = |length: &str| [("content-length".to_owned(), length.to_owned())];
    let mut sender = Endless(0);
    let refusal = receive(&host(), post("/webhooks/stripe", &declared("1025"), &mut sender));
    assert_eq!(refusal, Err(Refusal::TooLarge { limit: 1024 }));
    assert_eq!(sender.0, 0);
    let refusal = receive(&host(), post("/webhooks/stripe", &declared("1"), &mut sender));
    assert_eq!(refusal, Err(Refusal::TooLarge { limit: 1024 }));
}

fn problem() -> Problem {
    Problem {
        code: "some-code".to_owned(),
        message: "m".to_owned(),
    }
}

#[test]
fn without_receipts_there_is_no_success() {
    let quota = PublishError::QuotaExceeded {
        problem: problem(),
        retry_after_ms: 7_000,
    };
    for (refusal, status, retry_after) in [
        (PublishError::StoreFull(problem()), 503, Some("60")),
        (quota, 429, Some("7")),
        (PublishError::TooLarge(problem()), 413, None),
    ] {
        let host = FakeHost {
            refusal: Some(refusal),
            ..host()
        };
        let answer = receive(&host, of(Scheme::Gocardless)).unwrap_err().answer();
        let after = answer.headers().get("retry-after").map(|value| value.to_str().unwrap());
        assert_eq!((answer.status().as_u16(), after), (status, retry_after));
    }
}

#[test]
fn a_secret_in_the_configuration_is_warned_of_and_not_shown() {
    let stripe = samples::of(Scheme::Stripe);
    let note = |source: &str, now: i64| {
        let host = FakeHost { now, ..host() };
        let (answer, note) = answer(&host, signed(&stripe, &format!("/webhooks/{source}"), stripe.body));
        assert_eq!(answer.status(), 200);
        note
    };
    let full_minute = NOW - 1;
    let warned = note("open", full_minute).unwrap();
    assert_eq!(warned.level, Level::Warning);
    assert!(
        warned.text.contains("source open") && !warned.text.contains("whsec"),
        "{warned:?}"
    );
    assert_eq!(note("open", NOW), None);
    assert_eq!(note("stripe", full_minute), None);
}

#[test]
fn the_log_says_what_the_sender_can_not_write_into_it() {
    let full_ten = NOW - 1;
    let note = |path: &str, now: i64| {
        let host = FakeHost { now, ..host() };
        answer(&host, post(path, &[], &b""[..])).1.unwrap()
    };
    let refused = note("/webhooks/a%0Ab", full_ten);
    assert_eq!((refused.level, refused.text.contains('\n')), (Level::Info, false));
    assert_eq!(note("/webhooks/broken", full_ten).level, Level::Error);
    assert!(
        note(&format!("/webhooks/{}", "a%0A".repeat(2_000)), full_ten)
            .text
            .len()
            < 3_000
    );
    // In nine seconds of ten, what anybody can cause is only for who looks for it.
    for path in ["/webhooks/a%0Ab", "/webhooks/broken", "/webhooks/stripe", "/"] {
        for second in 1..10 {
            assert_eq!(note(path, full_ten + second).level, Level::Debug, "{path}");
        }
    }
    // What a holder of a key sent is written at once.
    let host = host();
    let (_, note) = answer(&host, signed(&samples::of(Scheme::Stripe), "/webhooks/stripe", "{}"));
    assert_eq!(note.unwrap().level, Level::Error);
}

proptest! {
    #[test]
    fn any_changed_bit_of_the_body_is_refused(at in any::<Index>()) {
        let host = host();
        let request = of(Scheme::Stripe);
        let (head, body) = request.into_parts();
        let mut body = body.into_inner();
        let bit = at.index(body.len() * 8);
        body[bit / 8] ^= 1 << (bit % 8);
        let status = continue_with(&host, Request::from_parts(head, io::Cursor::new(body)));
        prop_assert_eq!(status, 401);
        prop_assert!(host.published.into_inner().is_empty());
    }
}
