//! Counts and sums a bus's events from a backfill.
