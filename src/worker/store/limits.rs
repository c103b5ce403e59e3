//! Limits on disk use (retention and backlog shares), and measurements of it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::time::Millis;

/// The shards of hooks that the workers of a store share.
pub const SHARDS: u16 = 256;

/// How long finished deliveries and their events are kept.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    pub history_age: Duration,
    pub dead_letter_age: Duration,
    /// How long events that no hook matched are kept; `history_age` if that is shorter.
    pub unmatched_age: Duration,
    /// Bytes of events kept for delivered, dropped and cancelled deliveries, and for events without deliveries.
    /// Retention removes the oldest first. An event counts once for each of its deliveries. Within an event's
    /// idempotency window, retention removes only its data (`null` remains). Unmatched events may have a quarter of them,
    /// divided between the namespaces.
    pub history_bytes: u64,
    /// Bytes of events kept for dead letters, counted the same way.
    pub dead_letter_bytes: u64,
}

/// How much of the disk backlogs may use. An event counts once for each hook with a pending delivery of it. A backlog
/// that is empty accepts one event of any size, so that an event larger than the share is not rejected forever.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    /// Bytes of pending events of one hook. Above it a new delivery becomes a dead letter at once (`BacklogFull`), or is
    /// refused (`HookFull`) if its sender retries.
    pub hook_bytes: u64,
    /// Bytes of pending events in one namespace. Above it events are refused (`NamespaceFull`).
    pub namespace_bytes: u64,
}

impl Default for Shares {
    fn default() -> Self {
        Shares { hook_bytes: u64::MAX, namespace_bytes: u64::MAX }
    }
}

/// Times in the store, by which a new process judges its wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredTimes {
    /// The time of the last commit, at most about a second too early. None: the store is new.
    pub last_commit: Option<Millis>,
    /// When the newest event was accepted.
    pub newest_event: Option<Millis>,
}

/// How the store uses its disk, beyond what the file system shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreSpace {
    /// Bytes of free pages in the store's file. New events use them, so they count as available.
    pub free_bytes: u64,
    /// Bytes by which the file grows when its log is copied into it. They count as used.
    pub growth_bytes: u64,
    /// True while the store refuses events, because the disk is full or the disk reserve is in use.
    pub is_disk_full: bool,
}

/// Measurements of the backlog and of the store's size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Pending deliveries, trailing candidates included.
    pub pending: u64,
    /// Bytes of events of pending deliveries; an event counts once for each of them.
    pub pending_bytes: u64,
    /// `pending_bytes` of the hook with the largest backlog.
    pub largest_hook_bytes: u64,
    /// `pending_bytes` of the namespace with the largest backlog.
    pub largest_namespace_bytes: u64,
    /// When the oldest pending delivery was accepted.
    pub oldest: Option<Millis>,
    /// Dead letters that are kept, counted up to a million.
    pub dead_letters: u64,
    /// Bytes of the store's file.
    pub file_bytes: u64,
    /// Bytes of memory for idempotency keys and event ids: the newest ones, and the filters of stored keys.
    pub key_memory_bytes: u64,
    /// Memory of the store: its keys and ids, and at most this much page cache.
    pub memory_bytes: u64,
    /// The shards that this process owns, of `SHARDS`. One worker owns all.
    pub owned_shards: u64,
}

/// Dead deliveries by the name of their namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterCounts {
    pub by_namespace: BTreeMap<String, u64>,
    /// False if there are more than were counted.
    pub is_exact: bool,
}
