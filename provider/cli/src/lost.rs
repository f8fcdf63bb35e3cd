//! `lost`: what subscriptions lost to the retention or a purge, told until somebody acknowledges it.

use anyhow::Result;
use fanout_plan::SubscriptionName;
use fanout_plan::status::{LostEvents, SubscriptionStatus};
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
    for registered in observed.registry.iter().filter(|(name, _)| asked(name)).map(|(_, r)| r) {
        let retention = store.retention(registered).await?;
        let lost_events = retention.lost_events();
        let of_one = match seen {
            true => store.acknowledge_losses(registered).await?,
            false => retention.lost,
        };
        if !of_one.is_empty() {
            let mut status = SubscriptionStatus::of(registered);
            status.lost = of_one.iter().map(|(p, lost)| LostEvents::of(*p, lost)).collect();
            status.lost_events = Some(lost_events);
            lost.push(status);
        }
    }
    if json {
        let lost: Vec<_> = lost
            .iter()
            .map(|s| json!({ "name": s.name, "lost_events": s.lost_events, "lost": s.lost, "seen": seen }))
            .collect();
        return say!("{}", json_lines(&json!({ "subscriptions": lost })));
    }
    if lost.is_empty() {
        return say!("nothing was lost that nobody has seen");
    }
    for s in &lost {
        say!("subscription {}{}:", s.name, if seen { ", seen now" } else { "" })?;
        tell(&s.lost)?;
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
