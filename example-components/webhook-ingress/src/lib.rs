//! Verifies payment webhooks and publishes them as a tenant's events.
