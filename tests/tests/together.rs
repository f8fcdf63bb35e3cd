//! A webhook of many items, through the ingress as a component: its events are stored together or not at all, whatever
//! only the bus knows of one of them.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use fanout_tests::hosted::Hosted;
use fanout_tests::{ANYONE_HERE, SERVED_POLICY, Served};
use fanout_transport::testing::NatsServer;
use serde_json::Value;
use webhook_signature::Scheme;
use webhook_source::samples;

/// The webhook of two items, as its sender posts it.
fn request(body: &str) -> String {
    let sample = samples::of(Scheme::Gocardless);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let signed = sample.signed(body.as_bytes(), i64::try_from(now).unwrap());
    let mut request = format!(
        "POST {} HTTP/1.0\r\nhost: localhost\r\ncontent-length: {}\r\n",
        sample.target(),
        body.len()
    );
    for (name, value) in sample.all_headers(&signed) {
        write!(request, "{name}: {value}\r\n").unwrap();
    }
    format!("{request}\r\n{body}")
}

async fn stored(nats: &NatsServer) -> u64 {
    let store = async_nats::jetstream::new(nats.client().await);
    let log = store.get_stream("fanout_payments_log").await.unwrap();
    log.cached_info().state.messages
}

#[tokio::test(flavor = "multi_thread")]
async fn one_item_that_the_bus_refuses_keeps_the_others_out() {
    let sample = samples::of(Scheme::Gocardless);
    let nats = NatsServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    let for_one = "\n[tenants]\nallowed = [\"acme\"]\n";
    std::fs::write(&policy, format!("{SERVED_POLICY}{for_one}{ANYONE_HERE}")).unwrap();
    let served = Served::start(&nats.url(), &policy, &["--listen", "tcp://127.0.0.1:0"]);
    let config: Vec<_> = sample
        .source_settings()
        .into_iter()
        .filter(|(key, _)| !key.ends_with(".secret-name"))
        .chain([("source.gocardless.secret".to_owned(), sample.verifies_with.to_owned())])
        .flat_map(|(key, value)| ["--config".to_owned(), format!("{key}={value}")])
        .collect();
    let ingress = Hosted::start("webhook_ingress.wasm", &served.listen[0], &config, folder.path());
    let post = |body: &str| {
        let (status, body) = ingress.http(&request(body)).expect("the ingress answers");
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };

    let (status, refused) = tokio::task::block_in_place(|| post(sample.body));
    assert_eq!(
        (status, refused["code"].as_str()),
        (503, Some("tenant-not-permitted")),
        "a holder of a key signed it, and only the policy keeps it out: {refused}"
    );
    assert_eq!(
        stored(&nats).await,
        0,
        "the bus would have taken the first one by itself"
    );

    let of_one_tenant = sample.body.replace("OR00003XKGXG0K", "OR00003XKGXG0J");
    for duplicate in [false, true] {
        let (status, answer) = tokio::task::block_in_place(|| post(&of_one_tenant));
        assert_eq!(status, 200, "{answer}");
        let receipts = answer["receipts"].as_array().unwrap();
        assert_eq!(receipts.len(), 2);
        assert!(receipts.iter().all(|r| r["duplicate"] == duplicate), "{answer}");
    }
    assert_eq!(stored(&nats).await, 2);
}
