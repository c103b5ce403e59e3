//! Rate limiting of all admin API calls. Each call waits for a scheduling slot, checks that this replica still leads, and
//! is counted in the metrics.
//!
//! Purpose: a decorator of the HTTP client with the same `send`, transparent to the vendors' clients.
//!
//! Breakers are shared by Connections with the same scheme, host, port and TLS identity, and turns by namespace: what one
//! tenant configures wrongly does not stop the calls of another.
//!
//! Invariants: a Connection never exceeds its own rate, and all Connections to one host never exceed the ceiling. A call
//! that would wait long fails with `AdminError::Postponed`, so that its reconcile is requeued instead of blocking others.
//! Leadership is checked after the wait, right before the call. A pause that the vendor requests applies to the whole
//! Connection.
//!
//! Out of scope: the scheduling order (`scheduler`, without I/O), the pause that a response requests (`pause`), and the
//! meaning of a response (the clients of the vendors).

mod pause;
mod response_memory;
mod scheduler;

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Full;
use parking_lot::Mutex;
use tokio::sync::Notify;

pub use pause::{VendorPause, requested_pause};
use response_memory::ResponseMemory;
#[cfg(test)]
pub use response_memory::response_for_tests;
pub use response_memory::{AdminMemory, AdminResponse};
pub use scheduler::Priority;
use scheduler::{CallOutcome, HostScheduler, Route, SlotDenied, SlotPoll};

use super::error::{AdminError, ErrorDetail};
use crate::core::bucket::Rate;
use crate::core::time::Millis;
use crate::leadership::Leadership;
use crate::memory::{MemoryPool, MemoryShare, Reservation};
use crate::metrics::Metrics;
use crate::net::{HttpClient, HttpResponse, SendError};

/// Number of hosts above which idle ones are removed.
const MAX_HOSTS: usize = 256;
/// Maximum remembered failures of the Connections to one host.
const MAX_FAILURES: usize = 1024;

tokio::task_local! {
    /// The operation that the current task belongs to.
    static OPERATION: Operation;
}

/// A reconcile or a list: several calls that are scheduled together.
#[derive(Clone)]
struct Operation {
    priority: Priority,
    /// True once its first call was sent. Its later calls then go first, because a requeue would repeat the first one.
    has_started: Arc<AtomicBool>,
    /// The memory of the parsed responses, until the operation ends.
    memory: Arc<Mutex<Vec<Reservation>>>,
}

/// Runs one operation (a reconcile, a list) whose calls all have this priority. Once the first call was sent, the later
/// ones wait for a slot instead of failing with `Postponed`. Calls outside of an operation have the priority of a resync.
pub async fn with_priority<F: Future>(priority: Priority, operation: F) -> F::Output {
    let started = Operation { priority, has_started: Arc::default(), memory: Arc::default() };
    OPERATION.scope(started, operation).await
}

/// Keeps the memory reserved until the operation of the current task ends. Returns it if the task belongs to none.
fn hold_during_operation(reserved: Reservation) -> Option<Reservation> {
    match OPERATION.try_with(|operation| operation.memory.clone()) {
        Ok(memory) => {
            memory.lock().push(reserved);
            None
        }
        Err(_) => Some(reserved),
    }
}

/// The schedulers of all hosts that this process calls.
pub struct Pacer {
    ceiling: Rate,
    leadership: Leadership,
    metrics: Arc<Metrics>,
    /// Bounds the responses of all calls together.
    memory: Arc<MemoryPool>,
    hosts: Mutex<HashMap<String, Arc<SharedHost>>>,
}

/// The scheduler of one host, shared by its callers.
struct SharedHost {
    scheduler: Mutex<HostScheduler>,
    /// Notified when a call leaves the queue or completes.
    changed: Notify,
    /// The last failures, which are reported to calls that an open breaker denies.
    failures: Mutex<LastFailures>,
}

/// The last failure of each Connection and each route without a success since. A Connection sees only its own failures
/// and the connect failures of its route: another tenant's error may quote its configuration.
#[derive(Default)]
struct LastFailures {
    by_connection: HashMap<Arc<str>, AdminError>,
    by_route: HashMap<Route, AdminError>,
}

impl LastFailures {
    fn record(&mut self, connection: &Arc<str>, route: Option<Route>, error: AdminError) {
        if self.by_connection.len() >= MAX_FAILURES {
            self.by_connection.clear();
        }
        if self.by_route.len() >= MAX_FAILURES {
            self.by_route.clear();
        }
        if let Some(route) = route {
            self.by_route.insert(route, error.clone());
        }
        self.by_connection.insert(connection.clone(), error);
    }

    fn forget(&mut self, connection: &Arc<str>, route: Route) {
        self.by_connection.remove(connection);
        self.by_route.remove(&route);
    }

    fn find(&self, connection: &str, route: Route) -> Option<AdminError> {
        self.by_connection.get(connection).or_else(|| self.by_route.get(&route)).cloned()
    }
}

impl fmt::Debug for Pacer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pacer").field("ceiling", &self.ceiling).finish_non_exhaustive()
    }
}

impl Pacer {
    /// `response_memory`: the bytes of all responses together that are held at a time.
    pub fn new(
        ceiling: Rate,
        leadership: Leadership,
        metrics: Arc<Metrics>,
        response_memory: u64,
    ) -> Arc<Self> {
        let share = metrics.memory.share(MemoryShare::AdminResponses.into());
        let memory = Arc::new(MemoryPool::new(response_memory, share));
        Arc::new(Pacer { ceiling, leadership, metrics, memory, hosts: Mutex::default() })
    }

    /// Returns the HTTP client of a Connection. `connection` is its namespace and name; `rate` is the limit in its spec.
    pub fn client(self: &Arc<Self>, http: HttpClient, connection: &str, rate: Option<Rate>) -> AdminHttp {
        AdminHttp { http, pacer: self.clone(), connection: connection.into(), rate }
    }

    /// Returns the name (`host:port`) and the scheduler of a URI's host.
    fn host(&self, uri: &Uri) -> (String, Arc<SharedHost>) {
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
        let name = format!("{}:{port}", uri.host().unwrap_or_default().to_ascii_lowercase());
        let mut hosts = self.hosts.lock();
        if hosts.len() >= MAX_HOSTS && !hosts.contains_key(&name) {
            let now = Millis::steady();
            // A reference elsewhere means that a call uses the host now.
            hosts.retain(|_, host| Arc::strong_count(host) > 1 || !host.scheduler.lock().evict_idle(now));
        }
        let host = hosts.entry(name.clone()).or_insert_with(|| {
            let scheduler = Mutex::new(HostScheduler::new(self.ceiling, Millis::steady()));
            Arc::new(SharedHost { scheduler, changed: Notify::new(), failures: Mutex::default() })
        });
        (name, host.clone())
    }
}

/// The HTTP client of one Connection's admin API.
#[derive(Clone, Debug)]
pub struct AdminHttp {
    http: HttpClient,
    pacer: Arc<Pacer>,
    connection: Arc<str>,
    rate: Option<Rate>,
}

impl AdminHttp {
    /// Waits for a scheduling slot and sends the request. `timeout` starts when it is sent.
    ///
    /// Errors: `Postponed` if no slot is free soon, `RateLimited` while the vendor requests a pause, and `NotLeading`.
    /// While the breaker of the host is open, the last failure of the host. Otherwise the error of the call.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
        max_body: usize,
    ) -> Result<AdminResponse, AdminError> {
        let (host_name, host) = self.pacer.host(request.uri());
        let started = Instant::now();
        let tls = (request.uri().scheme_str() != Some("http")).then(|| self.tls_identity());
        let slot = self.acquire_slot(&host, Route { tls }).await;
        self.pacer.metrics.record_admin_wait(&host_name, started.elapsed(), slot.is_ok());
        let call = slot?;
        // Check right before the call: the process may have been suspended for longer than its lease.
        self.pacer.leadership.may_write()?;
        let (method, started) = (request.method().clone(), Instant::now());
        let mut memory = ResponseMemory::new(self.memory());
        let may_hold = &mut |length| memory.may_hold(length);
        let result = self.http.send_bounded(request, timeout, max_body, may_hold).await;
        let status = result.as_ref().ok().map(|response| response.status.as_u16());
        self.pacer.metrics.record_admin_request(&host_name, method.as_str(), status, started.elapsed());
        call.finish(&result);
        let response = result.map_err(AdminError::from)?;
        memory.attach(response, max_body)
    }

    /// Returns the memory for what is kept of the Connection's responses.
    pub fn memory(&self) -> AdminMemory {
        AdminMemory::new(self.pacer.memory.clone(), &self.connection)
    }

    /// Returns a hash of the TLS options: the trusted authorities and the client certificate.
    pub fn tls_identity(&self) -> [u8; 32] {
        self.http.tls_identity()
    }

    /// Waits in the host's queue until the call may be sent.
    async fn acquire_slot(&self, host: &Arc<SharedHost>, route: Route) -> Result<InFlightCall, AdminError> {
        let operation = OPERATION.try_with(Clone::clone).ok();
        let priority = operation.as_ref().map_or(Priority::Resync, |o| o.priority);
        let has_started = operation.as_ref().is_some_and(|o| o.has_started.load(Ordering::Relaxed));
        let queued = host.scheduler.lock().enqueue(
            &self.connection,
            route,
            self.rate,
            priority,
            has_started,
            Millis::steady(),
        );
        let denial_error = |denied| host.denial_error(denied, &self.connection, route);
        let ticket = queued.map_err(denial_error)?;
        let guard = QueueGuard { host: host.clone(), connection: self.connection.clone(), ticket };
        loop {
            let changed = host.changed.notified();
            tokio::pin!(changed);
            // Register before polling, so that a change between the poll and the wait is not missed.
            changed.as_mut().enable();
            let now = Millis::steady();
            let state = host.scheduler.lock().poll(&self.connection, ticket, now);
            match state {
                SlotPoll::Granted => {
                    drop(guard);
                    if let Some(operation) = operation {
                        operation.has_started.store(true, Ordering::Relaxed);
                    }
                    let (host, connection) = (host.clone(), self.connection.clone());
                    return Ok(InFlightCall { host, connection, route, is_reported: false });
                }
                SlotPoll::Denied(denied) => return Err(denial_error(denied)),
                SlotPoll::WaitUntil(until) => {
                    let pause = until.since(now).max(Duration::from_millis(1));
                    tokio::time::timeout(pause, changed).await.ok();
                }
            }
        }
    }
}

impl SharedHost {
    /// Returns the error of a denied call.
    fn denial_error(&self, denied: SlotDenied, connection: &str, route: Route) -> AdminError {
        match denied {
            SlotDenied::Busy(after) => AdminError::Postponed(after),
            SlotDenied::VendorPaused(after) => {
                AdminError::RateLimited(ErrorDetail { status: Some(429), ..ErrorDetail::default() }, after)
            }
            // Return the failure that opened the breaker: the object's status should show what is wrong with the host.
            SlotDenied::BreakerOpen(after) => {
                self.failures.lock().find(connection, route).unwrap_or(AdminError::Postponed(after))
            }
        }
    }
}

/// A queued call. Removed from the queue on drop, such as when the reconcile is cancelled.
struct QueueGuard {
    host: Arc<SharedHost>,
    connection: Arc<str>,
    ticket: u64,
}

impl Drop for QueueGuard {
    fn drop(&mut self) {
        self.host.scheduler.lock().cancel(&self.connection, self.ticket);
        self.host.changed.notify_waiters();
    }
}

/// A call with a granted slot. Reports its outcome to the scheduler once, at the latest on drop.
struct InFlightCall {
    host: Arc<SharedHost>,
    connection: Arc<str>,
    route: Route,
    is_reported: bool,
}

impl InFlightCall {
    /// Reports the result of the call.
    fn finish(mut self, result: &Result<HttpResponse, SendError>) {
        let (outcome, pause) = match result {
            Ok(response) => {
                let failed = response.status.is_server_error();
                if failed {
                    let message =
                        "it failed several times in a row and is called again after a pause".to_owned();
                    let detail = ErrorDetail { message, ..ErrorDetail::default() };
                    self.record_failure(false, AdminError::from_status(response.status, detail, None));
                } else {
                    self.host.failures.lock().forget(&self.connection, self.route);
                }
                let outcome = if failed { CallOutcome::Failed } else { CallOutcome::Succeeded };
                (outcome, requested_pause(response.status, &response.headers))
            }
            // Nothing was sent: the error concerns this Connection, not the host.
            Err(SendError::EgressDenied(_)) => (CallOutcome::Unknown, None),
            Err(error) => {
                let outcome = match error {
                    SendError::Resolve(_) | SendError::Connect(_) | SendError::Proxy(_) => {
                        CallOutcome::NotConnected
                    }
                    SendError::Timeout(_) => CallOutcome::NoResponse,
                    // A certificate that one Connection does not trust, or its requests that the host does not
                    // understand, say nothing about other Connections.
                    SendError::Tls(_) | SendError::Protocol(_) | SendError::EgressDenied(_) => {
                        CallOutcome::Failed
                    }
                };
                let is_connect_failure = outcome == CallOutcome::NotConnected;
                self.record_failure(is_connect_failure, AdminError::Unreachable(error.to_string()));
                (outcome, None)
            }
        };
        self.report(outcome, pause);
    }

    fn record_failure(&self, is_connect_failure: bool, error: AdminError) {
        let route = is_connect_failure.then_some(self.route);
        self.host.failures.lock().record(&self.connection, route, error);
    }

    fn report(&mut self, outcome: CallOutcome, pause: Option<VendorPause>) {
        self.is_reported = true;
        self.host.scheduler.lock().complete(&self.connection, self.route, outcome, pause, Millis::steady());
        self.host.changed.notify_waiters();
    }
}

impl Drop for InFlightCall {
    fn drop(&mut self) {
        // The call was cancelled, or never sent.
        if !self.is_reported {
            self.report(CallOutcome::Unknown, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::egress::EgressRules;
    use crate::net::Egress;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const FAST: Rate = Rate { requests: 1000, interval: Duration::from_secs(1), burst: 1000 };

    fn pacer(leadership: Leadership) -> (HttpClient, Arc<Pacer>) {
        rustls::crypto::ring::default_provider().install_default().ok();
        let http =
            HttpClient::new(Egress::new(EgressRules { loopback: true, ..EgressRules::default() })).unwrap();
        (http, Pacer::new(FAST, leadership, Arc::new(Metrics::default()), 1 << 20))
    }

    /// Starts a server with a fixed response.
    async fn start_server(response: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut buffer = [0; 4096];
                drop(socket.read(&mut buffer).await);
                socket.write_all(response.as_bytes()).await.ok();
            }
        });
        url
    }

    async fn get(client: &AdminHttp, url: &str) -> Result<AdminResponse, AdminError> {
        let request = Request::get(url).body(Full::default()).unwrap();
        client.send(request, Duration::from_secs(10), 1024).await
    }

    #[tokio::test]
    async fn requested_pause_applies_to_the_whole_connection() {
        let limited = start_server(
            "HTTP/1.1 429 Slow\r\nretry-after: 30\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        )
        .await;
        let (http, pacer) = pacer(Leadership::always());
        let (client, other) = (pacer.client(http.clone(), "n/a", None), pacer.client(http, "n/b", None));
        assert_eq!(get(&client, &limited).await.unwrap().status, 429);
        let Err(AdminError::RateLimited(_, remaining)) = get(&client, &limited).await else {
            panic!("called again")
        };
        assert!(remaining > Duration::from_secs(20), "{remaining:?}");
        assert_eq!(get(&other, &limited).await.unwrap().status, 429, "another Connection has its own pause");
    }

    #[tokio::test]
    async fn postpones_the_first_call_of_an_operation_and_queues_later_ones() {
        let url = start_server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        let (http, pacer) = pacer(Leadership::always());
        let rate = Rate { requests: 1, interval: Duration::from_secs(4), burst: 1 };
        let client = pacer.client(http, "n/a", Some(rate));
        let started = Instant::now();
        with_priority(Priority::Change, async {
            get(&client, &url).await.unwrap();
            let concurrent = with_priority(Priority::Change, get(&client, &url)).await;
            assert!(matches!(concurrent, Err(AdminError::Postponed(_))), "{concurrent:?}");
            get(&client, &url).await.unwrap();
        })
        .await;
        assert!(started.elapsed() >= Duration::from_secs(3), "the call waits for the rate limit");
    }

    #[tokio::test]
    async fn sends_nothing_without_leadership() {
        let (leadership, handle) = Leadership::leased(Millis::steady);
        let (http, pacer) = pacer(leadership);
        let client = pacer.client(http, "n/a", None);
        // No process listens there, so that a call would fail.
        let nowhere = "http://127.0.0.1:1/";
        assert!(matches!(get(&client, nowhere).await, Err(AdminError::NotLeading(_))));
        handle.set(Some(Millis(i64::MAX)), true);
        assert!(matches!(get(&client, nowhere).await, Err(AdminError::Unreachable(_))));
    }

    #[tokio::test]
    async fn stops_calling_an_unreachable_host() {
        let (http, pacer) = pacer(Leadership::always());
        let client = pacer.client(http, "n/a", None);
        for _ in 0..20 {
            assert!(matches!(get(&client, "http://127.0.0.1:1/").await, Err(AdminError::Unreachable(_))));
        }
        let text = pacer.metrics.encode();
        let calls = text.lines().find(|l| l.starts_with("hookstream_admin_requests_total{")).unwrap();
        let count: u32 = calls.rsplit(' ').next().unwrap().parse().unwrap();
        assert!((5..=7).contains(&count), "{calls}");
    }

    /// Thirty Connections with `http://` to a port that speaks no HTTP leave another tenant's `https://` Connection alone.
    #[tokio::test]
    async fn wrong_scheme_of_one_tenant_does_not_stop_another() {
        let url = start_server("\x15\x03\x03\x00\x02\x02\x46").await;
        let (http, pacer) = pacer(Leadership::always());
        for n in 0..30 {
            let client = pacer.client(http.clone(), &format!("bad/{n}"), None);
            assert!(matches!(get(&client, &url).await, Err(AdminError::Unreachable(_))));
        }
        let calls = || {
            let text = pacer.metrics.encode();
            let line =
                text.lines().find(|l| l.starts_with("hookstream_admin_requests_total{")).unwrap().to_owned();
            line.rsplit(' ').next().unwrap().parse::<u32>().unwrap()
        };
        let before = calls();
        let client = pacer.client(http, "good/c", None);
        assert!(get(&client, &url.replace("http:", "https:")).await.is_err());
        assert_eq!(calls(), before + 1, "the call is sent, not denied by a breaker");
        assert_eq!(before, 30);
    }
}
