//! One bus in two places: a hub and a leaf, each a JetStream domain of its own, joined by a link that is cut and healed.

mod copies;
mod gateways;
mod lost;
mod moves;
mod one_way;
mod partition;
mod retired;
mod scope;

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
use fanout_tests::{LeafNodes, jetstream_domain};
use fanout_transport::testing::NatsServer;

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
        let args = [
            "--listen",
            "tcp://127.0.0.1:0",
            "--listen",
            "http://127.0.0.1:0",
            "--place",
            name,
        ];
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

    /// How often its instance has begun to deliver a subscription.
    fn times_begun(&self, subscription: &str) -> usize {
        let log = self.served.log();
        let begun = log
            .lines()
            .filter(|line| line.contains("delivering") && line.contains(subscription));
        begun.count()
    }

    /// Waits until its instance delivers a subscription that it had begun to deliver so often before.
    async fn begins(&self, subscription: &str, before: usize) {
        eventually("its instance delivers it", || async {
            (self.times_begun(subscription) > before).then_some(())
        })
        .await;
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

/// The policy of [`joined`] without its second place; whatever is lost with that place may go where it is accepted.
fn without_the_shop(revision: u32, is_accepted: bool) -> String {
    let shop = "[places.shop]\nnumber = 1\nleaf-of = \"frankfurt\"\n";
    assert!(PLACES.contains(shop));
    let places = PLACES.replace(shop, "");
    let accepted = match is_accepted {
        true => "change.allow-loss = \"places.shop\"\n",
        false => "",
    };
    format!("revision = {revision}\n{accepted}{SERVED_POLICY}{ANYONE_HERE}{places}")
}

/// Two places that mirror each other over a leaf link, which goes through a proxy.
async fn joined(ordering: &str) -> (Proxy, Place, Place) {
    let port = free_ports(1)[0];
    let hub = jetstream_domain("hub", "", LeafNodes::Hub(port)).await;
    let link = Proxy::before(port).await;
    let leaf = jetstream_domain("shop", "", LeafNodes::Leaf(link.port())).await;
    let text = format!("{ordering}{SERVED_POLICY}{ANYONE_HERE}{PLACES}");
    let frankfurt = Place::open("frankfurt", hub, &text).await;
    let shop = Place::open("shop", leaf, &text).await;
    frankfurt.mirrors_the_other().await;
    shop.mirrors_the_other().await;
    (link, frankfurt, shop)
}

impl Place {
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
    let hub = jetstream_domain("hub", "", LeafNodes::Hub(port)).await;
    let leaf = jetstream_domain("hub", "", LeafNodes::Leaf(port)).await;
    let text = format!("{SERVED_POLICY}{ANYONE_HERE}{PLACES}");
    both_are_told([hub, leaf], &text, &["--place", "frankfurt"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bus_without_places_at_two_servers_that_are_joined_is_told() {
    let port = free_ports(1)[0];
    let hub = jetstream_domain("hub", "", LeafNodes::Hub(port)).await;
    let leaf = jetstream_domain("leaf", "", LeafNodes::Leaf(port)).await;
    both_are_told([hub, leaf], &format!("{SERVED_POLICY}{ANYONE_HERE}"), &[]).await;
}

/// Serves one bus at both of two servers that are joined.
async fn both_are_told(servers: [NatsServer; 2], text: &str, args: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.toml");
    std::fs::write(&policy, text).unwrap();
    let args = [&["--listen", "tcp://127.0.0.1:0"], args].concat();
    let served = [0, 1].map(|i: usize| Served::start(&servers[i].url(), &policy, &args));
    for one in &served {
        eventually("it is told", || async {
            let log = one.log();
            (log.contains("is stored twice") && log.contains("place-conflict")).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_none_is_refused_before_anything_is_made() {
    let nats = jetstream_domain("hub", "", LeafNodes::None).await;
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
