//! An HTTP receiver that records requests and answers by a script.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::{Semaphore, oneshot};

use super::eventually;

/// A recorded request.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub method: String,
    /// Path and query.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub time: SystemTime,
    /// Arrival on the monotonic clock, for measuring durations.
    pub at: Instant,
}

impl Recorded {
    /// Returns a header's value, or an empty string.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

/// An answer of the receiver.
#[derive(Clone, Debug)]
pub enum Reply {
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        body: Bytes,
    },
    /// Sends the status and this part of a body, then breaks the connection.
    BreakAfter {
        status: u16,
        body: Bytes,
    },
    /// Sends the reply after a delay.
    After(Duration, Box<Reply>),
    /// Sends the reply when it gets a permit of the semaphore: the test adds one for each reply.
    AfterPermit(Arc<Semaphore>, Box<Reply>),
    /// Sends nothing and keeps the connection open.
    Hang,
    /// Sends nothing and closes the connection.
    Close,
}

impl Reply {
    pub fn status(status: u16) -> Reply {
        Reply::Answer { status, headers: Vec::new(), body: Bytes::new() }
    }

    pub fn header(mut self, name: &str, value: impl Into<String>) -> Reply {
        if let Reply::Answer { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.into()));
        }
        self
    }

    pub fn body(mut self, text: impl Into<Bytes>) -> Reply {
        if let Reply::Answer { body, .. } = &mut self {
            *body = text.into();
        }
        self
    }
}

type Script = Arc<dyn Fn(&Recorded, usize) -> Reply + Send + Sync>;

struct Shared {
    requests: Mutex<Vec<Recorded>>,
    script: Mutex<Script>,
}

pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Receiver {
    /// Starts a receiver. The script answers the n-th request (from 1).
    pub fn start(script: impl Fn(&Recorded, usize) -> Reply + Send + Sync + 'static) -> Receiver {
        Receiver::start_at((Ipv4Addr::LOCALHOST, 0).into(), script)
    }

    /// Starts a receiver at a given address, for example one that returns after an outage.
    pub fn start_at(
        address: SocketAddr,
        script: impl Fn(&Recorded, usize) -> Reply + Send + Sync + 'static,
    ) -> Receiver {
        let listener = std::net::TcpListener::bind(address).expect("the receiver's address");
        let address = listener.local_addr().expect("its address");
        listener.set_nonblocking(true).expect("a listener for tokio");
        let shared = Arc::new(Shared { requests: Mutex::default(), script: Mutex::new(Arc::new(script)) });
        let (stop, stopped) = oneshot::channel();
        let serving = Arc::clone(&shared);
        // A runtime of its own: the receiver must answer while the test's runtime is blocked.
        let thread = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, serving) => {}
                    _ = stopped => {}
                }
            });
        });
        Receiver { address, shared, stop: Some(stop), thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Replaces the script. The count of requests goes on.
    pub fn script(&self, script: impl Fn(&Recorded, usize) -> Reply + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap() = Arc::new(script);
    }

    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Waits until there are at least `n` requests and returns all of them.
    pub async fn wait_for(&self, n: usize, deadline: Duration) -> Vec<Recorded> {
        eventually(deadline, &format!("{n} requests"), async || {
            let requests = self.requests();
            if requests.len() >= n {
                Ok(requests)
            } else {
                Err(format!("{} requests: {requests:#?}", requests.len()))
            }
        })
        .await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Joins the thread, so that the port is free when this returns.
        self.stop.take().map(|stop| stop.send(()));
        self.thread.take().map(|thread| thread.join());
    }
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    loop {
        let (stream, _) = listener.accept().await.expect("accepting");
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
            // An error is the effect of Reply::Close or Reply::BreakAfter on a connection, or a client that closed it.
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await
                .ok();
        });
    }
}

type Body = BoxBody<Bytes, std::io::Error>;

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, std::io::Error> {
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return Err(closed()) };
    let recorded = Recorded {
        method: head.method.to_string(),
        path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: head.headers,
        body: body.to_bytes(),
        time: SystemTime::now(),
        at: Instant::now(),
    };
    let number = {
        let mut requests = shared.requests.lock().unwrap();
        requests.push(recorded.clone());
        requests.len()
    };
    let script = Arc::clone(&shared.script.lock().unwrap());
    let mut reply = script(&recorded, number);
    let reply = loop {
        reply = match reply {
            Reply::After(delay, next) => {
                tokio::time::sleep(delay).await;
                *next
            }
            Reply::AfterPermit(permits, next) => {
                permits.acquire().await.expect("an open semaphore").forget();
                *next
            }
            reply => break reply,
        };
    };
    let (status, headers, body): (u16, Vec<(String, String)>, Body) = match reply {
        Reply::Answer { status, headers, body } => {
            (status, headers, http_body_util::Full::new(body).map_err(|e: Infallible| match e {}).boxed())
        }
        Reply::BreakAfter { status, body } => {
            // Yields once so that hyper flushes the first frame; otherwise the status would be lost with the body.
            let breaks = async {
                tokio::task::yield_now().await;
                Err(closed())
            };
            let frames = stream::iter([Ok(Frame::data(body))]).chain(stream::once(breaks));
            (status, Vec::new(), BodyExt::boxed(StreamBody::new(frames)))
        }
        Reply::Hang => std::future::pending().await,
        Reply::Close | Reply::After(..) | Reply::AfterPermit(..) => return Err(closed()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("a header's name");
        response.headers_mut().append(name, HeaderValue::from_str(&value).expect("a header's value"));
    }
    Ok(response)
}

fn closed() -> std::io::Error {
    std::io::Error::other("closed by the script")
}
