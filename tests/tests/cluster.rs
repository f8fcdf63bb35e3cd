//! A bus of three copies on three servers: one of them may go at any time, and nothing that was accepted is lost.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use fanout_tests::nemesis::Nemesis;
use fanout_tests::types::PublishError;
use fanout_tests::{
    Bench, BusStatus, Cli, Component, LinkTo, Verdict, event, eventually, fetcher, ingress_and_invoicing, publisher,
    stored,
};
use fanout_transport::CallContext;
use futures::TryStreamExt as _;

/// As a careful publisher: the same id until there is a receipt.
async fn publish(ingress: &Component, ids: std::ops::Range<usize>) -> Vec<String> {
    let mut stored = Vec::new();
    for i in ids {
        let id = format!("e{i}");
        eventually("an event is accepted", || async {
            match ingress.publish(event("acme", "invoice.paid", &id)).await {
                Ok(_) => Some(()),
                Err(PublishError::Unavailable(_) | PublishError::OutcomeUnknown(_)) => None,
                Err(e) => panic!("{e:?}"),
            }
        })
        .await;
        stored.push(id);
    }
    stored
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_three_may_go_at_any_time() {
    let links = ingress_and_invoicing();
    let settings = [("retention.replicas", "3")];
    let (mut bench, mut others) = Bench::without_provider_in_cluster(&settings, &links).await;
    let js = async_nats::jetstream::new(bench.client().clone());
    bench.add_provider().await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    let mut stored = publish(&ingress, 0..50).await;
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    assert_eq!(log.cached_info().config.num_replicas, 3);

    let mut next = 50;
    for gone in &mut others {
        gone.kill();
        stored.extend(publish(&ingress, next..next + 50).await);
        next += 50;
        eventually("what is stored without it is handled", || async {
            let handled: BTreeSet<_> = invoicing.handled().into_iter().collect();
            (handled.len() == stored.len()).then_some(())
        })
        .await;
        gone.restart().await;
        eventually("it has what the others have", || async {
            let info = js.get_stream("fanout_payments_log").await.ok()?;
            let replicas = &info.cached_info().cluster.as_ref()?.replicas;
            (replicas.len() == 2 && replicas.iter().all(|r| r.current && !r.offline)).then_some(())
        })
        .await;
    }
    let handled: BTreeSet<_> = invoicing.handled().into_iter().collect();
    assert_eq!(handled, stored.into_iter().collect());
    eventually("the log holds each once", || async {
        let log = js.get_stream("fanout_payments_log").await.ok()?;
        (log.cached_info().state.messages == next as u64).then_some(())
    })
    .await;
}

/// The log's name, and that of the server that leads it.
async fn leader(js: &jetstream::Context) -> Option<String> {
    let log = js.get_stream("fanout_payments_log").await.ok()?;
    log.cached_info().cluster.as_ref()?.leader.clone()
}

/// The list of streams leaves out one that has no leader: what is in it is not known then, and not nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_counts_nothing_where_the_log_has_no_leader() {
    let settings = [("retention.replicas", "3")];
    let (mut bench, mut others) = Bench::without_provider_in_cluster(&settings, &ingress_and_invoicing()).await;
    bench.add_provider().await;
    let ingress = bench.silent_component("ingress").await;
    // Nobody is there to handle them.
    publish(&ingress, 0..3).await;
    let js = jetstream::new(bench.client().clone());
    let nemesis = Nemesis::on(bench.client());
    let mut names = Vec::new();
    for other in &others {
        names.push(other.client().await.server_info().server_name);
    }
    let leads = eventually("a server leads that can be killed", || async {
        let found = leader(&js).await?;
        let leads = names.iter().position(|name| *name == found);
        if leads.is_none() {
            nemesis.step_down("fanout_payments_log").await;
        }
        leads
    })
    .await;
    others[leads].kill();
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(
        "bus = \"payments\"\nsubject = \"payments.{tenant}.webhook.{event-type}\"\n[retention]\nreplicas = 3\n",
    );
    eventually("the status counts them again", || async {
        let (code, out, _) = cli.run(&["--json", "status"], &policy, &[]);
        let status: BusStatus = (code == 0).then(|| serde_json::from_str(&out).unwrap())?;
        let backlog = status.subscription("invoicing")?.backlog();
        assert!(matches!(backlog, None | Some(3)), "{out}");
        backlog.map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_three_servers_keep_is_fetched_as_it_is_asked_for() {
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber("worker", &["inbox"], &[("subscription", "work"), ("need", "durable")]),
        LinkTo::caller("worker", &["inbox"], "*"),
    ];
    let (mut bench, _others) = Bench::without_provider_in_cluster(&[("retention.replicas", "3")], &links).await;
    bench.add_provider().await;
    let ingress = bench.silent_component("ingress").await;
    let worker = bench.silent_component("worker").await;
    let published = publish(&ingress, 0..50).await;
    let mut fetched = Vec::new();
    // The server says that it has given what was asked for before it sends it.
    while fetched.len() < published.len() {
        let deliveries = fetcher::fetch(&worker, "work", 10, 2_000).await;
        assert!(!deliveries.is_empty(), "{} of {} came", fetched.len(), published.len());
        assert!(deliveries.iter().all(|d| d.delivery.attempt == 1), "{deliveries:?}");
        fetched.extend(deliveries.into_iter().map(|d| d.delivery.event.id));
    }
    fetched.sort_unstable();
    let mut published = published;
    published.sort_unstable();
    assert_eq!(fetched, published);
}

/// Its log is asked what it knows, by publishes that the servers refuse: whoever refuses one only when it is applied has
/// no log any more.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_replicated_log_is_asked_does_not_stop_it() {
    let mut bench = Bench::start_on_three(&[], &ingress_and_invoicing()).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    let first = ingress.publish(event("acme", "invoice.paid", "first")).await.unwrap();
    // Is it there already? It is not.
    let due = event("acme", "invoice.paid", "due");
    let kept = publisher::publish_tenant_event_at(ingress.bus(), CallContext::default(), &due, 1).await;
    kept.expect("the bus answers").expect("it is kept");
    eventually("what is due is published", || async {
        (invoicing.handled() == ["due", "first"]).then_some(())
    })
    .await;
    // From now on the log of before is asked, too: of events that it does not know, and of one that it does.
    bench.change("topology", "sharded(2)").await;
    let mut others = 0;
    eventually("events go to the next log", || {
        others += 1;
        let next = event("acme", "invoice.paid", &format!("next-{others}"));
        let ingress = &ingress;
        async move {
            let receipt = ingress.publish(next).await.ok()?;
            (receipt.position.partition != first.position.partition).then_some(())
        }
    })
    .await;
    let again = ingress.publish(event("acme", "invoice.paid", "first")).await.unwrap();
    let same = (again.position.partition, again.position.offset) == (first.position.partition, first.position.offset);
    assert!(again.duplicate && same, "{again:?}");
}

/// The server does not report where a replicated consumer began before the first settlement.
async fn begins_where_it_began(is_delivered: bool) {
    let settings = [
        ("queue.delivery", "at-least-once"),
        ("delivery.deadline", "1m"),
        ("delivery.ack-wait", "3m"),
    ];
    let mut bench = Bench::start_on_three(&settings, &ingress_and_invoicing()).await;
    let ingress = bench.silent_component("ingress").await;
    publish(&ingress, 0..5).await;
    let late = LinkTo::subscriber("late", &["handler"], &[("subscription", "late"), ("need", "queue")]);
    bench.put_link(&late).await;
    bench
        .subscription_when("late", "it is made", |s| s.problem.is_none())
        .await;
    publish(&ingress, 5..7).await;
    let js = jetstream::new(bench.client().clone());
    let log = js.get_stream("fanout_payments_log").await.unwrap();
    let consumer = eventually("it has a consumer", || async {
        let names: Vec<String> = log.consumer_names().try_collect().await.ok()?;
        names.into_iter().find(|name| name.starts_with("late"))
    })
    .await;
    let worker = bench.silent_component("late").await;
    let is_over = Arc::new(AtomicBool::new(false));
    let ends = Arc::clone(&is_over);
    worker.judge(move |_| {
        let began = Instant::now();
        tokio::task::block_in_place(|| {
            // A test that fails does not hang.
            while !ends.load(Ordering::Acquire) && began.elapsed() < Duration::from_secs(60) {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Verdict::Handle
    });
    if is_delivered {
        worker.up().await;
        eventually("events are in its hands", || async {
            let info = log.consumer_info(&consumer).await.ok()?;
            (info.num_ack_pending > 0).then_some(())
        })
        .await;
        // The next instance notes what it finds.
        bench.restart_provider(0).await;
        eventually("what is in flight is noted", || async {
            let floors = stored::floors(bench.client()).await?;
            let of_late = floors.iter().find(|floor| floor.settled_to == 5)?;
            (of_late.delivered_to > 5).then_some(())
        })
        .await;
    }
    log.delete_consumer(&consumer).await.unwrap();
    eventually("it is made again", || async {
        log.consumer_info(&consumer).await.ok().map(drop)
    })
    .await;
    is_over.store(true, Ordering::Release);
    if !is_delivered {
        worker.up().await;
    }
    publish(&ingress, 7..8).await;
    eventually("what came since it began is handled", || async {
        let handled: BTreeSet<_> = worker.handled().into_iter().collect();
        ["e5", "e6", "e7"].iter().all(|id| handled.contains(*id)).then_some(())
    })
    .await;
    let earlier = worker.handled().into_iter().find(|id| id.as_str() < "e5");
    assert_eq!(earlier, None, "it was stored before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replicated_consumer_that_is_made_again_begins_where_it_began() {
    begins_where_it_began(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn and_so_does_one_whose_deliveries_are_in_flight() {
    begins_where_it_began(true).await;
}
