//! The places of a bus: the JetStream domains that it spans, and which of them an instance is at.
//!
//! Each place has partitions of its own, whose numbers are fixed by the place's number in the policy. So a position means one
//! event at every place, and a place that is added changes no number of another's.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::partition::{Partition, Slot};
use crate::setting::{self, Reader};
use crate::step::listed;
use crate::subscription::Need;
use crate::{Code, JetStreamApi, PlaceName, Problem, SubscriptionName, TenantId};

/// The partition numbers of each place: those of place 3 are 300000 to 399999, so that a position shows its place.
pub const PARTITIONS: u32 = 100_000;

/// The greatest number of a place.
const MAX_NUMBER: u32 = 999;

/// What a message lists as known.
const KNOWN: &[&str] = &[
    "places.NAME.number",
    "places.NAME.jetstream.domain",
    "places.NAME.leaf-of",
    "places.NAME.keeps",
    "places.NAME.retired",
    "places.NAME.retention.replicas",
];

/// Settings of a place that are named as those of the whole bus are: by a table, and what is in it.
const TABLES: &[&str] = &["jetstream", "retention"];

/// A JetStream domain that a bus spans.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its number among the places: which partition numbers are its own.
    pub number: u32,
    /// Its JetStream domain.
    pub domain: String,
    /// The place whose leaf node it is, over which it reaches every other.
    pub leaf_of: Option<PlaceName>,
    /// The tenants whose events it keeps of the other places' events, sorted; empty for all.
    pub keeps: Vec<TenantId>,
    /// Nothing new is taken there: what it holds is mirrored to the end, and its subscriptions are handed over.
    pub retired: bool,
    /// Copies of what is kept there, 1 to 5, where they are not as many as `retention.replicas` says for all.
    pub replicas: Option<u8>,
}

impl Place {
    /// The numbers of its partitions.
    pub fn partitions(&self) -> Range<u32> {
        self.number * PARTITIONS..(self.number + 1) * PARTITIONS
    }

    /// How requests to its JetStream are addressed, from wherever a link leads there.
    pub fn api(&self) -> JetStreamApi {
        JetStreamApi::Domain(self.domain.clone())
    }

    /// Whether it keeps any event of another place's partition.
    pub fn keeps_any_of(&self, slot: &Slot) -> bool {
        self.keeps.is_empty() || self.keeps.iter().any(|tenant| slot.holds(tenant))
    }

    /// The subjects that it keeps of another place's partition; empty for all.
    pub(crate) fn subjects_of(&self, partition: &Partition) -> Vec<String> {
        let kept = self.keeps.iter().filter(|tenant| partition.slot.holds(tenant));
        kept.map(|tenant| partition.template.filter(Some(tenant), &crate::TypePattern::any()))
            .collect()
    }
}

/// The places of a bus, and which one an instance is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// The place that this instance is at: one of `all`.
    pub here: PlaceName,
    /// Every place.
    pub all: BTreeMap<PlaceName, Place>,
}

impl Places {
    /// The place that this instance is at.
    pub fn own(&self) -> Option<&Place> {
        self.all.get(&self.here)
    }

    /// Why nothing new is taken at this place: it is retired.
    pub fn retired_here(&self) -> Option<Problem> {
        self.own().filter(|own| own.retired)?;
        let open = self.others().filter(|(_, place)| !place.retired);
        let open: Vec<_> = open.map(|(name, _)| name.to_string()).collect();
        let go = match open.as_slice() {
            [] => "no other place takes events, either: let one of them be `retired = false`".to_owned(),
            open => format!("publish and subscribe at another place: {}", listed(open)),
        };
        Some(Problem::new(
            Code::PlaceRetired,
            format!("place {} is retired, and takes nothing new: {go}", self.here),
        ))
    }

    /// Every other place.
    pub fn others(&self) -> impl Iterator<Item = (&PlaceName, &Place)> {
        self.all.iter().filter(|(name, _)| **name != self.here)
    }

    /// The other place whose number a partition has.
    pub fn other_of(&self, partition: u32) -> Option<&PlaceName> {
        let mut others = self.others();
        others
            .find(|(_, place)| place.partitions().contains(&partition))
            .map(|(name, _)| name)
    }

    /// Reads `place` and every `places.NAME.…`; `None` where there are none, or they are not legal.
    pub(crate) fn read(r: &mut Reader<'_>) -> Option<Self> {
        let here: Option<PlaceName> = r.optional("place", setting::parsed);
        let mut all: BTreeMap<PlaceName, BTreeMap<String, String>> = BTreeMap::new();
        for (name, settings) in r.under("places.", KNOWN) {
            // What follows the last dot is the setting, and some settings have a dot.
            let (name, table) = match TABLES
                .iter()
                .find_map(|t| Some((name.strip_suffix(t)?.strip_suffix('.')?, t)))
            {
                Some((name, table)) => (name.to_owned(), format!("{table}.")),
                None => (name, String::new()),
            };
            match name.parse::<PlaceName>() {
                Ok(parsed) => {
                    let renamed = settings
                        .into_iter()
                        .map(|(key, value)| (format!("{table}{key}"), value));
                    all.entry(parsed).or_default().extend(renamed);
                }
                Err(p) => r.refuse_under(&format!("places.{name}"), &p),
            }
        }
        let all: BTreeMap<_, _> = all
            .into_iter()
            .filter_map(|(name, settings)| {
                let owner = format!("places.{name}");
                let mut one = Reader::new(&owner, &settings);
                let place = place(&mut one, &name);
                for p in one.finish() {
                    let key = p.setting.as_ref().map(|s| format!("{owner}.{s}"));
                    r.adopt(Problem { setting: key, ..p });
                }
                Some((name, place?))
            })
            .collect();
        agree(r, &all);
        let names = || all.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match here {
            Some(here) if all.contains_key(&here) => Some(Self { here, all }),
            Some(here) if all.is_empty() => {
                let message = format!(
                    "`place` is {here}, and the policy has no places: add `[places.{here}]`, or leave `place` out"
                );
                r.refuse_setting("place", Code::UnknownPlace, message);
                None
            }
            Some(here) => {
                let message = format!(
                    "`place` is {here}, which is none of the policy's places ({}): name one of these, or add `[places.{here}]`",
                    names()
                );
                r.refuse_setting("place", Code::UnknownPlace, message);
                None
            }
            None if all.is_empty() => None,
            None => {
                r.refuse(
                    Code::MissingSetting,
                    format!("setting `place` is missing, and the policy has places: say which of {} this instance is at, with `place` in its config or `--place`", names()),
                );
                None
            }
        }
    }
}

fn place(r: &mut Reader<'_>, name: &PlaceName) -> Option<Place> {
    let hint = "give each place its own, from 0 on: its partitions are numbered by it, so it can't change";
    let number = r.required("number", hint, setting::number(0, MAX_NUMBER.into()));
    let domain = r.or("jetstream.domain", name.to_string(), |s| {
        JetStreamApi::domain(s).map(|_| s.to_owned())
    });
    let leaf_of = r.optional("leaf-of", setting::parsed);
    let mut keeps = r.or("keeps", Vec::new(), crate::link::tenants);
    keeps.sort();
    keeps.dedup();
    let retired = r.or("retired", false, setting::word(&[("true", true), ("false", false)]));
    let replicas = r.optional("retention.replicas", setting::number(1, 5));
    Some(Place {
        number: u32::try_from(number?).ok()?,
        domain,
        leaf_of,
        keeps,
        retired,
        replicas: replicas.map(|n| n as u8),
    })
}

/// Refuses places that contradict each other.
fn agree(r: &mut Reader<'_>, all: &BTreeMap<PlaceName, Place>) {
    let (mut numbers, mut domains) = (BTreeMap::new(), BTreeMap::new());
    for (name, place) in all {
        if let Some(other) = numbers.insert(place.number, name) {
            r.conflict(format!(
                "places {other} and {name} both have `number` = {}: a position would mean two events; give each its own",
                place.number
            ));
        }
        if let Some(other) = domains.insert(&place.domain, name) {
            r.conflict(format!(
                "places {other} and {name} are both in JetStream domain {}: each place is a domain of its own",
                place.domain
            ));
        }
        if let Some(hub) = place.leaf_of.as_ref().filter(|hub| !all.contains_key(*hub)) {
            r.refuse_setting(
                &format!("places.{name}.leaf-of"),
                Code::UnknownPlace,
                format!("setting `places.{name}.leaf-of`: {hub} is none of the policy's places"),
            );
        }
        let mut seen = BTreeSet::from([name]);
        let mut hub = place.leaf_of.as_ref();
        while let Some(next) = hub.and_then(|hub| all.get_key_value(hub)) {
            if !seen.insert(next.0) {
                r.conflict(format!(
                    "place {name} is a leaf of itself, by `leaf-of`: one place of a circle is none's leaf"
                ));
                break;
            }
            hub = next.1.leaf_of.as_ref();
        }
    }
}

/// Whose events a subscription is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Those of every place.
    #[default]
    Everywhere,
    /// Those that were published at its own place.
    Here,
}

impl Scope {
    /// Whether it is the default.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
    pub(crate) fn is_everywhere(&self) -> bool {
        *self == Self::Everywhere
    }

    pub(crate) fn read(s: &str) -> Result<Self, Problem> {
        setting::word(&[("everywhere", Self::Everywhere), ("here", Self::Here)])(s)
    }
}

/// Where a subscription is asked to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// The one place that delivers it; without it, each that is asked to.
    pub at: Option<PlaceName>,
    /// Whose events it is given.
    pub scope: Scope,
}

impl Whereabouts {
    pub(crate) fn read(r: &mut Reader<'_>) -> Self {
        Self {
            at: r.optional("at", setting::parsed),
            scope: r.or("scope", Scope::default(), Scope::read),
        }
    }

    /// Whether this instance's place delivers a subscription.
    ///
    /// # Errors
    /// For a place that the policy does not have, and settings that contradict each other.
    pub(crate) fn is_here(
        &self,
        name: &SubscriptionName,
        need: &Need,
        places: Option<&Places>,
    ) -> Result<bool, Problem> {
        let conflict = |why: &str| {
            Err(Problem::new(
                Code::ConflictingSettings,
                format!("subscription {name}: {why}"),
            ))
        };
        let Some(places) = places else {
            if self.at.is_none() && self.scope == Scope::Everywhere {
                return Ok(true);
            }
            return conflict(
                "`at` and `scope` speak of places, and the policy has none: leave them out, or add `[places.NAME]`",
            );
        };
        let Some(at) = &self.at else { return Ok(true) };
        if !places.all.contains_key(at) {
            let known: Vec<_> = places.all.keys().map(ToString::to_string).collect();
            return Err(Problem::new(
                Code::UnknownPlace,
                format!(
                    "subscription {name}: `at` is {at}, which is none of the policy's places: {}",
                    known.join(", ")
                ),
            ));
        }
        if *need == Need::Queue {
            return conflict(
                "a queue subscription is given what is published at its place, wherever it is linked: leave `at` out",
            );
        }
        if self.scope == Scope::Here {
            return conflict("with `scope` = `here` each place delivers its own events: leave `at` out");
        }
        Ok(*at == places.here)
    }

    /// Whether a subscription that is asked for here can be here.
    ///
    /// # Errors
    /// The same, and for one that is to be at another place.
    pub fn check(&self, name: &SubscriptionName, need: &Need, places: Option<&Places>) -> Result<(), Problem> {
        match (self.is_here(name, need, places)?, &self.at, places) {
            (false, Some(at), Some(places)) => Err(elsewhere(name, at, &places.here)),
            _ => Ok(()),
        }
    }

    /// The same of one that the policy declares, and so declares at every place.
    pub(crate) fn is_declared_here(
        &self,
        name: &SubscriptionName,
        need: &Need,
        places: Option<&Places>,
    ) -> Result<bool, Problem> {
        if places.is_some() && *need != Need::Queue && *self == Self::default() {
            return Err(Problem::new(
                Code::MissingSetting,
                format!(
                    "subscription {name}: the policy declares it at every place, and each would deliver every event: name one place in `subscriptions.{name}.at`, or let each deliver its own with `subscriptions.{name}.scope` = `here`"
                ),
            ));
        }
        self.is_here(name, need, places)
    }
}

/// Why a link's subscription is not delivered by an instance of this place.
pub(crate) fn elsewhere(name: &SubscriptionName, at: &PlaceName, here: &PlaceName) -> Problem {
    Problem::new(
        Code::AtAnotherPlace,
        format!(
            "subscription {name} is at place {at} (`at`), and this is place {here}: its events are delivered there"
        ),
    )
}
