//! The phase of a server connection. The connection's own task advances it; the accept loop reads it and may evict the
//! connection, but never one that handles a request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::port_options::Timeouts;

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It was accepted, and no byte of a request has arrived. Includes the TLS handshake.
    New,
    /// The head of a request arrives.
    Head,
    /// A request is handled, or its response is written.
    Busy,
    /// A handler waits for the next part of the request's body.
    Body,
    /// A request was answered, and no byte of the next one has arrived.
    Idle,
    /// The last response was sent. The rest of its request is read and discarded.
    Lingering,
    /// The accept loop closes it.
    Evicted,
}

const PHASE_BITS: u32 = 3;

impl Phase {
    fn from_bits(bits: u64) -> Phase {
        match bits & ((1 << PHASE_BITS) - 1) {
            0 => Phase::New,
            1 => Phase::Head,
            2 => Phase::Busy,
            3 => Phase::Body,
            4 => Phase::Idle,
            5 => Phase::Lingering,
            _ => Phase::Evicted,
        }
    }
}

/// A phase and when it began, as one word that is compared and exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot(u64);

impl Snapshot {
    pub(super) fn new(phase: Phase, since: Duration) -> Self {
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX >> PHASE_BITS);
        Snapshot((millis << PHASE_BITS) | phase as u64)
    }

    pub fn phase(self) -> Phase {
        Phase::from_bits(self.0)
    }

    /// The time from the opening of the port to the beginning of the phase.
    pub fn since(self) -> Duration {
        Duration::from_millis(self.0 >> PHASE_BITS)
    }
}

/// What the connections of one port share.
pub struct PortState {
    opened_at: Instant,
    pub timeouts: Timeouts,
    /// Whether an accepted connection waits until another one can be evicted.
    is_full: AtomicBool,
    evictable: Notify,
}

impl PortState {
    pub fn new(timeouts: Timeouts) -> Arc<Self> {
        Arc::new(PortState {
            opened_at: Instant::now(),
            timeouts,
            is_full: AtomicBool::new(false),
            evictable: Notify::new(),
        })
    }

    /// The time since the port was opened.
    pub fn now(&self) -> Duration {
        self.opened_at.elapsed()
    }

    /// Sets whether connections that become idle notify [`PortState::wait_for_evictable`].
    pub fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::SeqCst);
    }

    /// Waits until a connection becomes idle.
    pub async fn wait_for_evictable(&self) {
        self.evictable.notified().await;
    }
}

/// The state of one connection.
pub struct ConnectionState {
    word: AtomicU64,
    /// Whether the peer may still be writing when the connection is closed.
    lingers: AtomicBool,
    pub port: Arc<PortState>,
}

impl ConnectionState {
    pub fn new(port: Arc<PortState>) -> Arc<Self> {
        let word = AtomicU64::new(Snapshot::new(Phase::New, port.now()).0);
        Arc::new(ConnectionState { word, lingers: AtomicBool::new(false), port })
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.word.load(Ordering::Acquire))
    }

    /// Begins a phase. Returns false if the connection was evicted: its task must not begin anything.
    pub fn advance(&self, phase: Phase) -> bool {
        let next = Snapshot::new(phase, self.port.now()).0;
        let result = self.word.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| {
            (Phase::from_bits(word) != Phase::Evicted).then_some(next)
        });
        if matches!(phase, Phase::Idle | Phase::Lingering) && self.port.is_full.load(Ordering::SeqCst) {
            self.port.evictable.notify_one();
        }
        result.is_ok()
    }

    /// Records that bytes arrived. Returns false if the connection was evicted.
    pub fn receive(&self) -> bool {
        match self.snapshot().phase() {
            Phase::New | Phase::Idle => self.advance(Phase::Head),
            Phase::Evicted => false,
            _ => true,
        }
    }

    /// Evicts the connection if it is still in this state.
    pub fn evict(&self, seen: Snapshot) -> bool {
        let evicted = Snapshot::new(Phase::Evicted, seen.since()).0;
        self.word.compare_exchange(seen.0, evicted, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// When the peer must have sent something; None while it need not send.
    pub fn read_deadline(&self) -> Option<Instant> {
        let snapshot = self.snapshot();
        let timeouts = &self.port.timeouts;
        let timeout = match snapshot.phase() {
            Phase::New => timeouts.silent,
            Phase::Head => timeouts.head,
            Phase::Idle => timeouts.idle,
            Phase::Busy | Phase::Body | Phase::Lingering | Phase::Evicted => return None,
        };
        self.port.opened_at.checked_add(snapshot.since().saturating_add(timeout))
    }

    /// Requests that the connection is closed in a way that lets a peer that is still writing read the response.
    pub fn linger_at_close(&self) {
        self.lingers.store(true, Ordering::Relaxed);
    }

    pub fn should_linger(&self) -> bool {
        // In the phase Head, hyper rejected the head and answered by itself.
        self.lingers.load(Ordering::Relaxed) || self.snapshot().phase() == Phase::Head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> Arc<ConnectionState> {
        ConnectionState::new(PortState::new(Timeouts::default()))
    }

    #[test]
    fn snapshot_keeps_phase_and_time() {
        for phase in
            [Phase::New, Phase::Head, Phase::Busy, Phase::Body, Phase::Idle, Phase::Lingering, Phase::Evicted]
        {
            let since = Duration::from_millis(123_456_789);
            let snapshot = Snapshot::new(phase, since);
            assert_eq!((snapshot.phase(), snapshot.since()), (phase, since));
        }
    }

    #[test]
    fn request_that_arrives_before_eviction_wins() {
        let connection = connection();
        assert!(connection.advance(Phase::Idle));
        let seen = connection.snapshot();
        assert!(connection.receive());
        assert!(!connection.evict(seen), "its request is being read");
        assert_eq!(connection.snapshot().phase(), Phase::Head);
    }

    #[test]
    fn evicted_connection_begins_nothing() {
        let connection = connection();
        assert!(connection.evict(connection.snapshot()));
        assert!(!connection.receive());
        assert!(!connection.advance(Phase::Busy));
        assert_eq!(connection.snapshot().phase(), Phase::Evicted);
    }

    #[test]
    fn deadline_follows_phase() {
        let connection = connection();
        let remaining = |connection: &ConnectionState| {
            connection.read_deadline().map(|deadline| deadline.duration_since(Instant::now()).as_secs())
        };
        assert_eq!(remaining(&connection), Some(9));
        assert!(connection.receive());
        assert_eq!(remaining(&connection), Some(4));
        assert!(connection.advance(Phase::Busy));
        assert_eq!(remaining(&connection), None, "a handler may take its time");
        assert!(connection.advance(Phase::Idle));
        assert_eq!(remaining(&connection), Some(74));
    }
}
