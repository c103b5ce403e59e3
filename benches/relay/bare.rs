//! The bare relay: signs each event of a POST as Standard Webhooks asks, forwards it over a pooled connection and
//! responds with 202. With a log file, it appends each request to it and syncs it before it responds.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::value::RawValue;
use tokio::sync::Semaphore;

use super::synced_log::SyncedLog;
use crate::common::CONCURRENCY;

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

/// What all connections share.
struct Relay {
    client: Client<HttpConnector, Full<Bytes>>,
    slots: Semaphore,
    receiver: hyper::Uri,
    log: Option<SyncedLog>,
    sent: AtomicU64,
}

/// Runs until the process is killed. `log`: the path of the file to which requests are appended.
pub fn run(receiver: &str, log: Option<&str>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let relay = Relay {
        client: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(CONCURRENCY).build(connector),
        slots: Semaphore::new(CONCURRENCY),
        receiver: format!("http://{receiver}/").parse().expect("the receiver's address"),
        log: log.map(SyncedLog::start),
        sent: AtomicU64::new(0),
    };
    runtime.block_on(serve(Box::leak(Box::new(relay))));
}

async fn serve(relay: &'static Relay) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("listening on {}", listener.local_addr().expect("an address"));
    std::io::stdout().flush().expect("standard output");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("nodelay");
        tokio::spawn(async move {
            let service =
                hyper::service::service_fn(move |request: Request<Incoming>| accept(relay, request));
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
    }
}

async fn accept(relay: &'static Relay, request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
    let content_type = request.headers().get("content-type");
    let is_batch =
        content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/cloudevents-batch"));
    let body = request.into_body().collect().await?.to_bytes();
    if let Some(log) = &relay.log {
        log.append(body.clone()).await;
    }
    // Respond before the delivery, as the durable worker does.
    if is_batch {
        let events: Vec<&RawValue> = serde_json::from_slice(&body).expect("a batch");
        for event in events {
            tokio::spawn(forward(relay, body.slice_ref(event.get().as_bytes())));
        }
    } else {
        tokio::spawn(forward(relay, body));
    }
    let mut response = Response::new(Full::new(Bytes::from_static(b"{}")));
    *response.status_mut() = http::StatusCode::ACCEPTED;
    Ok(response)
}

async fn forward(relay: &'static Relay, event: Bytes) {
    let _slot = relay.slots.acquire().await.expect("a semaphore");
    let id = format!("msg_{}", relay.sent.fetch_add(1, Ordering::Relaxed));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_secs();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(KEY).expect("a key");
    mac.update(format!("{id}.{now}.").as_bytes());
    mac.update(&event);
    let signature = format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()));
    let request = Request::post(relay.receiver.clone())
        .header("content-type", "application/cloudevents+json; charset=utf-8")
        .header("webhook-id", id)
        .header("webhook-timestamp", now)
        .header("webhook-signature", signature)
        .body(Full::new(event))
        .expect("a request");
    if let Ok(response) = relay.client.request(request).await {
        response.into_body().collect().await.ok();
    }
}
