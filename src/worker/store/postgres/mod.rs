//! The store in PostgreSQL: many workers share it.
//!
//! Any worker accepts events. Every hook belongs to one of 256 shards (`shards`), and the worker that owns the shard sends its
//! deliveries, so a hook's concurrency, rate, breaker and retries live in one process as with the embedded store.
//!
//! A group of operations is one transaction (`writer`). It takes locks in one order, each kind sorted: idempotency keys, gates,
//! pending deliveries. The backlog is counted in rows of this writer alone. What a group decides is computed in memory from the
//! locked rows (`gate_plan`), and written with one statement for each table.
//!
//! `session` sends statements, `schema` has the tables, `rows` and `text` convert. Statements name every table with its schema,
//! because a pooler may change the connection between transactions.

mod accept;
pub mod administration;
mod admission;
mod backlog;
mod byte_limits;
pub mod connect;
mod connections;
pub(super) mod copy;
mod due;
mod ended_places;
mod event_numbers;
mod event_rows;
mod events_list;
mod expired;
mod explanation;
mod failure;
mod fence;
mod gate_plan;
mod gates;
mod history;
mod hooks;
mod keeper;
mod keys;
mod locks;
mod markers;
mod measurements;
mod membership;
mod new_rows;
mod notices;
mod old_ids;
mod originals;
mod places;
mod records;
mod replays;
mod rights;
mod roles;
mod rows;
mod schema;
mod session;
mod settle;
mod shard;
mod shares;
mod signals;
pub mod standalone;
mod state;
mod store;
mod sweep;
mod text;
mod transitions;
mod unused_rows;
mod walk;
mod writer;

pub use store::PostgresStore;

#[cfg(test)]
mod history_tests;
#[cfg(test)]
#[path = "../../../../tests/it/harness/postgres.rs"]
pub mod test_server;
#[cfg(test)]
mod tests;
