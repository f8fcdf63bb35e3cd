//! Publishing: one event in a call and many, acknowledged by the server and on its disk.

use std::os::unix::fs::MetadataExt as _;

use anyhow::Result;
use fanout_transport::{ConnectOptions, Remote};

use crate::case::{Case, Size, in_turns};
use crate::load::{batches, raw, raw_as_stored, singles};
use crate::relay::Relay;
use crate::report::Report;
use crate::world::World;

pub(crate) async fn run(report: &mut Report, size: Size) -> Result<()> {
    acknowledged(report, size).await?;
    on_disk(report, size).await
}

/// The server answers once it has taken the event.
async fn acknowledged(report: &mut Report, size: Size) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let socket = format!("unix:{}", folder.path().join("bus.sock").display());
    let user = std::fs::metadata(folder.path())?.uid().to_string();
    let settings = [
        ("listen", socket.as_str()),
        ("callers.here.unix-uid", &user),
        ("callers.here.publish.tenants", "acme"),
    ];
    let world = World::start(None, &settings, &[]).await;
    let _relay = Relay::start(&world)?;
    let (bus, js) = (world.ingress.bus(), &world.js);
    let beside = &Remote::connect(&socket.parse()?, ConnectOptions::default()).await?;
    let many = size.events(20_000);
    let few = size.events(4_000);
    let id = |case: &str, round: usize| format!("{case}-{round}");
    let cases = vec![
        Case::new("async-nats, 256 in flight", |r| {
            let id = id("raw", r);
            async move { raw(js, "acme", &id, many, 256).await }
        }),
        Case::new("async-nats, 256 in flight, with an event's headers", |r| {
            let id = id("stored", r);
            async move { raw_as_stored(js, "acme", &id, many).await }
        }),
        Case::new("async-nats, 64 in flight", |r| {
            let id = id("raw64", r);
            async move { raw(js, "acme", &id, many, 64).await }
        }),
        Case::new("async-nats, one at a time", |r| {
            let id = id("one", r);
            async move { raw(js, "acme", &id, few, 1).await }
        }),
        Case::new("bare relay, 64 callers", |r| {
            let id = id("relay", r);
            async move { Relay::publish(js, &id, many, 64).await }
        }),
        Case::new("publish-tenant-event, 1 caller", |r| {
            let id = id("s1", r);
            async move { singles(bus, "acme", &id, few, 1).await }
        }),
        Case::new("publish-tenant-event, 64 callers", |r| {
            let id = id("s64", r);
            async move { singles(bus, "acme", &id, many, 64).await }
        }),
        Case::new("publish-tenant-events, 250 in a call, 4 callers", |r| {
            let id = id("b", r);
            async move { batches(bus, "acme", &id, many, 250, 4).await }
        }),
        Case::new("publish-tenant-event over a Unix socket, 64 callers", |r| {
            let id = id("u64", r);
            async move { singles(beside, "acme", &id, many, 64).await }
        }),
        Case::new(
            "publish-tenant-events over a Unix socket, 250 in a call, 4 callers",
            |r| {
                let id = id("ub", r);
                async move { batches(beside, "acme", &id, many, 250, 4).await }
            },
        ),
    ];
    in_turns(report, "acknowledged by the server", size, cases, || world.clear()).await
}

/// The server answers once the event is on its disk.
async fn on_disk(report: &mut Report, size: Size) -> Result<()> {
    let config = "jetstream { sync_interval: always }";
    let world = World::start(Some(config), &[("durability", "on-disk")], &[]).await;
    let (bus, js) = (world.ingress.bus(), &world.js);
    let many = size.events(10_000);
    let few = size.events(2_000);
    let id = |case: &str, round: usize| format!("{case}-{round}");
    let cases = vec![
        Case::new("async-nats, 256 in flight", |r| {
            let id = id("raw", r);
            async move { raw(js, "acme", &id, few, 256).await }
        }),
        Case::new("publish-tenant-event, 1 caller", |r| {
            let id = id("s1", r);
            async move { singles(bus, "acme", &id, few / 4, 1).await }
        }),
        Case::new("publish-tenant-event, 64 callers", |r| {
            let id = id("s64", r);
            async move { singles(bus, "acme", &id, many, 64).await }
        }),
        Case::new("publish-tenant-events, 250 in a call, 4 callers", |r| {
            let id = id("b", r);
            async move { batches(bus, "acme", &id, many, 250, 4).await }
        }),
    ];
    in_turns(
        report,
        "on the server's disk (sync_interval: always)",
        size,
        cases,
        || world.clear(),
    )
    .await
}
