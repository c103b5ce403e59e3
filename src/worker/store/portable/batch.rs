//! Batches of rows, bounded in rows and bytes, so that a copy needs little memory.

use tokio::sync::mpsc::Sender;

use super::rows::{
    EventKey, StoredAttempt, StoredCandidate, StoredDelivery, StoredEvent, StoredExchange, StoredGate,
    StoredHook, StoredPlace, StoredReplay,
};

/// The most rows of a batch.
const ROWS: usize = 1000;
/// A batch ends with the row that reaches this many bytes.
const BYTES: usize = 4 << 20;
/// The approximate bytes of a row without its long columns.
const ROW_BYTES: usize = 128;

/// Rows of one kind. A source sends the kinds in this order, except that the place of an event may come right before the
/// batch with the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Batch {
    Places(Vec<StoredPlace>),
    Hooks(Vec<StoredHook>),
    /// Keys that the rows of events do not have.
    Keys(Vec<EventKey>),
    Events(Vec<StoredEvent>),
    Responses(Vec<StoredExchange>),
    Gates(Vec<StoredGate>),
    /// Finished deliveries that were delivered at once are in ascending order.
    Deliveries(Vec<StoredDelivery>),
    Attempts(Vec<StoredAttempt>),
    Candidates(Vec<StoredCandidate>),
    Replays(Vec<StoredReplay>),
}

impl Batch {
    pub(in super::super) fn len(&self) -> usize {
        match self {
            Batch::Places(rows) => rows.len(),
            Batch::Hooks(rows) => rows.len(),
            Batch::Keys(rows) => rows.len(),
            Batch::Events(rows) => rows.len(),
            Batch::Responses(rows) => rows.len(),
            Batch::Gates(rows) => rows.len(),
            Batch::Deliveries(rows) => rows.len(),
            Batch::Attempts(rows) => rows.len(),
            Batch::Candidates(rows) => rows.len(),
            Batch::Replays(rows) => rows.len(),
        }
    }
}

/// The receiver of the batches has failed. Its own error says why.
#[derive(Debug)]
pub(in super::super) struct SinkClosed;

/// Collects rows of one kind to batches.
pub(in super::super) struct BatchSink<'s, T> {
    sender: &'s Sender<Batch>,
    wrap: fn(Vec<T>) -> Batch,
    rows: Vec<T>,
    bytes: usize,
}

impl<'s, T> BatchSink<'s, T> {
    pub(in super::super) fn new(sender: &'s Sender<Batch>, wrap: fn(Vec<T>) -> Batch) -> Self {
        BatchSink { sender, wrap, rows: Vec::new(), bytes: 0 }
    }

    /// Adds a row with this many bytes in long columns. Returns the batch if it is full.
    fn add(&mut self, row: T, bytes: usize) -> Option<Batch> {
        self.rows.push(row);
        self.bytes += bytes + ROW_BYTES;
        (self.rows.len() >= ROWS || self.bytes >= BYTES).then(|| self.take())
    }

    fn take(&mut self) -> Batch {
        self.bytes = 0;
        (self.wrap)(std::mem::take(&mut self.rows))
    }

    /// Adds a row, and waits while the receiver is behind.
    pub(in super::super) async fn push(&mut self, row: T, bytes: usize) -> Result<(), SinkClosed> {
        match self.add(row, bytes) {
            Some(batch) => self.sender.send(batch).await.map_err(|_| SinkClosed),
            None => Ok(()),
        }
    }

    /// Sends the rest.
    pub(in super::super) async fn finish(mut self) -> Result<(), SinkClosed> {
        match self.rows.is_empty() {
            true => Ok(()),
            false => self.sender.send(self.take()).await.map_err(|_| SinkClosed),
        }
    }

    /// Adds a row, and blocks the thread while the receiver is behind.
    pub(in super::super) fn push_blocking(&mut self, row: T, bytes: usize) -> Result<(), SinkClosed> {
        match self.add(row, bytes) {
            Some(batch) => self.sender.blocking_send(batch).map_err(|_| SinkClosed),
            None => Ok(()),
        }
    }

    /// Sends the rest, and blocks the thread while the receiver is behind.
    pub(in super::super) fn finish_blocking(mut self) -> Result<(), SinkClosed> {
        match self.rows.is_empty() {
            true => Ok(()),
            false => self.sender.blocking_send(self.take()).map_err(|_| SinkClosed),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn key(event: i64) -> EventKey {
        EventKey { event, place: 1, key: [0; 16], expires: 0 }
    }

    #[tokio::test]
    async fn batches_are_bounded_in_rows_and_bytes() {
        let (sender, mut receiver) = mpsc::channel(8);
        let mut sink = BatchSink::new(&sender, Batch::Keys);
        for event in 0..1200 {
            sink.push(key(event), 0).await.unwrap();
        }
        sink.push(key(1200), BYTES).await.unwrap();
        sink.push(key(1201), 0).await.unwrap();
        sink.finish().await.unwrap();
        drop(sender);
        let mut sizes = Vec::new();
        while let Some(batch) = receiver.recv().await {
            sizes.push(batch.len());
        }
        assert_eq!(sizes, [1000, 201, 1]);
    }
}
