//! The limits of the tables of format 10, each divided between the namespaces.

use rusqlite::Connection;

use super::super::Retention;
use super::fair_limit::{Excess, find_excess};
use super::{exchanges, unmatched};

/// The rows that exceed the limits of both tables.
#[derive(Debug, Default)]
pub(super) struct HistoryExcess {
    pub(super) unmatched: Vec<Excess>,
    pub(super) exchanges: Vec<Excess>,
}

impl HistoryExcess {
    pub(super) fn find(conn: &Connection, retention: &Retention) -> rusqlite::Result<Self> {
        Ok(HistoryExcess {
            unmatched: find_excess(conn, &unmatched::TABLE, unmatched::max_bytes(retention.history_bytes))?,
            exchanges: find_excess(conn, &exchanges::TABLE, exchanges::max_bytes(retention))?,
        })
    }
}
