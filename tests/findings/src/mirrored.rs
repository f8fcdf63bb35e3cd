//! How far behind the events of one place are at another, and how long it takes to catch up once a link is back: through
//! a bus with places, and beside it by a bare stream and its mirror on the same servers.
//!
//! Both are published to and read as programs do it: an event is published with a receipt at one place, and is handed to
//! a handler, which acknowledges it, at the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use async_nats::jetstream::stream::{Config, Source};
use fanout_client::Subscription;
use serde_json::json;

use crate::experiment::{Findings, Lab};
use crate::flow::{self, Meter};
use crate::histogram::Latencies;
use crate::leaf::RESUMES_IN;
use crate::places::{Places, Shape};
use crate::server::{in_domain, until};
use crate::table::{Table, ms, rate};
use crate::ways::{self, EVENT_TYPE, Handler, Way};

const BARE: &str = "bare mirror";
const THERE: &str = "Fanout, at the other place";
const HERE: &str = "Fanout, at its own place";

/// From one place to another, by their indices.
struct Route {
    from: usize,
    to: usize,
    /// Whose events take it. The others have tenants of their own.
    tenant: &'static str,
    /// Whether links on it are cut, too.
    is_cut: bool,
}

/// How much is measured.
struct Sizes {
    /// Events a second, in each round of each lane.
    rate: f64,
    time: Duration,
    rounds: usize,
    /// Events that are published while the links are cut.
    behind: u64,
    /// For how long they are cut at least.
    cut: Duration,
}

/// A hub and a leaf that keeps one tenant's events, as a filtered mirror does.
pub(crate) async fn leaf(lab: &Lab) -> Result<Findings> {
    let shapes = [("hub", None), ("leaf", Some("acme"))].map(|(name, keeps)| Shape {
        name,
        servers: 1,
        keeps,
    });
    let sizes = Sizes {
        rate: lab.scale.pick(100.0, 500.0, 1_000.0),
        time: Duration::from_secs(lab.scale.pick(1, 3, 8)),
        rounds: lab.scale.pick(1, 1, 3),
        behind: lab.scale.pick(200, 10_000, 30_000),
        cut: Duration::from_secs(lab.scale.pick(1, 3, 7)),
    };
    let route = Route {
        from: 0,
        to: 1,
        tenant: "acme",
        is_cut: true,
    };
    measure(lab, &shapes, &[route], &sizes).await
}

/// Two regions, each a cluster and a domain of its own, and a leaf of the first.
pub(crate) async fn regions(lab: &Lab) -> Result<Findings> {
    let clustered = lab.scale.pick(1, 3, 3);
    let shapes = [("east", clustered), ("west", clustered), ("leaf", 1)].map(|(name, servers)| Shape {
        name,
        servers,
        keeps: None,
    });
    let sizes = Sizes {
        rate: lab.scale.pick(50.0, 100.0, 200.0),
        time: Duration::from_secs(lab.scale.pick(1, 3, 8)),
        rounds: lab.scale.pick(1, 1, 3),
        behind: lab.scale.pick(200, 5_000, 20_000),
        cut: Duration::from_secs(lab.scale.pick(1, 3, 7)),
    };
    let routes = [(0, 1, "acme", true), (1, 2, "globex", false)].map(|(from, to, tenant, is_cut)| Route {
        from,
        to,
        tenant,
        is_cut,
    });
    measure(lab, &shapes, &routes, &sizes).await
}

/// One way of events, and who reads them at its end.
struct Lane {
    read: &'static str,
    way: Way,
    meter: Arc<Meter>,
    handler: Handler,
    /// The stream where they are published, and its mirror: none where they are read at their own place.
    mirror: Option<Mirror>,
}

/// A stream, and its mirror at another place.
struct Mirror {
    origin: (jetstream::Context, String),
    copy: (jetstream::Context, String),
}

impl Mirror {
    async fn last(of: &(jetstream::Context, String)) -> Result<u64> {
        let stream = of.0.get_stream(&of.1).await;
        Ok(stream
            .with_context(|| format!("stream {}", of.1))?
            .cached_info()
            .state
            .last_sequence)
    }

    /// Waits until the mirror is behind a number; says when it was.
    async fn is_behind(&self, number: u64) -> Result<Instant> {
        let began = Instant::now();
        let last = async || Self::last(&self.copy).await;
        loop {
            // Its server is asked over a link that is whole, and may be busy.
            if last().await.is_ok_and(|last| last > number) {
                return Ok(Instant::now());
            }
            anyhow::ensure!(
                began.elapsed() < RESUMES_IN,
                "the mirror {} stays at {number} or before",
                self.copy.1
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Route {
    fn name(&self, places: &Places) -> String {
        format!("{} to {}", places.name(self.from), places.name(self.to))
    }

    async fn lanes(&self, places: &Places) -> Result<Vec<Lane>> {
        Ok(vec![
            self.bare(places).await?,
            self.through(places, THERE, self.to, self.tenant.to_owned()).await?,
            self.through(places, HERE, self.from, format!("{}-here", self.tenant))
                .await?,
        ])
    }

    /// A stream with a mirror that keeps what the place's own mirror keeps: one tenant's events.
    async fn bare(&self, places: &Places) -> Result<Lane> {
        let (from, to) = (places.jetstream(self.from).await?, places.jetstream(self.to).await?);
        let stream = format!("bare_{}", self.tenant);
        let subject = format!("bare.{}.webhook.{EVENT_TYPE}", self.tenant);
        from.create_stream(Config {
            name: stream.clone(),
            subjects: vec![format!("bare.{}.webhook.>", self.tenant)],
            ..Config::default()
        })
        .await
        .context("create the bare stream")?;
        let mirror = Config {
            name: stream.clone(),
            mirror: Some(Source {
                name: stream.clone(),
                external: Some(in_domain(places.name(self.from))),
                filter_subject: Some(format!("bare.{}.>", self.tenant)),
                ..Source::default()
            }),
            ..Config::default()
        };
        until("the bare mirror is made", async || {
            to.create_stream(mirror.clone()).await.is_ok()
        })
        .await?;
        let meter = Meter::new()?;
        Ok(Lane {
            read: BARE,
            handler: ways::pull(&to, &stream, &subject, &meter).await?,
            way: Way::JetStream(from.clone(), subject.into()),
            meter,
            mirror: Some(Mirror {
                origin: (from, stream.clone()),
                copy: (to, stream),
            }),
        })
    }

    /// A durable subscription at a place, of a tenant that publishes where the route begins.
    async fn through(&self, places: &Places, read: &'static str, at: usize, tenant: String) -> Result<Lane> {
        let meter = Meter::new()?;
        let wanted = Subscription::durable(&*tenant).tenants([&*tenant]);
        let handler = ways::subscribe(places.bus(at), wanted, &meter).await?;
        let mirror = match at == self.from {
            true => None,
            false => {
                let (copy, origin) = places.mirror(self.from, at).await?.context("the place has a mirror")?;
                Some(Mirror {
                    origin: (places.jetstream(self.from).await?, origin),
                    copy: (places.jetstream(at).await?, copy),
                })
            }
        };
        Ok(Lane {
            read,
            way: Way::Bus(places.bus(self.from).clone(), tenant.into()),
            meter,
            handler,
            mirror,
        })
    }
}

async fn measure(lab: &Lab, shapes: &[Shape], routes: &[Route], sizes: &Sizes) -> Result<Findings> {
    let mut findings = Findings::default();
    let places = Places::start(shapes).await?;
    let mut lags = Table::new(
        "lag",
        &[
            "from, to",
            "read",
            "p50",
            "p99",
            "longest",
            "missing",
            "p50, bare = 1",
            "p99, bare = 1",
        ],
    );
    let mut catch_ups = Table::new(
        "catch-up",
        &[
            "from, to",
            "read",
            "cut for",
            "events meanwhile",
            "the mirror moves after",
            "it has all after",
            "all are read after",
            "mirrored, events/s",
            "read, events/s",
            "time until read, bare = 1",
        ],
    );
    for route in routes {
        let name = route.name(&places);
        let lanes = route.lanes(&places).await?;
        for lane in &lanes {
            flow::warm(&lane.way, &lane.meter)
                .await
                .with_context(|| format!("{name}, {}", lane.read))?;
        }
        lag(lab, &name, &lanes, sizes, &mut lags, &mut findings).await?;
        if route.is_cut {
            catch_up(lab, &places, &name, &lanes, sizes, &mut catch_ups, &mut findings).await?;
        }
        lanes.iter().try_for_each(|lane| lane.handler.check())?;
    }
    findings.tables.extend([lags, catch_ups]);
    Ok(findings)
}

/// What came of the rounds of one lane.
struct Lag {
    handled: Latencies,
    missing: u64,
}

/// One lane after the other, in rounds that each begin with another, so that what else the machine does meets all.
async fn lag(
    lab: &Lab,
    route: &str,
    lanes: &[Lane],
    sizes: &Sizes,
    table: &mut Table,
    findings: &mut Findings,
) -> Result<()> {
    let mut of_lanes = Vec::new();
    for _ in lanes {
        of_lanes.push(Lag {
            handled: Latencies::new()?,
            missing: 0,
        });
    }
    for round in 0..sizes.rounds {
        for i in 0..lanes.len() {
            let i = (i + round) % lanes.len();
            let (lane, lag) = (&lanes[i], &mut of_lanes[i]);
            lab.say(format!("{route}, {}: {} events a second", lane.read, sizes.rate));
            let open = flow::open_loop(&lane.way, &lane.meter, sizes.rate, sizes.time).await?;
            lab.raw.note(&json!({
                "part": "lag", "route": route, "read": lane.read, "round": round, "rate": sizes.rate, "sent": open.sent,
                "failed": open.failed, "missing": open.missing(), "handled": open.handled.to_json(),
                "stored": open.stored.to_json(), "late": open.late.to_json(),
            }))?;
            lag.handled.add(&open.handled)?;
            lag.missing += open.missing() + open.failed;
        }
    }
    let bare = &of_lanes[0].handled;
    for (lane, lag) in lanes.iter().zip(&of_lanes) {
        let of_bare = |percent| format!("{:.1}", lag.handled.percentile(percent) / bare.percentile(percent));
        table.row(vec![
            route.to_owned(),
            lane.read.to_owned(),
            ms(lag.handled.percentile(50.0)),
            ms(lag.handled.percentile(99.0)),
            ms(lag.handled.max()),
            lag.missing.to_string(),
            of_bare(50.0),
            of_bare(99.0),
        ]);
        let figure = match lane.read {
            BARE => "bare",
            THERE => "there",
            _ => "here",
        };
        // The first route is the one that the summary tells of.
        for (which, percent) in [("p50", 50.0), ("p99", 99.0)] {
            let value = ms(lag.handled.percentile(percent));
            findings.figures.entry(format!("{figure}-{which}")).or_insert(value);
        }
    }
    Ok(())
}

/// What a lane did once the links were back, each counted from then.
#[derive(Clone, Copy)]
struct CatchUp {
    cut: Duration,
    moves: Duration,
    mirrored: Duration,
    read: Duration,
}

/// The links are cut, events are published, and the links are back. Lanes take turns, the bus first: the bare stream's links
/// are cut for as long as its were.
async fn catch_up(
    lab: &Lab,
    places: &Places,
    route: &str,
    lanes: &[Lane],
    sizes: &Sizes,
    table: &mut Table,
    findings: &mut Findings,
) -> Result<()> {
    let [bare, there, ..] = lanes else {
        anyhow::bail!("a route has a bare lane and one through the bus");
    };
    let (mut of_bare, mut of_bus) = (Vec::new(), Vec::new());
    for round in 0..sizes.rounds {
        let mut least = sizes.cut;
        for (lane, all) in [(there, &mut of_bus), (bare, &mut of_bare)] {
            lab.say(format!("{route}, {}: {} events while cut", lane.read, sizes.behind));
            let one = cut(places, lane, sizes.behind, least).await?;
            least = one.cut;
            lab.raw.note(&json!({
                "part": "catch-up", "route": route, "read": lane.read, "round": round, "events": sizes.behind,
                "cut_s": one.cut.as_secs_f64(), "moves_ms": millis(one.moves), "mirrored_ms": millis(one.mirrored),
                "read_ms": millis(one.read),
            }))?;
            all.push(one);
        }
    }
    let (of_bare, of_bus) = (middle(&of_bare), middle(&of_bus));
    for (lane, one) in [(bare, of_bare), (there, of_bus)] {
        let per_second = |until: Duration| {
            let took = until.saturating_sub(one.moves).as_secs_f64();
            // What came between two looks at the mirror has no rate.
            match took > 0.0 {
                true => rate(sizes.behind as f64 / took),
                false => "at once".to_owned(),
            }
        };
        table.row(vec![
            route.to_owned(),
            lane.read.to_owned(),
            format!("{:.1} s", one.cut.as_secs_f64()),
            sizes.behind.to_string(),
            ms(millis(one.moves)),
            ms(millis(one.mirrored)),
            ms(millis(one.read)),
            per_second(one.mirrored),
            per_second(one.read),
            format!("{:.2}", millis(one.read) / millis(of_bare.read)),
        ]);
    }
    findings.figure("behind", sizes.behind.to_string());
    findings.figure("bare-read", ms(millis(of_bare.read)));
    findings.figure("there-read", ms(millis(of_bus.read)));
    Ok(())
}

async fn cut(places: &Places, lane: &Lane, events: u64, least: Duration) -> Result<CatchUp> {
    let mirror = lane.mirror.as_ref().context("the lane has a mirror")?;
    let before = Mirror::last(&mirror.copy).await?;
    places.cut();
    let cut_at = Instant::now();
    flow::burst(&lane.way, &lane.meter, events).await?;
    tokio::time::sleep_until((cut_at + least).into()).await;
    let last = Mirror::last(&mirror.origin).await?;
    places.heal();
    let healed = Instant::now();
    let (moves, mirrored, read) = tokio::join!(
        mirror.is_behind(before),
        mirror.is_behind(last - 1),
        flow::handled(&lane.meter, events, RESUMES_IN)
    );
    let read = read.with_context(|| format!("{}: not all events were read", lane.read))?;
    Ok(CatchUp {
        cut: healed - cut_at,
        moves: moves? - healed,
        mirrored: mirrored? - healed,
        read: read - healed,
    })
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// The round whose time until all were read is the middle one.
fn middle(rounds: &[CatchUp]) -> CatchUp {
    let mut rounds = rounds.to_vec();
    rounds.sort_by_key(|one| one.read);
    rounds[rounds.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_three_rounds_the_middle_one_is_told() {
        let round = |read| CatchUp {
            cut: Duration::ZERO,
            moves: Duration::ZERO,
            mirrored: Duration::ZERO,
            read: Duration::from_secs(read),
        };
        let middle = middle(&[round(40), round(1), round(3)]);
        assert_eq!(middle.read, Duration::from_secs(3));
    }
}
