//! Dead letters of subscriptions that are fetched, given to them again: to the one they came from, one at a time for each
//! tenant, and never lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use bytes::Bytes;
use fanout_tests::fetcher::{fetch, ids, never, next, patient, retry, settle, settles};
use fanout_tests::types::{
    self, LeasedDelivery, Origin, Rejection, RetryDelay, SettleError, SettlementOutcome, Verdict,
};
use fanout_tests::{
    ANYONE_HERE, Bench, Cli, Component, EdgeWorld, LinkTo, SERVED_POLICY, Served, event, eventually, inbox,
};
use fanout_transport::testing::NatsServer;

const POLICY: &str = "\
bus = \"payments\"
subject = \"payments.{tenant}.webhook.{event-type}\"
";

fn fetches(component: &str) -> LinkTo {
    LinkTo::subscriber(
        component,
        &["inbox"],
        &[("subscription", component), ("need", "durable")],
    )
}

fn links() -> Vec<LinkTo> {
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("billing", &["inbox"], "*"),
        LinkTo::caller("audit", &["inbox"], "*"),
        fetches("billing"),
        fetches("audit"),
    ]
}

struct Letters {
    cli: Cli,
    policy: PathBuf,
}

impl Letters {
    fn of(bench: &Bench) -> Self {
        let cli = Cli::new(bench.nats.url());
        let policy = cli.policy(POLICY);
        Self { cli, policy }
    }

    fn redrive(&self, which: &[&str]) -> String {
        let (code, out, err) = self.cli.run(&["dead-letters", "redrive"], &self.policy, which);
        assert_eq!(code, 0, "{err}");
        out
    }

    /// What is said of one: the exit code, and the letter or the error.
    fn show(&self, number: u64) -> (i32, String) {
        let verb = ["dead-letters", "show"];
        let (code, out, err) = self.cli.run(&verb, &self.policy, &[&number.to_string()]);
        (code, out + &err)
    }

    /// All letters, oldest first.
    fn list(&self) -> Vec<serde_json::Value> {
        let (_, out, _) = self.cli.run(&["--json", "dead-letters", "list"], &self.policy, &[]);
        let listed: serde_json::Value = serde_json::from_str(&out).unwrap();
        listed["dead_letters"].as_array().unwrap().clone()
    }
}

/// Each of the tenants' events, dead-lettered by billing.
async fn dead_lettered(bench: &Bench, billing: &Component, tenants: &[(&str, usize)]) {
    let ingress = bench.silent_component("ingress").await;
    let mut count = 0;
    for (tenant, events) in tenants {
        for i in 0..*events {
            let published = ingress.publish(event(tenant, "invoice.paid", &format!("{tenant}-{i}")));
            published.await.unwrap();
            let held = next(billing, "billing").await;
            settles(billing, &held, never("broken")).await;
            count += 1;
        }
    }
    bench
        .subscription_when("billing", "all are dead-lettered", |s| {
            s.dead_letters == Some(count as u64) && s.in_flight == Some(0)
        })
        .await;
}

/// Nothing is left among the letters, neither requests nor turns.
async fn nothing_is_left(bench: &Bench) {
    let js = async_nats::jetstream::new(bench.client().clone());
    eventually("no letter, request or turn is left", || async {
        let dead = js.get_stream("fanout_payments_dead").await.ok()?;
        (dead.cached_info().state.messages == 0).then_some(())
    })
    .await;
}

fn id(held: &LeasedDelivery) -> &str {
    held.delivery.event.id.as_str()
}

/// An event whose attributes are nearly as large as they may be, and that has no payload.
fn large(tenant: &str, id: &str) -> types::Event {
    let extension = |i| types::Attribute {
        name: format!("x{i:02}"),
        value: "x".repeat(1_000),
    };
    types::Event {
        data: Bytes::new(),
        extensions: (0..32).map(extension).collect(),
        ..event(tenant, "invoice.paid", id)
    }
}

/// Letters, refused events and new ones of many tenants: no fetch is given more bytes than it asked for, or one.
async fn a_fetch_brings_no_more_than_it_asks_for(ordering: &str) {
    const TENANTS: usize = 12;
    const MOST_BYTES: usize = 200 << 10;
    let bench = Bench::start(&[("ordering", ordering)], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let billing = bench.silent_component("billing").await;
    let publish = async |kind: &str| {
        for i in 0..TENANTS {
            let published = ingress.publish(large(&format!("t{i:02}"), &format!("{kind}-{i:02}")));
            published.await.unwrap();
        }
    };
    let fetch_within = async || {
        let fetched = inbox::fetch(billing.bus(), patient(), "billing", 1_000, Some(MOST_BYTES as u64), 500);
        let held = fetched.await.unwrap().unwrap().deliveries;
        let attributes = held.iter().flat_map(|h| &h.delivery.event.extensions);
        let bytes: usize = attributes.map(|attribute| attribute.value.len()).sum();
        assert!(
            held.len() <= 1 || bytes <= MOST_BYTES,
            "{bytes} bytes: {:?}",
            ids(&held)
        );
        held
    };
    publish("letter").await;
    for _ in 0..TENANTS {
        let held = next(&billing, "billing").await;
        settles(&billing, &held, never("broken")).await;
    }
    bench
        .subscription_when("billing", "all are dead-lettered", |s| {
            s.dead_letters == Some(TENANTS as u64) && s.in_flight == Some(0)
        })
        .await;
    publish("refused").await;
    let mut refused = Vec::new();
    while refused.len() < TENANTS {
        refused.extend(fetch_within().await);
    }
    for held in &refused {
        settles(&billing, held, retry("not yet")).await;
    }
    publish("new").await;
    Letters::of(&bench).redrive(&["--all"]);
    let mut handled = BTreeSet::new();
    while handled.len() < 3 * TENANTS {
        for held in fetch_within().await {
            settles(&billing, &held, Verdict::Handled).await;
            handled.insert(id(&held).to_owned());
        }
    }
    nothing_is_left(&bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_of_all_kinds_brings_no_more_than_it_asks_for() {
    a_fetch_brings_no_more_than_it_asks_for("none").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_one_where_there_is_an_order() {
    a_fetch_brings_no_more_than_it_asks_for("tenant").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_fetched_again_from_where_it_came_and_nowhere_else() {
    let bench = Bench::start(&[], &links()).await;
    let billing = bench.silent_component("billing").await;
    let audit = bench.silent_component("audit").await;
    dead_lettered(&bench, &billing, &[("acme", 2)]).await;
    for _ in 0..2 {
        let held = next(&audit, "audit").await;
        settles(&audit, &held, Verdict::Handled).await;
    }
    let letters = Letters::of(&bench);
    assert_eq!(letters.list().len(), 2);
    let first = letters.list()[0]["number"].to_string();
    assert!(letters.redrive(&[&first]).starts_with("1 to be redriven, 0 of them"));
    assert!(letters.redrive(&[&first]).starts_with("1 to be redriven, 1 of them"));
    let held = next(&billing, "billing").await;
    assert_eq!((id(&held), held.delivery.attempt), ("acme-0", 1));
    assert!(held.delivery.origin == Origin::Replayed);
    assert_eq!(held.delivery.event.data, r#"{"id":"acme-0"}"#);
    assert!(fetch(&billing, "billing", 10, 0).await.is_empty(), "it is held");
    settles(&billing, &held, Verdict::Handled).await;
    settles(&billing, &held, Verdict::Handled).await;
    bench
        .subscription_when("billing", "its letter is gone, the other is not", |s| {
            s.dead_letters == Some(1)
        })
        .await;
    letters.redrive(&["--all"]);
    let held = next(&billing, "billing").await;
    assert_eq!(id(&held), "acme-1");
    settles(&billing, &held, Verdict::Handled).await;
    nothing_is_left(&bench).await;
    assert!(fetch(&billing, "billing", 10, 300).await.is_empty());
    assert!(fetch(&audit, "audit", 10, 300).await.is_empty(), "it was never audit's");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_again_a_new_letter_has_every_reason() {
    let bench = Bench::start(&[], &links()).await;
    let billing = bench.silent_component("billing").await;
    dead_lettered(&bench, &billing, &[("acme", 1)]).await;
    let letters = Letters::of(&bench);
    let before = letters.list().remove(0);
    letters.redrive(&["--all"]);
    for attempt in 1..=3 {
        let held = next(&billing, "billing").await;
        assert_eq!((id(&held), held.delivery.attempt), ("acme-0", attempt));
        settles(&billing, &held, retry(&format!("busy {attempt}"))).await;
        // An answer that was lost is asked for again, and counts once.
        settles(&billing, &held, retry("again")).await;
    }
    let after = eventually("a new letter takes the old one's place", || async {
        let mut all = letters.list();
        (all.len() == 1 && all[0]["number"] != before["number"]).then(|| all.remove(0))
    })
    .await;
    let reasons: Vec<_> = after["attempts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|a| &a["reason"])
        .collect();
    assert_eq!(reasons, ["busy 1", "busy 2", "busy 3"]);
    assert!(
        fetch(&billing, "billing", 10, 300).await.is_empty(),
        "it waits to be redriven"
    );
    letters.redrive(&["--all"]);
    let held = next(&billing, "billing").await;
    assert_eq!(held.delivery.attempt, 1, "counted anew");
    settles(&billing, &held, Verdict::Handled).await;
    nothing_is_left(&bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_is_refused_again_says_which_it_was_and_which_it_became() {
    let bench = Bench::start(&[], &links()).await;
    let billing = bench.silent_component("billing").await;
    dead_lettered(&bench, &billing, &[("acme", 2)]).await;
    let letters = Letters::of(&bench);
    let numbers = |all: &[serde_json::Value]| all.iter().map(|l| l["number"].as_u64().unwrap()).collect::<Vec<_>>();
    let first = numbers(&letters.list())[0];
    let mut were = vec![first];
    for _ in 0..2 {
        letters.redrive(&[&were.last().unwrap().to_string()]);
        let held = next(&billing, "billing").await;
        assert_eq!(id(&held), "acme-0");
        settles(&billing, &held, never("still broken")).await;
        let became = eventually("a new letter takes its place", || async {
            let all = letters.list();
            let is_one = all.len() == 2 && all.iter().all(|l| l["number"] != *were.last().unwrap());
            is_one.then(|| all.into_iter().find(|l| l["id"] == "acme-0").unwrap())
        })
        .await;
        assert_eq!(became["predecessors"], serde_json::json!(were));
        let number = became["number"].as_u64().unwrap();
        let said = format!("letter {} became {number}", were.last().unwrap());
        assert!(letters.show(number).1.contains(&said));
        were.push(number);
        // Whoever asks for any of those before is told, and nothing is done to the one that it became.
        for before in &were[..were.len() - 1] {
            for verb in ["show", "redrive", "discard"] {
                let verb = ["dead-letters", verb];
                let (code, _, err) = letters.cli.run(&verb, &letters.policy, &[&before.to_string()]);
                let said = format!(
                    "there is no dead letter {before} on bus payments: it was redriven and refused again: letter {before} became {number}"
                );
                assert!(code == 1 && err.contains(&said), "{verb:?}: {err}");
            }
        }
    }
    assert_eq!(letters.list().len(), 2);
    assert_eq!(
        letters.list()[0]["predecessors"],
        serde_json::json!([]),
        "the other was not redriven"
    );
    letters.redrive(&["--all"]);
    for event in ["acme-0", "acme-1"] {
        let held = next(&billing, "billing").await;
        assert_eq!(id(&held), event);
        settles(&billing, &held, Verdict::Handled).await;
    }
    nothing_is_left(&bench).await;
    let (code, said) = letters.show(first);
    assert!(code == 1 && !said.contains("became"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_tenant_come_one_at_a_time_in_order_and_hold_up_no_other() {
    let bench = Bench::start(&[("delivery.ack-wait", "20s")], &links()).await;
    let billing = bench.silent_component("billing").await;
    dead_lettered(&bench, &billing, &[("acme", 4), ("globex", 2)]).await;
    let letters = Letters::of(&bench);
    assert!(letters.redrive(&["--all"]).starts_with("6 to be redriven"));
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut refused = false;
    let mut in_hand: Vec<LeasedDelivery> = Vec::new();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    while seen.values().map(Vec::len).sum::<usize>() < 6 {
        assert!(tokio::time::Instant::now() < deadline, "still {seen:?}");
        in_hand.extend(fetch(&billing, "billing", 10, 500).await);
        let mut tenants: Vec<_> = in_hand.iter().map(|h| h.delivery.event.tenant.clone()).collect();
        tenants.dedup();
        assert_eq!(tenants.len(), in_hand.len(), "one of each tenant: {:?}", ids(&in_hand));
        let Some(held) = in_hand.pop() else { continue };
        if id(&held) == "acme-1" && !refused {
            refused = true;
            let later = Rejection::RetryAfter(RetryDelay {
                delay_ms: 500,
                reason: "busy".into(),
            });
            settles(&billing, &held, Verdict::Rejected(later)).await;
            continue;
        }
        settles(&billing, &held, Verdict::Handled).await;
        let of = seen.entry(held.delivery.event.tenant.clone()).or_default();
        of.push(id(&held).to_owned());
    }
    assert_eq!(
        seen["acme"],
        ["acme-0", "acme-1", "acme-2", "acme-3"],
        "also across a retry"
    );
    assert_eq!(seen["globex"], ["globex-0", "globex-1"]);
    nothing_is_left(&bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redriven_hold_ends_goes_on_and_is_given_back_like_any() {
    let bench = Bench::start(&[], &links()).await;
    let billing = bench.silent_component("billing").await;
    dead_lettered(&bench, &billing, &[("acme", 1)]).await;
    Letters::of(&bench).redrive(&["--all"]);
    let held = next(&billing, "billing").await;
    settles(&billing, &held, Verdict::Released).await;
    let mut held = next(&billing, "billing").await;
    for _ in 0..6 {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        match settle(&billing, &held, Verdict::StillWorking).await {
            Ok(SettlementOutcome::Extended(token)) => held.token = token,
            other => panic!("{other:?}"),
        }
        assert!(fetch(&billing, "billing", 4, 0).await.is_empty());
    }
    // Now it is left alone.
    let again = next(&billing, "billing").await;
    assert_eq!((id(&again), again.delivery.attempt), ("acme-0", 1));
    let late = settle(&billing, &held, retry("too late")).await;
    assert!(
        matches!(&late, Err(SettleError::LeaseExpired(p)) if p.code == "lease-expired"),
        "{late:?}"
    );
    settles(&billing, &again, Verdict::Handled).await;
    nothing_is_left(&bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_dies_each_letter_is_given_to_one_fetcher_at_a_time_and_none_is_lost() {
    let tenants: Vec<String> = (0..8).map(|i| format!("t{i}")).collect();
    let mut bench = Bench::start(&[("delivery.ack-wait", "4s")], &links()).await;
    bench.add_provider().await;
    let billing = bench.silent_component("billing").await;
    let wanted: Vec<_> = tenants.iter().map(|t| (t.as_str(), 1)).collect();
    dead_lettered(&bench, &billing, &wanted).await;
    Letters::of(&bench).redrive(&["--all"]);
    // Two fetchers, of both instances.
    let mut held = Vec::new();
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    while held.len() < 8 {
        assert!(tokio::time::Instant::now() < deadline, "only {:?}", ids(&held));
        let (one, two) = tokio::join!(fetch(&billing, "billing", 3, 200), fetch(&billing, "billing", 3, 200));
        held.extend(one.into_iter().chain(two));
    }
    let mut once = ids(&held);
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), 8, "each once: {:?}", ids(&held));
    bench.providers[0].kill();
    // Half are settled by the instance that is left; the others' fetcher is gone.
    let (handled, lost) = held.split_at(4);
    for held in handled {
        let settled = eventually("the other instance answers", || async {
            let settlement = types::Settlement {
                token: held.token.clone(),
                verdict: Verdict::Handled,
            };
            let within = fanout_transport::CallContext::within(std::time::Duration::from_secs(1));
            fanout_tests::inbox::settle(billing.bus(), within, &[settlement])
                .await
                .ok()?
                .pop()
        })
        .await;
        assert!(matches!(settled, Ok(SettlementOutcome::Settled)), "{settled:?}");
    }
    let mut again = Vec::new();
    for _ in lost {
        let held = next(&billing, "billing").await;
        settles(&billing, &held, Verdict::Handled).await;
        again.push(id(&held).to_owned());
    }
    let mut expected: Vec<_> = ids(lost).into_iter().map(str::to_owned).collect();
    again.sort_unstable();
    expected.sort_unstable();
    assert_eq!(
        again, expected,
        "what was delivered and not settled comes again, and nothing else"
    );
    nothing_is_left(&bench).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_over_the_client_gets_it_too() {
    let nats = NatsServer::start().await;
    let cli = Cli::new(nats.url());
    let policy = cli.policy(&format!("{SERVED_POLICY}{ANYONE_HERE}"));
    let served = Served::start(&nats.url(), &policy, &["--listen", "tcp://127.0.0.1:0"]);
    let bus = fanout_client::connect(&served.listen[0]).await.unwrap();
    let mut deliveries = bus
        .subscribe(fanout_client::Subscription::durable("billing"))
        .await
        .unwrap();
    let sent = fanout_client::Event::new("acme", "invoice.paid", "e1").data("{}");
    bus.publish(&sent).await.unwrap();
    let first = deliveries.recv().await.unwrap().unwrap();
    first.dead_letter("no amount").await.unwrap();
    let redriven = eventually("it is asked for", || async {
        let (code, out, _) = cli.run(&["dead-letters", "redrive"], &policy, &["--all"]);
        (code == 0 && out.starts_with("1 to be")).then_some(())
    });
    redriven.await;
    let patience = std::time::Duration::from_secs(30);
    let again = tokio::time::timeout(patience, deliveries.recv())
        .await
        .expect("it comes in time");
    let again = again.unwrap().unwrap();
    assert_eq!(
        (again.event().id.as_str(), again.replayed(), again.attempt()),
        ("e1", true, 1)
    );
    again.ack().await.unwrap();
    eventually("its letter is gone", || async {
        let (_, out, _) = cli.run(&["dead-letters", "list"], &policy, &[]);
        (out.trim() == "no dead letters").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_at_an_edge_gets_it_too() {
    let links = vec![
        LinkTo::caller("ingress", &["publisher"], "acme"),
        LinkTo::caller("reports", &["inbox"], "*"),
        fetches("reports"),
    ];
    let world = EdgeWorld::new(&links).await;
    let ingress = world.edge.silent_component("ingress").await;
    let reports = world.edge.silent_component("reports").await;
    world.made("reports").await;
    eventually("the event is stored", || async {
        ingress.publish(event("acme", "invoice.paid", "e1")).await.ok()
    })
    .await;
    let held = next(&reports, "reports").await;
    settles(&reports, &held, never("no amount")).await;
    let cli = Cli::new(world.hub_nats.url());
    let policy = cli.policy(POLICY);
    eventually("it is asked for", || async {
        let (code, out, _) = cli.run(&["dead-letters", "redrive"], &policy, &["--all"]);
        (code == 0 && out.starts_with("1 to be")).then_some(())
    })
    .await;
    let held = next(&reports, "reports").await;
    assert_eq!((id(&held), held.delivery.attempt), ("e1", 1));
    assert!(held.delivery.origin == Origin::Replayed);
    settles(&reports, &held, Verdict::Handled).await;
    world.drained("reports").await;
}
