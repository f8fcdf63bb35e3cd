//! A name that is used again is another subscription: nothing of the one that had it before comes to it, can be settled at
//! it, or counts for it. What was kept before there were incarnations is lost by nobody.

use async_nats::HeaderMap;
use async_nats::jetstream::{self, kv, stream::Stream};
use fanout_plan::{Round, Timestamp};
use fanout_tests::fetcher::{fetch, never, next, retry, settle, settles, try_fetch};
use fanout_tests::subscriber;
use fanout_tests::types::{DeliveryOptions, Position, Reach, Rejection, SettleError, Start, Verdict};
use fanout_tests::{Bench, Cli, Component, LinkTo, State, event, eventually, every_event, stored};
use fanout_transport::CallContext;
use futures::TryStreamExt as _;
use serde_json::Value;

const POLICY: &str = "\
bus = \"payments\"
subject = \"payments.{tenant}.webhook.{event-type}\"
";

fn links() -> Vec<LinkTo> {
    vec![
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("billing", &["subscriber", "inbox"], "acme"),
        LinkTo::caller("mallory", &["subscriber", "inbox"], "globex"),
    ]
}

fn options(reach: Reach) -> DeliveryOptions {
    DeliveryOptions { reach, ..every_event() }
}

/// Makes the durable subscription `work`.
async fn makes(who: &Component, reach: Reach) {
    let made = subscriber::subscribe_durable(who.bus(), CallContext::default(), "work", &options(reach)).await;
    made.unwrap().unwrap();
}

async fn ends(who: &Component) {
    let ended = subscriber::unsubscribe(who.bus(), CallContext::default(), "work").await;
    ended.unwrap().unwrap();
}

async fn publish(bench: &Bench, tenant: &str, id: &str) {
    let ingress = bench.silent_component("ingress").await;
    ingress.publish(event(tenant, "invoice.paid", id)).await.unwrap();
}

async fn stream(bench: &Bench, name: &str) -> Stream {
    let js = jetstream::new(bench.client().clone());
    js.get_stream(name).await.unwrap()
}

async fn bucket(bench: &Bench, name: &str) -> kv::Store {
    let js = jetstream::new(bench.client().clone());
    js.get_key_value(name).await.unwrap()
}

/// The subjects that a stream holds.
async fn subjects(stream: &Stream) -> Vec<String> {
    let held = stream.info_with_subjects(">").await.unwrap();
    let held: Vec<(String, usize)> = held.try_collect().await.unwrap();
    held.into_iter().map(|(subject, _)| subject).collect()
}

/// Publishes an event of a tenant, of which `work` makes a dead letter.
async fn dead_letter(bench: &Bench, who: &Component, tenant: &str, id: &str) {
    publish(bench, tenant, id).await;
    let held = next(who, "work").await;
    assert_eq!(held.delivery.event.id, id);
    settles(who, &held, never("broken")).await;
    bench
        .subscription_when("work", "it is a dead letter", |s| {
            s.dead_letters >= Some(1) && s.in_flight == Some(0)
        })
        .await;
}

/// `fanout dead-letters list`.
fn letters(cli: &Cli) -> Vec<Value> {
    let policy = cli.policy(POLICY);
    let (code, out, err) = cli.run(&["--json", "dead-letters", "list"], &policy, &[]);
    assert_eq!(code, 0, "{err}");
    let listed: Value = serde_json::from_str(&out).unwrap();
    listed["dead_letters"].as_array().unwrap().clone()
}

/// `fanout dead-letters redrive --all`: its exit code, and what it says.
fn redrive_all(cli: &Cli) -> (i32, String) {
    let (code, out, err) = cli.run(&["dead-letters", "redrive"], &cli.policy(POLICY), &["--all"]);
    (code, out + &err)
}

/// The dead letter, what waits for its second attempt, and what is new, each once.
async fn all_three_come(billing: &Component) {
    let mut came = Vec::new();
    while came.len() < 3 {
        let held = next(billing, "work").await;
        came.push((held.delivery.event.id.clone(), held.delivery.attempt));
        settles(billing, &held, Verdict::Handled).await;
    }
    came.sort();
    let expected = [("dead", 1), ("fresh", 1), ("waits", 2)];
    assert_eq!(came, expected.map(|(id, attempt)| (id.to_owned(), attempt)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_of_one_that_ended_is_shown_to_the_operator_and_given_to_nobody() {
    let bench = Bench::start(&[], &links()).await;
    let cli = Cli::new(bench.nats.url());
    let billing = bench.silent_component("billing").await;
    let mallory = bench.silent_component("mallory").await;
    makes(&billing, Reach::Inbox).await;
    dead_letter(&bench, &billing, "acme", "secret").await;
    // A request that nobody has met yet goes with the subscription.
    let paused = subscriber::pause(billing.bus(), CallContext::default(), "work").await;
    paused.unwrap().unwrap();
    assert_eq!(redrive_all(&cli).0, 0);
    let dead = stream(&bench, "fanout_payments_dead").await;
    let request = subjects(&dead).await.into_iter().find(|s| s.contains("=redrive"));
    let request = request.expect("it is asked for");
    ends(&billing).await;
    eventually("its letter alone is left", || async {
        (subjects(&dead).await.iter().all(|s| !s.contains('='))).then_some(())
    })
    .await;

    makes(&mallory, Reach::Inbox).await;
    let [letter] = letters(&cli).try_into().unwrap();
    assert_eq!(
        (&letter["orphaned"], &letter["subscription"]),
        (&Value::from(true), &Value::from("work"))
    );
    let (code, said) = redrive_all(&cli);
    assert!(code != 0 && said.contains("[not-redrivable]"), "{code} {said}");
    let (_, said, _) = cli.run(&["status"], &cli.policy(POLICY), &[]);
    assert!(said.contains("1 orphaned dead letters of subscription work"), "{said}");
    let status = bench
        .subscription_when("work", "none of it is its successor's", |s| s.dead_letters == Some(0))
        .await;
    assert_eq!(status.component.as_deref(), Some("mallory"));
    let orphaned = &bench.status().await.unwrap().orphaned_dead_letters.unwrap()[0];
    assert_eq!((orphaned.of.name.as_str(), orphaned.dead_letters), ("work", 1));

    // Asked for behind the command line's back, in every way that it could be written.
    let js = jetstream::new(bench.client().clone());
    for subject in [request, "fanout.dead.payments.work=redrive.acme.0.1".to_owned()] {
        js.publish(subject, "".into()).await.unwrap().await.unwrap();
    }
    // Its own is redriven, and comes; that of another would have come before it.
    dead_letter(&bench, &mallory, "globex", "own").await;
    let own = letters(&cli)[1]["number"].to_string();
    let (code, _, err) = cli.run(&["dead-letters", "redrive"], &cli.policy(POLICY), &[&own]);
    assert_eq!(code, 0, "{err}");
    let held = next(&mallory, "work").await;
    assert_eq!(held.delivery.event.id, "own");
    settles(&mallory, &held, Verdict::Handled).await;
    bench
        .subscription_when("work", "its letter is gone", |s| s.dead_letters == Some(0))
        .await;
    assert!(fetch(&mallory, "work", 10, 300).await.is_empty());
    assert_eq!(letters(&cli).len(), 1, "the other stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_outside_of_what_its_subscription_asks_for_now_is_not_given_to_it() {
    let declared = |tenants: &str| {
        LinkTo::subscriber(
            "billing",
            &["inbox"],
            &[("subscription", "work"), ("need", "durable"), ("tenants", tenants)],
        )
    };
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("billing", &["inbox"], "*"),
        declared("*"),
    ];
    let mut bench = Bench::start(&[], &links).await;
    let cli = Cli::new(bench.nats.url());
    let billing = bench.silent_component("billing").await;
    dead_letter(&bench, &billing, "acme", "secret").await;
    // Asked for while it was within what the subscription asks for, and narrowed before it came.
    let policy = cli.policy(POLICY);
    assert_eq!(cli.run(&["pause"], &policy, &["work"]).0, 0);
    assert_eq!(redrive_all(&cli).0, 0);
    bench.put_link(&declared("globex")).await;
    let (code, said) = eventually("it is not within its filter any more", || async {
        let (code, said) = redrive_all(&cli);
        (code != 0).then_some((code, said))
    })
    .await;
    assert!(
        said.contains("[not-redrivable]") && said.contains("acme"),
        "{code} {said}"
    );
    assert_eq!(cli.run(&["resume"], &policy, &["work"]).0, 0);
    let dead = stream(&bench, "fanout_payments_dead").await;
    eventually("the request is ended", || async {
        // In the moment in which it is resumed a fetch may be told to try again.
        if let Ok(fetched) = try_fetch(&billing, "work", 10, 0).await {
            assert!(fetched.deliveries.is_empty(), "{:?}", fetched.deliveries);
        }
        (!subjects(&dead).await.iter().any(|s| s.contains("=redrive"))).then_some(())
    })
    .await;
    let [letter] = letters(&cli).try_into().unwrap();
    assert_eq!(
        (&letter["orphaned"], &letter["tenant"]),
        (&Value::from(false), &Value::from("acme"))
    );
    // Widened again, it is its own again.
    bench.put_link(&declared("*")).await;
    eventually("it may be redriven", || async {
        (redrive_all(&cli).0 == 0).then_some(())
    })
    .await;
    assert_eq!(next(&billing, "work").await.delivery.event.id, "secret");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_that_ended_gave_out_settles_nothing_of_its_successor() {
    let bench = Bench::start(&[], &links()).await;
    let billing = bench.silent_component("billing").await;
    makes(&billing, Reach::Inbox).await;
    publish(&bench, "acme", "e0").await;
    let first = next(&billing, "work").await;
    publish(&bench, "acme", "e1").await;
    let refused = next(&billing, "work").await;
    settles(&billing, &refused, retry("once")).await;
    let second = next(&billing, "work").await;
    assert_eq!((second.delivery.event.id.as_str(), second.delivery.attempt), ("e1", 2));
    ends(&billing).await;

    // The same events at the same places of a consumer that is as young.
    let start = Start::Position(Position {
        partition: 0,
        offset: 1,
    });
    let (context, options) = (CallContext::default(), options(Reach::Inbox));
    let made = subscriber::subscribe_backfill(billing.bus(), context, "work", &start, None, &options).await;
    made.unwrap().unwrap();
    let mut held = Vec::new();
    while held.len() < 2 {
        held.push(next(&billing, "work").await);
    }
    let came = held.iter().map(|h| (h.delivery.event.id.as_str(), h.delivery.attempt));
    assert_eq!(
        came.collect::<Vec<_>>(),
        [("e0", 1), ("e1", 1)],
        "attempts of before are not its own"
    );
    for before in [&first, &refused, &second] {
        for verdict in [
            Verdict::Handled,
            Verdict::StillWorking,
            Verdict::Released,
            never("broken"),
        ] {
            let refused = settle(&billing, before, verdict).await;
            let Err(SettleError::InvalidToken(problem)) = refused else {
                panic!("{refused:?}");
            };
            assert_eq!(problem.code, "subscription-ended", "{}", problem.message);
        }
    }
    bench
        .subscription_when("work", "they are in its fetcher's hands still", |s| {
            s.in_flight == Some(2) && s.dead_letters == Some(0)
        })
        .await;
    for held in &held {
        settles(&billing, held, Verdict::Handled).await;
    }
    bench
        .subscription_when("work", "they are settled", |s| {
            s.in_flight == Some(0) && s.pending == Some(0)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_had_no_incarnation_is_lost_by_nobody() {
    let mut bench = Bench::start(&[], &links()).await;
    let cli = Cli::new(bench.nats.url());
    let billing = bench.silent_component("billing").await;
    makes(&billing, Reach::Inbox).await;
    dead_letter(&bench, &billing, "acme", "dead").await;
    publish(&bench, "acme", "waits").await;
    let held = next(&billing, "work").await;
    settles(&billing, &held, retry("once")).await;
    publish(&bench, "acme", "fresh").await;
    bench
        .subscription_when("work", "one waits for a retry, one in the log", |s| {
            s.waiting_for_retry == Some(1) && s.pending == Some(1)
        })
        .await;
    // As a version before left it: nothing of it says which of its name it is.
    bench.providers[0].kill();
    let registry = bucket(&bench, "fanout_payments_registry").await;
    let mut entry: Value = serde_json::from_slice(&registry.get("work").await.unwrap().unwrap()).unwrap();
    assert!(entry.as_object_mut().unwrap().remove("incarnation").is_some());
    registry.put("work", entry.to_string().into()).await.unwrap();
    let log = stream(&bench, "fanout_payments_log").await;
    let name = stored::consumer_name(&log, "work").await.unwrap();
    let mut consumer = log.consumer_info(&name).await.unwrap().config;
    let floor = log.consumer_info(&name).await.unwrap().ack_floor.stream_sequence;
    log.delete_consumer(&name).await.unwrap();
    (consumer.durable_name, consumer.name) = (Some("work".into()), None);
    consumer.deliver_policy = jetstream::consumer::DeliverPolicy::ByStartSequence {
        start_sequence: floor + 1,
    };
    log.create_consumer(consumer).await.unwrap();
    let dead = stream(&bench, "fanout_payments_dead").await;
    let letter = stored::dead_letter(&dead, "work", "acme", 1).await;
    dead.delete_message(letter.sequence).await.unwrap();
    let js = jetstream::new(bench.client().clone());
    let headers: HeaderMap = letter.headers.clone();
    let stored = js.publish_with_headers("fanout.dead.payments.work.acme.0.1", headers, letter.payload.clone());
    stored.await.unwrap().await.unwrap();

    bench.restart_provider(0).await;
    let status = bench
        .subscription_when("work", "all of it is its own", |s| {
            s.dead_letters == Some(1) && s.waiting_for_retry == Some(1) && s.pending == Some(1)
        })
        .await;
    assert_eq!(status.state, State::Active);
    assert_eq!(redrive_all(&cli).0, 0);
    all_three_come(&billing).await;
    let names: Vec<String> = log.consumer_names().try_collect().await.unwrap();
    assert_eq!(names, ["work"], "its consumer is the one that it had");
    dead_letter(&bench, &billing, "acme", "left").await;
    // Whoever has the name after it is another all the same.
    ends(&billing).await;
    makes(&billing, Reach::Inbox).await;
    let names: Vec<String> = log.consumer_names().try_collect().await.unwrap();
    assert_eq!(stored::consumer_names(&log).await.unwrap(), ["work"]);
    assert_ne!(names, ["work"]);
    let [letter] = letters(&cli).try_into().unwrap();
    assert_eq!(letter["orphaned"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_moved_aside_keeps_what_waits_for_it_and_its_letters() {
    let mut bench = Bench::start(&[("retry.schedule", "5s")], &links()).await;
    let cli = Cli::new(bench.nats.url());
    let billing = bench.silent_component("billing").await;
    let worker = bench.component("worker").await;
    makes(&billing, Reach::Inbox).await;
    dead_letter(&bench, &billing, "acme", "dead").await;
    publish(&bench, "acme", "waits").await;
    let held = next(&billing, "work").await;
    settles(&billing, &held, Verdict::Rejected(Rejection::Retry("later".into()))).await;
    bench
        .subscription_when("work", "one waits for a retry", |s| s.waiting_for_retry == Some(1))
        .await;
    let declared = LinkTo::subscriber("worker", &["handler"], &[("subscription", "work"), ("need", "durable")]);
    bench.put_link(&declared).await;
    let moved = eventually("it goes on under another name", || async {
        let status = bench.status().await?;
        let of = |component: &str| {
            status
                .subscriptions
                .iter()
                .find(|s| s.component.as_deref() == Some(component))
                .cloned()
        };
        of("worker").and(of("billing"))
    })
    .await;
    assert_ne!(moved.name.as_str(), "work");
    publish(&bench, "acme", "fresh").await;
    eventually("its successor is given what is new", || async {
        (worker.handled() == ["fresh"]).then_some(())
    })
    .await;
    assert_eq!(redrive_all(&cli).0, 0);
    all_three_come(&billing).await;
    assert_eq!(worker.handled(), ["fresh"], "and nothing of the other's");
    assert_eq!(letters(&cli).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_ends_leaves_letters_and_nothing_else() {
    let bench = Bench::start(&[("retry.schedule", "60s")], &links()).await;
    let billing = bench.silent_component("billing").await;
    makes(&billing, Reach::Inbox).await;
    dead_letter(&bench, &billing, "acme", "dead").await;
    publish(&bench, "acme", "waits").await;
    let held = next(&billing, "work").await;
    settles(&billing, &held, Verdict::Rejected(Rejection::Retry("later".into()))).await;
    let registry = bucket(&bench, "fanout_payments_registry").await;
    let entry = registry.get("work").await.unwrap().unwrap();
    let entry: Value = serde_json::from_slice(&entry).unwrap();
    let round = Round {
        made_at: Timestamp::from_nanoseconds(entry["made_at"].as_i64().unwrap()),
        rewound: 0,
    };
    let attempts = stream(&bench, "KV_fanout_payments_attempts").await;
    let of_it = |subjects: Vec<String>| {
        let mut mine = subjects.into_iter();
        mine.any(|s| s.contains(&format!("work={round}.")))
    };
    assert!(of_it(subjects(&attempts).await), "its attempts are noted");
    ends(&billing).await;
    assert!(!of_it(subjects(&attempts).await), "they go with it");
    assert_eq!(
        subjects(&stream(&bench, "fanout_payments_retries").await).await,
        [""; 0]
    );
    let left = subjects(&stream(&bench, "fanout_payments_dead").await).await;
    assert!(left.len() == 1 && !left[0].contains('='), "{left:?}");
}
