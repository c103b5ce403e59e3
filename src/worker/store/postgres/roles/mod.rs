//! Implements the four roles of a store.

mod dispatch;
mod history;
mod ingest;
mod maintenance;
