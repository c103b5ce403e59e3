//! The state of the objects of the manifests.
//!
//! The version of a row is the number of the transaction that wrote it. A reader asks for rows of transactions that its last
//! snapshot may not have seen, because neither sequences nor times are in the order of the commits.

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::super::super::StoreError;
use super::super::failure::DbError;
use super::StandaloneState;
use super::lease::IS_HOLDER;

/// The name of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectName {
    pub kind: &'static str,
    pub namespace: String,
    pub name: String,
}

/// The stored state of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRow {
    pub version: u64,
    pub state: String,
}

/// What was written since an earlier read.
#[derive(Clone, Debug)]
pub struct ChangedObjects {
    pub written: Vec<(ObjectName, ObjectRow)>,
    /// Deleted states, each with the version of its deletion. None of a read of all.
    pub deleted: Vec<(ObjectName, u64)>,
    /// The `since` of the next read.
    pub horizon: u64,
}

/// A write of one object's state.
#[derive(Clone, Debug)]
pub struct ObjectWrite {
    pub object: ObjectName,
    /// The version that it replaces. None: there is none yet.
    pub before: Option<u64>,
    /// None deletes the state.
    pub state: Option<String>,
    /// True for a write of the controller: it needs the lease.
    pub needs_lease: bool,
}

/// Why a state was not written.
#[derive(Debug, thiserror::Error)]
pub enum ObjectWriteError {
    /// The row has another version.
    #[error("another process has written it")]
    Conflict,
    /// Another process holds the lease.
    #[error("another process leads")]
    NotLeading,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<DbError> for ObjectWriteError {
    fn from(error: DbError) -> Self {
        ObjectWriteError::Store(error.into())
    }
}

/// In one statement, so that all rows are of the same moment. A deleted state has no `state`.
const CHANGES: &str = "
SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS horizon,
    c.kind, c.namespace, c.name, c.written::text AS written, c.state
FROM (VALUES (1)) one LEFT JOIN (
    SELECT kind, namespace, name, written, state FROM hookstream.objects
    WHERE written >= $1::text::xid8 AND kind = ANY ($2)
    UNION ALL
    SELECT kind, namespace, name, written, NULL FROM hookstream.deleted_objects
    WHERE $1 <> '0' AND written >= $1::text::xid8 AND kind = ANY ($2)) c ON true";

impl StandaloneState {
    /// Returns the objects of these kinds that were written or deleted since the `horizon` of an earlier read; 0: all. Deletions are
    /// known for an hour.
    pub async fn changes(&self, kinds: &[&'static str], since: u64) -> Result<ChangedObjects, StoreError> {
        let session = self.session().await?;
        let since = since.to_string();
        let rows = session.query(CHANGES, &[(&since, Type::TEXT), (&kinds, Type::TEXT_ARRAY)]).await?;
        Ok(changes(&rows, kinds)?)
    }

    /// Returns the state of an object; None if it has none.
    pub async fn object(&self, object: &ObjectName) -> Result<Option<ObjectRow>, StoreError> {
        let session = self.session().await?;
        let sql = "SELECT written::text AS written, state FROM hookstream.objects
                   WHERE kind = $1 AND namespace = $2 AND name = $3";
        let params = [
            (&object.kind as _, Type::TEXT),
            (&object.namespace as _, Type::TEXT),
            (&object.name as _, Type::TEXT),
        ];
        let row = session.query_opt(sql, &params).await?;
        Ok(row.as_ref().map(object_row).transpose()?)
    }

    /// Writes a state if its row has the expected version. Returns the new version.
    pub async fn write_object(&self, write: &ObjectWrite) -> Result<u64, ObjectWriteError> {
        let ObjectWrite { object, before, state, needs_lease } = write;
        let session = self.session().await?;
        let process = self.lease.process();
        let permitted = format!("($2 OR {IS_HOLDER})");
        let this_row = "kind = $3 AND namespace = $4 AND name = $5";
        let before = before.map(|version| version.to_string());
        let is_free = !needs_lease;
        let mut params = vec![
            (&process as _, Type::TEXT),
            (&is_free as _, Type::BOOL),
            (&object.kind as _, Type::TEXT),
            (&object.namespace as _, Type::TEXT),
            (&object.name as _, Type::TEXT),
        ];
        let sql = match (&before, state) {
            (None, None) => return Err(ObjectWriteError::Conflict),
            (None, Some(state)) => {
                params.push((state as _, Type::TEXT));
                format!(
                    "INSERT INTO hookstream.objects (kind, namespace, name, state, written)
                     SELECT $3, $4, $5, $6, pg_current_xact_id() WHERE {permitted}
                     ON CONFLICT DO NOTHING RETURNING written::text AS written"
                )
            }
            (Some(before), Some(state)) => {
                params.extend([(before as _, Type::TEXT), (state as _, Type::TEXT)]);
                format!(
                    "UPDATE hookstream.objects SET state = $7, written = pg_current_xact_id()
                     WHERE {this_row} AND written = $6::text::xid8 AND {permitted} RETURNING written::text AS written"
                )
            }
            (Some(before), None) => {
                params.push((before as _, Type::TEXT));
                format!(
                    "DELETE FROM hookstream.objects WHERE {this_row} AND written = $6::text::xid8 AND {permitted}
                     RETURNING written::text AS written"
                )
            }
        };
        if let Some(row) = session.query_opt(&sql, &params).await? {
            return Ok(version(&row)?);
        }
        if *needs_lease {
            let sql = format!("SELECT {IS_HOLDER}");
            let row = session.query_one(&sql, &[(&process, Type::TEXT)]).await?;
            if !row.try_get::<_, bool>(0).map_err(DbError::from)? {
                return Err(ObjectWriteError::NotLeading);
            }
        }
        Err(ObjectWriteError::Conflict)
    }
}

fn changes(rows: &[Row], kinds: &[&'static str]) -> Result<ChangedObjects, DbError> {
    let mut changes = ChangedObjects { written: Vec::new(), deleted: Vec::new(), horizon: 0 };
    for row in rows {
        changes.horizon = number(row.try_get("horizon")?)?;
        let Some(kind) = row.try_get::<_, Option<&str>>("kind")? else { continue };
        let Some(kind) = kinds.iter().find(|known| **known == kind) else { continue };
        let object = ObjectName { kind, namespace: row.try_get("namespace")?, name: row.try_get("name")? };
        let version = version(row)?;
        match row.try_get("state")? {
            Some(state) => changes.written.push((object, ObjectRow { version, state })),
            None => changes.deleted.push((object, version)),
        }
    }
    Ok(changes)
}

fn object_row(row: &Row) -> Result<ObjectRow, DbError> {
    Ok(ObjectRow { version: version(row)?, state: row.try_get("state")? })
}

fn version(row: &Row) -> Result<u64, DbError> {
    number(row.try_get("written")?)
}

fn number(text: &str) -> Result<u64, DbError> {
    text.parse().map_err(|_| DbError::Unreadable("a number of a transaction".into()))
}
