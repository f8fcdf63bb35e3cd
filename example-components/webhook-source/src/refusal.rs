//! Why a webhook makes no events.

use crate::place::Places;

/// Why a webhook makes no events. Its text is for the log and the sender, and holds no secret, signature or body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The signature, or the time of signing, was refused.
    #[error("{0}")]
    Signature(webhook_signature::Refusal),
    /// The body, or what it holds in an encoded form, is not in its form, and a part of the event was to be found in it.
    #[error("the body can't be read: {error}")]
    Malformed {
        /// Why.
        error: String,
    },
    /// The items are not where they should be.
    #[error("the body has no items at {items}{}", which(*.index))]
    NoItems {
        /// Where they should be.
        items: String,
        /// Which of them is not as it should be; nothing if there is no list.
        index: Option<usize>,
    },
    /// There are more items than the bus takes at once.
    #[error("the body has {count} items, and at most {} are taken", crate::items::MAX_ITEMS)]
    TooManyItems {
        /// How many.
        count: usize,
    },
    /// A part of the event is not where it should be.
    #[error("the webhook has no {what} at {place}{}", at(.part))]
    NotFound {
        /// Which part.
        what: &'static str,
        /// Where it should be.
        place: Places,
        /// Of which item; empty if there are none.
        part: String,
    },
    /// A part of the event is there, and breaks the bus's rules.
    #[error("the {what} at {place}{} breaks the bus's rules: it must be {rule}", at(.part))]
    Illegal {
        /// Which part.
        what: &'static str,
        /// Where it is.
        place: Places,
        /// Of which item; empty if there are none.
        part: String,
        /// What it must be.
        rule: &'static str,
    },
    /// The source may not speak for the tenant.
    #[error("the source {name} may not speak for tenant {tenant}: source.{name}.tenants does not list it")]
    TenantNotAllowed {
        /// The source's name.
        name: String,
        /// The tenant, as the webhook calls it.
        tenant: String,
        /// Whether a holder of a key named it, and not the request's path or a header.
        signed: bool,
    },
    /// What was to be kept as evidence is more than an event can carry.
    #[error("the evidence of this webhook is larger than {limit} bytes")]
    EvidenceTooLarge {
        /// How large it may be.
        limit: usize,
    },
}

fn at(part: &str) -> String {
    if part.is_empty() {
        String::new()
    } else {
        format!(" of {part}")
    }
}

fn which(index: Option<usize>) -> String {
    index.map_or_else(String::new, |index| format!(": item {index} is not one"))
}

impl Refusal {
    /// A stable name for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Signature(refusal) => refusal.code(),
            Self::Malformed { .. } => "invalid-body",
            Self::NoItems { .. } => "no-items",
            Self::TooManyItems { .. } => "too-many-items",
            Self::NotFound { what: "tenant", .. } => "no-tenant",
            Self::NotFound { what: "event-type", .. } => "no-event-type",
            Self::NotFound { .. } => "no-event-id",
            Self::Illegal { what: "tenant", .. } => "invalid-tenant",
            Self::Illegal { what: "event-type", .. } => "invalid-event-type",
            Self::Illegal { .. } => "invalid-event-id",
            Self::TenantNotAllowed { .. } => "tenant-not-allowed",
            Self::EvidenceTooLarge { .. } => "evidence-too-large",
        }
    }
}
