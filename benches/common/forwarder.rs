//! The sending half of the bare relays: signs each event as Standard Webhooks asks and sends it over a pooled connection.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Semaphore;

use super::CONCURRENCY;

const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";

/// Sends events to one receiver, at most `CONCURRENCY` at a time.
pub struct Forwarder {
    client: Client<HttpConnector, Full<Bytes>>,
    slots: Semaphore,
    receiver: hyper::Uri,
    sent: AtomicU64,
}

impl Forwarder {
    /// `receiver`: its address.
    pub fn new(receiver: &str) -> Forwarder {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Forwarder {
            client: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(CONCURRENCY)
                .build(connector),
            slots: Semaphore::new(CONCURRENCY),
            receiver: format!("http://{receiver}/").parse().expect("the receiver's address"),
            sent: AtomicU64::new(0),
        }
    }

    /// Sends an event and waits for the response, whatever it is.
    pub async fn forward(&self, event: Bytes) {
        let _slot = self.slots.acquire().await.expect("a semaphore");
        let id = format!("msg_{}", self.sent.fetch_add(1, Ordering::Relaxed));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_secs();
        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(KEY).expect("a key");
        mac.update(format!("{id}.{now}.").as_bytes());
        mac.update(&event);
        let signature = format!("v1,{}", BASE64_STANDARD.encode(mac.finalize().into_bytes()));
        let request = Request::post(self.receiver.clone())
            .header("content-type", "application/cloudevents+json; charset=utf-8")
            .header("webhook-id", id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", signature)
            .body(Full::new(event))
            .expect("a request");
        if let Ok(response) = self.client.request(request).await {
            response.into_body().collect().await.ok();
        }
    }
}
