//! What a caller is told: of its own subscriptions, and of nobody else's.

use fanout_tests::eventually;
use fanout_tests::http_bus::HttpBus;
use serde_json::json;
use sha2::{Digest as _, Sha256};

const LOW: &str = "fanout_low";
const PAYROLL: &str = "fanout_payroll";
const PROMETHEUS: &str = "fanout_prometheus";

fn callers() -> String {
    let hash = |token: &str| -> String { Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect() };
    let (low, payroll, prometheus) = (hash(LOW), hash(PAYROLL), hash(PROMETHEUS));
    format!(
        "\n[callers.low]\ntoken-sha256 = [\"{low}\"]\npublish.tenants = \"acme\"\nsubscribe.tenants = \"acme\"\n\
         subscribe.event-types = [\"invoice.*\"]\n\
         [callers.payroll]\ntoken-sha256 = [\"{payroll}\"]\nsubscribe.tenants = \"*\"\n\
         [callers.prometheus]\ntoken-sha256 = [\"{prometheus}\"]\nmetrics = true\n\
         [journal]\ndeliveries = \"all\"\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_told_of_an_event_at_its_own_subscriptions_alone() {
    let bus = HttpBus::start(&callers()).await;
    let (low, payroll) = (bus.with_token(LOW), bus.with_token(PAYROLL));
    let made = |name: &str, tenant: &str| {
        let wanted = json!({ "need": "durable", "filter": { "tenants": [tenant] } });
        (format!("/v1/subscriptions/{name}"), wanted)
    };
    let (path, wanted) = made("globex-payroll", "globex");
    payroll.json("PUT", &path, wanted).await.good();
    for name in ["secret-audit", "secret-ended"] {
        let (path, wanted) = made(name, "acme");
        payroll.json("PUT", &path, wanted).await.good();
    }
    let (path, wanted) = made("quokka", "acme");
    low.json("PUT", &path, wanted).await.good();
    low.publish("acme", "evt_1").await.good();
    for name in ["secret-audit", "secret-ended"] {
        let fetch = json!({ "wait_ms": 5_000 });
        let fetched = payroll
            .json("POST", &format!("/v1/subscriptions/{name}:fetch"), fetch)
            .await
            .good();
        let refused =
            json!({ "token": fetched["deliveries"][0]["token"], "verdict": "dead-letter", "reason": "of payroll's" });
        payroll
            .json("POST", "/v1/settlements", json!({ "settlements": [refused] }))
            .await
            .good();
    }
    let own = payroll.get("/v1/life?position=0/1").await.good().to_string();
    assert!(own.contains("of payroll's") && !own.contains("quokka"), "{own}");
    let ended = payroll.ask("DELETE", "/v1/subscriptions/secret-ended", &[], "").await;
    assert_eq!(ended.status, 204);
    // The operator's command tells all of it, once the journal has it.
    eventually("the journal has the delivery to what has ended", async || {
        let (_, out, _) = bus
            .cli
            .run(&["--json", "event"], &bus.policy, &["evt_1", "--tenant", "acme"]);
        let all = ["quokka", "secret-audit", "secret-ended", "globex-payroll"];
        all.iter().all(|name| out.contains(name)).then_some(())
    })
    .await;
    for asked in ["position=0/1", "tenant=acme&id=evt_1"] {
        let life = low.get(&format!("/v1/life?{asked}")).await.good();
        let here: Vec<_> = life["events"][0]["subscriptions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["name"].as_str().unwrap())
            .collect();
        assert!(here.len() == 1 && here[0].starts_with("quokka"), "{here:?}");
        let text = life.to_string();
        for other in ["payroll", "secret", "globex"] {
            assert!(!text.contains(other), "{other} is another's: {text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_are_for_whom_the_policy_grants_them_to() {
    let bus = HttpBus::start(&callers()).await;
    let wanted = json!({ "need": "durable" });
    bus.with_token(PAYROLL)
        .json("PUT", "/v1/subscriptions/globex-payroll", wanted)
        .await
        .good();
    for other in [LOW, PAYROLL] {
        let refused = bus.with_token(other).get("/metrics").await;
        assert_eq!(refused.problem(403), "interface-not-linked");
        assert!(
            refused.text.contains("metrics") && !refused.text.contains("globex"),
            "{refused:?}"
        );
        assert_eq!(
            bus.with_token(other).get("/v1/status").await.status,
            200,
            "its own links"
        );
    }
    let prometheus = bus.with_token(PROMETHEUS);
    eventually("the metrics have it", async || {
        let metrics = prometheus.get("/metrics").await;
        (metrics.status == 200 && metrics.text.contains("globex-payroll")).then_some(())
    })
    .await;
    assert_eq!(
        prometheus.get("/v1/subscriptions").await.problem(403),
        "interface-not-linked"
    );
    for open in ["/livez", "/readyz"] {
        assert_eq!(bus.with_token(LOW).get(open).await.status, 200);
    }
}
