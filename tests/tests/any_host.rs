//! Any host of WASI 0.2: the ingress that wasmCloud runs, composed with what stands for the bus and its host, served by
//! `wasmtime serve`, which knows of neither.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fanout_tests::hosted::signed_stripe_webhook;
use fanout_tests::{SERVED_POLICY, Served, composed, free_ports, http};
use fanout_transport::testing::NatsServer;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const SECRET: &str = "whsec_of_any_host";
const TOKEN: &str = "fanout_of-any-host";
/// Compiling takes most of it, on a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// The host; killed on drop.
struct Wasmtime {
    process: Child,
    address: String,
    log: PathBuf,
}

impl Wasmtime {
    async fn serve(wasmtime: &Path, component: &Path, environment: &[(&str, &str)], folder: &Path) -> Self {
        let address = format!("127.0.0.1:{}", free_ports(1)[0]);
        let log = folder.join("wasmtime.log");
        let mut command = Command::new(wasmtime);
        command.args(["serve", "-S", "cli", "--addr", &address]);
        for (name, value) in environment {
            command.args(["--env", &format!("{name}={value}")]);
        }
        let process = command
            .arg(component)
            // Its cache is the run's own.
            .env("HOME", folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut host = Self { process, address, log };
        let began = Instant::now();
        while TcpStream::connect(&host.address).is_err() {
            let ended = host.process.try_wait().unwrap();
            assert!(
                ended.is_none() && began.elapsed() < PATIENCE,
                "{ended:?}: {}",
                host.said()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        host
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn post(&self, signature: String, body: &str) -> (u16, Value) {
        let headers = [
            ("content-type".to_owned(), "application/json".to_owned()),
            ("stripe-signature".to_owned(), signature),
        ];
        let url = format!("http://{}/webhooks/stripe", self.address);
        let answer = http::post(&url, &headers, body.to_owned()).await;
        let answer = answer.unwrap_or_else(|error| panic!("{error:#}: {}", self.said()));
        let text = answer.text();
        (
            answer.status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }
}

impl Drop for Wasmtime {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn webhook(id: &str) -> String {
    json!({
        "id": id, "object": "event", "type": "invoice.paid",
        "data": { "object": { "id": "in_1", "object": "invoice", "metadata": { "tenant": "acme" } } },
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ingress_composed_to_one_component_publishes_from_wasmtime() {
    let Some(wasmtime) = std::env::var_os("FANOUT_WASMTIME").map(PathBuf::from) else {
        eprintln!("NOT TESTED: there is no wasmtime: put one on the PATH, or name it in FANOUT_WASMTIME");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let built = std::env::var_os("FANOUT_COMPONENTS").map(PathBuf::from);
    let built = built.expect("FANOUT_COMPONENTS is not set: run `cargo xtask test`, which builds what it names");
    let component = folder.path().join("ingress.wasm");
    let plugs = ["fanout_connector", "fanout_v1_interfaces", "fanout_logging"];
    let plugs = plugs.map(|name| built.join(format!("{name}.wasm")));
    composed::plug(&built.join("webhook_ingress.wasm"), &plugs, &component).unwrap();

    let nats = NatsServer::start().await;
    let policy = folder.path().join("policy.toml");
    let hash: String = Sha256::digest(TOKEN).iter().map(|byte| format!("{byte:02x}")).collect();
    let caller = format!("[callers.ingress]\ntoken-sha256 = [\"{hash}\"]\npublish.tenants = \"*\"\n");
    std::fs::write(&policy, format!("{SERVED_POLICY}\n{caller}")).unwrap();
    let listen = format!("http://127.0.0.1:{}", free_ports(1)[0]);
    let mut served = Served::start(&nats.url(), &policy, &["--listen", &listen]);
    let environment = [
        ("FANOUT_URL", listen.as_str()),
        ("FANOUT_TOKEN", TOKEN),
        ("source.stripe.scheme", "stripe"),
        ("source.stripe.secret-name", "stripe"),
        ("source.stripe.tenant", "pointer:/data/object/metadata/tenant"),
        ("secret.stripe", SECRET),
    ];
    let host = Wasmtime::serve(&wasmtime, &component, &environment, folder.path()).await;

    let body = webhook("evt_1");
    let (status, first) = host.post(signed_stripe_webhook(SECRET, &body), &body).await;
    assert_eq!(
        (status, &first["duplicate"]),
        (200, &json!(false)),
        "{first}: {}",
        host.said()
    );
    let (status, again) = host.post(signed_stripe_webhook(SECRET, &body), &body).await;
    assert_eq!((status, &again["duplicate"]), (200, &json!(true)), "{again}");
    assert_eq!(again["position"], first["position"]);

    let forged = signed_stripe_webhook("whsec_of_somebody_else", &body);
    let (status, refused) = host.post(forged, &body).await;
    assert_eq!(status, 401, "{refused}");

    // The bus is away for a moment: the sender does not learn of it.
    served.kill();
    let later = webhook("evt_2");
    let posted = host.post(signed_stripe_webhook(SECRET, &later), &later);
    let served_again = async { Served::start(&nats.url(), &policy, &["--listen", &listen]) };
    let ((status, second), _served) = tokio::join!(posted, served_again);
    assert_eq!(
        (status, &second["duplicate"]),
        (200, &json!(false)),
        "{second}: {}",
        host.said()
    );

    let js = async_nats::jetstream::new(nats.client().await);
    let mut log = js.get_stream("fanout_payments_log").await.unwrap();
    assert_eq!(log.info().await.unwrap().state.messages, 2, "each event is stored once");
    assert!(
        !host.said().contains(SECRET) && !host.said().contains(TOKEN),
        "{}",
        host.said()
    );
}
