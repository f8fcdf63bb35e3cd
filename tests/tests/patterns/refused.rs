//! What is refused: by code, with its place, and with nothing changed.

use fanout_tests::fetcher::patient;
use fanout_tests::http_bus::HttpBus;
use fanout_tests::types::{Reach, Start, SubscribeError};
use fanout_tests::{Bench, Cli, LinkTo, OutcomeState, fanout, subscriber};
use serde_json::json;

use crate::with_pattern;

/// Patterns that are refused, by which code, and what the message names.
const BAD: [(&str, &str, &str); 4] = [
    (r#"{ "data": { "amount": 5 } }"#, "invalid-pattern", "line 1, column"),
    (
        "{\n  \"data\": {\n    \"a\": [{ \"larger\": 5 }] } }",
        "invalid-pattern",
        "line 3, column",
    ),
    ("no JSON", "invalid-pattern", "line 1, column 2"),
    (r#"{ "tenant": ["globex"] }"#, "pattern-matches-nothing", "no tenant"),
];

fn caller() -> LinkTo {
    LinkTo::caller("caller", &["subscriber", "inbox"], "acme")
}

#[tokio::test(flavor = "multi_thread")]
async fn by_every_call_and_in_links() {
    let declared = |name: &str, pattern: &str| {
        LinkTo::subscriber(
            "worker",
            &["handler"],
            &[
                ("subscription", name),
                ("need", "durable"),
                ("tenants", "acme"),
                ("pattern", pattern),
            ],
        )
        .named(name)
    };
    let mut bench = Bench::start(&[], &[caller()]).await;
    let caller = bench.silent_component("caller").await;
    for (i, (pattern, code, says)) in BAD.into_iter().enumerate() {
        let options = || with_pattern(Reach::Inbox, pattern);
        let bus = caller.bus();
        let refused = [
            subscriber::subscribe_durable(bus, patient(), "asked", &options())
                .await
                .unwrap(),
            subscriber::subscribe_backfill(bus, patient(), "asked", &Start::First, None, &options())
                .await
                .unwrap(),
            subscriber::subscribe_queue(bus, patient(), "asked", &options().filter, Reach::Inbox)
                .await
                .unwrap(),
        ];
        for refused in refused {
            let Err(SubscribeError::InvalidRequest(problem)) = refused else {
                panic!("{pattern}: {refused:?}");
            };
            assert_eq!(problem.code, code, "{pattern}");
            assert!(problem.message.contains(says), "{}", problem.message);
        }
        let name = format!("declared-{i}");
        bench.put_link(&declared(&name, pattern)).await;
        let status = bench
            .status_when("the link is refused", |s| {
                let link = s.links.iter().find(|l| l.name == name);
                link.is_some_and(|l| l.outcome.state == OutcomeState::Refused)
            })
            .await;
        let link = status.links.iter().find(|l| l.name == name).unwrap();
        assert_eq!(link.outcome.problems[0].code, code);
        assert!(link.outcome.problems[0].message.contains("`pattern`"), "{link:?}");
        assert_eq!(status.subscriptions, [], "nothing was made");
    }
    let listed = subscriber::list_subscriptions(caller.bus(), patient())
        .await
        .unwrap()
        .unwrap();
    assert!(listed.is_empty(), "{listed:?}");
    // One that is there stays as it was.
    let legal = with_pattern(Reach::Inbox, r#"{"data":{"a":[1]}}"#);
    subscriber::subscribe_durable(caller.bus(), patient(), "asked", &legal)
        .await
        .unwrap()
        .unwrap();
    for (pattern, ..) in BAD {
        let options = with_pattern(Reach::Inbox, pattern);
        let refused = subscriber::subscribe_durable(caller.bus(), patient(), "asked", &options)
            .await
            .unwrap();
        assert!(refused.is_err(), "{pattern}");
    }
    let listed = subscriber::list_subscriptions(caller.bus(), patient())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(listed[0].filter.pattern, legal.filter.pattern);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_and_on_the_command_line() {
    let bus = HttpBus::start("").await;
    for (pattern, says) in [
        (json!({ "data": { "a": 5 } }), "line 1, column"),
        (json!("text"), "line 1, column 1"),
        (json!({ "data": { "a": [{ "wildcard": "\\x" }] } }), "line 1, column"),
    ] {
        let wanted = json!({ "need": "durable", "filter": { "pattern": pattern } });
        let refused = bus.json("PUT", "/v1/subscriptions/work", wanted).await;
        assert_eq!(refused.problem(422), "invalid-pattern");
        assert!(
            refused.text.contains(says) && refused.text.contains("subscription work"),
            "{}",
            refused.text
        );
    }
    assert_eq!(bus.get("/v1/subscriptions").await.good()["subscriptions"], json!([]));
    let twice = "/v1/events?pattern=%7B%22type%22%3A%5B%22a%22%5D%7D&pattern=%7B%22type%22%3A%5B%22a%22%5D%7D";
    assert_eq!(bus.get(twice).await.problem(400), "invalid-request");

    let file = bus.policy.with_file_name("pattern.json");
    std::fs::write(&file, "{\n  \"data\": 5 }").unwrap();
    let (file, to) = (file.to_str().unwrap(), bus.url(""));
    for verb in [
        &[
            "subscribe",
            "--to",
            &to,
            "--need",
            "durable",
            "--name",
            "work",
            "--pattern",
            file,
        ][..],
        &[
            "listen",
            "--to",
            &to,
            "--need",
            "durable",
            "--forward",
            "http://127.0.0.1:9/",
            "--pattern",
            file,
        ],
        &[
            "tail",
            bus.policy.to_str().unwrap(),
            "--nats",
            bus.cli.nats(),
            "--pattern",
            file,
        ],
    ] {
        let (code, out, err) = fanout(verb);
        assert_eq!((code, out.as_str()), (2, ""), "{verb:?}: {err}");
        assert!(
            err.contains("pattern.json: the event pattern is not legal at line 2, column"),
            "{err}"
        );
    }
    let declared = [
        "subscribe",
        "--to",
        &to,
        "--need",
        "declared",
        "--name",
        "work",
        "--pattern",
        file,
    ];
    let (code, _, err) = fanout(&declared);
    assert!(code == 2 && err.contains("leave --pattern out"), "{code} {err}");
    assert_eq!(bus.cli.status(&bus.policy).subscriptions, []);
}

/// One mistake has one answer, in a body and in a query.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_body_and_in_a_query_alike() {
    let bus = HttpBus::start("[tenants]\nallowed = [\"acme\", \"globex\"]\n").await;
    for (filter, status, code) in [
        (json!({ "pattern": { "data": 5 } }), 422, "invalid-pattern"),
        (json!({ "pattern": { "time": ["yesterday"] } }), 422, "invalid-pattern"),
        (json!({ "event_types": ["a*b"] }), 422, "invalid-pattern"),
        (json!({ "tenants": [""] }), 422, "invalid-tenant"),
        (
            json!({ "event_types": ["b.*"], "pattern": { "type": ["a"] } }),
            422,
            "pattern-matches-nothing",
        ),
        (
            json!({ "pattern": { "tenant": [{ "prefix": "initech" }] } }),
            422,
            "pattern-matches-nothing",
        ),
        (json!({ "tenants": ["initech"] }), 403, "tenant-not-permitted"),
    ] {
        let mut parameters = Vec::new();
        for (member, parameter) in [("tenants", "tenant"), ("event_types", "type")] {
            let values = filter[member].as_array().into_iter().flatten();
            parameters.extend(values.map(|value| (parameter, value.as_str().unwrap().to_owned())));
        }
        parameters.extend(filter.get("pattern").map(|pattern| ("pattern", pattern.to_string())));
        let query = reqwest::Url::parse_with_params("http://bus/", &parameters).unwrap();
        let query = format!("/v1/events?{}", query.query().unwrap());
        let wanted = json!({ "need": "durable", "filter": filter });
        for refused in [
            bus.json("PUT", "/v1/subscriptions/work", wanted).await,
            bus.get(&query).await,
        ] {
            assert_eq!(refused.problem(status), code, "{filter}: {}", refused.text);
        }
    }
    assert_eq!(bus.cli.status(&bus.policy).subscriptions, [], "nothing was made");
}

/// Whoever declares a subscription that nothing can reach is told before the policy is in force.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_policy_that_gives_it_nothing() {
    let cli = Cli::new("nats://127.0.0.1:9".to_owned());
    let event = cli.policy("").with_file_name("event.json");
    let of_globex = json!({
        "tenant": "globex", "type": "invoice.paid", "source": "/tests", "id": "1", "data": {},
    });
    std::fs::write(&event, of_globex.to_string()).unwrap();
    for (settings, code, says) in [
        (
            r#"pattern = '{ "tenant": ["initech"] }'"#,
            "pattern-matches-nothing",
            "`tenants.allowed` names acme, globex",
        ),
        (
            "component = \"caller:billing\"\npattern = '{ \"tenant\": [\"globex\"] }'",
            "pattern-matches-nothing",
            "`callers.billing.subscribe.tenants` names acme",
        ),
        (
            "tenants = [\"initech\"]",
            "tenant-not-permitted",
            "`tenants.allowed` names acme, globex",
        ),
    ] {
        let policy = cli.policy(&format!(
            "bus = \"payments\"\nsubject = \"payments.{{tenant}}.webhook.{{event-type}}\"\ntenants.allowed = [\"acme\", \"globex\"]\n\n\
             [callers.billing]\nunix-uid = 1000\nsubscribe.tenants = [\"acme\"]\n\n\
             [subscriptions.large]\nneed = \"durable\"\n{settings}\n"
        ));
        let policy = policy.to_str().unwrap();
        for verb in ["check", "plan"] {
            let (exit, _, err) = fanout(&["--json", verb, policy]);
            assert_eq!(exit, 1, "{verb} {settings}: {err}");
            let problems: serde_json::Value = serde_json::from_str(&err).unwrap();
            let problem = &problems["problems"][0];
            assert_eq!(problem["code"], code, "{problem}");
            let message = problem["message"].as_str().unwrap();
            assert!(
                message.contains(says) && message.contains("subscription large"),
                "{message}"
            );
        }
        let (exit, out, err) = fanout(&["why", policy, event.to_str().unwrap(), "large"]);
        assert_eq!(exit, 1, "{out}{err}");
        assert!(out.contains(says), "{out}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_policy_with_the_line_of_its_setting() {
    let policy = |pattern: &str| {
        format!(
            "bus = \"payments\"\nsubject = \"payments.{{tenant}}.webhook.{{event-type}}\"\n\n[subscriptions.large]\nneed = \"durable\"\nevent-types = [\"invoice.*\"]\npattern = {pattern}\n"
        )
    };
    let cli = Cli::new("nats://127.0.0.1:9".to_owned());
    for (pattern, code, says) in [
        (r#"'{ "data": { "amount": 5 } }'"#, "invalid-pattern", "line 1, column"),
        (
            r#"'{ "type": ["charge.failed"] }'"#,
            "pattern-matches-nothing",
            "no event type",
        ),
        (r#"{ type = ["invoice.paid"] }"#, "invalid-setting", "JSON text"),
        (r#"{ data = { amount = ["5"] } }"#, "invalid-setting", "JSON text"),
    ] {
        let path = cli.policy(&policy(pattern));
        let (exit, out, err) = fanout(&["--json", "check", path.to_str().unwrap()]);
        assert_eq!((exit, out.as_str()), (1, ""), "{pattern}");
        let problems: serde_json::Value = serde_json::from_str(&err).unwrap();
        let problem = &problems["problems"][0];
        assert_eq!(problem["code"], code, "{problem}");
        let message = problem["message"].as_str().unwrap();
        assert!(
            message.contains(says) && message.contains("subscriptions.large"),
            "{message}"
        );
    }
    let path = cli.policy(&policy(r#"'{ "type": ["invoice.paid"], "data": { "amount": [5] } }'"#));
    let (code, out, err) = fanout(&["explain", path.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    for says in [
        "its events on payments.*.webhook.invoice.paid, of which those are delivered that match",
        r#"{"type":["invoice.paid"],"data":{"amount":[5]}}"#,
        "at least 1 event read for each that is delivered",
    ] {
        assert!(out.contains(says), "{out}");
    }
    let path = cli.policy(&policy(
        r#"'{ "type": ["invoice.paid", { "wildcard": "invoice.void*" }] }'"#,
    ));
    let (_, out, _) = fanout(&["explain", path.to_str().unwrap()]);
    assert!(out.contains("at most all on these subjects"), "{out}");
    // Where subjects tell all that the pattern says, nothing is read in vain.
    let path = cli.policy(&policy(r#"'{ "type": ["invoice.paid"] }'"#));
    let (code, out, err) = fanout(&["explain", path.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    for says in [
        "its events on payments.*.webhook.invoice.paid, which are those that match",
        "1 event read for each that is delivered: all on these subjects match the pattern",
    ] {
        assert!(out.contains(says), "{out}");
    }
    assert!(!out.contains("at most all"), "{out}");
}
