//! Begins and ends what is exported by OTLP: spans, and the same numbers as `/metrics`. Where neither the environment nor the
//! host says where to, nothing is begun and nothing costs.
//!
//! The variables are OpenTelemetry's own. What its SDK reads itself (sampler, batches, limits, headers and timeouts of
//! spans) is not read here again.

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::runtime::Tokio;
use opentelemetry_sdk::trace::span_processor_with_async_runtime::BatchSpanProcessor;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter as Exporter};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};
use wasmcloud_core::{OtelConfig, OtelProtocol};

use super::push::{Push, Target};
use super::{Snapshot, spans};

/// How long what was not exported yet may take when the process ends.
const FLUSH: Duration = Duration::from_secs(3);

/// What is exported, until it is stopped.
#[derive(Default)]
pub(crate) struct Export {
    spans: Option<SdkTracerProvider>,
    numbers: Option<(Target, Resource)>,
    pushing: Option<(JoinHandle<()>, oneshot::Sender<()>)>,
}

/// What is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    Traces,
    Metrics,
}

impl Signal {
    const fn name(self) -> &'static str {
        match self {
            Self::Traces => "traces",
            Self::Metrics => "metrics",
        }
    }
}

impl Export {
    /// Begins to export where the environment says, or else the host.
    pub(crate) fn begin(host: Option<&OtelConfig>) -> Self {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let target = |signal| destination(signal, &variable, host);
        let (spans, numbers) = (target(Signal::Traces), target(Signal::Metrics));
        let resource = resource();
        let spans = spans.and_then(|target| begin_spans(&target, resource.clone()));
        Self {
            spans,
            numbers: numbers.map(|target| (target, resource)),
            pushing: None,
        }
    }

    /// Pushes numbers from now on, if it is to.
    pub(crate) fn push(&mut self, snapshot: impl AsyncSnapshot) {
        if let Some((target, resource)) = self.numbers.take() {
            let (stop, stopped) = oneshot::channel();
            info!(endpoint = target.endpoint, "metrics are exported");
            let push = Push::new(target, resource);
            self.pushing = Some((tokio::spawn(push.run(snapshot, stopped)), stop));
        }
    }

    /// Exports what was not yet, as far as it can be in time.
    pub(crate) async fn stop(self) {
        let Self { spans, pushing, .. } = self;
        let numbers = async {
            if let Some((pushing, stop)) = pushing {
                // It may have ended.
                stop.send(()).ok();
                pushing.await.ok();
            }
        };
        let spans = async {
            let Some(provider) = spans else { return };
            let (flushed, waits) = oneshot::channel();
            // The SDK blocks; a thread of its own keeps neither the runtime nor the process there.
            std::thread::spawn(move || flushed.send(provider.shutdown().is_ok()).ok());
            waits.await.ok();
        };
        let all = async { tokio::join!(numbers, spans) };
        if timeout(FLUSH, all).await.is_err() {
            warn!("the last traces and metrics were not exported in time, and are dropped");
        }
    }
}

/// Whoever makes snapshots.
pub(crate) trait AsyncSnapshot: Send + Sync + 'static {
    fn snapshot(&self) -> impl Future<Output = Snapshot> + Send;
}

impl AsyncSnapshot for crate::bus::Bus {
    async fn snapshot(&self) -> Snapshot {
        Snapshot::of(self).await
    }
}

impl AsyncSnapshot for crate::edge::Edge {
    async fn snapshot(&self) -> Snapshot {
        Snapshot::of_status(self.document().await)
    }
}

/// Where a signal goes, if anywhere.
fn destination(
    signal: Signal,
    variable: &impl Fn(&str) -> Option<String>,
    host: Option<&OtelConfig>,
) -> Option<Target> {
    let upper = signal.name().to_uppercase();
    let of_signal = |what: &str| variable(&format!("OTEL_EXPORTER_OTLP_{upper}_{what}"));
    let of_all = |what: &str| variable(&format!("OTEL_EXPORTER_OTLP_{what}"));
    let is = |name: &str, value: &str| variable(name).is_some_and(|v| v.eq_ignore_ascii_case(value));
    let exporter = variable(&format!("OTEL_{upper}_EXPORTER"));
    if is("OTEL_SDK_DISABLED", "true") || exporter.is_some_and(|exporter| exporter != "otlp") {
        return None;
    }
    let protocol = of_signal("PROTOCOL").or_else(|| of_all("PROTOCOL"));
    let named = of_signal("ENDPOINT")
        .map(|url| (url, true))
        .or_else(|| of_all("ENDPOINT").map(|url| (url, false)));
    let (url, is_whole, is_grpc) = match named {
        Some((url, is_whole)) => (url, is_whole, is_grpc(protocol.as_deref())?),
        None => {
            let host = host?;
            let (enabled, own) = match signal {
                Signal::Traces => (host.enable_traces, &host.traces_endpoint),
                Signal::Metrics => (host.enable_metrics, &host.metrics_endpoint),
            };
            if !enabled.unwrap_or(host.enable_observability) {
                return None;
            }
            let is_grpc = matches!(host.protocol, OtelProtocol::Grpc);
            match (own, &host.observability_endpoint) {
                (Some(own), _) => (own.clone(), true, is_grpc),
                (None, Some(all)) => (all.clone(), false, is_grpc),
                (None, None) if is_grpc => ("http://127.0.0.1:4317".to_owned(), true, true),
                (None, None) => ("http://127.0.0.1:4318".to_owned(), false, false),
            }
        }
    };
    if is_grpc && url.starts_with("https:") {
        warn!(
            endpoint = url,
            "{} are not exported: gRPC is spoken without TLS alone: use `http/protobuf` for this endpoint",
            signal.name()
        );
        return None;
    }
    // An endpoint of all signals is where their paths begin.
    let endpoint = match is_whole || is_grpc {
        true => url,
        false => format!("{}/v1/{}", url.trim_end_matches('/'), signal.name()),
    };
    let headers = of_signal("HEADERS").or_else(|| of_all("HEADERS")).unwrap_or_default();
    let milliseconds = of_signal("TIMEOUT").or_else(|| of_all("TIMEOUT"));
    Some(Target {
        endpoint,
        is_grpc,
        headers: headers_of(&headers),
        deadline: Duration::from_millis(milliseconds.and_then(|ms| ms.parse().ok()).unwrap_or(10_000)),
        every: Duration::from_millis(
            variable("OTEL_METRIC_EXPORT_INTERVAL")
                .and_then(|ms| ms.parse().ok())
                .filter(|ms| *ms > 0)
                .unwrap_or(60_000),
        ),
    })
}

/// Whether a protocol is gRPC; `None` for one that is not spoken, which is said.
fn is_grpc(protocol: Option<&str>) -> Option<bool> {
    match protocol {
        None | Some("http/protobuf") => Some(false),
        Some("grpc") => Some(true),
        Some(other) => {
            warn!(
                "nothing is exported by OTLP: OTEL_EXPORTER_OTLP_PROTOCOL is {other:?}, and `http/protobuf` and `grpc` are spoken"
            );
            None
        }
    }
}

/// `a=b,c=d`, percent-encoded (W3C Baggage, as the variable is defined).
fn headers_of(text: &str) -> Vec<(String, String)> {
    let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
    let decoded = |value: &str| {
        percent_encoding::percent_decode_str(value.trim())
            .decode_utf8_lossy()
            .into_owned()
    };
    pairs
        .map(|(name, value)| (name.trim().to_lowercase(), decoded(value)))
        .collect()
}

/// What is exporting: `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` say more of it, or other.
fn resource() -> Resource {
    let named = env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty())
        || env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|all| all.contains("service.name="));
    let builder = Resource::builder().with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    match named {
        true => builder.build(),
        false => builder.with_service_name("fanout").build(),
    }
}

fn begin_spans(target: &Target, resource: Resource) -> Option<SdkTracerProvider> {
    let built = match target.is_grpc {
        true => SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&target.endpoint)
            .build(),
        false => SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&target.endpoint)
            .build(),
    };
    let exporter = match built {
        Ok(exporter) => exporter,
        Err(error) => {
            warn!(endpoint = target.endpoint, %error, "traces are not exported");
            return None;
        }
    };
    let exporter = Reported {
        exporter,
        report: Report::new("traces", &target.endpoint),
    };
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_span_processor(BatchSpanProcessor::builder(exporter, Tokio).build())
        .build();
    spans::begin(provider.tracer("fanout"));
    info!(endpoint = target.endpoint, "traces are exported");
    Some(provider)
}

/// Says that an export fails when that begins, and when it ends.
#[derive(Debug)]
pub(super) struct Report {
    what: &'static str,
    endpoint: String,
    fails: AtomicBool,
}

impl Report {
    pub(super) fn new(what: &'static str, endpoint: &str) -> Self {
        Self {
            what,
            endpoint: endpoint.to_owned(),
            fails: AtomicBool::new(false),
        }
    }

    pub(super) fn of<E: std::fmt::Display>(&self, exported: &Result<(), E>) {
        let (endpoint, what) = (&self.endpoint, self.what);
        match exported {
            Ok(()) if self.fails.swap(false, Ordering::Relaxed) => info!(endpoint, "{what} are exported again"),
            Err(error) if !self.fails.swap(true, Ordering::Relaxed) => {
                warn!(endpoint, %error, "{what} can't be exported: what comes meanwhile is dropped, and the bus goes on");
            }
            _ => {}
        }
    }
}

/// An exporter that says once that it can't.
#[derive(Debug)]
struct Reported {
    exporter: SpanExporter,
    report: Report,
}

impl Exporter for Reported {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.exporter.export(batch).await;
        self.report.of(&exported);
        exported
    }

    fn shutdown_with_timeout(&mut self, within: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(within)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(signal: Signal, variables: &[(&str, &str)], host: Option<&OtelConfig>) -> Option<(String, bool)> {
        let variable = |name: &str| {
            let found = variables.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        destination(signal, &variable, host).map(|target| (target.endpoint, target.is_grpc))
    }

    #[test]
    fn nothing_is_exported_unless_it_is_said_where_to() {
        assert_eq!(check(Signal::Traces, &[], None), None);
        assert_eq!(check(Signal::Metrics, &[], Some(&OtelConfig::default())), None);
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/");
        for off in [
            ("OTEL_SDK_DISABLED", "true"),
            ("OTEL_TRACES_EXPORTER", "none"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ] {
            assert_eq!(check(Signal::Traces, &[all, off], None), None, "{off:?}");
        }
    }

    #[test]
    fn the_variables_mean_what_open_telemetry_says() {
        let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4318/");
        let some = |url: &str, is_grpc| Some((url.to_owned(), is_grpc));
        assert_eq!(
            check(Signal::Traces, &[all], None),
            some("http://c:4318/v1/traces", false)
        );
        assert_eq!(
            check(Signal::Metrics, &[all], None),
            some("http://c:4318/v1/metrics", false)
        );
        let own = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://t/here");
        assert_eq!(check(Signal::Traces, &[all, own], None), some("http://t/here", false));
        let grpc = ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
        assert_eq!(check(Signal::Traces, &[all, grpc], None), some("http://c:4318/", true));
        let encrypted = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:4317");
        assert_eq!(check(Signal::Traces, &[encrypted, grpc], None), None);
        assert_eq!(
            headers_of("Api-Key=a%20b, x = y"),
            [
                ("api-key".to_owned(), "a b".to_owned()),
                ("x".to_owned(), "y".to_owned())
            ]
        );
    }

    #[test]
    fn the_host_s_data_count_where_the_environment_says_nothing() {
        let host = OtelConfig {
            enable_observability: true,
            enable_metrics: Some(false),
            observability_endpoint: Some("http://host:4318".to_owned()),
            ..OtelConfig::default()
        };
        let some = |url: &str| Some((url.to_owned(), false));
        assert_eq!(
            check(Signal::Traces, &[], Some(&host)),
            some("http://host:4318/v1/traces")
        );
        assert_eq!(check(Signal::Metrics, &[], Some(&host)), None);
        let variable = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://mine:1");
        assert_eq!(
            check(Signal::Traces, &[variable], Some(&host)),
            some("http://mine:1/v1/traces")
        );
    }
}
