//! Quotas: what ten thousand of them cost, and what a loud tenant costs a quiet one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use fanout_tests::types::PublishError;
use fanout_tests::{Component, LinkTo, publisher};
use fanout_transport::Client;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use tokio_util::task::AbortOnDropHandle;

use crate::case::Size;
use crate::load::batches;
use crate::report::Report;
use crate::world::{World, patient, sized};

pub(crate) async fn run(report: &mut Report, size: Size) -> Result<()> {
    many_tenants(report, size).await?;
    loud_and_quiet(report, size).await
}

/// One tenant without a quota beside ten thousand that have one.
async fn many_tenants(report: &mut Report, size: Size) -> Result<()> {
    let tenants = size.events(10_000);
    let events = size.events(20_000).max(tenants);
    let group = "rate";
    let one = World::start(None, &[], &[]).await;
    let quotas = [("quota.events-per-second", "100000"), ("quota.max-bytes", "100MiB")];
    let many = World::start(None, &quotas, &[]).await;
    for round in 0..=size.rounds() {
        let start = Instant::now();
        batches(one.ingress.bus(), "acme", &format!("one-{round}"), events, 250, 4).await?;
        let alone = start.elapsed().as_secs_f64();
        let start = Instant::now();
        spread(many.ingress.bus(), &format!("many-{round}"), events, tenants).await?;
        let spread = start.elapsed().as_secs_f64();
        if round > 0 {
            report.rate(group, "1 tenant, no quota", events, alone)?;
            report.rate(group, &format!("{tenants} tenants, each with quotas"), events, spread)?;
        }
        one.clear().await?;
        many.clear().await?;
    }
    for (case, world) in [("1 tenant, no quota", &one), ("tenants with quotas", &many)] {
        report.value(
            "memory afterwards",
            &format!("provider, {case}"),
            "MiB",
            world.provider_memory()?.now,
        )?;
        report.value(
            "memory afterwards",
            &format!("nats-server, {case}"),
            "MiB",
            world.server_memory()?.now,
        )?;
    }
    Ok(())
}

/// Publishes in batches, each event of the next tenant.
async fn spread(bus: &Client, run: &str, events: usize, tenants: usize) -> Result<()> {
    stream::iter((0..events).step_by(250))
        .map(|from| async move {
            let batch: Vec<_> = (from..(from + 250).min(events))
                .map(|i| sized(&format!("t{}", i % tenants), &format!("{run}-{i}")))
                .collect();
            for result in publisher::publish_tenant_events(bus, patient(), &batch).await? {
                result.map_err(|e| anyhow!("{e:?}"))?;
            }
            anyhow::Ok(())
        })
        .buffer_unordered(4)
        .try_for_each(|()| async { Ok(()) })
        .await
}

/// A quiet tenant at 500 events a second and as fast as one caller can, alone and beside a loud tenant that tries ten
/// times its quota. The loud one is another component, on a connection of its own.
async fn loud_and_quiet(report: &mut Report, size: Size) -> Result<()> {
    let settings = [("quota.tenant.loud.events-per-second", "200")];
    let links = [LinkTo::caller("loud", &["publisher"], "loud")];
    let world = World::start(None, &settings, &links).await;
    let loud = &Arc::new(world.bench.silent_component("loud").await);
    let bus = world.ingress.bus();
    let events = size.events(4_000);
    for round in 0..=size.rounds() {
        let alone = quiet(bus, &format!("alone-{round}"), events).await?;
        let steady_alone = steady(bus, &format!("steady-alone-{round}"), events / 4).await?;
        let tries = AbortOnDropHandle::new(tokio::spawn(ten_times(Arc::clone(loud), round)));
        let beside = quiet(bus, &format!("beside-{round}"), events).await?;
        let steady_beside = steady(bus, &format!("steady-beside-{round}"), events / 4).await?;
        ensure!(!tries.is_finished(), "the loud tenant stopped: {:?}", tries.await);
        drop(tries);
        if round > 0 {
            let group = "a quiet tenant, 500 events a second";
            report.rate(group, "alone", events / 4, steady_alone)?;
            report.rate(
                group,
                "beside a loud one at ten times its quota",
                events / 4,
                steady_beside,
            )?;
            let group = "a quiet tenant, as fast as 1 caller can";
            report.rate(group, "alone", events, alone)?;
            report.rate(group, "beside a loud one at ten times its quota", events, beside)?;
        }
        world.clear().await?;
    }
    Ok(())
}

/// Tries 2,000 events a second, ten times the quota, however long the answers take.
async fn ten_times(loud: Arc<Component>, round: usize) -> Result<()> {
    let tries = paced(Duration::from_micros(500), usize::MAX).map(|i| {
        let loud = &loud;
        async move {
            let event = sized("loud", &format!("loud-{round}-{i}"));
            match publisher::publish_tenant_event(loud.bus(), patient(), &event).await? {
                Ok(_) | Err(PublishError::QuotaExceeded(_)) => Ok(()),
                Err(e) => Err(anyhow!("{e:?}")),
            }
        }
    });
    tries.buffer_unordered(64).try_for_each(|()| async { Ok(()) }).await
}

/// Numbers, one in each interval.
fn paced(every: Duration, count: usize) -> impl Stream<Item = usize> {
    let tick = tokio::time::interval(every);
    stream::unfold((tick, 0), |(mut tick, i)| async move {
        tick.tick().await;
        Some((i, (tick, i + 1)))
    })
    .take(count)
}

/// The seconds that so many events take at 500 a second, however long the answers take.
async fn steady(bus: &Client, run: &str, events: usize) -> Result<f64> {
    let start = Instant::now();
    paced(Duration::from_millis(2), events)
        .map(|i| async move {
            let event = sized("quiet", &format!("{run}-{i}"));
            let published = publisher::publish_tenant_event(bus, patient(), &event).await?;
            published.map(drop).map_err(|e| anyhow!("{e:?}"))
        })
        .buffer_unordered(64)
        .try_for_each(|()| async { Ok(()) })
        .await?;
    Ok(start.elapsed().as_secs_f64())
}

async fn quiet(bus: &Client, run: &str, events: usize) -> Result<f64> {
    let start = Instant::now();
    crate::load::singles(bus, "quiet", run, events, 1).await?;
    Ok(start.elapsed().as_secs_f64())
}
