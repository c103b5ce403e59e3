//! The PostgreSQL engine of the store.

pub mod connect;

#[cfg(test)]
#[path = "../../../../tests/it/harness/postgres.rs"]
mod test_server;
