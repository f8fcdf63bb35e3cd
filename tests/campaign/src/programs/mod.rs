//! The programs of a round. Each decides by the round's seed and its own name, and writes into the history what it means
//! before it asks, and what it was told after.

mod guest;
mod operator;
mod publisher;
mod subscriber;

use std::sync::Arc;

use anyhow::Result;
use fanout_campaign_checker::history::{Answer, Event, EventId, Need, Position};
use fanout_client::{Error, ErrorKind};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) use guest::{Current, GUEST, Guest};
pub(crate) use operator::Operator;
pub(crate) use publisher::Publisher;
pub(crate) use subscriber::{Handler, Subscriber};

use crate::recorder::Recorder;
use crate::world::World;

/// The programs that run.
pub(crate) struct Programs {
    publishers: JoinSet<()>,
    subscribers: JoinSet<()>,
    publish: CancellationToken,
    fetch: CancellationToken,
    /// Its component is served for as long as it is here.
    _handler: Handler,
}

impl Programs {
    /// Starts them, each subscription but the guest's before any publisher.
    pub(crate) async fn start(world: &World, seed: u64, events: Option<u64>, current: Current) -> Result<Self> {
        let (publish, fetch) = (CancellationToken::new(), CancellationToken::new());
        let handler = Handler::start(world).await?;
        let mut subscribers = JoinSet::new();
        for (name, need, caller, instances) in [
            ("billing", Need::Durable, "billing", &[0, 1][..]),
            ("audit", Need::Durable, "audit", &[0]),
            ("replay", Need::Backfill, "audit", &[1]),
        ] {
            for (i, instance) in instances.iter().enumerate() {
                let bus = world.connect(*instance, caller).await?;
                let program = Subscriber::new(name, caller, need, seed, Arc::clone(&world.recorder));
                let first = program.subscribe(&bus).await?;
                subscribers.spawn(program.run(bus, first, format!("{name}-{i}"), fetch.clone()));
            }
        }
        let guest = Guest::new(
            world.connect(1, guest::CALLER).await?,
            seed,
            Arc::clone(&world.recorder),
            current,
        );
        subscribers.spawn(guest.run(publish.clone(), fetch.clone()));
        let mut publishers = JoinSet::new();
        let buses = [
            ("p0", world.connect(0, "ingress").await?),
            ("p1", world.connect(1, "ingress").await?),
            ("p2", world.connect_to_edge("ingress").await?),
        ];
        for (name, bus) in buses {
            let program = Publisher::new(name, bus, seed, Arc::clone(&world.recorder), events);
            publishers.spawn(program.run(publish.clone()));
        }
        Ok(Self {
            publishers,
            subscribers,
            publish,
            fetch,
            _handler: handler,
        })
    }

    /// Waits until the publishers have published what they were to.
    pub(crate) async fn published(&mut self) {
        while self.publishers.join_next().await.is_some() {}
    }

    /// Lets publishers end what they are at, and no more.
    pub(crate) async fn stop_publishing(&mut self) {
        self.publish.cancel();
        self.published().await;
    }

    /// Ends the rest.
    pub(crate) async fn stop(mut self) {
        self.fetch.cancel();
        while self.subscribers.join_next().await.is_some() {}
    }
}

/// What a program decides by.
fn dice(seed: u64, name: &str) -> StdRng {
    StdRng::seed_from_u64(seed ^ (u64::from(digest(name.as_bytes())) << 16))
}

/// FNV-1a, of payloads.
pub(crate) fn digest(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// An event as the history has it.
pub(crate) fn told(event: &fanout_client::Event) -> Event {
    Event {
        id: EventId {
            tenant: event.tenant.clone(),
            source: event.source.clone(),
            id: event.id.clone(),
        },
        event_type: event.event_type.clone(),
        key: event.ordering_key.clone(),
        digest: digest(&event.data),
    }
}

fn position(position: fanout_client::Position) -> Position {
    Position(position.partition, position.offset)
}

/// What an error says of whether it was done.
fn answer<T>(error: Error) -> Answer<T> {
    match error.kind {
        // What can't be reached now may have been reached by an attempt before.
        ErrorKind::OutcomeUnknown => Answer::Unknown(error.code),
        _ => Answer::Refused(error.code),
    }
}

/// A recorder and the name to tell under.
#[derive(Clone, Debug)]
struct Teller {
    name: String,
    recorder: Arc<Recorder>,
}

impl Teller {
    fn tell(&self, what: fanout_campaign_checker::history::What) {
        self.recorder.tell(&self.name, what);
    }
}
