//! Pushes the numbers by OTLP: made from the same table as `/metrics`, and not by the SDK's instruments, which would count
//! everything once more.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, number_data_point,
};
use opentelemetry_sdk::Resource;
use prost::Message as _;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Snapshot;
use super::export::{AsyncSnapshot, Report};
use super::families::{FAMILIES, Family, Kind, Sample, Value};
use super::instruments::Durations;

/// Since when the process counts, in nanoseconds since the Unix epoch.
static BEGAN: LazyLock<u64> = LazyLock::new(|| nanoseconds(SystemTime::now()));

/// Where numbers go.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) endpoint: String,
    pub(super) is_grpc: bool,
    pub(super) headers: Vec<(String, String)>,
    /// For one export.
    pub(super) deadline: Duration,
    pub(super) every: Duration,
}

/// What pushes.
pub(super) struct Push {
    target: Target,
    resource: Resource,
    client: reqwest::Client,
    report: Report,
}

impl Push {
    pub(super) fn new(target: Target, resource: Resource) -> Self {
        LazyLock::force(&BEGAN);
        Self {
            report: Report::new("metrics", &target.endpoint),
            client: reqwest::Client::new(),
            target,
            resource,
        }
    }

    /// Pushes again and again, and once more when it is stopped.
    pub(super) async fn run(self, bus: impl AsyncSnapshot, mut stopped: oneshot::Receiver<()>) {
        loop {
            let is_last = timeout(self.target.every, &mut stopped).await.is_ok();
            let request = request(&bus.snapshot().await, &self.resource);
            let pushed = match timeout(self.target.deadline, self.send(request)).await {
                Ok(sent) => sent,
                Err(_) => Err("there was no answer in time".to_owned()),
            };
            self.report.of(&pushed);
            if is_last {
                return;
            }
        }
    }

    async fn send(&self, request: ExportMetricsServiceRequest) -> Result<(), String> {
        if self.target.is_grpc {
            return self.send_by_grpc(request).await;
        }
        let mut post = self.client.post(&self.target.endpoint);
        for (name, value) in &self.target.headers {
            post = post.header(name, value);
        }
        let post = post
            .header("content-type", "application/x-protobuf")
            .body(request.encode_to_vec());
        let failed = |e: reqwest::Error| fanout_transport::causes(&e.without_url());
        post.send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map(drop)
            .map_err(failed)
    }

    async fn send_by_grpc(&self, message: ExportMetricsServiceRequest) -> Result<(), String> {
        let connected = MetricsServiceClient::connect(self.target.endpoint.clone()).await;
        let mut client = connected.map_err(|e| fanout_transport::causes(&e))?;
        let mut request = tonic::Request::new(message);
        for (name, value) in &self.target.headers {
            let parsed = name
                .parse::<tonic::metadata::MetadataKey<_>>()
                .ok()
                .zip(value.parse().ok());
            if let Some((name, value)) = parsed {
                request.metadata_mut().insert(name, value);
            }
        }
        client
            .export(request)
            .await
            .map(drop)
            .map_err(|status| status.to_string())
    }
}

/// Everything of a snapshot.
fn request(snapshot: &Snapshot, resource: &Resource) -> ExportMetricsServiceRequest {
    let now = nanoseconds(SystemTime::now());
    let metrics = FAMILIES
        .iter()
        .filter_map(|family| metric(family, &family.samples(snapshot), now));
    let scope = InstrumentationScope {
        name: "fanout".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let resource = opentelemetry_proto::tonic::resource::v1::Resource {
        attributes: resource
            .iter()
            .map(|(name, value)| attribute(name.as_str(), value.as_str().as_ref()))
            .collect(),
        ..Default::default()
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(resource),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope),
                metrics: metrics.collect(),
                ..ScopeMetrics::default()
            }],
            ..ResourceMetrics::default()
        }],
    }
}

fn metric(family: &Family, samples: &[Sample], now: u64) -> Option<Metric> {
    if samples.is_empty() {
        return None;
    }
    let cumulative = AggregationTemporality::Cumulative as i32;
    let data = match family.kind {
        Kind::Gauge => Data::Gauge(Gauge {
            data_points: samples.iter().filter_map(|s| number(family, s, (0, now))).collect(),
        }),
        Kind::Counter => Data::Sum(Sum {
            data_points: samples
                .iter()
                .filter_map(|s| number(family, s, (*BEGAN, now)))
                .collect(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        Kind::Histogram => Data::Histogram(Histogram {
            data_points: samples.iter().filter_map(|s| durations(family, s, now)).collect(),
            aggregation_temporality: cumulative,
        }),
    };
    Some(Metric {
        name: family.name.to_owned(),
        description: family.help.to_owned(),
        unit: family.unit.to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

fn number(family: &Family, sample: &Sample, (since, now): (u64, u64)) -> Option<NumberDataPoint> {
    let value = match sample.value {
        Value::Whole(number) => number_data_point::Value::AsInt(number),
        Value::Real(number) => number_data_point::Value::AsDouble(number),
        Value::Durations(_) => return None,
    };
    Some(NumberDataPoint {
        attributes: attributes(family, sample),
        start_time_unix_nano: since,
        time_unix_nano: now,
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

fn durations(family: &Family, sample: &Sample, now: u64) -> Option<HistogramDataPoint> {
    let Value::Durations(durations) = &sample.value else {
        return None;
    };
    Some(HistogramDataPoint {
        attributes: attributes(family, sample),
        start_time_unix_nano: *BEGAN,
        time_unix_nano: now,
        count: durations.count(),
        sum: Some(durations.sum),
        bucket_counts: durations.counts.to_vec(),
        explicit_bounds: Durations::bounds().collect(),
        ..HistogramDataPoint::default()
    })
}

fn attributes(family: &Family, sample: &Sample) -> Vec<KeyValue> {
    let labels = family.labels.iter().zip(&sample.labels);
    labels.map(|(name, value)| attribute(name, value)).collect()
}

fn attribute(key: &str, value: &str) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value.to_owned())),
        }),
    }
}

fn nanoseconds(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
