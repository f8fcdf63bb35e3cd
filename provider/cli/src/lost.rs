//! `lost`: what subscriptions lost to the retention or a purge, told until somebody acknowledges it.

use anyhow::Result;
use fanout_plan::SubscriptionName;
use fanout_plan::status::LostEvents;
use serde_json::json;

use crate::terminal::{json_lines, printable, say};
use crate::{args, bus};

pub(crate) async fn lost(args: &args::Store, of: Option<&SubscriptionName>, seen: bool, json: bool) -> Result<()> {
    let (store, observed) = bus::observed(args).await?;
    if let Some(name) = of.filter(|name| !observed.registry.contains_key(*name)) {
        return Err(bus::unknown(&store, name).into());
    }
    let asked = |name: &SubscriptionName| of.is_none_or(|of| of == name);
    let mut lost = Vec::new();
    for (name, registered) in observed.registry.iter().filter(|(name, _)| asked(name)) {
        let of_one = match seen {
            true => store.acknowledge_losses(registered).await?,
            false => store.retention(registered).await?.lost,
        };
        if !of_one.is_empty() {
            let of_one: Vec<_> = of_one.iter().map(|(p, lost)| LostEvents::of(*p, lost)).collect();
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
pub(crate) fn tell(lost: &[LostEvents]) -> Result<()> {
    for one in lost {
        say!(
            "  lost: {} events from {} to {} were gone before they were handled{} [retention-gap]",
            one.count,
            one.first,
            one.last,
            if one.exact { "" } else { "; not all of them were seen" }
        )?;
        for (tenant, events) in &one.tenants {
            say!("    {events} of tenant {}", printable(tenant.as_str()))?;
        }
    }
    Ok(())
}
