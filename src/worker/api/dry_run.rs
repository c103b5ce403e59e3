//! Counts the deliveries that an operation in bulk would change.

use std::time::Duration;

use super::responses::DryRunResponse;
use super::state::store_problem;
use crate::worker::problem::HttpProblem;
use crate::worker::store::{DeliverySeq, StoreError};

/// The most deliveries that a dry run counts.
const MAX_COUNTED: usize = 10_000;
/// The longest time that a dry run counts. Its reads are short and take turns with those of other namespaces.
const MAX_COUNT_TIME: Duration = Duration::from_secs(10);

/// Counts exactly up to `MAX_COUNTED`. `read` counts up to a number of deliveries below a sequence number, the newest first,
/// and returns where the next read begins; None: nothing is left.
pub async fn count<R, F>(mut read: R) -> Result<DryRunResponse, HttpProblem>
where
    R: FnMut(Option<DeliverySeq>, usize) -> F,
    F: Future<Output = Result<(usize, Option<DeliverySeq>), StoreError>>,
{
    let until = tokio::time::Instant::now() + MAX_COUNT_TIME;
    let (mut matching, mut before) = (0, None);
    loop {
        let (count, next) =
            read(before, MAX_COUNTED + 1 - matching).await.map_err(|error| store_problem(&error))?;
        matching += count;
        before = next;
        if matching > MAX_COUNTED {
            return Ok(DryRunResponse { matching: MAX_COUNTED, is_exact: false });
        }
        if before.is_none() {
            return Ok(DryRunResponse { matching, is_exact: true });
        }
        if tokio::time::Instant::now() >= until {
            return Ok(DryRunResponse { matching, is_exact: false });
        }
    }
}
