//! The fake bus: the contract's functions on the in-memory store, served by the transport's own listener.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fanout_transport::{Endpoint, ListenOptions, Listener, Options, Service, Serving};
use fanout_wit::types::{
    Delivery, DeliveryOptions, Event, FetchedDeliveries, InboxError, LeasedDelivery, Need, Origin, Position, Problem,
    PublishError, Receipt, RefusalForNow, SettleError, Settlement, SettlementOutcome, SubscribeError, Subscription,
    SubscriptionOrigin, SubscriptionState,
};
use fanout_wit::{INBOX, PUBLISHER, SUBSCRIBER};
use tokio::time::{sleep, timeout};

use crate::dice::Dice;
use crate::history::now;
use crate::store::{LEASE, Leased, Settled, Store};
use crate::world::{Phase, World};

/// The transport's own function, beside the contract's.
pub const CALLS: (&str, &str) = ("fanout:simulation/calls", "run");
/// A session that is silent for this time is over.
const IDLE: Duration = Duration::from_millis(1_500);
/// After the end, all that callers held has come back within this time.
const COMES_BACK: Duration = Duration::from_secs(10);

/// What the bus's handlers share.
#[derive(Clone)]
struct Bus {
    world: World,
    store: Store,
    dice: Arc<Mutex<Dice>>,
}

/// Limits that are reached in a simulation.
pub fn limits() -> Options {
    Options {
        serve_deadline: Duration::from_secs(6),
        max_body_bytes: 256 << 10,
        buffered_bytes: 1 << 20,
        in_flight: 6,
        queued: 8,
        ..Options::default()
    }
}

/// The software of the bus's host: serves, leaves when it is told to, and serves again.
pub async fn run(world: World, incarnation: u64) -> turmoil::Result {
    let bus = Bus {
        store: world.store(),
        dice: Arc::new(Mutex::new(world.dice("bus", incarnation))),
        world: world.clone(),
    };
    let service = bus.service();
    let options = ListenOptions {
        limits: limits(),
        allow_unauthenticated_network_peers: true,
        connections: 64,
        calls_per_peer: 24,
        calls_per_connection: 16,
        bytes_per_peer: 512 << 10,
        first_call_deadline: Duration::from_secs(2),
        idle_deadline: IDLE,
        ..ListenOptions::default()
    };
    let endpoint: Endpoint = "tcp://0.0.0.0:7761".parse()?;
    loop {
        let serving = Listener::bind(&endpoint, options.clone()).await?.serve(&service);
        world.history.note("the bus listens");
        tokio::select! {
            () = world.leaves() => {
                let within = bus.roll(|dice| dice.milliseconds(10, 1_500));
                world.history.note(format_args!("the bus leaves within {within:?}"));
                let drained = serving.drain(within).await;
                world.history.note(format_args!("the bus has left: {drained:?}"));
                let away = bus.roll(|dice| dice.milliseconds(1, 500));
                sleep(away).await;
            }
            () = world.reaches(Phase::Over) => {
                bus.ends(&serving).await;
                world.history.note("the bus holds nothing");
                return Ok(());
            }
        }
    }
}

impl Bus {
    fn roll<T>(&self, roll: impl FnOnce(&mut Dice) -> T) -> T {
        roll(&mut self.dice.lock().unwrap())
    }

    /// How often `percent` of a hundred, while faults are in force.
    fn chance(&self, percent: u64) -> bool {
        self.roll(|dice| dice.chance(percent)) && self.world.phase() == Phase::Faults
    }

    /// Works for a moment; for long now and then.
    async fn works(&self) {
        let time = self.roll(|dice| match dice.roll(20) {
            0 => dice.milliseconds(500, 2_500),
            1..=5 => dice.milliseconds(20, 200),
            _ => dice.milliseconds(1, 15),
        });
        let time = if self.world.phase() == Phase::Faults {
            time
        } else {
            time / 20
        };
        sleep(time).await;
    }

    /// What was held for callers comes back once they are gone.
    async fn ends(&self, serving: &Serving) {
        let held = || (serving.in_flight(), serving.connections(), serving.buffered_bytes());
        let gone = async {
            while held() != (0, 0, 0) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let is_gone = timeout(COMES_BACK, gone).await.is_ok();
        self.world.history.holds(is_gone, || {
            format!(
                "calls, connections and bytes come back: {COMES_BACK:?} after the end the bus holds {:?}",
                held()
            )
        });
    }

    fn service(&self) -> Service {
        let (one, many, makes, gives, settles, calls) = (
            self.clone(),
            self.clone(),
            self.clone(),
            self.clone(),
            self.clone(),
            self.clone(),
        );
        Service::new()
            .direct(PUBLISHER, "publish-tenant-event", move |_, (event,): (Event,)| {
                let bus = one.clone();
                async move {
                    bus.works().await;
                    let published = bus.publish(&event);
                    bus.works().await;
                    Ok(published)
                }
            })
            .direct(
                PUBLISHER,
                "publish-tenant-events",
                move |_, (events,): (Vec<Event>,)| {
                    let bus = many.clone();
                    async move {
                        bus.works().await;
                        let published: Vec<_> = events.iter().map(|event| bus.publish(event)).collect();
                        bus.works().await;
                        Ok(published)
                    }
                },
            )
            .direct(
                SUBSCRIBER,
                "subscribe-durable",
                move |_, (name, _): (String, DeliveryOptions)| {
                    let bus = makes.clone();
                    async move {
                        bus.works().await;
                        Ok(bus.subscribe(name))
                    }
                },
            )
            .direct(
                INBOX,
                "fetch",
                move |_, (name, most, _, wait): (String, u32, Option<u64>, u32)| {
                    let bus = gives.clone();
                    async move {
                        let fetched = bus.fetch(&name, most, Duration::from_millis(wait.into())).await;
                        bus.works().await;
                        Ok(fetched)
                    }
                },
            )
            .direct(INBOX, "settle", move |_, (settlements,): (Vec<Settlement>,)| {
                let bus = settles.clone();
                async move {
                    bus.works().await;
                    let settled: Vec<_> = settlements.iter().map(|one| bus.settle(one)).collect();
                    bus.works().await;
                    Ok(settled)
                }
            })
            .direct(
                CALLS.0,
                CALLS.1,
                move |_, (call, _, bytes, ms): (u64, Bytes, u32, u32)| {
                    let bus = calls.clone();
                    async move {
                        *bus.store.kept().ran.entry(call).or_default() += 1;
                        sleep(Duration::from_millis(ms.into())).await;
                        Ok((call, Bytes::from(vec![call as u8; bytes as usize])))
                    }
                },
            )
    }

    fn publish(&self, event: &Event) -> Result<Receipt, PublishError> {
        if self.chance(4) {
            return Err(PublishError::Unavailable(problem("store-unavailable")));
        }
        if self.chance(3) {
            let retry_after_ms = self.roll(|dice| dice.roll(800));
            let problem = problem("quota-exceeded");
            return Err(PublishError::QuotaExceeded(RefusalForNow {
                problem,
                retry_after_ms,
            }));
        }
        if self.chance(2) {
            return Err(PublishError::OutcomeUnknown(problem("outcome-unknown")));
        }
        let (offset, duplicate) = self.store.kept().publish(event);
        self.world
            .history
            .note(format_args!("stored {} at {offset}, duplicate: {duplicate}", event.id));
        if self.chance(3) {
            return Err(PublishError::OutcomeUnknown(problem("outcome-unknown")));
        }
        Ok(Receipt {
            position: Position { partition: 0, offset },
            duplicate,
            durable_subscriptions: 1,
        })
    }

    fn subscribe(&self, name: String) -> Result<Subscription, SubscribeError> {
        if self.chance(5) {
            return Err(SubscribeError::Unavailable(problem("bus-not-ready")));
        }
        self.store.kept().subscribe(&name);
        Ok(Subscription {
            name,
            need: Need::Durable,
            filter: fanout_wit::types::Filter {
                tenants: Vec::new(),
                event_types: Vec::new(),
                pattern: None,
            },
            made_by: SubscriptionOrigin::Call,
            state: SubscriptionState::Active,
            pending: 0,
            in_flight: 0,
            redelivered: 0,
            waiting_for_retry: 0,
            expires_at: None,
            lost: Vec::new(),
            batch_size: 1,
            incarnation: "1".to_owned(),
        })
    }

    async fn fetch(&self, name: &str, most: u32, wait: Duration) -> Result<FetchedDeliveries, InboxError> {
        let until = now() + wait;
        if !self.store.kept().knows(name) {
            return Err(InboxError::UnknownSubscription(problem("unknown-subscription")));
        }
        if self.chance(5) {
            return Err(InboxError::Unavailable(problem("store-unavailable")));
        }
        loop {
            let changed = self.store.kept().changed();
            let mut changed = std::pin::pin!(changed.notified());
            changed.as_mut().enable();
            let leased = self.store.kept().lease(name, most as usize);
            if !leased.is_empty() || now() >= until {
                let deliveries: Vec<_> = leased.into_iter().map(|leased| delivery(name, leased)).collect();
                for given in &deliveries {
                    let delivery = &given.delivery;
                    self.world.history.note(format_args!(
                        "{name}: {} leased as {}, attempt {}",
                        delivery.event.id, delivery.published_at, delivery.attempt
                    ));
                }
                return Ok(FetchedDeliveries {
                    deliveries,
                    lease_ms: LEASE.as_millis() as u64,
                    caught_up: None,
                });
            }
            let next = self.store.kept().next(name).unwrap_or(until).min(until);
            let left = next.saturating_sub(now()) + Duration::from_millis(1);
            // Either way it is looked at again.
            timeout(left, changed).await.ok();
        }
    }

    fn settle(&self, settlement: &Settlement) -> Result<SettlementOutcome, SettleError> {
        if self.chance(5) {
            return Err(SettleError::Unavailable(problem("store-unavailable")));
        }
        let token = settlement.token[..].try_into().map(u64::from_be_bytes);
        let settled = token.map(|token| self.store.kept().settle(token, &settlement.verdict));
        self.world
            .history
            .note(format_args!("lease {token:?}: {:?}: {settled:?}", settlement.verdict));
        if self.chance(2) {
            return Err(SettleError::Unavailable(problem("store-unavailable")));
        }
        match settled {
            Ok(Settled::Done) => Ok(SettlementOutcome::Settled),
            Ok(Settled::Extended) => Ok(SettlementOutcome::Extended(settlement.token.clone())),
            Ok(Settled::Expired) => Err(SettleError::LeaseExpired(problem("lease-expired"))),
            Ok(Settled::Unknown) | Err(_) => Err(SettleError::InvalidToken(problem("invalid-token"))),
        }
    }
}

/// The lease's number is the time of its publication, by which a program's laws know it.
fn delivery(name: &str, leased: Leased) -> LeasedDelivery {
    LeasedDelivery {
        delivery: Delivery {
            subscription: name.to_owned(),
            event: leased.event,
            position: Position {
                partition: 0,
                offset: leased.offset,
            },
            attempt: leased.attempt,
            origin: Origin::Live,
            published_at: leased.lease as i64,
        },
        token: Bytes::copy_from_slice(&leased.lease.to_be_bytes()),
        traceparent: None,
    }
}

fn problem(code: &str) -> Problem {
    Problem {
        code: code.to_owned(),
        message: "of the simulation".to_owned(),
    }
}
