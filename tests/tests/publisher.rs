//! Who published an event and by which proof: kept beside the event wherever it goes, told to its operator, given to no subscriber,
//! and made up by nobody.

use std::path::{Path, PathBuf};

use async_nats::HeaderMap;
use async_nats::jetstream::{self, message::StreamMessage};
use fanout_client::{Event, Options, connect_with};
use fanout_tests::http_caller::HttpCaller;
use fanout_tests::types::Rejection;
use fanout_tests::{
    ANYONE_HERE, Bench, Cli, EdgeWorld, LinkTo, SERVED_POLICY, Served, Verdict, event, eventually, fanout,
    ingress_and_invoicing, mutual_tls, publisher,
};
use fanout_transport::CallContext;
use fanout_transport::testing::{NatsServer, TestAuthority};
use serde_json::{Value, json};

const HEADER: &str = "fanout-publisher";
const SUBJECT: &str = "payments.acme.webhook.invoice.paid";
const POLICY: &str = "bus = \"payments\"\nsubject = \"payments.{tenant}.webhook.{event-type}\"\n";

/// What `fanout event` says of acme's event of an id; `None` while there is none.
fn told(cli: &Cli, policy: &Path, id: &str) -> Option<Value> {
    let (code, out, _) = cli.run(&["--json", "event"], policy, &[id, "--tenant", "acme"]);
    (code == 0).then(|| serde_json::from_str(&out).unwrap())
}

fn publisher_of(cli: &Cli, policy: &Path, id: &str) -> Value {
    let told = told(cli, policy, id).unwrap_or_else(|| panic!("{id} is stored"));
    told["events"][0]["publisher"].clone()
}

/// A bench's store for a person.
fn operator(nats: &NatsServer) -> (Cli, PathBuf) {
    let cli = Cli::new(nats.url());
    let policy = cli.policy(POLICY);
    (cli, policy)
}

async fn message(nats: &NatsServer, stream: &str, sequence: u64) -> StreamMessage {
    let store = jetstream::new(nats.client().await);
    let stream = store.get_stream(stream).await.unwrap();
    stream.get_raw_message(sequence).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_way_of_publishing_says_who_it_was() {
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let authority = TestAuthority::new();
    let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(folder.path()).unwrap());
    let (_, made, _) = fanout(&["--json", "token"]);
    let token: Value = serde_json::from_str(&made).unwrap();
    let of = |member: &str| token[member].as_str().unwrap().to_owned();
    let (token, hash) = (of("token"), of("sha256"));
    let cli = Cli::new(nats.url());
    let policy = cli.policy(&format!(
        "{SERVED_POLICY}{ANYONE_HERE}interfaces = [\"publisher\", \"subscriber\", \"inbox\", \"status\"]\n\
         [callers.local]\nunix-uid = {uid}\npublish.tenants = \"acme\"\n\
         [callers.billing]\ncertificate-dns = \"billing.example\"\npublish.tenants = \"acme\"\n\
         [callers.shop]\ntoken-sha256 = [\"{hash}\"]\npublish.tenants = \"acme\"\n"
    ));
    let socket = format!("unix:{}", folder.path().join("bus.sock").display());
    let files = mutual_tls(folder.path(), &authority);
    let listen = ["tcp://127.0.0.1:0", &socket, "tls://127.0.0.1:0", "http://127.0.0.1:0"];
    let mut args: Vec<&str> = listen.iter().flat_map(|url| ["--listen", url]).collect();
    args.extend(files.iter().map(String::as_str));
    let served = Served::start(&nats.url(), &policy, &args);

    let mut with_certificate = Options::default();
    with_certificate.tls = Some(authority.client("billing.example"));
    for (url, options, id) in [
        (served.listen[0].clone(), Options::default(), "over-tcp"),
        (served.listen[1].clone(), Options::default(), "over-unix"),
        (
            served.listen[2].replace("127.0.0.1", "localhost"),
            with_certificate,
            "over-tls",
        ),
    ] {
        let bus = connect_with(&url, options).await.unwrap();
        // What a caller says of itself is an attribute as any other.
        let mut event = Event::new("acme", "invoice.paid", id).data("{}");
        let forged = "by=caller:root proof=loopback tag=AAAA";
        event.extensions.push(("fanoutpublisher".into(), forged.into()));
        bus.publish(&event).await.unwrap();
    }
    let http = HttpCaller::at(&served.listen[3]);
    http.with_token(&token).publish("acme", "over-http").await.good();
    // A header of the caller's own is no header of the event's message.
    let forged = (HEADER, "by=caller:root proof=loopback tag=AAAA");
    let structured = fanout_tests::http_caller::STRUCTURED;
    let body = fanout_tests::http_caller::document("acme", "with-header").to_string();
    http.with_token(&token)
        .ask("POST", "/v1/events", &[structured, forged], body)
        .await
        .good();

    let shop = json!({ "state": "known", "by": "caller:shop", "proof": "token", "name": &hash[..8] });
    for (id, expected) in [
        (
            "over-tcp",
            json!({ "state": "known", "by": "caller:anyone", "proof": "loopback" }),
        ),
        (
            "over-unix",
            json!({ "state": "known", "by": "caller:local", "proof": "unix-user", "name": uid.to_string() }),
        ),
        (
            "over-tls",
            json!({ "state": "known", "by": "caller:billing", "proof": "certificate-dns", "name": "billing.example" }),
        ),
        ("over-http", shop.clone()),
        ("with-header", shop),
    ] {
        assert_eq!(publisher_of(&cli, &policy, id), expected, "{id}");
        let life = http.get(&format!("/v1/life?tenant=acme&id={id}")).await.good();
        assert_eq!(life["events"][0]["publisher"], expected, "{id}: {life}");
        let stored = &life["events"][0]["stored"];
        assert_eq!(
            *stored,
            json!({ "partition": 0, "stream": "fanout_payments_log", "copies": 1, "up_to_date": 1 })
        );
    }
    let (_, out, err) = cli.run(&["event"], &policy, &["over-tls", "--tenant", "acme"]);
    for said in [
        "caller billing, by DNS name billing.example of its certificate",
        "1 of 1 up to date, in stream fanout_payments_log (partition 0)",
    ] {
        assert!(out.contains(said), "{said}: {out}{err}");
    }
    // One event is named, and not two.
    for beside in ["tenant=acme", "id=over-tcp", "source=/x"] {
        let refused = http.get(&format!("/v1/life?position=0/1&{beside}")).await;
        assert_eq!(refused.problem(400), "invalid-request", "{beside}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_wherever_the_event_goes_and_to_no_subscriber() {
    let bench = Bench::start(&[], &ingress_and_invoicing()).await;
    let (ingress, invoicing) = (
        bench.silent_component("ingress").await,
        bench.component("invoicing").await,
    );
    let (cli, policy) = operator(&bench.nats);
    invoicing.judge(|d| match (d.event.id.as_str(), d.attempt) {
        ("poison", 1) => Verdict::Refuse(Rejection::RetryNow("busy".into())),
        ("poison", _) => Verdict::Refuse(Rejection::DeadLetter("no amount".into())),
        _ => Verdict::Handle,
    });
    let due = event("acme", "invoice.paid", "scheduled");
    let within = CallContext::default();
    let scheduled = publisher::publish_tenant_event_at(ingress.bus(), within, &due, 1).await;
    scheduled.unwrap().unwrap();
    ingress.publish(event("acme", "invoice.paid", "poison")).await.unwrap();
    bench
        .subscription_when("invoicing", "it is a dead letter", |s| s.dead_letters == Some(1))
        .await;
    eventually("what is scheduled is handled", async || {
        (invoicing.handled() == ["scheduled"]).then_some(())
    })
    .await;
    invoicing.seen(|s| {
        for delivery in &s.deliveries {
            assert!(delivery.event.extensions.is_empty(), "{delivery:?}");
        }
    });

    let by_the_ingress = json!({ "state": "known", "by": "ingress", "link": "default", "proof": "lattice" });
    assert_eq!(publisher_of(&cli, &policy, "scheduled"), by_the_ingress);
    assert_eq!(publisher_of(&cli, &policy, "poison"), by_the_ingress);

    // The log lets it go, and its letter tells; so does the one that takes its place.
    let store = jetstream::new(bench.client().clone());
    let log = store.get_stream("fanout_payments_log").await.unwrap();
    log.purge().await.unwrap();
    let letter = |number: u64| {
        let told = told(&cli, &policy, "poison")?;
        let letter = told["letters_of_events_that_expired"][0].clone();
        (letter["number"] != number).then_some(letter)
    };
    let first = letter(0).unwrap();
    assert_eq!(first["publisher"], by_the_ingress, "{first}");
    assert!(first["redrive_requested_at"].is_null(), "{first}");
    // While it waits for that, it says so.
    assert_eq!(cli.run(&["pause"], &policy, &["invoicing"]).0, 0);
    bench
        .subscription_when("invoicing", "it is paused", |s| {
            s.state == fanout_tests::State::Paused && s.this_instance.is_none()
        })
        .await;
    assert_eq!(cli.run(&["dead-letters", "redrive"], &policy, &["--all"]).0, 0);
    let asked = letter(0).unwrap();
    assert!(asked["redrive_requested_at"].is_string(), "{asked}");
    let (_, out, _) = cli.run(&["event"], &policy, &["poison", "--tenant", "acme"]);
    assert!(
        out.contains("asked for at") && out.contains("component ingress through link default"),
        "{out}"
    );
    assert_eq!(cli.run(&["resume"], &policy, &["invoicing"]).0, 0);
    let number = first["number"].as_u64().unwrap();
    let second = eventually("it is refused again", async || letter(number)).await;
    assert_eq!(second["publisher"], by_the_ingress, "{second}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_client_writes_is_not_believed() {
    let bench = Bench::start(&[], &[LinkTo::caller("ingress", &["publisher"], "*")]).await;
    let ingress = bench.silent_component("ingress").await;
    let (cli, policy) = operator(&bench.nats);
    ingress.publish(event("acme", "invoice.paid", "genuine")).await.unwrap();
    let genuine = message(&bench.nats, "fanout_payments_log", 1).await;
    let stated = genuine
        .headers
        .get(HEADER)
        .expect("it is beside it")
        .as_str()
        .to_owned();
    assert!(stated.len() < 100, "it is small: {stated}");

    let js = jetstream::new(bench.client().clone());
    let write = async |id: &str, payload: &str, publisher: Option<&str>| {
        let mut headers = HeaderMap::new();
        for name in ["ce-specversion", "ce-source", "ce-type", "ce-tenant"] {
            headers.insert(name, genuine.headers.get(name).unwrap().clone());
        }
        headers.insert("ce-id", id);
        if let Some(publisher) = publisher {
            headers.insert(HEADER, publisher);
        }
        let sent = js
            .publish_with_headers(SUBJECT, headers, payload.to_owned().into())
            .await;
        sent.unwrap().await.unwrap();
    };
    let payload = String::from_utf8(genuine.payload.to_vec()).unwrap();
    let (line, sealed) = stated.split_once(" key=").unwrap();
    let (key, _) = sealed.split_once(" tag=").unwrap();
    let invented = format!("{line} key={key} tag=AAAAAAAAAAAAAAAAAAAAAA");
    let with_another_key = format!("{line} key=AAAAAAAA tag=AAAAAAAAAAAAAAAAAAAAAA");
    let another = format!("by=caller:root proof=loopback key={sealed}");
    write("silent", &payload, None).await;
    write("invented", &payload, Some(&invented)).await;
    write("earlier", &payload, Some(&with_another_key)).await;
    write("copied", &payload, Some(&stated)).await;
    write("nonsense", &payload, Some("me")).await;
    // The same event, but for what it says.
    let mut altered = genuine.headers.clone();
    altered.insert("Nats-Msg-Id", "another");
    for (name, value) in [("ce-subject", "in_2"), (HEADER, another.as_str())] {
        let mut headers = altered.clone();
        headers.insert(name, value);
        headers.insert("Nats-Msg-Id", name);
        let sent = js.publish_with_headers(SUBJECT, headers, genuine.payload.clone()).await;
        sent.unwrap().await.unwrap();
    }
    // Whoever repeats an event word by word repeats who published it, too: it is the very event.
    let mut repeated = genuine.headers.clone();
    repeated.insert("Nats-Msg-Id", "repeated");
    let sent = js
        .publish_with_headers(SUBJECT, repeated, genuine.payload.clone())
        .await;
    sent.unwrap().await.unwrap();
    let sent = js
        .publish_with_headers(SUBJECT, altered, format!("{payload} ").into())
        .await;
    sent.unwrap().await.unwrap();

    for (id, state) in [
        ("silent", "unknown"),
        ("nonsense", "unknown"),
        ("invented", "not-believed"),
        ("copied", "not-believed"),
    ] {
        assert_eq!(publisher_of(&cli, &policy, id), json!({ "state": state }), "{id}");
    }
    let all = told(&cli, &policy, "genuine").unwrap();
    let states: Vec<_> = all["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["publisher"]["state"].clone())
        .collect();
    assert_eq!(
        states,
        ["known", "not-believed", "not-believed", "known", "not-believed"],
        "{all}"
    );
    let (_, out, _) = cli.run(&["event"], &policy, &["copied", "--tenant", "acme"]);
    assert!(
        out.contains("unknown: what stands beside the event is not this bus's word"),
        "{out}"
    );
    let (_, out, _) = cli.run(&["event"], &policy, &["silent", "--tenant", "acme"]);
    assert!(out.contains("unknown: another client of NATS put it there"), "{out}");

    // What an earlier secret tagged, before the registry was made again, is no lie.
    assert_eq!(publisher_of(&cli, &policy, "earlier")["state"], "unverified");
    // Without the secret nothing is proved, and nothing is denied.
    js.get_key_value("fanout_payments_registry")
        .await
        .unwrap()
        .purge("inbox.secret")
        .await
        .unwrap();
    assert_eq!(publisher_of(&cli, &policy, "invented")["state"], "unverified");
}

/// An edge calls for all of its components: the bus knows the edge, and the event's source says which component of it published.
#[tokio::test(flavor = "multi_thread")]
async fn of_an_edge_it_is_the_edge() {
    let world = EdgeWorld::new(&[LinkTo::caller("ingress", &["publisher"], "acme")]).await;
    let ingress = world.edge.silent_component("ingress").await;
    let mut sent = event("acme", "invoice.paid", "evt_1");
    sent.source = String::new();
    eventually("the edge reaches its bus", async || {
        ingress.publish(sent.clone()).await.ok()
    })
    .await;
    let (cli, policy) = operator(&world.hub_nats);
    let told = told(&cli, &policy, "evt_1").unwrap();
    let event = &told["events"][0];
    assert_eq!(
        event["publisher"],
        json!({ "state": "known", "by": "caller:anyone", "proof": "loopback" })
    );
    assert_eq!(event["attributes"]["ce-source"], "urn:fanout:edge:ingress");
}
