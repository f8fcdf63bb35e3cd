//! What one subscription, and one caller, may ask the bus to remember: counted before anything is compared, made or
//! remembered, so that nobody takes what others need.
//!
//! The server has bounds of its own (1,000 consumers of a stream, `max_payload`); those are shared by all, and met too
//! late.

use crate::policy::SHARE;
use crate::setting::{self, Reader};
use crate::subscription::{MadeBy, Registered, Subscription};
use crate::{Code, Filter, Problem, SubjectTemplate, SubscriptionName, TenantId, TypePattern, authority};

/// The bounds of a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Subscriptions that one caller has made by calls.
    pub subscriptions_per_caller: u32,
    /// Names that one caller uses or has used for such: each stays in the registry for good.
    pub names_per_caller: u32,
    /// Tenants that one subscription names.
    pub tenants_per_subscription: u32,
    /// Patterns of event types of one subscription.
    pub patterns_per_subscription: u32,
    /// Subject filters of one subscription: its patterns for each of its tenants.
    pub filters_per_subscription: u32,
    /// Bytes of these filters, and of what is remembered of the subscription.
    pub bytes_per_subscription: u64,
}

/// A tenth of what a stream takes by default (1,000 consumers), and lists that a person could still have written.
impl Default for Limits {
    fn default() -> Self {
        Self {
            subscriptions_per_caller: 100,
            names_per_caller: 1_000,
            tenants_per_subscription: 2_000,
            patterns_per_subscription: 200,
            filters_per_subscription: 2_000,
            bytes_per_subscription: 256 << 10,
        }
    }
}

/// What else than its lists a subscription takes, in the registry and in the request that makes its consumer; counted
/// generously.
const REST: u64 = 4 << 10;
/// Between two items of a list: quotes and a comma.
const BETWEEN: u64 = 3;

impl Limits {
    /// Reads every `limits.…`.
    pub(crate) fn read(r: &mut Reader<'_>) -> Self {
        let usual = Self::default();
        let mut count = |key, usual: u32, most: u64| {
            u32::try_from(r.or(key, u64::from(usual), setting::number(1, most))).unwrap_or(usual)
        };
        let subscriptions_per_caller = count(
            "limits.subscriptions-per-caller",
            usual.subscriptions_per_caller,
            1_000_000,
        );
        Self {
            subscriptions_per_caller,
            // Whoever may have more subscriptions may use more names.
            names_per_caller: count(
                "limits.names-per-caller",
                usual.names_per_caller.max(subscriptions_per_caller.saturating_mul(10)),
                10_000_000,
            ),
            tenants_per_subscription: count(
                "limits.tenants-per-subscription",
                usual.tenants_per_subscription,
                100_000,
            ),
            patterns_per_subscription: count(
                "limits.patterns-per-subscription",
                usual.patterns_per_subscription,
                100_000,
            ),
            filters_per_subscription: count(
                "limits.filters-per-subscription",
                usual.filters_per_subscription,
                1_000_000,
            ),
            bytes_per_subscription: r.or(
                "limits.bytes-per-subscription",
                usual.bytes_per_subscription,
                setting::bytes(8 << 10, 32 << 20),
            ),
        }
    }

    /// Whether so long lists may be looked at at all.
    ///
    /// # Errors
    /// Names the list and its setting.
    pub fn lists(&self, name: &str, tenants: usize, patterns: usize) -> Result<(), Problem> {
        let bounds = [
            (
                tenants,
                self.tenants_per_subscription,
                "tenants",
                "limits.tenants-per-subscription",
            ),
            (
                patterns,
                self.patterns_per_subscription,
                "patterns of event types",
                "limits.patterns-per-subscription",
            ),
        ];
        for (asked, most, what, setting) in bounds {
            if asked as u64 > most.into() {
                let name = crate::name::shown(name);
                return Err(over(format!(
                    "subscription {name} names {asked} {what}, and may name {most}: use a wider filter or several subscriptions, or let an operator raise `{setting}`"
                )));
            }
        }
        Ok(())
    }

    /// Whether a subscription may have its filter. `template` is where its events are; `max_payload` what the server takes
    /// in one request, if that is known.
    ///
    /// # Errors
    /// Names the bound and its setting.
    pub fn filter(
        &self,
        name: &SubscriptionName,
        filter: &Filter,
        template: &SubjectTemplate,
        max_payload: Option<u64>,
    ) -> Result<(), Problem> {
        self.lists(name.as_str(), filter.tenants.len(), filter.event_types.len())?;
        let passing = filter.narrowed();
        let size = Size::of(filter, template);
        if size.filters > self.filters_per_subscription.into() {
            return Err(over(format!(
                "subscription {name} needs {} subject filters, {} patterns for each of {} tenants, and may have {}: use a wider filter or several subscriptions, or let an operator raise `limits.filters-per-subscription`",
                size.filters,
                passing.event_types.len(),
                passing.tenants.len(),
                self.filters_per_subscription
            )));
        }
        if size.bytes > self.bytes_per_subscription {
            return Err(over(format!(
                "subscription {name} takes {} bytes of filters, and may take {}: use a wider filter or several subscriptions, or let an operator raise `limits.bytes-per-subscription`",
                size.bytes, self.bytes_per_subscription
            )));
        }
        if let Some(most) = max_payload.filter(|most| size.bytes > *most) {
            return Err(over(format!(
                "subscription {name} takes {} bytes of filters, and the server takes {most} in one request: use a wider filter or several subscriptions, or raise the server's `max_payload`",
                size.bytes
            )));
        }
        Ok(())
    }

    /// Whether a caller may make one more by a call.
    ///
    /// # Errors
    /// When it has as many as it may.
    pub fn one_more<'a>(
        &self,
        asked: &Subscription,
        component: &str,
        registry: impl Iterator<Item = &'a Registered>,
    ) -> Result<(), Problem> {
        let has = registry
            .filter(|r| r.made_by == MadeBy::Call && r.component == component)
            .count();
        if (has as u64) < self.subscriptions_per_caller.into() {
            return Ok(());
        }
        Err(over(format!(
            "subscription {} is not made: {} has {has} subscriptions made by calls, and may have {}: end one, or let an operator raise `limits.subscriptions-per-caller`",
            asked.name,
            authority::describe(component, "to the bus"),
            self.subscriptions_per_caller
        )))
    }

    /// Whether a caller that has `used` so many names for its subscriptions may use a further one.
    ///
    /// # Errors
    /// When it has used as many as it may.
    pub(crate) fn one_more_name(&self, asked: &SubscriptionName, component: &str, used: u64) -> Result<(), Problem> {
        if used < self.names_per_caller.into() {
            return Ok(());
        }
        Err(over(format!(
            "subscription {asked} is not made: {} has used {used} names for its subscriptions, those that have ended included, and may use {}: use one of these names again, or let an operator raise `limits.names-per-caller`",
            authority::named(component),
            self.names_per_caller
        )))
    }
}

/// What callers may have of a store that is there for all, in bytes or in messages: each a quarter, and together all but the
/// last quarter, which is for what the policy and links declare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallersShare {
    /// What one caller may have.
    pub each: u64,
    /// How much the store may hold, of whomever, for callers to add to it.
    pub all: u64,
}

/// Which share more would be beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// That of the caller.
    Own,
    /// That of all callers.
    All,
}

impl CallersShare {
    /// Of a store that may hold so much; 0 for no bound.
    pub fn of(most: u64) -> Self {
        let most = if most == 0 { u64::MAX } else { most };
        Self {
            // Of few messages each caller may have one.
            each: (most / SHARE).max(1),
            all: (most - most / SHARE).max(1),
        }
    }

    /// Whether `more` of a caller that has `own` is beyond a share, in a store that holds `held` of all.
    pub fn is_beyond(self, own: u64, held: u64, more: u64) -> Option<Beyond> {
        if own.saturating_add(more) > self.each {
            return Some(Beyond::Own);
        }
        (held.saturating_add(more) > self.all).then_some(Beyond::All)
    }
}

/// How many items the lists of a filter have, and how many bytes these are.
struct Lists {
    tenants: u64,
    patterns: u64,
    of_tenants: u64,
    of_patterns: u64,
}

impl Lists {
    fn of(tenants: &[TenantId], event_types: &[TypePattern]) -> Self {
        Self {
            tenants: tenants.len().max(1) as u64,
            patterns: event_types.len() as u64,
            of_tenants: tenants.iter().map(|t| t.token().len() as u64).sum(),
            of_patterns: event_types.iter().map(|p| p.to_subject_tokens().len() as u64).sum(),
        }
    }
}

/// How much the store has to take for a filter.
struct Size {
    filters: u64,
    bytes: u64,
}

impl Size {
    /// Reckoned from the lists alone: their product is never made.
    fn of(filter: &Filter, template: &SubjectTemplate) -> Self {
        let written = Lists::of(&filter.tenants, &filter.event_types);
        let pattern = filter
            .pattern()
            .map_or(0, |p| serde_json::Value::from(p.as_str()).to_string().len() as u64);
        // In the registry each item stands once; in the request each of those that the store is asked for with each.
        let remembered =
            written.of_tenants + written.of_patterns + (written.tenants + written.patterns) * BETWEEN + pattern;
        let (tenants, event_types) = filter.passing_lists();
        let Lists {
            tenants,
            patterns,
            of_tenants,
            of_patterns,
        } = Lists::of(tenants, event_types);
        let filters = tenants * patterns;
        let fixed = template.all().len() as u64 + BETWEEN;
        let asked = filters * fixed + of_tenants.max(1) * patterns + of_patterns * tenants;
        Self {
            filters,
            bytes: remembered.max(asked) + REST,
        }
    }
}

pub(crate) fn over(message: String) -> Problem {
    Problem::new(Code::LimitExceeded, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(tenants: usize, patterns: usize) -> Filter {
        Filter::new(
            (0..tenants)
                .map(|i| format!("tenant-{i:05}").parse().unwrap())
                .collect(),
            (0..patterns)
                .map(|i| format!("type-{i:05}.*").parse().unwrap())
                .collect(),
        )
    }

    #[test]
    fn each_bound_is_counted_before_anything_is_made() {
        let limits = Limits::default();
        let template: SubjectTemplate = "payments.{tenant}.webhook.{event-type}".parse().unwrap();
        let (name, refused) = ("s".parse().unwrap(), |f: &Filter, most| {
            let problem = limits.filter(&"s".parse().unwrap(), f, &template, most).unwrap_err();
            assert_eq!(problem.code, Code::LimitExceeded);
            problem.message
        });
        assert!(refused(&filter(2_001, 1), None).contains("limits.tenants-per-subscription"));
        assert!(refused(&filter(1, 201), None).contains("limits.patterns-per-subscription"));
        assert!(refused(&filter(200, 200), None).contains("40000 subject filters"));
        assert!(refused(&filter(1_900, 1), Some(64 << 10)).contains("`max_payload`"));
        limits.filter(&name, &filter(1_900, 1), &template, None).unwrap();
        limits.filter(&name, &Filter::all(), &template, Some(1 << 20)).unwrap();
        let narrow = Limits {
            bytes_per_subscription: 8 << 10,
            ..limits
        };
        let problem = narrow.filter(&name, &filter(500, 1), &template, None).unwrap_err();
        assert!(problem.message.contains("limits.bytes-per-subscription"), "{problem}");
    }

    #[test]
    fn one_caller_has_a_quarter_and_all_leave_one() {
        let share = CallersShare::of(100);
        assert_eq!((share.each, share.all), (25, 75));
        assert_eq!(share.is_beyond(24, 74, 1), None);
        assert_eq!(share.is_beyond(25, 25, 1), Some(Beyond::Own));
        assert_eq!(share.is_beyond(0, 75, 1), Some(Beyond::All));
        assert_eq!(CallersShare::of(0).is_beyond(1 << 40, 1 << 50, 1), None, "no bound");
        assert_eq!(CallersShare::of(1).is_beyond(0, 0, 1), None, "each may have one");
    }

    #[test]
    fn what_is_reckoned_is_at_least_what_is_sent() {
        let template: SubjectTemplate = "payments.{tenant}.webhook.{event-type}".parse().unwrap();
        let pattern = r#"{"type":["type-00001.x",{"prefix":"type-00000."}],"subject":[{"wildcard":"\\\\"}]}"#;
        let plain = [(0, 1), (1, 1), (40, 30), (300, 2)].map(|(tenants, patterns)| filter(tenants, patterns));
        let patterned = filter(40, 30).with_pattern(Some(pattern.parse().unwrap())).unwrap();
        for filter in plain.into_iter().chain([patterned]) {
            let sent = serde_json::to_vec(&filter.subject_filters(&template)).unwrap().len() as u64;
            let remembered = serde_json::to_vec(&filter).unwrap().len() as u64;
            let size = Size::of(&filter, &template);
            assert!(
                size.bytes >= sent.max(remembered),
                "{} for {sent}, {remembered}",
                size.bytes
            );
            assert_eq!(size.filters, filter.subject_filters(&template).len() as u64);
        }
    }
}
