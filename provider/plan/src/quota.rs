//! What a tenant may use of a bus.

use std::collections::BTreeMap;

use crate::policy::MAX_COUNT;
use crate::setting::{self, Reader};
use crate::{Code, Problem, TenantId};

/// The bounds of one tenant; without one there is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Events that it may publish in a second, on average.
    pub events_per_second: Option<u64>,
    /// Bytes of events that may be stored for it.
    pub max_bytes: Option<u64>,
    /// Events that may wait for it until they are due; [`DEFAULT_SCHEDULED_EVENTS`] unless it is said.
    pub scheduled_events: Option<u64>,
    /// Bytes of events that may wait for it; a quarter of what the bus keeps unless it is said.
    pub scheduled_bytes: Option<u64>,
}

/// Events that may wait for a tenant until they are due, where the policy says nothing: a hundred tenants that all have
/// as many fill what a bus keeps.
pub const DEFAULT_SCHEDULED_EVENTS: u64 = 10_000;

impl Quota {
    /// The most events that may wait for the tenant until they are due.
    pub fn scheduled(&self) -> u64 {
        self.scheduled_events.unwrap_or(DEFAULT_SCHEDULED_EVENTS)
    }
}

/// The quotas of a bus.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Of each tenant that has none of its own.
    pub default: Quota,
    /// Of single tenants; what one leaves open is the default's.
    pub tenants: BTreeMap<TenantId, Quota>,
}

impl Quotas {
    /// Reads every `quota.…` that bounds tenants.
    pub(crate) fn read(r: &mut Reader<'_>) -> Self {
        let (rate, size) = (setting::number(1, 10_000_000), setting::bytes(1 << 10, 1 << 50));
        let waiting = setting::number(1, MAX_COUNT);
        let default = Quota {
            events_per_second: r.optional("quota.events-per-second", &rate),
            max_bytes: r.optional("quota.max-bytes", &size),
            scheduled_events: r.optional("quota.scheduled-events", &waiting),
            scheduled_bytes: r.optional("quota.scheduled-max-bytes", &size),
        };
        let known = &[
            "quota.tenant.TENANT.events-per-second",
            "quota.tenant.TENANT.max-bytes",
            "quota.tenant.TENANT.scheduled-events",
            "quota.tenant.TENANT.scheduled-max-bytes",
        ];
        let mut tenants = BTreeMap::new();
        for (name, settings) in r.under("quota.tenant.", known) {
            let mut quota = Quota::default();
            for (rest, value) in &settings {
                let read = match rest.as_str() {
                    "events-per-second" => rate(value).map(|n| quota.events_per_second = Some(n)),
                    "max-bytes" => size(value).map(|n| quota.max_bytes = Some(n)),
                    "scheduled-events" => waiting(value).map(|n| quota.scheduled_events = Some(n)),
                    "scheduled-max-bytes" => size(value).map(|n| quota.scheduled_bytes = Some(n)),
                    _ => Err(Problem::new(
                        Code::UnknownSetting,
                        "is not known; known are `events-per-second`, `max-bytes`, `scheduled-events` and `scheduled-max-bytes`",
                    )),
                };
                if let Err(p) = read {
                    r.refuse_under(&format!("quota.tenant.{name}.{rest}"), &p);
                }
            }
            match name.parse::<TenantId>() {
                Ok(tenant) => drop(tenants.insert(tenant, quota)),
                Err(p) => r.refuse_under(&format!("quota.tenant.{name}"), &p),
            }
        }
        Self { default, tenants }
    }

    /// A tenant's quota.
    pub fn of(&self, tenant: &TenantId) -> Quota {
        let own = self.tenants.get(tenant).copied().unwrap_or_default();
        Quota {
            events_per_second: own.events_per_second.or(self.default.events_per_second),
            max_bytes: own.max_bytes.or(self.default.max_bytes),
            scheduled_events: own.scheduled_events.or(self.default.scheduled_events),
            scheduled_bytes: own.scheduled_bytes.or(self.default.scheduled_bytes),
        }
    }

    /// The setting to change for a tenant's bound, as a message names it: `quota.tenant.TENANT.…` where the policy bounds
    /// this tenant by itself, and otherwise the default's. `bound` is the setting's last part.
    pub fn setting(&self, tenant: &TenantId, bound: &str) -> String {
        let own = self.tenants.get(tenant).copied().unwrap_or_default();
        let is_own = match bound {
            "events-per-second" => own.events_per_second,
            "max-bytes" => own.max_bytes,
            "scheduled-events" => own.scheduled_events,
            _ => own.scheduled_bytes,
        }
        .is_some();
        let of_tenant = format!("`quota.tenant.{tenant}.{bound}`");
        match is_own {
            true => of_tenant,
            false => format!("`quota.{bound}` (for this tenant alone {of_tenant})"),
        }
    }

    /// Whether any tenant's bytes are bounded.
    pub fn bounds_bytes(&self) -> bool {
        let mut all = self.tenants.values().chain([&self.default]);
        all.any(|q| q.max_bytes.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_setting_that_bounds_the_tenant() {
        let own = Quota {
            max_bytes: Some(1),
            ..Quota::default()
        };
        let acme: TenantId = "acme".parse().expect("a tenant");
        let quotas = Quotas {
            default: Quota::default(),
            tenants: BTreeMap::from([(acme.clone(), own)]),
        };
        assert_eq!(quotas.setting(&acme, "max-bytes"), "`quota.tenant.acme.max-bytes`");
        assert_eq!(
            quotas.setting(&acme, "events-per-second"),
            "`quota.events-per-second` (for this tenant alone `quota.tenant.acme.events-per-second`)"
        );
    }
}
