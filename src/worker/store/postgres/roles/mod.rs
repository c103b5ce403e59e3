//! Implements the roles of a store.

mod history;
mod maintenance;
