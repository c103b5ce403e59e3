//! The embedded engine: one SQLite database in a folder of its own.
//!
//! Purpose: implements `Store` on a volume that one process uses.
//!
//! Invariants:
//! - One process uses a folder at a time, enforced by a file lock that the kernel releases when the process dies.
//! - One thread writes (`writer`). All reads run on other connections, so no read delays an accept. The dispatcher
//!   (`readers`) and users (`history_readers`) share none, so no user's query delays a delivery.
//! - Every commit syncs the log (`synchronous=FULL`), and the folder is synced when its files are created.
//! - The files have mode 0600, because they contain payloads.
//!
//! Reading order: `engine` (opening, the queue), `roles` (the traits), `writer` (group commit). Changes of the tables:
//! `accept`, `transitions`, `materialize`, `gates`, `namespaces`, `ended_events`, `replays`, `retention`, `hook_rows`. Random keys:
//! `keys` (idempotency) and `event_ids`, both in `runs`. Deliveries without rows that are finished: `outcomes`. Queries: `reads` for the
//! dispatcher, `history`, `walk` and `lookup` for users. The writer's state: `cache`, `unmaterialized`. The tables:
//! `schema`, `migrate`. The disk: `wal` (checkpoints), `vacuum`, `reserve`. Damage: `wal_scan`, `log_file`,
//! `maintenance`, `recover`, `salvage`. Copies to and from another engine: `copy`, `markers`.
//!
//! Out of scope: the limit of the whole disk (`ingest::Disk`).

mod accept;
mod cache;
mod cancel_many;
mod clock;
pub(super) mod copy;
mod dead_letters;
mod ended_events;
mod engine;
mod event_ids;
mod events_list;
mod exchanges;
mod failure;
mod fair_limit;
mod files;
mod gates;
mod history;
mod history_excess;
mod history_readers;
mod history_tables;
mod hook_rows;
mod keys;
mod log_file;
mod lookup;
mod maintenance;
mod markers;
mod materialize;
mod migrate;
mod namespace_keys;
mod namespaces;
mod outcomes;
mod readers;
mod reads;
mod recover;
mod replays;
mod reserve;
mod retention;
mod roles;
mod rows;
mod runs;
mod salvage;
mod schema;
use super::sequence;
mod shared_state;
mod stalls;
mod sweeps;
mod transitions;
mod tuning;
mod unmatched;
mod unmaterialized;
mod vacuum;
mod wal;
mod wal_scan;
mod walk;
mod writer;

#[cfg(test)]
mod tests;

pub use engine::SqliteStore;
pub use files::FILE as STORE_FILE;
pub use maintenance::{StoreReport, backup, check};
pub use recover::{RecoveryReport, recover};
