//! The embedded engine: one SQLite database in a folder of its own.
//!
//! Purpose: implements `Store` on a volume that one process uses.
//!
//! Invariants:
//! - One process uses a folder at a time, enforced by a file lock that the kernel releases when the process dies.
//! - One thread writes (`writer`). All reads run on other connections (`readers`), so no read delays an accept.
//! - Every commit syncs the log (`synchronous=FULL`), and the folder is synced when its files are created.
//! - The files have mode 0600, because they contain payloads.
//!
//! Reading order: `engine` (opening, the queue), `roles` (the traits), `writer` (group commit). Changes of the tables:
//! `accept`, `transitions`, `materialize`, `gates`, `namespaces`, `replays`, `retention`. Queries: `reads` for the
//! dispatcher, `history` for users. The writer's state: `cache`, `unmaterialized`. The tables: `schema`, `migrate`.
//!
//! Out of scope: the limit of the whole disk (`ingest::Disk`).

mod accept;
mod cache;
mod engine;
mod failure;
mod files;
mod gates;
mod history;
mod maintenance;
mod materialize;
mod migrate;
mod namespace_keys;
mod namespaces;
mod readers;
mod reads;
mod replays;
mod retention;
mod roles;
mod rows;
mod schema;
mod sequence;
mod shared_state;
mod transitions;
mod tuning;
mod unmaterialized;
mod wal;
mod writer;

#[cfg(test)]
mod tests;

pub use engine::SqliteStore;
pub use maintenance::{StoreReport, backup, check};
