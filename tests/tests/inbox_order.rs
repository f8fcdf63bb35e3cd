//! `ordering` where deliveries are fetched: of each key one event is in hand at a time, and its others wait until it is
//! settled, whoever fetches and whichever instance answers.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanout_tests::fetcher::{fetch, goes_through, ids, never, next, retry, settle, settles};
use fanout_tests::inbox;
use fanout_tests::types::{
    Event, LeasedDelivery, Origin, Rejection, RetryDelay, SettleError, Settlement, SettlementOutcome, Verdict,
};
use fanout_tests::{Bench, Cli, Component, LinkTo, event, eventually};
use fanout_transport::{CallContext, Client, Lattice, Options, encode};
use futures::TryStreamExt as _;

fn links() -> Vec<LinkTo> {
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("billing", &["inbox"], "*"),
        LinkTo::subscriber(
            "billing",
            &["inbox"],
            &[("subscription", "billing"), ("need", "durable")],
        ),
    ]
}

/// So many deliveries, in the log's order.
async fn at_hand(billing: &Component, count: usize) -> Vec<LeasedDelivery> {
    let mut held = Vec::new();
    while held.len() < count {
        held.push(next(billing, "billing").await);
    }
    held.sort_by_key(|h| h.delivery.position.offset);
    held
}

/// Events of `acme` with these numbers.
async fn publish(ingress: &Component, numbers: std::ops::Range<usize>) {
    for i in numbers {
        let published = ingress.publish(event("acme", "invoice.paid", &format!("acme-{i:02}")));
        published.await.unwrap();
    }
}

fn note(handled: &mut BTreeMap<String, Vec<String>>, held: &LeasedDelivery) {
    let event = &held.delivery.event;
    handled.entry(event.tenant.clone()).or_default().push(event.id.clone());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_retry_holds_its_tenant_and_nobody_else() {
    let bench = Bench::start(&[("ordering", "tenant")], &links()).await;
    let billing = bench.silent_component("billing").await;
    let ingress = bench.silent_component("ingress").await;
    ingress.publish_in_turn(&["acme", "globex"], 3).await;

    let held = at_hand(&billing, 2).await;
    assert_eq!(ids(&held), ["acme-00", "globex-00"], "however many are asked for");
    assert!(fetch(&billing, "billing", 10, 0).await.is_empty(), "they are in hand");
    let later = RetryDelay {
        delay_ms: 2_000,
        reason: "not yet".into(),
    };
    settles(&billing, &held[0], Verdict::Rejected(Rejection::RetryAfter(later))).await;
    settles(&billing, &held[1], Verdict::Handled).await;
    let other = next(&billing, "billing").await;
    assert_eq!(other.delivery.event.id, "globex-01");
    settles(&billing, &other, Verdict::Released).await;
    for expected in ["globex-01", "globex-02"] {
        let other = next(&billing, "billing").await;
        assert_eq!(other.delivery.event.id, expected);
        settles(&billing, &other, Verdict::Handled).await;
    }
    let again = next(&billing, "billing").await;
    assert_eq!(
        (again.delivery.event.id.as_str(), again.delivery.attempt),
        ("acme-00", 2)
    );
    settles(&billing, &again, never("broken")).await;
    let second = next(&billing, "billing").await;
    assert_eq!(second.delivery.event.id, "acme-01", "a dead letter leaves the line");
    settles(&billing, &second, Verdict::Handled).await;
    settles(&billing, &second, Verdict::Handled).await;
    assert_eq!(next(&billing, "billing").await.delivery.event.id, "acme-02");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_keys_one_event_of_each_is_in_hand() {
    let bench = Bench::start(&[("ordering", "key")], &links()).await;
    let billing = bench.silent_component("billing").await;
    let ingress = bench.silent_component("ingress").await;
    for i in 0..2 {
        for key in ["a", "b"] {
            let keyed = Event {
                ordering_key: Some(key.into()),
                ..event("acme", "invoice.paid", &format!("{key}-{i}"))
            };
            ingress.publish(keyed).await.unwrap();
        }
    }
    let held = at_hand(&billing, 2).await;
    assert_eq!(ids(&held), ["a-0", "b-0"]);
    assert!(fetch(&billing, "billing", 10, 0).await.is_empty(), "they are in hand");
    settles(&billing, &held[1], Verdict::Handled).await;
    assert_eq!(next(&billing, "billing").await.delivery.event.id, "b-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_finds_the_owner_from_any_instance() {
    const TENANTS: usize = 20;
    let mut bench = Bench::start(&[("ordering", "tenant")], &links()).await;
    bench.add_provider().await;
    let billing = bench.silent_component("billing").await;
    let ingress = bench.silent_component("ingress").await;
    let tenants: Vec<String> = (0..TENANTS).map(|i| format!("tenant{i}")).collect();
    let tenants: Vec<&str> = tenants.iter().map(String::as_str).collect();
    ingress.publish_in_turn(&tenants, 1).await;
    let first = next(&billing, "billing").await;
    settles(&billing, &first, Verdict::Handled).await;
    // The server draws who answers: about every other fetch meets one that is not the owner.
    for i in 1..TENANTS {
        let held = fetch(&billing, "billing", 1, 5_000).await;
        assert_eq!(held.len(), 1, "fetch {i}");
        assert!(!held[0].delivery.event.data.is_empty());
        settles(&billing, &held[0], Verdict::Handled).await;
    }
}

/// A secret that is deleted is put back by who knows it, and one that an instance made meanwhile is taken over by all: fetches
/// and settlements meet any instance, and most are not the owner.
#[tokio::test(flavor = "multi_thread")]
async fn instances_agree_again_after_their_secret_was_deleted_or_overwritten() {
    const IN_A_ROW: usize = 16;
    let mut bench = Bench::start(&[("ordering", "tenant")], &links()).await;
    bench.add_provider().await;
    let billing = bench.silent_component("billing").await;
    let ingress = bench.silent_component("ingress").await;
    let published = AtomicUsize::new(0);
    let all_agree = async || {
        eventually("each instance takes the others' requests", async || {
            for _ in 0..IN_A_ROW {
                let id = format!("e{}", published.fetch_add(1, Ordering::Relaxed));
                if !goes_through(&ingress, &billing, "billing", &id).await {
                    return None;
                }
            }
            Some(())
        })
        .await;
    };
    let js = async_nats::jetstream::new(bench.client().clone());
    let registry = js.get_stream("KV_fanout_payments_registry").await.unwrap();
    all_agree().await;
    let secret = "$KV.fanout_payments_registry.inbox.secret";
    for is_deleted in [true, false] {
        match is_deleted {
            true => assert_eq!(registry.purge().filter(secret).await.unwrap().purged, 1),
            // What is no secret is taken by nobody.
            false => drop(js.publish(secret, "no secret".into()).await.unwrap().await.unwrap()),
        }
        // It needs one at once, and makes its own.
        bench.add_provider().await;
        all_agree().await;
    }
}

/// Where the owner serves the other instances.
async fn owner_address(bench: &Bench) -> String {
    let js = async_nats::jetstream::new(bench.client().clone());
    let entry = eventually("somebody is the owner", || async {
        let bucket = js.get_key_value("fanout_payments_leases").await.ok()?;
        let keys: Vec<String> = bucket.keys().await.ok()?.try_collect().await.ok()?;
        let key = keys.into_iter().find(|key| key.ends_with("=order.owner"))?;
        bucket.get(&key).await.ok()?
    })
    .await;
    let entry: serde_json::Value = serde_json::from_slice(&entry).unwrap();
    entry["owner"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_answers_instances_of_its_bus_and_nobody_else() {
    let mut bench = Bench::start(&[("ordering", "tenant")], &links()).await;
    bench.add_provider().await;
    let billing = bench.silent_component("billing").await;
    let ingress = bench.silent_component("ingress").await;
    ingress.publish_in_turn(&["acme"], 1).await;
    let address = owner_address(&bench).await;
    assert!(address.starts_with("fanout.instance.payments."), "{address}");
    let lattice = Lattice::new(bench.nats.client().await, Options::default()).await;
    let stranger = Client::new(&lattice.unwrap(), &address, "billing");
    let sealed = next(&billing, "billing").await;
    settles(&billing, &sealed, Verdict::Released).await;
    let guesses: [&[u8]; 4] = [
        b"",
        br#"{"caller":"billing","until":9223372036854775807,"asks":{}}"#,
        &[0; 4_096],
        // What the bus has sealed, for something else.
        &sealed.token,
    ];
    for guess in guesses {
        for function in ["fetch", "settle"] {
            let params = encode((Bytes::copy_from_slice(guess),)).unwrap();
            let context = CallContext::within(Duration::from_secs(5));
            let answer = stranger.call(context, "fanout:instances/inbox", function, params).await;
            let refused = answer.expect_err("a stranger is refused").to_string();
            assert!(
                refused.contains("only instances of the bus are served here"),
                "{refused}"
            );
        }
    }
    assert_eq!(next(&billing, "billing").await.delivery.event.id, "acme-00");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lent_by_an_instance_that_ended_is_settled_without_it() {
    let settings = [
        ("ordering", "tenant"),
        ("delivery.deadline", "500ms"),
        ("delivery.ack-wait", "5s"),
    ];
    let mut bench = Bench::start(&settings, &links()).await;
    let billing = bench.silent_component("billing").await;
    let ingress = bench.silent_component("ingress").await;
    ingress.publish_in_turn(&["acme"], 2).await;
    let held = next(&billing, "billing").await;
    bench.restart_provider(0).await;
    match settle(&billing, &held, Verdict::StillWorking).await {
        Err(SettleError::LeaseExpired(p)) => assert!(p.message.contains("has ended"), "{}", p.message),
        other => panic!("{other:?}"),
    }
    settles(&billing, &held, Verdict::Handled).await;
    // The next owner takes over after the last one's term.
    let end = Instant::now() + Duration::from_secs(60);
    let second = loop {
        assert!(Instant::now() < end, "nothing came");
        if let Some(second) = fetch(&billing, "billing", 1, 5_000).await.pop() {
            break second;
        }
    };
    assert_eq!(second.delivery.event.id, "acme-01");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_refusal_of_what_another_owner_leases_by_then_is_an_attempt() {
    let settings = [
        ("ordering", "tenant"),
        ("retry.schedule", "1ms"),
        ("delivery.deadline", "500ms"),
        ("delivery.ack-wait", "2s"),
    ];
    let mut bench = Bench::start(&settings, &links()).await;
    let billing = bench.silent_component("billing").await;
    publish(&bench.silent_component("ingress").await, 0..1).await;
    let first = next(&billing, "billing").await;
    bench.restart_provider(0).await;
    let second = next(&billing, "billing").await;
    assert_eq!(second.delivery.event.id, first.delivery.event.id);
    settles(&billing, &first, retry("late")).await;
    settles(&billing, &second, Verdict::Released).await;
    let third = next(&billing, "billing").await;
    assert_eq!((second.delivery.attempt, third.delivery.attempt), (1, 2));
    settles(&billing, &third, Verdict::Handled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_goes_on_as_it_is_told_to_and_then_ends() {
    let settings = [
        ("ordering", "tenant"),
        ("delivery.deadline", "500ms"),
        ("delivery.ack-wait", "2s"),
    ];
    let bench = Bench::start(&settings, &links()).await;
    let billing = bench.silent_component("billing").await;
    let ingress = bench.silent_component("ingress").await;
    ingress.publish_in_turn(&["acme"], 2).await;

    let mut held = next(&billing, "billing").await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        match settle(&billing, &held, Verdict::StillWorking).await {
            Ok(SettlementOutcome::Extended(token)) => held.token = token,
            other => panic!("{other:?}"),
        }
        assert!(fetch(&billing, "billing", 10, 0).await.is_empty(), "it is in hand");
    }
    let again = next(&billing, "billing").await;
    assert_eq!(
        (again.delivery.event.id.as_str(), again.delivery.attempt),
        ("acme-00", 1),
        "what nobody settles comes again, before the next of its tenant"
    );
    let late = settle(&billing, &held, Verdict::Released).await;
    assert!(matches!(late, Err(SettleError::LeaseExpired(_))), "{late:?}");
    settles(&billing, &again, Verdict::Handled).await;
    assert_eq!(next(&billing, "billing").await.delivery.event.id, "acme-01");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redriven_letter_waits_for_its_tenants_event_in_hand() {
    let bench = Bench::start(&[("ordering", "tenant")], &links()).await;
    let billing = bench.silent_component("billing").await;
    let ingress = bench.silent_component("ingress").await;
    ingress.publish_in_turn(&["acme"], 3).await;
    let first = next(&billing, "billing").await;
    settles(&billing, &first, never("broken")).await;
    let second = next(&billing, "billing").await;
    assert_eq!(second.delivery.event.id, "acme-01");

    let cli = Cli::new(bench.nats.url());
    let policy =
        cli.policy("bus = \"payments\"\nsubject = \"payments.{tenant}.webhook.{event-type}\"\nordering = \"tenant\"\n");
    assert_eq!(cli.run(&["dead-letters", "redrive"], &policy, &["--all"]).0, 0);
    // Whenever it comes to hear of it, there is nothing to lend.
    assert!(fetch(&billing, "billing", 10, 1_000).await.is_empty());
    settles(&billing, &second, Verdict::Handled).await;
    let letter = next(&billing, "billing").await;
    assert_eq!(
        (letter.delivery.event.id.as_str(), letter.delivery.origin),
        ("acme-00", Origin::Replayed)
    );
    assert!(
        fetch(&billing, "billing", 10, 0).await.is_empty(),
        "one of its tenant is in hand"
    );
    settles(&billing, &letter, Verdict::Handled).await;
    assert_eq!(next(&billing, "billing").await.delivery.event.id, "acme-02");
    eventually("no letter is left", || async {
        (bench.status().await?.subscriptions[0].dead_letters == Some(0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_is_killed_costs_a_wait_and_no_order() {
    let settings = [
        ("ordering", "tenant"),
        ("retry.schedule", "1ms"),
        ("delivery.deadline", "500ms"),
        ("delivery.ack-wait", "2s"),
    ];
    let mut bench = Bench::start(&settings, &links()).await;
    bench.add_provider().await;
    let billing = bench.silent_component("billing").await;
    let ingress = bench.silent_component("ingress").await;
    ingress.publish_in_turn(&["acme", "globex"], 8).await;
    // Whichever of them is the owner: each is killed with events in hand, and what is in hand is settled without it.
    let mut handled = BTreeMap::<String, Vec<String>>::new();
    for killed in [Some(0), Some(1), None] {
        let in_hand = at_hand(&billing, 2).await;
        if let Some(killed) = killed {
            bench.restart_provider(killed).await;
        }
        for (i, held) in in_hand.iter().enumerate() {
            let verdict = if i == 0 { retry("not yet") } else { Verdict::Handled };
            let is_handled = i > 0;
            let settled = eventually("it is settled", || async {
                let settlement = Settlement {
                    token: held.token.clone(),
                    verdict: verdict.clone(),
                };
                let within = CallContext::within(Duration::from_secs(5));
                let answers = inbox::settle(billing.bus(), within, &[settlement]).await.ok()?;
                match answers.into_iter().next()? {
                    Err(SettleError::Unavailable(_)) => None,
                    answer => Some(answer),
                }
            })
            .await;
            assert!(matches!(settled, Ok(SettlementOutcome::Settled)), "{settled:?}");
            if is_handled {
                note(&mut handled, held);
            }
        }
        let again = next(&billing, "billing").await;
        settles(&billing, &again, Verdict::Handled).await;
        note(&mut handled, &again);
    }
    while handled.values().map(Vec::len).sum::<usize>() < 16 {
        let held = next(&billing, "billing").await;
        settles(&billing, &held, Verdict::Handled).await;
        note(&mut handled, &held);
    }
    for tenant in ["acme", "globex"] {
        let expected: Vec<_> = (0..8).map(|i| format!("{tenant}-{i:02}")).collect();
        assert_eq!(handled[tenant], expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fetchers_at_two_instances_keep_each_tenants_order() {
    const EVENTS: usize = 20;
    let tenants = ["acme", "globex"];
    let settings = [
        ("ordering", "tenant"),
        ("topology", "sharded(2)"),
        ("retry.schedule", "1ms"),
    ];
    let mut bench = Bench::start(&settings, &links()).await;
    bench.add_provider().await;
    let billing = bench.silent_component("billing").await;
    let ingress = bench.silent_component("ingress").await;
    ingress.publish_in_turn(&tenants, EVENTS).await;

    let handled = Mutex::new(BTreeMap::<String, Vec<String>>::new());
    let attempts = Mutex::new(BTreeMap::<String, u32>::new());
    let count = || handled.lock().unwrap().values().map(Vec::len).sum::<usize>();
    let work = || async {
        while count() < tenants.len() * EVENTS {
            for held in fetch(&billing, "billing", 4, 200).await {
                let (tenant, id) = (held.delivery.event.tenant.clone(), held.delivery.event.id.clone());
                let tries = {
                    let mut attempts = attempts.lock().unwrap();
                    let tries = attempts.entry(id.clone()).or_default();
                    *tries += 1;
                    *tries
                };
                if tries == 1 && id.ends_with(['1', '4', '7']) {
                    settles(&billing, &held, retry("not yet")).await;
                    continue;
                }
                // It counts before the bus knows of it: what comes next comes after it.
                handled.lock().unwrap().entry(tenant).or_default().push(id);
                settle(&billing, &held, Verdict::Handled).await.unwrap();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), async { tokio::join!(work(), work(), work()) })
        .await
        .expect("all are handled");
    let expected: BTreeMap<_, Vec<_>> = tenants
        .iter()
        .map(|tenant| {
            let ids = (0..EVENTS).map(|i| format!("{tenant}-{i:02}"));
            ((*tenant).to_owned(), ids.collect())
        })
        .collect();
    assert_eq!(*handled.lock().unwrap(), expected);
    eventually("nothing is left", || async {
        fetch(&billing, "billing", 10, 0).await.is_empty().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_before_a_change_of_topology_comes_before_anything_newer() {
    let mut bench = Bench::start(&[("ordering", "tenant")], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let billing = bench.silent_component("billing").await;
    publish(&ingress, 0..5).await;
    let first = fetch(&billing, "billing", 10, 5_000).await;
    assert_eq!(ids(&first), ["acme-00"]);
    bench.set("topology", "sharded(2)");
    bench.restart_provider(0).await;
    publish(&ingress, 5..10).await;
    let newer = fetch(&billing, "billing", 10, 300).await;
    assert!(newer.is_empty(), "the oldest is in hand: {newer:?}");
    settles(&billing, &first[0], Verdict::Handled).await;
    let mut handled = Vec::new();
    while handled.len() < 9 {
        let held = next(&billing, "billing").await;
        settles(&billing, &held, Verdict::Handled).await;
        handled.push(held.delivery.event.id);
    }
    let expected: Vec<_> = (1..10).map(|i| format!("acme-{i:02}")).collect();
    assert_eq!(handled, expected);
}

/// Each partition is read by itself: one where nothing happens, whose reader waits, takes nothing from the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_partition_slows_no_other() {
    const EVENTS: usize = 200;
    let settings = [("ordering", "tenant"), ("topology", "sharded(3)")];
    let bench = Bench::start(&settings, &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let billing = bench.silent_component("billing").await;
    ingress.publish_in_turn(&["acme"], EVENTS).await;
    let first = next(&billing, "billing").await;
    assert_eq!(first.delivery.event.id, "acme-00");
    bench
        .subscription_when("billing", "its owner has read all", |s| {
            s.pending == Some(0) && s.in_flight == Some(EVENTS as u64)
        })
        .await;
}

/// What is in flight of a partition that has to wait for an earlier one can't come back before: nothing of the earlier one waits
/// for that, and nothing of the later one is delivered before it has come back.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_of_a_later_partition_holds_up_no_earlier_one() {
    const LATER: usize = 5;
    let mut bench = Bench::start(&[("ordering", "none"), ("retry.schedule", "4s")], &links()).await;
    let ingress = bench.silent_component("ingress").await;
    let billing = bench.silent_component("billing").await;
    publish(&ingress, 0..1).await;
    let refused = next(&billing, "billing").await;
    settles(&billing, &refused, retry("not yet")).await;
    bench.set("topology", "sharded(2)");
    bench.restart_provider(0).await;
    publish(&ingress, 1..1 + LATER).await;
    let mut held = Vec::new();
    while held.len() < LATER {
        held.push(next(&billing, "billing").await);
    }
    bench.set("ordering", "tenant");
    bench.restart_provider(0).await;

    let mut handled = Vec::new();
    while handled.len() <= LATER {
        let held = next(&billing, "billing").await;
        settles(&billing, &held, Verdict::Handled).await;
        handled.push(held.delivery.event.id);
    }
    let expected: Vec<_> = (0..=LATER).map(|i| format!("acme-{i:02}")).collect();
    assert_eq!(handled, expected);
    let log = bench.providers[0].log();
    assert!(!log.contains("order-not-kept"), "{log}");
}
