//! Plans on a real server: it accepts every step, nothing is left to do once they are taken, the checker finds no fault,
//! and all of that again after the policy has changed.

use std::sync::atomic::{AtomicU32, Ordering};

use async_nats::jetstream;
use async_nats::jetstream::consumer::{self, DeliverPolicy, PullConsumer, pull};
use fanout_plan::check::{Severity, check};
use fanout_plan::explain::{Load, explain};
use fanout_plan::planner::{self, Asked, Wanted};
use fanout_plan::step::Step;
use fanout_plan::subscription::{MadeBy, Need, Reach, Start, Subscription};
use fanout_plan::topology::{ConsumerSpec, ConsumerStart};
use fanout_plan::{Code, Filter, Policy, Settings, TenantId, Timestamp};
use fanout_provider::jetstream::{Store, StoreError};
use fanout_transport::testing::{NatsServer, NatsSettings};
use futures::TryStreamExt as _;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
/// None of these meets another.
const PATTERNS: [&str; 3] = ["invoice.*", "charge.**", "customer.created"];
const LOAD: Load = Load {
    events_per_second: 10,
    event_bytes: 1024,
};

/// What varies from one policy of a bus to its next.
#[derive(Clone, Debug)]
struct Varied {
    settings: Vec<(&'static str, &'static str)>,
    /// Its subjects, after the bus's name.
    template: &'static str,
    /// Need and pattern of subscriptions that it declares.
    declared: Vec<(&'static str, usize)>,
    /// The same of components, which call for them.
    called: Vec<(Need, usize)>,
    /// A tenant that publishes.
    tenant: Option<&'static str>,
}

fn varied() -> impl Strategy<Value = Varied> {
    let setting = |key: &'static str, values: &'static [&'static str]| {
        prop::option::of(prop::sample::select(values)).prop_map(move |v| v.map(|v| (key, v)))
    };
    let backfill = Need::Backfill {
        start: Start::First,
        end: None,
    };
    (
        (
            setting(
                "topology",
                &["shared", "sharded(2)", "sharded(3)", "per-tenant", "work-queue"],
            ),
            setting("tenants.allowed", &["acme", "acme,globex,initech"]),
            setting("retention.max-age", &["1h", "30d"]),
            setting("retention.max-bytes", &["8MiB", "64MiB"]),
            setting("retry.max-bytes", &["16MiB", "64MiB"]),
            setting("retention.compression", &["none", "s2"]),
            setting("retention.when-full", &["refuse", "drop-oldest"]),
            setting("dedupe.window", &["1s", "10m"]),
            setting("quota.tenant.acme.max-bytes", &["1MiB"]),
            setting("dead-letters.max-age", &["1d", "60d"]),
        ),
        prop::sample::select(vec!["{tenant}.webhook.{event-type}", "of.{tenant}.{event-type}"]),
        prop::collection::vec(
            (
                prop::sample::select(vec!["queue", "durable", "backfill"]),
                0..PATTERNS.len(),
            ),
            0..3,
        ),
        prop::collection::vec(
            (
                prop::sample::select(vec![Need::Queue, Need::Durable, backfill]),
                0..PATTERNS.len(),
            ),
            0..3,
        ),
        prop::option::of(prop::sample::select(TENANTS.to_vec())),
    )
        .prop_map(|(s, template, declared, called, tenant)| Varied {
            settings: [s.0, s.1, s.2, s.3, s.4, s.5, s.6, s.7, s.8]
                .into_iter()
                .flatten()
                .collect(),
            template,
            declared,
            called,
            tenant,
        })
}

fn settings(bus: &str, varied: &Varied) -> Settings {
    let mut all: Settings = varied
        .settings
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect();
    all.insert("bus".into(), bus.into());
    all.insert("subject".into(), format!("{bus}.{}", varied.template));
    all.entry("retention.max-bytes".into())
        .or_insert_with(|| "16MiB".into());
    // Many buses on one server, which reserves what each may have.
    for part in ["dead-letters", "scheduled", "registry", "attempts"] {
        all.insert(format!("{part}.max-bytes"), "1MiB".into());
    }
    all.insert("quota.counters-max-bytes".into(), "1MiB".into());
    for (i, (need, pattern)) in varied.declared.iter().enumerate() {
        all.insert(format!("subscriptions.declared-{i}-{need}.need"), (*need).into());
        all.insert(
            format!("subscriptions.declared-{i}-{need}.event-types"),
            PATTERNS[*pattern].into(),
        );
    }
    all
}

fn called(varied: &Varied) -> Vec<Wanted> {
    let wanted = |(i, (need, pattern)): (usize, &(Need, usize))| Wanted {
        subscription: Subscription {
            name: format!("called-{i}-{}", need.as_str()).parse().unwrap(),
            need: *need,
            filter: Filter::new(vec![], vec![PATTERNS[*pattern].parse().unwrap()]),
            reach: Reach::Handler,
            batch_size: 1,
            concurrency: 4,
            tell_caught_up: false,
            scope: fanout_plan::place::Scope::Everywhere,
        },
        component: "worker".into(),
        link: "default".into(),
        made_by: MadeBy::Call,
    };
    varied.called.iter().enumerate().map(wanted).collect()
}

async fn brings_a_bus_to_each(client: &async_nats::Client, bus: &str, all: &[Varied]) -> Result<(), TestCaseError> {
    for (i, varied) in all.iter().enumerate() {
        let Ok(policy) = Policy::from_settings("policy", &settings(bus, varied)) else {
            continue;
        };
        let store = Store::new(client.clone(), policy.clone());
        let wanted = called(varied);
        let tenant: Option<TenantId> = varied.tenant.map(|t| t.parse().unwrap());
        let asked = Asked {
            wanted: &wanted,
            tenant: tenant.as_ref(),
            ..Asked::default()
        };
        let observed = store.observe().await.unwrap();
        let now = |n: i64| Timestamp::from_nanoseconds(1_800_000_000_000_000_000 + i as i64 + n);
        let plan = match planner::plan(&policy, asked, &observed, now(0)) {
            Ok(plan) => plan,
            // Subscriptions that a work queue can't hold, and a log that is too small for what it has.
            Err(problems) => {
                let expected = |c| matches!(c, Code::ConflictingSettings | Code::WouldLoseEvents);
                prop_assert!(problems.iter().all(|p| expected(p.code)), "{problems:?}");
                continue;
            }
        };
        for step in &plan.steps {
            if let Err(e) = store.apply(step).await {
                return Err(TestCaseError::fail(format!("the server refuses `{step}`: {e:?}")));
            }
        }
        let observed = store.observe().await.unwrap();
        let again = planner::plan(&policy, asked, &observed, now(1)).unwrap();
        // A retired partition that is empty goes with the next plan.
        for step in &again.steps {
            let goes = matches!(
                step,
                Step::DeleteStream(_) | Step::DeleteConsumer { .. } | Step::Remember(_) | Step::UpdateConsumer(_)
            );
            prop_assert!(goes, "left to do: {step}");
            store.apply(step).await.unwrap();
        }
        let observed = store.observe().await.unwrap();
        let last = planner::plan(&policy, asked, &observed, now(2)).unwrap();
        prop_assert_eq!(last.steps, vec![]);
        let notes = check(&policy, &observed.topology, &observed.registry, LOAD);
        let faults: Vec<_> = notes.iter().filter(|n| n.severity == Severity::Fault).collect();
        prop_assert!(faults.is_empty(), "{faults:?}");
        let parts = explain(&policy, &observed.topology, LOAD);
        let there =
            observed.topology.streams.len() + observed.topology.buckets.len() + observed.topology.consumers.len();
        prop_assert!(parts.len() >= there, "each is explained");
        if let Some(tenant) = &tenant {
            let place = last
                .layout
                .publish_to(tenant)
                .expect("a tenant that publishes has a place");
            let own = place.template.subject(tenant, &"invoice.paid".parse().unwrap());
            let jetstream = async_nats::jetstream::new(client.clone());
            let subject = place.publish_subject(&policy.names(), &own);
            let ack = jetstream.publish(subject, "x".into()).await.unwrap().await.unwrap();
            prop_assert_eq!(ack.stream, policy.names().partition(place.number));
        }
    }
    Ok(())
}

async fn remove(client: &async_nats::Client, bus: &str) {
    let jetstream = async_nats::jetstream::new(client.clone());
    let names: Vec<String> = jetstream.stream_names().try_collect().await.unwrap();
    for name in names.iter().filter(|n| n.contains(&format!("fanout_{bus}_"))) {
        jetstream.delete_stream(name).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_takes_every_plan_and_every_change() {
    let nats = NatsServer::start_with(NatsSettings::default()).await;
    let client = nats.client().await;
    let buses = AtomicU32::new(0);
    let mut runner = TestRunner::new(Config {
        cases: 40,
        max_shrink_iters: 64,
        failure_persistence: None,
        ..Config::default()
    });
    let handle = tokio::runtime::Handle::current();
    let run = |all: Vec<Varied>| {
        let bus = format!("b{}", buses.fetch_add(1, Ordering::Relaxed));
        handle.block_on(async {
            let result = brings_a_bus_to_each(&client, &bus, &all).await;
            remove(&client, &bus).await;
            result
        })
    };
    tokio::task::block_in_place(|| runner.run(&prop::collection::vec(varied(), 1..4), run)).unwrap();
}

/// The consumer of the log as the server has it.
async fn of_the_log(js: &jetstream::Context, name: &str) -> consumer::Config {
    let found: PullConsumer = js.get_consumer_from_stream(name, "fanout_once_log").await.unwrap();
    found.cached_info().config.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_another_instance_made_is_taken_as_it_stands() {
    let nats = NatsServer::start().await;
    let client = nats.client().await;
    let js = jetstream::new(client.clone());
    let declared = Varied {
        settings: vec![],
        template: "{tenant}.webhook.{event-type}",
        declared: vec![("durable", 0)],
        called: vec![],
        tenant: None,
    };
    let policy = Policy::from_settings("policy", &settings("once", &declared)).unwrap();
    let store = Store::new(client.clone(), policy.clone());
    let observed = store.observe().await.unwrap();
    let now = Timestamp::from_nanoseconds(1_800_000_000_000_000_000);
    let plan = planner::plan(&policy, Asked::default(), &observed, now).unwrap();
    let mut made = None;
    for step in &plan.steps {
        store.apply(step).await.unwrap();
        if let Step::CreateConsumer(consumer) = step {
            made = Some(consumer.clone());
        }
    }
    let made = made.expect("a durable subscription has a consumer");
    let began = of_the_log(&js, &made.name).await.deliver_policy;

    // Its list lacked the consumer: it would begin it elsewhere, and goes by a policy that changed.
    let late = ConsumerSpec {
        start: ConsumerStart::Offset(7),
        max_ack_pending: made.max_ack_pending + 1,
        ..made.clone()
    };
    store.apply(&Step::CreateConsumer(late.clone())).await.unwrap();
    let found = of_the_log(&js, &made.name).await;
    assert_eq!(found.deliver_policy, began, "where it began stays");
    assert_eq!(
        found.max_ack_pending,
        i64::from(late.max_ack_pending),
        "the rest is as it is wanted"
    );

    // Somebody else's consumer in the place of one is no consumer of the bus's.
    js.delete_consumer_from_stream(&*made.name, "fanout_once_log")
        .await
        .unwrap();
    let theirs = pull::Config {
        durable_name: Some(made.name.to_string()),
        deliver_policy: DeliverPolicy::New,
        ..pull::Config::default()
    };
    js.create_consumer_on_stream(theirs.clone(), "fanout_once_log")
        .await
        .unwrap();
    let raced = store.apply(&Step::CreateConsumer(made.clone())).await;
    assert!(matches!(raced, Err(StoreError::Raced { .. })), "{raced:?}");
    assert!(
        of_the_log(&js, &made.name)
            .await
            .metadata
            .keys()
            .all(|key| key != "fanout"),
        "it is left alone"
    );
}
