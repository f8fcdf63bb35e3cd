//! What it costs to be watched: the same bus whose traces nobody asks for, one of which one trace in a hundred goes to a
//! collector, one of which every span does; and one that writes into its journal what went wrong, or every delivery. Metrics
//! are counted in all of them: they can't be switched off.

use anyhow::Result;
use fanout_tests::collector::Collector;
use wasmcloud_core::OtelConfig;

use crate::case::{Case, Size, in_turns};
use crate::delivery::{Counting, durable};
use crate::load::{batches, singles};
use crate::report::Report;
use crate::world::World;

/// One trace in a hundred, unless whoever calls has decided.
const SAMPLED: &[(&str, &str)] = &[
    ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
    ("OTEL_TRACES_SAMPLER_ARG", "0.01"),
];

pub(crate) async fn run(report: &mut Report, size: Size) -> Result<()> {
    // It takes the bytes and looks at none: what is measured is who sends them.
    let collector = Collector::that_keeps_nothing().await;
    let watched = || OtelConfig {
        enable_observability: true,
        observability_endpoint: Some(collector.url().to_owned()),
        ..OtelConfig::default()
    };
    let links = [durable("one", "handler", "one")];
    let off = &World::start(None, &[], &links).await;
    let sampled = &World::start_watched((watched(), SAMPLED), None, &[], &links).await;
    let on = &World::start_watched((watched(), &[]), None, &[], &links).await;
    let errors = &World::start(None, &[("journal.deliveries", "errors")], &links).await;
    let all = &World::start(None, &[("journal.deliveries", "all")], &links).await;
    let (many, few) = (size.events(20_000), size.events(4_000));
    let id = |case: &str, round: usize| format!("{case}-{round}");
    let publishing = vec![
        Case::new("traces off, 1 caller", |r| async move {
            singles(off.ingress.bus(), "acme", &id("s1", r), few, 1).await
        }),
        Case::new("1 trace in 100, 1 caller", |r| async move {
            singles(sampled.ingress.bus(), "acme", &id("s1", r), few, 1).await
        }),
        Case::new("every trace, 1 caller", |r| async move {
            singles(on.ingress.bus(), "acme", &id("s1", r), few, 1).await
        }),
        Case::new("traces off, 64 callers", |r| async move {
            singles(off.ingress.bus(), "acme", &id("s64", r), many, 64).await
        }),
        Case::new("1 trace in 100, 64 callers", |r| async move {
            singles(sampled.ingress.bus(), "acme", &id("s64", r), many, 64).await
        }),
        Case::new("every trace, 64 callers", |r| async move {
            singles(on.ingress.bus(), "acme", &id("s64", r), many, 64).await
        }),
        Case::new("traces off, 250 in a call, 4 callers", |r| async move {
            batches(off.ingress.bus(), "acme", &id("b", r), many, 250, 4).await
        }),
        Case::new("every trace, 250 in a call, 4 callers", |r| async move {
            batches(on.ingress.bus(), "acme", &id("b", r), many, 250, 4).await
        }),
    ];
    let worlds = [off, sampled, on, errors, all];
    let clear = || async move {
        for world in worlds {
            world.clear().await?;
        }
        Ok(())
    };
    in_turns(report, "publish, watched or not", size, publishing, clear).await?;
    let handlers = [
        &Counting::serve(off, "one").await?,
        &Counting::serve(sampled, "one").await?,
        &Counting::serve(on, "one").await?,
        &Counting::serve(errors, "one").await?,
        &Counting::serve(all, "one").await?,
    ];
    let names = [
        "neither traces nor journal, handler, 64 at once",
        "1 trace in 100, handler, 64 at once",
        "every trace, handler, 64 at once",
        "journal of errors, handler, 64 at once",
        "journal of all, handler, 64 at once",
    ];
    let cases = names.into_iter().zip(worlds).zip(handlers);
    let delivering = cases.map(|((name, world), handler)| {
        Case::new(name, move |r| async move {
            handler.handle(world, "one", &id("h", r), many).await
        })
    });
    in_turns(
        report,
        "stored and then handled, watched or not",
        size,
        delivering.collect(),
        clear,
    )
    .await
}
