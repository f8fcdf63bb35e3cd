//! An edge: calls of components that are handed on, repeated within the call's own time, and a subscription that is
//! handed to a component.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fanout_client::component::{Deliveries, Plan, Progress, Subscriber, Unhandled};
use fanout_client::{Subscription, Upstream};
use fanout_transport::{CallContext, ConnectOptions, Endpoint};
use fanout_wit::types::{Delivery, Event, PublishError, Rejection};
use tokio::time::{sleep, timeout};

use crate::dice::Dice;
use crate::history::now;
use crate::publisher::in_time;
use crate::world::{Part, Phase, World};

/// As an edge's, in proportion: less than the lattice lets a call take.
const DEADLINE: Duration = Duration::from_millis(4_000);
const CONNECT_DEADLINE: Duration = Duration::from_millis(1_500);
const BATCH: usize = 3;
/// Once there are no faults, it is published within this time.
const ACCEPTED: Duration = Duration::from_secs(20);
/// The subscriber's answer, and its settlement.
const STOPPED: Duration = Duration::from_secs(20);

/// The software of its host.
pub async fn run(mut part: Part) -> turmoil::Result {
    let options = ConnectOptions {
        connect_deadline: CONNECT_DEADLINE,
        ..ConnectOptions::default()
    };
    let endpoint: Endpoint = part.url.parse()?;
    let upstream = Upstream::new(endpoint, options, DEADLINE);
    let component = Component {
        world: part.world.clone(),
        dice: Mutex::new(part.world.dice("component", part.incarnation)),
    };
    let plan = Plan {
        wanted: Subscription::durable("handed"),
        batch: BATCH,
        concurrency: 2,
        tell_caught_up: false,
    };
    let deliveries = Deliveries::start(upstream.clone(), Arc::new(component), plan);
    let mut refused = Vec::new();
    let mut count = 0;
    while part.world.phase() == Phase::Faults {
        let event = event(&part, &mut count);
        // A component's call may have less time than an edge.
        let within = part.dice.milliseconds(200, 4_000).min(DEADLINE);
        let since = now();
        let published = upstream.publish(&CallContext::within(within), &event).await;
        in_time(&part, "publishing by an edge", since, within);
        match published {
            Ok(receipt) => {
                let position = part.world.store().kept().position(&event.tenant, &event.id);
                part.world.history.holds(position == Some(receipt.position.offset), || {
                    format!("a receipt means stored: {} is at {position:?}: {receipt:?}", event.id)
                });
            }
            Err(PublishError::OutcomeUnknown(_)) => {}
            Err(error) => {
                part.world
                    .history
                    .note(format_args!("{}: {} {error:?}", part.name, event.id));
                refused.push(event.id);
            }
        }
        let wait = part.dice.milliseconds(5, 300);
        sleep(wait).await;
    }
    // Late frames have come by then.
    sleep(DEADLINE).await;
    for id in refused {
        let copies = part.world.store().kept().copies(&id);
        part.world.history.holds(copies == 0, || {
            format!("{}: what was refused is not stored: {id}", part.name)
        });
    }
    let last = event(&part, &mut count);
    let accepted = async {
        while upstream.publish(&CallContext::default(), &last).await.is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let is_accepted = timeout(ACCEPTED, accepted).await.is_ok();
    part.world.history.holds(is_accepted, || {
        format!(
            "{}: within {ACCEPTED:?} after the last fault an event is accepted",
            part.name
        )
    });
    // Its component is given the last one, at the latest.
    let name = part.name.clone();
    part.world.done(&name);
    part.world.reaches(Phase::Over).await;
    let since = now();
    deliveries.stop().await;
    in_time(&part, "stopping", since, STOPPED);
    Ok(())
}

fn event(part: &Part, count: &mut u64) -> Event {
    *count += 1;
    Event {
        tenant: "acme".to_owned(),
        event_type: "invoice.paid".to_owned(),
        id: format!("{}.{}.{count}", part.name, part.incarnation),
        source: "//sim/edge".to_owned(),
        subject: None,
        time: None,
        data_content_type: None,
        data_schema: None,
        extensions: Vec::new(),
        ordering_key: Some("x".to_owned()),
        data: Bytes::from_static(b"{}"),
    }
}

/// A component that can't always be reached, and does not always succeed.
struct Component {
    world: World,
    dice: Mutex<Dice>,
}

impl Subscriber for Component {
    async fn handle(&self, deliveries: &[Delivery], _: Option<&str>) -> Result<Vec<Result<(), Rejection>>, Unhandled> {
        self.world.history.holds((1..=BATCH).contains(&deliveries.len()), || {
            format!("a hand-over has at most {BATCH} deliveries: {}", deliveries.len())
        });
        let (time, what) = {
            let mut dice = self.dice.lock().unwrap();
            let time = match dice.roll(8) {
                0 => dice.milliseconds(500, 3_000),
                _ => dice.milliseconds(1, 100),
            };
            (time, dice.roll(12))
        };
        sleep(time).await;
        match what {
            0 => Err(Unhandled::Unreachable("of the simulation".to_owned())),
            1 => Err(Unhandled::Failed("of the simulation".to_owned())),
            2 => Ok(vec![Err(Rejection::Retry("of the simulation".to_owned()))]),
            _ => Ok(deliveries.iter().map(|_| Ok(())).collect()),
        }
    }

    async fn caught_up(&self, _: &Progress) -> Result<(), Unhandled> {
        Ok(())
    }
}
