//! Quotas: what ten thousand of them cost, and what a loud tenant costs a quiet one.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use fanout_tests::publisher;
use fanout_tests::types::PublishError;
use fanout_transport::Client;
use futures::{StreamExt as _, TryStreamExt as _, stream};

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

/// A quiet tenant as fast as one caller can, alone and beside a loud tenant that tries ten times its quota.
async fn loud_and_quiet(report: &mut Report, size: Size) -> Result<()> {
    const QUOTA: u32 = 200;
    let settings = [("quota.tenant.loud.events-per-second", "200")];
    let world = World::start(None, &settings, &[]).await;
    let bus = world.ingress.bus();
    let events = size.events(4_000);
    for round in 0..=size.rounds() {
        let alone = quiet(bus, &format!("alone-{round}"), events).await?;
        let loud = async {
            let mut counts = (0_u64, 0_u64);
            let mut tick = tokio::time::interval(Duration::from_millis(1_000) / (10 * QUOTA));
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            for i in 0_u64.. {
                tick.tick().await;
                let event = sized("loud", &format!("loud-{round}-{i}"));
                match publisher::publish_tenant_event(bus, patient(), &event).await? {
                    Ok(_) => counts.0 += 1,
                    Err(PublishError::QuotaExceeded(_)) => counts.1 += 1,
                    Err(e) => return Err(anyhow!("{e:?}")),
                }
                if i > 1_000_000 {
                    break;
                }
            }
            Ok(counts)
        };
        let run = format!("beside-{round}");
        let beside = tokio::select! {
            ended = loud => return Err(anyhow!("the loud tenant stopped: {ended:?}")),
            beside = quiet(bus, &run, events) => beside?,
        };
        if round > 0 {
            let group = "a quiet tenant, 1 caller";
            report.rate(group, "alone", events, alone)?;
            report.rate(group, "beside a loud one at ten times its quota", events, beside)?;
        }
        world.clear().await?;
    }
    Ok(())
}

async fn quiet(bus: &Client, run: &str, events: usize) -> Result<f64> {
    let start = Instant::now();
    crate::load::singles(bus, "quiet", run, events, 1).await?;
    Ok(start.elapsed().as_secs_f64())
}
