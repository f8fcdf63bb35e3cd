//! What a component publishes: through the bus, and through the host's own messaging.
//!
//! A component calls one thing at a time, so many callers are many invocations.

use anyhow::Result;

use super::world::HostWorld;
use crate::case::{Case, Size, in_turns};
use crate::load::raw;
use crate::report::Report;

/// So many single calls in an invocation: the host ends one after five seconds.
const SINGLES: usize = 50;
/// So many events where a call takes many, or does not wait.
const MANY: usize = 1_000;

pub(super) async fn run(report: &mut Report, size: Size, world: &HostWorld) -> Result<()> {
    let many = size.events(20_000);
    let few = size.events(2_000);
    let by_component = |way, events, each, at_once| {
        move |r: usize| {
            let run = format!("{way}-{at_once}-{r}");
            async move { world.orders.of(way, &run, events, each, at_once).await }
        }
    };
    let messages = by_component("message", many, MANY, 4);
    let cases = vec![
        Case::new("async-nats, native, 256 in flight, each acknowledged", |r| {
            let run = format!("raw-{r}");
            async move { raw(&world.js, "acme", &run, many, 256).await }
        }),
        Case::new(
            "bus: publish-tenant-event, 1 caller",
            by_component("event", few, SINGLES, 1),
        ),
        Case::new(
            "bus: publish-tenant-event, 64 callers",
            by_component("event", many / 2, SINGLES, 64),
        ),
        Case::new(
            "bus: publish-tenant-events, 250 in a call, 4 callers",
            by_component("events", many, MANY, 4),
        ),
        Case::new(
            "messaging-nats: request to a stream, 1 caller; no id, so not once",
            by_component("request", few, SINGLES, 1),
        ),
        Case::new(
            "messaging-nats: request to a stream, 64 callers; no id, so not once",
            by_component("request", many / 2, SINGLES, 64),
        ),
        Case::new("messaging-nats: publish, 4 callers; not stored, no answer", move |r| {
            world.published.of(many, messages(r))
        }),
    ];
    in_turns(report, "published by a component", size, cases, || world.clear()).await
}
