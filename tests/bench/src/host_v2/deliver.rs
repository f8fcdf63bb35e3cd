//! Stored, fetched by the runner beside a component, and handled by it.

use anyhow::Result;

use super::world::WorldV2;
use crate::case::{Case, Size, in_turns};
use crate::delivery;
use crate::load::raw_as_stored;
use crate::report::{Aim, Report};

const GROUP: &str = "stored and then handled by a component";
const BARE: &str = "bare pull consumer, native, an acknowledgement each";
const ONE: &str = "v2 host: handler";
const MANY: &str = "v2 host: batch-handler, 250 in an invocation";
const ONE_COMPOSED: &str = "v2 host: handler, composed to one with its runner";
const MANY_COMPOSED: &str = "v2 host: batch-handler, composed to one with its runner";

pub(super) async fn run(report: &mut Report, size: Size, world: &WorldV2) -> Result<()> {
    let mut running = Vec::new();
    for name in ["one", "many", "one-composed", "many-composed"] {
        running.push(world.deploy(name).await?);
        world.subscribed(name).await?;
    }
    let (many, few) = (size.events(20_000), size.events(2_000));
    let stored = |tenant, events| {
        move |r: usize| {
            let run = format!("{tenant}-{r}");
            async move {
                let storing = raw_as_stored(&world.js, tenant, &run, events);
                world.handled.of(events, storing).await
            }
        }
    };
    let cases = vec![
        Case::new(BARE, |r| async move {
            delivery::pull(&world.js, &format!("bare-{r}"), many).await
        }),
        Case::new(ONE, stored("one", few)),
        Case::new(MANY, stored("many", many)),
        Case::new(ONE_COMPOSED, stored("one-composed", many)),
        Case::new(MANY_COMPOSED, stored("many-composed", many)),
    ];
    in_turns(report, GROUP, size, cases, || world.clear()).await?;
    for case in [MANY, MANY_COMPOSED] {
        report.aim(Aim {
            group: GROUP,
            case,
            beside: BARE,
            least: 0.4,
        });
    }
    for running in &running {
        world.end(running).await?;
    }
    Ok(())
}
