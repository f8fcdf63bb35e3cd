//! One bus in two places: a hub and a leaf, each a JetStream domain of its own, joined by a link that is cut and healed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fanout_client::{Bus, Deliveries, Event, Start, Subscription, connect};
use fanout_plan::last_known::LastKnown;
use fanout_plan::status::{MirrorStatus, PlaceStatus};
use fanout_tests::nemesis::Proxy;
use fanout_tests::{ANYONE_HERE, BusStatus, Cli, SERVED_POLICY, Served, beside_the_tests, eventually, free_ports};
use fanout_transport::testing::{NatsServer, NatsSettings};

const PATIENCE: Duration = Duration::from_secs(60);

/// The one document of both places.
const PLACES: &str = "
[places.frankfurt]
number = 0
jetstream.domain = \"hub\"

[places.shop]
number = 1
leaf-of = \"frankfurt\"

[subscriptions.billing]
need = \"durable\"
component = \"caller:anyone\"
at = \"frankfurt\"

[subscriptions.local]
need = \"durable\"
component = \"caller:anyone\"
scope = \"here\"
";

/// A server of a JetStream domain, with what joins it to another.
async fn server(domain: &str, leafnodes: String) -> NatsServer {
    let config = format!(
        "server_name: {domain}\n\
         accounts {{\n  SYS {{ users: [ {{ user: sys, password: sys }} ] }}\n  APP {{ jetstream: enabled, users: [ {{ user: app, password: app }} ] }}\n}}\n\
         system_account: SYS\nno_auth_user: app\njetstream {{ domain: {domain} }}\n\
         leafnodes {{\n  reconnect: 1s\n  no_advertise: true\n  {leafnodes}\n}}\n"
    );
    NatsServer::start_with(NatsSettings {
        config: Some(config),
        ..NatsSettings::default()
    })
    .await
}

struct Place {
    name: &'static str,
    nats: NatsServer,
    served: Served,
    bus: Bus,
    cli: Cli,
    policy: PathBuf,
}

impl Place {
    async fn open(name: &'static str, nats: NatsServer, text: &str) -> Self {
        let cli = Cli::new(nats.url());
        let policy = cli.policy(text);
        let args = ["--listen", "tcp://127.0.0.1:0", "--place", name];
        let served = Served::start(&nats.url(), &policy, &args);
        let bus = connect(&served.listen[0]).await.unwrap();
        Self {
            name,
            nats,
            served,
            bus,
            cli,
            policy,
        }
    }

    fn status(&self) -> BusStatus {
        let (code, out, err) = self
            .cli
            .run(&["--json", "status"], &self.policy, &["--place", self.name]);
        assert_eq!(code, 0, "{err}");
        serde_json::from_str(&out).unwrap()
    }

    fn mirrors(&self) -> Vec<MirrorStatus> {
        let PlaceStatus { name, mirrors, .. } = self.status().place.unwrap();
        assert_eq!(name.as_str(), self.name);
        mirrors.unwrap()
    }

    async fn mirrors_the_other(&self) {
        eventually("the other place is mirrored", || async {
            let mirrors = self.mirrors();
            (mirrors.len() == 1 && mirrors[0].lag == Some(0)).then_some(())
        })
        .await;
    }

    /// Publishes numbered events, each of which must be stored here.
    async fn publish(&self, partition: u32, numbers: std::ops::Range<usize>) {
        for i in numbers {
            let event = Event::new("acme", "invoice.paid", format!("{}-{i:03}", self.name)).source(self.name);
            let receipt = self.bus.publish(&event).await.unwrap();
            assert_eq!(receipt.position.partition, partition, "its place shows in its position");
        }
    }

    async fn subscribe(&self, subscription: Subscription) -> Deliveries {
        self.bus.subscribe(subscription).await.unwrap()
    }
}

/// Takes so many events, and acknowledges each: partition, offset and id.
async fn take(deliveries: &mut Deliveries, count: usize) -> Vec<(u32, u64, String)> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let next = tokio::time::timeout(PATIENCE, deliveries.recv()).await;
        let delivery = next
            .unwrap_or_else(|_| panic!("no more than {} of {count} came: {taken:?}", taken.len()))
            .expect("the stream goes on")
            .unwrap();
        let position = delivery.position();
        taken.push((position.partition, position.offset, delivery.event().id.clone()));
        delivery.ack().await.unwrap();
    }
    taken
}

/// The ids of one place, by their positions: without an `ordering` they may come in another order.
fn of<'a>(place: &str, taken: &'a [(u32, u64, String)]) -> Vec<&'a str> {
    let mut taken: Vec<_> = taken.iter().collect();
    taken.sort();
    let ids = taken.into_iter().map(|(_, _, id)| id.as_str());
    ids.filter(|id| id.starts_with(place)).collect()
}

fn numbered(place: &str, numbers: std::ops::Range<usize>) -> Vec<String> {
    numbers.map(|i| format!("{place}-{i:03}")).collect()
}

/// The policy of three places, of which the second joins later.
fn three_places(revision: u32, of_virginia: Option<&str>) -> String {
    let virginia = of_virginia.map_or_else(String::new, |more| {
        format!("\n[places.virginia]\nnumber = 2\nleaf-of = \"frankfurt\"\n{more}\n\n[subscriptions.stock]\nneed = \"durable\"\ncomponent = \"caller:anyone\"\nat = \"virginia\"\n")
    });
    format!("revision = {revision}\n{SERVED_POLICY}{ANYONE_HERE}{PLACES}{virginia}")
}

/// Two places that mirror each other over a leaf link, which goes through a proxy.
async fn joined(ordering: &str) -> (Proxy, Place, Place) {
    let port = free_ports(1)[0];
    let hub = server("hub", format!("listen: \"127.0.0.1:{port}\"")).await;
    let link = Proxy::before(port).await;
    let remote = format!(
        "remotes: [ {{ url: \"nats://app:app@127.0.0.1:{}\", account: APP }} ]",
        link.port()
    );
    let leaf = server("shop", remote).await;
    let text = format!("{ordering}{SERVED_POLICY}{ANYONE_HERE}{PLACES}");
    let frankfurt = Place::open("frankfurt", hub, &text).await;
    let shop = Place::open("shop", leaf, &text).await;
    frankfurt.mirrors_the_other().await;
    shop.mirrors_the_other().await;
    (link, frankfurt, shop)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_places_go_on_alone_and_have_each_others_events_afterwards() {
    let (link, frankfurt, shop) = joined("").await;

    let subscriptions = |place: &Place| -> Vec<String> {
        let all = place.status().subscriptions;
        all.iter().map(|s| s.name.to_string()).collect()
    };
    assert_eq!(subscriptions(&frankfurt), ["billing", "local"]);
    assert_eq!(subscriptions(&shop), ["local"], "billing is at frankfurt");
    let mut billing = frankfurt.subscribe(Subscription::declared("billing")).await;
    let mut local = shop.subscribe(Subscription::declared("local")).await;
    let mut queue = shop.subscribe(Subscription::queue("fast")).await;

    tokio::join!(frankfurt.publish(0, 0..20), shop.publish(100_000, 0..20));
    let mut all = take(&mut billing, 40).await;

    link.cut();
    eventually("the link is cut", || async { (link.connections() == 0).then_some(()) }).await;
    tokio::join!(frankfurt.publish(0, 20..40), shop.publish(100_000, 20..40));
    let alone = take(&mut billing, 20).await;
    assert_eq!(
        of("frankfurt", &alone),
        numbered("frankfurt", 20..40),
        "its own events go on"
    );
    assert_eq!(of("shop", &alone), [""; 0]);
    all.extend(alone);
    eventually("it is said that the other place can't be read", || async {
        let notices = frankfurt.status().notices;
        notices.iter().any(|p| p.code == "place-unreachable").then_some(())
    })
    .await;

    // Each can't see that the other has it.
    let mut both = frankfurt.subscribe(Subscription::durable("both")).await;
    let younger = shop.subscribe(Subscription::durable("both")).await;

    link.heal();
    all.extend(take(&mut billing, 20).await);
    tokio::join!(frankfurt.publish(0, 40..50), shop.publish(100_000, 40..50));
    all.extend(take(&mut billing, 20).await);
    assert_eq!(of("frankfurt", &all), numbered("frankfurt", 0..50));
    assert_eq!(of("shop", &all), numbered("shop", 0..50));

    let here = take(&mut local, 50).await;
    assert_eq!(
        of("shop", &here),
        numbered("shop", 0..50),
        "of every place only its own"
    );
    // It is given what comes once it listens.
    let fast = take(&mut queue, 20).await;
    assert!(fast.iter().all(|(partition, ..)| *partition == 100_000), "{fast:?}");

    // A position is one event wherever it is read.
    let mut read = Vec::new();
    for place in [&frankfurt, &shop] {
        let name = format!("all-{}", place.name);
        let mut backfill = place.subscribe(Subscription::backfill(&name, Start::First)).await;
        read.push(take(&mut backfill, 100).await.into_iter().collect::<BTreeSet<_>>());
    }
    assert_eq!(read[0], read[1]);
    assert_eq!(
        read[0],
        all.into_iter().collect(),
        "and it is the one that the durable subscription was given"
    );

    // Of what was made at two places the older one stands. The other waits, and says so; it goes on where it was once nothing
    // stands in its way.
    let waits = || {
        let status = shop.status();
        let both = status.subscription("both")?;
        (both.code() == "at-another-place").then_some(())
    };
    eventually("the younger one is withheld", || async {
        // Whoever asks makes the place look.
        let refused = shop.bus.subscribe(Subscription::durable("both")).await.err()?;
        (refused.code == "at-another-place").then(waits)?
    })
    .await;
    let refused = shop.bus.subscribe(Subscription::durable("billing")).await.unwrap_err();
    assert_eq!(refused.code, "at-another-place", "{refused}");
    assert!(refused.message.contains("frankfurt"), "{refused}");
    shop.publish(100_000, 50..60).await;
    // Behind what was there when it was made: of the other place, what was mirrored by then.
    let given = take(&mut both, 50).await;
    assert_eq!(of("frankfurt", &given), numbered("frankfurt", 40..50));
    assert_eq!(of("shop", &given), numbered("shop", 20..60));
    frankfurt.bus.unsubscribe("both").await.unwrap();
    drop(both);
    drop(younger);
    let mut younger = eventually("the other one goes on", || async {
        shop.bus.subscribe(Subscription::durable("both")).await.ok()
    })
    .await;
    let given: BTreeSet<_> = take(&mut younger, 50).await.into_iter().map(|(.., id)| id).collect();
    let all = numbered("frankfurt", 20..50)
        .into_iter()
        .chain(numbered("shop", 40..60));
    assert_eq!(given, all.collect(), "nothing that it was given is lost");
    shop.bus.unsubscribe("both").await.unwrap();

    // Nothing is left to do at either, and what there is can be explained.
    for place in [&frankfurt, &shop] {
        place.mirrors_the_other().await;
        place.bus.unsubscribe(&format!("all-{}", place.name)).await.unwrap();
        let of_place = ["--nats", &place.nats.url(), "--place", place.name];
        eventually("nothing is left to do", || async {
            let (code, out, err) = place.cli.run(&["plan"], &place.policy, &of_place);
            assert_eq!(code, 0, "{out}{err}");
            out.contains("nothing to do").then_some(())
        })
        .await;
        let (code, out, err) = place.cli.run(&["explain"], &place.policy, &of_place);
        assert!(code == 0 && out.contains("mirrors"), "{out}{err}");
        assert!(!place.served.log().contains("panicked"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_that_are_taken_for_one_place_are_told() {
    let port = free_ports(1)[0];
    let hub = server("hub", format!("listen: \"127.0.0.1:{port}\"")).await;
    let remote = format!("remotes: [ {{ url: \"nats://app:app@127.0.0.1:{port}\", account: APP }} ]");
    let text = format!("{SERVED_POLICY}{ANYONE_HERE}{PLACES}");
    let first = Place::open("frankfurt", hub, &text).await;
    let second = Place::open("frankfurt", server("hub", remote).await, &text).await;
    for place in [&first, &second] {
        eventually("it is told", || async {
            place.served.log().contains("is stored twice").then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_none_is_refused_before_anything_is_made() {
    let nats = server("hub", String::new()).await;
    let cli = Cli::new(nats.url());
    let policy = cli.policy(&format!("{SERVED_POLICY}{ANYONE_HERE}{PLACES}"));
    for (args, code) in [(&["--place", "tokyo"][..], "unknown-place"), (&[], "missing-setting")] {
        let (exit, out, err) = cli.run(&["apply"], &policy, args);
        assert!(exit != 0 && err.contains(code), "{out}{err}");
        let listen = [args, &["--listen", "tcp://127.0.0.1:0"]].concat();
        let refused = Served::try_start(&nats.url(), &policy, &listen).unwrap_err();
        assert!(refused.contains(code), "{refused}");
    }
    // The store of one place is not brought to another's.
    let (exit, out, err) = cli.run(&["apply"], &policy, &["--place", "frankfurt"]);
    assert_eq!(exit, 0, "{out}{err}");
    let mistaken = policy.with_file_name("mistaken.toml");
    let text = std::fs::read_to_string(&policy).unwrap();
    let text = text
        .replace("jetstream.domain = \"hub\"", "")
        .replace("[places.shop]", "[places.shop]\njetstream.domain = \"hub\"");
    std::fs::write(&mistaken, text).unwrap();
    let (exit, out, err) = cli.run(&["apply"], &mistaken, &["--place", "shop"]);
    assert!(exit != 0 && err.contains("place-conflict"), "{out}{err}");
}

/// Takes and acknowledges what comes of a subscription until it is not delivered here any more. Each third event is refused once.
async fn handle(bus: Bus, seen: Arc<Mutex<Vec<String>>>) {
    let Ok(mut deliveries) = bus.subscribe(Subscription::declared("billing")).await else {
        return;
    };
    while let Some(Ok(delivery)) = deliveries.recv().await {
        let id = delivery.event().id.clone();
        let refuses = id.ends_with('3') && delivery.attempt() == 1;
        let settled = match refuses {
            true => delivery.retry_after(Duration::from_millis(100), "not now").await,
            false => delivery.ack().await,
        };
        if settled.is_ok() && !refuses {
            seen.lock().unwrap().push(id);
        }
    }
}

impl Place {
    /// Has a subscription go on here while its place is lost.
    fn takes_from_lost(&self) -> (i32, String, String) {
        let args = ["billing", "--to", self.name, "--from-lost", "--place", self.name];
        self.cli.run(&["--json", "move"], &self.policy, &args)
    }

    /// Both the instance and its servers are killed.
    fn is_lost(&mut self) {
        self.served.kill();
        self.nats.kill();
    }

    /// What they had stored is there again.
    async fn comes_back(&mut self) {
        self.nats.restart().await;
        let args = ["--listen", "tcp://127.0.0.1:0", "--place", self.name];
        self.served = Served::start(&self.nats.url(), &self.policy, &args);
        self.bus = connect(&self.served.listen[0]).await.unwrap();
    }

    /// Waits until this place knows how far a subscription has come at another: so many events are settled, and so many of them wait
    /// for a retry.
    async fn knows(&self, place: &str, settled: u64, waiting: usize) {
        let jetstream = async_nats::jetstream::new(self.nats.client().await);
        let bucket = jetstream.get_key_value("fanout_payments_attempts").await.unwrap();
        eventually(
            "it is known here how far the other place's subscription has come",
            || async {
                let value = bucket.get(format!("{place}.elsewhere.billing")).await.unwrap()?;
                let known: LastKnown = serde_json::from_slice(&value).unwrap();
                let to: u64 = known.given.iter().map(|given| given.to).sum();
                (to == settled && known.waiting() == waiting).then_some(())
            },
        )
        .await;
    }

    /// Brings the instance to another policy.
    async fn is_brought_to(&self, text: &str) {
        std::fs::write(&self.policy, text).unwrap();
        let before = self.served.log().matches("the policy is in force").count();
        self.served.signal("HUP");
        eventually("the policy is in force", || async {
            let now = self.served.log().matches("the policy is in force").count();
            (now > before).then_some(())
        })
        .await;
    }

    /// What a verb says, as an operator at this place runs it.
    fn says(&self, verb: &[&str], more: &[&str]) -> (i32, String) {
        let place = ["--place", self.name];
        let (code, out, err) = self.cli.run(verb, &self.policy, &[&place[..], more].concat());
        (code, format!("{out}{err}"))
    }

    /// Waits for a problem that the status shows beside the subscriptions.
    async fn notices(&self, code: &str, words: &str) {
        eventually("the status says what is so between the places", || async {
            let notices = self.status().notices;
            let said = notices.iter().any(|p| p.code == code && p.message.contains(words));
            said.then_some(())
        })
        .await;
    }

    fn moves(&self, to: &str) -> (i32, String, String) {
        let args = ["billing", "--to", to, "--within", "20s", "--place", self.name];
        self.cli.run(&["--json", "move"], &self.policy, &args)
    }

    /// The same, as a process of its own.
    fn begins_to_move(&self, to: &str) -> tokio::process::Child {
        let mut command = tokio::process::Command::new(beside_the_tests("fanout"));
        command.args(["move", "--nats", &self.nats.url(), "--to", to, "--place", self.name]);
        command
            .arg(&self.policy)
            .arg("billing")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.kill_on_drop(true).spawn().unwrap()
    }

    /// Handles at both places in turn whatever is delivered there, until the test ends.
    fn handles(&self, seen: &Arc<Mutex<Vec<String>>>) -> tokio::task::JoinHandle<()> {
        let (bus, seen) = (self.bus.clone(), Arc::clone(seen));
        tokio::spawn(async move {
            loop {
                handle(bus.clone(), Arc::clone(&seen)).await;
                tokio::task::yield_now().await;
            }
        })
    }
}

async fn moves_under_load(ordering: &str) {
    let (link, frankfurt, shop) = joined(ordering).await;
    let seen = Arc::default();
    let handlers = [frankfurt.handles(&seen), shop.handles(&seen)];
    let has_all = |to: usize| {
        let seen = Arc::clone(&seen);
        let wanted: BTreeSet<_> = ["frankfurt", "shop"].iter().flat_map(|p| numbered(p, 0..to)).collect();
        async move {
            eventually("every event is handled", || async {
                let seen: BTreeSet<_> = seen.lock().unwrap().iter().cloned().collect();
                (seen == wanted).then_some(())
            })
            .await;
        }
    };
    let mut comes_again = 0;
    let mut moved = |(code, out, err): (i32, String, String), from: &str| {
        assert_eq!(code, 0, "{out}{err}");
        let said: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(said["from"], from, "{out}");
        comes_again += said["comes_again"].as_u64().unwrap();
        said["stood_still_ms"].as_u64().unwrap()
    };
    tokio::join!(frankfurt.publish(0, 0..100), shop.publish(100_000, 0..100));
    let (there, ..) = tokio::join!(
        async { tokio::task::block_in_place(|| frankfurt.moves("shop")) },
        frankfurt.publish(0, 100..200),
        shop.publish(100_000, 100..200)
    );
    let stood_still = moved(there, "frankfurt");
    assert!(stood_still < 10_000, "{stood_still} ms");
    has_all(200).await;
    let has_it = |place: &Place| place.status().subscription("billing").is_some();
    assert!(has_it(&shop) && !has_it(&frankfurt));
    // It is there, whatever the policy says, and the same command again does nothing.
    let (code, out, err) = frankfurt.moves("shop");
    assert!(code == 0 && out.contains("\"from\": null"), "{out}{err}");

    // While the link is cut nothing is moved, and deliveries go on where they are.
    link.cut();
    eventually("the link is cut", || async { (link.connections() == 0).then_some(()) }).await;
    let (code, out, err) = shop.moves("frankfurt");
    assert_ne!(code, 0, "{out}{err}");
    shop.publish(100_000, 200..210).await;
    frankfurt.publish(0, 200..210).await;
    link.heal();
    has_all(210).await;
    shop.mirrors_the_other().await;
    let (back, ..) = tokio::join!(
        async {
            // Killed at some step or other, it goes on with the next try.
            for kill_after in [15, 40, 90].map(Duration::from_millis) {
                let mut child = shop.begins_to_move("frankfurt");
                drop(tokio::time::timeout(kill_after, child.wait()).await);
                child.kill().await.unwrap();
            }
            // Taken back, it is delivered where it was; nothing that was copied meanwhile is left to be found by the next try.
            let (code, out, err) = tokio::task::block_in_place(|| shop.moves("shop"));
            assert_eq!(code, 0, "{out}{err}");
            assert!(has_it(&shop));
            tokio::task::block_in_place(|| shop.moves("frankfurt"))
        },
        frankfurt.publish(0, 210..260),
        shop.publish(100_000, 210..260)
    );
    assert_eq!(back.0, 0, "{back:?}");
    has_all(260).await;
    assert!(!has_it(&shop) && has_it(&frankfurt));

    for handler in handlers {
        handler.abort();
    }
    for place in [&frankfurt, &shop] {
        assert!(!place.served.log().contains("panicked"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_moves_under_load_and_back() {
    moves_under_load("").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_with_an_order_moves_under_load_and_back() {
    moves_under_load("ordering = \"tenant\"\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_goes_on_elsewhere_while_its_place_is_lost() {
    let (link, mut frankfurt, shop) = joined("").await;
    drop(frankfurt.subscribe(Subscription::durable("audit")).await);
    let mut billing = frankfurt.subscribe(Subscription::declared("billing")).await;
    tokio::join!(frankfurt.publish(0, 0..20), shop.publish(100_000, 0..20));
    let mut handled = BTreeSet::new();
    for _ in 0..40 {
        let delivery = billing.recv().await.unwrap().unwrap();
        let id = delivery.event().id.clone();
        if id == "frankfurt-007" {
            delivery
                .retry_after(Duration::from_secs(3_600), "not now")
                .await
                .unwrap();
        } else {
            delivery.ack().await.unwrap();
            handled.insert(id);
        }
    }
    shop.knows("frankfurt", 40, 1).await;
    let (code, out, err) = shop.takes_from_lost();
    assert!(code != 0 && err.contains("place-not-lost"), "{out}{err}");

    // It goes on alone for a while, and is gone then.
    link.cut();
    eventually("the link is cut", || async { (link.connections() == 0).then_some(()) }).await;
    frankfurt.publish(0, 20..23).await;
    let alone = take(&mut billing, 3).await;
    assert_eq!(of("frankfurt", &alone), numbered("frankfurt", 20..23));
    frankfurt.is_lost();
    drop(billing);
    link.heal();
    shop.publish(100_000, 20..30).await;
    shop.notices("place-unreachable", "audit, billing").await;
    let second = shop.bus.subscribe(Subscription::durable("audit")).await.unwrap_err();
    assert!(second.message.contains("--from-lost"), "it is not made anew: {second}");
    let (code, out, err) = shop.takes_from_lost();
    assert_eq!(code, 0, "{out}{err}");
    let said: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(said["from"], "frankfurt", "{out}");
    assert_eq!(
        (&said["may_come_again"], &said["retries"]),
        (&10.into(), &1.into()),
        "{out}"
    );
    let (code, out, err) = shop.takes_from_lost();
    assert!(
        code == 0 && out.contains("\"from\": null"),
        "the same again does nothing: {out}{err}"
    );

    // What was settled does not come again. What waited for a retry comes, and what came since.
    eventually("its instance delivers it", || async {
        let log = shop.served.log();
        let begun = log
            .lines()
            .any(|line| line.contains("delivering") && line.contains("billing"));
        begun.then_some(())
    })
    .await;
    let mut goes_on = shop.subscribe(Subscription::declared("billing")).await;
    let given = take(&mut goes_on, 11).await;
    assert_eq!(of("frankfurt", &given), ["frankfurt-007"]);
    assert_eq!(of("shop", &given), numbered("shop", 20..30));

    // The place that comes back finds it elsewhere, and lets it go. What it alone had comes to where the subscription is.
    frankfurt.comes_back().await;
    eventually("the place that comes back lets the subscription go", || async {
        let status = frankfurt.status();
        let at = status.place.as_ref()?.moved.get(&"billing".parse().unwrap())?.clone();
        (at.as_str() == "shop" && status.subscription("billing").is_none()).then_some(())
    })
    .await;
    eventually("it says so", || async {
        frankfurt.served.log().contains("at-another-place").then_some(())
    })
    .await;
    let refused = frankfurt
        .bus
        .subscribe(Subscription::durable("billing"))
        .await
        .unwrap_err();
    assert!(refused.message.contains("shop"), "{refused}");
    tokio::join!(frankfurt.publish(0, 23..30), shop.publish(100_000, 30..40));
    let given = take(&mut goes_on, 20).await;
    assert_eq!(of("frankfurt", &given), numbered("frankfurt", 20..30), "once each");
    assert_eq!(of("shop", &given), numbered("shop", 30..40));
    for place in [&frankfurt, &shop] {
        assert!(!place.served.log().contains("panicked"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_joins_two_others_and_is_retired() {
    let port = free_ports(1)[0];
    let hub = server("hub", format!("listen: \"127.0.0.1:{port}\"")).await;
    let remote = format!("remotes: [ {{ url: \"nats://app:app@127.0.0.1:{port}\", account: APP }} ]");
    let (leaf, third) = tokio::join!(server("shop", remote.clone()), server("virginia", remote));
    let frankfurt = Place::open("frankfurt", hub, &three_places(1, None)).await;
    let shop = Place::open("shop", leaf, &three_places(1, None)).await;
    frankfurt.publish(0, 0..60).await;
    shop.mirrors_the_other().await;

    // It joins: it has all that was there, and says so. Until the others know of it, they say that theirs is the older policy.
    let virginia = Place::open("virginia", third, &three_places(2, Some(""))).await;
    eventually("the place that joins has caught up", || async {
        let (code, said) = virginia.says(&["status"], &[]);
        assert_eq!(code, 0, "{said}");
        (said.matches("has caught up").count() == 2 && said.contains("has all up to 0/60")).then_some(())
    })
    .await;
    virginia.notices("older-policy", "bring place").await;
    for place in [&frankfurt, &shop] {
        place.is_brought_to(&three_places(2, Some(""))).await;
    }
    let mut stock = virginia.subscribe(Subscription::declared("stock")).await;
    virginia.publish(200_000, 0..20).await;
    let first = stock.recv().await.unwrap().unwrap();
    first.dead_letter("not this one").await.unwrap();
    take(&mut stock, 19).await;
    drop(stock);

    // An instance that is connected to another place's servers is told.
    let mistaken = ["--listen", "tcp://127.0.0.1:0", "--place", "frankfurt"];
    let policy = shop.policy.with_file_name("mistaken.toml");
    std::fs::write(&policy, three_places(2, Some(""))).unwrap();
    let mistaken = Served::start(&shop.nats.url(), &policy, &mistaken);
    eventually("an instance at other servers is told", || async {
        mistaken.log().contains("place-conflict").then_some(())
    })
    .await;
    drop(mistaken);

    // Taken out as it is, it would take along what is at it.
    let out = frankfurt.policy.with_file_name("without.toml");
    std::fs::write(&out, three_places(3, None)).unwrap();
    let take_out = || frankfurt.cli.run(&["apply"], &out, &["--place", "frankfurt"]);
    let (code, said, err) = take_out();
    assert!(
        code != 0 && err.contains("would-lose-events") && err.contains("stock"),
        "{said}{err}"
    );

    for place in [&frankfurt, &shop, &virginia] {
        place.is_brought_to(&three_places(3, Some("retired = true"))).await;
    }
    let event = Event::new("acme", "invoice.paid", "one-more").source("virginia");
    let refused = virginia.bus.publish(&event).await.unwrap_err();
    assert_eq!(refused.code, "place-retired", "{refused}");
    assert!(refused.message.contains("frankfurt, shop"), "{refused}");
    let status = frankfurt.status();
    let retiring = &status.place.as_ref().unwrap().retiring[0];
    assert!(
        !retiring.may_be_removed && retiring.subscriptions.len() == 1,
        "{retiring}"
    );
    frankfurt.notices("place-retired", "(stock)").await;
    for verb in ["check", "plan", "apply"] {
        let (_, said) = frankfurt.says(&[verb], &["--nats", &frankfurt.nats.url()]);
        assert!(
            said.contains("place-retired") && said.contains("(stock)"),
            "{verb}: {said}"
        );
    }
    let (code, said) = shop.says(&["move"], &["billing", "--to", "virginia"]);
    assert!(code != 0 && said.contains("place-retired"), "{said}");

    // Its subscription goes; its dead letter stays, and both places say where.
    let (code, said) = virginia.says(&["move"], &["stock", "--to", "frankfurt"]);
    assert!(code == 0 && said.contains("1 dead letters stay"), "{said}");
    frankfurt.notices("at-another-place", "moves nothing").await;
    let status = frankfurt.status();
    let letters = &status.subscription("stock").unwrap().dead_letters_elsewhere;
    assert_eq!(letters.get(&"virginia".parse().unwrap()), Some(&1));
    let (_, said) = frankfurt.says(&["errors"], &[]);
    assert!(said.contains("stayed at place virginia"), "{said}");
    let orphaned = virginia.status().orphaned_dead_letters.unwrap();
    assert_eq!(
        orphaned[0].moved_to.as_ref().map(|place| place.as_str()),
        Some("frankfurt")
    );

    // What is its own to handle is still to be handled there.
    let left = frankfurt.status().place.unwrap().retiring.remove(0);
    assert_eq!((left.not_handled, left.may_be_removed), (20, false), "{left}");
    let mut local = virginia.subscribe(Subscription::declared("local")).await;
    take(&mut local, 20).await;

    // Everything of it is at the others: it may go, and what it had stays there.
    eventually("it may be taken out", || async {
        let status = frankfurt.status();
        status.place?.retiring[0].may_be_removed.then_some(())
    })
    .await;
    let (_, said) = frankfurt.says(&["explain"], &["--nats", &frankfurt.nats.url()]);
    assert!(said.contains("may be taken out of the policy"), "{said}");
    let without = three_places(4, None);
    for place in [&frankfurt, &shop] {
        place.is_brought_to(&without).await;
    }
    let mut all = frankfurt.subscribe(Subscription::backfill("all", Start::First)).await;
    let taken = take(&mut all, 80).await;
    assert_eq!(of("virginia", &taken), numbered("virginia", 0..20));
    for place in [&frankfurt, &shop, &virginia] {
        assert!(!place.served.log().contains("panicked"));
    }
}
