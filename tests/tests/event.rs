//! `fanout event` and `fanout errors`: what became of one event, and why events are refused.

use std::collections::BTreeMap;
use std::time::Duration;

use fanout_client::{Deliveries, Delivery, Event, Subscription};
use fanout_tests::ServedBus;
use serde_json::Value;

/// What does not come within it never does.
const PATIENCE: Duration = Duration::from_secs(30);

async fn next(deliveries: &mut Deliveries) -> Delivery {
    let delivery = tokio::time::timeout(PATIENCE, deliveries.recv()).await;
    delivery.expect("one is delivered").unwrap().unwrap()
}

fn event(tenant: &str, id: &str) -> Event {
    Event::new(tenant, "invoice.paid", id).data("{}")
}

/// The state of an event at each subscription, and the last reason of its attempts.
fn states(event: &Value) -> BTreeMap<&str, (&str, Option<&str>)> {
    let subscriptions = event["subscriptions"].as_array().unwrap();
    subscriptions
        .iter()
        .map(|s| {
            let last = s["attempts"].as_array().unwrap().last();
            let reason = last.map(|attempt| attempt["reason"].as_str().unwrap());
            (s["name"].as_str().unwrap(), (s["state"].as_str().unwrap(), reason))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_tells_what_became_of_an_event_at_each_subscription() {
    let world = ServedBus::with_long_leases().await;
    let bus = &world.bus;
    bus.publish(&event("acme", "before")).await.unwrap();
    let subscribed = async |subscription: Subscription| bus.subscribe(subscription.prefetch(4)).await.unwrap();
    let mut billing = subscribed(Subscription::durable("billing")).await;
    let mut others = subscribed(Subscription::durable("others").tenants(["globex"])).await;
    let mut refusing = subscribed(Subscription::durable("refusing").tenants(["acme"])).await;
    bus.publish(&event("acme", "evt_1")).await.unwrap();
    bus.publish(&event("globex", "evt_1")).await.unwrap();

    let asked = |args: &[&str]| {
        let (code, out, err) = world.cli.run(&["--json", "event"], &world.policy, args);
        assert_eq!(code, 0, "{args:?}: {err}");
        let said: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(said["events"].as_array().unwrap().len(), 1, "{args:?}: {out}");
        said["events"][0].clone()
    };
    next(&mut billing).await.ack().await.unwrap();
    next(&mut others)
        .await
        .retry_after(Duration::from_secs(3_600), "not now")
        .await
        .unwrap();
    let held = next(&mut billing).await;
    next(&mut refusing).await.dead_letter("no such customer").await.unwrap();

    let acme = asked(&["evt_1", "--tenant", "acme"]);
    assert_eq!((&acme["position"], &acme["tenant"]), (&"0/2".into(), &"acme".into()));
    assert_eq!(
        states(&acme),
        BTreeMap::from([
            ("billing", ("settled", None)),
            ("others", ("other-tenant", None)),
            ("refusing", ("dead-lettered", Some("no such customer"))),
        ])
    );
    let stopped = acme["subscriptions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["name"] == "others")
        .unwrap();
    let stops = serde_json::json!({ "at": "tenant", "wanted": ["globex"] });
    assert_eq!(stopped["stops"], stops, "which filter stops it");
    let globex = asked(&["0/3"]);
    assert_eq!(
        states(&globex),
        BTreeMap::from([
            ("billing", ("delivered", None)),
            ("others", ("waiting-for-retry", Some("not now"))),
            ("refusing", ("other-tenant", None)),
        ])
    );
    let due = globex["subscriptions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["name"] == "others");
    assert!(
        due.unwrap()["next_attempt"]
            .as_str()
            .is_some_and(|at| at.ends_with('Z')),
        "{globex}"
    );
    let before = asked(&["before", "--tenant", "acme"]);
    assert_eq!(states(&before)["billing"], ("before-its-start", None));
    held.release().await.unwrap();

    // A person reads the same words.
    let (code, out, err) = world.cli.run(&["event"], &world.policy, &["evt_1", "--tenant", "acme"]);
    assert!(
        code == 0 && out.contains("dead-lettered (letter 1)") && out.contains("no such customer"),
        "{out}{err}"
    );

    // The log lets it go; its letter is still there.
    let jetstream = async_nats::jetstream::new(world.nats.client().await);
    let log = jetstream.get_stream("fanout_payments_log").await.unwrap();
    log.purge().await.unwrap();
    let (code, out, err) = world.cli.run(&["event"], &world.policy, &["evt_1", "--tenant", "acme"]);
    let said = "the log holds event 0/2 no more: dead letter 1 of subscription refusing does";
    assert!(code == 0 && out.contains(said), "{out}{err}");
    let (code, _, err) = world
        .cli
        .run(&["event"], &world.policy, &["before", "--tenant", "acme"]);
    assert!(
        code == 1 && err.contains("holds no event \"before\" of tenant acme"),
        "{err}"
    );
    let (code, _, err) = world.cli.run(&["event"], &world.policy, &["before"]);
    assert!(code == 2 && err.contains("name it with --tenant"), "{code} {err}");
    for another in [["--tenant", "globex"], ["--source", "another"]] {
        let (code, _, err) = world
            .cli
            .run(&["event"], &world.policy, &["0/2", another[0], another[1]]);
        assert!(
            code == 1 && err.contains("[unknown-event]"),
            "{another:?}: {code} {err}"
        );
    }

    let (code, out, err) = world.cli.run(&["--json", "errors"], &world.policy, &[]);
    assert_eq!(code, 0, "{err}");
    let errors: Value = serde_json::from_str(&out).unwrap();
    let told: Vec<_> = errors["errors"].as_array().unwrap().iter().collect();
    let shown = |e: &Value| {
        let text = |key: &str| e[key].as_str().unwrap().to_owned();
        let count = |key: &str| e[key].as_u64().unwrap();
        (
            text("subscription"),
            text("reason"),
            count("dead_letters"),
            count("waiting_for_retry"),
            e["example"].as_u64(),
        )
    };
    assert_eq!(
        told.iter().map(|e| shown(e)).collect::<Vec<_>>(),
        [
            ("others".into(), "not now".into(), 0, 1, None),
            ("refusing".into(), "no such customer".into(), 1, 0, Some(1)),
        ]
    );
    assert!(
        told.iter().all(|e| e["event"].is_string() && e["first"] == e["last"]),
        "{out}"
    );
    let (_, out, _) = world.cli.run(&["errors"], &world.policy, &["--since", "0s"]);
    assert_eq!(
        out, "no dead letters, and no retries\n",
        "nothing was refused in no time"
    );
}
