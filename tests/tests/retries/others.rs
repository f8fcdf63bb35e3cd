//! What is refused holds up no other event, whatever the topology and whoever refuses.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use fanout_tests::types::{Rejection, RetryDelay};
use fanout_tests::{Bench, Cli, State, Verdict, eventually, subscriber};
use fanout_transport::CallContext;

use super::{LATE, POLICY, attempts, handles, links, publish, refuses_acme, waits_for_retry};

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
