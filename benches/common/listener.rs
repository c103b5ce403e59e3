//! The receiving half of the bare relays: an HTTP/1 server on a free port that prints its address.

use std::io::Write;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::value::RawValue;

/// A request with its events.
pub struct Posted {
    pub body: Bytes,
    pub is_batch: bool,
}

impl Posted {
    /// Returns the events, each a part of the body.
    pub fn events(&self) -> Vec<Bytes> {
        if !self.is_batch {
            return vec![self.body.clone()];
        }
        let events: Vec<&RawValue> = serde_json::from_slice(&self.body).expect("a batch");
        events.into_iter().map(|event| self.body.slice_ref(event.get().as_bytes())).collect()
    }
}

/// Serves until the process is killed. Each request is answered with 202 when `accept` returns.
pub async fn serve<F: Future<Output = ()> + Send>(
    accept: impl Fn(Posted) -> F + Clone + Send + Sync + 'static,
) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("listening on {}", listener.local_addr().expect("an address"));
    std::io::stdout().flush().expect("standard output");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("nodelay");
        let accept = accept.clone();
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let accept = accept.clone();
                async move { respond(request, accept).await }
            });
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
    }
}

async fn respond<F: Future<Output = ()>>(
    request: Request<Incoming>,
    accept: impl Fn(Posted) -> F,
) -> hyper::Result<Response<Full<Bytes>>> {
    let content_type = request.headers().get("content-type");
    let is_batch =
        content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/cloudevents-batch"));
    let body = request.into_body().collect().await?.to_bytes();
    accept(Posted { body, is_batch }).await;
    let mut response = Response::new(Full::new(Bytes::from_static(b"{}")));
    *response.status_mut() = http::StatusCode::ACCEPTED;
    Ok(response)
}
