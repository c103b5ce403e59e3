//! The least that a durable relay must do: one thread appends the requests that have arrived to a file, and syncs it.

use std::fs::File;
use std::io::Write;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// A request's bytes, and the sender that is notified when they are on the disk.
type Entry = (Bytes, oneshot::Sender<()>);

pub struct SyncedLog {
    queue: mpsc::UnboundedSender<Entry>,
}

impl SyncedLog {
    /// Creates the file and starts the thread.
    pub fn start(path: &str) -> SyncedLog {
        let file = File::create(path).expect("the log");
        let (queue, entries) = mpsc::unbounded_channel();
        std::thread::Builder::new().name("log".into()).spawn(|| run(file, entries)).expect("a thread");
        SyncedLog { queue }
    }

    /// Returns when the bytes are on the disk.
    pub async fn append(&self, bytes: Bytes) {
        let (on_disk, synced) = oneshot::channel();
        self.queue.send((bytes, on_disk)).expect("the log's thread");
        synced.await.expect("the log's thread");
    }
}

/// Syncs once for all requests that arrived during the last sync.
fn run(mut file: File, mut entries: mpsc::UnboundedReceiver<Entry>) {
    let (mut bytes, mut waiting) = (Vec::new(), Vec::new());
    while let Some(first) = entries.blocking_recv() {
        let mut next = Some(first);
        while let Some((entry, on_disk)) = next {
            bytes.extend_from_slice(&entry);
            waiting.push(on_disk);
            next = entries.try_recv().ok();
        }
        file.write_all(&bytes).expect("the disk takes the log");
        file.sync_data().expect("the disk syncs the log");
        bytes.clear();
        for on_disk in waiting.drain(..) {
            on_disk.send(()).ok();
        }
    }
}
