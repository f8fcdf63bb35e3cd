//! A component that traps, on the stock wasmCloud v2 host: its runner goes down with it and is started again, the event that it
//! trapped at becomes a dead letter after its attempts, and everything else is delivered.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fanout_tests::{BusStatus, SERVED_POLICY, Served, SubscriptionStatus, free_ports, stored};
use fanout_transport::testing::NatsServer;
use fanout_v2::{Cluster, Registry, WashHost, manifest};
use futures::StreamExt as _;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

const TOKEN: &str = "fanout_of-the-traps";
/// A whole workload starts within this, on a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(120);
const COMPONENTS: [&str; 4] = [
    "bench-component",
    "fanout-connector",
    "fanout-runner-batch-handler",
    "fanout-runner-handler",
];

fn variable(name: &str) -> PathBuf {
    std::env::var_os(name)
        .map(PathBuf::from)
        .unwrap_or_else(|| panic!("{name} is not set: run `cargo xtask test`, which finds or builds what it names"))
}

struct World {
    client: async_nats::Client,
    log: PathBuf,
    /// How many events the component told that it handled.
    handled: Arc<AtomicUsize>,
}

impl World {
    async fn status(&self) -> Option<BusStatus> {
        let reply = self
            .client
            .request("fanout.served.payments.status", "".into())
            .await
            .ok()?;
        serde_json::from_slice(&reply.payload).ok()
    }

    async fn when(&self, what: &str, holds: impl Fn(&BusStatus) -> bool) {
        let began = Instant::now();
        loop {
            let status = self.status().await;
            if status.as_ref().is_some_and(&holds) {
                return;
            }
            let said = || std::fs::read_to_string(&self.log).unwrap_or_default();
            assert!(
                began.elapsed() < PATIENCE,
                "still waiting for {what}: {status:#?}\n{}",
                said()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn publish(&self, tenant: &str, id: &str) {
        let mut headers = async_nats::HeaderMap::new();
        let attributes = [
            ("ce-specversion", "1.0"),
            ("ce-id", id),
            ("ce-source", "/traps"),
            ("ce-type", "invoice.paid"),
            ("ce-tenant", tenant),
        ];
        for (name, value) in attributes {
            headers.insert(name, value);
        }
        let js = async_nats::jetstream::new(self.client.clone());
        let subject = format!("payments.{tenant}.webhook.invoice.paid");
        let sent = js.publish_with_headers(subject, headers, "{}".into()).await.unwrap();
        sent.await.unwrap();
    }
}

/// A subscription of the status, if it is as it should be.
fn is(status: &BusStatus, name: &str, holds: impl Fn(&SubscriptionStatus) -> bool) -> bool {
    status.subscription(name).is_some_and(holds)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_at_which_a_handler_traps_is_a_dead_letter_and_everything_else_is_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let nats = NatsServer::start().await;
    let client = nats.client().await;
    let policy = folder.path().join("policy.toml");
    let hash: String = Sha256::digest(TOKEN).iter().map(|byte| format!("{byte:02x}")).collect();
    let caller = format!("\n[callers.traps]\ntoken-sha256 = [\"{hash}\"]\nsubscribe.tenants = \"*\"\n");
    std::fs::write(&policy, format!("{SERVED_POLICY}{caller}")).unwrap();
    let ports = free_ports(2);
    let listen = format!("127.0.0.1:{}", ports[0]);
    let _served = Served::start(&nats.url(), &policy, &["--listen", &format!("http://{listen}")]);
    let registry = Registry::serve(&variable("FANOUT_COMPONENTS"), &COMPONENTS)
        .await
        .unwrap();
    let wash = variable("FANOUT_WASH");
    let host = WashHost::start(&wash, &client, &nats.url(), ports[1], folder.path())
        .await
        .unwrap();
    let bus = BTreeMap::from([
        ("FANOUT_URL".to_owned(), format!("http://{listen}")),
        ("FANOUT_TOKEN".to_owned(), TOKEN.to_owned()),
    ]);
    let cluster = Cluster {
        images: ("ghcr.io/example-org".to_owned(), registry.prefix()),
        hosts: BTreeMap::from([("bus.example.com:7780".to_owned(), listen)]),
        settings: BTreeMap::from([("fanout-bus".to_owned(), bus)]),
    };
    let handled = Arc::new(AtomicUsize::new(0));
    let mut telling = client.subscribe("bench.handled").await.unwrap();
    let counted = Arc::clone(&handled);
    let counting = tokio::spawn(async move {
        while let Some(message) = telling.next().await {
            let told = std::str::from_utf8(&message.payload).ok().and_then(|n| n.parse().ok());
            counted.fetch_add(told.unwrap_or_default(), Ordering::Relaxed);
        }
    });
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("traps.yaml");
    for deployment in manifest::read(&std::fs::read_to_string(manifests).unwrap()).unwrap() {
        let name = deployment.metadata.name.clone();
        cluster.start(&client, host.id(), &name, &deployment).await.unwrap();
    }
    let world = World {
        client: client.clone(),
        log: folder.path().join("host.log"),
        handled,
    };
    world
        .when("both runners to subscribe", |s| {
            is(s, "one", |_| true) && is(s, "many", |_| true)
        })
        .await;

    // One at a time: what is before and behind it is handled, whatever becomes of it.
    for id in ["before", "trap", "behind"] {
        world.publish("one", id).await;
    }
    // The other subscription is not held up: all of its events are handled, the one at a trap among them is not.
    for id in ["before", "trap", "behind", "and-more"] {
        world.publish("many", id).await;
    }
    for name in ["one", "many"] {
        let what = format!("{name}: one dead letter, and nothing left");
        let settled = |s: &SubscriptionStatus| s.dead_letters == Some(1) && s.backlog() == Some(0);
        world.when(&what, |status| is(status, name, settled)).await;
    }
    // At least once: what was in a batch with it may have been handled twice.
    let told = world.handled.load(Ordering::Relaxed);
    assert!(told >= 5, "{told} of 5 were handled");

    let js = async_nats::jetstream::new(client.clone());
    let dead = js.get_stream("fanout_payments_dead").await.unwrap();
    for name in ["one", "many"] {
        let offset = if name == "one" { 2 } else { 5 };
        let letter = stored::dead_letter(&dead, name, name, offset).await;
        let attempts = letter.headers.get("fanout-dead-attempts").unwrap().as_str();
        let attempts: Value = serde_json::from_str(attempts).unwrap();
        let reasons: Vec<_> = attempts
            .as_array()
            .unwrap()
            .iter()
            .map(|a| a["reason"].clone())
            .collect();
        assert_eq!(reasons, ["the handler trapped"; 3], "{name}: each trap is an attempt");
    }

    // Its runner was started again each time, and works.
    let before = world.handled.load(Ordering::Relaxed);
    for name in ["one", "many"] {
        world.publish(name, "afterwards").await;
    }
    let began = Instant::now();
    while world.handled.load(Ordering::Relaxed) < before + 2 {
        assert!(
            began.elapsed() < PATIENCE,
            "nothing is delivered any more: {:?}",
            world.status().await
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    counting.abort();
}
