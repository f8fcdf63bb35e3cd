//! Writes invoice lines from a durable subscription.
