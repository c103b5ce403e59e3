//! Bounds of users' queries: in the rows that they examine, and in time.

use std::time::{Duration, Instant};

/// Rows that a query examines however long they take, so that a short list is complete even on a busy machine.
const MIN_EXAMINED: usize = 256;

/// How much one query may examine.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadBudget {
    /// Deliveries and attempts.
    pub(super) rows: usize,
    /// After this time, a query that has examined `MIN_EXAMINED` rows ends.
    pub(super) time: Duration,
}

impl ReadBudget {
    /// The budget of a list. A page of the console reads several, and its user waits for all of them.
    pub(super) fn of_list() -> Self {
        // Tests compare complete lists, on machines of any speed.
        ReadBudget { rows: 10_000, time: Duration::from_millis(if cfg!(test) { 60_000 } else { 50 }) }
    }
}

/// What remains of a budget.
pub(super) struct ReadLimiter {
    examined: usize,
    max_rows: usize,
    until: Instant,
}

impl ReadLimiter {
    pub(super) fn start(budget: ReadBudget) -> Self {
        ReadLimiter { examined: 0, max_rows: budget.rows, until: Instant::now() + budget.time }
    }

    pub(super) fn take(&mut self, rows: usize) {
        self.examined = self.examined.saturating_add(rows);
    }

    pub(super) fn remaining_rows(&self) -> usize {
        self.max_rows.saturating_sub(self.examined)
    }

    pub(super) fn is_used_up(&self) -> bool {
        self.examined >= self.max_rows || (self.examined >= MIN_EXAMINED && Instant::now() >= self.until)
    }
}
