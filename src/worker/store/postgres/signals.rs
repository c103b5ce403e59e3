//! Signals between workers, by NOTIFY: hooks with new due deliveries, and deliveries that were replayed or cancelled.
//!
//! Sent outside the transactions that they report, because NOTIFY takes a lock of the whole database at commit; at most one
//! each 10 ms. A lost signal delays a delivery until the next poll (`notices`). Behind a pooler no worker listens, and the poll
//! finds everything.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_postgres::types::Type;
use tokio_util::sync::CancellationToken;

use super::super::DeliverySeq;
use super::connections::Connections;
use super::membership::Ownership;

/// The name of the channel.
pub(super) const CHANNEL: &str = "hookstream";
/// The least time between two signals of a process.
const INTERVAL: Duration = Duration::from_millis(10);
/// PostgreSQL allows payloads below 8,000 bytes.
const MAX_PAYLOAD: usize = 7900;
/// Signals that wait. Above it they are dropped, and the poll finds the deliveries.
const MAX_WAITING: usize = 10_000;

/// What a signal reports about a hook: a delivery is due, or this one was changed. In its text, the uid and the number are
/// separated by a space.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Signal {
    pub(super) hook_uid: String,
    pub(super) changed: Option<DeliverySeq>,
}

/// The signals that wait to be sent.
pub(super) struct Signals {
    ownership: Arc<Ownership>,
    waiting: Mutex<BTreeSet<Signal>>,
    wake: Notify,
}

impl Signals {
    pub(super) fn new(ownership: Arc<Ownership>) -> Self {
        Signals { ownership, waiting: Mutex::default(), wake: Notify::new() }
    }

    /// Notifies the owner of a hook, unless it is this process, whose caller notifies its own dispatcher.
    pub(super) fn send(&self, hook_uid: &str, changed: Option<DeliverySeq>) {
        if self.ownership.owns(hook_uid) {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.len() < MAX_WAITING {
            waiting.insert(Signal { hook_uid: hook_uid.to_owned(), changed });
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// Sends the waiting signals, until the process stops.
    pub(super) async fn run(self: Arc<Self>, connections: Arc<Connections>, stopping: CancellationToken) {
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                () = self.wake.notified() => {}
            }
            let waiting = std::mem::take(&mut *self.waiting.lock());
            for payload in payloads(&waiting) {
                let Ok(session) = connections.session().await else { break };
                let sent = session
                    .query("SELECT pg_notify($1, $2)", &[(&CHANNEL, Type::TEXT), (&payload, Type::TEXT)])
                    .await;
                if let Err(error) = sent {
                    tracing::debug!(%error, "signal to other workers failed, they poll");
                }
                tokio::time::sleep(INTERVAL).await;
            }
        }
    }
}

/// Returns the payloads of signals.
fn payloads(signals: &BTreeSet<Signal>) -> Vec<String> {
    let mut payloads: Vec<String> = Vec::new();
    for Signal { hook_uid, changed } in signals {
        let entry = match changed {
            Some(seq) => format!("{hook_uid} {seq}"),
            None => hook_uid.clone(),
        };
        match payloads.last_mut().filter(|payload| payload.len() + 1 + entry.len() <= MAX_PAYLOAD) {
            Some(payload) => {
                payload.push('\n');
                payload.push_str(&entry);
            }
            // An entry that is too long for one payload would fail all.
            None if entry.len() <= MAX_PAYLOAD => payloads.push(entry),
            None => {}
        }
    }
    payloads
}

/// Reads a payload. Any client of the database may send one, so entries that cannot be read are skipped.
pub(super) fn read(payload: &str) -> Vec<Signal> {
    let entries =
        payload.lines().filter(|entry| !entry.is_empty()).map(|entry| match entry.split_once(' ') {
            Some((uid, seq)) => Some(Signal { hook_uid: uid.to_owned(), changed: Some(seq.parse().ok()?) }),
            None => Some(Signal { hook_uid: entry.to_owned(), changed: None }),
        });
    entries.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::super::connect::PostgresOptions;
    use super::super::test_server;
    use super::*;

    fn signal(uid: &str, changed: Option<DeliverySeq>) -> Signal {
        Signal { hook_uid: uid.into(), changed }
    }

    #[test]
    fn signals_are_split_into_payloads_and_read_back() {
        let mut signals: BTreeSet<Signal> =
            (0..1000).map(|n| signal(&format!("uid-{n:032}"), None)).collect();
        signals.insert(signal("uid", Some(7)));
        signals.insert(signal(&"x".repeat(9000), None));
        let payloads = payloads(&signals);
        assert!(payloads.len() > 1 && payloads.iter().all(|payload| payload.len() <= MAX_PAYLOAD));
        let read: BTreeSet<Signal> = payloads.iter().flat_map(|payload| read(payload)).collect();
        signals.remove(&signal(&"x".repeat(9000), None));
        assert_eq!(read, signals);
    }

    /// Each takes the lock of the whole database, for which commits with a NOTIFY of other installations wait too.
    #[tokio::test]
    async fn many_signals_are_sent_one_each_ten_milliseconds() {
        let mut options: PostgresOptions = test_server::shared().new_database().parse().unwrap();
        options.allow_unsafe_sync = true;
        let connections = Arc::new(Connections::connect(&options).await.unwrap());
        let (sender, mut received) = tokio::sync::mpsc::channel(100);
        let listener = connections.listening(sender).await.unwrap().unwrap();
        listener.batch(&format!("LISTEN {CHANNEL}")).await.unwrap();
        let signals = Arc::new(Signals::new(Arc::default()));
        let uids: Vec<String> = (0..2000).map(|n| format!("uid-{n:032}")).collect();
        uids.iter().for_each(|uid| signals.send(uid, None));
        let stopping = CancellationToken::new();
        let running = tokio::spawn(signals.run(connections, stopping.clone()));
        let (mut times, mut read) = (Vec::new(), BTreeSet::new());
        while read.len() < uids.len() {
            let notification = received.recv().await.unwrap();
            times.push(std::time::Instant::now());
            read.extend(super::read(notification.payload()));
        }
        stopping.cancel();
        running.await.unwrap();
        let pauses = u32::try_from(times.len() - 1).unwrap();
        assert!(pauses >= 5, "{pauses}");
        // The first ones may arrive late.
        assert!(times[times.len() - 1] - times[0] >= INTERVAL * (pauses / 2), "{times:?}");
    }

    #[test]
    fn foreign_payloads_are_skipped() {
        assert_eq!(read(""), []);
        assert_eq!(read("a b\n\nc"), [signal("c", None)]);
        assert_eq!(read("a 5"), [signal("a", Some(5))]);
    }
}
