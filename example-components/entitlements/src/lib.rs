//! Keeps an entitlement cache from a queue subscription.
