//! `ordering`: of each key one at a time and in the log's order, across retries, instances and their deaths.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use fanout_tests::types::{Delivery, Event, Rejection, RetryDelay};
use fanout_tests::{Bench, Cli, Component, LinkTo, State, Verdict, event, eventually, stored};
use futures::StreamExt as _;

fn links(more: &[(&str, &str)]) -> Vec<LinkTo> {
    let mut settings = vec![("subscription", "invoicing"), ("need", "durable")];
    settings.extend_from_slice(more);
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber("invoicing", &["handler"], &settings),
    ]
}

fn keyed(tenant: &str, key: &str, id: &str) -> Event {
    Event {
        ordering_key: Some(key.into()),
        ..event(tenant, "invoice.paid", id)
    }
}

/// The ids that were handled, by tenant and key, each at its first time.
fn handled_by_key(component: &Component) -> BTreeMap<String, Vec<String>> {
    component.seen(|s| {
        let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for id in &s.handled {
            let of_key = by_key.entry(id.split('-').next().unwrap().to_owned()).or_default();
            if !of_key.contains(id) {
                of_key.push(id.clone());
            }
        }
        by_key
    })
}

/// Every key's events as they were published: `{key}-{number}`.
async fn publish(ingress: &Component, keys: &[&str], from: usize, count: usize) {
    for i in from..from + count {
        for key in keys {
            ingress
                .publish(keyed("acme", key, &format!("{key}-{i:03}")))
                .await
                .unwrap();
        }
    }
}

fn expected(keys: &[&str], count: usize) -> BTreeMap<String, Vec<String>> {
    let ids = |key: &str| (0..count).map(|i| format!("{key}-{i:03}")).collect();
    keys.iter().map(|key| ((*key).to_owned(), ids(key))).collect()
}

async fn all_are_handled(component: &Component, keys: &[&str], count: usize) {
    eventually("all are handled, each key in its order", || async {
        (component.handled().len() == keys.len() * count).then_some(())
    })
    .await;
    assert_eq!(handled_by_key(component), expected(keys, count));
}

/// A judge that fails each third delivery of an id at its first attempt, and remembers who was in hand at once.
fn unreliable() -> impl Fn(&Delivery) -> Verdict + Send + Sync + 'static {
    let seen = Mutex::new(BTreeMap::<String, u32>::new());
    move |d| {
        let mut seen = seen.lock().unwrap();
        let times = seen.entry(d.event.id.clone()).or_default();
        *times += 1;
        let number: u32 = d.event.id.rsplit('-').next().unwrap().parse().unwrap();
        if number % 3 == 1 && *times == 1 {
            Verdict::Refuse(Rejection::Retry("not yet".into()))
        } else {
            Verdict::Handle
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_in_order_across_retries() {
    let bench = Bench::start(&[("ordering", "key")], &links(&[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.silent_component("invoicing").await;
    invoicing.judge(unreliable());
    let keys = ["a", "b", "c", "d"];
    publish(&ingress, &keys, 0, 20).await;
    invoicing.up().await;
    all_are_handled(&invoicing, &keys, 20).await;
    bench
        .subscription_when("invoicing", "nothing is left", |s| s.backlog() == Some(0))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_waits_for_a_retry_holds_only_itself() {
    let bench = Bench::start(&[("ordering", "key")], &links(&[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.silent_component("invoicing").await;
    let stuck = Arc::new(Mutex::new(true));
    let waits = Arc::clone(&stuck);
    invoicing.judge(move |d| {
        if d.event.id == "a-000" && *waits.lock().unwrap() {
            Verdict::Refuse(Rejection::RetryAfter(RetryDelay {
                delay_ms: 3_600_000,
                reason: "later".into(),
            }))
        } else {
            Verdict::Handle
        }
    });
    invoicing.up().await;
    publish(&ingress, &["a", "b"], 0, 10).await;
    eventually("the other key is handled", || async {
        (handled_by_key(&invoicing).get("b").map(Vec::len) == Some(10)).then_some(())
    })
    .await;
    // Longer than `delivery.ack-wait`: what is held is not delivered behind its owner's back.
    publish(&ingress, &["b"], 10, 100).await;
    eventually("the other key goes on", || async {
        (handled_by_key(&invoicing).get("b").map(Vec::len) == Some(110)).then_some(())
    })
    .await;
    assert_eq!(
        handled_by_key(&invoicing).get("a"),
        None,
        "its successors wait behind it"
    );
    let waiting = bench
        .subscription_when("invoicing", "the key is held", |s| s.in_flight == Some(10))
        .await;
    assert_eq!((waiting.pending, waiting.waiting_for_retry), (Some(0), Some(1)));
    *stuck.lock().unwrap() = false;
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_keep_the_order_when_one_after_another_dies() {
    let mut bench = Bench::start(&[("ordering", "tenant")], &links(&[])).await;
    bench.add_provider().await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(unreliable());
    for round in 0..3 {
        for i in round * 20..round * 20 + 20 {
            for tenant in ["acme", "globex"] {
                let id = format!("{tenant}-{i:03}");
                ingress.publish(event(tenant, "invoice.paid", &id)).await.unwrap();
            }
        }
        if round < 2 {
            eventually("some are handled", || async {
                (invoicing.handled().len() > 40 * round).then_some(())
            })
            .await;
            bench.restart_provider(round % 2).await;
        }
    }
    all_are_handled(&invoicing, &["acme", "globex"], 60).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_at_a_time() {
    let bench = Bench::start(&[("ordering", "tenant"), ("delivery.deadline", "300ms")], &links(&[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.silent_component("invoicing").await;
    // The first event hangs until its deadline, three times: meanwhile its successor is not delivered.
    invoicing.judge(|d| {
        if d.event.id == "acme-000" {
            Verdict::Hang
        } else {
            Verdict::Handle
        }
    });
    invoicing.up().await;
    for i in 0..3 {
        ingress
            .publish(event("acme", "invoice.paid", &format!("acme-{i:03}")))
            .await
            .unwrap();
    }
    eventually("the others are handled", || async {
        (invoicing.handled().len() == 2).then_some(())
    })
    .await;
    let order = invoicing.seen(|s| s.deliveries.iter().map(|d| d.event.id.clone()).collect::<Vec<_>>());
    assert_eq!(order, ["acme-000", "acme-000", "acme-000", "acme-001", "acme-002"]);
    bench
        .subscription_when("invoicing", "the first is a dead letter", |s| s.dead_letters == Some(1))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_comes_back_holds_up_the_rest_for_a_while_and_is_told() {
    let bench = Bench::start(&[("ordering", "tenant")], &links(&[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(
        "bus = \"payments\"\nsubject = \"payments.{tenant}.webhook.{event-type}\"\nordering = \"tenant\"\n[delivery]\ndeadline = \"500ms\"\nack-wait = \"2s\"\n",
    );
    assert_eq!(cli.run(&["pause"], &policy, &["invoicing"]).0, 0);
    bench
        .subscription_when("invoicing", "it is paused", |s| s.state == State::Paused)
        .await;
    publish(&ingress, &["a"], 0, 3).await;
    // Somebody else takes the first event, and says for ever that it holds it.
    let js = async_nats::jetstream::new(bench.client().clone());
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    let name = stored::consumer_name(&log, "invoicing").await.unwrap();
    let consumer: PullConsumer = log.get_consumer(&name).await.unwrap();
    let mut taken = consumer.batch().max_messages(1).messages().await.unwrap();
    let taken = taken.next().await.unwrap().unwrap();
    let holding = async {
        loop {
            taken.ack_with(AckKind::Progress).await.unwrap();
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    assert_eq!(cli.run(&["resume"], &policy, &["invoicing"]).0, 0);
    let rest = eventually("the rest is delivered", || async {
        (invoicing.handled().len() == 2).then_some(())
    });
    tokio::select! {
        () = holding => {}
        () = rest => {}
    }
    let log = bench.providers[0].log();
    let told: Vec<_> = log.lines().filter(|line| line.contains("order-not-kept")).collect();
    assert!(told.len() == 1 && told[0].contains("subscription=invoicing"), "{log}");
    assert!(told[0].contains("1 events that were delivered"), "{told:?}");
    // Nothing is lost.
    taken.ack_with(AckKind::Nak(None)).await.unwrap();
    eventually("it is delivered late", || async {
        (invoicing.handled().len() == 3).then_some(())
    })
    .await;
}

/// Resident memory of a process, in MiB.
fn resident_mib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn large_events_of_many_keys_do_not_fill_the_memory_of_their_owner() {
    let patient = [
        ("ordering", "key"),
        ("delivery.deadline", "100s"),
        ("delivery.ack-wait", "200s"),
    ];
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber(
            "invoicing",
            &["batch-handler"],
            &[("subscription", "invoicing"), ("need", "durable")],
        ),
    ];
    let bench = Bench::start(&patient, &links).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.silent_component("invoicing").await;
    let data = bytes::Bytes::from(vec![b'x'; 500 << 10]);
    for i in 0..800 {
        let large = Event {
            data: data.clone(),
            ..keyed("acme", &format!("k{i}"), &format!("k{i}"))
        };
        ingress.publish(large).await.unwrap();
    }
    // It is there: so all invocations begin, and then it is slow.
    let handled = Arc::new(AtomicUsize::new(0));
    invoicing.judge(move |_| match handled.fetch_add(1, Ordering::Relaxed) {
        0..4 => Verdict::Handle,
        _ => Verdict::Hang,
    });
    invoicing.up().await;
    eventually("it has more in its hands", || async {
        invoicing.seen(|s| s.deliveries.len() > 4).then_some(())
    })
    .await;
    // Sixteen invocations of a hundred would be all 390 MiB; 32 are in flight, and 64 wait. So it stays.
    for _ in 0..150 {
        let resident = resident_mib(bench.providers[0].id());
        assert!(resident < 300, "the provider holds {resident} MiB");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
