//! `lost`: what subscriptions lost to the retention or a purge, reported until somebody acknowledges it.

use anyhow::Result;
use fanout_plan::SubscriptionName;
use fanout_plan::status::{LostEvents, SubscriptionStatus};
use fanout_provider::jetstream::StoreError;
use serde_json::json;

use crate::terminal::{complain, json_lines, printable, say};
use crate::{args, bus};

pub(crate) async fn lost(args: &args::Store, of: Option<&SubscriptionName>, seen: bool, json: bool) -> Result<()> {
    let (store, observed) = bus::observed(args).await?;
    if let Some(name) = of {
        match observed.registry.get(name) {
            None => return Err(bus::unknown(&store, name).into()),
            // What it lost went along.
            Some(moved) if moved.has_moved() => {
                return Err(bus::Refused(moved.withheld_problem().into_iter().collect()).into());
            }
            Some(_) => {}
        }
    }
    let asked = |name: &SubscriptionName| of.is_none_or(|of| of == name);
    let (mut lost, mut unread) = (Vec::new(), None::<anyhow::Error>);
    let here = observed.registry.iter().filter(|(_, r)| !r.has_moved());
    for (name, registered) in here.filter(|(name, _)| asked(name)) {
        // What can't be read of one keeps nothing of the others back.
        let read = async {
            let losses = store.losses(registered).await?;
            let lost_events = losses.lost_events();
            let of_one = match seen {
                true => store.acknowledge_losses(registered).await?,
                false => losses.lost,
            };
            Ok::<_, StoreError>((lost_events, of_one))
        };
        let (lost_events, of_one) = match read.await {
            Ok(read) => read,
            Err(error) => {
                let error = anyhow::Error::new(error).context(format!("subscription {name}"));
                if let Some(earlier) = unread.replace(error) {
                    let said =
                        bus::store_unavailable(&earlier).map_or_else(|| format!("{earlier:#}"), |p| p.to_string());
                    complain(json, &said);
                }
                continue;
            }
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
        say!("{}", json_lines(&json!({ "subscriptions": lost })))?;
        return unread.map_or(Ok(()), Err);
    }
    if lost.is_empty() && unread.is_none() {
        return say!("nothing was lost that nobody has seen");
    }
    for s in &lost {
        say!("subscription {}{}:", s.name, if seen { ", seen now" } else { "" })?;
        show(&s.lost)?;
    }
    if !seen && !lost.is_empty() {
        say!("`fanout lost --seen` tells of it no more")?;
    }
    unread.map_or(Ok(()), Err)
}

/// What one subscription lost, by partition.
pub(crate) fn show(lost: &[LostEvents]) -> Result<()> {
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
