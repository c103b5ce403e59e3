//! What the emulators' tests stand on: an emulator and a receiver on loopback sockets.

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

use super::Error;

pub(super) struct Server {
    pub url: String,
    pub client: reqwest::Client,
    /// Sent with every request.
    pub bearer: Option<String>,
    task: JoinHandle<Result<(), Error>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub async fn start<F>(serve: impl FnOnce(TcpListener) -> F) -> Server
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let task = tokio::spawn(serve(listener));
        Server { url, client: client(), bearer: None, task }
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

    /// Asks until the answer fits.
    pub async fn until(&self, path: &str, fits: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..600 {
            let (_, answer) = self.get(path).await;
            if fits(&answer) {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{path} stays {}", self.get(path).await.1);
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

/// What a receiver got.
pub(super) type Got = (HeaderMap, Value, Vec<u8>);

type Shared = (mpsc::UnboundedSender<Got>, Arc<Mutex<VecDeque<u16>>>);

async fn receive(State((seen, answers)): State<Shared>, request: Request) -> StatusCode {
    let (parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, 4 << 20).await.unwrap().to_vec();
    let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    seen.send((parts.headers, json, bytes)).unwrap();
    let status = answers.lock().pop_front().unwrap_or(202);
    StatusCode::from_u16(status).unwrap()
}

pub(super) struct Receiver {
    pub url: String,
    /// What it answers to the next requests; then 202.
    pub answers: Arc<Mutex<VecDeque<u16>>>,
    got: mpsc::UnboundedReceiver<Got>,
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
        let (send, got) = mpsc::unbounded_channel();
        let answers = Arc::default();
        let router = Router::new().fallback(receive).with_state((send, Arc::clone(&answers)));
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Receiver { url, answers, got, task }
    }

    pub async fn start() -> Receiver {
        Receiver::start_at("127.0.0.1:0".parse().unwrap()).await
    }

    /// One that answers so to its first requests.
    pub async fn answering(statuses: &[u16]) -> Receiver {
        let receiver = Receiver::start().await;
        receiver.answers.lock().extend(statuses);
        receiver
    }

    pub async fn next(&mut self) -> Got {
        timeout(Duration::from_secs(10), self.got.recv()).await.expect("a request").unwrap()
    }

    pub async fn nothing(&mut self) {
        assert!(timeout(Duration::from_millis(150), self.got.recv()).await.is_err());
    }
}
