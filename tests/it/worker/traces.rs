//! `--otlp-endpoint`: traces of events. A receiver of the harness is the collector.

use std::collections::BTreeSet;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AttributeValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::{Value, json};

use crate::harness::http::answer;
use crate::harness::manifests::{event, hook, merge, quick};
use crate::harness::metrics::{DELIVERED, FINISHED};
use crate::harness::standalone::{EVENTS, Standalone};
use crate::harness::{DEADLINE, Kong, Process, Receiver, Recorded, Reply, eventually, watchdog};

const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SENDER_SPAN: &str = "00f067aa0ba902b7";
const SENDER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const SPANS: &str = "hookstream_trace_spans";

/// Starts a worker with one hook, and flags for this collector.
async fn start(collector: &Receiver, receiver: &Receiver, flags: &[&str]) -> Standalone {
    let mut spec = quick();
    merge(&mut spec, json!({"handler": {"webhook": {"format": "CloudEvents"}}}));
    let url = collector.url();
    let flags = [&["--otlp-endpoint", &url], flags].concat();
    Standalone::start(&hook("h", &receiver.url(), spec), &flags).await
}

/// Publishes an event with these headers.
async fn publish(standalone: &Standalone, event: &Value, headers: &[(&str, &str)]) {
    let mut request = standalone.client.post(standalone.url(EVENTS)).json(event);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (status, answer) = answer(request).await;
    assert_eq!(status, 202, "{answer}");
}

/// Returns the spans that the collector received.
fn spans(requests: &[Recorded]) -> Vec<Span> {
    let decode = |request: &Recorded| ExportTraceServiceRequest::decode(request.body.clone()).unwrap();
    let resources = requests.iter().flat_map(|request| decode(request).resource_spans);
    resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect()
}

/// Waits until the collector has spans of these names, in any order.
async fn wait_for_spans(collector: &Receiver, names: &[&str]) -> Vec<Span> {
    let mut expected = names.to_vec();
    expected.sort_unstable();
    eventually(DEADLINE, &format!("spans {names:?}"), async || {
        let spans = spans(&collector.requests());
        let mut found: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
        found.sort_unstable();
        if found == expected { Ok(spans.clone()) } else { Err(format!("{found:?}")) }
    })
    .await
}

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    let mut named: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    named.sort_by_key(|span| span.start_time_unix_nano);
    named
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match attribute.value.clone()?.value? {
        AttributeValue::StringValue(text) => Some(text),
        AttributeValue::IntValue(number) => Some(number.to_string()),
        AttributeValue::BoolValue(flag) => Some(flag.to_string()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_sender_to_receiver() {
    let collector = Receiver::start(|_, _| Reply::status(200));
    let receiver = Receiver::start(|_, n| Reply::status(if n == 1 { 503 } else { 200 }));
    let headers = watchdog::unique_path("headers");
    std::fs::write(&headers, "x-key: s3cret-key\n").unwrap();
    let flags = ["--otlp-headers-file", headers.to_str().unwrap(), "--log-level", "info,hookstream=debug"];
    let standalone = start(&collector, &receiver, &flags).await;
    let body = json!({"id": "1", "source": "s", "event": "e", "data": {"card": "pay10ad"}});
    publish(&standalone, &body, &[("traceparent", SENDER), ("tracestate", "vendor=1")]).await;
    let attempts = receiver.wait_for(2, DEADLINE).await;

    let all = wait_for_spans(&collector, &["ingest", "commit", "queue", "attempt", "queue", "attempt"]).await;
    assert!(all.iter().all(|span| hex::encode(&span.trace_id) == TRACE_ID), "{all:#?}");
    let ids: BTreeSet<_> = all.iter().map(|span| &span.span_id).collect();
    assert_eq!(ids.len(), all.len(), "each span has an id of its own");
    let ingest = named(&all, "ingest")[0];
    assert_eq!(hex::encode(&ingest.parent_span_id), SENDER_SPAN);
    for span in all.iter().filter(|span| span.name != "ingest") {
        assert_eq!(span.parent_span_id, ingest.span_id, "{span:#?}");
    }
    assert!(all.iter().all(|span| span.start_time_unix_nano <= span.end_time_unix_nano));
    let commit = named(&all, "commit")[0];
    assert!(ingest.start_time_unix_nano <= commit.start_time_unix_nano);
    assert!(commit.end_time_unix_nano <= ingest.end_time_unix_nano);

    let (queues, sent) = (named(&all, "queue"), named(&all, "attempt"));
    for ((span, queue), request) in sent.iter().zip(&queues).zip(&attempts) {
        assert_eq!(queue.end_time_unix_nano, span.start_time_unix_nano);
        let expected = format!("00-{TRACE_ID}-{}-01", hex::encode(&span.span_id));
        assert_eq!(request.header("traceparent"), expected, "the receiver's parent is the attempt");
        assert_eq!(request.header("tracestate"), "vendor=1");
        // CloudEvents: the attribute has the context in which the event was created, at every hop.
        assert_eq!(request.json()["traceparent"], SENDER);
        assert_eq!(attribute(span, "hookstream.delivery.id").as_deref(), Some(request.header("webhook-id")));
    }
    let of = |span: &Span, key: &str| attribute(span, key);
    let [failed, delivered] = [sent[0], sent[1]];
    assert_eq!(of(failed, "http.response.status_code").as_deref(), Some("503"));
    assert_eq!(of(failed, "error.type").as_deref(), Some("Status"));
    assert!(failed.status.is_some() && delivered.status.is_none());
    assert_eq!(of(failed, "hookstream.attempt").as_deref(), Some("1"));
    assert_eq!(of(delivered, "hookstream.attempt").as_deref(), Some("2"));
    assert_eq!(of(delivered, "hookstream.hook").as_deref(), Some("h"));
    assert_eq!(of(ingest, "hookstream.event.id").as_deref(), Some("1"));
    assert_eq!(of(ingest, "hookstream.deliveries").as_deref(), Some("1"));

    for request in collector.requests() {
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/traces"));
        assert_eq!(request.header("content-type"), "application/x-protobuf");
        assert_eq!(request.header("x-key"), "s3cret-key");
        let text = String::from_utf8_lossy(&request.body).into_owned();
        for secret in ["pay10ad", "s3cret", &receiver.address().to_string()] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }
    assert!(!standalone.process().log().contains("s3cret"));
    standalone.wait_for_count(SPANS, &[r#"outcome="exported""#], 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_that_begins_here_continues_after_a_restart() {
    let collector = Receiver::start(|_, _| Reply::status(200));
    let receiver = Receiver::start(|_, _| Reply::status(503));
    let mut standalone = start(&collector, &receiver, &[]).await;
    standalone.publish_accepted(&event("1")).await;
    let ingest = eventually(DEADLINE, "the ingest span", async || {
        let spans = spans(&collector.requests());
        spans.into_iter().find(|span| span.name == "ingest").ok_or_else(String::new)
    })
    .await;
    assert!(ingest.parent_span_id.is_empty(), "{ingest:#?}");
    receiver.script(|_, _| Reply::status(200));
    standalone.restart().await;
    standalone.wait_for_count(FINISHED, &[DELIVERED], 1).await;
    let last = receiver.requests().pop().unwrap();
    let parts: Vec<&str> = last.header("traceparent").split('-').collect();
    assert_eq!(parts[1], hex::encode(&ingest.trace_id));
    let delivered = eventually(DEADLINE, "the last attempt", async || {
        let spans = spans(&collector.requests());
        spans.into_iter().find(|span| hex::encode(&span.span_id) == parts[2]).ok_or_else(String::new)
    })
    .await;
    assert_eq!(delivered.parent_span_id, ingest.span_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn sender_and_ratio_decide_what_is_exported() {
    let collector = Receiver::start(|_, _| Reply::status(200));
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = start(&collector, &receiver, &["--otlp-sample-ratio", "0"]).await;
    let unsampled = SENDER.replace(TRACE_ID, &"1".repeat(32)).replace("-01", "-00");
    publish(&standalone, &event("none"), &[]).await;
    publish(&standalone, &event("unsampled"), &[("traceparent", &unsampled)]).await;
    receiver.wait_for(2, DEADLINE).await;
    publish(&standalone, &event("sampled"), &[("traceparent", SENDER)]).await;
    let spans = wait_for_spans(&collector, &["ingest", "commit", "queue", "attempt"]).await;
    assert!(spans.iter().all(|span| hex::encode(&span.trace_id) == TRACE_ID), "{spans:#?}");
    for request in receiver.requests() {
        let parent = request.header("traceparent");
        match request.json()["id"].as_str().unwrap() {
            "none" => assert_eq!(parent, ""),
            "unsampled" => assert_eq!(parent, unsampled),
            _ => assert!(parent.contains(TRACE_ID) && parent != SENDER, "{parent}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_event_has_an_ingest_span_and_no_attempt() {
    let collector = Receiver::start(|_, _| Reply::status(200));
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = start(&collector, &receiver, &[]).await;
    publish(&standalone, &event("1"), &[("traceparent", SENDER)]).await;
    publish(&standalone, &event("1"), &[("traceparent", SENDER)]).await;
    let spans =
        wait_for_spans(&collector, &["ingest", "commit", "queue", "attempt", "ingest", "commit"]).await;
    let ingests = named(&spans, "ingest");
    let duplicate = |span: &Span| attribute(span, "hookstream.duplicate");
    assert_eq!(duplicate(ingests[0]).as_deref(), Some("false"));
    assert_eq!(duplicate(ingests[1]).as_deref(), Some("true"));
    assert_ne!(ingests[0].span_id, ingests[1].span_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn relayed_event_begins_a_trace() {
    let collector = Receiver::start(|_, _| Reply::status(200));
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let kong = Kong::start(&[]).await;
    let spec = json!({"source": "crud", "event": "consumers", "connectionRef": {"name": "kong"}});
    let manifests = kong.connection() + &hook("relayed", &receiver.url(), spec);
    let url = collector.url();
    let _standalone = Standalone::start(&manifests, &["--otlp-endpoint", &url]).await;
    kong.wait_for_hooks(1).await;
    kong.emit("crud", "consumers", json!({"entity": {"id": "1"}, "operation": "create"})).await;
    let spans = wait_for_spans(&collector, &["ingest", "commit", "queue", "attempt"]).await;
    let (ingest, attempt) = (named(&spans, "ingest")[0], named(&spans, "attempt")[0]);
    assert!(ingest.parent_span_id.is_empty() && attempt.parent_span_id == ingest.span_id, "{spans:#?}");
    assert_eq!(attribute(ingest, "hookstream.origin").as_deref(), Some("relay"));
    let received = receiver.wait_for(1, DEADLINE).await.remove(0);
    assert!(received.header("traceparent").contains(&hex::encode(&attempt.span_id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_collector_delays_neither_deliveries_nor_the_stop() {
    let collector = Receiver::start(|_, _| Reply::Hang);
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = start(&collector, &receiver, &[]).await;
    standalone.publish_accepted(&event("first")).await;
    collector.wait_for(1, DEADLINE).await;
    for n in 0..20 {
        standalone.publish_accepted(&event(&n.to_string())).await;
    }
    standalone.wait_for_count(FINISHED, &[DELIVERED], 21).await;
    assert!(standalone.process().terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn refusing_collector_is_logged_once_and_counted() {
    let collector = Receiver::start(|_, _| Reply::status(400));
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = start(&collector, &receiver, &[]).await;
    for (n, lost) in [("1", 4), ("2", 8)] {
        standalone.publish_accepted(&event(n)).await;
        standalone.wait_for_count(SPANS, &[r#"outcome="export_failed""#], lost).await;
    }
    let log = standalone.process().log();
    assert_eq!(log.matches("export of spans failed").count(), 1, "{log}");
    assert!(log.contains("the collector answered 400"), "{log}");
    standalone.wait_for_count(FINISHED, &[DELIVERED], 2).await;
    collector.script(|_, _| Reply::status(200));
    standalone.publish_accepted(&event("3")).await;
    standalone.process().wait_for_line(|line| line.contains("export of spans works again"), DEADLINE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_exports_the_last_spans() {
    let collector = Receiver::start(|_, _| Reply::status(200));
    let receiver = Receiver::start(|_, _| Reply::status(200));
    let standalone = start(&collector, &receiver, &[]).await;
    standalone.publish_accepted(&event("1")).await;
    receiver.wait_for(1, DEADLINE).await;
    assert!(standalone.process().terminate().await.success());
    let names: BTreeSet<String> = spans(&collector.requests()).into_iter().map(|span| span.name).collect();
    assert_eq!(names, ["attempt", "commit", "ingest", "queue"].map(String::from).into());
}

#[test]
fn invalid_flags_are_rejected() {
    let folder = watchdog::unique_path("traces");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("headers"), "s3cret").unwrap();
    let (headers, missing) = (folder.join("headers"), folder.join("missing"));
    let (headers, missing) = (headers.to_str().unwrap(), missing.to_str().unwrap());
    let endpoint = ["--otlp-endpoint", "http://127.0.0.1:1"];
    for (flags, expected) in [
        (vec!["--otlp-endpoint", "grpc://127.0.0.1:4317"], "not gRPC"),
        (vec!["--otlp-endpoint", "http://us:s3cret@127.0.0.1:1"], "--otlp-headers-file"),
        (vec!["--otlp-headers-file", headers], "--otlp-endpoint <URL>"),
        ([&endpoint[..], &["--otlp-headers-file", headers]].concat(), "line 1"),
        ([&endpoint[..], &["--otlp-headers-file", missing]].concat(), "missing"),
        ([&endpoint[..], &["--otlp-sample-ratio", "2"]].concat(), "from 0 to 1"),
    ] {
        let command = ["standalone", "--manifests", folder.to_str().unwrap(), "--data", missing];
        let args = command.iter().chain(&["--ops-listen", "127.0.0.1:0"]).chain(&flags);
        let output = Process::command(args, &[]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {text}");
        assert!(text.contains(expected) && !text.contains("s3cret"), "{flags:?}: {text}");
    }
}
