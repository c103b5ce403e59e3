//! The key ring and the id of the installation.

use tokio_postgres::types::Type;

use super::super::super::StoreError;
use super::super::failure::DbError;
use super::super::session::Session;
use super::StandaloneState;
use crate::core::keys::KeyRing;

/// The key of the advisory lock of the first start: "HkKr".
const LOCK: i64 = 0x486b_4b72;
/// The row of `meta` with the id that marks relays at the vendors.
const INSTALLATION: &str = "installation-mark";

/// A restored database counts transactions from the beginning. Rows with numbers of the former one would count as newer
/// than every write to come.
const RENUMBER: &str =
    "UPDATE hookstream.objects SET written = pg_current_xact_id() WHERE written > pg_current_xact_id()";

impl StandaloneState {
    /// Returns the key ring; None if there is none.
    pub async fn key_ring(&self) -> Result<Option<KeyRing>, StoreError> {
        let session = self.session().await?;
        Ok(read(&session).await?)
    }

    /// Returns the key ring. If there is none, stores `new`, unless objects depend on a lost one.
    pub async fn open_key_ring(&self, new: &KeyRing) -> Result<KeyRing, StoreError> {
        let session = self.session().await?;
        let tx = session.begin().await.map_err(StoreError::from)?;
        // Of several processes that start at once, one creates it.
        tx.execute("SELECT pg_advisory_xact_lock($1)", &[(&LOCK, Type::INT8)]).await?;
        if let Some(key_ring) = read(&tx).await? {
            tx.execute(RENUMBER, &[]).await?;
            tx.commit().await?;
            return Ok(key_ring);
        }
        let row = tx.query_one("SELECT EXISTS (SELECT FROM hookstream.objects)", &[]).await?;
        if row.try_get(0).map_err(DbError::from)? {
            tx.rollback().await?;
            return Err(StoreError::Open(
                "the table key_ring is empty while objects depend on it: restore it from a backup, or empty the table objects too".into(),
            ));
        }
        for (id, key) in new.entries() {
            tx.execute(
                "INSERT INTO hookstream.key_ring (id, key) VALUES ($1, $2)",
                &[(&id, Type::TEXT), (&key.as_slice(), Type::BYTEA)],
            )
            .await?;
        }
        let stored = read(&tx).await?;
        tx.commit().await?;
        stored.ok_or_else(|| StoreError::Open("the key ring cannot be stored".into()))
    }

    /// Returns the id of the installation. If there is none, stores `new` first.
    pub async fn installation_mark(&self, new: Option<&str>) -> Result<Option<String>, StoreError> {
        let session = self.session().await?;
        if let Some(new) = new {
            session
                .execute(
                    "INSERT INTO hookstream.meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING",
                    &[(&INSTALLATION, Type::TEXT), (&new, Type::TEXT)],
                )
                .await?;
        }
        let row = session
            .query_opt("SELECT value FROM hookstream.meta WHERE name = $1", &[(&INSTALLATION, Type::TEXT)])
            .await?;
        Ok(row.map(|row| row.try_get(0)).transpose().map_err(DbError::from)?)
    }
}

async fn read(session: &Session) -> Result<Option<KeyRing>, DbError> {
    let rows = session.query("SELECT id, key FROM hookstream.key_ring", &[]).await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let keys = rows
        .iter()
        .map(|row| Ok((row.try_get::<_, &str>(0)?, row.try_get::<_, &[u8]>(1)?)))
        .collect::<Result<Vec<_>, DbError>>()?;
    let key_ring = KeyRing::from_data(keys.into_iter());
    key_ring.map(Some).map_err(|error| DbError::Unreadable(format!("table key_ring: {error}")))
}
