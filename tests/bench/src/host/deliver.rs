//! What components are given: the bus's stored events, and messages of the host's own messaging.

use anyhow::Result;

use super::world::HostWorld;
use crate::case::{Case, Size, in_turns};
use crate::delivery;
use crate::load::raw_as_stored;
use crate::report::Report;

pub(super) async fn run(report: &mut Report, size: Size, world: &HostWorld) -> Result<()> {
    let events = size.events(20_000);
    let stored = |component, r| {
        let run = format!("{component}-{r}");
        async move {
            let storing = raw_as_stored(&world.js, component, &run, events);
            world.handled.of(events, storing).await
        }
    };
    let cases = vec![
        Case::new("bare pull consumer, native, an acknowledgement each", |r| async move {
            delivery::pull(&world.js, &format!("bare-{r}"), events).await
        }),
        Case::new("bus: handler, 64 at once", move |r| stored("one", r)),
        Case::new("bus: batch-handler, 250 in an invocation", move |r| stored("many", r)),
        Case::new("messaging-nats: handler, 64 at once; at most once, not stored", |_| {
            world.handled.of(events, world.messages(events))
        }),
    ];
    in_turns(report, "published and then handled by a component", size, cases, || {
        world.clear()
    })
    .await
}
