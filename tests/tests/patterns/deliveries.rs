//! Every way of delivery.

use std::collections::BTreeMap;

use fanout_tests::fetcher::{patient, settle, try_fetch};
use fanout_tests::types::{Reach, Rejection, Start, Verdict as Settles};
use fanout_tests::{Bench, Component, EdgeWorld, LinkTo, Verdict, eventually, subscriber};

use crate::{LARGE, publish, sorted, with_pattern};

fn links() -> Vec<LinkTo> {
    let to = |component, reach, need, more: &[(&str, &str)]| {
        let mut settings = vec![("subscription", component), ("need", need), ("pattern", LARGE)];
        settings.extend_from_slice(more);
        LinkTo::subscriber(component, &[reach], &settings)
    };
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("fetched", &["inbox"], "*"),
        LinkTo::caller("late", &["subscriber"], "*"),
        to("queued", "handler", "queue", &[]),
        to("durable", "handler", "durable", &[]),
        to("batched", "batch-handler", "durable", &[("batch-size", "7")]),
        to("replayed", "batch-handler", "backfill", &[]),
        to("fetched", "inbox", "durable", &[]),
    ]
}

/// Fetches until nothing of a subscription is left that is to come. Returns the ids, in the order in which they came.
async fn fetch_all(who: &Component, name: &str, expected: usize) -> Vec<String> {
    let mut ids = Vec::new();
    // Also where all that there is at first does not match.
    while ids.len() < expected {
        let fetched = eventually("the bus answers", || async { try_fetch(who, name, 7, 300).await.ok() }).await;
        for held in &fetched.deliveries {
            let settled = settle(who, held, Settles::Handled).await;
            assert!(settled.is_ok(), "{settled:?}");
            ids.push(held.delivery.event.id.clone());
        }
    }
    ids
}

async fn handles(who: &Component, expected: &[String]) {
    eventually(&format!("{} handles {} events", who.id, expected.len()), || async {
        (who.handled() == expected).then_some(())
    })
    .await;
}

/// Nothing but this was ever delivered.
fn was_given_only(who: &Component, expected: &[String]) {
    who.seen(|s| {
        for delivery in &s.deliveries {
            assert!(expected.contains(&delivery.event.id), "{}: {delivery:?}", who.id);
        }
    });
}

/// By all of them, with an instance that is killed in the middle.
pub(crate) async fn by_every_way(settings: &[(&str, &str)]) {
    let mut bench = Bench::start(settings, &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let fetched = bench.silent_component("fetched").await;
    let queued = bench.component("queued").await;
    let durable = bench.component("durable").await;
    let batched = bench.component("batched").await;
    let replayed = bench.component("replayed").await;

    let before = publish(&ingress, 0..60).await;
    let expected = sorted(before.clone());
    for who in [&queued, &durable, &batched, &replayed] {
        handles(who, &expected).await;
    }
    let mut came = fetch_all(&fetched, "fetched", before.len()).await;

    bench.restart_provider(0).await;
    let after = publish(&ingress, 60..120).await;
    let all: Vec<_> = before.iter().chain(&after).cloned().collect();
    let expected = sorted(all.clone());
    for who in [&durable, &batched, &replayed] {
        handles(who, &expected).await;
    }
    came.extend(fetch_all(&fetched, "fetched", after.len()).await);
    assert_eq!(sorted(came.clone()), expected);
    for who in [&queued, &durable, &batched, &replayed] {
        was_given_only(who, &expected);
    }
    for name in ["durable", "batched", "replayed", "fetched"] {
        let status = bench
            .subscription_when(name, "nothing is left", |s| s.backlog() == Some(0))
            .await;
        assert_eq!(status.lost, [], "{name}");
        assert!(
            status
                .pattern
                .as_deref()
                .is_some_and(|p| p.contains(r#""numeric":[">=",90]"#))
        );
        assert!(status.problem.is_none(), "{status:?}");
    }
    if settings.contains(&("ordering", "tenant")) {
        for (who, ids) in [
            ("durable", durable.seen(|s| s.handled.clone())),
            ("batched", batched.seen(|s| s.handled.clone())),
            ("fetched", came),
        ] {
            let mut of_tenants: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
            for id in &ids {
                let (tenant, _) = id.split_once('-').unwrap();
                of_tenants.entry(tenant).or_default().push(id);
            }
            for ids in of_tenants.values() {
                assert!(ids.is_sorted(), "{who}: {ids:?}");
            }
        }
    }

    // A backfill that begins when all has happened, and whose last events do not match.
    let late = bench.component("late").await;
    let asked = with_pattern(Reach::Handler, LARGE);
    let made = subscriber::subscribe_backfill(late.bus(), patient(), "late", &Start::First, None, &asked);
    let made = made.await.unwrap().unwrap();
    assert!(made.filter.pattern.is_some_and(|p| p.contains("invoice.paid")));
    handles(&late, &expected).await;
    eventually("it is told that it caught up", || async {
        late.seen(|s| (s.caught_up.len() == 1).then_some(()))
    })
    .await;
    was_given_only(&late, &expected);
    late.seen(|s| assert!(s.deliveries.iter().all(|d| d.attempt == 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_counted_from_the_first_that_matched() {
    let bench = Bench::start(
        &[("retry.schedule", "20ms"), ("retry.max-attempts", "3")],
        &[
            LinkTo::caller("ingress", &["publisher"], "*"),
            LinkTo::subscriber(
                "work",
                &["batch-handler"],
                &[("subscription", "work"), ("need", "durable"), ("pattern", LARGE)],
            ),
        ],
    )
    .await;
    let ingress = bench.silent_component("ingress").await;
    let work = bench.component("work").await;
    work.judge(|d| match d.attempt {
        1 | 2 => Verdict::Refuse(Rejection::Retry("not yet".into())),
        _ => Verdict::Handle,
    });
    let expected = sorted(publish(&ingress, 0..30).await);
    handles(&work, &expected).await;
    was_given_only(&work, &expected);
    work.seen(|s| {
        for id in &expected {
            let attempts: Vec<_> = s
                .deliveries
                .iter()
                .filter(|d| d.event.id == *id)
                .map(|d| d.attempt)
                .collect();
            assert_eq!(attempts, [1, 2, 3], "{id}");
        }
    });
    let status = bench
        .subscription_when("work", "nothing is left", |s| s.backlog() == Some(0))
        .await;
    let counts = status.this_instance.unwrap();
    // Invoices of other types never came here: the subject filter has the pattern's type.
    assert_eq!((counts.handled, counts.left_out), (6, Some(54 + 9)), "{counts:?}");
    assert_eq!((status.dead_letters, counts.dead_lettered), (Some(0), Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn at_an_edge_it_is_the_hub_that_leaves_out() {
    let mut world = EdgeWorld::new(&[
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("called", &["subscriber"], "*"),
        LinkTo::subscriber(
            "linked",
            &["batch-handler"],
            &[("subscription", "linked"), ("need", "durable"), ("pattern", LARGE)],
        ),
    ])
    .await;
    let ingress = world.edge.silent_component("ingress").await;
    let linked = world.edge.component("linked").await;
    let called = world.edge.component("called").await;
    world.made("linked").await;
    let made = eventually("the bus answers", || async {
        let asked = with_pattern(Reach::Handler, LARGE);
        subscriber::subscribe_durable(called.bus(), patient(), "called", &asked)
            .await
            .ok()?
            .ok()
    })
    .await;
    assert!(made.filter.pattern.is_some_and(|p| p.contains("invoice.paid")));
    world.made("called").await;
    let mut expected = sorted(publish(&ingress, 0..30).await);
    for who in [&linked, &called] {
        handles(who, &expected).await;
    }
    world.restart_hub();
    eventually("the hub answers again", || async {
        ingress.publish(crate::of_amount("acme", "again", 95)).await.ok()
    })
    .await;
    expected.push("again".to_owned());
    expected.extend(publish(&ingress, 30..40).await);
    let expected = sorted(expected);
    for who in [&linked, &called] {
        handles(who, &expected).await;
        was_given_only(who, &expected);
    }
}
