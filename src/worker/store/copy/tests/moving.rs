//! A store that moves to the other engine whenever it is opened again, under the conformance suite and its model test.

use std::sync::Arc;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use uuid::Uuid;

use super::*;
use crate::core::event::Event;
use crate::core::fast_map::FastSet;

/// Where the store is now.
enum Place {
    Folder(tempfile::TempDir),
    Database(String),
}

impl Place {
    fn location(&self) -> Location {
        match self {
            Place::Folder(dir) => in_folder(dir.path()),
            Place::Database(url) => in_database(url),
        }
    }

    async fn open(&self) -> Moved {
        match self {
            Place::Folder(dir) => Moved(Box::new(SqliteStore::open(dir.path()).unwrap())),
            Place::Database(url) => {
                Moved(Box::new(PostgresStore::open(&database(url), "worker").await.unwrap()))
            }
        }
    }
}

/// Moves each time that it is opened.
struct Moving(Mutex<Option<Place>>);

impl Subject for Moving {
    type Store = Moved;
    const MODEL_RUNS: u32 = 16;

    fn new() -> Self {
        Moving(Mutex::new(None))
    }

    async fn open(&self) -> Moved {
        let former = self.0.lock().take();
        let place = match &former {
            Some(Place::Folder(_)) => Place::Database(test_server::shared().new_database()),
            Some(Place::Database(_)) | None => Place::Folder(tempfile::tempdir().unwrap()),
        };
        if let Some(former) = former {
            // A renewal that the dropped store had sent may arrive after its lease was ended.
            loop {
                if let Place::Database(url) = &former {
                    end_leases(url);
                }
                match copy_all(&former.location(), &place.location()).await {
                    Err(CopyError::Source(error)) if error.to_string().contains("workers use it") => {}
                    copied => break drop(copied.unwrap()),
                }
            }
        }
        let store = place.open().await;
        *self.0.lock() = Some(place);
        store
    }
}

conformance!(Moving: a_reopened_store_has_all_data a_replay_job_is_paced_and_survives_a_restart
    a_key_outlives_its_event_history the_time_of_the_last_commit_is_stored
    a_store_of_another_installation_is_refused sequence_numbers_are_never_reused);

#[test]
fn model() {
    super::super::super::conformance::model::<Moving>();
}

/// A store of either engine.
struct Moved(Box<dyn Store>);

macro_rules! delegate {
    ($trait:ident: $(fn $name:ident($($arg:ident: $type:ty),*) -> $result:ty;)*) => {
        impl $trait for Moved {
            $(fn $name(&self, $($arg: $type),*) -> $result { self.0.$name($($arg),*) })*
        }
    };
}

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

impl IngestStore for Moved {
    fn accept_then(&self, events: Vec<NewEvent>, now: Millis, done: AcceptCallback) {
        self.0.accept_then(events, now, done);
    }
}

impl HookOwnership for Moved {}

delegate!(DispatchStore:
    fn settle_many(settlements: Vec<Settlement>) -> Answer<'_, Vec<bool>>;
    fn due(uid: &str, now: Millis, exclude: FastSet<DeliverySeq>, limit: ReadLimit) -> Answer<'_, DueDeliveries>;
    fn newest_untried(uid: &str, now: Millis, exclude: FastSet<DeliverySeq>, limit: ReadLimit)
        -> Answer<'_, Vec<PendingDelivery>>;
    fn next_due(uid: &str, after: Millis) -> Answer<'_, Option<Millis>>;
    fn backlog() -> Answer<'_, Vec<HookBacklog>>;
    fn set_held(hook: &HookId, held: bool, now: Millis) -> Answer<'_, ()>;
    fn held_hooks() -> Answer<'_, Vec<HookId>>;
    fn reschedule_undecided(uid: &str, now: Millis) -> Answer<'_, bool>;
    fn transfer_pending(from: &HookId, to: &HookId, now: Millis) -> Answer<'_, bool>;
    fn promote(now: Millis) -> Answer<'_, Vec<HookId>>;
    fn next_promotion() -> Answer<'_, Option<Millis>>;
);

delegate!(HistoryStore:
    fn delivery(namespace: &str, id: Uuid) -> Answer<'_, Option<DeliveryRecord>>;
    fn state_after_change(namespace: &str, id: Uuid) -> Answer<'_, Option<(DeliverySeq, DeliveryState)>>;
    fn event_of(namespace: &str, id: Uuid) -> Answer<'_, Option<Arc<Event>>>;
    fn exchange(namespace: &str, id: Uuid) -> Answer<'_, Option<Exchange>>;
    fn list(filter: DeliveryFilter, before: Option<DeliverySeq>, limit: usize) -> Answer<'_, DeliveryPage>;
    fn events(filter: EventFilter, before: Option<DeliverySeq>, limit: usize, with_data: bool) -> Answer<'_, EventPage>;
    fn explain(namespace: &str, event_id: &str) -> Answer<'_, Option<EventExplanation>>;
    fn replay(namespace: &str, id: Uuid, now: Millis) -> Answer<'_, Option<HookId>>;
    fn cancel(namespace: &str, id: Uuid, now: Millis) -> Answer<'_, Option<HookId>>;
    fn cancel_many(namespace: &str, ids: Vec<Uuid>, now: Millis) -> Answer<'_, Vec<(HookId, DeliverySeq)>>;
    fn start_replay(filter: DeliveryFilter, rate: u32, now: Millis) -> Answer<'_, ReplayJob>;
    fn step_replays(now: Millis) -> Answer<'_, Vec<HookId>>;
    fn count_finished(filter: DeliveryFilter, before: Option<DeliverySeq>, limit: usize) -> Answer<'_, PartialCount>;
    fn cancel_replay(namespace: &str, id: Uuid, now: Millis) -> Answer<'_, Option<ReplayJob>>;
    fn replays(namespace: &str) -> Answer<'_, Vec<ReplayJob>>;
    fn replay_progress(namespace: &str, id: Uuid) -> Answer<'_, Option<ReplayJob>>;
);

delegate!(MaintenanceStore:
    fn sweep(retention: Retention, now: Millis) -> Answer<'_, bool>;
    fn stored_times() -> Answer<'_, StoredTimes>;
    fn reset_future_times(now: Millis) -> Answer<'_, bool>;
    fn space() -> Answer<'_, StoreSpace>;
    fn stats() -> Answer<'_, StoreStats>;
    fn hook_stats(uid: &str) -> Answer<'_, StoreStats>;
    fn dead_letters(since: Millis, limit: usize) -> Answer<'_, DeadLetterCounts>;
    fn claim_installation(installation: &str, adopt: bool) -> Answer<'_, ()>;
    fn namespaces() -> Answer<'_, Vec<String>>;
    fn set_namespace_uid(name: &str, uid: Option<&str>) -> Answer<'_, bool>;
    fn failed() -> BoxFuture<'static, StoreError>;
    fn close() -> BoxFuture<'_, ()>;
);
