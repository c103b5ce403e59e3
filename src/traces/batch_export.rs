//! Exports spans in batches over OTLP/HTTP (protobuf), through the HTTP client of the deliveries: the egress policy, the
//! proxy and the certificate authorities apply.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::headers_file::HeadersFile;
use super::span::text;
use super::{QUEUE_CAPACITY, Traces};
use crate::metrics::{Metrics, SpanOutcome};
use crate::net::{HttpClient, HttpResponse, SendError};

/// The most spans of one request.
const MAX_BATCH: usize = 512;
/// How long a span waits for others.
const BATCH_DELAY: Duration = Duration::from_secs(1);
/// The deadline of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a request is repeated, and the pauses between: doubled each time from the first to the longest.
const MAX_RETRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long the end of the process waits for the export of the last spans.
const FINISH_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes of a response that are read.
const MAX_RESPONSE: usize = 16 * 1024;
const PROGRAM: &str = "hookstream";

/// The collector, and what is recorded for it.
pub struct Collector {
    /// The address that receives the spans, with its path.
    pub uri: Uri,
    pub headers: Option<HeadersFile>,
    /// The fraction of the traces that begin here which are recorded, 0 to 1.
    pub sample_ratio: f64,
}

/// The task that exports spans.
pub struct ExportTask {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl ExportTask {
    /// Exports the recorded spans, for a few seconds at most.
    pub async fn finish(mut self) {
        self.stop.cancel();
        if tokio::time::timeout(FINISH_TIMEOUT, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

impl Traces {
    /// Starts the export of traces to a collector.
    pub fn start(collector: Collector, http: HttpClient, metrics: Arc<Metrics>) -> (Traces, ExportTask) {
        let (traces, queue) = Traces::with_queue(QUEUE_CAPACITY, collector.sample_ratio, metrics.clone());
        let stop = CancellationToken::new();
        let exporter = Exporter { queue, collector, http, metrics, resource: resource(), is_failing: false };
        let task = tokio::spawn(exporter.run(stop.clone()));
        (traces, ExportTask { stop, task })
    }
}

/// Returns the attributes of all spans: the program, its version, and an id of this process.
fn resource() -> Resource {
    let instance = uuid::Uuid::from_u128(fastrand::u128(..)).to_string();
    let attributes = vec![
        text("service.name", PROGRAM),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("service.instance.id", &instance),
    ];
    Resource { attributes, ..Resource::default() }
}

struct Exporter {
    queue: mpsc::Receiver<Span>,
    collector: Collector,
    http: HttpClient,
    metrics: Arc<Metrics>,
    resource: Resource,
    /// The last request failed, and the log says so.
    is_failing: bool,
}

/// The result of one request.
#[derive(Debug, PartialEq, Eq)]
enum ExportOutcome {
    /// The collector accepted the spans, but for some that it rejected.
    Accepted {
        rejected: u64,
    },
    /// A later request may succeed.
    Retry {
        why: String,
        after: Option<Duration>,
    },
    Refused {
        why: String,
    },
}

impl Exporter {
    /// Exports until `stop`, and then the spans that are queued.
    async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        let mut is_open = true;
        while is_open {
            is_open = self.collect(&mut batch, &stop).await;
            if !batch.is_empty() {
                let count = batch.len() as u64;
                let body = self.encode(std::mem::take(&mut batch));
                self.export(body, count, &stop).await;
            }
        }
    }

    /// Collects a batch. Returns false if there are no more spans after it.
    async fn collect(&mut self, batch: &mut Vec<Span>, stop: &CancellationToken) -> bool {
        let mut deadline: Option<Instant> = None;
        while batch.len() < MAX_BATCH {
            let delay = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let capacity = MAX_BATCH.saturating_sub(batch.len());
            let is_closed = self.queue.is_closed();
            tokio::select! {
                received = self.queue.recv_many(batch, capacity) => match received {
                    0 => return false,
                    _ => deadline = deadline.or_else(|| Some(Instant::now() + BATCH_DELAY)),
                },
                () = stop.cancelled(), if !is_closed => self.queue.close(),
                () = delay => break,
            }
        }
        true
    }

    fn encode(&self, spans: Vec<Span>) -> Bytes {
        let scope = InstrumentationScope {
            name: PROGRAM.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let spans = ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() };
        let spans = ResourceSpans {
            resource: Some(self.resource.clone()),
            scope_spans: vec![spans],
            ..ResourceSpans::default()
        };
        ExportTraceServiceRequest { resource_spans: vec![spans] }.encode_to_vec().into()
    }

    /// Sends a batch, and repeats that a few times while the collector is unavailable. New spans wait meanwhile, up to the
    /// capacity of the queue.
    async fn export(&mut self, body: Bytes, count: u64, stop: &CancellationToken) {
        let mut pause = FIRST_PAUSE;
        for retries_left in (0..=MAX_RETRIES).rev() {
            let why = match self.send(body.clone()).await {
                ExportOutcome::Accepted { rejected } => {
                    let rejected = rejected.min(count);
                    self.metrics.traces.record(SpanOutcome::Exported, count - rejected);
                    self.metrics.traces.record(SpanOutcome::Rejected, rejected);
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!("export of spans works again");
                    }
                    return;
                }
                ExportOutcome::Retry { why, after } if retries_left > 0 && !stop.is_cancelled() => {
                    self.report_failure(&why);
                    tokio::select! {
                        () = tokio::time::sleep(after.unwrap_or(pause).min(LONGEST_PAUSE)) => {}
                        // Try once more, and then end.
                        () = stop.cancelled() => {}
                    }
                    pause = pause.saturating_mul(2);
                    continue;
                }
                ExportOutcome::Retry { why, .. } | ExportOutcome::Refused { why } => why,
            };
            self.report_failure(&why);
            break;
        }
        self.metrics.traces.record(SpanOutcome::ExportFailed, count);
    }

    /// Logs the first failure of several.
    fn report_failure(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(error = why, "export of spans failed, deliveries continue without them");
        }
    }

    async fn send(&mut self, body: Bytes) -> ExportOutcome {
        let mut headers = match &mut self.collector.headers {
            Some(file) => file.read().await.clone(),
            None => HeaderMap::new(),
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers
            .insert(USER_AGENT, HeaderValue::from_static(concat!("hookstream/", env!("CARGO_PKG_VERSION"))));
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.collector.uri.clone();
        *request.headers_mut() = headers;
        outcome_of(self.http.send(request, REQUEST_TIMEOUT, MAX_RESPONSE).await)
    }
}

/// Returns the outcome of a request, by the rules of OTLP/HTTP.
fn outcome_of(sent: Result<HttpResponse, SendError>) -> ExportOutcome {
    let response = match sent {
        Ok(response) => response,
        Err(error @ SendError::EgressDenied(_)) => return ExportOutcome::Refused { why: error.to_string() },
        Err(error) => return ExportOutcome::Retry { why: error.to_string(), after: None },
    };
    let why = || format!("the collector answered {}", response.status.as_u16());
    match response.status {
        status if status.is_success() => {
            // A collector that answers with another format accepted the spans all the same.
            let answer = ExportTraceServiceResponse::decode(&*response.body).ok();
            let rejected =
                answer.and_then(|answer| answer.partial_success).map_or(0, |part| part.rejected_spans);
            ExportOutcome::Accepted { rejected: u64::try_from(rejected).unwrap_or(0) }
        }
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            let after = response.headers.get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
            let after = after.and_then(|text| text.parse().ok()).map(Duration::from_secs);
            ExportOutcome::Retry { why: why(), after }
        }
        _ => ExportOutcome::Refused { why: why() },
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::collector::trace::v1::ExportTracePartialSuccess;

    use super::*;

    fn response(status: u16, retry_after: Option<&str>, body: Vec<u8>) -> Result<HttpResponse, SendError> {
        let headers = retry_after.map(|text| (http::header::RETRY_AFTER, text.parse().unwrap()));
        Ok(HttpResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers: headers.into_iter().collect(),
            body: body.into(),
            complete: true,
        })
    }

    #[test]
    fn each_answer_of_a_collector_has_its_outcome() {
        let part = ExportTracePartialSuccess { rejected_spans: 3, error_message: String::new() };
        let part = ExportTraceServiceResponse { partial_success: Some(part) }.encode_to_vec();
        assert_eq!(outcome_of(response(200, None, part)), ExportOutcome::Accepted { rejected: 3 });
        assert_eq!(outcome_of(response(200, None, b"{}".into())), ExportOutcome::Accepted { rejected: 0 });
        for status in [429, 502, 503, 504] {
            let outcome = outcome_of(response(status, Some("7"), Vec::new()));
            let ExportOutcome::Retry { after, .. } = outcome else { panic!("{status}: {outcome:?}") };
            assert_eq!(after, Some(Duration::from_secs(7)));
        }
        for status in [400, 401, 404, 500] {
            let outcome = outcome_of(response(status, None, Vec::new()));
            assert!(matches!(outcome, ExportOutcome::Refused { .. }), "{status}: {outcome:?}");
        }
        let outcome = outcome_of(Err(SendError::Timeout(REQUEST_TIMEOUT)));
        assert!(matches!(outcome, ExportOutcome::Retry { after: None, .. }), "{outcome:?}");
        let outcome = outcome_of(Err(SendError::EgressDenied("denied".into())));
        assert!(matches!(outcome, ExportOutcome::Refused { .. }), "{outcome:?}");
    }
}
