//! What it costs to be watched: the same bus whose traces nobody asks for, and whose every span goes to a collector. Metrics
//! are counted in both: they can't be switched off.

use anyhow::Result;
use fanout_tests::collector::Collector;
use wasmcloud_core::OtelConfig;

use crate::case::{Case, Size, in_turns};
use crate::delivery::{Counting, durable};
use crate::load::{batches, singles};
use crate::report::Report;
use crate::world::World;

pub(crate) async fn run(report: &mut Report, size: Size) -> Result<()> {
    // It takes the bytes and looks at none: what is measured is who sends them.
    let collector = Collector::that_keeps_nothing().await;
    let watched = OtelConfig {
        enable_observability: true,
        observability_endpoint: Some(collector.url().to_owned()),
        ..OtelConfig::default()
    };
    let links = [durable("one", "handler", "one")];
    let off = &World::start(None, &[], &links).await;
    let on = &World::start_watched(watched, None, &[], &links).await;
    let (handler_off, handler_on) = (&Counting::serve(off, "one").await?, &Counting::serve(on, "one").await?);
    let (many, few) = (size.events(20_000), size.events(4_000));
    let id = |case: &str, round: usize| format!("{case}-{round}");
    let publishing = vec![
        Case::new("traces off, 1 caller", |r| async move {
            singles(off.ingress.bus(), "acme", &id("s1", r), few, 1).await
        }),
        Case::new("traces on, 1 caller", |r| async move {
            singles(on.ingress.bus(), "acme", &id("s1", r), few, 1).await
        }),
        Case::new("traces off, 64 callers", |r| async move {
            singles(off.ingress.bus(), "acme", &id("s64", r), many, 64).await
        }),
        Case::new("traces on, 64 callers", |r| async move {
            singles(on.ingress.bus(), "acme", &id("s64", r), many, 64).await
        }),
        Case::new("traces off, 250 in a call, 4 callers", |r| async move {
            batches(off.ingress.bus(), "acme", &id("b", r), many, 250, 4).await
        }),
        Case::new("traces on, 250 in a call, 4 callers", |r| async move {
            batches(on.ingress.bus(), "acme", &id("b", r), many, 250, 4).await
        }),
    ];
    let clear = || async move {
        off.clear().await?;
        on.clear().await
    };
    in_turns(report, "publish, watched or not", size, publishing, clear).await?;
    let delivering = vec![
        Case::new("traces off, handler, 64 at once", |r| async move {
            handler_off.handle(off, "one", &id("h", r), many).await
        }),
        Case::new("traces on, handler, 64 at once", |r| async move {
            handler_on.handle(on, "one", &id("h", r), many).await
        }),
    ];
    in_turns(
        report,
        "stored and then handled, watched or not",
        size,
        delivering,
        clear,
    )
    .await
}
