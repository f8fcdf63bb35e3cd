//! The component files of wasmCloud v1 on the stock v2 host: the manifests of `deploy/wasmcloud-v2`, the bus as `fanout serve`.
//!
//! One story in little, since a host takes its time to compile: webhooks come in, what they lead to is written once by invoicing and
//! entitlements; the bus is killed in mid-flight; analytics comes late; what can't be handled becomes a dead letter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use fanout_tests::hosted::signed_stripe_webhook;
use fanout_tests::{SERVED_POLICY, Served, beside_the_tests, free_ports};
use fanout_transport::testing::NatsServer;
use fanout_v2::{Application, COMPONENTS, INGRESS, Registry, Running, WashHost};
use futures::future::try_join_all;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;

const SECRET: &str = "whsec_of_the_v2_test";
const AMOUNT: i64 = 1_900;
/// A whole workload starts within this, on a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(120);

fn variable(name: &str) -> PathBuf {
    std::env::var_os(name)
        .map(PathBuf::from)
        .unwrap_or_else(|| panic!("{name} is not set: run `cargo xtask test`, which finds or builds what it names"))
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

async fn eventually<T, F: Future<Output = Result<T, String>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let began = Instant::now();
    loop {
        match look().await {
            Ok(value) => return value,
            Err(why) => assert!(began.elapsed() < PATIENCE, "still waiting for {what}: {why}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The world of one test.
struct World {
    application: Application,
    policy: PathBuf,
    listen: String,
    served: Option<Served>,
    nats: NatsServer,
    client: async_nats::Client,
    host: WashHost,
    registry: Registry,
    http: Client,
    folder: tempfile::TempDir,
}

impl World {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let nats = NatsServer::start().await;
        let client = nats.client().await;
        let manifests = repository().join("deploy/wasmcloud-v2/payments.yaml");
        let mut application = Application::read(&manifests, &beside_the_tests("fanout"), SECRET).unwrap();
        let policy = folder.path().join("policy.toml");
        // A delivery is with one runner for as long as a slow machine takes.
        let settings = SERVED_POLICY.replace("ack-wait = \"2s\"", "ack-wait = \"6s\"");
        std::fs::write(&policy, format!("{settings}{}", application.callers())).unwrap();
        let ports = free_ports(2);
        let listen = format!("http://127.0.0.1:{}", ports[0]);
        let served = Served::start(&nats.url(), &policy, &["--listen", &listen]);
        let names: Vec<_> = COMPONENTS.into_iter().chain([INGRESS]).collect();
        let registry = Registry::serve(&variable("FANOUT_COMPONENTS"), &names).await.unwrap();
        application.place(&listen, &registry).unwrap();
        let host = WashHost::start(&variable("FANOUT_WASH"), &client, &nats.url(), ports[1], folder.path()).await;
        Self {
            host: host.unwrap(),
            application,
            policy,
            listen,
            served: Some(served),
            nats,
            client,
            registry,
            http: Client::builder()
                .no_proxy()
                .timeout(Duration::from_secs(30))
                .build()
                .unwrap(),
            folder,
        }
    }

    async fn deploy(&self, name: &str, id: &str) -> Running {
        let deployment = self.application.deployment(name).unwrap();
        let cluster = self.application.cluster();
        cluster
            .start(&self.client, self.host.id(), id, deployment)
            .await
            .unwrap()
    }

    async fn ask(&self, name: &str, method: Method, path: &str, body: Option<Value>) -> Result<(u16, Value), String> {
        let url = format!("http://127.0.0.1:{}{path}", self.host.http());
        let mut request = self
            .http
            .request(method, url)
            .header("host", self.application.host(name).unwrap());
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.map_err(|error| format!("{error:?}"))?;
        let status = answer.status().as_u16();
        let text = answer.text().await.map_err(|error| format!("{error:?}"))?;
        let read = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok((status, read))
    }

    async fn read(&self, name: &str, path: &str) -> Result<Value, String> {
        match self.ask(name, Method::GET, path, None).await? {
            (200, answer) => Ok(answer),
            other => Err(format!("{other:?}")),
        }
    }

    /// Posts a webhook until it is taken, as its sender would.
    async fn post(&self, body: &str) -> Value {
        let url = format!("http://127.0.0.1:{}/webhooks/stripe", self.host.http());
        let host = self.application.host(INGRESS).unwrap();
        eventually("a webhook to be taken", || async {
            let request = self
                .http
                .post(&url)
                .header("host", host)
                .header("content-type", "application/json");
            let request = request.header("stripe-signature", signed_stripe_webhook(SECRET, body));
            let answer = request
                .body(body.to_owned())
                .send()
                .await
                .map_err(|error| error.to_string())?;
            let (status, text) = (answer.status(), answer.text().await.unwrap_or_default());
            match status.as_u16() {
                200 => Ok(serde_json::from_str(&text).unwrap()),
                _ => Err(format!("{status} {text}")),
            }
        })
        .await
    }

    async fn lines(&self, expected: u64) {
        eventually("invoicing to write its lines", || async {
            let totals = self.read("invoicing", "/invoices/acme").await?;
            let total = &totals["tenants"]["acme"];
            match (total["lines"].as_u64(), total["amounts"]["eur"].as_i64()) {
                (Some(lines), Some(sum)) if lines == expected && sum == AMOUNT * i64::try_from(lines).unwrap() => {
                    Ok(())
                }
                other => Err(format!("{other:?} of {expected}")),
            }
        })
        .await;
    }
}

fn invoice(id: &str) -> String {
    let object = json!({
        "id": format!("in_{id}"), "object": "invoice", "customer": "cus_1", "currency": "eur", "amount_paid": AMOUNT,
        "metadata": { "tenant": "acme" },
    });
    json!({ "id": id, "object": "event", "type": "invoice.paid", "created": 1_760_000_000, "data": { "object": object } })
        .to_string()
}

fn subscription(id: &str) -> String {
    let object = json!({
        "id": "sub_1", "object": "subscription", "customer": "cus_1", "status": "active", "metadata": { "tenant": "acme" },
        "items": { "data": [{ "price": { "lookup_key": "pro" }, "quantity": 1 }] },
    });
    let event = "customer.subscription.updated";
    json!({ "id": id, "object": "event", "type": event, "created": 1_760_000_000, "data": { "object": object } })
        .to_string()
}

#[test]
fn the_manifests_are_legal_and_every_image_is_a_component_that_is_built() {
    let text = std::fs::read_to_string(repository().join("deploy/wasmcloud-v2/payments.yaml")).unwrap();
    let deployments = fanout_v2::manifest::read(&text).unwrap();
    let names: Vec<_> = deployments
        .iter()
        .map(|deployment| deployment.metadata.name.as_str())
        .collect();
    assert_eq!(names, [INGRESS, "entitlements", "invoicing", "analytics"]);
    let built: Vec<_> = COMPONENTS.into_iter().chain([INGRESS]).collect();
    let version = env!("CARGO_PKG_VERSION");
    for deployment in &deployments {
        let spec = &deployment.spec.template.spec;
        for part in spec.components.iter().chain(&spec.service) {
            let named = part
                .image
                .strip_prefix("ghcr.io/example-org/")
                .and_then(|image| image.split_once(':'));
            let (name, tag) = named.unwrap_or_else(|| panic!("{} is no image of ours", part.image));
            assert!(built.contains(&name) && tag == version, "{} is not built", part.image);
        }
        let serves = spec
            .host_interfaces
            .iter()
            .any(|interface| interface.config.contains_key("host"));
        assert!(serves, "{} answers to no host name", deployment.metadata.name);
    }
}

/// Two hosts that compile at once take more than twice as long.
static ONE_HOST: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_on_the_stock_v2_host_proves_what_it_says() {
    let _one = ONE_HOST.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let report = folder.path().join("report.json");
    let output = Command::new(beside_the_tests("fanout-v2"))
        .args(["demo", "--events", "200", "--report"])
        .arg(&report)
        .env("FANOUT_BIN", beside_the_tests("fanout"))
        .env(
            "FANOUT_V2_MANIFEST",
            repository().join("deploy/wasmcloud-v2/payments.yaml"),
        )
        .env("FANOUT_LOGS", folder.path())
        .output()
        .expect("the demo runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("PROVED by "), "{said}");
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!((report["events"].as_u64(), &report["off"]), (Some(200), &json!([])));
    let checks = report["checks"].as_array().map_or(0, Vec::len);
    assert!(checks > 50, "{checks} checks");
}

#[tokio::test(flavor = "multi_thread")]
async fn components_of_v1_do_their_work_on_the_stock_v2_host() {
    let _one = ONE_HOST.lock().await;
    let mut world = World::start().await;
    let began = Instant::now();
    let deployed = try_join_all([INGRESS, "entitlements", "invoicing"].map(async |name| {
        world.deploy(name, &format!("{name}-1")).await;
        eprintln!("{name} runs after {:?}", began.elapsed());
        Ok::<_, ()>(())
    }));
    deployed.await.unwrap();
    // A subscription is given what is published once it is made.
    eventually("the runners' subscriptions", || async {
        let status = world.served.as_ref().map(|_| ()).ok_or("no bus".to_owned());
        status?;
        let answer = world.client.request("fanout.served.payments.status", "".into()).await;
        let status: Value = serde_json::from_slice(&answer.map_err(|e| e.to_string())?.payload).unwrap();
        let names: Vec<_> = status["subscriptions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["name"].clone())
            .collect();
        (names.len() == 2).then_some(()).ok_or(format!("{names:?}"))
    })
    .await;

    let forged = invoice("evt_forged").replace("1900", "9900");
    let unsigned = world
        .ask(INGRESS, Method::POST, "/webhooks/stripe", Some(Value::String(forged)))
        .await
        .unwrap();
    assert_eq!(unsigned.0, 401, "{unsigned:?}");

    let first = world.post(&invoice("evt_0")).await;
    assert_eq!(first["duplicate"], false, "{first}");
    let again = world.post(&invoice("evt_0")).await;
    assert_eq!(
        (&again["duplicate"], &again["position"]),
        (&json!(true), &first["position"])
    );
    world.post(&subscription("evt_s")).await;
    for i in 1..20 {
        world.post(&invoice(&format!("evt_{i}"))).await;
    }
    world.lines(20).await;
    eventually("entitlements to be given its event", || async {
        let entitlement = world.read("entitlements", "/entitlements/acme/cus_1").await?;
        (entitlement["event_id"] == "evt_s")
            .then_some(())
            .ok_or(entitlement.to_string())
    })
    .await;
    eprintln!("handled after {:?}", began.elapsed());

    // The bus is killed while webhooks are under way; senders try again, nothing that was taken is lost or written twice.
    let webhooks: Vec<_> = (20..40).map(|i| invoice(&format!("evt_{i}"))).collect();
    let mut served = world.served.take().unwrap();
    let posting = try_join_all(webhooks.iter().map(async |body| {
        world.post(body).await;
        Ok::<_, ()>(())
    }));
    let killing = async {
        world.post(&invoice("evt_40")).await;
        served.kill();
        Served::start(&world.nats.url(), &world.policy, &["--listen", &world.listen])
    };
    let (posted, served) = tokio::join!(posting, killing);
    posted.unwrap();
    world.served = Some(served);
    world.lines(41).await;
    eprintln!("handled through a kill after {:?}", began.elapsed());

    // Analytics comes late and asks for everything by a call; the runner beside it delivers what it asked for.
    world.deploy("analytics", "analytics-1").await;
    let asked = json!({ "name": "late", "from": "first", "tenants": [], "event_types": [] });
    eventually("analytics to subscribe", || async {
        match world
            .ask("analytics", Method::POST, "/backfills", Some(asked.clone()))
            .await?
        {
            (201, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    eventually("analytics to be told that it caught up", || async {
        let report = world.read("analytics", "/reports/late").await?;
        match (report["caught_up"]["replayed"].as_u64(), report["replayed"].as_u64()) {
            (Some(42), Some(42)) => Ok(()),
            _ => Err(report.to_string()),
        }
    })
    .await;

    // What no attempt helps is a dead letter, and others go on.
    let broken = invoice("evt_poison").replace("\"amount_paid\":1900,", "");
    world.post(&broken).await;
    world.post(&invoice("evt_41")).await;
    world.lines(42).await;
    eventually("the dead letter", || async {
        let answer = world.client.request("fanout.served.payments.status", "".into()).await;
        let status: Value = serde_json::from_slice(&answer.map_err(|e| e.to_string())?.payload).unwrap();
        let found = status["subscriptions"]
            .as_array()
            .unwrap()
            .iter()
            .find(|s| s["name"] == "invoicing")
            .cloned();
        let found = found.unwrap_or_default();
        (found["dead_letters"] == 1).then_some(()).ok_or(found.to_string())
    })
    .await;
    eprintln!("all of it after {:?}", began.elapsed());
    the_files_are_those_of_v1(&world.registry);
    drop(world.folder);
}

/// What the v2 host pulled is, byte for byte, what `wadm/local.yaml` has a v1 host load.
fn the_files_are_those_of_v1(registry: &Registry) {
    let manifest = std::fs::read_to_string(repository().join("wadm/local.yaml")).unwrap();
    let files = manifest
        .lines()
        .filter_map(|line| line.trim().strip_prefix("image: file://@PARTS@/"));
    let deployed: BTreeMap<_, _> = files
        .filter_map(|file| file.strip_suffix(".wasm"))
        .map(|name| {
            let file = variable("FANOUT_COMPONENTS").join(format!("{name}.wasm"));
            let digest: String = Sha256::digest(std::fs::read(file).unwrap())
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect();
            (name.replace('_', "-"), format!("sha256:{digest}"))
        })
        .collect();
    assert_eq!(deployed.len(), 4, "{deployed:?}");
    for (name, digest) in deployed {
        assert_eq!(registry.digests().get(&name), Some(&digest), "{name}");
    }
}
