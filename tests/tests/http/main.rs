//! The contract over HTTP: events in, subscriptions, deliveries and their settlement, and what goes wrong.

mod events;
mod owned;
mod refusals;
mod subscriptions;

const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

const BINARY: [(&str, &str); 6] = [
    ("ce-specversion", "1.0"),
    ("ce-tenant", "acme"),
    ("ce-type", "invoice.paid"),
    ("ce-source", "/tests"),
    ("ce-id", "evt_1"),
    ("content-type", "text/plain"),
];
