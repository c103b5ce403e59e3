//! Durable storage of accepted events, their deliveries and the attempts to deliver them.
//!
//! Purpose: the traits through which the worker accesses its data. Each role of the worker has its own trait
//! ([`IngestStore`], [`DispatchStore`], [`HistoryStore`], [`MaintenanceStore`]); [`Store`] combines them. `sqlite` is
//! the embedded engine.
//!
//! Invariants:
//! - The accept callback runs after the commit and its fsync. An event, its deliveries and its idempotency key commit
//!   together or not at all.
//! - A settlement joins the next group commit. A lost settlement repeats an attempt but loses no delivery.
//! - A failed fsync is fatal, because the kernel may have dropped the data that it could not write.
//! - The store depends on neither HTTP nor hook specs. Time is an argument.
//!
//! Out of scope: matching hooks and filters (`index`, `decide`), retry times (`core::retry`), the order of sending
//! (`dispatch`).

mod columns;
pub mod copy;
mod deliveries;
mod dispatch_store;
mod error;
mod event_history;
mod events;
mod exchange;
pub(super) mod fair_queue;
mod fair_share;
mod history;
mod history_store;
mod hook_ownership;
mod ids;
mod in_flight;
mod ingest_store;
mod limits;
mod maintenance_store;
mod portable;
pub mod postgres;
mod read_budget;
mod read_slots;
mod sequence;
pub mod sqlite;

#[cfg(test)]
mod conformance;

pub use crate::core::retry::NextStep;
pub use deliveries::{DueDeliveries, HandlerProgress, HookBacklog, PendingDelivery, ReadLimit, Settlement};
pub use dispatch_store::{DispatchNotice, DispatchStore};
pub use error::StoreError;
pub use event_history::{EventFilter, EventOutcome, EventPage, EventRecord};
pub use events::{AcceptCallback, AcceptedDelivery, AcceptedEvent, Dedup, Fate, NewDelivery, NewEvent};
pub use exchange::{
    Exchange, ExchangeChange, KeepResponses, KeptBody, KeptHeader, ReceivedResponse, SentRequest,
};
pub use history::{
    ALL_NAMESPACES, AttemptRecord, DeliveryFilter, DeliveryPage, DeliveryRecord, DeliveryState,
    EventExplanation, PartialCount, ReplayJob, selects_namespace,
};
pub use history_store::{HistoryStore, MAX_LISTED_REPLAYS};
pub use hook_ownership::HookOwnership;
pub use ids::{DeliverySeq, EventSeq, HookId, event_seq};
pub use in_flight::{InFlightAccept, InFlightAccepts};
pub use ingest_store::IngestStore;
pub use limits::{DeadLetterCounts, Retention, SHARDS, Shares, StoreSpace, StoreStats, StoredTimes};
pub use maintenance_store::MaintenanceStore;

/// All roles of a store. Every type that implements the four roles implements it.
pub trait Store: IngestStore + DispatchStore + HistoryStore + MaintenanceStore {}

impl<T: IngestStore + DispatchStore + HistoryStore + MaintenanceStore> Store for T {}
