//! `rewind`, `pause` and `resume`: one subscription's place, and whether it moves.
//!
//! They write into the registry, which every running instance watches; without any, the next one finds it there.

use anyhow::Result;
use fanout_plan::planner::{self, Asked, Observed};
use fanout_plan::step::{Failures, Part};
use fanout_plan::subscription::{Registered, Start};
use fanout_plan::{Position, SubscriptionName, Timestamp};
use fanout_provider::jetstream::Store;
use serde_json::json;

use crate::args;
use crate::bus::{self, Refused};
use crate::terminal::{json_lines, say};

pub(crate) async fn rewind(
    args: &args::Store,
    name: &SubscriptionName,
    to: Start,
    skip: bool,
    json: bool,
) -> Result<()> {
    let (store, _) = bus::observed(args).await?;
    let rewound = known(&store, name, store.rewind(name, None, to, skip).await?)?;
    // Its consumer is made anew here too, so that it stands there whether or not an instance runs.
    let observed = store.observe().await?;
    let plan = planner::plan_around(store.policy(), Asked::default(), &observed, Timestamp::EPOCH);
    let done = store.carry_out(&plan.steps, Failures::default(), true, |_| {}).await?;
    // What fails for another subscription is none of this one's.
    if let Some(problem) = done.failures.of(&Part::Subscription(name.clone())) {
        return Err(Refused(vec![problem.clone()]).into());
    }
    let ends: Vec<_> = rewound.head.0.iter().map(|(p, head)| format!("{p}/{head}")).collect();
    let gone = gone_before(&observed, to);
    if json {
        let shown = json!({
            "subscription": name, "rewound_to": to.to_string(), "replayed_to": ends, "no_longer_kept_before": gone,
        });
        return say!("{}", json_lines(&shown));
    }
    let gone = match gone.is_empty() {
        true => String::new(),
        false => format!("; events before {} are no longer kept", gone.join(", ")),
    };
    say!(
        "subscription {name} begins again; what it is given up to {} is replayed{gone}",
        ends.join(", ")
    )
}

/// Where the log begins in each partition that has lost events between `to` and there.
fn gone_before(observed: &Observed, to: Start) -> Vec<String> {
    let gone = observed.logs.iter().filter(|(partition, log)| match to {
        Start::First => false,
        Start::Time(t) if log.messages == 0 => t <= log.head_at,
        Start::Time(t) => log.oldest > 1 && t < log.oldest_at,
        Start::Position(p) => p.partition == **partition && p.offset < log.oldest,
    });
    gone.map(|(partition, log)| Position::new(*partition, log.oldest).to_string())
        .collect()
}

pub(crate) async fn pause(args: &args::Store, name: &SubscriptionName, paused: bool, json: bool) -> Result<()> {
    let store = bus::store(args).await?;
    known(&store, name, store.pause(name, None, paused).await?)?;
    if json {
        say!("{}", json_lines(&json!({ "subscription": name, "paused": paused })))
    } else if paused {
        say!("subscription {name} is paused: deliveries under way end, and none follow")
    } else {
        say!("subscription {name} goes on")
    }
}

fn known(store: &Store, name: &SubscriptionName, amended: Option<Registered>) -> Result<Registered> {
    Ok(amended.ok_or_else(|| bus::unknown(store, name))?)
}
