//! Copies the readable rows of a damaged database to a new one, table by table.
//!
//! A damaged page makes the rows on it unreadable, and ends every scan that reaches it. So a table is read from both
//! ends. Between them, a table with row ids is divided repeatedly, until the rows around each damaged page are
//! found. Indexes are built from the copied rows.

use std::collections::VecDeque;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, Statement};
use serde::Serialize;

use super::super::StoreError;
use super::failure::FailureKind;
use super::schema;

/// Ranges of a table that are read. A damaged page costs about as many as the row ids have bits.
const MAX_RANGES: usize = 20_000;

/// The result for one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecoveredTable {
    pub table: String,
    pub copied: u64,
    /// Rows that are lost. None: an unknown number.
    pub lost: Option<u64>,
}

pub(super) struct Table {
    name: String,
    sql: String,
    columns: Vec<String>,
    /// The columns of its primary key.
    key: Vec<String>,
    has_row_ids: bool,
}

/// The ways to read a range of a table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// Rows that were read until the end of the range, or until a damaged page.
struct Stretch {
    copied: u64,
    skipped: u64,
    /// The row id of the last row.
    last: Option<i64>,
    is_complete: bool,
}

pub(super) struct Salvage<'c> {
    source: &'c Connection,
    target: &'c Connection,
}

impl<'c> Salvage<'c> {
    pub(super) fn new(source: &'c Connection, target: &'c Connection) -> Self {
        Salvage { source, target }
    }

    /// Copies all tables and builds their indexes.
    pub(super) fn run(&self) -> Result<Vec<RecoveredTable>, StoreError> {
        let tables = self.tables()?;
        let mut results = Vec::new();
        for table in &tables {
            self.target.execute_batch(&table.sql).map_err(schema::open_error)?;
            results.push(self.copy(table)?);
        }
        for sql in self.index_sql()? {
            self.target.execute_batch(&sql).map_err(schema::open_error)?;
        }
        Ok(results)
    }

    fn tables(&self) -> Result<Vec<Table>, StoreError> {
        let read = || {
            let mut found = self.source.prepare(
                "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
            )?;
            let found = found.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            found
                .map(|table| table.and_then(|(name, sql)| self.table(name, sql)))
                .collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|e| {
            StoreError::Open(format!("the description of the tables is not readable ({e}): restore a backup"))
        })
    }

    fn table(&self, name: String, sql: String) -> rusqlite::Result<Table> {
        // Hidden columns are computed from the others.
        let mut info = self
            .source
            .prepare("SELECT name, type, pk FROM pragma_table_xinfo(?1) WHERE hidden = 0 ORDER BY cid")?;
        let info = info.query_map([&name], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let info = info.collect::<rusqlite::Result<Vec<(String, String, i64)>>>()?;
        let mut keys: Vec<_> = info.iter().filter(|(.., position)| *position > 0).collect();
        keys.sort_by_key(|(.., position)| *position);
        let is_integer = matches!(keys.as_slice(), [(_, kind, _)] if kind.eq_ignore_ascii_case("INTEGER"));
        Ok(Table {
            has_row_ids: is_integer && !sql.to_ascii_uppercase().contains("WITHOUT ROWID"),
            key: keys.into_iter().map(|(name, ..)| name.clone()).collect(),
            columns: info.into_iter().map(|(name, ..)| name).collect(),
            name,
            sql,
        })
    }

    fn index_sql(&self) -> Result<Vec<String>, StoreError> {
        let read = || {
            let mut found = self.source.prepare(
                "SELECT sql FROM sqlite_schema WHERE type <> 'table' AND sql IS NOT NULL ORDER BY rowid",
            )?;
            let found = found.query_map([], |row| row.get(0))?;
            found.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(schema::open_error)
    }

    fn copy(&self, table: &Table) -> Result<RecoveredTable, StoreError> {
        let quoted: Vec<_> = table.columns.iter().map(|column| format!("\"{column}\"")).collect();
        let places = vec!["?"; quoted.len()].join(", ");
        let insert =
            format!("INSERT OR IGNORE INTO \"{}\" ({}) VALUES ({places})", table.name, quoted.join(", "));
        let mut insert = self.target.prepare(&insert).map_err(schema::open_error)?;
        let (copied, skipped, is_complete) = if table.has_row_ids {
            self.copy_ranges(table, &quoted.join(", "), &mut insert)?
        } else {
            self.copy_from_both_ends(table, &quoted.join(", "), &mut insert)?
        };
        Ok(RecoveredTable { table: table.name.clone(), copied, lost: is_complete.then_some(skipped) })
    }

    /// Copies a table with row ids: reads each range from both ends, and divides what is left between them.
    fn copy_ranges(
        &self,
        table: &Table,
        columns: &str,
        insert: &mut Statement<'_>,
    ) -> Result<(u64, u64, bool), StoreError> {
        let key = table.key.first().map(String::as_str).unwrap_or("rowid");
        let select = |order| {
            format!(
                "SELECT \"{key}\", {columns} FROM \"{}\" NOT INDEXED WHERE \"{key}\" BETWEEN ?1 AND ?2 ORDER BY \"{key}\" {order}",
                table.name
            )
        };
        let (up, down) = (select("ASC"), select("DESC"));
        let (mut copied, mut skipped, mut is_complete) = (0, 0, true);
        let mut ranges = VecDeque::from([(i64::MIN, i64::MAX)]);
        let mut read = 0;
        // Breadth first, so that one damaged page does not use up the bound.
        while let Some((mut low, mut high)) = ranges.pop_front() {
            read += 1;
            let mut is_read = false;
            for (sql, direction) in [(&up, Direction::Up), (&down, Direction::Down)] {
                let stretch = self.copy_stretch(sql, &[&low, &high], true, insert)?;
                copied += stretch.copied;
                skipped += stretch.skipped;
                is_read |= stretch.is_complete;
                match (direction, stretch.last) {
                    (Direction::Up, Some(last)) => low = last.saturating_add(1),
                    (Direction::Down, Some(last)) => high = last.saturating_sub(1),
                    (_, None) => {}
                }
                if is_read || low > high {
                    break;
                }
            }
            if is_read || low > high {
                continue;
            }
            // Rows are missing here. Their number is unknown, because row ids have gaps.
            is_complete = false;
            if low < high && read + ranges.len() < MAX_RANGES {
                // Not (low + high) / 2, which overflows.
                let middle = (low & high) + ((low ^ high) >> 1);
                ranges.push_back((low, middle));
                ranges.push_back((middle + 1, high));
            }
        }
        Ok((copied, skipped, is_complete))
    }

    /// Copies a table without row ids from both ends. Rows between two damaged pages are lost.
    fn copy_from_both_ends(
        &self,
        table: &Table,
        columns: &str,
        insert: &mut Statement<'_>,
    ) -> Result<(u64, u64, bool), StoreError> {
        let select = |order: &str| {
            let keys: Vec<_> = table.key.iter().map(|column| format!("\"{column}\" {order}")).collect();
            format!("SELECT 0, {columns} FROM \"{}\" NOT INDEXED ORDER BY {}", table.name, keys.join(", "))
        };
        let up = self.copy_stretch(&select("ASC"), &[], false, insert)?;
        if up.is_complete {
            return Ok((up.copied, up.skipped, true));
        }
        let down = self.copy_stretch(&select("DESC"), &[], false, insert)?;
        Ok((up.copied + down.copied, up.skipped + down.skipped, false))
    }

    /// Copies rows until the end of a query, until a damaged page, or without row ids until a row that was copied
    /// before.
    fn copy_stretch(
        &self,
        sql: &str,
        range: &[&dyn rusqlite::ToSql],
        has_row_ids: bool,
        insert: &mut Statement<'_>,
    ) -> Result<Stretch, StoreError> {
        let mut stretch = Stretch { copied: 0, skipped: 0, last: None, is_complete: false };
        let Ok(mut statement) = self.source.prepare(sql) else { return Ok(stretch) };
        let count = statement.column_count();
        let Ok(mut rows) = statement.query(range) else { return Ok(stretch) };
        loop {
            let row = match rows.next() {
                Ok(Some(row)) => row,
                Ok(None) => {
                    stretch.is_complete = true;
                    return Ok(stretch);
                }
                Err(_) => return Ok(stretch),
            };
            let values: Option<Vec<_>> = (1..count).map(|n| row.get_ref(n).ok().filter(is_sound)).collect();
            stretch.last = row.get(0).ok();
            match values {
                Some(values) if insert_row(insert, &values)? => stretch.copied += 1,
                Some(_) if !has_row_ids => return Ok(stretch),
                _ => stretch.skipped += 1,
            }
        }
    }
}

/// False for text that no program wrote.
fn is_sound(value: &ValueRef<'_>) -> bool {
    match value {
        ValueRef::Text(text) => std::str::from_utf8(text).is_ok(),
        _ => true,
    }
}

/// Inserts a row. False: the row exists, or its values are not allowed.
fn insert_row(insert: &mut Statement<'_>, values: &[ValueRef<'_>]) -> Result<bool, StoreError> {
    let mut run = || {
        for (n, value) in values.iter().enumerate() {
            insert.raw_bind_parameter(n + 1, ToSqlOutput::Borrowed(*value))?;
        }
        insert.raw_execute()
    };
    match run() {
        Ok(inserted) => Ok(inserted > 0),
        Err(error) => match FailureKind::of(&error) {
            FailureKind::Statement(_) => Ok(false),
            failure => Err(failure.into()),
        },
    }
}
