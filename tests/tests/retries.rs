//! Refused events wait without holding up others, and nothing is lost while they do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::jetstream::AckKind;
use async_nats::jetstream::consumer::PullConsumer;
use fanout_tests::fetcher::{fetch, next, settles};
use fanout_tests::subscriber;
use fanout_tests::types::{Delivery, Rejection, RetryDelay, Start, Verdict as Said};
use fanout_tests::{
    Bench, Cli, Component, LinkTo, State, SubscriptionStatus, Verdict, event, eventually, every_event, stored,
};
use fanout_transport::CallContext;
use futures::StreamExt as _;
use serde_json::Value;

const POLICY: &str = "\
bus = \"payments\"
subject = \"payments.{tenant}.webhook.{event-type}\"

[delivery]
deadline = \"500ms\"
ack-wait = \"2s\"
";

/// Nothing that is refused is due while a test waits.
const LATE: (&str, &str) = ("retry.schedule", "10m");

fn links(reach: &str, more: &[(&str, &str)]) -> Vec<LinkTo> {
    let mut settings = vec![
        ("subscription", "invoicing"),
        ("need", "durable"),
        ("event-types", "invoice.*"),
    ];
    settings.extend_from_slice(more);
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber("invoicing", &[reach], &settings),
        LinkTo::caller("invoicing", &["subscriber", "inbox"], "*"),
    ]
}

async fn publish(ingress: &Component, tenant: &str, ids: std::ops::Range<usize>) {
    for i in ids {
        let published = ingress.publish(event(tenant, "invoice.paid", &format!("{tenant}-{i:03}")));
        published.await.unwrap();
    }
}

/// Refuses acme's for now, and handles all others.
fn refuses_acme(d: &Delivery) -> Verdict {
    match d.event.tenant.as_str() {
        "acme" => Verdict::Refuse(Rejection::Retry("not yet".into())),
        _ => Verdict::Handle,
    }
}

async fn handles(component: &Component, id: &str) {
    eventually(&format!("{id} is handled"), || async {
        component.handled().iter().any(|i| i == id).then_some(())
    })
    .await;
}

async fn waits_for_retry(bench: &Bench, count: usize) -> SubscriptionStatus {
    let what = format!("{count} wait for a retry, and nothing else does");
    bench
        .subscription_when("invoicing", &what, |s| {
            s.waiting_for_retry == Some(count as u64) && s.pending == Some(0) && s.in_flight == Some(0)
        })
        .await
}

/// How often each of these was delivered, and the highest number of an attempt.
fn attempts(component: &Component, tenant: &str) -> (usize, u32) {
    component.seen(|s| {
        let of_tenant = s.deliveries.iter().filter(|d| d.event.tenant == tenant);
        (
            of_tenant.clone().count(),
            of_tenant.map(|d| d.attempt).max().unwrap_or(0),
        )
    })
}

/// Refused invoices of acme, then a good one of globex, which must not wait for them.
async fn others_go_on(settings: &[(&str, &str)], of_link: &[(&str, &str)], refused: usize) {
    let settings: Vec<_> = [LATE, ("retry.max-attempts", "6")]
        .into_iter()
        .chain(settings.iter().copied())
        .collect();
    let bench = Bench::start(&settings, &links("handler", of_link)).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(refuses_acme);
    publish(&ingress, "acme", 0..refused).await;
    eventually("all of acme's are refused", || async {
        (attempts(&invoicing, "acme").0 == refused).then_some(())
    })
    .await;
    publish(&ingress, "globex", 0..1).await;
    handles(&invoicing, "globex-000").await;
    let status = waits_for_retry(&bench, refused).await;
    assert_eq!((status.state, status.problem), (State::Active, None));
    assert_eq!(attempts(&invoicing, "acme"), (refused, 1), "none comes before its time");

    let metrics = bench
        .client()
        .request("fanout.default.bus.metrics", "".into())
        .await
        .unwrap();
    let metrics = String::from_utf8(metrics.payload.to_vec()).unwrap();
    let line = format!("fanout_waiting_for_retry{{bus=\"payments\",subscription=\"invoicing\"}} {refused}\n");
    assert!(metrics.contains(&line), "{metrics}");
    let cli = Cli::new(bench.nats.url());
    let shown = cli.status(&cli.policy(POLICY));
    assert_eq!(shown.subscriptions[0].waiting_for_retry, Some(refused as u64));
    let (code, out, err) = cli.run(&["status"], &cli.policy(POLICY), &[]);
    assert!(code == 0 && out.contains("waiting for retry"), "{out}{err}");
    let listed = subscriber::list_subscriptions(invoicing.bus(), CallContext::default()).await;
    assert_eq!(listed.unwrap().unwrap()[0].waiting_for_retry, refused as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_invoices_of_one_tenant_stall_no_other() {
    let settings = [("delivery.batch-size", "1"), ("delivery.concurrency", "16")];
    others_go_on(&settings, &[], 32).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_do_hundreds_where_one_invocation_is_made_at_a_time() {
    others_go_on(&[("delivery.batch-size", "1")], &[("concurrency", "1")], 500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_do_they_in_other_topologies() {
    for topology in ["per-tenant", "work-queue"] {
        let settings = [("topology", topology)];
        let bench = Bench::start(&[LATE, settings[0]], &links("handler", &[("concurrency", "1")])).await;
        let ingress = bench.silent_component("ingress").await;
        let invoicing = bench.component("invoicing").await;
        let mended = Arc::new(AtomicBool::new(false));
        let is_mended = Arc::clone(&mended);
        invoicing.judge(move |d| match d.attempt {
            1 if d.event.tenant == "acme" && !is_mended.load(Ordering::SeqCst) => {
                let soon = RetryDelay {
                    delay_ms: 3_000,
                    reason: "not yet".into(),
                };
                Verdict::Refuse(Rejection::RetryAfter(soon))
            }
            _ => Verdict::Handle,
        });
        publish(&ingress, "acme", 0..20).await;
        publish(&ingress, "globex", 0..1).await;
        handles(&invoicing, "globex-000").await;
        // Tenants have partitions of their own in one of them: the other may have been first.
        eventually("all of acme's are refused", || async {
            (attempts(&invoicing, "acme").0 == 20).then_some(())
        })
        .await;
        mended.store(true, Ordering::SeqCst);
        eventually(&format!("{topology}: acme's are handled, too"), || async {
            (invoicing.handled().len() == 21).then_some(())
        })
        .await;
        waits_for_retry(&bench, 0).await;
        assert_eq!(attempts(&invoicing, "acme"), (40, 2), "{topology}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_without_a_wait_stalls_nobody_either() {
    let settings = [("retry.max-attempts", "1000"), ("delivery.batch-size", "1")];
    let bench = Bench::start(&settings, &links("handler", &[("concurrency", "1")])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = Arc::clone(&mended);
    invoicing.judge(move |d| match d.event.tenant.as_str() {
        "acme" if !is_mended.load(Ordering::SeqCst) => Verdict::Refuse(Rejection::RetryNow("at once".into())),
        _ => Verdict::Handle,
    });
    publish(&ingress, "acme", 0..20).await;
    eventually("acme's come again and again", || async {
        (attempts(&invoicing, "acme").1 > 2).then_some(())
    })
    .await;
    publish(&ingress, "globex", 0..3).await;
    handles(&invoicing, "globex-002").await;
    assert!(attempts(&invoicing, "acme").1 < 1000, "acme's go on being refused");
    mended.store(true, Ordering::SeqCst);
    eventually("all are handled", || async {
        (invoicing.handled().len() == 23).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_events_of_every_tenant_stall_no_good_one() {
    let bench = Bench::start(
        &[LATE],
        &links("batch-handler", &[("batch-size", "2"), ("concurrency", "2")]),
    )
    .await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|d| match d.event.id.ends_with("-000") {
        true => Verdict::Refuse(Rejection::Retry("not yet".into())),
        false => Verdict::Handle,
    });
    let tenants: Vec<_> = (0..40).map(|i| format!("t{i}")).collect();
    for tenant in &tenants {
        publish(&ingress, tenant, 0..1).await;
    }
    waits_for_retry(&bench, 40).await;
    for tenant in &tenants {
        publish(&ingress, tenant, 1..2).await;
    }
    eventually("every tenant's next is handled", || async {
        (invoicing.handled().len() == 40).then_some(())
    })
    .await;
    waits_for_retry(&bench, 40).await;
}

/// Due retries that take long may not have all invocations, nor those of one tenant all that are for retries.
#[tokio::test(flavor = "multi_thread")]
async fn due_retries_leave_room_for_first_attempts_and_for_other_tenants() {
    const REFUSED: usize = 60;
    let settings = [("retry.max-attempts", "2"), ("delivery.batch-size", "1")];
    let bench = Bench::start(&settings, &links("handler", &[("concurrency", "2")])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|d| match (d.event.tenant.as_str(), d.attempt) {
        (_, 1) if d.event.tenant != "globex" => Verdict::Refuse(Rejection::Retry("not yet".into())),
        // Each takes the half second of `delivery.deadline`.
        ("acme", _) => Verdict::Hang,
        _ => Verdict::Handle,
    });
    publish(&ingress, "acme", 0..REFUSED).await;
    eventually("acme's retries are under way", || async {
        (attempts(&invoicing, "acme").1 > 1).then_some(())
    })
    .await;
    publish(&ingress, "initech", 0..1).await;
    publish(&ingress, "globex", 0..20).await;
    handles(&invoicing, "globex-019").await;
    handles(&invoicing, "initech-000").await;
    let (delivered, _) = attempts(&invoicing, "acme");
    assert!(delivered < 2 * REFUSED, "acme's retries are not over: {delivered}");
}

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

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_survives_the_provider_and_the_server() {
    let settings = [("retry.schedule", "4s"), ("delivery.batch-size", "1")];
    let mut bench = Bench::start(&settings, &links("handler", &[("concurrency", "2")])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    let mended = Arc::new(AtomicBool::new(false));
    let is_mended = Arc::clone(&mended);
    invoicing.judge(move |_| match is_mended.load(Ordering::SeqCst) {
        true => Verdict::Handle,
        false => Verdict::Refuse(Rejection::Retry("not yet".into())),
    });
    publish(&ingress, "acme", 0..30).await;
    waits_for_retry(&bench, 30).await;
    mended.store(true, Ordering::SeqCst);
    bench.providers[0].kill();
    bench.nats.restart().await;
    bench.restart_provider(0).await;
    eventually("all are handled", || async {
        (invoicing.handled().len() == 30).then_some(())
    })
    .await;
    waits_for_retry(&bench, 0).await;
    let (_, last) = attempts(&invoicing, "acme");
    assert!((2..=3).contains(&last), "attempts go on: {last}");
    // A server that is killed may forget an acknowledgement, and an event then comes once more; what waited goes on.
    let went_on = invoicing.seen(|s| {
        let again = s.deliveries.iter().filter(|d| d.attempt > 1);
        again.map(|d| d.event.id.clone()).collect::<BTreeSet<_>>()
    });
    assert_eq!(went_on.len(), 30, "none that waited began anew alone");
}

/// An instance that has none of its own takes over what another one left.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_delivered_by_whoever_is_left() {
    let mut bench = Bench::start(&[("retry.schedule", "3s")], &links("handler", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|d| match d.attempt {
        1 => Verdict::Refuse(Rejection::Retry("not yet".into())),
        _ => Verdict::Handle,
    });
    publish(&ingress, "acme", 0..10).await;
    waits_for_retry(&bench, 10).await;
    bench.add_provider().await;
    bench.providers[0].kill();
    eventually("all are handled", || async {
        (invoicing.handled().len() == 10).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exhausted_is_a_dead_letter_with_every_reason_and_its_payload() {
    let settings = [("retry.schedule", "20ms"), ("retry.max-attempts", "90")];
    let bench = Bench::start(&settings, &links("handler", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    // Together more than a header of the store has room for.
    let long = "é".repeat(500);
    invoicing.judge(move |d| Verdict::Refuse(Rejection::RetryNow(format!("attempt {} {long}", d.attempt))));
    publish(&ingress, "acme", 0..1).await;
    bench
        .subscription_when("invoicing", "it is a dead letter", |s| {
            s.dead_letters == Some(1) && s.waiting_for_retry == Some(0) && s.in_flight == Some(0)
        })
        .await;
    let cli = Cli::new(bench.nats.url());
    let (code, out, err) = cli.run(&["--json", "dead-letters", "list"], &cli.policy(POLICY), &[]);
    assert_eq!(code, 0, "{err}");
    let letters: Value = serde_json::from_str(&out).unwrap();
    let attempts = letters["dead_letters"][0]["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 90, "{out}");
    for (i, attempt) in attempts.iter().enumerate() {
        let begins = format!("attempt {} é", i + 1);
        assert!(attempt["reason"].as_str().unwrap().starts_with(&begins), "{attempt}");
    }
    let js = async_nats::jetstream::new(bench.client().clone());
    let dead = js.get_stream("fanout_payments_dead").await.unwrap();
    let dead = stored::dead_letter(&dead, "invoicing", "acme", 1).await;
    assert_eq!(dead.payload, "{\"id\":\"acme-000\"}");
    assert!(dead.headers.get("fanout-retry").is_none(), "{:?}", dead.headers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_store_of_retries_loses_nothing_and_says_so() {
    let settings = [
        ("event.max-bytes", "1KiB"),
        ("retry.max-bytes", "4KiB"),
        ("retry.schedule", "1s"),
        ("retry.max-attempts", "3"),
    ];
    let bench = Bench::start(&settings, &links("handler", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|d| match d.event.tenant.as_str() {
        "acme" => Verdict::Refuse(Rejection::Retry(format!("attempt {}", d.attempt))),
        _ => Verdict::Handle,
    });
    publish(&ingress, "acme", 0..60).await;
    let full = bench
        .subscription_when("invoicing", "it says that the store is full", |s| {
            s.code() == "retries-full"
        })
        .await;
    assert_eq!(full.state, State::Active, "deliveries go on: {full:?}");
    let message = full.problem.unwrap().message;
    assert!(
        message.contains("invoicing") && message.contains("retry.max-bytes"),
        "{message}"
    );
    publish(&ingress, "globex", 0..5).await;
    handles(&invoicing, "globex-004").await;
    bench
        .subscription_when("invoicing", "all of acme's are dead letters", |s| {
            s.dead_letters == Some(60)
                && s.waiting_for_retry == Some(0)
                && s.in_flight == Some(0)
                && s.pending == Some(0)
        })
        .await;
    assert_eq!(attempts(&invoicing, "acme").1, 3);
    let cli = Cli::new(bench.nats.url());
    let (_, out, _) = cli.run(&["--json", "dead-letters", "list"], &cli.policy(POLICY), &[]);
    let letters: Value = serde_json::from_str(&out).unwrap();
    for letter in letters["dead_letters"].as_array().unwrap() {
        let reasons: Vec<_> = letter["attempts"]
            .as_array()
            .unwrap()
            .iter()
            .map(|a| &a["reason"])
            .collect();
        assert_eq!(reasons, ["attempt 1", "attempt 2", "attempt 3"], "{letter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_retries_that_is_gone_loses_nothing_and_is_made_again() {
    let bench = Bench::start(&[("retry.schedule", "100ms")], &links("handler", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|d| match d.attempt {
        1 => Verdict::Refuse(Rejection::Retry("not yet".into())),
        _ => Verdict::Handle,
    });
    let js = async_nats::jetstream::new(bench.client().clone());
    js.delete_stream("fanout_payments_retries").await.unwrap();
    publish(&ingress, "acme", 0..5).await;
    eventually("they are handled all the same", || async {
        (invoicing.handled().len() == 5).then_some(())
    })
    .await;
    let cli = Cli::new(bench.nats.url());
    let (code, _, err) = cli.run(&["apply"], &cli.policy(POLICY), &[]);
    assert_eq!(code, 0, "{err}");
    eventually("refused events wait there again", || async {
        let id = format!("again-{}", invoicing.handled().len());
        let published = ingress.publish(event("acme", "invoice.paid", &id)).await;
        published.unwrap();
        handles(&invoicing, &id).await;
        let status = bench.status().await?;
        status.subscriptions[0].problem.is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_between_storing_a_refusal_and_telling_the_log_delivers_nothing_twice() {
    let bench = Bench::start(&[("retry.schedule", "500ms")], &links("handler", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    let js = async_nats::jetstream::new(bench.client().clone());
    let retries = js.get_stream("fanout_payments_retries").await.unwrap();
    // What is stored of a refusal, as an instance wrote it.
    invoicing.judge(|_| Verdict::Refuse(Rejection::Retry("not yet".into())));
    publish(&ingress, "acme", 0..1).await;
    let stored = eventually("it waits", || async {
        let filter = "fanout.retry.payments.invoicing.>";
        retries.get_first_raw_message_by_subject(filter, 1).await.ok()
    })
    .await;
    invoicing.judge(|_| Verdict::Handle);
    handles(&invoicing, "acme-000").await;
    // The same for the next event, which is delivered to an instance that dies before it can tell the log.
    subscriber::pause(invoicing.bus(), CallContext::default(), "invoicing")
        .await
        .unwrap()
        .unwrap();
    bench
        .subscription_when("invoicing", "it is paused", |s| s.state == State::Paused)
        .await;
    publish(&ingress, "acme", 1..2).await;
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    let name = stored::consumer_name(&log, "invoicing").await.unwrap();
    let consumer: PullConsumer = log.get_consumer(&name).await.unwrap();
    let mut taken = consumer.batch().max_messages(1).messages().await.unwrap();
    let taken = taken.next().await.unwrap().unwrap();
    let mut headers = taken.headers.clone().unwrap();
    let note = stored.headers.get("fanout-retry").unwrap().as_str();
    headers = headers
        .iter()
        .filter(|(name, _)| name.to_string().starts_with("ce-"))
        .flat_map(|(name, values)| values.iter().map(move |v| (name.clone(), v.clone())))
        .collect();
    headers.insert("fanout-retry", note);
    let subject = stored.subject.replace(".0.1", ".0.2");
    let publishing = js.publish_with_headers(subject, headers, taken.payload.clone()).await;
    publishing.unwrap().await.unwrap();
    taken.ack_with(AckKind::Nak(None)).await.unwrap();
    subscriber::resume(invoicing.bus(), CallContext::default(), "invoicing")
        .await
        .unwrap()
        .unwrap();
    handles(&invoicing, "acme-001").await;
    waits_for_retry(&bench, 0).await;
    let of_it = invoicing.seen(|s| {
        let of_it = s.deliveries.iter().filter(|d| d.event.id == "acme-001");
        of_it.map(|d| d.attempt).collect::<Vec<_>>()
    });
    assert_eq!(of_it, [2], "it comes once, as the attempt that it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_subscription_is_given_no_retries() {
    let mut bench = Bench::start(&[("retry.schedule", "500ms")], &links("handler", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|d| match d.attempt {
        1 => Verdict::Refuse(Rejection::Retry("not yet".into())),
        _ => Verdict::Handle,
    });
    publish(&ingress, "acme", 0..5).await;
    eventually("all are refused", || async {
        (attempts(&invoicing, "acme").0 >= 5).then_some(())
    })
    .await;
    subscriber::pause(invoicing.bus(), CallContext::default(), "invoicing")
        .await
        .unwrap()
        .unwrap();
    bench
        .subscription_when("invoicing", "it is paused", |s| s.state == State::Paused)
        .await;
    let handled = invoicing.handled().len();
    bench.restart_provider(0).await;
    let status = waits_for_retry(&bench, 5 - handled).await;
    assert_eq!((status.state, invoicing.handled().len()), (State::Paused, handled));
    subscriber::resume(invoicing.bus(), CallContext::default(), "invoicing")
        .await
        .unwrap()
        .unwrap();
    eventually("all are handled", || async {
        (invoicing.handled().len() == 5).then_some(())
    })
    .await;
}

async fn make(who: &Component, start: Option<Start>) {
    let options = every_event();
    let made = match &start {
        None => subscriber::subscribe_durable(who.bus(), CallContext::default(), "mine", &options).await,
        Some(start) => {
            let context = CallContext::default();
            subscriber::subscribe_backfill(who.bus(), context, "mine", start, None, &options).await
        }
    };
    made.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_used_again_is_given_nothing_of_before() {
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("billing", &["subscriber"], "*"),
    ];
    let bench = Bench::start(&[("retry.schedule", "1s")], &links).await;
    let ingress = bench.silent_component("ingress").await;
    let billing = bench.component("billing").await;
    billing.judge(refuses_acme);
    make(&billing, None).await;
    publish(&ingress, "acme", 0..5).await;
    bench
        .subscription_when("mine", "all wait", |s| s.waiting_for_retry == Some(5))
        .await;
    let ended = subscriber::unsubscribe(billing.bus(), CallContext::default(), "mine").await;
    ended.unwrap().unwrap();
    let js = async_nats::jetstream::new(bench.client().clone());
    let retries = js.get_stream("fanout_payments_retries").await.unwrap();
    eventually("nothing is kept for it", || async {
        (retries.get_info().await.ok()?.state.messages == 0).then_some(())
    })
    .await;
    let before = attempts(&billing, "acme");
    billing.judge(|_| Verdict::Handle);
    make(&billing, None).await;
    publish(&ingress, "acme", 5..6).await;
    handles(&billing, "acme-005").await;
    bench
        .subscription_when("mine", "nothing waits", |s| {
            s.waiting_for_retry == Some(0) && s.pending == Some(0) && s.in_flight == Some(0)
        })
        .await;
    assert_eq!(billing.handled(), ["acme-005"]);
    assert_eq!(attempts(&billing, "acme").0, before.0 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_has_caught_up_once_its_retries_are_settled() {
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("billing", &["subscriber"], "*"),
    ];
    let bench = Bench::start(&[LATE, ("retry.max-attempts", "9")], &links).await;
    let ingress = bench.silent_component("ingress").await;
    let billing = bench.component("billing").await;
    publish(&ingress, "acme", 0..10).await;
    let refused = Arc::new(AtomicBool::new(true));
    let is_refused = Arc::clone(&refused);
    billing.judge(move |d| match d.event.id.as_str() {
        "acme-003" if is_refused.load(Ordering::SeqCst) => {
            let soon = RetryDelay {
                delay_ms: 200,
                reason: "not yet".into(),
            };
            Verdict::Refuse(Rejection::RetryAfter(soon))
        }
        _ => Verdict::Handle,
    });
    make(&billing, Some(Start::First)).await;
    eventually("all others are handled, and it was refused some times", || async {
        let (_, last) = attempts(&billing, "acme");
        (billing.handled().len() == 9 && last > 2).then_some(())
    })
    .await;
    bench
        .subscription_when("mine", "it still replays", |s| {
            s.state == State::CatchingUp && s.waiting_for_retry == Some(1)
        })
        .await;
    refused.store(false, Ordering::SeqCst);
    bench
        .subscription_when("mine", "it has caught up", |s| s.state == State::Active)
        .await;
    assert_eq!(billing.handled().len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_gives_everything_once_and_passes_over_nothing_that_waits() {
    let bench = Bench::start(&[LATE], &links("handler", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|d| match d.event.id.as_str() {
        "acme-001" => Verdict::Refuse(Rejection::Retry("not yet".into())),
        _ => Verdict::Handle,
    });
    publish(&ingress, "acme", 0..4).await;
    waits_for_retry(&bench, 1).await;
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(POLICY);
    let (code, _, err) = cli.run(&["rewind"], &policy, &["invoicing", "--to", "position:0/4"]);
    assert!(
        code != 0 && err.contains("0/2") && err.contains("[would-lose-events]"),
        "{code} {err}"
    );
    let before = invoicing.seen(|s| s.deliveries.len());
    invoicing.judge(|_| Verdict::Handle);
    let (code, _, err) = cli.run(&["rewind"], &policy, &["invoicing", "--to", "first"]);
    assert_eq!(code, 0, "{err}");
    eventually("all come again", || async {
        (invoicing.seen(|s| s.deliveries.len()) == before + 4).then_some(())
    })
    .await;
    waits_for_retry(&bench, 0).await;
    let again = invoicing.seen(|s| s.deliveries[before..].to_vec());
    assert!(
        again.iter().all(|d| d.attempt == 1),
        "attempts are counted anew: {again:?}"
    );
    assert_eq!(invoicing.handled().len(), 4);
}

/// What was refused when there was no order is delivered when there is one.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_when_an_order_is_asked_for_is_delivered() {
    for reach in ["handler", "inbox"] {
        let mut bench = Bench::start(&[("retry.schedule", "3s")], &links(reach, &[])).await;
        let ingress = bench.silent_component("ingress").await;
        let invoicing = bench.component("invoicing").await;
        invoicing.judge(|d| match d.attempt {
            1 => Verdict::Refuse(Rejection::Retry("not yet".into())),
            _ => Verdict::Handle,
        });
        publish(&ingress, "acme", 0..3).await;
        if reach == "inbox" {
            for _ in 0..3 {
                let held = next(&invoicing, "invoicing").await;
                settles(&invoicing, &held, Said::Rejected(Rejection::Retry("not yet".into()))).await;
            }
        }
        waits_for_retry(&bench, 3).await;
        bench.set("ordering", "tenant");
        bench.restart_provider(0).await;
        if reach == "inbox" {
            for _ in 0..3 {
                let held = next(&invoicing, "invoicing").await;
                assert_eq!(held.delivery.attempt, 2);
                settles(&invoicing, &held, Said::Handled).await;
            }
        } else {
            eventually("all are handled", || async {
                (invoicing.handled().len() == 3).then_some(())
            })
            .await;
        }
        waits_for_retry(&bench, 0).await;
    }
}

/// Whatever another client writes on the subjects of retries stops nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_another_client_wrote_among_the_retries_stops_nothing() {
    let bench = Bench::start(&[("retry.schedule", "300ms")], &links("handler", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|d| match d.attempt {
        1 => Verdict::Refuse(Rejection::Retry("not yet".into())),
        _ => Verdict::Handle,
    });
    publish(&ingress, "acme", 0..1).await;
    let js = async_nats::jetstream::new(bench.client().clone());
    let retries = js.get_stream("fanout_payments_retries").await.unwrap();
    let stored = eventually("it waits", || async {
        let filter = "fanout.retry.payments.invoicing.>";
        retries.get_first_raw_message_by_subject(filter, 1).await.ok()
    })
    .await;
    let beside = |tail: &str| stored.subject.replace(".0.1", tail);
    for subject in [beside(".0.7"), beside(".x"), "fanout.retry.payments.stranger".into()] {
        js.publish(subject, "nothing".into()).await.unwrap().await.unwrap();
    }
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(
        "fanout-retry",
        r#"{"tenant":"acme","type":"a.b","due":0,"published":0,"attempts":[]}"#,
    );
    let published = js
        .publish_with_headers(beside(".0.9"), headers, "no attributes".into())
        .await;
    published.unwrap().await.unwrap();
    handles(&invoicing, "acme-000").await;
    bench
        .subscription_when("invoicing", "what is no event is a dead letter", |s| {
            s.waiting_for_retry == Some(0) && s.dead_letters == Some(1)
        })
        .await;
    tokio::time::timeout(Duration::from_secs(20), publish(&ingress, "globex", 0..1))
        .await
        .unwrap();
    handles(&invoicing, "globex-000").await;
}

/// The same for letters that are redriven: each waits in its tenant's line, and no tenant's line is all that is held.
#[tokio::test(flavor = "multi_thread")]
async fn redriven_letters_that_are_refused_hold_up_no_other_tenants() {
    const LETTERS: usize = 1_050;
    let bench = Bench::start(&[LATE, ("retry.max-attempts", "6")], &links("handler", &[])).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|_| Verdict::Refuse(Rejection::DeadLetter("never".into())));
    ingress.publish_backlog("acme", LETTERS).await;
    publish(&ingress, "globex", 0..1).await;
    bench
        .subscription_when("invoicing", "all are dead letters", |s| {
            s.dead_letters == Some(LETTERS as u64 + 1) && s.in_flight == Some(0)
        })
        .await;
    let before = attempts(&invoicing, "acme").0;
    invoicing.judge(refuses_acme);
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(POLICY);
    let redrive = |tenant: &str| {
        let (code, _, err) = cli.run(&["dead-letters", "redrive"], &policy, &["--all", "--tenant", tenant]);
        assert_eq!(code, 0, "{err}");
    };
    redrive("acme");
    eventually("acme's first is refused", || async {
        (attempts(&invoicing, "acme").0 == before + 1).then_some(())
    })
    .await;
    redrive("globex");
    handles(&invoicing, "globex-000").await;
    assert_eq!(
        attempts(&invoicing, "acme").0,
        before + 1,
        "acme's first waits, and the others behind it"
    );
}
