//! The contract of a store as tests. Each test takes a `Subject` and uses only the traits. An engine runs all tests
//! with `conformance!(MySubject)`. The model test compares the engine with `oracle` after every step.

mod fixtures;
mod gate_table;
mod gates;
mod history;
mod ingest;
mod model;
mod oracle;
mod ownership;
mod pending;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use uuid::Uuid;

pub(super) use super::*;
use crate::core::event::{Event, Origin};
use crate::core::fast_map::FastSet;
use crate::core::gate::GateRequest;
use crate::core::time::Millis;
pub(super) use fixtures::*;
pub(super) use gate_table::gates_follow_the_decision_table;
pub(super) use gates::*;
pub(super) use history::*;
pub(super) use ingest::*;
pub(super) use model::model;
pub(super) use ownership::*;
pub(super) use pending::*;

macro_rules! conformance {
    ($subject:ty) => {
        conformance!($subject:
            due_deliveries_are_ordered_and_separate_by_hook due_deliveries_are_read_in_bounded_parts
            untried_deliveries_are_read_newest_first sequence_numbers_are_never_reused event_data_is_returned_unchanged
            event_data_of_every_form_is_returned
            duplicates_within_the_window duplicates_within_one_call duplicates_at_the_same_time
            events_of_one_call_commit_all_or_none a_refused_operation_fails_alone settlements_and_history
            settling_a_finished_delivery_changes_nothing next_due_and_backlog dead_letters_are_counted_by_namespace a_delivery_belongs_to_its_namespace
            sweep_keeps_pending_and_young_deliveries sweep_is_bounded_and_reports_remaining_rows
            a_key_outlives_its_event_history a_reopened_store_has_all_data close_commits_queued_operations
            a_dropped_accept_commits_all_or_none
            snooze_drops_and_counts_suppressed on_change_compares_with_the_last_accepted_value
            a_trailing_candidate_is_promoted_when_the_period_ends an_unchanged_event_supersedes_a_stale_candidate
            a_candidate_is_promoted_at_once_when_its_predecessor_dies accept_promotes_and_reports_hooks_to_notify
            a_cancelled_candidate_is_never_promoted a_delivery_dead_on_arrival_is_stored_and_sets_no_gate_memory
            a_duplicate_revives_deliveries_dead_of_age_or_attempts a_replay_resets_attempts_and_keeps_the_id
            a_replay_job_is_paced_and_survives_a_restart a_replay_is_counted_listed_and_cancelled
            lists_and_explains lists_all_namespaces
            deliveries_do_not_age_while_held undecided_deliveries_age_and_are_rescheduled pending_deliveries_are_transferred_to_a_new_hook
            concurrent_requests_are_accepted_and_settled_in_batches a_recreated_namespace_starts_empty
            a_store_of_another_installation_is_refused the_time_of_the_last_commit_is_stored
            times_that_a_clock_ahead_stored_are_reset the_backlog_is_measured gates_follow_the_decision_table
        );
        #[test]
        fn model() { $crate::worker::store::conformance::model::<$subject>(); }
    };
    ($subject:ty: $($test:ident)*) => {
        $(#[tokio::test]
        async fn $test() { $crate::worker::store::conformance::$test::<$subject>().await; })*
    };
}
pub(super) use conformance;
