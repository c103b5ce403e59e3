//! Copies between real stores of both engines.

mod content;
mod moving;
mod refusals;
mod round_trip;

use std::path::Path;

use super::super::conformance::*;
use super::super::postgres::test_server;
use super::super::postgres::{PostgresStore, connect::PostgresOptions};
use super::super::sqlite::SqliteStore;
use super::super::*;
use super::*;

/// No idempotency key has expired by then.
const BEFORE_ALL: Millis = Millis(0);

fn database(url: &str) -> PostgresOptions {
    let mut options: PostgresOptions = url.parse().unwrap();
    // The tests' server does not sync.
    options.allow_unsafe_sync = true;
    options
}

fn in_folder(dir: &Path) -> Location {
    Location::Folder(dir.to_owned())
}

fn in_database(url: &str) -> Location {
    Location::Database(database(url))
}

/// Copies everything.
async fn copy_all(from: &Location, to: &Location) -> Result<CopyReport, CopyError> {
    copy(from, to, BEFORE_ALL, false, &CopyProgress::default()).await
}

fn database_name(url: &str) -> &str {
    url.rsplit('/').next().unwrap()
}

/// Ends the leases of all workers: those of dropped stores last for 10 s.
fn end_leases(url: &str) {
    let sql = "UPDATE hookstream.workers SET lease_until = '-infinity'";
    test_server::shared().sql(database_name(url), sql).unwrap();
}
