//! `lost`: what subscriptions lost to the retention or a purge, told until somebody acknowledges it.

use std::collections::BTreeMap;

use anyhow::Result;
use fanout_plan::gap::Lost;
use fanout_plan::{Code, Problem, SubscriptionName};
use serde_json::json;

use crate::args;
use crate::bus::{self, Refused};
use crate::terminal::{json_lines, printable, say};

pub(crate) async fn lost(args: &args::Store, of: Option<&SubscriptionName>, seen: bool, json: bool) -> Result<()> {
    let store = bus::store(args).await?;
    let observed = store.observe().await?;
    let store = store.with_layout(observed.topology.layout());
    if let Some(name) = of.filter(|name| !observed.registry.contains_key(*name)) {
        let bus = &store.policy().bus;
        return Err(Refused(vec![Problem::new(
            Code::UnknownSubscription,
            format!("bus {bus} has no subscription {name}: `fanout status` lists those that it has"),
        )])
        .into());
    }
    let asked = |name: &SubscriptionName| of.is_none_or(|of| of == name);
    let mut lost = Vec::new();
    for (name, registered) in observed.registry.iter().filter(|(name, _)| asked(name)) {
        let of_one = match seen {
            true => store.acknowledge_losses(registered).await?,
            false => store.retention(registered).await?.lost,
        };
        if !of_one.is_empty() {
            lost.push((name, of_one));
        }
    }
    if json {
        let lost: Vec<_> = lost
            .iter()
            .map(|(name, lost)| json!({ "subscription": name, "lost": lost, "seen": seen }))
            .collect();
        return say!("{}", json_lines(&json!({ "lost": lost })));
    }
    if lost.is_empty() {
        return say!("nothing was lost that nobody has seen");
    }
    for (name, lost) in &lost {
        say!("subscription {name}{}:", if seen { ", seen now" } else { "" })?;
        tell(lost)?;
    }
    match seen {
        true => Ok(()),
        false => say!("`fanout lost --seen` tells of it no more"),
    }
}

/// What one subscription lost, by partition.
pub(crate) fn tell(lost: &BTreeMap<u32, Lost>) -> Result<()> {
    for (partition, lost) in lost {
        say!(
            "  lost: {} events from {partition}/{} to {partition}/{} were gone before they were handled{} [retention-gap]",
            lost.events,
            lost.from,
            lost.to,
            if lost.exact { "" } else { "; not all of them were seen" }
        )?;
        for (tenant, events) in &lost.tenants {
            say!("    {events} of tenant {}", printable(tenant.as_str()))?;
        }
    }
    Ok(())
}
