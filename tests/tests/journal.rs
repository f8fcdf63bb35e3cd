//! The journal of deliveries: what is written down, what is not and is said, and that it is in no delivery's way.

use std::path::PathBuf;

use fanout_tests::fetcher::{never, next, settles};
use fanout_tests::types::{Rejection, Verdict as Said};
use fanout_tests::{Bench, Cli, LinkTo, State, Verdict, event, eventually, ingress_and_invoicing};
use serde_json::Value;

const POLICY: &str = "bus = \"payments\"\nsubject = \"payments.{tenant}.webhook.{event-type}\"\n";
const JOURNAL: &str = "fanout_payments_journal";
const ALL: (&str, &str) = ("journal.deliveries", "all");

/// The command line at a bench's store, and a policy file whose journal is this.
fn operator(bench: &Bench, journal: &str) -> (Cli, PathBuf) {
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(&format!("{POLICY}[journal]\ndeliveries = \"{journal}\"\n"));
    (cli, policy)
}

/// What `fanout event` says; `None` while it has nothing to say.
fn told(cli: &Cli, policy: &std::path::Path, which: &[&str]) -> Option<Value> {
    let (code, out, _) = cli.run(&["--json", "event"], policy, which);
    (code == 0).then(|| serde_json::from_str(&out).unwrap())
}

/// The deliveries of acme's event to a subscription, once there are so many.
async fn deliveries(cli: &Cli, policy: &std::path::Path, id: &str, to: &str, count: usize) -> Vec<Value> {
    eventually(&format!("{count} deliveries of {id} are written down"), async || {
        let told = told(cli, policy, &[id, "--tenant", "acme"])?;
        let subscriptions = told["events"][0]["subscriptions"].as_array()?;
        let here = subscriptions.iter().find(|s| s["name"] == to)?;
        let all = here["deliveries"].as_array()?;
        (all.len() == count).then(|| all.clone())
    })
    .await
}

async fn has_stream(bench: &Bench) -> bool {
    let store = async_nats::jetstream::new(bench.client().clone());
    store.get_stream(JOURNAL).await.is_ok()
}

/// The journal's stream takes messages of this size, or of any.
async fn takes_messages_of(bench: &Bench, bytes: i32) {
    let store = async_nats::jetstream::new(bench.client().clone());
    let journal = store.get_stream(JOURNAL).await.unwrap();
    let mut config = journal.cached_info().config.clone();
    config.max_message_size = bytes;
    store.update_stream(config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_delivery_is_told_of_when_by_whom_and_how_it_ended() {
    let mut links = ingress_and_invoicing();
    let queue = [("subscription", "entitlements"), ("need", "queue")];
    links.push(LinkTo::subscriber("entitlements", &["handler"], &queue));
    let bench = Bench::start(&[ALL], &links).await;
    let ingress = bench.silent_component("ingress").await;
    let (invoicing, entitlements) = (
        bench.component("invoicing").await,
        bench.component("entitlements").await,
    );
    invoicing.judge(|d| match d.event.id.as_str() {
        "evt_poison" => Verdict::Refuse(Rejection::DeadLetter("no amount".into())),
        "evt_busy" if d.attempt == 1 => Verdict::Refuse(Rejection::RetryNow("busy".into())),
        _ => Verdict::Handle,
    });
    entitlements.judge(|d| match d.event.id.as_str() {
        "evt_poison" => Verdict::Refuse(Rejection::Retry("not now".into())),
        _ => Verdict::Handle,
    });
    for id in ["evt_good", "evt_busy", "evt_poison"] {
        ingress.publish(event("acme", "invoice.paid", id)).await.unwrap();
    }
    let (cli, policy) = operator(&bench, "all");

    let good = deliveries(&cli, &policy, "evt_good", "invoicing", 1).await;
    let good = &good[0];
    assert_eq!(
        (&good["outcome"], &good["attempt"]),
        (&"handled".into(), &1.into()),
        "{good}"
    );
    let process = format!("/{}", bench.providers[0].id());
    assert!(good["instance"].as_str().unwrap().ends_with(&process), "{good}");
    assert!(good["took_us"].as_u64().is_some_and(|us| us > 0), "{good}");
    assert!(
        good["began_at"].as_str() <= good["ended_at"].as_str() && good["began_at"].is_string(),
        "{good}"
    );
    assert_eq!((&good["tenant"], &good["id"]), (&"acme".into(), &"evt_good".into()));

    let busy = deliveries(&cli, &policy, "evt_busy", "invoicing", 2).await;
    let shown = |d: &Value| {
        let of = |key: &str| d[key].as_str().map(str::to_owned);
        (of("outcome").unwrap(), of("code"), of("reason"), d["attempt"].as_u64())
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        shown(&busy[0]),
        ("retry".into(), some("rejected"), some("busy"), Some(1))
    );
    assert_eq!(busy[0]["wait_ms"], 0);
    assert_eq!(shown(&busy[1]), ("handled".into(), None, None, Some(2)));
    let poison = deliveries(&cli, &policy, "evt_poison", "invoicing", 1).await;
    assert_eq!(
        shown(&poison[0]),
        ("dead-lettered".into(), some("rejected"), some("no amount"), Some(1))
    );
    let missed = deliveries(&cli, &policy, "evt_poison", "entitlements", 1).await;
    assert_eq!(
        shown(&missed[0]),
        ("missed".into(), some("rejected"), some("not now"), Some(1))
    );

    // Its letter is delivered again.
    invoicing.judge(|_| Verdict::Handle);
    assert_eq!(cli.run(&["dead-letters", "redrive"], &policy, &["--all"]).0, 0);
    let again = deliveries(&cli, &policy, "evt_poison", "invoicing", 2).await;
    assert_eq!(
        (shown(&again[1]).0.as_str(), &again[1]["redriven"]),
        ("handled", &true.into())
    );

    // A person reads the same words.
    let (code, out, err) = cli.run(&["event"], &policy, &["evt_poison", "--tenant", "acme"]);
    assert_eq!(code, 0, "{err}");
    for said in ["dead-lettered", "no amount [rejected]", "handled, redriven", &process] {
        assert!(out.contains(said), "{said}: {out}");
    }
    let status = bench
        .status_when("the status counts them", |s| {
            s.journal.as_ref().is_some_and(|j| j.written >= 8)
        })
        .await;
    let journal = status.journal.unwrap();
    assert_eq!((journal.deliveries.as_str(), journal.dropped), ("all", 0));
    assert!(journal.instance.ends_with(&process), "{journal:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fetched_is_written_down_as_far_as_it_is_known() {
    let settings = [("subscription", "invoicing"), ("need", "durable")];
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber("invoicing", &["inbox"], &settings),
        LinkTo::caller("invoicing", &["subscriber", "inbox"], "*"),
    ];
    let bench = Bench::start(&[ALL], &links).await;
    let (ingress, invoicing) = (
        bench.silent_component("ingress").await,
        bench.component("invoicing").await,
    );
    for id in ["evt_1", "evt_2"] {
        ingress.publish(event("acme", "invoice.paid", id)).await.unwrap();
        let held = next(&invoicing, "invoicing").await;
        let said = if id == "evt_1" {
            Said::Handled
        } else {
            never("no such customer")
        };
        // However often it is said: no handle fills the journal.
        for _ in 0..5 {
            settles(&invoicing, &held, said.clone()).await;
        }
    }
    let (cli, policy) = operator(&bench, "all");
    // Entries are written in their order: the second event's come after all of the first's.
    deliveries(&cli, &policy, "evt_2", "invoicing", 1).await;
    let handled = deliveries(&cli, &policy, "evt_1", "invoicing", 1).await;
    assert_eq!(handled[0]["outcome"], "handled", "{handled:?}");
    assert!(
        handled[0]["began_at"].is_null() && handled[0]["took_us"].is_null(),
        "{handled:?}"
    );
    let refused = deliveries(&cli, &policy, "evt_2", "invoicing", 1).await;
    let why = (&refused[0]["outcome"], &refused[0]["reason"]);
    assert_eq!(
        why,
        (&"dead-lettered".into(), &"no such customer".into()),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_switches_it_on_and_off_while_deliveries_go_on() {
    let mut bench = Bench::start(&[], &ingress_and_invoicing()).await;
    let (ingress, invoicing) = (
        bench.silent_component("ingress").await,
        bench.component("invoicing").await,
    );
    invoicing.judge(|d| match d.event.id.as_str() {
        "evt_bad" => Verdict::Refuse(Rejection::DeadLetter("never".into())),
        _ => Verdict::Handle,
    });
    ingress.publish(event("acme", "invoice.paid", "evt_0")).await.unwrap();
    eventually("it is handled", async || (invoicing.handled().len() == 1).then_some(())).await;
    assert!(!has_stream(&bench).await, "nothing is made unless somebody asks");
    let (cli, policy) = operator(&bench, "off");
    let unknown = told(&cli, &policy, &["evt_0", "--tenant", "acme"]).unwrap();
    let here = &unknown["events"][0]["subscriptions"][0];
    assert!(here["deliveries"].is_null(), "what is not known is absent: {here}");
    let (_, out, _) = cli.run(&["event"], &policy, &["evt_0", "--tenant", "acme"]);
    assert!(out.contains("is not known: `journal.deliveries` is off"), "{out}");

    bench.change("journal.deliveries", "errors").await;
    bench
        .status_when("errors are written down", |s| {
            s.journal.as_ref().is_some_and(|j| j.deliveries == "errors")
        })
        .await;
    eventually("its stream is there", async || has_stream(&bench).await.then_some(())).await;
    for id in ["evt_good", "evt_bad"] {
        ingress.publish(event("acme", "invoice.paid", id)).await.unwrap();
    }
    let (cli, policy) = operator(&bench, "errors");
    deliveries(&cli, &policy, "evt_bad", "invoicing", 1).await;
    // What was delivered before there was a journal is not known, and that is said of those events alone.
    for (id, begins_late) in [("evt_0", true), ("evt_bad", false)] {
        let told = told(&cli, &policy, &[id, "--tenant", "acme"]).unwrap();
        let journal = &told["events"][0]["journal"];
        assert!(journal["begins_at"].is_string(), "{id}: {journal}");
        assert_eq!(journal["begins_late"] == true, begins_late, "{id}: {journal}");
        let (_, out, _) = cli.run(&["event"], &policy, &[id, "--tenant", "acme"]);
        let said = "after the event was stored: what was delivered before that is not known";
        assert_eq!(out.contains(said), begins_late, "{id}: {out}");
    }
    let good = told(&cli, &policy, &["evt_good", "--tenant", "acme"]).unwrap();
    assert_eq!(
        good["events"][0]["subscriptions"][0]["deliveries"],
        serde_json::json!([]),
        "{good}"
    );
    let (_, out, _) = cli.run(&["event"], &policy, &["evt_good", "--tenant", "acme"]);
    assert!(
        out.contains("handled at its first attempt is not written down"),
        "{out}"
    );

    bench.change("journal.deliveries", "off").await;
    bench
        .status_when("nothing is written down", |s| s.journal.is_none())
        .await;
    eventually("its stream is gone", async || (!has_stream(&bench).await).then_some(())).await;
    ingress
        .publish(event("acme", "invoice.paid", "evt_last"))
        .await
        .unwrap();
    eventually("deliveries go on", async || {
        (invoicing.handled().len() == 3).then_some(())
    })
    .await;
    assert_eq!(
        invoicing.seen(|s| s.deliveries.len()),
        4,
        "and none was made twice for it"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_is_away_is_in_no_delivery_s_way_and_says_what_it_lacks() {
    /// More than an instance keeps until it can write.
    const MANY: usize = 12_000;
    let bench = Bench::start(&[ALL], &ingress_and_invoicing()).await;
    let (ingress, invoicing) = (
        bench.silent_component("ingress").await,
        bench.component("invoicing").await,
    );
    ingress
        .publish(event("acme", "invoice.paid", "evt_first"))
        .await
        .unwrap();
    let (cli, policy) = operator(&bench, "all");
    deliveries(&cli, &policy, "evt_first", "invoicing", 1).await;

    // A bound that Fanout does not set, and leaves alone.
    takes_messages_of(&bench, 1).await;
    ingress.publish_backlog("acme", MANY).await;
    eventually("all of them are handled", async || {
        (invoicing.handled().len() == MANY + 1).then_some(())
    })
    .await;
    let status = bench
        .status_when("what is not written is counted, and said", |s| {
            s.journal.as_ref().is_some_and(|j| j.dropped > 0)
                && s.notices.iter().any(|n| n.code == "journal-incomplete")
        })
        .await;
    let dropped = status.journal.unwrap().dropped;
    assert!(dropped >= (MANY - 8_192 - 1_024) as u64 - 1, "{dropped}");
    let log = bench.providers[0].log();
    assert_eq!(
        log.matches("deliveries are not written into the journal: ").count(),
        1,
        "{log}"
    );

    // It takes them again, and then the journal itself says so.
    takes_messages_of(&bench, -1).await;
    bench
        .status_when("what waited is written", |s| {
            s.journal.as_ref().is_some_and(|j| j.written >= 8_192)
        })
        .await;
    ingress
        .publish(event("acme", "invoice.paid", "evt_last"))
        .await
        .unwrap();
    deliveries(&cli, &policy, "evt_last", "invoicing", 1).await;
    let last = MANY - 1;
    let missing = eventually("it says what it lacks", async || {
        let told = told(&cli, &policy, &[&format!("0/{last}")])?;
        let missing = told["events"][0]["journal"]["missing"].as_array()?;
        let entries: u64 = missing.iter().filter_map(|m| m["entries"].as_u64()).sum();
        (entries >= dropped).then_some(entries)
    })
    .await;
    assert!(missing < MANY as u64, "what waited was written: {missing}");
    let (_, out, _) = cli.run(&["event"], &policy, &[&format!("0/{last}")]);
    assert!(out.contains("has not written down"), "{out}");
}

/// What is under way to the journal takes of the permits that dead letters and quotas need: with one of all, it is written one
/// message after the other, and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_journal_never_waits_for_permits_that_it_has_itself() {
    // Entries of several messages at once.
    const MANY: usize = 5_000;
    let bench = Bench::start(&[ALL, ("publish.max-in-flight", "1")], &ingress_and_invoicing()).await;
    let (ingress, invoicing) = (
        bench.silent_component("ingress").await,
        bench.component("invoicing").await,
    );
    ingress.publish_backlog("acme", MANY).await;
    eventually("all of them are handled", async || {
        (invoicing.handled().len() == MANY).then_some(())
    })
    .await;
    let status = bench
        .status_when("every delivery is written down", |s| {
            s.journal.as_ref().is_some_and(|j| j.written >= MANY as u64)
        })
        .await;
    assert_eq!(status.journal.unwrap().dropped, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_that_can_t_be_read_leaves_the_rest_to_be_told() {
    let mut bench = Bench::start(&[ALL], &ingress_and_invoicing()).await;
    let (ingress, _invoicing) = (
        bench.silent_component("ingress").await,
        bench.component("invoicing").await,
    );
    ingress.publish(event("acme", "invoice.paid", "evt_1")).await.unwrap();
    let (cli, policy) = operator(&bench, "all");
    deliveries(&cli, &policy, "evt_1", "invoicing", 1).await;
    // It would make the journal again.
    bench.providers[0].kill();
    let store = async_nats::jetstream::new(bench.client().clone());
    store.delete_stream(JOURNAL).await.unwrap();
    let asked = || {
        let told = told(&cli, &policy, &["evt_1", "--tenant", "acme"]).expect("the event is told of");
        let here = told["events"][0]["subscriptions"][0].clone();
        assert_eq!(here["state"], "settled", "{told}");
        assert!(here["deliveries"].is_null(), "what is not known is absent: {told}");
        let (_, out, _) = cli.run(&["event"], &policy, &["evt_1", "--tenant", "acme"]);
        (told["events"][0]["journal"].clone(), out)
    };
    let (journal, out) = asked();
    assert!(
        journal["unread"].is_null() && journal["begins_at"].is_null(),
        "{journal}"
    );
    assert!(out.contains("is not known: the journal is not made yet"), "{out}");

    // One that has as many readers as it may have.
    let taken = async_nats::jetstream::stream::Config {
        name: JOURNAL.to_owned(),
        subjects: vec!["fanout.journal.payments.>".to_owned()],
        max_consumers: 1,
        ..async_nats::jetstream::stream::Config::default()
    };
    let taken = store.create_stream(taken).await.unwrap();
    let reader = async_nats::jetstream::consumer::pull::Config::default();
    taken.create_consumer(reader).await.unwrap();
    let (journal, out) = asked();
    assert!(journal["unread"].is_string(), "{journal}");
    assert!(out.contains("is not known: the journal could not be read ("), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expired_is_told_of_when_the_log_holds_it_no_more() {
    let settings = [
        ("journal.deliveries", "errors"),
        ("journal.max-age", "1h"),
        ("retention.max-age", "6s"),
        ("retention.warn-before", "5s"),
        ("dedupe.window", "1s"),
    ];
    let bench = Bench::start(&settings, &ingress_and_invoicing()).await;
    let (ingress, invoicing) = (
        bench.silent_component("ingress").await,
        bench.component("invoicing").await,
    );
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(&format!(
        "{POLICY}[journal]\ndeliveries = \"errors\"\nmax-age = \"1h\"\n[retention]\nmax-age = \"6s\"\nwarn-before = \"5s\"\n[dedupe]\nwindow = \"1s\"\n"
    ));
    assert_eq!(cli.run(&["pause"], &policy, &["invoicing"]).0, 0);
    bench
        .subscription_when("invoicing", "it is paused", |s| {
            s.state == State::Paused && s.this_instance.is_none()
        })
        .await;
    ingress.publish(event("acme", "invoice.paid", "evt_1")).await.unwrap();
    let gone = eventually("it expired, and the journal tells", async || {
        let told = told(&cli, &policy, &["0/1"])?;
        told["deliveries_of_an_event_that_expired"].as_array().cloned()
    })
    .await;
    assert_eq!(gone.len(), 1, "{gone:?}");
    let told = (
        &gone[0]["outcome"],
        &gone[0]["code"],
        &gone[0]["subscription"],
        &gone[0]["tenant"],
    );
    let wanted = (
        &"expired".into(),
        &"retention-gap".into(),
        &"invoicing".into(),
        &"acme".into(),
    );
    assert_eq!(told, wanted);
    for (tenant, is_told) in [("acme", true), ("globex", false)] {
        let (code, out, _) = cli.run(&["event"], &policy, &["0/1", "--tenant", tenant]);
        assert_eq!(
            (code == 0, out.contains("expired")),
            (is_told, is_told),
            "{tenant}: {out}"
        );
    }
    assert!(invoicing.handled().is_empty());
}
