//! A component's calls of `fanout:bus`, sent to the bus as they are.

use std::time::Duration;

use fanout_client::Subscription;
use fanout_client::component::Plan;
use fanout_wit as calls;
use fanout_wit::types as wit;
use wasmtime::Result;

use crate::bindings::calls::fanout::bus::{inbox, publisher, status, subscriber, types};
use crate::convert;
use crate::guest::Guest;
use crate::hosted::Order;

/// What a component's link does not say about batches is said here.
pub(crate) const BATCH: u32 = 100;
pub(crate) const CONCURRENCY: u32 = 16;
/// The most that a component can ask for, as on a wasmCloud host.
const MOST: u32 = 1_000;

impl types::Host for Guest {}

impl publisher::Host for Guest {
    async fn publish_tenant_event(
        &mut self,
        event: types::Event,
    ) -> Result<Result<types::Receipt, types::PublishError>> {
        let event = convert::event(event);
        let published = self.surroundings.bus.publish(&self.onward(), &event).await;
        Ok(published.map(convert::receipt).map_err(convert::publish_error))
    }

    async fn publish_tenant_events(
        &mut self,
        events: Vec<types::Event>,
    ) -> Result<Vec<Result<types::Receipt, types::PublishError>>> {
        let events: Vec<_> = events.into_iter().map(convert::event).collect();
        let published = self.surroundings.bus.publish_many(&self.onward(), &events).await;
        let answers = published.into_iter();
        Ok(answers
            .map(|answer| answer.map(convert::receipt).map_err(convert::publish_error))
            .collect())
    }

    async fn publish_tenant_events_together(
        &mut self,
        events: Vec<types::Event>,
    ) -> Result<Result<Vec<types::Receipt>, types::PublishError>> {
        let events: Vec<_> = events.into_iter().map(convert::event).collect();
        let bus = &self.surroundings.bus;
        let published = bus.ask(self.onward(), |cx| {
            calls::publisher::publish_tenant_events_together(bus, cx, &events)
        });
        let published = published.await;
        Ok(published
            .map(|receipts| receipts.into_iter().map(convert::receipt).collect())
            .map_err(convert::publish_error))
    }

    async fn publish_tenant_event_at(
        &mut self,
        event: types::Event,
        at: types::Timestamp,
    ) -> Result<Result<types::Scheduled, types::PublishError>> {
        let event = convert::event(event);
        let bus = &self.surroundings.bus;
        let scheduled = bus.ask(self.onward(), |cx| {
            calls::publisher::publish_tenant_event_at(bus, cx, &event, at)
        });
        let scheduled = scheduled.await;
        Ok(scheduled.map(convert::scheduled).map_err(convert::publish_error))
    }

    async fn cancel_scheduled(
        &mut self,
        tenant: String,
        source: String,
        id: String,
    ) -> Result<Result<types::Cancellation, types::PublishError>> {
        let bus = &self.surroundings.bus;
        let cancelled = bus.ask(self.onward(), |cx| {
            calls::publisher::cancel_scheduled(bus, cx, &tenant, &source, &id)
        });
        let cancelled = cancelled.await;
        Ok(cancelled.map(convert::cancellation).map_err(convert::publish_error))
    }
}

type Made = Result<Result<types::Subscription, types::SubscribeError>>;

/// A component that subscribes by a call is called through its exports, as it asked; upstream the subscription is one
/// that is fetched.
impl subscriber::Host for Guest {
    async fn subscribe_queue(&mut self, name: String, filter: types::Filter, reach: types::Reach) -> Made {
        let options = types::DeliveryOptions {
            filter,
            reach,
            batch_size: Some(1),
            concurrency: None,
            scope: types::Scope::Everywhere,
        };
        self.subscribe(Subscription::queue(name), false, options).await
    }

    async fn subscribe_durable(&mut self, name: String, options: types::DeliveryOptions) -> Made {
        self.subscribe(Subscription::durable(name), false, options).await
    }

    async fn subscribe_backfill(
        &mut self,
        name: String,
        start: types::Start,
        end: Option<types::End>,
        options: types::DeliveryOptions,
    ) -> Made {
        let mut wanted = Subscription::backfill(name, convert::start(start));
        if let Some(end) = end {
            wanted = wanted.until(convert::end(end));
        }
        self.subscribe(wanted, true, options).await
    }

    async fn unsubscribe(&mut self, name: String) -> Result<Result<(), types::SubscribeError>> {
        let bus = &self.surroundings.bus;
        let ended = bus.ask(self.onward(), |cx| calls::subscriber::unsubscribe(bus, cx, &name));
        let ended = ended.await;
        if ended.is_ok() {
            self.surroundings.orders.send(Order::End(name)).await?;
        }
        Ok(ended.map_err(convert::subscribe_error))
    }

    async fn pause(&mut self, name: String) -> Made {
        let bus = &self.surroundings.bus;
        let paused = bus.ask(self.onward(), |cx| calls::subscriber::pause(bus, cx, &name));
        changed(paused.await)
    }

    async fn resume(&mut self, name: String) -> Made {
        let bus = &self.surroundings.bus;
        let resumed = bus.ask(self.onward(), |cx| calls::subscriber::resume(bus, cx, &name));
        changed(resumed.await)
    }

    async fn rewind(&mut self, name: String, to: types::Start) -> Made {
        let (bus, to) = (&self.surroundings.bus, convert::start(to).into());
        let rewound = bus.ask(self.onward(), |cx| calls::subscriber::rewind(bus, cx, &name, &to));
        changed(rewound.await)
    }

    async fn list_subscriptions(&mut self) -> Result<Result<Vec<types::Subscription>, types::SubscribeError>> {
        let listed = self.surroundings.bus.subscriptions(&self.onward()).await;
        Ok(listed
            .map(|all| all.into_iter().map(convert::subscription).collect())
            .map_err(convert::subscribe_error))
    }
}

fn changed(answer: std::result::Result<wit::Subscription, wit::SubscribeError>) -> Made {
    Ok(answer.map(convert::subscription).map_err(convert::subscribe_error))
}

impl Guest {
    async fn subscribe(&mut self, wanted: Subscription, is_backfill: bool, options: types::DeliveryOptions) -> Made {
        for (what, asked) in [("batch-size", options.batch_size), ("concurrency", options.concurrency)] {
            if asked.is_some_and(|n| !(1..=MOST).contains(&n)) {
                return Ok(Err(types::SubscribeError::InvalidRequest(types::Problem {
                    code: "invalid-setting".to_owned(),
                    message: format!("subscription {}: a {what} is from 1 to {MOST}", wanted.name()),
                })));
            }
        }
        let wanted = wanted
            .tenants(options.filter.tenants)
            .event_types(options.filter.event_types);
        let wanted = match options.filter.pattern {
            Some(pattern) => wanted.pattern(pattern),
            None => wanted,
        };
        let wanted = match options.scope {
            types::Scope::Everywhere => wanted,
            types::Scope::Here => wanted.of_this_place(),
        };
        let made = self.surroundings.bus.subscribe(&self.onward(), &wanted).await;
        if made.is_ok() && options.reach != types::Reach::Inbox {
            let batch = match options.reach {
                types::Reach::BatchHandler => options.batch_size.unwrap_or(BATCH),
                _ => 1,
            };
            let plan = Plan {
                tell_caught_up: is_backfill,
                wanted,
                batch: batch as usize,
                concurrency: options.concurrency.unwrap_or(CONCURRENCY) as usize,
            };
            let is_batch = options.reach == types::Reach::BatchHandler;
            self.surroundings.orders.send(Order::Deliver { plan, is_batch }).await?;
        }
        Ok(made.map(convert::subscription).map_err(convert::subscribe_error))
    }
}

impl inbox::Host for Guest {
    async fn fetch(
        &mut self,
        subscription: String,
        max_deliveries: u32,
        max_bytes: Option<u64>,
        wait_ms: u32,
    ) -> Result<Result<types::FetchedDeliveries, types::InboxError>> {
        let wait = Duration::from_millis(wait_ms.into());
        let bus = &self.surroundings.bus;
        let fetched = bus
            .fetch_for(&self.onward(), &subscription, max_deliveries, max_bytes, wait)
            .await;
        Ok(fetched.map(convert::fetched).map_err(convert::inbox_error))
    }

    async fn settle(
        &mut self,
        settlements: Vec<types::Settlement>,
    ) -> Result<Vec<Result<types::SettlementOutcome, types::SettleError>>> {
        let settlements: Vec<_> = settlements.into_iter().map(convert::settlement).collect();
        let settled = self.surroundings.bus.settle_for(&self.onward(), &settlements).await;
        Ok(match settled {
            Ok(answers) => answers.into_iter().map(convert::settled).collect(),
            Err(problem) => settlements
                .iter()
                .map(|_| convert::settled(Err(wit::SettleError::Unavailable(problem.clone()))))
                .collect(),
        })
    }
}

impl status::Host for Guest {
    async fn links(&mut self) -> Result<Vec<types::LinkStatus>> {
        let bus = &self.surroundings.bus;
        let links = bus.ask(self.onward(), |cx| async move {
            Ok(Ok::<_, wit::Problem>(calls::status::links(bus, cx).await?))
        });
        match links.await {
            Ok(links) => Ok(links.into_iter().map(convert::link_status).collect()),
            Err(problem) => Err(wasmtime::format_err!("{} ({})", problem.message, problem.code)),
        }
    }
}
