//! `fanout` on a real server: what it prints, and its exit codes.

use fanout_tests::types::Rejection;
use fanout_tests::{Bench, Cli, LinkTo, Verdict, event};

const POLICY: &str = "\
bus = \"payments\"
subject = \"payments.{tenant}.webhook.{event-type}\"

[delivery]
deadline = \"500ms\"
ack-wait = \"2s\"
";

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_checked_planned_and_applied_once() {
    let bench = Bench::without_provider(&[], &[]).await;
    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(&POLICY.replace("2s", "100ms").replace("bus =", "colour ="));
    let (code, _, err) = cli.run(&["check"], &policy, &[]);
    assert_eq!(code, 1);
    let lines: Vec<_> = err.lines().map(|l| l.split(": ").nth(1).unwrap()).collect();
    assert_eq!(lines, ["POLICY", "POLICY", "POLICY:1"], "{err}");

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

    let (code, _, err) = cli.elsewhere("nats://127.0.0.1:1").run(&["status"], &policy, &[]);
    assert_eq!(code, 3);
    assert!(err.contains("nats://127.0.0.1:1"), "{err}");
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
            s["dead_letters"] == 2 && s["in_flight"] == 0
        })
        .await;

    let cli = Cli::new(bench.nats.url());
    let policy = cli.policy(POLICY);
    let (code, out, err) = cli.run(&["--json", "status"], &policy, &[]);
    assert_eq!(code, 0, "{err}");
    let status: serde_json::Value = serde_json::from_str(&out).unwrap();
    let invoicing = &status["subscriptions"][0];
    assert_eq!(
        (&invoicing["name"], &invoicing["dead_letters"]),
        (&"invoicing".into(), &2.into()),
        "{out}"
    );

    let list = |more: &[&str]| {
        let (_, out, _) = cli.run(&["--json", "dead-letters", "list"], &policy, more);
        let listed: serde_json::Value = serde_json::from_str(&out).unwrap();
        listed["dead_letters"].as_array().unwrap().clone()
    };
    assert_eq!(list(&[]).len(), 2);
    assert_eq!(list(&["--subscription", "other"]).len(), 0);
    let of_globex = list(&["--tenant", "globex"]);
    assert_eq!(of_globex.len(), 1);
    assert_eq!(of_globex[0]["attempts"][0]["reason"], "no amount");
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
}
