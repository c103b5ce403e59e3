//! Every call to an admin API passes here: it waits its turn, asks whether this replica still leads, and is counted.
//!
//! Purpose: a decorator of the HTTP client, with the same `send`; a vendor's client knows nothing of it.
//!
//! Invariants: a Connection never goes over its rate, nor all that reach one host over the ceiling; who would wait long
//! is told to come back (`AdminError::Postponed`) and holds no slot meanwhile; leadership is asked after the wait, right
//! before the call; a vendor's wish to be left alone counts for the whole Connection.
//!
//! Left to others: whose turn it is (`host`, without I/O), what an answer means (`answer`, and the vendor's client).

mod answer;
mod host;

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

pub use answer::{Away, asked_to_wait};
pub use host::Lane;
use host::{Host, Refusal, Turn, Verdict};

use super::{AdminError, Detail};
use crate::core::bucket::Rate;
use crate::core::time::Millis;
use crate::leadership::Leadership;
use crate::metrics::Metrics;
use crate::net::{Answer, HttpClient, SendError};

/// Hosts that are remembered before those at rest are forgotten.
const MAX_HOSTS: usize = 256;

tokio::task_local! {
    /// The errand that the current task is on.
    static ERRAND: Errand;
}

#[derive(Clone)]
struct Errand {
    lane: Lane,
    /// One of its calls had its turn: the others go first, for to come back would cost it again.
    begun: Arc<AtomicBool>,
}

/// Runs one errand (a reconcile, a list): all its calls go in this lane, and once the first had its turn, the others wait
/// for theirs instead of being told to come back. Calls of no errand are resyncs.
pub async fn errand<F: Future>(lane: Lane, work: F) -> F::Output {
    ERRAND.scope(Errand { lane, begun: Arc::default() }, work).await
}

/// All hosts that this process calls.
pub struct Pacer {
    ceiling: Rate,
    leadership: Leadership,
    metrics: Arc<Metrics>,
    hosts: Mutex<HashMap<String, Arc<Cell>>>,
}

/// One host, and a bell that rings when something moved.
struct Cell {
    host: Mutex<Host>,
    moved: Notify,
    /// What the last failure was, for those who are turned away because of it.
    last_failure: Mutex<Option<AdminError>>,
}

impl fmt::Debug for Pacer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pacer").field("ceiling", &self.ceiling).finish_non_exhaustive()
    }
}

impl Pacer {
    pub fn new(ceiling: Rate, leadership: Leadership, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Pacer { ceiling, leadership, metrics, hosts: Mutex::default() })
    }

    /// The HTTP client of a Connection. `connection` is its namespace and name; `rate` what it asks for itself.
    pub fn client(self: &Arc<Self>, http: HttpClient, connection: &str, rate: Option<Rate>) -> AdminHttp {
        AdminHttp { http, pacer: self.clone(), connection: connection.into(), rate }
    }

    fn cell(&self, uri: &Uri) -> (String, Arc<Cell>) {
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
        let name = format!("{}:{port}", uri.host().unwrap_or_default().to_ascii_lowercase());
        let mut hosts = self.hosts.lock();
        if hosts.len() >= MAX_HOSTS && !hosts.contains_key(&name) {
            let now = Millis::steady();
            // One that is in use has another holder.
            hosts.retain(|_, cell| Arc::strong_count(cell) > 1 || !cell.host.lock().forget(now));
        }
        let cell = hosts.entry(name.clone()).or_insert_with(|| {
            let host = Mutex::new(Host::new(self.ceiling, Millis::steady()));
            Arc::new(Cell { host, moved: Notify::new(), last_failure: Mutex::new(None) })
        });
        (name, cell.clone())
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
    /// Sends a request when it is its turn. `timeout` counts from there.
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
        max_body: usize,
    ) -> Result<Answer, AdminError> {
        let (host, cell) = self.pacer.cell(request.uri());
        let started = Instant::now();
        let turn = self.turn(&cell).await;
        self.pacer.metrics.admin_waited(&host, started.elapsed(), turn.is_ok());
        let call = turn?;
        // Right before the call: the process may have been stopped for longer than its lease.
        self.pacer.leadership.may_write()?;
        let (method, started) = (request.method().clone(), Instant::now());
        let result = self.http.send(request, timeout, max_body).await;
        let status = result.as_ref().ok().map(|answer| answer.status.as_u16());
        self.pacer.metrics.admin_called(&host, method.as_str(), status, started.elapsed());
        call.over(&result);
        result.map_err(AdminError::from)
    }

    async fn turn(&self, cell: &Arc<Cell>) -> Result<Call, AdminError> {
        let errand = ERRAND.try_with(Clone::clone).ok();
        let lane = errand.as_ref().map_or(Lane::Resync, |e| e.lane);
        let begun = errand.as_ref().is_some_and(|e| e.begun.load(Ordering::Relaxed));
        let joined = cell.host.lock().join(&self.connection, self.rate, lane, begun, Millis::steady());
        let ticket = joined.map_err(|refusal| cell.refused(refusal))?;
        let waiting = Waiting { cell: cell.clone(), connection: self.connection.clone(), ticket };
        loop {
            let moved = cell.moved.notified();
            tokio::pin!(moved);
            // Before asking: what moves between the question and the wait must not be missed.
            moved.as_mut().enable();
            let now = Millis::steady();
            let turn = cell.host.lock().ask(&self.connection, ticket, now);
            match turn {
                Turn::Go => {
                    drop(waiting);
                    if let Some(errand) = errand {
                        errand.begun.store(true, Ordering::Relaxed);
                    }
                    return Ok(Call { cell: cell.clone(), connection: self.connection.clone(), told: false });
                }
                Turn::Refused(refusal) => return Err(cell.refused(refusal)),
                Turn::Wait(until) => {
                    let pause = until.since(now).max(Duration::from_millis(1));
                    tokio::time::timeout(pause, moved).await.ok();
                }
            }
        }
    }
}

impl Cell {
    fn refused(&self, refusal: Refusal) -> AdminError {
        match refusal {
            Refusal::ComeBack(after) => AdminError::Postponed(after),
            Refusal::AskedToWait(after) => {
                AdminError::RateLimited(Detail { status: Some(429), ..Detail::default() }, after)
            }
            // As if it had been called: whoever looks at the object wants to know what is wrong with the host.
            Refusal::Failing(after) => {
                self.last_failure.lock().clone().unwrap_or(AdminError::Postponed(after))
            }
        }
    }
}

/// A place in the queue; given up when it is dropped, as with a reconcile that is cancelled.
struct Waiting {
    cell: Arc<Cell>,
    connection: Arc<str>,
    ticket: u64,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.cell.host.lock().leave(&self.connection, self.ticket);
        self.cell.moved.notify_waiters();
    }
}

/// A call that had its turn.
struct Call {
    cell: Arc<Cell>,
    connection: Arc<str>,
    told: bool,
}

impl Call {
    fn over(mut self, result: &Result<Answer, SendError>) {
        let (verdict, stay_away) = match result {
            Ok(answer) => {
                let failed = answer.status.is_server_error();
                if failed {
                    let message =
                        "it failed several times in a row and is asked again after a pause".to_owned();
                    let detail = Detail { message, ..Detail::default() };
                    *self.cell.last_failure.lock() =
                        Some(AdminError::from_status(answer.status, detail, None));
                }
                let verdict = if failed { Verdict::Failed } else { Verdict::Fine };
                (verdict, asked_to_wait(answer.status, &answer.headers))
            }
            // Nothing that was sent: it tells about this Connection, not about the host.
            Err(SendError::EgressDenied(_)) => (Verdict::Undecided, None),
            Err(error) => {
                *self.cell.last_failure.lock() = Some(AdminError::Unreachable(error.to_string()));
                // A certificate that one Connection does not trust must not close the host to the others.
                let own = matches!(error, SendError::Tls(_));
                (if own { Verdict::Failed } else { Verdict::Silent }, None)
            }
        };
        self.tell(verdict, stay_away);
    }

    fn tell(&mut self, verdict: Verdict, stay_away: Option<Away>) {
        self.told = true;
        self.cell.host.lock().done(&self.connection, verdict, stay_away, Millis::steady());
        self.cell.moved.notify_waiters();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // It was given up, or never made.
        if !self.told {
            self.tell(Verdict::Undecided, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::egress::Policy;
    use crate::net::Egress;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    const FAST: Rate = Rate { requests: 1000, interval: Duration::from_secs(1), burst: 1000 };

    fn pacer(leadership: Leadership) -> (HttpClient, Arc<Pacer>) {
        rustls::crypto::ring::default_provider().install_default().ok();
        let http = HttpClient::new(Egress::new(Policy { loopback: true, ..Policy::default() })).unwrap();
        (http, Pacer::new(FAST, leadership, Arc::new(Metrics::default())))
    }

    /// Answers everything so.
    async fn server(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut buffer = [0; 4096];
                drop(socket.read(&mut buffer).await);
                socket.write_all(answer.as_bytes()).await.ok();
            }
        });
        url
    }

    async fn get(client: &AdminHttp, url: &str) -> Result<Answer, AdminError> {
        let request = Request::get(url).body(Full::default()).unwrap();
        client.send(request, Duration::from_secs(10), 1024).await
    }

    #[tokio::test]
    async fn a_wish_to_be_left_alone_counts_for_the_whole_connection() {
        let slow =
            server("HTTP/1.1 429 Slow\r\nretry-after: 30\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                .await;
        let (http, pacer) = pacer(Leadership::always());
        let (one, other) = (pacer.client(http.clone(), "n/a", None), pacer.client(http, "n/b", None));
        assert_eq!(get(&one, &slow).await.unwrap().status, 429);
        let Err(AdminError::RateLimited(_, left)) = get(&one, &slow).await else { panic!("called again") };
        assert!(left > Duration::from_secs(20), "{left:?}");
        assert_eq!(get(&other, &slow).await.unwrap().status, 429, "another Connection is asked for itself");
    }

    #[tokio::test]
    async fn one_call_of_an_errand_is_told_to_come_back_and_the_second_waits() {
        let url = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        let (http, pacer) = pacer(Leadership::always());
        let rate = Rate { requests: 1, interval: Duration::from_secs(4), burst: 1 };
        let client = pacer.client(http, "n/a", Some(rate));
        let started = Instant::now();
        errand(Lane::Change, async {
            get(&client, &url).await.unwrap();
            let meanwhile = errand(Lane::Change, get(&client, &url)).await;
            assert!(matches!(meanwhile, Err(AdminError::Postponed(_))), "{meanwhile:?}");
            get(&client, &url).await.unwrap();
        })
        .await;
        assert!(started.elapsed() >= Duration::from_secs(3), "it waited");
    }

    #[tokio::test]
    async fn who_does_not_lead_calls_nobody() {
        let (leadership, keeper) = Leadership::kept(Millis::steady);
        let (http, pacer) = pacer(leadership);
        let client = pacer.client(http, "n/a", None);
        // Nobody listens there: a call would say so.
        let nowhere = "http://127.0.0.1:1/";
        assert!(matches!(get(&client, nowhere).await, Err(AdminError::NotLeading(_))));
        keeper.set(Some(Millis(i64::MAX)), true);
        assert!(matches!(get(&client, nowhere).await, Err(AdminError::Unreachable(_))));
    }

    #[tokio::test]
    async fn a_host_that_is_away_is_not_called_again_and_again() {
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
}
