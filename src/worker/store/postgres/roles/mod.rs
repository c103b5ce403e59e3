//! Implements the four roles of a store.

mod changes;
mod dispatch;
mod history;
mod ingest;
mod maintenance;
