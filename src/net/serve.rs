//! A small HTTP/1 server. Unlike axum's, it can close a connection without a response, and peers that are silent or slow cannot
//! close its port.
//!
//! Each connection has a phase (`connection_state`) with a deadline (`timed_stream`). While the port is full, a new
//! connection replaces the one that is least useful (`admission`).

use std::collections::HashMap;
use std::future::Future;
use std::io::ErrorKind::{ConnectionAborted, ConnectionReset};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::admission::{Admission, Arrival, Candidate, Peer, admit, victim};
use super::connection_state::{ConnectionState, Phase, PortState, Snapshot};
use super::port_options::PortOptions;
use super::serve_connection::serve_connection;
pub use super::serve_connection::{ClientAddress, CloseWithoutResponse};
use super::serve_tls::ServerTls;

/// Time for in-flight requests to complete after the shutdown began.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);
/// The pause after a failed accept, for example because of too many open files. Without it the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often a full port checks for stalled bodies, which no event reports.
const RECHECK_INTERVAL: Duration = Duration::from_millis(250);
/// The time between two log lines about a full port.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Serves until `shutdown` completes. Dropping the future closes every connection.
pub async fn serve(listener: TcpListener, router: Router, shutdown: impl Future) {
    serve_port(listener, router, PortOptions::default(), shutdown).await;
}

/// Serves with TLS if a certificate is given. See [`serve`].
pub async fn serve_tls(
    listener: TcpListener,
    router: Router,
    tls: Option<Arc<ServerTls>>,
    shutdown: impl Future,
) {
    serve_port(listener, router, PortOptions { tls, ..PortOptions::default() }, shutdown).await;
}

/// Serves a port with these limits. See [`serve`].
pub async fn serve_port(listener: TcpListener, router: Router, options: PortOptions, shutdown: impl Future) {
    let mut port = Port::new(router, options);
    let mut shutdown = pin!(shutdown);
    // An accepted connection that waits, and when to accept again after an error.
    let mut waiting: Option<(TcpStream, SocketAddr)> = None;
    let mut paused_until: Option<Instant> = None;
    loop {
        if let Some((stream, peer)) = waiting.take() {
            waiting = port.admit(stream, peer.ip()).map(|stream| (stream, peer));
            port.state.set_full(waiting.is_some());
        }
        let state = Arc::clone(&port.state);
        let evictable = tokio::time::timeout(RECHECK_INTERVAL, state.wait_for_evictable());
        let pause = tokio::time::sleep_until(paused_until.unwrap_or_else(Instant::now));
        tokio::select! {
            _ = &mut shutdown => break,
            // Remove the results of closed connections, which would otherwise accumulate.
            Some(ended) = port.tasks.join_next_with_id(), if !port.tasks.is_empty() => {
                port.remove(ended.map_or_else(|error| error.id(), |(id, ())| id));
            }
            _ = evictable, if waiting.is_some() => {}
            () = pause, if paused_until.is_some() => paused_until = None,
            accepted = listener.accept(), if waiting.is_none() && paused_until.is_none() => match accepted {
                Ok(accepted) => waiting = Some(accepted),
                // An error of one connection, which its client can cause at any rate.
                Err(error) if matches!(error.kind(), ConnectionAborted | ConnectionReset) => {
                    tracing::debug!(%error, "accept failed");
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    // With too many open files, an idle connection has one that a new connection can use.
                    if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
                        port.evict_one();
                    }
                    paused_until = Some(Instant::now() + ACCEPT_PAUSE);
                }
            },
        }
    }
    drop((listener, waiting));
    port.shut_down().await;
}

/// One port and its connections.
struct Port {
    router: Router,
    options: PortOptions,
    state: Arc<PortState>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    connections: HashMap<Id, OpenConnection>,
    /// The number of connections of each address.
    by_peer: HashMap<Peer, usize>,
    logged_at: Option<Instant>,
}

struct OpenConnection {
    peer: Peer,
    state: Arc<ConnectionState>,
    task: AbortHandle,
}

impl Port {
    fn new(router: Router, options: PortOptions) -> Self {
        Port {
            router,
            state: PortState::new(options.timeouts),
            options,
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
            connections: HashMap::new(),
            by_peer: HashMap::new(),
            logged_at: None,
        }
    }

    /// Serves or closes a new connection. Returns it if it has to wait.
    fn admit(&mut self, stream: TcpStream, address: IpAddr) -> Option<TcpStream> {
        let address = address.to_canonical();
        let peer = Peer::new(address);
        let arrival = Arrival {
            peer,
            is_shared: self.options.is_shared(address),
            max_connections: self.options.max_connections,
            now: self.state.now(),
        };
        let of_peer = self.by_peer.get(&peer).copied().unwrap_or_default();
        let admission = admit(arrival, self.connections.len(), of_peer, self.candidates());
        match admission {
            Admission::Admit => {}
            // A request arrived on it meanwhile: choose another one.
            Admission::Evict(id, seen) if !self.evict(id, seen) => return Some(stream),
            Admission::Evict(..) => self.log_full("connection limit reached, closed an unused connection"),
            Admission::Reject => {
                self.log_full("connection limit of an address reached, refused a connection");
                return None;
            }
            Admission::Wait => {
                self.log_full("connection limit reached, a connection waits");
                return Some(stream);
            }
        }
        let client = ClientAddress { address, is_shared: arrival.is_shared };
        self.spawn(stream, peer, client);
        None
    }

    fn spawn(&mut self, stream: TcpStream, peer: Peer, client: ClientAddress) {
        let state = ConnectionState::new(Arc::clone(&self.state));
        let (router, tls, stop) = (self.router.clone(), self.options.tls.clone(), self.stop.clone());
        let connection = Arc::clone(&state);
        let task = self.tasks.spawn(async move {
            // Responses are small: Nagle's algorithm would only delay each by 40 ms.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "setting nodelay failed");
            }
            match tls {
                None => serve_connection(stream, router, client, connection, stop).await,
                Some(tls) => match tls.accept(stream).await {
                    // The first request has its time from here.
                    Ok(stream) if connection.advance(Phase::New) => {
                        serve_connection(stream, router, client, connection, stop).await;
                    }
                    Ok(_) => {}
                    Err(error) => tracing::debug!(%error, "TLS handshake failed"),
                },
            }
        });
        *self.by_peer.entry(peer).or_default() += 1;
        self.connections.insert(task.id(), OpenConnection { peer, state, task });
    }

    fn candidates(&self) -> impl Iterator<Item = Candidate<Id>> {
        self.connections.iter().map(|(id, connection)| Candidate {
            id: *id,
            peer: connection.peer,
            seen: connection.state.snapshot(),
        })
    }

    /// Closes a connection unless its state has changed.
    fn evict(&mut self, id: Id, seen: Snapshot) -> bool {
        let Some(connection) = self.connections.get(&id) else { return true };
        if !connection.state.evict(seen) {
            return false;
        }
        connection.task.abort();
        self.remove(id);
        true
    }

    fn evict_one(&mut self) {
        if let Some((id, seen)) = victim(self.state.now(), self.candidates()) {
            self.evict(id, seen);
        }
    }

    fn remove(&mut self, id: Id) {
        let Some(connection) = self.connections.remove(&id) else { return };
        if let Some(count) = self.by_peer.get_mut(&connection.peer) {
            *count -= 1;
            if *count == 0 {
                self.by_peer.remove(&connection.peer);
            }
        }
    }

    fn log_full(&mut self, message: &'static str) {
        let now = Instant::now();
        if self.logged_at.is_none_or(|logged_at| now >= logged_at + LOG_INTERVAL) {
            self.logged_at = Some(now);
            let connections = self.connections.len();
            tracing::warn!(connections, limit = self.options.max_connections, "{message}");
        }
    }

    /// Waits for requests in flight. Closes other connections at once.
    async fn shut_down(mut self) {
        for connection in self.connections.values() {
            if matches!(connection.state.snapshot().phase(), Phase::New | Phase::Lingering) {
                connection.task.abort();
            }
        }
        self.stop.cancel();
        let all_ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, all_ended).await.is_err() {
            tracing::warn!("shutdown timed out, closed connections with requests in flight");
        }
    }
}
