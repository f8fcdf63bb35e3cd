//! Places on a model of their stores.

use std::collections::BTreeMap;

use fanout_plan::partition::Partition;
use fanout_plan::place::Scope;
use fanout_plan::planner::{Asked, Observed, Plan, Wanted, plan};
use fanout_plan::step::Step;
use fanout_plan::subscription::{MadeBy, Need, Reach, Subscription};
use fanout_plan::topology::StreamSpec;
use fanout_plan::{Code, Filter, PlaceName, Policy, Problem, Settings, Timestamp};

pub(crate) const PLACES: [(&str, &str); 3] = [("frankfurt", "0"), ("virginia", "1"), ("shop-42", "42")];

/// A policy of the first so many places, as an instance at `place` reads it.
pub(crate) fn settings(places: usize, place: &str, more: &[(&str, &str)]) -> Settings {
    let mut settings: Settings = [
        ("bus", "payments"),
        ("subject", "payments.{tenant}.webhook.{event-type}"),
        ("place", place),
    ]
    .iter()
    .chain(more)
    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
    .collect();
    for (name, number) in &PLACES[..places] {
        settings.insert(format!("places.{name}.number"), (*number).to_owned());
    }
    settings
}

pub(crate) fn policy(places: usize, place: &str, more: &[(&str, &str)]) -> Policy {
    Policy::from_settings("policy", &settings(places, place, more)).unwrap()
}

pub(crate) fn refused(settings: &Settings) -> Vec<(Code, String)> {
    let problems = Policy::from_settings("policy", settings).unwrap_err();
    problems.into_iter().map(|p| (p.code, p.message)).collect()
}

/// The stores of all places, by name.
#[derive(Default)]
pub(crate) struct World(pub(crate) BTreeMap<&'static str, Observed>);

impl World {
    /// What a place observes, where the places of `cut` can't be reached.
    pub(crate) fn seen_from(&self, policy: &Policy, here: &str, cut: &[&str]) -> Observed {
        let mut seen = self.0.get(here).cloned().unwrap_or_default();
        for (name, _) in policy.places.as_ref().unwrap().others() {
            let own = |o: &Observed| -> Vec<Partition> { o.topology.layout().own().cloned().collect() };
            let found = match cut.contains(&name.as_str()) {
                true => Err(Problem::new(Code::PlaceUnreachable, "cut")),
                false => Ok(self.0.get(name.as_str()).map(own).unwrap_or_default()),
            };
            if found.is_ok() {
                let theirs = self.0.get(name.as_str()).map(|o| o.registry.clone());
                seen.registries.insert(name.clone(), theirs.unwrap_or_default());
            }
            seen.elsewhere.insert(name.clone(), found);
        }
        seen
    }

    /// Brings a place to a policy, and returns the plan.
    pub(crate) fn bring(
        &mut self,
        policy: &Policy,
        here: &'static str,
        cut: &[&str],
        wanted: &[Wanted],
        now: i64,
    ) -> Plan {
        let seen = self.seen_from(policy, here, cut);
        let asked = Asked {
            wanted,
            ..Asked::default()
        };
        let plan = plan(policy, asked, &seen, Timestamp::from_nanoseconds(now)).unwrap();
        let store = self.0.entry(here).or_default();
        for step in &plan.steps {
            apply(store, step);
        }
        plan
    }

    pub(crate) fn streams(&self) -> impl Iterator<Item = (&str, &StreamSpec)> {
        self.0
            .iter()
            .flat_map(|(place, store)| store.topology.streams.values().map(move |s| (*place, s)))
    }
}

pub(crate) fn apply(store: &mut Observed, step: &Step) {
    let topology = &mut store.topology;
    match step.clone() {
        Step::CreateStream(s) | Step::UpdateStream(s) | Step::RetireStream(s) | Step::BindStream(s) => {
            if let Some(p) = &s.partition {
                store.logs.entry(p.number).or_default();
            }
            if let Some(have) = topology.streams.get(&s.name) {
                assert_eq!(
                    have.mirror, s.mirror,
                    "the server does not change what {} mirrors",
                    s.name
                );
            }
            topology.streams.insert(s.name.clone(), s);
        }
        Step::DeleteStream(name) => {
            let gone = topology.streams.remove(&name).unwrap().partition.unwrap().number;
            assert_eq!(
                store.logs.remove(&gone).unwrap().messages,
                0,
                "only an empty stream goes"
            );
            topology.consumers.retain(|(number, _), _| *number != gone);
        }
        Step::CreateBucket(b) | Step::UpdateBucket(b) => drop(topology.buckets.insert(b.name.clone(), b)),
        Step::Remember(r) => drop(store.registry.insert(r.subscription.name.clone(), *r)),
        Step::Forget(name) => drop(store.registry.remove(&name)),
        Step::CreateConsumer(c) | Step::UpdateConsumer(c) => {
            drop(topology.consumers.insert((c.partition, c.name.clone()), c));
        }
        Step::DeleteConsumer { partition, name } => drop(topology.consumers.remove(&(partition, name))),
    }
}

pub(crate) fn want(name: &str, need: Need, scope: Scope) -> Wanted {
    Wanted {
        subscription: Subscription {
            name: name.parse().unwrap(),
            need,
            filter: Filter::new(vec![], vec!["invoice.*".parse().unwrap()]),
            reach: Reach::Handler,
            batch_size: 1,
            concurrency: 4,
            tell_caught_up: false,
            scope,
        },
        component: name.into(),
        link: "default".into(),
        made_by: MadeBy::Link,
    }
}

pub(crate) fn of_the_log(plan: &Plan) -> String {
    let steps = plan.steps.iter().map(ToString::to_string);
    let log = steps.filter(|s| s.contains("_log") || s.contains("consumer"));
    let problems = plan.places.values().map(|p| format!("not mirrored: {p}"));
    log.chain(problems).map(|line| line + "\n").collect()
}

pub(crate) fn name(place: &str) -> PlaceName {
    place.parse().unwrap()
}

pub(crate) fn of_the_log_steps(plan: &Plan) -> Vec<String> {
    let steps = plan.steps.iter().map(ToString::to_string);
    steps.filter(|s| s.contains("_log")).collect()
}
