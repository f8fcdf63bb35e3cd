//! `why`: which subscriptions an event is for, and what stops it on its way to the others.

use std::path::PathBuf;

use anyhow::Result;
use fanout_plan::planner::{self, Asked};
use fanout_plan::why::{self, Stop};
use fanout_plan::{Code, PlaceName, Policy, Problem, SubscriptionName};
use serde_json::json;

use crate::args::Store;
use crate::bus::Refused;
use crate::diagnostic::PolicyRefused;
use crate::matching::{self, DoesNotMatch, NotLegal};
use crate::policy::Inspection;
use crate::terminal::{json_lines, printable, say};

#[derive(Debug, clap::Args)]
pub(crate) struct Why {
    #[command(flatten)]
    pub(crate) store: Store,
    /// The event, as JSON: {"tenant", "type", "source", "id", …, "data"}
    #[arg(value_name = "EVENT")]
    pub(crate) event: PathBuf,
    /// Of this subscription only
    pub(crate) subscription: Option<SubscriptionName>,
    /// On a bus that has places, the one where the event was published; without it, the one that --place names
    #[arg(long, value_name = "PLACE")]
    pub(crate) published_at: Option<PlaceName>,
}

pub(crate) async fn run(args: &Why, json: bool) -> Result<()> {
    let (policy, inspection) = inspect(args).await?;
    let mirrored_from = elsewhere(&policy, args.published_at.as_ref())?;
    let (event, data) = matching::event(&args.event)?;
    let plan = planner::plan(&policy, Asked::default(), &inspection.observed, inspection.now).map_err(Refused)?;
    let places = policy.places.as_ref();
    // Nothing is asked for but what the policy declares, in its order.
    let refused = plan.refused.into_iter().filter_map(|(i, problem)| {
        let (name, _) = policy.subscriptions.iter().nth(i)?;
        let message = problem.message;
        Some((name, None, Some(Stop::Refused { message })))
    });
    let refused = refused.filter(|(name, ..)| !plan.registry.contains_key(*name));
    let judged = plan.registry.values().map(|r| {
        let subscription = &r.subscription;
        let of_place = places
            .filter(|_| subscription.is_of_its_place())
            .map(|places| &places.here);
        let stops = why::why(&policy, subscription, &r.component, mirrored_from, &event, &data);
        (&subscription.name, of_place, stops)
    });
    let mut judged: Vec<_> = judged
        .chain(refused)
        .filter(|(name, ..)| args.subscription.as_ref().is_none_or(|asked| asked == *name))
        .collect();
    judged.sort_by_key(|(name, ..)| *name);
    if let (Some(name), []) = (&args.subscription, judged.as_slice()) {
        let what_to_name = match inspection.servers() {
            Some(_) => "neither the policy nor the store has it",
            None => {
                "the policy declares none of that name; name the bus's store with --nats for those that others made"
            }
        };
        let message = format!("bus {} has no subscription {name}: {what_to_name}", policy.bus);
        return Err(NotLegal(Problem::new(Code::UnknownSubscription, message)).into());
    }
    let is_for_some = judged.iter().any(|(.., stops)| stops.is_none());
    if json {
        let shown = judged.iter().map(|(name, of_place, stops)| {
            let mut shown = json!({ "subscription": name, "matches": stops.is_none(), "stops": stops });
            if let Some(place) = of_place {
                shown["of_place"] = json!(place);
            }
            shown
        });
        let shown = json!({ "subscriptions": shown.collect::<Vec<_>>(), "store": inspection.servers() });
        say!("{}", json_lines(&shown))?;
    } else {
        if judged.is_empty() {
            say!("bus {} has no subscriptions", policy.bus)?;
        }
        for (name, of_place, stops) in &judged {
            match (stops, of_place.filter(|_| args.published_at.is_none())) {
                (None, None) => say!("{name}: the event is for it")?,
                (None, Some(place)) => say!("{name}: the event is for it, if it was published at place {place}")?,
                (Some(stop), _) => say!("{name}: {}", printable(&stop.to_string()))?,
            }
        }
        inspection.report();
    }
    match is_for_some {
        true => Ok(()),
        false => Err(DoesNotMatch.into()),
    }
}

/// The other place where an event was published; `None` for this one.
fn elsewhere<'a>(policy: &Policy, published_at: Option<&'a PlaceName>) -> Result<Option<&'a PlaceName>> {
    let Some(place) = published_at else { return Ok(None) };
    match &policy.places {
        Some(places) if places.all.contains_key(place) => Ok(Some(place).filter(|place| **place != places.here)),
        places => {
            let known = places.iter().flat_map(|places| places.all.keys());
            let known: Vec<_> = known.map(ToString::to_string).collect();
            let what_to_name = match known.as_slice() {
                [] => "the policy has no places: leave it out".to_owned(),
                known => format!("name one of the policy's places: {}", known.join(", ")),
            };
            let message = format!("--published-at {place}: {what_to_name}");
            Err(NotLegal(Problem::new(Code::UnknownPlace, message)).into())
        }
    }
}

/// The policy, and what the store holds if one is named. A policy that is not legal is no answer: 1 would be one.
async fn inspect(args: &Why) -> Result<(Policy, Inspection)> {
    let policy = crate::bus::policy(&args.store.policy).map_err(|error| match error.downcast::<PolicyRefused>() {
        Ok(refused) => match refused.problems.into_iter().next() {
            Some(first) => NotLegal(first).into(),
            None => anyhow::Error::msg("the policy is not legal"),
        },
        Err(error) => error,
    })?;
    let inspection = Inspection::of(&args.store, &policy).await?;
    Ok((policy, inspection))
}
