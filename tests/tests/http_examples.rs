//! The consumers of `docs/examples`, in Python and in TypeScript, as a reader would run them.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use fanout_tests::http_bus::{HttpBus, STRUCTURED, document};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

/// A consumer; ended on drop.
struct Consumer {
    process: Child,
    printed: mpsc::Receiver<String>,
}

impl Consumer {
    fn start(program: &str, file: &str, bus: &HttpBus) -> Self {
        let example = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("../docs/examples")
            .join(file);
        let started = Command::new(program)
            .arg(example)
            .env("BUS", bus.url(""))
            .env_remove("BUS_TOKEN")
            .env_remove("NODE_OPTIONS")
            .stdout(Stdio::piped())
            .spawn();
        let mut process = started.unwrap_or_else(|e| panic!("{program} can't be run: {e}"));
        let (lines, printed) = mpsc::channel();
        let output = process.stdout.take().expect("its output is ours");
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                lines.send(line).ok();
            }
        });
        Self { process, printed }
    }

    fn next(&self) -> String {
        self.printed.recv_timeout(LIMIT).expect("it prints a line in time")
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn invoice(tenant: &str, id: &str, amount: u32) -> String {
    let mut event = document(tenant, id);
    event["data"] = json!({ "amount": amount });
    event.to_string()
}

async fn check(program: &str, file: &str) {
    let mut bus = HttpBus::start("").await;
    let consumer = Consumer::start(program, file, &bus);
    fanout_tests::eventually("it subscribes", async || {
        (bus.get("/v1/subscriptions/billing").await.status == 200).then_some(())
    })
    .await;
    let publish = async |bus: &HttpBus, body: String| bus.ask("POST", "/v1/events", &[STRUCTURED], body).await.status;
    assert_eq!(publish(&bus, invoice("acme", "evt_1", 1200)).await, 200);
    assert_eq!(consumer.next(), "acme owes 1200");
    // What it can't handle is a dead letter, and holds up nothing.
    let mut without = document("acme", "evt_2");
    without["data"] = json!({});
    assert_eq!(publish(&bus, without.to_string()).await, 200);
    assert_eq!(publish(&bus, invoice("globex", "evt_3", 7)).await, 200);
    assert_eq!(consumer.next(), "globex owes 7");
    // It waits while the bus can do nothing, and goes on.
    bus.nats.kill();
    bus.nats.restart().await;
    fanout_tests::eventually("the bus is back", async || {
        (publish(&bus, invoice("acme", "evt_4", 5)).await == 200).then_some(())
    })
    .await;
    while consumer.next() != "acme owes 5" {}
    fanout_tests::eventually("everything is settled", async || {
        let one = bus.get("/v1/subscriptions/billing").await;
        let one = (one.status == 200).then(|| one.value())?;
        (one["pending"] == 0 && one["in_flight"] == 0).then_some(())
    })
    .await;
    let letters = bus.cli.run(&["--json", "dead-letters", "list"], &bus.policy, &[]);
    assert!(letters.1.contains("evt_2"), "{letters:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_in_python_handles_every_invoice() {
    check("python3", "consumer.py").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_in_typescript_handles_every_invoice() {
    let node = std::env::var("FANOUT_NODE").expect(
        "FANOUT_NODE names Node 22.18 or newer, which runs TypeScript as it is: `cargo xtask test` finds or installs one",
    );
    check(&node, "consumer.ts").await;
}

#[test]
fn a_consumer_is_as_short_as_the_page_says() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    for file in ["consumer.py", "consumer.ts"] {
        let lines = std::fs::read_to_string(folder.join(file))
            .expect("it is there")
            .lines()
            .count();
        assert!(lines <= 55, "{file} has {lines} lines");
    }
}
