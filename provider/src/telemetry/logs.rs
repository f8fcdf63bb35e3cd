//! The log: lines for people, or JSON for programs, on standard error. A fact is one line in both.
//!
//! JSON names its fields as spans do, so that a search for one finds the other.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::spans;

/// Whether lines are JSON. A host says so when lines have been written already.
static STRUCTURED: AtomicBool = AtomicBool::new(false);

/// What is logged where `RUST_LOG` says nothing.
const USUAL: &str = "info,async_nats=warn";

/// The names of fields that spans have by another.
const NAMES: [(&str, &str); 7] = [
    ("attempt", spans::ATTEMPT),
    ("bus", "messaging.destination.name"),
    ("code", spans::ERROR),
    ("position", spans::POSITION),
    ("state", spans::OUTCOME),
    ("subscription", "messaging.consumer.group.name"),
    ("tenant", spans::TENANT),
];

/// Begins to log what `RUST_LOG` says.
pub fn log_to_standard_error() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(USUAL));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        // It would panic where standard error is closed.
        .log_internal_errors(false)
        .event_format(Lines(Format::default().with_ansi(false)))
        .init();
}

/// Has lines be JSON from now on, or not.
pub fn log_as_json(structured: bool) {
    STRUCTURED.store(structured, Ordering::Relaxed);
}

struct Lines(Format);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        if !STRUCTURED.load(Ordering::Relaxed) {
            return self.0.format_event(context, writer, event);
        }
        let fact = fact(event, Timestamp::now());
        writeln!(writer, "{}", Value::Object(fact))
    }
}

/// A fact as one object.
fn fact(event: &Event<'_>, at: Timestamp) -> Map<String, Value> {
    let metadata = event.metadata();
    let mut fields = Fields(Map::new());
    fields.put("timestamp", at.to_string().into());
    fields.put("level", metadata.level().as_str().into());
    fields.put("target", metadata.target().into());
    event.record(&mut fields);
    fields.0
}

struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }

    fn record(&mut self, field: &Field, value: Value) {
        let known = NAMES.iter().find(|(name, _)| *name == field.name());
        self.put(known.map_or(field.name(), |(_, name)| name), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.record(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.record(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

    use super::*;

    /// What facts are as JSON.
    #[derive(Clone, Default)]
    struct Facts(Arc<Mutex<Vec<Value>>>);

    impl<S: Subscriber> Layer<S> for Facts {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let fact = fact(event, Timestamp::UNIX_EPOCH);
            self.0.lock().unwrap().push(Value::Object(fact));
        }
    }

    #[test]
    fn a_fact_names_its_fields_as_spans_do() {
        let facts = Facts::default();
        tracing::subscriber::with_default(tracing_subscriber::registry().with(facts.clone()), || {
            tracing::info!(subscription = %"invoicing", tenant = %"acme", attempts = 3, reason = "no \"such\"\nthing", "stored as a dead letter");
            tracing::warn!(code = %"store-full", "it is full");
        });
        let facts = facts.0.lock().unwrap();
        let target = "fanout_provider::telemetry::logs::tests";
        assert_eq!(
            facts[..],
            [
                serde_json::json!({
                    "timestamp": "1970-01-01T00:00:00Z", "level": "INFO", "target": target, "message": "stored as a dead letter",
                    "messaging.consumer.group.name": "invoicing", "fanout.tenant": "acme", "attempts": 3, "reason": "no \"such\"\nthing",
                }),
                serde_json::json!({
                    "timestamp": "1970-01-01T00:00:00Z", "level": "WARN", "target": target, "message": "it is full", "error.type": "store-full",
                }),
            ]
        );
    }
}
