//! Bounds the memory of all responses of admin APIs together: their bodies, their parsed forms and what is kept of lists.
//! The limit of one response alone does not: many hosts may answer at once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;

use super::hold_during_operation;
use crate::admin::{AdminError, ErrorDetail};
use crate::core::fair_shares::Owner;
use crate::memory::{MemoryFull, MemoryPool, Reservation, counted_bytes};
use crate::net::HttpResponse;

/// The first bytes of each response, and of its parsed form, which are not counted: the calls in flight bound them, and most
/// responses are smaller.
const UNCOUNTED: usize = 16 << 10;
/// When a call that found no memory is repeated.
const RETRY: Duration = Duration::from_secs(2);

/// The memory of the responses of one Connection. Its namespace has its own part of the share.
#[derive(Clone, Debug)]
pub struct AdminMemory {
    pool: Arc<MemoryPool>,
    namespace: Arc<str>,
}

impl AdminMemory {
    /// `connection`: namespace and name.
    pub(in crate::admin) fn new(pool: Arc<MemoryPool>, connection: &str) -> Self {
        let namespace = connection.split('/').next().unwrap_or_default().into();
        AdminMemory { pool, namespace }
    }

    /// Reserves memory, if the namespace may have it now.
    pub fn reserve(&self, bytes: u64) -> Result<Reservation, MemoryFull> {
        self.pool.try_reserve(Owner::namespace(&self.namespace), bytes)
    }

    /// Returns the error of a response for which there is no memory. One that is small compared with the share is
    /// repeated, because others hold the memory now. A large one might never fit.
    fn full_error(&self, bytes: u64) -> AdminError {
        let capacity = self.pool.capacity();
        if bytes <= capacity / 4 {
            return AdminError::Postponed(RETRY);
        }
        let message = format!(
            "it needs more than {bytes} bytes of memory, and all responses may have {capacity}: check what answers at the address, or raise --memory-budget"
        );
        AdminError::ResponseTooLarge(ErrorDetail { message, ..ErrorDetail::default() })
    }
}

/// The memory of a response that is being received.
pub struct ResponseMemory {
    memory: AdminMemory,
    reserved: Option<Reservation>,
    /// The length for which there was no memory.
    full_at: Option<u64>,
}

/// A response of an admin API. Its memory stays reserved until its body is dropped.
#[derive(Debug)]
pub struct AdminResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// False if a part of the body is missing.
    pub is_complete: bool,
    /// True if the body is longer than the call's bound.
    pub is_too_long: bool,
    memory: AdminMemory,
    /// The memory of parsed forms outside of an operation.
    held: Mutex<Vec<Reservation>>,
}

impl AdminResponse {
    /// Reserves memory for the parsed form until the operation ends that the current task belongs to; outside of one, until
    /// the response is dropped.
    pub fn hold(&self, bytes: usize) -> Result<(), AdminError> {
        if bytes <= UNCOUNTED {
            return Ok(());
        }
        let bytes = bytes as u64;
        let reserved = self.memory.reserve(bytes).map_err(|MemoryFull| self.memory.full_error(bytes))?;
        if let Some(reserved) = hold_during_operation(reserved) {
            self.held.lock().push(reserved);
        }
        Ok(())
    }
}

impl ResponseMemory {
    pub fn new(memory: AdminMemory) -> Self {
        ResponseMemory { memory, reserved: None, full_at: None }
    }

    /// Reserves memory for a response that has reached this length. False: there is none.
    pub fn may_hold(&mut self, length: usize) -> bool {
        if length <= UNCOUNTED {
            return true;
        }
        let bytes = length as u64;
        let result = match &mut self.reserved {
            Some(reserved) => reserved.try_grow_to(bytes),
            None => self.memory.reserve(bytes).map(|new| self.reserved = Some(new)),
        };
        if result.is_err() {
            self.full_at = Some(bytes);
        }
        result.is_ok()
    }

    /// Keeps the memory reserved until the response's body is dropped. `max_body`: the bound of the body. Fails if the
    /// response was cut off because there was no memory.
    pub fn attach(self, response: HttpResponse, max_body: usize) -> Result<AdminResponse, AdminError> {
        if let Some(bytes) = self.full_at {
            return Err(self.memory.full_error(bytes));
        }
        let HttpResponse { status, headers, body, complete } = response;
        let is_too_long = !complete && body.len() >= max_body;
        let body = match self.reserved {
            Some(reserved) => counted_bytes(body, reserved),
            None => body,
        };
        let held = Mutex::default();
        Ok(AdminResponse {
            status,
            headers,
            body,
            is_complete: complete,
            is_too_long,
            memory: self.memory,
            held,
        })
    }
}

/// Returns a complete response with this body.
#[cfg(test)]
pub fn response_for_tests(pool: Arc<MemoryPool>, body: &str) -> AdminResponse {
    let body = Bytes::from(body.to_owned());
    let response = HttpResponse { status: StatusCode::OK, headers: HeaderMap::new(), body, complete: true };
    let memory = ResponseMemory::new(AdminMemory { pool, namespace: "n".into() });
    memory.attach(response, usize::MAX).unwrap_or_else(|error| panic!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::MemoryShareMetrics;

    fn response() -> HttpResponse {
        let (status, headers) = (StatusCode::OK, HeaderMap::new());
        HttpResponse { status, headers, body: Bytes::from_static(b"[]"), complete: true }
    }

    #[test]
    fn all_responses_together_are_bounded() {
        let metrics = MemoryShareMetrics::default();
        let pool = Arc::new(MemoryPool::new(1 << 20, metrics.clone()));
        let of = |connection: &str| ResponseMemory::new(AdminMemory::new(pool.clone(), connection));
        let mut first = of("a/kong");
        assert!(first.may_hold(UNCOUNTED) && first.may_hold(300 << 10) && first.may_hold(600 << 10));
        let kept = first.attach(response(), 1 << 20).unwrap();
        assert_eq!(
            (&kept.body[..], metrics.used()),
            (&b"[]"[..], 600 << 10),
            "reserved while the body exists"
        );
        let mut second = of("a/other");
        assert!(second.may_hold(UNCOUNTED), "small responses always fit");
        assert!(!second.may_hold(250 << 10));
        assert!(matches!(second.attach(response(), 1 << 20), Err(AdminError::Postponed(_))));
        let mut large = of("a/other");
        assert!(!large.may_hold(500 << 10));
        assert!(matches!(large.attach(response(), 1 << 20), Err(AdminError::ResponseTooLarge(_))));
        assert!(kept.hold(UNCOUNTED).is_ok() && kept.hold(250 << 10).is_err(), "parsed forms count too");
        let mut other = of("b/kong");
        assert!(other.may_hold(300 << 10), "another namespace has its own part");
        drop((kept, other));
        assert_eq!(metrics.used(), 0);
    }

    #[tokio::test]
    async fn parsed_forms_are_counted_until_their_operation_ends() {
        use crate::admin::limit::{Priority, with_priority};
        let metrics = MemoryShareMetrics::default();
        let pool = Arc::new(MemoryPool::new(1 << 20, metrics.clone()));
        let received = || {
            let memory = ResponseMemory::new(AdminMemory::new(pool.clone(), "a/kong"));
            memory.attach(response(), 1 << 20).unwrap()
        };
        received().hold(100 << 10).unwrap();
        assert_eq!(metrics.used(), 0, "outside of an operation");
        let operation = async {
            received().hold(100 << 10).unwrap();
            metrics.used()
        };
        assert_eq!(with_priority(Priority::Change, operation).await, 100 << 10);
        assert_eq!(metrics.used(), 0);
    }
}
