//! A collector of OTLP, over HTTP or gRPC, which keeps what it is sent.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use prost::Message as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A collector that listens on the loopback until it is dropped.
pub struct Collector {
    url: String,
    kept: Arc<Mutex<Kept>>,
    task: tokio::task::JoinHandle<()>,
}

/// What it was sent.
#[derive(Debug, Default)]
struct Kept {
    spans: Vec<Span>,
    metrics: BTreeMap<String, usize>,
    /// Of whoever sent it.
    resource: BTreeMap<String, String>,
}

/// A span, as a test looks at it.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its name.
    pub name: String,
    /// The number of its kind: 1 internal, 3 client, 4 producer, 5 consumer.
    pub kind: i32,
    /// Its trace, in hexadecimal digits.
    pub trace: String,
    /// Itself.
    pub id: String,
    /// Its parent; empty for none.
    pub parent: String,
    /// What it is linked to.
    pub links: Vec<String>,
    /// Its attributes as texts.
    pub attributes: BTreeMap<String, String>,
    /// Whether it failed, and what it says of that.
    pub failed: Option<String>,
}

impl Span {
    /// An attribute; empty where it has none.
    #[must_use]
    pub fn of(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }

    /// Its trace context, as W3C writes it.
    #[must_use]
    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-01", self.trace, self.id)
    }
}

impl Collector {
    /// Listens.
    ///
    /// # Panics
    /// If it can't.
    pub async fn start() -> Self {
        Self::listen(true).await
    }

    /// One that takes what it is sent, and looks at nothing of it.
    ///
    /// # Panics
    /// If it can't listen.
    pub async fn that_keeps_nothing() -> Self {
        Self::listen(false).await
    }

    async fn listen(keeps_it: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("it listens");
        let url = format!("http://{}", listener.local_addr().expect("it has an address"));
        let kept = Arc::<Mutex<Kept>>::default();
        let keeps = Arc::clone(&kept);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let keeps = keeps_it.then(|| Arc::clone(&keeps));
                tokio::spawn(serve(stream, keeps));
            }
        });
        Self { url, kept, task }
    }

    /// One that is spoken to by gRPC, without TLS.
    ///
    /// # Panics
    /// If it can't listen.
    pub async fn of_grpc() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("it listens");
        let url = format!("http://{}", listener.local_addr().expect("it has an address"));
        let kept = Arc::<Mutex<Kept>>::default();
        let keeps = Arc::clone(&kept);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let keeps = Arc::clone(&keeps);
                let service = service_fn(move |request| grpc(request, Arc::clone(&keeps)));
                let serving = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
                // Whoever sends may break off.
                tokio::spawn(async move { serving.await.ok() });
            }
        });
        Self { url, kept, task }
    }

    /// Where.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Every span so far for which this holds.
    #[must_use]
    pub fn spans(&self, which: impl Fn(&Span) -> bool) -> Vec<Span> {
        let kept = self.kept.lock().unwrap();
        kept.spans.iter().filter(|span| which(span)).cloned().collect()
    }

    /// The metrics so far, with how many numbers each has had.
    #[must_use]
    pub fn metrics(&self) -> BTreeMap<String, usize> {
        self.kept.lock().unwrap().metrics.clone()
    }

    /// What whoever sent spans says of itself.
    #[must_use]
    pub fn resource(&self) -> BTreeMap<String, String> {
        self.kept.lock().unwrap().resource.clone()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Requests of HTTP/1.1 with a length, one after another.
async fn serve(stream: TcpStream, kept: Option<Arc<Mutex<Kept>>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut path, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await.ok()? == 0 {
                return None;
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            match line.split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().ok()?,
                Some(_) => {}
                None => path = line.split(' ').nth(1)?.to_owned(),
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        if let Some(kept) = &kept {
            kept.lock().unwrap().take(&path, &body);
        }
        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.ok()?;
    }
}

/// The bytes before a message of gRPC: whether it is compressed, and its length.
const GRPC_PREFIX: usize = 5;

/// A call of gRPC: one message in, an empty one out.
async fn grpc(
    request: http::Request<Incoming>,
    kept: Arc<Mutex<Kept>>,
) -> Result<http::Response<BoxBody<Bytes, Infallible>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    assert_eq!(body.first(), Some(&0), "it is not compressed");
    let path = match head.uri.path() {
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => "/v1/traces",
        "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => "/v1/metrics",
        other => panic!("nothing is called at {other}"),
    };
    kept.lock().unwrap().take(path, &body[GRPC_PREFIX..]);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let empty = Frame::data(Bytes::from_static(&[0; GRPC_PREFIX]));
    let frames = futures::stream::iter([Ok::<_, Infallible>(empty), Ok(Frame::trailers(trailers))]);
    let response = http::Response::builder().header("content-type", "application/grpc");
    Ok(response
        .body(BodyExt::boxed(StreamBody::new(frames)))
        .expect("its head is legal"))
}

impl Kept {
    fn take(&mut self, path: &str, body: &[u8]) {
        match path {
            "/v1/traces" => {
                let request = ExportTraceServiceRequest::decode(body).expect("it is OTLP");
                for of_resource in request.resource_spans {
                    self.resource = texts(of_resource.resource.unwrap_or_default().attributes);
                    let spans = of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans);
                    self.spans.extend(spans.map(|span| Span {
                        name: span.name,
                        kind: span.kind,
                        trace: hex(&span.trace_id),
                        id: hex(&span.span_id),
                        parent: hex(&span.parent_span_id),
                        links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
                        attributes: texts(span.attributes),
                        failed: span.status.filter(|s| s.code == 2).map(|s| s.message),
                    }));
                }
            }
            "/v1/metrics" => {
                let request = ExportMetricsServiceRequest::decode(body).expect("it is OTLP");
                let scopes = request.resource_metrics.into_iter().flat_map(|r| r.scope_metrics);
                for metric in scopes.flat_map(|scope| scope.metrics) {
                    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
                    let numbers = match metric.data.expect("numbers") {
                        Data::Gauge(gauge) => gauge.data_points.len(),
                        Data::Sum(sum) => sum.data_points.len(),
                        Data::Histogram(histogram) => histogram.data_points.len(),
                        other => panic!("{other:?}"),
                    };
                    *self.metrics.entry(metric.name).or_default() += numbers;
                }
            }
            other => panic!("nothing is sent to {other}"),
        }
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Value| match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        Value::BoolValue(truth) => truth.to_string(),
        other => format!("{other:?}"),
    };
    attributes
        .into_iter()
        .filter_map(|a| Some((a.key, text(a.value?.value?))))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
