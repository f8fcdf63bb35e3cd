//! Subscriptions that no event can be for: what they ask for, the bus does not serve, or the policy does not let their
//! subscriber have. Deliberately absent: what a link grants, of which its manifest knows.

use crate::authority;
use crate::pattern_set::PatternSet;
use crate::{Code, Filter, Policy, Problem, SubscriptionName, TenantId, TypePattern};

/// The most comparisons of types that are made; of longer lists it is taken that they meet.
const MAX_COMPARED: usize = 1 << 16;

/// Names that a message lists.
const SHOWN: usize = 5;

/// Whether an event can be for a subscription, for whoever wrote the policy.
///
/// # Errors
/// Names the setting that keeps all of them away, and what it says.
pub fn check(policy: &Policy, name: &SubscriptionName, filter: &Filter, subscriber: &str) -> Result<(), Problem> {
    check_for(policy, name, filter, subscriber, true)
}

/// The same for whoever calls the bus: of its other tenants nothing is said.
///
/// # Errors
/// Names the setting that keeps all of them away; what it says only where it is the caller's own.
pub fn check_call(policy: &Policy, name: &SubscriptionName, filter: &Filter, subscriber: &str) -> Result<(), Problem> {
    check_for(policy, name, filter, subscriber, false)
}

fn check_for(
    policy: &Policy,
    name: &SubscriptionName,
    filter: &Filter,
    subscriber: &str,
    shows_tenants: bool,
) -> Result<(), Problem> {
    let served = Filter::new(policy.tenants.clone(), Vec::new());
    if let Some(apart) = Apart::of(filter, &served) {
        let shown = if shows_tenants { served } else { Filter::all() };
        return Err(apart.problem(name, "that the bus serves", "`tenants.allowed`", &shown));
    }
    if let Some(caller) = policy.callers.by_id(subscriber)
        && let Some(apart) = Apart::of(filter, &caller.subscribing.allows)
    {
        let may_have = format!("that {} may have", authority::named(subscriber));
        let setting = authority::setting(subscriber, apart.what.setting());
        return Err(apart.problem(name, &may_have, &setting, &caller.subscribing.allows));
    }
    Ok(())
}

/// In what two filters have nothing in common.
struct Apart {
    what: What,
    /// Whether it is the event pattern that says so.
    by_pattern: bool,
}

#[derive(Clone, Copy)]
enum What {
    Tenant,
    Type,
}

impl What {
    /// The setting of a caller.
    fn setting(self) -> &'static str {
        match self {
            Self::Tenant => "subscribe.tenants",
            Self::Type => "subscribe.event-types",
        }
    }
}

impl Apart {
    fn of(filter: &Filter, allows: &Filter) -> Option<Self> {
        let reach = filter.pattern().map(|pattern| pattern.reach());
        let tenants = tenants_of_both(&filter.tenants, &allows.tenants);
        let apart = |what, by_pattern| Some(Self { what, by_pattern });
        let Some(tenants) = tenants else {
            return apart(What::Tenant, false);
        };
        if reach.is_some_and(|reach| !reach.meets_tenants(&tenants)) {
            return apart(What::Tenant, true);
        }
        let mine: PatternSet<'_> = filter.event_types.iter().collect();
        if !mine.meets(&allows.event_types.iter().collect()) {
            return apart(What::Type, false);
        }
        let types = types_of_both(&filter.event_types, &allows.event_types);
        if reach
            .zip(types)
            .is_some_and(|(reach, types)| !reach.meets_types(&types))
        {
            return apart(What::Type, true);
        }
        None
    }

    fn problem(&self, name: &SubscriptionName, allowed: &str, setting: &str, allows: &Filter) -> Problem {
        let (what, names): (_, Vec<_>) = match self.what {
            What::Tenant => ("tenant", allows.tenants.iter().map(ToString::to_string).collect()),
            What::Type => (
                "event type",
                allows.event_types.iter().map(ToString::to_string).collect(),
            ),
        };
        let shown = names
            .iter()
            .take(SHOWN)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", ");
        let more = match names.len().saturating_sub(SHOWN) {
            0 if names.is_empty() => "others".to_owned(),
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let (code, whose) = match (self.by_pattern, self.what) {
            (true, _) => (Code::PatternMatchesNothing, "its event pattern takes"),
            (false, What::Tenant) => (Code::TenantNotPermitted, "it asks for"),
            (false, What::Type) => (Code::EventTypeNotPermitted, "it asks for"),
        };
        Problem::new(
            code,
            format!(
                "subscription {name} can be given no event: {whose} no {what} {allowed}, and {setting} names {shown}{more}: change one of them"
            ),
        )
    }
}

/// The tenants of both lists, of which an empty one stands for all; `None` where there are none.
fn tenants_of_both(mine: &[TenantId], theirs: &[TenantId]) -> Option<Vec<TenantId>> {
    if mine.is_empty() || theirs.is_empty() {
        return Some([mine, theirs].concat());
    }
    let both: Vec<_> = mine
        .iter()
        .filter(|t| theirs.binary_search(t).is_ok())
        .cloned()
        .collect();
    (!both.is_empty()).then_some(both)
}

/// What both lists match; `None` where that is too much to reckon.
fn types_of_both(mine: &[TypePattern], theirs: &[TypePattern]) -> Option<Vec<TypePattern>> {
    if mine.len().saturating_mul(theirs.len()) > MAX_COMPARED {
        return None;
    }
    let both = mine
        .iter()
        .flat_map(|p| theirs.iter().filter_map(|q| p.intersection(q)));
    Some(both.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Document;
    use crate::planner::{self, Asked, Observed};
    use crate::{Settings, Timestamp};

    const POLICY: &str = r#"
bus = "payments"
subject = "payments.{tenant}.webhook.{event-type}"
tenants.allowed = ["acme", "globex"]

[callers.billing]
unix-uid = 1000
subscribe = { tenants = ["acme"], event-types = ["invoice.*", "charge.failed"] }

[subscriptions.asked]
need = "durable"
"#;

    fn refusal(settings: &str) -> Option<Problem> {
        let settings: Settings = Document::parse(&format!("{POLICY}{settings}\n")).unwrap().settings;
        let policy = Policy::from_settings("policy.toml", &settings).unwrap();
        let plan = planner::plan(
            &policy,
            Asked::default(),
            &Observed::default(),
            Timestamp::from_nanoseconds(1),
        )
        .unwrap();
        assert_eq!(plan.refused.is_empty(), plan.registry.len() == 1, "{settings:?}");
        plan.refused.into_values().next()
    }

    #[test]
    fn a_caller_is_not_told_whom_else_the_bus_serves() {
        let settings: Settings = Document::parse(POLICY).unwrap().settings;
        let policy = Policy::from_settings("policy.toml", &settings).unwrap();
        let filter = Filter::new(vec!["initech".parse().unwrap()], Vec::new());
        let name = "asked".parse().unwrap();
        let to_the_operator = check(&policy, &name, &filter, "caller:billing").unwrap_err().message;
        assert!(to_the_operator.contains("acme"), "{to_the_operator}");
        let to_a_caller = check_call(&policy, &name, &filter, "caller:billing")
            .unwrap_err()
            .message;
        assert!(to_a_caller.contains("`tenants.allowed` names others"), "{to_a_caller}");
        for tenant in ["acme", "globex"] {
            assert!(!to_a_caller.contains(tenant), "{to_a_caller}");
        }
    }

    #[test]
    fn a_subscription_that_no_event_can_be_for_is_refused() {
        let billing = "component = \"caller:billing\"";
        for (settings, code, says) in [
            (
                r#"pattern = '{ "tenant": ["initech"] }'"#.to_owned(),
                Code::PatternMatchesNothing,
                "`tenants.allowed` names acme, globex",
            ),
            (
                r#"pattern = '{ "tenant": [{ "suffix": "ex-2" }] }'"#.to_owned(),
                Code::PatternMatchesNothing,
                "no tenant that the bus serves",
            ),
            (
                "tenants = [\"initech\", \"hooli\"]".to_owned(),
                Code::TenantNotPermitted,
                "no tenant that the bus serves",
            ),
            (
                format!("{billing}\npattern = '{{ \"tenant\": [\"globex\"] }}'"),
                Code::PatternMatchesNothing,
                "`callers.billing.subscribe.tenants` names acme",
            ),
            (
                format!("{billing}\npattern = '{{ \"type\": [{{ \"prefix\": \"refund.\" }}] }}'"),
                Code::PatternMatchesNothing,
                "`callers.billing.subscribe.event-types` names charge.failed, invoice.*",
            ),
            (
                format!(
                    "{billing}\nevent-types = [\"*.failed\"]\npattern = '{{ \"type\": [{{ \"suffix\": \".f\" }}, \"x.failed\"] }}'"
                ),
                Code::PatternMatchesNothing,
                "no event type that caller billing may have",
            ),
            (
                format!("{billing}\nevent-types = [\"refund.*\"]"),
                Code::EventTypeNotPermitted,
                "it asks for no event type that caller billing may have",
            ),
        ] {
            let refused = refusal(&settings).unwrap_or_else(|| panic!("{settings} is taken"));
            assert_eq!(refused.code, code, "{settings}");
            assert!(
                refused.message.contains(says) && refused.message.contains("subscription asked"),
                "{settings}: {refused}"
            );
        }
    }

    #[test]
    fn one_that_some_event_can_be_for_is_not() {
        let billing = "component = \"caller:billing\"";
        for settings in [
            "",
            r#"pattern = '{ "tenant": ["initech", "globex"] }'"#,
            r#"pattern = '{ "tenant": [{ "prefix": "glo" }] }'"#,
            "tenants = [\"initech\", \"acme\"]",
            &format!("{billing}\npattern = '{{ \"type\": [{{ \"suffix\": \".paid\" }}] }}'"),
            &format!("{billing}\nevent-types = [\"*.failed\"]\npattern = '{{ \"type\": [{{ \"suffix\": \"ed\" }}] }}'"),
            &format!(
                "{billing}\npattern = '{{ \"$or\": [{{ \"tenant\": [\"globex\"] }}, {{ \"type\": [\"invoice.paid\"] }}] }}'"
            ),
            // Of an unknown caller nothing is known.
            "component = \"caller:nobody\"\npattern = '{ \"type\": [\"refund.paid\"] }'",
        ] {
            assert_eq!(refusal(settings), None, "{settings}");
        }
    }

    /// What is there already goes on being given what is stored: a bus that serves its tenant no more is no reason to end it.
    #[test]
    fn one_that_is_there_stays_and_is_warned_of() {
        let read = |text: &str| {
            let settings: Settings = Document::parse(text).unwrap().settings;
            Policy::from_settings("policy.toml", &settings).unwrap()
        };
        let of_globex = format!("{POLICY}tenants = [\"globex\"]\n");
        let before = read(&of_globex);
        let plan = planner::plan(
            &before,
            Asked::default(),
            &Observed::default(),
            Timestamp::from_nanoseconds(1),
        )
        .unwrap();
        let observed = Observed {
            registry: plan.registry.clone(),
            topology: planner::desired(&before, &Observed::default()).unwrap(),
            ..Observed::default()
        };
        let after = read(&of_globex.replace("[\"acme\", \"globex\"]", "[\"acme\"]"));
        let plan = planner::plan(&after, Asked::default(), &observed, Timestamp::from_nanoseconds(2)).unwrap();
        assert!(plan.refused.is_empty(), "{:?}", plan.refused);
        let load = crate::explain::Load {
            events_per_second: 1,
            event_bytes: 1,
        };
        let notes = crate::check::check(&after, &observed.topology, &observed.registry, load);
        let warned = notes.iter().find(|note| note.about == "subscription asked").unwrap();
        assert_eq!(warned.severity, crate::check::Severity::Warning);
        assert!(warned.message.contains("`tenants.allowed` names acme"), "{warned:?}");
    }
}
