//! The dispatcher: decides which delivery is sent next. Each hook has a queue: a bounded part is in memory, the rest on
//! disk.
//!
//! `machine` is a state machine that owns all queues: it receives commands and returns effects. `driver` feeds it and
//! executes the effects. While a hook keeps up, ingest hands its accepted deliveries over in memory; the others stay on
//! disk and are read in chunks. A delivery is claimed while it is in memory and until its outcome is committed, so that
//! it is never attempted twice at the same time.
//!
//! The steps of a delivery: `dispatch_ready` (`sending`) starts an attempt, `attempt` runs the handler and decides the
//! next step, `settler` commits the outcome, `on_settled` releases the claim.
//!
//! While the worker cannot keep up, `crowding` delays the senders whose deliveries fill the memory.
//!
//! Slots and memory are divided fairly between namespaces, then between hooks: `memory` counts, `core::fair_pool` divides
//! what attempts in flight hold, and `reclaim` returns ready deliveries to the disk.
//!
//! With several workers, each hook has one owner (`ownership`), and its breaker and rate limit move along (`pacing`).

mod attempt;
mod command;
mod crowding;
mod driver;
mod effect;
mod health;
mod hold;
mod machine;
mod memory;
mod orphans;
mod ownership;
mod pacing;
mod postponed;
mod queue;
mod ready_ranking;
mod reclaim;
mod sending;
mod settler;
mod shared_events;
mod store_jobs;
mod time;
mod timers;

pub use command::DispatchHandle;
pub use crowding::{CrowdedNamespaces, MAX_SENDER_WAIT};
pub use driver::{Dispatcher, DispatcherParts};
pub use memory::ATTEMPT_OVERHEAD;

#[cfg(test)]
mod simulation;
