//! Which changes would drop events that are stored now, and whether the operator has said that they may.

use std::str::FromStr;

use crate::name::shown;
use crate::planner::{LogState, Observed};
use crate::setting::show_duration;
use crate::step::listed;
use crate::topology::{StreamSpec, Topology};
use crate::{Code, PlaceName, Policy, Problem, SubscriptionName, Timestamp};

/// For how long the log keeps events.
const MAX_AGE: &str = "retention.max-age";

/// Settings whose change may drop stored events.
const SETTINGS: [&str; 4] = [
    MAX_AGE,
    "retention.max-bytes",
    "dead-letters.max-age",
    "dead-letters.max-bytes",
];

/// What an operator says may be changed although stored events go with it: one of four settings, a subscription or a place, as a
/// policy names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LossAllowed(String);

impl LossAllowed {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for LossAllowed {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let named = match text.split_once('.') {
            Some(("subscriptions", name)) => name.parse::<SubscriptionName>().is_ok(),
            Some(("places", name)) => name.parse::<PlaceName>().is_ok(),
            _ => SETTINGS.contains(&text),
        };
        if named {
            return Ok(Self(text.to_owned()));
        }
        Err(Problem::new(
            Code::InvalidSetting,
            format!(
                "{} is nothing whose change may lose events: name {}, subscriptions.NAME or places.NAME",
                shown(text),
                SETTINGS.join(", ")
            ),
        ))
    }
}

/// A change of a stream in place that would drop what it holds.
pub(crate) struct Loss {
    stream: String,
    setting: &'static str,
    pub(crate) problem: Problem,
}

/// Every such change, unless `change.allow-loss` names its setting.
pub(crate) fn check(policy: &Policy, observed: &Observed, desired: &Topology, now: Timestamp) -> Vec<Loss> {
    let mut found = Vec::new();
    // What is not an event goes by itself.
    for (name, want) in desired.streams.iter().filter(|(_, s)| s.side.is_none()) {
        let Some(have) = observed.topology.streams.get(name) else {
            continue;
        };
        let is_log = want.partition.is_some();
        let state = match &want.partition {
            Some(p) => observed.logs.get(&p.number).copied().unwrap_or_default(),
            None => observed.dead_letters,
        };
        let settings = if is_log {
            (MAX_AGE, "retention.max-bytes")
        } else {
            ("dead-letters.max-age", "dead-letters.max-bytes")
        };
        for (setting, what) in losses(have, want, &state, now, settings) {
            if !policy.allows_loss(setting) {
                let problem = Problem::new(
                    Code::WouldLoseEvents,
                    format!(
                        "{what} on {name} would drop events that it holds: keep `{setting}`, or wait until they have expired; if they may go, name `{setting}` in `change.allow-loss`, or once in `fanout apply --accept-loss {setting}`"
                    ),
                );
                found.push(Loss {
                    stream: name.clone(),
                    setting,
                    problem,
                });
            }
        }
    }
    found
}

/// Whether nothing is lost with a place that the policy does not have any more, or what is lost may go: then the mirror of a
/// partition of it need not be there for it.
pub(crate) fn may_go_without(policy: &Policy, partition: u32, place: &PlaceName, observed: &Observed) -> bool {
    let is_let_go = observed
        .topology
        .streams
        .values()
        .any(|s| s.let_go && s.partition.as_ref().is_some_and(|p| p.number == partition));
    let has_nothing = || matches!(observed.left_out.get(place), Some(Ok(left)) if left.is_empty());
    is_let_go || has_nothing() || allows_loss_of(policy, place)
}

fn allows_loss_of(policy: &Policy, place: &PlaceName) -> bool {
    policy.allows_loss(&format!("places.{place}"))
}

/// Places that the policy does not have any more although something is lost with them, unless `change.allow-loss` names the place.
pub(crate) fn of_places(policy: &Policy, observed: &Observed) -> Vec<Problem> {
    let left_out = observed.left_out.iter();
    left_out
        .filter(|(name, _)| !allows_loss_of(policy, name))
        .filter_map(|(name, found)| {
            let why = match found {
                Err(problem) => format!("what it holds can't be read ({})", problem.message),
                Ok(left) if left.is_empty() => return None,
                Ok(left) => {
                    let names: Vec<_> = left.subscriptions.iter().map(ToString::to_string).collect();
                    let subscriptions =
                        (!names.is_empty()).then(|| format!("subscriptions are at it ({})", listed(&names)));
                    let events = left.not_mirrored.sum();
                    let events = (events > 0).then(|| format!("{events} of its events are not mirrored here"));
                    let nowhere = left.kept_nowhere;
                    let nowhere = (nowhere > 0).then(|| format!("{nowhere} of its events are kept by no other place"));
                    let all: Vec<_> = subscriptions.into_iter().chain(events).chain(nowhere).collect();
                    all.join(", and ")
                }
            };
            Some(Problem::new(
                Code::WouldLoseEvents,
                format!(
                    "place {name} is not in the policy any more, and {why}: put it back with `places.{name}.retired` = `true` until `fanout status` says that it may be taken out; if all of that may go, name `places.{name}` in `change.allow-loss`, or once in `fanout apply --accept-loss places.{name}`"
                ),
            ))
        })
        .collect()
}

/// Leaves the settings that would lose events as they are in the store; everything else is as the policy says.
pub(crate) fn keep(losses: &[Loss], desired: &mut Topology, observed: &Topology, policy: &Policy) {
    for loss in losses {
        let (Some(want), Some(have)) = (
            desired.streams.get_mut(&loss.stream),
            observed.streams.get(&loss.stream),
        ) else {
            continue;
        };
        if loss.setting.ends_with("max-age") {
            want.max_age = have.max_age;
        } else {
            want.max_bytes = have.max_bytes;
        }
        // What is remembered of events is kept as long as they are.
        if loss.setting == MAX_AGE
            && let Some(attempts) = desired.buckets.get_mut(&policy.names().attempts())
        {
            attempts.max_age = attempts.max_age.max(have.max_age);
        }
    }
}

fn losses(
    have: &StreamSpec,
    want: &StreamSpec,
    state: &LogState,
    now: Timestamp,
    (age_setting, size_setting): (&'static str, &'static str),
) -> Vec<(&'static str, String)> {
    let mut losses = Vec::new();
    if want.max_age < have.max_age && state.messages > 0 && state.oldest_at < now - want.max_age {
        losses.push((
            age_setting,
            format!(
                "shortening the age from {} to {}",
                show_duration(have.max_age),
                show_duration(want.max_age)
            ),
        ));
    }
    let limit = |b: u64| if b == 0 { u64::MAX } else { b };
    if limit(want.max_bytes) < limit(have.max_bytes) && state.bytes > limit(want.max_bytes) {
        let from = match have.max_bytes {
            0 => "no bound".to_owned(),
            n => n.to_string(),
        };
        losses.push((
            size_setting,
            format!("lowering the bytes from {from} to {}", want.max_bytes),
        ));
    }
    losses
}
