//! The bare relay: signs the body of each POST, forwards it over a pooled connection and responds with 202.

use std::io::Write;

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Semaphore;

use crate::common::CONCURRENCY;

pub fn run(sink: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(serve(sink.to_owned()));
}

async fn serve(sink: String) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("listening on {}", listener.local_addr().expect("an address"));
    std::io::stdout().flush().expect("standard output");
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).pool_max_idle_per_host(CONCURRENCY).build(connector);
    let slots: &'static Semaphore = Box::leak(Box::new(Semaphore::new(CONCURRENCY)));
    let uri: hyper::Uri = format!("http://{sink}/").parse().expect("the sink's address");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("nodelay");
        let (client, uri) = (client.clone(), uri.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request: Request<Incoming>| {
                let (client, uri) = (client.clone(), uri.clone());
                async move {
                    let body = request.into_body().collect().await?.to_bytes();
                    // Respond before the delivery, as the durable worker does.
                    tokio::spawn(async move {
                        let _slot = slots.acquire().await.expect("a semaphore");
                        let mut mac = Hmac::<sha2::Sha256>::new_from_slice(b"secret").expect("a key");
                        mac.update(&body);
                        let signature = format!("sha256={}", hex::encode(mac.finalize().into_bytes()));
                        let request = Request::post(uri)
                            .header("content-type", "application/json")
                            .header("x-kong-signature", signature)
                            .body(Full::new(body))
                            .expect("a request");
                        if let Ok(response) = client.request(request).await {
                            response.into_body().collect().await.ok();
                        }
                    });
                    let mut response = Response::new(Full::new(Bytes::from_static(b"{}")));
                    *response.status_mut() = http::StatusCode::ACCEPTED;
                    Ok::<_, hyper::Error>(response)
                }
            });
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
    }
}
