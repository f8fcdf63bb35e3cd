//! What a cut link does to each function of the contract and to each verb of an operator: what `docs/places.md` says of it, done.

use std::collections::BTreeMap;

use fanout_tests::http_caller::{Answered, BATCHED, HttpCaller, STRUCTURED, document};
use futures::future::join_all;
use serde_json::{Value, json};

use super::*;

/// The parts of the page that the tables are in.
const FUNCTIONS: &str = "Each function of the contract";
const OPERATORS: &str = "Each verb of an operator";
const LATER: &str = "/v1/events:at?at=2031-01-01T00:00:00Z";
/// The verbs of the page's second table.
const VERBS: [&str; 9] = [
    "apply",
    "dead-letters redrive",
    "event",
    "move",
    "move --from-lost",
    "pause",
    "resume",
    "rewind",
    "status",
];

fn read(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Who asks, and when: the columns of both tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    AtItsPlace,
    FromAnother,
    FromAnotherOnceHealed,
}

const COLUMNS: [Column; 3] = [Column::AtItsPlace, Column::FromAnother, Column::FromAnotherOnceHealed];

impl Column {
    /// What one has that a column uses up.
    fn own(self, name: &str) -> String {
        format!("{name}-{}", self as usize)
    }
}

/// What the page says below a heading of each function or verb, by columns.
fn table(heading: &str) -> BTreeMap<String, [String; 3]> {
    let page = read("docs/places.md");
    let (_, part) = page
        .split_once(&format!("\n### {heading}\n"))
        .unwrap_or_else(|| panic!("docs/places.md has no part {heading:?}"));
    let part = part.split("\n#").next().unwrap();
    let mut table = BTreeMap::new();
    for row in part.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let name = cells[0].trim_matches('`').to_owned();
        let outcomes: Vec<_> = cells[1..].iter().map(|cell| outcome(cell)).collect();
        let outcomes = outcomes.try_into().unwrap_or_else(|_| panic!("three outcomes: {row}"));
        assert!(table.insert(name, outcomes).is_none(), "it has one row: {row}");
    }
    table
}

/// What a cell says first: a refusal's code, or a word. What follows explains it.
fn outcome(cell: &str) -> String {
    let code = cell.strip_prefix("[`").and_then(|rest| rest.split_once("`](errors/"));
    let first = code.map_or_else(
        || cell.split([',', ':', ' ']).next().unwrap_or_default(),
        |(code, _)| code,
    );
    first.trim_matches('`').to_owned()
}

/// The functions that a bus provides, as the contract has them.
fn functions() -> BTreeSet<String> {
    let worlds = read("wit/world.wit");
    let (_, world) = worlds.split_once("world bus {").unwrap();
    let provided = world.split('}').next().unwrap().lines();
    let provided = provided.filter_map(|line| line.trim().strip_prefix("export ")?.strip_suffix(';'));
    let mut functions = BTreeSet::new();
    for interface in provided {
        let text = read(&format!("wit/{interface}.wit"));
        let of_it = text.lines().filter_map(|line| line.trim().split_once(": func("));
        functions.extend(of_it.map(|(name, _)| format!("{interface}.{name}")));
    }
    functions
}

/// Whoever asks at a place.
struct Asker<'a> {
    place: &'a Place,
    http: HttpCaller,
    column: Column,
    /// Of a delivery that was fetched at the subscription's place.
    held: String,
}

impl Asker<'_> {
    fn is_at_its_place(&self) -> bool {
        self.column == Column::AtItsPlace
    }

    fn own(&self, name: &str) -> String {
        self.column.own(name)
    }

    async fn subscribes(&self, name: &str, wanted: Value) -> Answered {
        self.http
            .json("PUT", &format!("/v1/subscriptions/{name}"), wanted)
            .await
    }

    async fn acts(&self, name: &str, action: &str, body: Value) -> Answered {
        let path = format!("/v1/subscriptions/{name}:{action}");
        self.http.json("POST", &path, body).await
    }

    async fn fetches(&self, name: &str, most: u32) -> Answered {
        let fetch = json!({ "max_deliveries": most, "wait_ms": 5_000 });
        self.acts(name, "fetch", fetch).await
    }

    async fn settles(&self, token: &str, verdict: &str) -> Answered {
        let settlement = json!({ "token": token, "verdict": verdict });
        self.http
            .json("POST", "/v1/settlements", json!({ "settlements": [settlement] }))
            .await
    }

    /// Events that no column has published.
    fn events(&self, count: usize, why: &str) -> Value {
        (0..count)
            .map(|i| document("acme", &self.own(&format!("{why}-{i}"))))
            .collect()
    }

    /// Calls a function, and says what came of it.
    async fn calls(&self, function: &str) -> String {
        let (_, name) = function.split_once('.').expect("interface.function");
        let at_its_place = self.is_at_its_place();
        // What is here already may be asked for again: only one that is not shows that it can be made.
        let made = if at_its_place { self.own(name) } else { name.to_owned() };
        let body = |value: Value| value.to_string();
        let answer = match function {
            "publisher.publish-tenant-event" => {
                let event = body(self.events(1, name)[0].clone());
                self.stored(self.http.ask("POST", "/v1/events", &[STRUCTURED], event).await)
            }
            "publisher.publish-tenant-events" => {
                let events = body(self.events(2, name));
                self.stored(self.http.ask("POST", "/v1/events", &[BATCHED], events).await)
            }
            "publisher.publish-tenant-events-together" => {
                let events = body(self.events(2, name));
                self.stored(self.http.ask("POST", "/v1/events:together", &[BATCHED], events).await)
            }
            "publisher.publish-tenant-event-at" => {
                let event = body(self.events(1, name)[0].clone());
                self.http.ask("POST", LATER, &[STRUCTURED], event).await
            }
            "publisher.cancel-scheduled" => {
                let path = "/v1/scheduled?tenant=acme&source=%2Ftests&id=";
                let id = self.own("later");
                let answer = self.http.ask("DELETE", &format!("{path}{id}"), &[], "").await;
                match answer.good()["cancellation"].as_str().unwrap() {
                    "cancelled" => answer,
                    other => return other.to_owned(),
                }
            }
            "subscriber.subscribe-queue" => self.subscribes(name, json!({ "need": "queue" })).await,
            "subscriber.subscribe-durable" => self.subscribes(&made, json!({ "need": "durable" })).await,
            "subscriber.subscribe-backfill" => self.subscribes(&made, json!({ "need": "backfill" })).await,
            "subscriber.unsubscribe" => {
                let path = format!("/v1/subscriptions/{name}");
                self.http.ask("DELETE", &path, &[], "").await
            }
            "subscriber.pause" | "subscriber.resume" => self.acts(name, name, json!({})).await,
            "subscriber.rewind" => self.acts(name, name, json!({ "to": "first" })).await,
            "subscriber.list-subscriptions" => {
                let answer = self.http.get("/v1/subscriptions").await;
                let listed = answer.good()["subscriptions"].as_array().unwrap().clone();
                let has_it = listed.iter().any(|s| s["name"] == "pause");
                assert_eq!(has_it, at_its_place, "a place lists its own: {answer:?}");
                answer
            }
            "inbox.fetch" => {
                if at_its_place {
                    self.http.publish("acme", "published-apart").await.good();
                }
                let answer = self.fetches(name, 100).await;
                if at_its_place {
                    assert!(answer.text.contains("published-apart"), "it goes on: {answer:?}");
                }
                answer
            }
            "inbox.settle" => {
                let token = match at_its_place {
                    true => token_of(&self.fetches(name, 1).await.good(), 0),
                    false => self.held.clone(),
                };
                self.settles(&token, "handled").await
            }
            "status.links" => self.http.get("/v1/status").await,
            unknown => panic!("{unknown} is not done here: say how it is called"),
        };
        match answer.status {
            200 | 204 => "works".to_owned(),
            status => answer.problem(status),
        }
    }

    /// An answer to a publish; what was stored was stored here.
    fn stored(&self, answer: Answered) -> Answered {
        let here = if self.is_at_its_place() { "0/" } else { "100000/" };
        let value = answer.good();
        let first = [&value, &value["results"][0], &value["receipts"][0]]
            .into_iter()
            .find_map(|receipt| receipt["position"].as_str());
        assert!(first.is_some_and(|at| at.starts_with(here)), "{answer:?}");
        answer
    }

    /// Runs a verb, and says what came of it.
    fn runs(&self, verb: &str) -> String {
        let (cli, policy) = (&self.place.cli, &self.place.policy);
        let place = ["--place", self.place.name];
        let of_each = self.own("move");
        let lost = self.own("lost");
        let to = [&place[..], &["--to", "shop"]].concat();
        let with = |args: &[&'static str], more: &[&str]| cli.run(&[&["--json"], args].concat(), policy, more);
        let (code, out, err) = match verb {
            "apply" => with(&["apply"], &place),
            "status" => with(&["status"], &place),
            "event" => with(&["event"], &[&["0/1"], &place[..]].concat()),
            "pause" => with(&["pause"], &[&["paused"], &place[..]].concat()),
            "resume" => with(&["resume"], &[&["paused"], &place[..]].concat()),
            "rewind" => with(&["rewind"], &[&["paused", "--to", "first"], &place[..]].concat()),
            "dead-letters redrive" => {
                let of = ["--all", "--subscription", "settle"];
                with(&["dead-letters", "redrive"], &[&of, &place[..]].concat())
            }
            "move" => with(&["move"], &[&[of_each.as_str()], &to[..]].concat()),
            "move --from-lost" => with(&["move"], &[&[lost.as_str(), "--from-lost"], &to[..]].concat()),
            unknown => panic!("{unknown} is not done here: say how it is run"),
        };
        if code == 0 {
            return "works".to_owned();
        }
        let said: Value = serde_json::from_str(&err).unwrap_or_else(|e| panic!("{verb}: {e}: {out}{err}"));
        let code = said["problems"][0]["code"].as_str();
        code.unwrap_or_else(|| panic!("{verb} has a code: {err}")).to_owned()
    }
}

fn token_of(fetched: &Value, i: usize) -> String {
    fetched["deliveries"][i]["token"]
        .as_str()
        .expect("a delivery")
        .to_owned()
}

/// What the page says and what is so, of each name and column in which these differ.
#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn compare(&mut self, name: &str, column: Column, said: &[String; 3], is: &str) {
        let said = &said[column as usize];
        if said != is {
            let differs = format!("{name}, {column:?}: the page says {said}, and it is {is}");
            self.0.push(differs);
        }
    }
}

#[test]
fn the_page_has_a_row_for_each_function_and_each_verb() {
    let rows: BTreeSet<_> = table(FUNCTIONS).into_keys().collect();
    assert_eq!(rows, functions());
    let rows: BTreeSet<_> = table(OPERATORS).into_keys().collect();
    assert_eq!(rows, VERBS.iter().map(|verb| format!("fanout {verb}")).collect());
}

/// Makes at the first place what the columns use, and returns what settles one delivery of it.
async fn prepare(asker: &Asker<'_>) -> String {
    let mut durable: Vec<String> = [
        "subscribe-durable",
        "unsubscribe",
        "pause",
        "resume",
        "rewind",
        "fetch",
        "settle",
    ]
    .into_iter()
    .chain(["paused"])
    .map(ToOwned::to_owned)
    .collect();
    for column in COLUMNS {
        durable.extend([column.own("move"), column.own("lost")]);
        let later = document("acme", &column.own("later")).to_string();
        asker.http.ask("POST", LATER, &[STRUCTURED], later).await.good();
    }
    let made = durable
        .iter()
        .map(|name| asker.subscribes(name, json!({ "need": "durable" })));
    for made in join_all(made).await {
        made.good();
    }
    asker
        .subscribes("subscribe-backfill", json!({ "need": "backfill" }))
        .await
        .good();
    asker
        .http
        .ask("POST", "/v1/events", &[BATCHED], asker.events(5, "before").to_string())
        .await
        .good();
    let fetched = asker.fetches("settle", 2).await.good();
    asker.settles(&token_of(&fetched, 1), "dead-letter").await.good();
    token_of(&fetched, 0)
}

impl Place {
    /// Waits until this place has written down that the other has these subscriptions.
    async fn has_heard_of(&self, names: &[String]) {
        let jetstream = async_nats::jetstream::new(self.nats.client().await);
        let bucket = jetstream.get_key_value("fanout_payments_attempts").await.unwrap();
        for name in names {
            eventually("it is known here what the other place has", || async {
                bucket.get(format!("frankfurt.elsewhere.{name}")).await.unwrap()
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_link_does_what_the_page_says() {
    let (functions, verbs) = (table(FUNCTIONS), table(OPERATORS));
    let (link, frankfurt, shop) = joined("").await;
    let mut asker = Asker {
        place: &frankfurt,
        http: HttpCaller::at(&frankfurt.served.listen[1]),
        column: Column::AtItsPlace,
        held: String::new(),
    };
    asker.held = prepare(&asker).await;
    let known = ["subscribe-durable", "subscribe-backfill"].map(ToOwned::to_owned);
    shop.has_heard_of(&known).await;
    shop.has_heard_of(&COLUMNS.map(|column| column.own("lost"))).await;
    shop.mirrors_the_other().await;

    let mut differences = Differences::default();
    for column in COLUMNS {
        asker.column = column;
        match column {
            Column::AtItsPlace => {
                link.cut();
                eventually("the link is cut", || async { (link.connections() == 0).then_some(()) }).await;
            }
            Column::FromAnother => {
                asker.place = &shop;
                asker.http = HttpCaller::at(&shop.served.listen[1]);
            }
            Column::FromAnotherOnceHealed => {
                link.heal();
                eventually("the other place can be read", || async {
                    let notices = shop.status().notices;
                    notices.iter().all(|p| p.code != "place-unreachable").then_some(())
                })
                .await;
            }
        }
        for (function, said) in &functions {
            differences.compare(function, column, said, &asker.calls(function).await);
        }
        for (verb, said) in &verbs {
            let is = tokio::task::block_in_place(|| asker.runs(verb.trim_start_matches("fanout ")));
            differences.compare(verb, column, said, &is);
        }
    }
    assert!(differences.0.is_empty(), "{:#?}", differences.0);
    for place in [&frankfurt, &shop] {
        assert!(!place.served.log().contains("panicked"));
    }
}
