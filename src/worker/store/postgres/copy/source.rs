//! A database as the source of a copy.

use tokio::sync::mpsc::Sender;

use super::super::super::StoreError;
use super::super::super::portable::{Batch, CopiedKind, CopySource, Seal, SourceInfo};
use super::super::connect::PostgresOptions;
use super::super::connections::Connections;
use super::super::failure::DbError;
use super::super::session::Session;
use super::super::{administration, markers, schema};
use super::{begin, connect, counts, installation, lock_for_copy, lock_tables, read, refuse_workers};

/// All tables that workers change. SHARE keeps changes out, and reads in.
const LOCK_TABLES: &str = "
LOCK TABLE hookstream.workers, hookstream.writers, hookstream.namespaces, hookstream.places, hookstream.hooks,
    hookstream.keys, hookstream.gates, hookstream.candidates, hookstream.events, hookstream.pending, hookstream.finished,
    hookstream.attempts, hookstream.exchanges, hookstream.replays, hookstream.backlog, hookstream.objects,
    hookstream.leases IN SHARE MODE";

/// A database that no worker can change while this exists.
pub(in super::super::super) struct PostgresSource {
    /// In a transaction.
    session: Session,
    info: SourceInfo,
    /// Idempotency keys that have expired by then are not copied.
    now: i64,
}

impl PostgresSource {
    /// Locks the database and checks its tables.
    pub(in super::super::super) async fn open(
        options: &PostgresOptions,
        now: i64,
    ) -> Result<Self, StoreError> {
        let mut options = options.clone();
        options.migrate = false;
        let connections = Connections::connect(&options).await?;
        let session = connect(&connections).await?;
        let format = schema::format(&session).await?;
        schema::check(format)?;
        if let Some(format) = format.filter(|format| format.version != schema::VERSION) {
            return Err(StoreError::Open(format!(
                "the tables have format {}, and this program copies format {}: copy them with the version that wrote them",
                format.version,
                schema::VERSION
            )));
        }
        if let Some(copy) = markers::unfinished(&session).await? {
            return Err(copy.refusal("--store-url URL"));
        }
        refuse_workers(&session).await?;
        refuse_standalone(&session).await?;
        begin(&session).await?;
        lock_for_copy(&session).await?;
        lock_tables(&session, LOCK_TABLES).await?;
        // One may have started before the lock.
        refuse_workers(&session).await?;
        if let Some(problem) = administration::find_problems(&session).await?.first() {
            return Err(StoreError::Open(format!(
                "the store is not sound ({problem}): restore a backup of the database"
            )));
        }
        let info = info(&session, options.description()).await?;
        Ok(PostgresSource { session, info, now })
    }
}

/// A folder would get another key ring: relays would be rejected, and external objects created again.
async fn refuse_standalone(session: &Session) -> Result<(), DbError> {
    let found = session.query_one("SELECT EXISTS (SELECT FROM hookstream.key_ring)", &[]).await?;
    match found.try_get(0)? {
        false => Ok(()),
        true => Err(StoreError::Open(
            "it has the key ring and the state of the objects of `standalone` without --data, which a copy leaves behind: if a new key ring and new external objects are wanted, empty the table hookstream.key_ring first".into(),
        )
        .into()),
    }
}

async fn info(session: &Session, location: String) -> Result<SourceInfo, DbError> {
    let last_event = "SELECT greatest((SELECT coalesce(max(seq), 0) FROM hookstream.events),
                                      (SELECT last_value FROM hookstream.event_seq))";
    let clock = "SELECT value FROM hookstream.meta WHERE name = 'clock'";
    let clock: Option<String> = session.query_opt(clock, &[]).await?.map(|row| row.try_get(0)).transpose()?;
    let clock = clock.map(|clock| clock.parse()).transpose();
    let mut counts = counts::count(session).await?;
    // Expired ones are not copied.
    counts.remove(&CopiedKind::Keys);
    Ok(SourceInfo {
        location,
        installation: installation(session).await?,
        clock: clock.map_err(|_| DbError::Unreadable("meta.clock is not a number".into()))?,
        last_event: session.query_one(last_event, &[]).await?.try_get(0)?,
        counts,
        seal: markers::seal(session).await?,
        unseal: "--store-url URL".into(),
    })
}

impl CopySource for PostgresSource {
    fn info(&self) -> &SourceInfo {
        &self.info
    }

    async fn read(&mut self, batches: Sender<Batch>) -> Result<u64, StoreError> {
        read::read(&self.session, self.now, &batches).await
    }

    async fn seal(&mut self, seal: &Seal) -> Result<(), StoreError> {
        let tx = self.session.begun();
        // Replace the seal of the interrupted copy.
        if let Some(former) = markers::seal(&tx).await? {
            markers::remove_seal(&tx, &former).await?;
        }
        let min_reader = schema::format(&tx).await?.map_or(schema::VERSION, |format| format.min_reader);
        markers::set_seal(&tx, &Seal { min_reader, ..seal.clone() }).await?;
        tx.commit().await?;
        Ok(())
    }
}
