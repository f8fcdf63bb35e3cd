//! What a subscription lost: between which offsets, and of which tenants.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{TenantId, Timestamp};

/// The most events that a loss names one by one.
const MAX_NAMED: usize = 1_000;

/// The most tenants that a loss names.
pub(super) const MAX_TENANTS: usize = 1_000;

/// What was lost.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The first offset that was lost.
    pub from: u64,
    /// The last.
    pub to: u64,
    /// Events that were lost between them, of those that were seen before they went.
    pub events: u64,
    /// The same by tenant.
    pub tenants: BTreeMap<TenantId, u64>,
    /// Whether that is all of them, and none of them was delivered at the last moment. What a subscriber still works on
    /// when it expires is among them, whatever comes of it. Never, where a pattern would have left some of them out.
    pub exact: bool,
    /// When it was last found.
    pub at: Timestamp,
    /// The first of the events that were lost now, and whose; nothing of it is remembered.
    #[serde(skip)]
    pub which: Vec<(u64, TenantId)>,
}

impl Lost {
    /// Adds what another consumer of the same subscription lost there. It names as many tenants as one loss does.
    pub fn merge(&mut self, other: &Self) {
        let at = self.at.max(other.at);
        self.join(other);
        self.at = at;
    }

    pub(super) fn add(&mut self, offset: u64, tenant: &TenantId) {
        if self.from == 0 {
            self.from = offset;
        }
        self.to = self.to.max(offset);
        self.events += 1;
        if self.which.len() < MAX_NAMED {
            self.which.push((offset, tenant.clone()));
        }
        self.of_tenant(tenant, 1);
    }

    fn of_tenant(&mut self, tenant: &TenantId, events: u64) {
        if let Some(count) = self.tenants.get_mut(tenant) {
            *count += events;
        } else if self.tenants.len() < MAX_TENANTS {
            self.tenants.insert(tenant.clone(), events);
        } else {
            self.exact = false;
        }
    }

    pub(super) fn join(&mut self, more: &Self) {
        self.from = self.from.min(more.from);
        self.to = self.to.max(more.to);
        self.events += more.events;
        self.exact &= more.exact;
        self.at = more.at;
        for (tenant, events) in &more.tenants {
            self.of_tenant(tenant, *events);
        }
    }
}
