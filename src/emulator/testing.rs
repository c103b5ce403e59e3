//! Test fixtures: an emulator and a receiver on loopback sockets.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::error::Error;

/// A running emulator and a client for it. Stops when dropped.
pub(super) struct EmulatorServer {
    pub url: String,
    pub client: reqwest::Client,
    /// Sent with every request.
    pub bearer: Option<String>,
    task: JoinHandle<Result<(), Error>>,
}

impl Drop for EmulatorServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl EmulatorServer {
    pub async fn start<F>(serve: impl FnOnce(TcpListener) -> F) -> EmulatorServer
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(serve(listener));
        EmulatorServer { url, client: client(), bearer: None, task }
    }

    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method.parse().unwrap(), format!("{}{path}", self.url));
        match &self.bearer {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let mut request = self.request(method, path);
        if !body.is_null() {
            request = request.json(&body);
        }
        read(request.send().await.unwrap()).await
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, Value::Null).await
    }

    /// Polls a path until its response satisfies the predicate; fails after 15 s.
    pub async fn wait_until(&self, path: &str, predicate: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..600 {
            let (_, answer) = self.get(path).await;
            if predicate(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("timed out: {path} is still {}", self.get(path).await.1);
    }
}

pub(super) fn client() -> reqwest::Client {
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap()
}

pub(super) async fn read(response: reqwest::Response) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or(Value::Null))
}

/// A request as the receiver got it: headers, JSON body (or null) and raw body.
pub(super) type ReceivedRequest = (HeaderMap, Value, Vec<u8>);

type Shared = (mpsc::UnboundedSender<ReceivedRequest>, Arc<Mutex<VecDeque<u16>>>);

async fn receive(State((requests, statuses)): State<Shared>, request: Request) -> StatusCode {
    let (parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, 4 << 20).await.unwrap().to_vec();
    let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    requests.send((parts.headers, json, bytes)).unwrap();
    let status = statuses.lock().pop_front().unwrap_or(202);
    StatusCode::from_u16(status).unwrap()
}

/// An HTTP receiver that records its requests. Stops when dropped.
pub(super) struct Receiver {
    pub url: String,
    /// Statuses of the next responses; afterwards 202.
    pub statuses: Arc<Mutex<VecDeque<u16>>>,
    requests: mpsc::UnboundedReceiver<ReceivedRequest>,
    task: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    pub async fn start_at(address: SocketAddr) -> Receiver {
        let listener = TcpListener::bind(address).await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (sender, requests) = mpsc::unbounded_channel();
        let statuses = Arc::default();
        let router = Router::new().fallback(receive).with_state((sender, Arc::clone(&statuses)));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Receiver { url, statuses, requests, task }
    }

    pub async fn start() -> Receiver {
        Receiver::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    /// Starts a receiver that answers its first requests with `statuses`.
    pub async fn with_statuses(statuses: &[u16]) -> Receiver {
        let receiver = Receiver::start().await;
        receiver.statuses.lock().extend(statuses);
        receiver
    }

    pub async fn next(&mut self) -> ReceivedRequest {
        timeout(Duration::from_secs(10), self.requests.recv()).await.expect("a request within 10 s").unwrap()
    }

    /// Asserts that no request arrives within 150 ms.
    pub async fn assert_no_request(&mut self) {
        assert!(timeout(Duration::from_millis(150), self.requests.recv()).await.is_err());
    }
}
