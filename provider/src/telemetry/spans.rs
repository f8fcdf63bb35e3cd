//! Spans, by OpenTelemetry's conventions for messaging: how they are named, what they say, and how they hang together.
//!
//! Made with OpenTelemetry's own API and not by `tracing`: where nothing exports them none is made, at the cost of one load
//! of an atomic, whatever the log's filter says. A span is named by its operation and the bus's subject template, never by
//! a subject, and names a tenant only where the policy's `telemetry.tenants` does.

use std::borrow::Cow;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::SystemTime;

use fanout_plan::{Policy, Problem, TenantId};
use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::{SdkTracer, Span as SdkSpan};

/// Where the process's spans go, once something exports them.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// The reconciliation under way, of which there is one at a time, and of which its steps are a part.
static RECONCILING: Mutex<Option<SpanContext>> = Mutex::new(None);

/// The most characters of a text that comes from outside.
const MAX_CHARS: usize = 256;
/// The most events of a batch to whose publishes its span is linked.
const MAX_LINKS: usize = 128;

/// What an event or a call is about.
pub(crate) const SYSTEM: &str = "fanout";
pub(crate) const OUTCOME: &str = "fanout.outcome";
pub(crate) const POSITION: &str = "fanout.position";
pub(crate) const ATTEMPT: &str = "fanout.attempt";
pub(crate) const TENANT: &str = "fanout.tenant";
pub(crate) const COUNT: &str = "messaging.batch.message_count";
pub(super) const ERROR: &str = "error.type";

/// A kind of span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// A publish.
    Publish,
    /// A handler's call.
    Process,
    /// A fetch from an inbox.
    Fetch,
    /// What comes of a delivery.
    Settle,
}

impl Operation {
    /// Its name, its type and its kind, as the conventions have them.
    const fn of(self) -> (&'static str, &'static str, SpanKind) {
        match self {
            Self::Publish => ("publish", "send", SpanKind::Producer),
            Self::Process => ("process", "process", SpanKind::Consumer),
            Self::Fetch => ("fetch", "receive", SpanKind::Client),
            Self::Settle => ("settle", "settle", SpanKind::Client),
        }
    }
}

/// A span; it ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Span(Box<SdkSpan>);

/// Has spans made from now on.
pub(super) fn begin(tracer: SdkTracer) {
    // One export is begun in a process.
    TRACER.set(tracer).ok();
}

/// Whether spans are made at all: asked before anything is put together for one.
pub(crate) fn is_on() -> bool {
    TRACER.get().is_some()
}

impl Span {
    /// Begins an operation on a bus, whose policy is known where it is kept here. `parent` and `links` are trace contexts as
    /// events and calls bring them.
    pub(crate) fn begin<'a>(
        operation: Operation,
        policy: Option<&Policy>,
        parent: Option<&str>,
        links: impl IntoIterator<Item = &'a str>,
    ) -> Option<Self> {
        let tracer = TRACER.get()?;
        let (name, kind_of_operation, kind) = operation.of();
        let mut attributes = vec![
            KeyValue::new("messaging.system", SYSTEM),
            KeyValue::new("messaging.operation.name", name),
            KeyValue::new("messaging.operation.type", kind_of_operation),
        ];
        let mut shown: Cow<'static, str> = name.into();
        if let Some(policy) = policy {
            let template = policy.subject.to_string();
            shown = format!("{name} {template}").into();
            attributes.push(KeyValue::new("messaging.destination.name", policy.bus.to_string()));
            attributes.push(KeyValue::new("messaging.destination.template", template));
        }
        let links = links.into_iter().take(MAX_LINKS).filter_map(remote);
        let builder = SpanBuilder::from_name(shown)
            .with_kind(kind)
            .with_attributes(attributes)
            .with_links(links.map(Link::with_context).collect());
        Some(Self::build(tracer, builder, parent.and_then(remote)))
    }

    fn build(tracer: &SdkTracer, builder: SpanBuilder, parent: Option<SpanContext>) -> Self {
        let within = match parent {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        Self(Box::new(tracer.build_with_context(builder, &within)))
    }

    pub(crate) fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(KeyValue::new(key, value));
    }

    /// A text from outside, as far as it is shown.
    pub(crate) fn say(&mut self, key: &'static str, text: &str) {
        self.set(key, cut(text));
    }

    /// Names a tenant, if the policy allows it.
    pub(crate) fn tenant(&mut self, policy: &Policy, tenant: &TenantId) {
        if policy.telemetry.shows(tenant) {
            self.set(TENANT, tenant.to_string());
        }
    }

    /// It ended with this code.
    pub(crate) fn fail(&mut self, code: &str, why: &str) {
        self.set(ERROR, code.to_owned());
        self.0.set_status(Status::error(cut(why)));
    }

    /// Links it to what it is about, where that is known only now.
    pub(crate) fn link<'a>(&mut self, contexts: impl IntoIterator<Item = &'a str>) {
        for context in contexts.into_iter().take(MAX_LINKS).filter_map(remote) {
            self.0.add_link(context, Vec::new());
        }
    }

    /// Ends it now; what is a part of it may follow.
    pub(crate) fn end(&mut self) {
        self.0.end();
    }

    /// Its context, for what it causes.
    pub(crate) fn traceparent(&self) -> String {
        written(self.0.span_context())
    }
}

/// Begins a reconciliation.
pub(crate) fn reconciling() -> Option<Reconciling> {
    let builder = SpanBuilder::from_name("reconcile").with_kind(SpanKind::Internal);
    let span = Span::build(TRACER.get()?, builder, None);
    set_reconciling(Some(span.0.span_context().clone()));
    Some(Reconciling(span))
}

/// A reconciliation; its steps are its own until it is dropped.
pub(crate) struct Reconciling(pub(crate) Span);

impl Drop for Reconciling {
    fn drop(&mut self) {
        set_reconciling(None);
    }
}

fn set_reconciling(context: Option<SpanContext>) {
    *RECONCILING.lock().unwrap_or_else(PoisonError::into_inner) = context;
}

/// Shows a step that was taken, or why it failed.
pub(crate) fn step(began: SystemTime, step: &dyn std::fmt::Display, failed: impl FnOnce() -> Option<Problem>) {
    let Some(tracer) = TRACER.get() else { return };
    let parent = RECONCILING.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let builder = SpanBuilder::from_name("apply step")
        .with_kind(SpanKind::Internal)
        .with_start_time(began);
    let mut span = Span::build(tracer, builder, parent);
    span.say("fanout.step", &step.to_string());
    if let Some(problem) = failed() {
        span.fail(problem.code.as_str(), &problem.message);
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_CHARS).collect()
}

/// A trace context as W3C writes it.
fn remote(traceparent: &str) -> Option<SpanContext> {
    let legal = fanout_transport::traceparent(traceparent)?;
    let mut fields = legal.split('-').skip(1);
    let trace = TraceId::from_hex(fields.next()?).ok()?;
    let span = SpanId::from_hex(fields.next()?).ok()?;
    let flags = u8::from_str_radix(fields.next()?, 16).ok()?;
    // What later versions may say by other flags is not known here.
    let flags = TraceFlags::new(flags) & TraceFlags::SAMPLED;
    Some(SpanContext::new(trace, span, flags, true, TraceState::NONE))
}

fn written(context: &SpanContext) -> String {
    let sampled = u8::from(context.is_sampled());
    format!("00-{}-{}-{sampled:02x}", context.trace_id(), context.span_id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_context_is_read_as_it_is_written() {
        for text in [
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        ] {
            let context = remote(text).unwrap();
            assert!(context.is_remote() && context.is_valid());
            assert_eq!(written(&context), text);
        }
        assert!(remote("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01").is_none());
        assert!(remote("what a stranger sent").is_none());
    }

    #[test]
    fn where_nothing_exports_them_none_is_made() {
        assert!(!is_on());
        assert!(Span::begin(Operation::Publish, None, None, []).is_none());
        assert!(reconciling().is_none());
    }
}
