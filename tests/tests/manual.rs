//! `fanout subscribe --manual` as a process: what is settled by lines of standard input, and what the end of the input
//! gives back.

use std::process::Command;

use fanout_client::Event;
use fanout_tests::{Running, ServedBus, SubscriptionStatus, beside_the_tests, eventually};
use serde_json::Value;

struct World(ServedBus);

impl World {
    async fn new() -> Self {
        Self(ServedBus::with_long_leases().await)
    }

    async fn publish(&self, ids: &[&str]) {
        for id in ids {
            let event = Event::new("acme", "invoice.paid", *id).data("{\"n\":1}");
            self.0.bus.publish(&event).await.unwrap();
        }
    }

    /// A program that subscribes to the whole log, with these arguments more.
    fn subscribe(&self, more: &[&str]) -> Running {
        let mut command = Command::new(beside_the_tests("fanout"));
        command.args(["subscribe", "--to", &self.0.served.listen[0]]);
        command.args(["--need", "backfill", "--name", "billing"]).args(more);
        let program = Running::start(command);
        if more.contains(&"--manual") {
            let said = program.error();
            assert!(said.contains("made") && said.contains("billing"), "{said}");
        }
        program
    }

    async fn subscription_when(&self, what: &str, holds: impl Fn(&SubscriptionStatus) -> bool) {
        eventually(what, async || {
            let status = self.0.cli.status(&self.0.policy);
            status.subscription("billing").is_some_and(&holds).then_some(())
        })
        .await;
    }
}

/// The next delivery of a program: its token, its id and its attempt.
fn next(program: &Running) -> (u64, String, u64) {
    let line = program.line();
    let delivery: Value = serde_json::from_str(&line).unwrap();
    let number = |name: &str| delivery[name].as_u64().unwrap_or_else(|| panic!("{name}: {line}"));
    let id = delivery["id"].as_str().unwrap().to_owned();
    (number("token"), id, number("attempt"))
}

fn delivery(token: u64, id: &str, attempt: u64) -> (u64, String, u64) {
    (token, id.to_owned(), attempt)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_settles_by_lines_and_a_bad_line_changes_nothing() {
    let world = World::new().await;
    world.publish(&["1", "2", "3"]).await;
    let mut program = world.subscribe(&["--manual"]);
    for n in [1, 2, 3] {
        assert_eq!(next(&program), delivery(n, &n.to_string(), 1));
    }
    for (line, expected) in [
        (
            "ack",
            "line 1 (\"ack\"): 3 deliveries are in flight: say which with its token; there is 1, 2, 3.",
        ),
        (
            "ack 9",
            "line 2 (\"ack 9\"): no delivery with the token 9 is in flight: there is 1, 2, 3.",
        ),
        (
            "handled 1",
            "line 3 (\"handled 1\"): \"handled\" settles nothing: write `ack TOKEN`",
        ),
        (
            "dead-letter 2",
            "line 4 (\"dead-letter 2\"): the reason is missing: write `dead-letter TOKEN REASON`.",
        ),
        ("retry 1 soon", "line 5 (\"retry 1 soon\"): \"soon\" is no time to wait"),
    ] {
        program.write(line);
        let said = program.error();
        assert!(said.starts_with(&format!("error: {expected}")), "{line}: {said}");
        assert!(said.ends_with("Nothing was settled by it"), "{said}");
    }
    // Nothing was settled by any of them.
    world
        .subscription_when("all are in flight", |s| s.in_flight == Some(3))
        .await;

    program.write("dead-letter 2 no such customer");
    program.write("retry 3 10ms");
    assert_eq!(next(&program), delivery(4, "3", 2));
    program.write("retry 4");
    assert_eq!(next(&program), delivery(5, "3", 3), "by the schedule of the bus");
    program.write("ack 5");
    // One alone is in flight: it needs no token. What is settled is not there to be settled once more.
    program.write("ack");
    program.write("ack 1");
    assert!(
        program
            .error()
            .contains("line 11 (\"ack 1\"): no delivery with the token 1 is in flight: there is none")
    );
    world
        .subscription_when("each is settled as it was said", |s| {
            (s.pending, s.in_flight, s.dead_letters) == (Some(0), Some(0), Some(1))
        })
        .await;
    let letters = ["--json", "dead-letters", "list"];
    let (code, out, err) = world.0.cli.run(&letters, &world.0.policy, &[]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("no such customer"), "{out}");

    program.end_input();
    assert!(program.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_input_gives_back_what_is_in_flight() {
    let world = World::new().await;
    world.publish(&["1", "2", "3"]).await;
    let mut program = world.subscribe(&["--manual"]);
    for n in [1, 2, 3] {
        assert_eq!(next(&program), delivery(n, &n.to_string(), 1));
    }
    program.write("ack 2");
    program.end_input();
    assert_eq!(program.ended().await.code(), Some(0));
    // The others are there at once, and nobody counts an attempt at them. SIGTERM gives back too.
    for way in ["input", "signal"] {
        let mut other = world.subscribe(&["--manual"]);
        let mut again = [next(&other), next(&other)].map(|(_, id, attempt)| (id, attempt));
        again.sort();
        assert_eq!(again, [("1".to_owned(), 1), ("3".to_owned(), 1)], "{way}");
        match way {
            "input" => other.end_input(),
            _ => {
                other.signal("TERM");
            }
        }
        assert_eq!(other.ended().await.code(), Some(0), "{way}");
    }
    // A count ends the command once what it counted is settled.
    let mut last = world.subscribe(&["--manual", "--count", "2"]);
    next(&last);
    next(&last);
    last.write("ack 2");
    last.write("ack 1");
    assert_eq!(last.ended().await.code(), Some(0));
    world
        .subscription_when("all are settled", |s| s.pending == Some(0))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_in_flight_are_bounded() {
    let world = World::new().await;
    world.publish(&["1", "2", "3"]).await;
    let mut program = world.subscribe(&["--json", "--manual", "--max-in-flight", "1"]);
    for n in [1, 2, 3] {
        assert_eq!(next(&program), delivery(n, &n.to_string(), 1));
        // What was fetched beyond it would be in flight at the bus.
        world
            .subscription_when("one is in flight", |s| s.in_flight == Some(1))
            .await;
        program.write("ack 7");
        let said: Value = serde_json::from_str(&program.error()).unwrap();
        let said = said["error"].as_str().unwrap();
        assert!(said.contains(&format!("there is {n}.")), "{said}");
        program.write("ack");
    }
    program.end_input();
    assert!(program.ended().await.success());
    let mut wrong = world.subscribe(&["--max-in-flight", "1"]);
    assert_eq!(wrong.ended().await.code(), Some(2));
    assert!(
        wrong.errors().any(|line| line.contains("--manual")),
        "it says what is missing"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_of_the_documents_works() {
    let world = World::new().await;
    let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/client.md");
    let page = std::fs::read_to_string(page).unwrap();
    let code = page.split_once("```python\n").expect("there is a program").1;
    let code = code.split_once("```").expect("it ends").0;
    assert!(code.lines().count() <= 25, "it is short");
    let fanout = beside_the_tests("fanout").display().to_string();
    let code = code.replace("tcp://127.0.0.1:7761", &world.0.served.listen[0]);
    let code = code.replace("\"fanout\"", &format!("{fanout:?}"));
    // It needs nothing but Python itself.
    let mut command = Command::new("python3");
    command.args(["-c", &code]);
    let program = Running::start(command);
    world
        .subscription_when("it has subscribed", |s| s.attended == Some(true))
        .await;
    let event = |id: &str, data: &str| Event::new("acme", "invoice.paid", id).data(data.to_owned());
    world.0.bus.publish(&event("good", "{\"amount\":12}")).await.unwrap();
    world.0.bus.publish(&event("bad", "no JSON\nat all")).await.unwrap();
    assert_eq!(program.line(), "acme owes 12");
    world
        .subscription_when("each is settled", |s| {
            (s.pending, s.in_flight, s.dead_letters) == (Some(0), Some(0), Some(1))
        })
        .await;
}
