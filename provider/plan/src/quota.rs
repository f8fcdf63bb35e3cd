//! What a tenant may use of a bus.

use std::collections::BTreeMap;

use crate::TenantId;

/// The bounds of one tenant; without one there is no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Events that it may publish in a second, on average.
    pub events_per_second: Option<u64>,
    /// Bytes of events that may be stored for it.
    pub max_bytes: Option<u64>,
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
    /// A tenant's quota.
    pub fn of(&self, tenant: &TenantId) -> Quota {
        let own = self.tenants.get(tenant).copied().unwrap_or_default();
        Quota {
            events_per_second: own.events_per_second.or(self.default.events_per_second),
            max_bytes: own.max_bytes.or(self.default.max_bytes),
        }
    }

    /// Whether any tenant's bytes are bounded.
    pub fn bounds_bytes(&self) -> bool {
        let mut all = self.tenants.values().chain([&self.default]);
        all.any(|q| q.max_bytes.is_some())
    }

    /// Whether no tenant has a bound.
    pub fn is_unbounded(&self) -> bool {
        *self == Self::default()
    }
}
