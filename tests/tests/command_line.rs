//! `fanout` on a real server: what it prints, and its exit codes.

use std::time::Duration;

use fanout_client::{Event, Subscription};
use fanout_tests::fetcher::fetch;
use fanout_tests::types::Rejection;
use fanout_tests::{Bench, BusStatus, Cli, LinkTo, ServedBus, State, Verdict, event, fanout};

const POLICY: &str = "\
bus = \"payments\"
subject = \"payments.{tenant}.webhook.{event-type}\"

[delivery]
deadline = \"500ms\"
ack-wait = \"2s\"
";

/// The help of a verb has its own options with the first, and its arguments in the order in which they stand.
#[test]
fn help_shows_arguments_in_their_order_and_options_where_they_belong() {
    let (code, help, _) = fanout(&["dead-letters", "redrive", "--help"]);
    assert_eq!(code, 0);
    let usage = "Usage: fanout dead-letters redrive [OPTIONS] <POLICY> <NUMBERS...|--all>";
    assert!(help.contains(usage), "{help}");
    for (verb, own) in [
        (
            &["dead-letters", "redrive"][..],
            &["[NUMBERS]...", "--all", "--subscription"][..],
        ),
        (&["tail"], &["--tenant", "--pattern", "--count"]),
        (&["check"], &["--rate"]),
    ] {
        let (_, help, _) = fanout(&[verb, &["--help"]].concat());
        let (before, of_nats) = help.split_once("NATS:\n").expect("a heading");
        for option in own {
            assert!(before.contains(option), "{verb:?} {option}: {help}");
        }
        assert!(
            of_nats.contains("--nats-creds") && of_nats.contains("--jetstream-domain"),
            "{help}"
        );
        assert!(!before.contains("--nats-creds"), "{help}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_checked_planned_and_applied_once() {
    let bench = Bench::without_provider(&[], &[]).await;
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(&POLICY.replace("2s", "100ms").replace("bus =", "colour ="));
    let (code, _, err) = cli.run(&["check"], &policy, &[]);
    assert_eq!(code, 1);
    let shown = "\
error[unknown-setting]: setting \"colour\" is not known; known are: ";
    assert!(err.contains(shown), "{err}");
    assert!(
        err.contains(" --> POLICY:1:1\n  |\n1 | colour = \"payments\"\n  | ^^^^^^\n"),
        "{err}"
    );
    let policy = cli.policy(&POLICY.replace("ack-wait", "ack-wiat"));
    let (code, _, err) = cli.run(&["check"], &policy, &[]);
    assert!(code == 1 && err.contains("did you mean `delivery.ack-wait`?"), "{err}");
    let (code, _, err) = cli.run(&["--json", "check"], &policy, &[]);
    let refused: serde_json::Value = serde_json::from_str(&err).unwrap();
    let message = refused["problems"][0]["message"].as_str().unwrap();
    assert!(code == 1 && message.starts_with("POLICY:6: setting"), "{err}");

    let policy = cli.policy(POLICY);
    let steps = "\
+ create bucket fanout_payments_attempts
+ create bucket fanout_payments_leases
+ create bucket fanout_payments_registry
+ create stream fanout_payments_dead on fanout.dead.payments.> for 30d
+ create stream fanout_payments_log on payments.*.webhook.> for 7d
+ create stream fanout_payments_marks on fanout.mark.payments.> for 1d
+ create stream fanout_payments_retries on fanout.retry.payments.> for ever
+ create stream fanout_payments_scheduled on fanout.scheduled.payments.> for ever
8 to make, 0 to change, 0 to remove
";
    let (code, planned, _) = cli.run(&["plan"], &policy, &["--nats", cli.nats()]);
    let without_costs: String = planned
        .lines()
        .filter(|l| !l.starts_with(' '))
        .map(|l| format!("{l}\n"))
        .collect();
    assert_eq!((code, without_costs.as_str()), (0, steps));
    assert!(
        planned.contains("    1 stream; at most 1.0 GiB of disk on each of 1 servers\n"),
        "{planned}"
    );
    assert_eq!(cli.run(&["apply"], &policy, &[]), (0, steps.into(), String::new()));
    let nothing = "nothing to do: the store is as the policy says\n";
    assert_eq!(cli.run(&["apply"], &policy, &[]), (0, nothing.into(), String::new()));

    let jetstream = async_nats::jetstream::new(bench.client().clone());
    let stored = jetstream.publish("payments.acme.webhook.x", vec![0; 2048].into());
    stored.await.unwrap().await.unwrap();
    let smaller = cli.policy(&format!("{POLICY}[retention]\nmax-bytes = \"1KiB\"\n"));
    let (code, out, err) = cli.run(&["apply"], &smaller, &[]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("[would-lose-events]"), "{err}");
    let (code, out, err) = cli.run(&["apply"], &smaller, &["--accept-loss", "retention.max-bytes"]);
    assert_eq!(
        (code, out.as_str(), err.as_str()),
        (
            0,
            // The first of them says which policy is in force.
            "~ update stream fanout_payments_dead\n~ update stream fanout_payments_log\n~ update stream fanout_payments_retries\n0 to make, 3 to change, 0 to remove\n",
            ""
        )
    );
    let (code, out, _) = cli.run(&["--json", "explain"], &policy, &["--rate", "1000"]);
    let parts: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, parts["parts"].as_array().unwrap().len()), (0, 9), "{out}");

    let load = ["--rate", "1000", "--event-bytes", "2048", "--tenants", "50"];
    let policy = cli.policy(POLICY);
    let (code, out, _) = cli.run(&["--json", "size"], &policy, &load);
    let size: serde_json::Value = serde_json::from_str(&out).unwrap();
    let all = |of: &str| {
        let figures = size["figures"].as_array().unwrap().iter();
        figures
            .filter(|f| f["of"] == of)
            .map(|f| f["amount"].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!((code, size["disk_bytes"].as_u64()), (0, Some(all("disk"))), "{out}");
    assert_eq!(size["memory_bytes"].as_u64(), Some(all("memory")));
    let (code, out, _) = cli.run(&["size"], &policy, &load);
    assert!(
        code == 0 && out.contains("message ids") && out.contains("in all"),
        "{out}"
    );

    let (code, _, err) = cli.elsewhere("nats://127.0.0.1:1").run(&["status"], &policy, &[]);
    assert_eq!(code, 3);
    assert!(err.contains("nats://127.0.0.1:1"), "{err}");
    assert_eq!(err.matches("Connection refused").count(), 1, "it is said once: {err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_in_the_log_is_written_alike_everywhere() {
    let bench = Bench::without_provider(&[], &[]).await;
    let cli = Cli::new(bench.nats.url());
    let declared = |start: &str, end: &str| {
        let backfill = "[subscriptions.late]\nneed = \"backfill\"";
        cli.policy(&format!("{POLICY}\n{backfill}\nstart = \"{start}\"\nend = \"{end}\"\n"))
    };
    let policy = declared("first", "2030-01-01T00:00:00Z");
    assert_eq!(cli.run(&["apply"], &policy, &[]).0, 0);
    let jetstream = async_nats::jetstream::new(bench.client().clone());
    let stored = jetstream.publish("payments.acme.webhook.x", "an event".into());
    stored.await.unwrap().await.unwrap();
    for place in [
        "0/1",
        "position:0/1",
        "2026-01-01T00:00:00Z",
        "time:2026-01-01T00:00:00Z",
        "2026-01-01T01:00:00.5+01:00",
    ] {
        let (code, _, err) = cli.run(&["rewind"], &policy, &["late", "--to", place]);
        assert_eq!(code, 0, "rewind --to {place}: {err}");
        let (code, out, err) = cli.run(&["tail"], &policy, &["--from", place, "--count", "1"]);
        assert!(code == 0 && out.contains("0/1"), "tail --from {place}: {out}{err}");
        let end = place.replace("/1", "/9").replace("2026-", "2036-");
        let (code, _, err) = cli.run(&["check"], &declared(place, &end), &[]);
        assert_eq!(code, 0, "start = {place}, end = {end}: {err}");
    }
    // What the log has lost meanwhile is said.
    for id in ["two", "three"] {
        let stored = jetstream.publish("payments.acme.webhook.x", id.into());
        stored.await.unwrap().await.unwrap();
    }
    jetstream
        .get_stream("fanout_payments_log")
        .await
        .unwrap()
        .purge()
        .sequence(3)
        .await
        .unwrap();
    for (place, gone) in [
        ("0/1", true),
        ("2026-01-01T00:00:00Z", true),
        ("0/3", false),
        ("first", false),
    ] {
        let (code, out, err) = cli.run(&["rewind"], &policy, &["late", "--to", place]);
        assert_eq!(code, 0, "rewind --to {place}: {err}");
        let said = out.contains("; events before 0/3 are no longer kept");
        assert_eq!(said, gone, "rewind --to {place}: {out}");
    }
    // A position of no partition of this bus is refused, and the subscription stays as it was.
    for skip in [&["rewind"][..], &["rewind", "--skip-unhandled"]] {
        let (code, _, err) = cli.run(skip, &policy, &["late", "--to", "3/1"]);
        assert!(
            code == 1 && err.contains("position 3/1 does not exist") && err.contains("[unknown-position]"),
            "{err}"
        );
    }
    assert_eq!(cli.status(&policy).subscription("late").unwrap().problem, None);
    let (code, _, err) = cli.run(&["tail"], &policy, &["--from", "3/1", "--count", "1"]);
    assert!(
        code == 1 && err.contains("position 3/1 does not exist") && err.contains("[unknown-position]"),
        "{code} {err}"
    );
    let (code, _, err) = cli.run(&["tail"], &policy, &["--from", "0/99", "--count", "1"]);
    assert!(
        code == 1 && err.contains("position 0/99 is not in the log") && err.contains("[unknown-position]"),
        "{code} {err}"
    );
    for (verb, args) in [("rewind", &["late", "--to", "1"][..]), ("tail", &["--from", "1"])] {
        let (code, _, err) = cli.run(&[verb], &policy, args);
        assert!(code == 2 && err.contains("a position such as 0/42"), "{verb}: {err}");
    }
    let (code, _, err) = cli.run(&["check"], &declared("1", "1"), &[]);
    assert_eq!((code, err.matches("a position such as 0/42").count()), (1, 2), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_subscription_loses_nothing_that_is_kept() {
    let bench = Bench::without_provider(&[], &[]).await;
    let cli = Cli::new(bench.nats.url());
    let declared = "[subscriptions.fast]\nneed = \"queue\"\n[subscriptions.slow]\nneed = \"durable\"\n";
    let policy = cli.policy(&format!("{POLICY}\n{declared}"));
    assert_eq!(cli.run(&["apply"], &policy, &[]).0, 0);
    for more in [&[][..], &["--seen"], &["fast"]] {
        let (code, out, err) = cli.run(&["lost"], &policy, more);
        assert!(code == 0 && out.contains("nothing was lost"), "{more:?}: {out}{err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verb_that_needs_no_store_says_which_it_looked_at() {
    let bench = Bench::without_provider(&[], &[]).await;
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(POLICY);
    for verb in ["check", "explain", "plan"] {
        let (code, _, err) = cli.run(&[verb], &policy, &[]);
        let read = format!("read the store at {}\n", cli.nats());
        assert_eq!((code, err), (0, read), "NATS_URL counts for {verb}");
        let (_, out, _) = cli.run(&["--json", verb], &policy, &[]);
        let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(shown["store"], cli.nats());
    }
    let cli = cli.elsewhere("");
    for verb in ["check", "explain", "plan"] {
        let (code, _, err) = cli.run(&[verb], &policy, &[]);
        assert!(code == 0 && err.starts_with("read no store"), "{verb}: {err}");
        let (_, out, _) = cli.run(&["--json", verb], &policy, &[]);
        let shown: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert!(shown["store"].is_null(), "{out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_several_partitions_are_tailed_in_the_order_of_their_times() {
    const EVENTS: usize = 60;
    let links = [LinkTo::caller("ingress", &["publisher"], "*")];
    let bench = Bench::start(&[("topology", "sharded(3)")], &links).await;
    let ingress = bench.silent_component("ingress").await;
    for i in 0..EVENTS {
        let tenant = format!("tenant{}", i % 7);
        ingress.publish(event(&tenant, "a", &i.to_string())).await.unwrap();
    }
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(&format!("topology = \"sharded(3)\"\n{POLICY}"));
    let count = EVENTS.to_string();
    let (code, out, err) = cli.run(&["--json", "tail"], &policy, &["--from", "first", "--count", &count]);
    assert_eq!(code, 0, "{err}");
    let events: Vec<serde_json::Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let ids: Vec<_> = events.iter().map(|e| e["id"].as_str().unwrap()).collect();
    let published: Vec<_> = (0..EVENTS).map(|i| i.to_string()).collect();
    assert_eq!(ids, published, "each was published once the one before was stored");
    assert_eq!(
        (&events[0]["tenant"], &events[0]["type"], &events[0]["data"]),
        (&"tenant0".into(), &"a".into(), &"{\"id\":\"0\"}".into()),
        "the words of `publish` and `subscribe`"
    );
    let partitions = events.iter().map(|e| e["position"].as_str().unwrap().split('/').next());
    assert!(partitions.collect::<std::collections::BTreeSet<_>>().len() > 1, "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_says_whether_anybody_is_there_to_take_deliveries() {
    let settings = [("subscription", "billing"), ("need", "durable")];
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::caller("billing", &["inbox"], "*"),
        LinkTo::subscriber("billing", &["inbox"], &settings),
    ];
    let bench = Bench::start(&[], &links).await;
    let ingress = bench.silent_component("ingress").await;
    let billing = bench.silent_component("billing").await;
    for id in ["1", "2", "3"] {
        ingress.publish(event("acme", "a", id)).await.unwrap();
    }
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(POLICY);
    let of = |status: BusStatus| {
        let billing = status.subscription("billing").unwrap();
        (billing.state, billing.pending, billing.attended)
    };
    let nobody = (State::Active, Some(3), Some(false));
    assert_eq!(of(cli.status(&policy)), nobody);
    assert_eq!(of(bench.status().await.unwrap()), nobody);
    let (_, out, _) = cli.run(&["status"], &policy, &[]);
    assert!(out.contains("active, not attended"), "{out}");
    let held = fetch(&billing, "billing", 1, 5_000).await;
    assert_eq!(held.len(), 1);
    assert_eq!(of(cli.status(&policy)).2, Some(true), "one is in hand");
    assert_eq!(of(bench.status().await.unwrap()).2, Some(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topology_is_explained_changed_and_checked() {
    let bench = Bench::without_provider(&[], &[]).await;
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(POLICY);
    assert_eq!(cli.run(&["apply"], &policy, &[]).0, 0);
    let jetstream = async_nats::jetstream::new(bench.client().clone());
    let stored = jetstream.publish("payments.acme.webhook.x", "an event".into());
    stored.await.unwrap().await.unwrap();

    let subscription = "\n[subscriptions.invoicing]\nneed = \"durable\"\nevent-types = [\"invoice.*\"]\n";
    let policy = cli.policy(&format!("topology = \"sharded(2)\"\n{POLICY}{subscription}"));
    let (code, out, _) = cli.run(&["check"], &policy, &["--nats", cli.nats()]);
    assert_eq!(code, 0);
    assert!(out.contains("the store differs from it"), "{out}");
    let (code, out, err) = cli.run(&["apply"], &policy, &[]);
    let steps = "\
~ update stream fanout_payments_dead
+ create stream fanout_payments_log_1 on fanout.part.payments.1.0.> for 7d, shard 0 of 2
+ create stream fanout_payments_log_2 on fanout.part.payments.1.1.> for 7d, shard 1 of 2
+ remember durable subscription invoicing, which waits for a component
+ create consumer invoicing on payments.*.webhook.invoice.* from offset 2
+ create consumer invoicing of partition 1 on payments.*.webhook.invoice.* from offset 1
+ create consumer invoicing of partition 2 on payments.*.webhook.invoice.* from offset 1
~ retire stream fanout_payments_log: what it holds is still read
- delete consumer invoicing
6 to make, 2 to change, 1 to remove
";
    assert_eq!((code, out.as_str(), err.as_str()), (0, steps, ""));
    let (_, out, _) = cli.run(&["plan"], &policy, &["--nats", cli.nats()]);
    assert_eq!(out, "nothing to do: the store is as the policy says\n");
    let (code, out, _) = cli.run(&["check"], &policy, &["--nats", cli.nats()]);
    assert!(code == 0 && !out.contains("differs") && !out.contains("fault"), "{out}");
    let (_, out, _) = cli.run(&["explain"], &policy, &["--nats", cli.nats()]);
    let mapping =
        "\"payments.*.webhook.>\": \"fanout.part.payments.1.{{partition(2,1)}}.payments.{{wildcard(1)}}.webhook.>\"";
    assert!(out.contains(mapping), "{out}");

    let back = cli.policy(&format!(
        "topology = \"work-queue\"\n{POLICY}{}",
        subscription.replace("durable", "backfill")
    ));
    let (code, _, err) = cli.run(&["plan"], &back, &["--nats", cli.nats()]);
    assert!(code == 1 && err.contains("10101") && err.contains("POLICY:10"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_dead_letters() {
    let settings = [("subscription", "invoicing"), ("need", "durable")];
    let links = [
        LinkTo::caller("ingress", &["publisher"], "*"),
        LinkTo::subscriber("invoicing", &["handler"], &settings),
    ];
    let bench = Bench::start(&[], &links).await;
    let ingress = bench.silent_component("ingress").await;
    let invoicing = bench.component("invoicing").await;
    invoicing.judge(|_| Verdict::Refuse(Rejection::DeadLetter("no amount".into())));
    for (tenant, id) in [("acme", "1"), ("globex", "2")] {
        ingress.publish(event(tenant, "invoice.paid", id)).await.unwrap();
    }
    bench
        .subscription_when("invoicing", "both are dead-lettered", |s| {
            s.dead_letters == Some(2) && s.in_flight == Some(0)
        })
        .await;

    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(POLICY);
    let status = cli.status(&policy);
    assert_eq!(status.subscription("invoicing").unwrap().dead_letters, Some(2));

    let list = |more: &[&str]| {
        let (_, out, _) = cli.run(&["--json", "dead-letters", "list"], &policy, more);
        let listed: serde_json::Value = serde_json::from_str(&out).unwrap();
        listed["dead_letters"].as_array().unwrap().clone()
    };
    assert_eq!(list(&[]).len(), 2);
    assert_eq!(list(&["--subscription", "invoicing", "--tenant", "initech"]).len(), 0);
    let of_globex = list(&["--tenant", "globex"]);
    assert_eq!(of_globex.len(), 1);
    assert_eq!(of_globex[0]["attempts"][0]["reason"], "no amount");
    assert_eq!(
        (&of_globex[0]["type"], &of_globex[0]["id"]),
        (&"invoice.paid".into(), &"2".into())
    );
    let (_, out, _) = cli.run(&["dead-letters", "list"], &policy, &[]);
    let shown = out.lines().find(|line| line.contains("globex")).unwrap();
    assert!(
        shown.contains("invoice.paid") && shown.contains(" 2 "),
        "its type and its id: {out}"
    );
    let number = of_globex[0]["number"].to_string();
    let (code, out, _) = cli.run(&["dead-letters", "show"], &policy, &[&number]);
    assert_eq!(code, 0);
    assert!(out.contains("ce-id: 2") && out.ends_with("{\"id\":\"2\"}\n"), "{out}");
    assert_eq!(
        cli.run(&["dead-letters", "discard"], &policy, &[&number]).1,
        out,
        "the receipt is the letter"
    );
    let (code, _, err) = cli.run(&["dead-letters", "discard"], &policy, &[&number]);
    assert_eq!(code, 1);
    assert!(err.contains("there is no dead letter"), "{err}");
    assert_eq!(list(&[]).len(), 1);
    let left = list(&[])[0]["number"].to_string();
    let at = list(&[])[0]["at"].as_str().unwrap().to_owned();
    let (_, out, _) = cli.run(&["dead-letters", "list"], &policy, &[]);
    assert!(out.contains(&format!(" {at} ")), "the time is the same in both: {out}");
    let (code, _, err) = cli.run(&["dead-letters", "discard"], &policy, &[&left, &number]);
    assert!(code == 1 && err.contains("nothing was discarded"), "{err}");
    assert_eq!(list(&[]).len(), 1, "all of them or none");
    assert_eq!(cli.run(&["dead-letters", "discard"], &policy, &[&left]).0, 0);
    assert_eq!(list(&[]).len(), 0);
}

/// What is asked for with a flag is asked for: where it would have no effect, nothing is done.
#[test]
fn a_flag_without_effect_is_refused() {
    let tcp = "tcp://127.0.0.1:1";
    let subscribe = ["subscribe", "--to", tcp, "--name", "work"];
    let hook = "http://127.0.0.1:9/";
    let listen = ["listen", "--to", tcp, "--name", "work", "--forward", hook];
    for verb in [&subscribe[..], &listen] {
        for (need, flags) in [
            ("declared", &[("--type", "invoice.*")][..]),
            ("declared", &[("--tenant", "acme")]),
            ("declared", &[("--from", "first")]),
            ("declared", &[("--scope", "here")]),
            ("declared", &[("--type", "invoice.*"), ("--tenant", "acme")]),
            ("durable", &[("--from", "first")]),
            ("queue", &[("--from", "first")]),
            ("queue", &[("--scope", "everywhere")]),
            ("queue", &[("--scope", "here"), ("--from", "0/1")]),
        ] {
            let given = flags.iter().flat_map(|(flag, value)| [*flag, *value]);
            let args: Vec<_> = verb.iter().copied().chain(["--need", need]).chain(given).collect();
            let (code, out, err) = fanout(&args);
            assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
            for (flag, _) in flags {
                assert!(err.contains(flag), "{args:?}: {err}");
            }
        }
    }
    let publish = ["publish", "--to", tcp, "--tenant", "acme", "--type", "a", "--id", "1"];
    let replay = ["listen", "--forward", hook, "--replay", "event.json"];
    let send = ["webhook", "send", hook, "body"];
    let traced = "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01";
    for (verb, flag, says) in [
        (&publish[..], ["--traceparent", "zz"], "--traceparent"),
        (&publish, ["--traceparent", traced], "--traceparent"),
        (&publish, ["--component", "billing"], "leave it out"),
        (&publish, ["--tls-ca", "ca.pem"], "leave it out"),
        (&replay, ["--token-file", "token"], "--token-file"),
        (&replay, ["--timeout", "5"], "--timeout"),
        (&send, ["--now", "1"], "--scheme"),
        (&send, ["--id", "msg_1"], "--scheme"),
    ] {
        let (code, out, err) = fanout(&[verb, &flag].concat());
        assert_eq!((code, out.as_str()), (2, ""), "{verb:?} {flag:?}: {err}");
        assert!(err.contains(says), "{verb:?} {flag:?}: {err}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_dead_letters_is_done_and_nothing_else() {
    let world = ServedBus::with_long_leases().await;
    for (name, tenant) in [("billing", "acme"), ("other", "globex")] {
        let one = Subscription::durable(name).tenants([tenant]).at_most(1);
        let mut deliveries = world.bus.subscribe(one).await.unwrap();
        let event = Event::new(tenant, "invoice.paid", "1");
        world.bus.publish(&event).await.unwrap();
        let delivery = tokio::time::timeout(Duration::from_secs(30), deliveries.recv()).await;
        let delivery = delivery.expect("it is delivered").unwrap().unwrap();
        delivery.dead_letter("no amount").await.unwrap();
    }
    let letters = |verb: &str, args: &[&str]| world.cli.run(&["dead-letters", verb], &world.policy, args);

    // A filter is of all letters: beside numbers it would say which of them are meant.
    for filter in [["--subscription", "other"], ["--tenant", "globex"]] {
        for numbers in [&["1"][..], &[]] {
            let (code, out, err) = letters("redrive", &[numbers, &filter].concat());
            assert_eq!((code, out.as_str()), (2, ""), "{numbers:?} {filter:?}: {err}");
        }
    }
    let (_, out, _) = letters("redrive", &["2", "2", "2"]);
    assert_eq!(out, "1 to be redriven, 0 of them asked for before\n");
    let (_, out, _) = letters("redrive", &["--all", "--subscription", "billing"]);
    assert_eq!(out, "1 to be redriven, 0 of them asked for before\n");

    for verb in ["show", "redrive", "discard"] {
        let (code, _, err) = letters(verb, &["0"]);
        assert!(
            code == 2 && err.contains('0'),
            "the store counts from 1: {verb}: {code} {err}"
        );
        let (code, _, err) = letters(verb, &["99"]);
        let said = err.contains("there is no dead letter 99") && err.contains("[unknown-dead-letter]");
        assert!(code == 1 && said, "{verb}: {code} {err}");
    }
    assert_eq!(letters("list", &["--limit", "0"]).0, 2);

    // A name that nothing has is no subscription without letters.
    let unknown = |(code, out, err): (i32, String, String)| {
        assert!(
            code == 1 && err.contains("[unknown-subscription]"),
            "{code} {out} {err}"
        );
    };
    unknown(letters("list", &["--subscription", "nope"]));
    unknown(letters("redrive", &["--all", "--subscription", "nope"]));
    unknown(world.cli.run(&["errors"], &world.policy, &["nope"]));

    // One that has ended and left letters is looked at, until they are gone.
    world.bus.unsubscribe("other").await.unwrap();
    let errors = || world.cli.run(&["errors"], &world.policy, &["other", "--since", "0s"]);
    assert_eq!(errors().0, 0, "{}", errors().2);
    let (code, out, err) = letters("discard", &["2", "2"]);
    assert_eq!(code, 0, "{err}");
    let shown = out.matches("dead letter 2 of subscription other").count();
    assert_eq!(shown, 1, "each is discarded once, and printed once: {out}");
    unknown(errors());
}
