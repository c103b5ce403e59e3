//! The memory budget of the process: one number bounds the payloads in memory, and each use of memory has a share of it.
//!
//! Purpose: a flood of large events, slow receivers or long lists must not end in the kernel's out-of-memory killer, and
//! must not let one tenant take the memory of another.
//!
//! Invariants:
//! - The sum of the shares never exceeds the budget, and every share fits at least one item of the maximum size
//!   (`split`).
//! - Within a share, memory is divided max-min fairly between namespaces, and that of attempts and scripts then between
//!   hooks (`pool`, with `core::fair_shares`).
//! - A reservation is returned when it is dropped, whatever happened to its payload.
//!
//! Out of scope: memory without payloads. That is code, objects of the cluster, connections, 2 MB for each
//! reading connection of the store, and the sandbox processes. `limit` subtracts them when it computes the default.

mod counted_bytes;
mod limit;
mod pool;
mod split;

use std::sync::Arc;

pub use counted_bytes::counted_bytes;
pub use limit::{MemoryLimit, default_budget, memory_limit};
pub use pool::{MemoryFull, MemoryPool, Reservation, request_cost};
pub use split::{BudgetTooSmall, ItemSizes, MemoryShare, Split};

use crate::metrics::{MemoryShareMetrics, Metrics};

/// The budget and its shares. The pool of each share is separate, so that no use can take the memory of another.
#[derive(Clone, Debug)]
pub struct MemoryBudget {
    split: Split,
    unverified: Arc<MemoryPool>,
    requests: Arc<MemoryPool>,
    scripts: Arc<MemoryPool>,
    script_replies: Arc<MemoryPool>,
    rendered: Arc<MemoryPool>,
    dispatcher: MemoryShareMetrics,
}

impl MemoryBudget {
    /// Creates the pools of a budget and exports its size.
    pub fn new(split: Split, metrics: &Metrics) -> MemoryBudget {
        let pool = |share: MemoryShare| {
            let name: &'static str = share.into();
            Arc::new(MemoryPool::new(split.bytes(share), metrics.memory.share(name)))
        };
        metrics.memory.set_budget(split.total());
        MemoryBudget {
            unverified: pool(MemoryShare::UnverifiedBodies),
            requests: pool(MemoryShare::Requests),
            scripts: pool(MemoryShare::Scripts),
            script_replies: pool(MemoryShare::ScriptReplies),
            rendered: pool(MemoryShare::Rendered),
            dispatcher: metrics.memory.share(MemoryShare::Dispatcher.into()),
            split,
        }
    }

    /// Returns the bytes of all shares together.
    pub fn total_bytes(&self) -> u64 {
        self.split.total()
    }

    /// Bodies of relays whose signature is not checked yet.
    pub fn unverified(&self) -> &Arc<MemoryPool> {
        &self.unverified
    }

    /// Bodies of authorized requests, and accepted events until the dispatcher has them.
    pub fn requests(&self) -> &Arc<MemoryPool> {
        &self.requests
    }

    /// Inputs of scripts.
    pub fn scripts(&self) -> &Arc<MemoryPool> {
        &self.scripts
    }

    /// Replies of scripts, until the attempt has used them.
    pub fn script_replies(&self) -> &Arc<MemoryPool> {
        &self.script_replies
    }

    /// Rendered headers and bodies, beyond what the dispatcher counts for each attempt.
    pub fn rendered(&self) -> &Arc<MemoryPool> {
        &self.rendered
    }

    /// Returns the bytes for responses of admin APIs. Each role process has one client of them, which creates the pool.
    pub fn admin_bytes(&self) -> u64 {
        self.split.bytes(MemoryShare::AdminResponses)
    }

    /// Returns the bytes for deliveries that are ready or in flight. The dispatcher accounts for them itself, because it
    /// can return deliveries to disk.
    pub fn dispatcher_bytes(&self) -> u64 {
        self.split.bytes(MemoryShare::Dispatcher)
    }

    /// Returns the bytes for the store's page cache, idempotency keys and event ids. The store bounds them itself.
    pub fn store_bytes(&self) -> u64 {
        self.split.bytes(MemoryShare::Store)
    }

    /// Exports the bytes that the dispatcher uses.
    pub fn record_dispatcher_use(&self, bytes: u64) {
        self.dispatcher.set_used(bytes);
    }
}
