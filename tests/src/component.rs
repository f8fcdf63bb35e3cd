//! A component played over wRPC: it calls the bus, and is called by it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fanout_transport::{CallContext, Caller, Client, Lattice, Options, Server, Service};
use fanout_wit::component::exports::fanout::bus::{backfill_handler, batch_handler, handler};

use crate::types::{
    BackfillProgress, Delivery, DeliveryOptions, Event, Filter, PublishError, Reach, Receipt, Rejection, Scope,
};
use crate::{eventually, publisher};

/// What a component does with a delivery.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// It handles it.
    Handle,
    /// It refuses it.
    Refuse(Rejection),
    /// It traps.
    Trap,
    /// It never answers.
    Hang,
}

type Judge = Arc<dyn Fn(&Delivery) -> Verdict + Send + Sync>;

/// What a component has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Every delivery, in the order of arrival, also those it refused.
    pub deliveries: Vec<Delivery>,
    /// The ids it handled, once for each time.
    pub handled: Vec<String>,
    /// The size of each invocation's batch.
    pub batches: Vec<usize>,
    /// The trace context of each invocation that brought deliveries.
    pub traceparents: Vec<Option<String>>,
    /// What it was told of backfills.
    pub caught_up: Vec<BackfillProgress>,
}

/// A component of the lattice.
pub struct Component {
    /// Its id.
    pub id: String,
    lattice: Lattice,
    provider: Client,
    seen: Arc<Mutex<Seen>>,
    judge: Arc<Mutex<Judge>>,
    server: Mutex<Option<Server>>,
}

impl Component {
    /// A component that does not serve its exports yet, on a connection of its own.
    ///
    /// # Panics
    /// If the connection is closed.
    pub async fn new(nats: async_nats::Client, id: &str) -> Self {
        // What it does not answer, nobody ends but who called it.
        let options = Options {
            serve_deadline: Duration::from_secs(3_600),
            ..Options::default()
        };
        let lattice = Lattice::new(nats, options)
            .await
            .expect("the lattice can be listened on");
        let provider = Client::new(&lattice, "default.bus", id);
        Self {
            id: id.to_owned(),
            lattice,
            provider,
            seen: Arc::default(),
            judge: Arc::new(Mutex::new(Arc::new(|_: &Delivery| Verdict::Handle))),
            server: Mutex::new(None),
        }
    }

    /// Starts to serve its exports.
    pub async fn up(&self) {
        let server = Server::new(&self.lattice, &format!("default.{}", self.id));
        let exports = Exports {
            seen: Arc::clone(&self.seen),
            judge: Arc::clone(&self.judge),
        };
        let service = Service::new()
            .bindings(move |port| {
                let exports = exports.clone();
                async move { fanout_wit::component::serve(port.as_ref(), exports).await }
            })
            .await
            .expect("its exports can be served");
        server.serve(&service).await.expect("the component can serve");
        *self.server.lock().unwrap() = Some(server);
    }

    /// Stops serving its exports.
    pub async fn down(&self) {
        let server = self.server.lock().unwrap().take();
        if let Some(server) = server {
            server.drain(Duration::from_secs(5)).await;
        }
    }

    /// Says what it does with deliveries from now on.
    pub fn judge(&self, judge: impl Fn(&Delivery) -> Verdict + Send + Sync + 'static) {
        *self.judge.lock().unwrap() = Arc::new(judge);
    }

    /// Looks at what it has seen.
    pub fn seen<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }

    /// The ids it handled, sorted, each once.
    #[must_use]
    pub fn handled(&self) -> Vec<String> {
        let mut ids = self.seen(|s| s.handled.clone());
        ids.sort();
        ids.dedup();
        ids
    }

    /// Its client of the bus.
    #[must_use]
    pub fn bus(&self) -> &Client {
        &self.provider
    }

    /// Publishes one event through the link `default`.
    ///
    /// # Errors
    /// The bus's refusal.
    pub async fn publish(&self, event: Event) -> Result<Receipt, PublishError> {
        self.publish_by("default", event).await
    }

    /// Publishes one event through a link. A call that no answer comes to (its instance was killed) is made again with
    /// the same id, as a publisher does.
    ///
    /// # Errors
    /// The bus's refusal.
    pub async fn publish_by(&self, link: &str, event: Event) -> Result<Receipt, PublishError> {
        eventually("the bus answers", || async {
            publisher::publish_tenant_event(&self.provider, by(link), &event)
                .await
                .ok()
        })
        .await
    }

    /// Publishes so many events of each tenant, in turn; their ids are the tenant's with a number.
    ///
    /// # Panics
    /// If one is refused.
    pub async fn publish_in_turn(&self, tenants: &[&str], count: usize) {
        for i in 0..count {
            for tenant in tenants {
                let published = self.publish(event(tenant, "invoice.paid", &format!("{tenant}-{i:02}")));
                published.await.expect("it is stored");
            }
        }
    }

    /// Publishes a tenant's backlog, hundreds in a call; the ids are numbers.
    ///
    /// # Panics
    /// If one is refused.
    pub async fn publish_backlog(&self, tenant: &str, count: usize) {
        let numbers: Vec<usize> = (0..count).collect();
        for part in numbers.chunks(500) {
            let numbered = |i: &usize| event(tenant, "invoice.paid", &i.to_string());
            let events: Vec<_> = part.iter().map(numbered).collect();
            let stored = publisher::publish_tenant_events(self.bus(), CallContext::default(), &events).await;
            let stored = stored.expect("the bus answers");
            assert!(stored.iter().all(Result::is_ok), "{stored:?}");
        }
    }
}

/// A call through a link.
fn by(link: &str) -> CallContext {
    CallContext {
        link: Some(link.to_owned()),
        ..CallContext::within(Duration::from_secs(2))
    }
}

/// The options of a handler of every event of every tenant.
#[must_use]
pub fn every_event() -> DeliveryOptions {
    DeliveryOptions {
        filter: Filter {
            tenants: Vec::new(),
            event_types: Vec::new(),
            pattern: None,
        },
        reach: Reach::Handler,
        batch_size: None,
        concurrency: None,
        scope: Scope::Everywhere,
    }
}

/// An event of a tenant.
#[must_use]
pub fn event(tenant: &str, event_type: &str, id: &str) -> Event {
    Event {
        tenant: tenant.into(),
        event_type: event_type.into(),
        id: id.into(),
        source: "/tests".into(),
        subject: None,
        time: None,
        data_content_type: Some("application/json".into()),
        data_schema: None,
        extensions: Vec::new(),
        ordering_key: None,
        data: Bytes::from(format!("{{\"id\":\"{id}\"}}")),
    }
}

#[derive(Clone)]
struct Exports {
    seen: Arc<Mutex<Seen>>,
    judge: Arc<Mutex<Judge>>,
}

impl Exports {
    async fn take(&self, delivery: Delivery) -> anyhow::Result<Result<(), Rejection>> {
        let judge = Arc::clone(&self.judge.lock().unwrap());
        let verdict = judge(&delivery);
        let id = delivery.event.id.clone();
        self.seen.lock().unwrap().deliveries.push(delivery);
        match verdict {
            Verdict::Handle => {
                self.seen.lock().unwrap().handled.push(id);
                Ok(Ok(()))
            }
            Verdict::Refuse(rejection) => Ok(Err(rejection)),
            Verdict::Trap => anyhow::bail!("wasm trap: unreachable"),
            Verdict::Hang => std::future::pending().await,
        }
    }
}

impl handler::Handler<Caller> for Exports {
    async fn handle_event(&self, caller: Caller, delivery: Delivery) -> anyhow::Result<Result<(), Rejection>> {
        self.seen.lock().unwrap().traceparents.push(caller.traceparent);
        self.take(delivery).await
    }
}

impl batch_handler::Handler<Caller> for Exports {
    async fn handle_events(
        &self,
        caller: Caller,
        deliveries: Vec<Delivery>,
    ) -> anyhow::Result<Vec<Result<(), Rejection>>> {
        self.seen.lock().unwrap().traceparents.push(caller.traceparent);
        self.seen.lock().unwrap().batches.push(deliveries.len());
        let mut results = Vec::new();
        for delivery in deliveries {
            results.push(self.take(delivery).await?);
        }
        Ok(results)
    }
}

impl backfill_handler::Handler<Caller> for Exports {
    async fn handle_caught_up(&self, _: Caller, progress: BackfillProgress) -> anyhow::Result<Result<(), Rejection>> {
        self.seen.lock().unwrap().caught_up.push(progress);
        Ok(Ok(()))
    }
}
