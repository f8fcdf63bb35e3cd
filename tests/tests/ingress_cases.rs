//! What the ingress makes of webhooks from the field, published on a real bus and read again: whatever a sender calls its
//! types and its customers their tenants, it travels as it came.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Cursor, Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fanout_client::{Start, Subscription, connect};
use fanout_tests::{ANYONE_HERE, SERVED_POLICY, Served, beside_the_tests, blocks};
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
    fn secret(&self, name: &str) -> Result<Option<String>, String> {
        let of = samples::SAMPLES.iter().find(|sample| sample.name() == name);
        Ok(of.map(|sample| sample.verifies_with.to_owned()))
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

/// Takes one request in, answers it as the ingress of every sample's source does, and gives what it published.
fn answer_as_the_ingress(listener: &TcpListener) -> Vec<Event> {
    let (stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let path = head[0].split(' ').nth(1).unwrap().to_owned();
    let headers: Vec<_> = head[1..].iter().filter_map(|line| line.split_once(": ")).collect();
    let length = headers
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let mut body = vec![0; length.unwrap().1.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let host = Taking {
        settings: samples::SAMPLES.iter().flat_map(|s| s.source_settings()).collect(),
        now: i64::try_from(since.unwrap().as_secs()).unwrap(),
        taken: RefCell::default(),
    };
    let request = headers
        .iter()
        .fold(http::Request::post(&path), |request, (name, value)| {
            request.header(*name, *value)
        });
    let (answer, _) = ingress::answer(&host, request.body(Cursor::new(&body[..])).unwrap());
    let (status, text) = (answer.status(), answer.body());
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", text.len());
    let mut stream = reader.into_inner();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(text).unwrap();
    host.taken.into_inner()
}

/// What the page shows below its first send.
fn shown_answer(text: &str) -> String {
    let lines = text.lines().skip_while(|line| *line != "200 OK").take(2);
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn the_page_sends_a_webhook_of_each_scheme() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ingress.md");
    let page = std::fs::read_to_string(page).unwrap();
    let shown = blocks(&page)
        .into_iter()
        .filter(|block| block.heading == "## A webhook of each scheme, end to end");
    let text: String = shown.map(|block| block.text).collect();
    let folder = tempfile::tempdir().unwrap();
    for sample in samples::SAMPLES {
        let file = |kind: &str| folder.path().join(format!("{}.{kind}", sample.name()));
        std::fs::write(file("secret"), sample.signs_with).unwrap();
        std::fs::write(file("body"), sample.body).unwrap();
        if let Some((_, root)) = sample.settings.iter().find(|(key, _)| *key == "root") {
            std::fs::write(folder.path().join("root.pem"), root).unwrap();
        }
    }
    let fanout = beside_the_tests("fanout");
    let path = std::env::join_paths([fanout.parent().unwrap(), "/usr/bin".as_ref(), "/bin".as_ref()]).unwrap();
    let text = text.replace("\\\n", "");
    let sends = text
        .lines()
        .filter_map(|line| line.strip_prefix("$ ").filter(|line| line.contains("webhook send")));
    let mut sent = Vec::new();
    for command in sends {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let served = std::thread::spawn(move || answer_as_the_ingress(&listener));
        let output = Command::new("sh")
            .args(["-c", &command.replace("127.0.0.1:8080", &address)])
            .current_dir(folder.path())
            .env("PATH", &path)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {said}{errors}");
        assert!(said.starts_with("200 OK\n"), "{command}: {said}");
        if sent.is_empty() {
            assert_eq!(said, shown_answer(&text), "the first is shown with its answer");
        }
        let scheme = command
            .split(' ')
            .skip_while(|word| *word != "--scheme")
            .nth(1)
            .unwrap();
        let wanted = samples::of(scheme.parse().unwrap()).events;
        let events = served.join().unwrap();
        let published: Vec<_> = events
            .iter()
            .map(|e| (e.tenant.as_str(), e.event_type.as_str()))
            .collect();
        let wanted: Vec<_> = wanted
            .iter()
            .map(|(tenant, event_type, _)| (*tenant, *event_type))
            .collect();
        assert_eq!(published, wanted, "{command}");
        sent.push(scheme.to_owned());
    }
    let schemes: Vec<_> = samples::SAMPLES.iter().map(|s| s.name()).collect();
    assert_eq!(sent, schemes, "each once, in the order of the schemes");
}
