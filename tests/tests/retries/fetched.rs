//! Retries of a subscription that is fetched.

use std::collections::BTreeSet;

use fanout_tests::Bench;
use fanout_tests::fetcher::{fetch, next, settles};
use fanout_tests::types::{Rejection, RetryDelay, Verdict as Said};

use super::{LATE, links, publish, waits_for_retry};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_fetcher_refuses_is_not_in_its_hands() {
    let settings = [LATE, ("delivery.batch-size", "1"), ("delivery.concurrency", "1")];
    let bench = Bench::start(&settings, &links("inbox", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.silent_component("invoicing").await;
    publish(&ingress, "acme", 0..30).await;
    let later = |soon: bool| {
        Said::Rejected(match soon {
            true => Rejection::RetryAfter(RetryDelay {
                delay_ms: 50,
                reason: "soon".into(),
            }),
            false => Rejection::Retry("not yet".into()),
        })
    };
    // One of them twice: it comes again, and is refused again.
    let mut refused = BTreeSet::new();
    while refused.len() < 30 {
        let held = next(&invoicing, "invoicing").await;
        let soon = held.delivery.event.id == "acme-007" && held.delivery.attempt == 1;
        settles(&invoicing, &held, later(soon)).await;
        if held.delivery.event.id == "acme-007" {
            // Said once more, because its answer was lost.
            settles(&invoicing, &held, later(soon)).await;
        }
        if !soon {
            refused.insert((held.delivery.event.id.clone(), held.delivery.attempt));
        }
    }
    assert!(refused.contains(&("acme-007".into(), 2)), "{refused:?}");
    waits_for_retry(&bench, 30).await;
    publish(&ingress, "globex", 0..1).await;
    let held = next(&invoicing, "invoicing").await;
    assert_eq!(held.delivery.event.id, "globex-000");
    settles(&invoicing, &held, Said::Handled).await;
    waits_for_retry(&bench, 30).await;
    assert!(fetch(&invoicing, "invoicing", 10, 0).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetched_retry_is_held_released_handled_and_gone() {
    let bench = Bench::start(&[], &links("inbox", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.silent_component("invoicing").await;
    publish(&ingress, "acme", 0..1).await;
    let first = next(&invoicing, "invoicing").await;
    let refused = || Said::Rejected(Rejection::Retry("not yet".into()));
    settles(&invoicing, &first, refused()).await;
    let second = next(&invoicing, "invoicing").await;
    assert_eq!(
        (second.delivery.event.id.as_str(), second.delivery.attempt),
        ("acme-000", 2)
    );
    assert_eq!(second.delivery.event.data, first.delivery.event.data);
    assert_eq!(second.delivery.position.offset, first.delivery.position.offset);
    assert_eq!(second.delivery.published_at, first.delivery.published_at);
    settles(&invoicing, &second, Said::Released).await;
    let third = next(&invoicing, "invoicing").await;
    assert_eq!(
        (third.delivery.event.id.as_str(), third.delivery.attempt),
        ("acme-000", 2)
    );
    settles(&invoicing, &third, Said::Handled).await;
    // Said late once more, of an event that was handled since: it does not begin anew.
    settles(&invoicing, &first, refused()).await;
    waits_for_retry(&bench, 0).await;
    assert!(fetch(&invoicing, "invoicing", 10, 500).await.is_empty());
}
