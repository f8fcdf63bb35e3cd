//! What the ingress makes of webhooks from the field, published on a real bus and read again: whatever a sender calls its
//! types and its customers their tenants, it travels as it came.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Cursor;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fanout_client::{Start, Subscription, connect};
use fanout_tests::{ANYONE_HERE, SERVED_POLICY, Served};
use fanout_transport::testing::NatsServer;
use futures::StreamExt as _;
use webhook_ingress::ingress::{self, Host};
use webhook_ingress::publish::{Position, PublishError, Receipt};
use webhook_source::setting::Settings;
use webhook_source::{Event, Secrets, samples};

/// A webhook from the field; the ingress's own test reads the same file.
#[derive(serde::Deserialize)]
struct Case {
    name: String,
    settings: BTreeMap<String, String>,
    path: String,
    now: i64,
    headers: Vec<String>,
    body: String,
    status: u16,
}

/// Takes what the ingress publishes.
struct Taking {
    settings: Settings,
    now: i64,
    taken: RefCell<Vec<Event>>,
}

impl Secrets for Taking {
    fn secret(&self, _: &str) -> Result<Option<String>, String> {
        Ok(None)
    }
}

impl Host for Taking {
    fn settings(&self) -> Result<Settings, String> {
        Ok(self.settings.clone())
    }

    fn now(&self) -> i64 {
        self.now
    }

    fn publish(&self, events: Vec<Event>) -> Result<Vec<Receipt>, PublishError> {
        let receipt = Receipt {
            position: Position {
                partition: 0,
                offset: 1,
            },
            duplicate: false,
            durable_subscriptions: 0,
        };
        let receipts = vec![receipt; events.len()];
        self.taken.borrow_mut().extend(events);
        Ok(receipts)
    }
}

fn made(
    settings: &BTreeMap<String, String>,
    path: &str,
    headers: &[(String, String)],
    body: &[u8],
    now: i64,
) -> Vec<Event> {
    let host = Taking {
        settings: settings.clone().into_iter().collect(),
        now,
        taken: RefCell::default(),
    };
    let request = headers
        .iter()
        .fold(http::Request::post(path), |request, (name, value)| {
            request.header(name, value)
        });
    let (answer, _) = ingress::answer(&host, request.body(Cursor::new(body)).unwrap());
    assert_eq!(
        answer.status(),
        200,
        "{path}: {}",
        String::from_utf8_lossy(answer.body())
    );
    host.taken.into_inner()
}

fn of_the_field() -> Vec<Event> {
    let cases = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../example-components/webhook-ingress/tests/cases.json"
    );
    let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(cases).unwrap()).unwrap();
    let mut events = Vec::new();
    let mut known = std::collections::BTreeSet::new();
    for case in cases.into_iter().filter(|case| case.status == 200) {
        let headers: Vec<_> = case
            .headers
            .iter()
            .filter_map(|header| header.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let body = STANDARD.decode(&case.body).unwrap();
        let of_case = made(&case.settings, &case.path, &headers, &body, case.now);
        // One webhook stands there with several settings.
        for event in &of_case {
            let identity = (event.tenant.clone(), event.source.clone(), event.id.clone());
            assert!(known.insert(identity), "{} twice", case.name);
        }
        events.extend(of_case);
    }
    events
}

/// Names that a subject can't hold as they are, signed as Stripe signs.
fn of_odd_names() -> Vec<Event> {
    const NOW: i64 = 1_767_225_600;
    let sample = samples::of("stripe".parse().unwrap());
    let settings = BTreeMap::from(
        [
            ("scheme", "stripe"),
            ("secret", sample.verifies_with),
            ("tenant", "pointer:/account"),
        ]
        .map(|(key, value)| (format!("source.s.{key}"), value.to_owned())),
    );
    let names = [
        ("shop.example.com", "orders/create"),
        ("eu west", "urn:vendor:thing happened"),
        ("é*>", "*"),
        ("a/b:c", "a.b.c.d.e.f.g.h.i.j"),
        ("100%", "50%.off"),
    ];
    let events = names.iter().enumerate().flat_map(|(index, (tenant, event_type))| {
        let body = format!(r#"{{"id":"evt_{index}","type":"{event_type}","account":"{tenant}"}}"#);
        let signed = sample.signed(body.as_bytes(), NOW);
        let headers = sample.all_headers(&signed);
        made(&settings, "/webhooks/s", &headers, body.as_bytes(), NOW)
    });
    events.collect()
}

fn published(event: Event) -> fanout_client::Event {
    let mut published = fanout_client::Event::new(event.tenant, event.event_type, event.id).source(event.source);
    published.time = event.time;
    published.data_content_type = event.data_content_type.map(str::to_owned);
    published.extensions = event.extensions;
    published.data(event.data)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_ingress_makes_travels_as_it_came() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, format!("{SERVED_POLICY}{ANYONE_HERE}")).unwrap();
    let served = Served::start(&nats.url(), &policy, &["--listen", "tcp://127.0.0.1:0"]);
    let bus = connect(&served.listen[0]).await.unwrap();

    let events: Vec<_> = [of_the_field(), of_odd_names()]
        .concat()
        .into_iter()
        .map(published)
        .collect();
    assert!(events.len() > 10, "{}", events.len());
    for event in &events {
        let receipt = bus
            .publish(event)
            .await
            .unwrap_or_else(|error| panic!("{event:?}: {error}"));
        assert!(!receipt.duplicate, "{event:?}");
        // Its repeat is known.
        assert!(bus.publish(event).await.unwrap().duplicate, "{event:?}");
    }
    let mut log = bus
        .subscribe(Subscription::backfill("reader", Start::First))
        .await
        .unwrap();
    let mut missing = events;
    while !missing.is_empty() {
        let delivery = log.next().await.unwrap().unwrap();
        let came = delivery.event();
        let place = missing.iter().position(|event| {
            let same = |of: fn(&fanout_client::Event) -> &str| of(event) == of(came);
            same(|e| &e.tenant) && same(|e| &e.event_type) && same(|e| &e.source) && same(|e| &e.id)
        });
        let event = missing.swap_remove(place.unwrap_or_else(|| panic!("nobody published {came:?}")));
        assert_eq!((&came.data, came.time), (&event.data, event.time));
        let (mut told, mut expected) = (came.extensions.clone(), event.extensions);
        told.sort();
        expected.sort();
        assert_eq!(told, expected);
        delivery.ack().await.unwrap();
    }
}
