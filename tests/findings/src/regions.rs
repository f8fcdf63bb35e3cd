//! Question 4: one logical bus over two regions, joined by gateways, and a leaf. Bare JetStream.
//!
//! Each place publishes into an outbox of its own, under a subject of its own, and reads a log of its own, which sources
//! every outbox and gives the events their common subject back. No subject is bound in two places.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, Placement, Source, SubjectTransform};
use serde_json::json;

use crate::experiment::{Findings, Lab, Scale};
use crate::pace;
use crate::proxy::Link;
use crate::server::{Gateway, Node, Spec, in_domain, until};
use crate::table::{Table, ms};
use fanout_transport::testing::free_ports;

/// How long it is waited until a place has everything. A source across a link may take 40 s to resume.
const WAIT: Duration = Duration::from_secs(60);
const REGIONS: [&str; 2] = ["east", "west"];
const SERVERS: usize = 3;
/// Where events are published and read.
const PLACES: [&str; 3] = ["east", "west", "leaf"];
/// Numbers of one place begin at its index times this.
const ORIGIN: u64 = 1 << 32;

/// Two regions and a leaf of the first.
struct World {
    regions: Vec<Vec<Node>>,
    leaf: Node,
    gateways: Vec<Link>,
    leaf_link: Link,
    replicas: usize,
}

impl World {
    async fn start(replicas: usize) -> Result<Self> {
        let routes = [free_ports(SERVERS), free_ports(SERVERS)];
        let gateways = [free_ports(SERVERS), free_ports(SERVERS)];
        let mut links = Vec::new();
        let mut advertised = [Vec::new(), Vec::new()];
        for (region, ports) in gateways.iter().enumerate() {
            for port in ports {
                let link = Link::to(*port).await?;
                advertised[region].push(link.port());
                links.push(link);
            }
        }
        let leaf_port = free_ports(1)[0];
        let mut starting = Vec::new();
        for (r, region) in REGIONS.iter().enumerate() {
            for s in 0..SERVERS {
                let other = 1 - r;
                starting.push(Spec {
                    domain: Some("hub".into()),
                    cluster: Some(((*region).into(), routes[r][s], routes[r].clone())),
                    gateway: Some(Gateway {
                        region: (*region).into(),
                        port: gateways[r][s],
                        advertised: advertised[r][s],
                        others: vec![(REGIONS[other].into(), advertised[other].clone())],
                    }),
                    leaf_port: (r == 0 && s == 0).then_some(leaf_port),
                    ..Spec::named(&format!("{region}{s}"))
                });
            }
        }
        let mut nodes = Vec::new();
        for spec in &starting {
            nodes.push(Node::start(spec).await?);
        }
        let west = nodes.split_off(SERVERS);
        let leaf_link = Link::to(leaf_port).await?;
        let leaf = Node::start(&Spec {
            domain: Some("leaf".into()),
            leaf_of: Some(leaf_link.port()),
            ..Spec::named("leaf")
        })
        .await?;
        let world = Self {
            regions: vec![nodes, west],
            leaf,
            gateways: links,
            leaf_link,
            replicas,
        };
        world.streams().await?;
        Ok(world)
    }

    /// JetStream as it is seen at a place.
    async fn at(&self, place: &str) -> Result<jetstream::Context> {
        match REGIONS.iter().position(|r| *r == place) {
            Some(r) => self.regions[r][1].jetstream().await,
            None => self.leaf.jetstream().await,
        }
    }

    async fn streams(&self) -> Result<()> {
        for place in PLACES {
            let js = self.at(place).await?;
            let config = self.outbox(place);
            until(&format!("the outbox of {place} is made"), async || {
                js.create_stream(config.clone()).await.is_ok()
            })
            .await?;
        }
        for place in PLACES {
            let js = self.at(place).await?;
            let config = self.log(place);
            until(&format!("the log of {place} is made"), async || {
                js.create_stream(config.clone()).await.is_ok()
            })
            .await?;
        }
        Ok(())
    }

    fn placed(&self, place: &str) -> Config {
        let region = REGIONS.contains(&place);
        Config {
            placement: region.then(|| Placement {
                cluster: Some(place.into()),
                tags: Vec::new(),
            }),
            num_replicas: if region { self.replicas } else { 1 },
            ..Config::default()
        }
    }

    fn outbox(&self, place: &str) -> Config {
        Config {
            name: format!("outbox_{place}"),
            subjects: vec![format!("outbox.{place}.>")],
            ..self.placed(place)
        }
    }

    /// Sources every outbox.
    fn log(&self, place: &str) -> Config {
        let home = |p: &str| if p == "leaf" { "leaf" } else { "hub" };
        let sources = PLACES.map(|from| Source {
            name: format!("outbox_{from}"),
            external: (home(from) != home(place)).then(|| in_domain(home(from))),
            subject_transforms: vec![SubjectTransform {
                source: format!("outbox.{from}.>"),
                destination: "payments.>".into(),
            }],
            ..Source::default()
        });
        Config {
            name: format!("log_{place}"),
            sources: Some(sources.into()),
            ..self.placed(place)
        }
    }

    fn cut(&self, cut: Cut) {
        if cut != Cut::Leaf {
            self.gateways.iter().for_each(Link::cut);
        }
        if cut != Cut::Gateways {
            self.leaf_link.cut();
        }
    }

    fn heal(&self) {
        self.gateways.iter().for_each(Link::heal);
        self.leaf_link.heal();
    }

    async fn consumer(&self, place: &str, name: &str) -> Result<PullConsumer> {
        let config = pull::Config {
            durable_name: Some(name.into()),
            ack_policy: AckPolicy::Explicit,
            ..pull::Config::default()
        };
        let made = self
            .at(place)
            .await?
            .create_consumer_on_stream(config, format!("log_{place}"))
            .await;
        made.with_context(|| format!("a consumer at {place}"))
    }
}

/// What is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Gateways,
    Leaf,
    All,
}

impl Cut {
    fn name(self) -> &'static str {
        match self {
            Self::Gateways => "between the regions",
            Self::Leaf => "to the leaf",
            Self::All => "every one",
        }
    }
}

pub(crate) async fn run(lab: &Lab) -> Result<Findings> {
    let mut findings = Findings::default();
    let one = [Cut::Gateways, Cut::Leaf, Cut::All].map(|cut| (1, cut));
    let three = one.map(|(_, cut)| (3, cut));
    // Quick: one copy only where it matters most.
    let cases = match lab.scale {
        Scale::Smoke => one.to_vec(),
        Scale::Quick => [&[(1, Cut::All)], three.as_slice()].concat(),
        Scale::Full => [one, three].concat(),
    };
    let mut places = Table::new(
        "places",
        &[
            "link cut",
            "copies",
            "place",
            "published",
            "refused",
            "read while cut",
            "from elsewhere while cut",
            "a new subscription while cut",
        ],
    );
    let mut after = Table::new(
        "after",
        &[
            "link cut",
            "copies",
            "place",
            "all there after",
            "missing",
            "twice",
            "an origin out of order",
            "same order as east",
        ],
    );
    for (replicas, cut) in cases {
        lab.say(format!("cut {}, copies: {replicas}", cut.name()));
        partition(lab, replicas, cut, &mut places, &mut after).await?;
    }
    let total = |table: &Table, column: usize| {
        let cells = table.rows.iter().filter_map(|row| row.get(column)?.parse::<u64>().ok());
        cells.sum::<u64>().to_string()
    };
    findings.figure("published", total(&places, 3));
    findings.figure("refused", total(&places, 4));
    findings.figure("missing", total(&after, 4));
    findings.figure("twice", total(&after, 5));
    findings.figure("out-of-order", total(&after, 6));
    let not_made: Vec<_> = places
        .rows
        .iter()
        .filter(|row| row.last().is_some_and(|made| made == "not made"))
        .map(|row| format!("{} (cut {}, copies: {})", row[2], row[0], row[1]))
        .collect();
    let not_made = if not_made.is_empty() {
        "none".to_owned()
    } else {
        not_made.join("; ")
    };
    findings.figure("subscriptions-not-made", not_made);
    findings.tables.push(places);
    findings.tables.push(after);
    Ok(findings)
}

async fn partition(lab: &Lab, replicas: usize, cut: Cut, places: &mut Table, after: &mut Table) -> Result<()> {
    let rate = lab.scale.pick(20, 100, 200);
    let seconds = lab.scale.pick(2, 6, 30);
    let world = World::start(replicas).await?;
    let origin = Instant::now();
    let mut followers = Vec::new();
    for place in PLACES {
        followers.push(pace::Follower::start(world.consumer(place, "reader").await?, origin));
    }
    let before = Duration::from_secs(2);
    let time = before + Duration::from_secs(seconds) + Duration::from_secs(2);
    let mut contexts = Vec::new();
    for place in PLACES {
        contexts.push(world.at(place).await?);
    }
    let publishing = futures::future::try_join_all(PLACES.iter().zip(&contexts).enumerate().map(|(i, (place, js))| {
        let first = i as u64 * ORIGIN;
        pace::publish_from(js, origin, first, rate, time, move |_| {
            format!("outbox.{place}.acme.webhook.invoice.paid")
        })
    }));
    let cutting = async {
        tokio::time::sleep(before).await;
        world.cut(cut);
        let cut_at = origin.elapsed();
        // The middle of the cut, when each side knows of it.
        tokio::time::sleep(Duration::from_secs(seconds) / 2).await;
        let mut subscribed = Vec::new();
        for place in PLACES {
            let asked = tokio::time::timeout(Duration::from_secs(seconds) / 6, world.consumer(place, "late"));
            subscribed.push(matches!(asked.await, Ok(Ok(_))));
        }
        let rest = (cut_at + Duration::from_secs(seconds)).saturating_sub(origin.elapsed());
        tokio::time::sleep(rest).await;
        let healing = origin.elapsed();
        world.heal();
        (cut_at, healing, subscribed)
    };
    let (published, (cut_at, healed, subscribed)) = tokio::join!(publishing, cutting);
    let published = published?;
    let accepted: BTreeSet<u64> = published.iter().flat_map(|p| p.accepted.iter().copied()).collect();
    let mut seen = Vec::new();
    for mut follower in followers {
        follower.seen(accepted.len() as u64, WAIT).await;
        seen.push(follower.stop().await?);
    }
    let east: Vec<u64> = seen[0].arrivals.iter().map(|(n, _)| *n).collect();
    for (i, place) in PLACES.iter().enumerate() {
        // A grace in which what was under way still arrives.
        let while_cut = |at: &Duration| *at > cut_at + Duration::from_millis(500) && *at < healed;
        let during: Vec<u64> = seen[i]
            .arrivals
            .iter()
            .filter(|(_, at)| while_cut(at))
            .map(|(n, _)| *n)
            .collect();
        let elsewhere = during.iter().filter(|n| **n / ORIGIN != i as u64).count();
        let numbers: Vec<u64> = seen[i].arrivals.iter().map(|(n, _)| *n).collect();
        let unique: BTreeSet<u64> = numbers.iter().copied().collect();
        let missing = accepted.difference(&unique).count();
        // What was due before the links were back.
        let due = |n: &u64| Duration::from_secs_f64((n % ORIGIN) as f64 / rate as f64);
        let before: BTreeSet<u64> = accepted.iter().copied().filter(|n| due(n) < healed).collect();
        let complete = seen[i].complete_at(&before).filter(|_| missing == 0);
        let converged = complete.map(|at| at.saturating_sub(healed).as_secs_f64() * 1_000.0);
        let disordered = (0..PLACES.len()).filter(|p| !in_order(&numbers, *p as u64)).count();
        lab.raw.note(&json!({
            "part": "partition", "cut": cut.name(), "copies": replicas, "place": place, "rate": rate, "seconds": seconds,
            "accepted": published[i].accepted.len(), "refused": published[i].failed.len(), "read_while_cut": during.len(),
            "elsewhere_while_cut": elsewhere, "subscribed_while_cut": subscribed[i], "converged_ms": converged, "missing": missing,
            "twice": numbers.len() - unique.len(), "origins_out_of_order": disordered, "same_order_as_east": numbers == east,
        }))?;
        places.row(vec![
            cut.name().to_owned(),
            replicas.to_string(),
            (*place).to_owned(),
            published[i].accepted.len().to_string(),
            published[i].failed.len().to_string(),
            during.len().to_string(),
            elsewhere.to_string(),
            if subscribed[i] { "made" } else { "not made" }.to_owned(),
        ]);
        after.row(vec![
            cut.name().to_owned(),
            replicas.to_string(),
            (*place).to_owned(),
            converged.map_or_else(|| format!("not in {} s", WAIT.as_secs()), ms),
            missing.to_string(),
            (numbers.len() - unique.len()).to_string(),
            disordered.to_string(),
            if numbers == east { "yes" } else { "no" }.to_owned(),
        ]);
    }
    Ok(())
}

/// Whether the events of one origin came in their order.
fn in_order(numbers: &[u64], origin: u64) -> bool {
    numbers.iter().filter(|n| **n / ORIGIN == origin).is_sorted()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_an_origin_is_its_own() {
        let numbers = [1, ORIGIN + 5, 2, ORIGIN + 4];
        assert!(in_order(&numbers, 0));
        assert!(!in_order(&numbers, 1));
        assert_eq!(crate::load::number(&crate::load::event(ORIGIN)), Some(ORIGIN));
    }
}
